"""Webhooks: who is told of which events, and what is sent.

A change, its event and the deliveries that come of it are one transaction: a delivery is there if and only if
the change is. It is then made at least once, by one node at a time, until the receiver takes it or the
attempts are used up. What is sent names what changed and holds nothing of it: who wants to see more asks over
REST, with the rights that they have then.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import Enum
from typing import Any
from uuid import UUID

from tmi.domain.events import ChangeType, Event
from tmi.domain.ids import DeliveryId, ThreatModelId, UserId, WebhookId
from tmi.domain.model import AuditEntry

_OBJECTS = ("threat_model", "diagram", "document", "note", "repository", "asset", "threat", "metadata")
_OF_OTHERS = (
    "document.extraction_completed",
    "document.extraction_failed",
    "addon.invoked",
    *(
        f"{what}.{done}"
        for what in ("survey", "survey_response")
        for done in ("created", "updated", "deleted")
    ),
)
ADMIN_WRITE = "system_audit.admin_write"
TESTED = (
    *(f"{what}.{done}" for what in _OBJECTS for done in ("created", "updated", "deleted")),
    "document.extraction_completed",
    "document.extraction_failed",
    ADMIN_WRITE,
)
"""Event types that a test may be made of."""
EVENT_TYPES = frozenset({*TESTED, *_OF_OTHERS})
"""The contract's. What belongs to other products may be subscribed to and never happens here."""

METADATA_CREATED, METADATA_UPDATED, METADATA_DELETED = (
    f"metadata.{done}" for done in ("created", "updated", "deleted")
)

_DONE = {
    ChangeType.CREATED: "created",
    ChangeType.RESTORED: "created",
    ChangeType.DELETED: "deleted",
}
"""How the contract's event types call a change; all others are updates. Whoever forgot what was deleted has
to learn that it is there again.
"""

CHALLENGES_MAX = 3
"""An endpoint that answers none of so many is given up."""
ERROR_MAX = 500


class WebhookStatus(Enum):
    """The life of a subscription; the words are the contract's."""

    PENDING_VERIFICATION = "pending_verification"
    ACTIVE = "active"
    PENDING_DELETE = "pending_delete"


class DeliveryStatus(Enum):
    """The life of a delivery; the words are the contract's."""

    PENDING = "pending"
    IN_PROGRESS = "in_progress"
    DELIVERED = "delivered"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class NewWebhook:
    """What an administrator subscribes to."""

    owner: UserId
    name: str
    url: str = field(repr=False)
    """May hold a secret of the receiver's."""
    events: frozenset[str]
    threat_model: ThreatModelId | None
    """None: all."""
    secret: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class Webhook:
    """A subscription, without its secret."""

    id: WebhookId
    owner: UserId
    name: str
    url: str = field(repr=False)
    events: frozenset[str]
    threat_model: ThreatModelId | None
    status: WebhookStatus
    challenges_sent: int
    created_at: datetime
    modified_at: datetime
    last_success_at: datetime | None = None
    failures: int = 0
    """Deliveries that failed for good since the last that did not."""


@dataclass(frozen=True, slots=True)
class Delivery:
    """One event for one subscription."""

    id: DeliveryId
    webhook: WebhookId
    event_type: str
    payload: str = field(repr=False)
    """A JSON object, as it is sent."""
    status: DeliveryStatus
    attempts: int
    due_at: datetime | None
    """When it is tried next; while it is tried, when somebody else takes it over. None: never."""
    last_error: str | None
    created_at: datetime
    active_at: datetime | None
    """When something last happened to it."""
    delivered_at: datetime | None


@dataclass(frozen=True, slots=True)
class Attempt:
    """A delivery that this node has taken, and is alone to make until its lease ends."""

    delivery: DeliveryId
    webhook: WebhookId
    owner: UserId
    url: str = field(repr=False)
    secret: str | None = field(repr=False)
    """None: it cannot be opened, since the key that it was sealed with is not there."""
    event_type: str
    payload: str = field(repr=False)
    number: int
    """Counts from 1. Also proves, when it is settled, that nobody else has taken it over."""


@dataclass(frozen=True, slots=True)
class Challenge:
    """A subscription whose endpoint has to answer for itself."""

    webhook: WebhookId
    owner: UserId
    url: str = field(repr=False)
    secret: str | None = field(repr=False)
    number: int
    """Counts from 1 to CHALLENGES_MAX."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of an attempt."""

    error: str | None = None
    """None: it was taken."""
    retry_s: float | None = None
    """When to try again after an error; None: never."""


