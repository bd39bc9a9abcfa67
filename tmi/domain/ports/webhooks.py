"""Webhooks: subscriptions, what is delivered to them, and what users may have of them."""

from collections.abc import Sequence
from datetime import datetime
from typing import Protocol

from tmi.domain.ids import DeliveryId, ThreatModelId, UserId, WebhookId
from tmi.domain.model import AuditEntry
from tmi.domain.ports.threat_models import Page
from tmi.domain.webhooks import (
    Attempt,
    Backlog,
    Challenge,
    Delivery,
    NewWebhook,
    Outcome,
    Slots,
    Webhook,
    WebhookLimits,
    WebhookQuota,
)


class Webhooks(Protocol):
    """Subscriptions. What is written is written together with its audit entry."""

    async def create(self, new: NewWebhook, defaults: WebhookLimits, entry: AuditEntry) -> Webhook:
        """A subscription whose endpoint has to be verified. Raises QuotaReached, by the owner's quota or else
        by `defaults`, and NotFound where there is no such threat model.
        """

    async def get(self, webhook: WebhookId) -> Webhook:
        """Raises NotFound."""

    async def page(self, model: ThreatModelId | None, page: Page) -> tuple[Sequence[Webhook], int]:
        """A page, oldest first, and the total; `model`: those that follow this threat model alone."""

    async def remove(self, webhook: WebhookId, entry: AuditEntry) -> None:
        """With its deliveries. Raises NotFound."""

    async def purge(self, before: datetime, rows: int) -> int:
        """Delete up to `rows` of those that were given up before; returns how many went."""


class Deliveries(Protocol):
    """The log of deliveries."""

    async def test(self, webhook: WebhookId, event_type: str, entry: AuditEntry) -> Delivery:
        """Have a test delivered. Raises NotFound, and BadInput before the endpoint is verified."""

    async def get(self, delivery: DeliveryId) -> Delivery:
        """Raises NotFound."""

    async def page(self, webhook: WebhookId | None, page: Page) -> tuple[Sequence[Delivery], int]:
        """A page, newest first, and the total, which is counted up to COUNTED_MAX."""

    async def purge(self, before: datetime, rows: int) -> int:
        """Delete up to `rows` that are older, those that wait included; returns how many went."""


class Outbox(Protocol):
    """What is to be delivered, taken by one node at a time."""

    async def take(self, slots: Slots, defaults: WebhookLimits) -> Sequence[Attempt]:
        """Take what is due, within the bounds of each subscription and of each owner's minute, the ones that
        wait for the fewest of theirs first. Nobody else has them until the lease ends.
        """

    async def settle(self, attempt: Attempt, outcome: Outcome) -> None:
        """Say what came of an attempt. Nothing happens if somebody else has taken it over, or it is gone."""

    async def take_challenges(self, most: int, lease_s: float) -> Sequence[Challenge]:
        """Take subscriptions that are to be verified, likewise."""

    async def settle_challenge(self, challenge: Challenge, outcome: Outcome) -> None:
        """Say whether the endpoint answered. After CHALLENGES_MAX it is given up."""

    async def backlog(self) -> Backlog:
        """What waits, and how long the oldest has."""


class WebhookQuotas(Protocol):
    """Allowances of single users. What is written is written together with its audit entry."""

    async def of(self, user: UserId) -> WebhookQuota | None:
        """None: the limits of everybody hold."""

    async def page(self, page: Page) -> tuple[Sequence[WebhookQuota], int]:
        """A page, oldest first, and the total."""

    async def put(self, user: UserId, limits: WebhookLimits, entry: AuditEntry) -> tuple[WebhookQuota, bool]:
        """Set a user's limits; also says whether there were none before. Raises NotFound."""

    async def remove(self, user: UserId, entry: AuditEntry) -> None:
        """Let the limits of everybody hold again. Raises NotFound where they do already."""
