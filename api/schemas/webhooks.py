"""Webhooks."""

from datetime import datetime
from typing import Annotated, Any, Literal, Self
from uuid import UUID

import orjson
from pydantic import AfterValidator, Field, StringConstraints

from api import sanitising
from api.schemas.base import LINE, UUID_PATTERN, Input, Output, UuidText
from api.schemas.parameters import PageQuery
from tmi.domain.webhooks import (
    EVENT_TYPES,
    TESTED,
    Delivery,
    DeliveryStatus,
    Webhook,
    WebhookLimits,
    WebhookQuota,
    WebhookStatus,
)

ENDPOINT = (
    r"^\s*https?:\/\/[a-zA-Z0-9]([a-zA-Z0-9-]{0,61}[a-zA-Z0-9])?"
    r"(\.[a-zA-Z0-9]([a-zA-Z0-9-]{0,61}[a-zA-Z0-9])?)*(:[0-9]{1,5})?(\/[^\s]*)?\s*$"
)

_EVERY = tuple(sorted(EVENT_TYPES))
EventType = Annotated[str, Field(json_schema_extra={"enum": list(_EVERY)})]
PROGRESS = {
    DeliveryStatus.PENDING: 0,
    DeliveryStatus.IN_PROGRESS: 50,
    DeliveryStatus.DELIVERED: 100,
    DeliveryStatus.FAILED: 100,
}


def _known(event: str) -> str:
    if event not in EVENT_TYPES:
        raise ValueError("there is no such event type")
    return event


def _tested(event: str) -> str:
    if event not in TESTED:
        raise ValueError("there is no such event type, or it cannot be tested")
    return event


class WebhookInput(Input):
    """A new subscription."""

    name: Annotated[
        str, StringConstraints(min_length=1, max_length=255, pattern=LINE), AfterValidator(sanitising.checked)
    ]
    url: Annotated[
        str,
        StringConstraints(min_length=8, max_length=1024, pattern=ENDPOINT),
        Field(examples=["https://example.org/hooks/tmi"]),
    ]
    """An https: address; where else it may not lead is in docs/webhooks.md."""
    events: Annotated[
        list[Annotated[EventType, StringConstraints(max_length=1000, pattern=LINE), AfterValidator(_known)]],
        Field(min_length=1, max_length=50),
    ]
    threat_model_id: Annotated[str, StringConstraints(pattern=f"^$|{UUID_PATTERN}")] | None = None
    """Tell of this threat model alone."""
    secret: Annotated[str, StringConstraints(min_length=16, max_length=128, pattern=LINE)] | None = Field(
        default=None, repr=False
    )
    """What calls are signed with; one is made if none is given."""


class WebhookSubscription(Output):
    """A subscription."""

    id: UUID
    owner_id: UUID
    threat_model_id: UUID | None = None
    name: str
    url: str
    events: list[EventType]
    secret: str | None = Field(default=None, repr=False)
    """In the answer that it is created with, and never again."""
    status: Literal["pending_verification", "active", "pending_delete"]
    challenges_sent: int
    created_at: datetime
    modified_at: datetime
    last_successful_use: datetime | None = None
    publication_failures: int
    """Deliveries that failed for good since the last that did not."""

    @classmethod
    def of(cls, webhook: Webhook, secret: str | None = None) -> Self:
        """What is shown of it."""
        return cls(
            id=webhook.id,
            owner_id=webhook.owner,
            threat_model_id=webhook.threat_model,
            name=webhook.name,
            url=webhook.url,
            events=sorted(webhook.events),
            secret=secret,
            status=_STATUS[webhook.status],
            challenges_sent=webhook.challenges_sent,
            created_at=webhook.created_at,
            modified_at=webhook.modified_at,
            last_successful_use=webhook.last_success_at,
            publication_failures=webhook.failures,
        )


_STATUS: dict[WebhookStatus, Literal["pending_verification", "active", "pending_delete"]] = {
    WebhookStatus.PENDING_VERIFICATION: "pending_verification",
    WebhookStatus.ACTIVE: "active",
    WebhookStatus.PENDING_DELETE: "pending_delete",
}


class WebhookQuery(PageQuery):
    """Which subscriptions."""

    threat_model_id: UuidText | None = None


class DeliveryQuery(PageQuery):
    """Which deliveries."""

    subscription_id: UuidText | None = None


class WebhookSubscriptions(Output):
    """A page of subscriptions, oldest first."""

    subscriptions: list[WebhookSubscription]
    total: int
    limit: int
    offset: int


class WebhookTest(Input):
    """What to try an endpoint with."""

    event_type: (
        Annotated[
            str,
            StringConstraints(max_length=1000),
            AfterValidator(_tested),
            Field(json_schema_extra={"enum": list(TESTED)}),
        ]
        | None
    ) = None


class WebhookTestResult(Output):
    """The delivery of a test, which is made behind the request's back."""

    delivery_id: UUID
    status: str
    message: str