@dataclass(frozen=True, slots=True)
class Slots:
    """How many deliveries may be taken."""

    free: int
    """By this node, now."""
    per_webhook: int
    """Of one subscription at once, on all nodes; of one whose last deliveries failed, one."""
    lease_s: float


@dataclass(frozen=True, slots=True)
class Backlog:
    """What is still to be delivered."""

    pending: int = 0
    """Counted up to 10,000."""
    oldest_s: float = 0.0
    """The age of the oldest, in seconds."""


@dataclass(frozen=True, slots=True)
class WebhookLimits:
    """What a user may do at most; the fields are the contract's."""

    subscriptions: int = 10
    events_per_min: int = 600
    """Attempts to deliver. What is beyond waits."""
    requests_per_min: int = 10
    """Subscriptions made or tested."""
    requests_per_day: int = 100


@dataclass(frozen=True, slots=True)
class WebhookQuota:
    """What an administrator says for one user, and since when."""

    user: UserId
    limits: WebhookLimits
    created_at: datetime
    modified_at: datetime


def notices_of(event: Event) -> Iterator[tuple[str, dict[str, Any]]]:
    """The types by which an event is told, each with what is told of it."""
    done = _DONE.get(event.change, "updated")
    for event_type in (f"{event.object_type.value}.{done}", event.also):
        if event_type is not None:
            yield event_type, _payload(event_type, event)


def _payload(event_type: str, event: Event) -> dict[str, Any]:
    return {
        "event_type": event_type,
        "event_id": str(event.id),
        "timestamp": event.at.isoformat(),
        "threat_model_id": str(event.threat_model),
        "resource_type": event.object_type.value,
        "resource_id": str(event.object_id),
        "data": {
            "change_type": event.change.value,
            "version": event.version,
            "summary": event.summary,
            "actor": {
                "id": None if event.actor.user is None else str(event.actor.user),
                "provider": event.actor.provider,
                "provider_id": event.actor.provider_id,
                "email": event.actor.email,
                "display_name": event.actor.name,
            },
        },
    }


def notice_of_audit(entry: AuditEntry) -> tuple[str, dict[str, Any]] | None:
    """What is told of an entry of the system audit: of what administrators write, and of nothing else."""
    if entry.method not in ("POST", "PUT", "PATCH", "DELETE") or not entry.path.startswith("/admin/"):
        return None
    return ADMIN_WRITE, {
        "event_type": ADMIN_WRITE,
        "event_id": str(entry.id),
        "timestamp": entry.at.isoformat(),
        "resource_type": "system_audit",
        "resource_id": str(entry.id),
        "data": {
            "method": entry.method,
            "path": entry.path,
            "what": entry.what,
            "actor": {
                "id": None if entry.actor is None else str(entry.actor),
                "provider": entry.provider,
                "provider_id": entry.provider_id,
                "email": entry.email,
                "display_name": entry.name,
            },
        },
    }


def payload_of_test(
    event_type: str, webhook: WebhookId, delivery: DeliveryId, at: datetime
) -> Mapping[str, Any]:
    """What a test sends: an event of nothing."""
    return {
        "event_type": event_type,
        "event_id": str(delivery),
        "timestamp": at.isoformat(),
        "threat_model_id": None,
        "resource_type": event_type.partition(".")[0],
        "resource_id": str(UUID(int=0)),
        "data": {"test": True, "subscription_id": str(webhook)},
    }


def takes(webhook: Webhook, event_type: str, model: ThreatModelId | None) -> bool:
    """Whether a subscription is told of such an event. Who follows one threat model hears of nothing else."""
    is_wanted = webhook.status is WebhookStatus.ACTIVE and event_type in webhook.events
    return is_wanted and webhook.threat_model in (None, model)


def shuffled_pause(first_s: float, most_s: float, failed: int, random: float) -> float:
    """Seconds until the next attempt after so many that failed: twice as long each time, to a bound, and
    shortened by up to a half, so that what failed together does not come back together. `random`: in [0, 1).
    """
    return min(most_s, first_s * 2.0 ** min(failed - 1, 30)) * (1 - random / 2)


def listed_events(events: frozenset[str]) -> Sequence[str]:
    """In the order in which they are shown."""
    return sorted(events)