class WebhookDelivery(Output):
    """One event for one subscription."""

    id: UUID
    subscription_id: UUID
    event_type: EventType
    payload: dict[str, Any]
    status: Literal["pending", "in_progress", "delivered", "failed"]
    attempts: int
    next_retry_at: datetime | None = None
    last_error: str | None = None
    created_at: datetime
    delivered_at: datetime | None = None
    status_percent: int
    last_activity_at: datetime | None = None

    @classmethod
    def of(cls, delivery: Delivery) -> Self:
        """What is shown of it."""
        is_waiting = delivery.status is DeliveryStatus.PENDING
        return cls(
            id=delivery.id,
            subscription_id=delivery.webhook,
            event_type=delivery.event_type,
            payload=orjson.loads(delivery.payload),
            status=_DELIVERY_STATUS[delivery.status],
            attempts=delivery.attempts,
            next_retry_at=delivery.due_at if is_waiting else None,
            last_error=delivery.last_error,
            created_at=delivery.created_at,
            delivered_at=delivery.delivered_at,
            status_percent=PROGRESS[delivery.status],
            last_activity_at=delivery.active_at,
        )


_DELIVERY_STATUS: dict[DeliveryStatus, Literal["pending", "in_progress", "delivered", "failed"]] = {
    DeliveryStatus.PENDING: "pending",
    DeliveryStatus.IN_PROGRESS: "in_progress",
    DeliveryStatus.DELIVERED: "delivered",
    DeliveryStatus.FAILED: "failed",
}


class WebhookDeliveries(Output):
    """A page of deliveries, newest first. The total is counted up to 100,000."""

    deliveries: list[WebhookDelivery]
    total: int
    limit: int
    offset: int


class WebhookQuotaUpdate(Input):
    """What one user may do with webhooks at most."""

    max_subscriptions: Annotated[int, Field(ge=1, le=100)]
    max_events_per_minute: Annotated[int, Field(ge=1, le=1000)]
    max_subscription_requests_per_minute: Annotated[int, Field(ge=1, le=100)]
    max_subscription_requests_per_day: Annotated[int, Field(ge=1, le=10_000)]

    @property
    def limits(self) -> WebhookLimits:
        """As the domain has it."""
        return WebhookLimits(
            self.max_subscriptions,
            self.max_events_per_minute,
            self.max_subscription_requests_per_minute,
            self.max_subscription_requests_per_day,
        )


class WebhookDefaults(Output):
    """What everybody may do with webhooks at most."""

    max_subscriptions: int
    max_events_per_minute: int
    """Attempts to deliver. What is beyond waits for the next minute."""
    max_subscription_requests_per_minute: int
    """Subscriptions that are made, and tests."""
    max_subscription_requests_per_day: int

    @classmethod
    def of(cls, limits: WebhookLimits) -> Self:
        """In the contract's names."""
        return cls(**_named(limits))


class WebhookQuotaShown(WebhookDefaults):
    """What one user may do with webhooks at most."""

    owner_id: UUID
    created_at: datetime | None = None
    """Absent where the limits are those of everybody."""
    modified_at: datetime | None = None

    @classmethod
    def of_quota(cls, quota: WebhookQuota) -> Self:
        """What an administrator has set."""
        return cls(
            owner_id=quota.user,
            created_at=quota.created_at,
            modified_at=quota.modified_at,
            **_named(quota.limits),
        )

    @classmethod
    def by_default(cls, user: UUID, limits: WebhookLimits) -> Self:
        """What holds for a user of whom nothing was said."""
        return cls(owner_id=user, **_named(limits))


def _named(limits: WebhookLimits) -> dict[str, Any]:
    return {
        "max_subscriptions": limits.subscriptions,
        "max_events_per_minute": limits.events_per_min,
        "max_subscription_requests_per_minute": limits.requests_per_min,
        "max_subscription_requests_per_day": limits.requests_per_day,
    }


class WebhookQuotas(Output):
    """A page of the quotas that administrators have set."""

    quotas: list[WebhookQuotaShown]
    total: int
    limit: int
    offset: int
    defaults: WebhookDefaults


class WebhookActor(Output):
    """Who did it."""

    id: UUID | None
    provider: str
    provider_id: str
    email: str
    display_name: str


class WebhookEventData(Output):
    """The particulars of an event: of a change of a threat model or something in it the first three, of a
    write of an administrator the next three; of a test nothing but the last.
    """

    change_type: str | None = None
    version: int | None = None
    summary: str | None = None
    """The fields that changed."""
    method: str | None = None
    path: str | None = None
    what: str | None = None
    actor: WebhookActor | None = None
    test: Literal[True] | None = None
    subscription_id: UUID | None = None


class WebhookEvent(Output):
    """What an endpoint is sent: that something changed, and nothing of its content."""

    event_type: EventType
    event_id: UUID
    timestamp: datetime
    threat_model_id: UUID | None = None
    resource_type: str
    resource_id: UUID
    data: WebhookEventData


class WebhookChallenge(Output):
    """What an endpoint is sent before anything else."""

    type: Literal["webhook.challenge"]
    challenge: str


class WebhookChallengeAnswer(Output):
    """What it has to answer."""

    challenge: str
