"""The tables of webhooks in memory, and how a change gets into them."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any
from uuid import UUID

import orjson

from tmi.domain.ids import DeliveryId, ThreatModelId, UserId, WebhookId
from tmi.domain.webhooks import Delivery, DeliveryStatus, Webhook, WebhookQuota, takes

Notice = tuple[str, Mapping[str, Any]]


@dataclass(slots=True)
class StoredWebhook:
    """A row of webhook_subscriptions."""

    webhook: Webhook
    secret: str | None = field(repr=False)
    """None: as if its key were not there."""
    challenge_due_at: datetime


@dataclass(slots=True)
class WebhookTables:
    """Subscriptions, deliveries (oldest first), quotas and rates."""

    webhooks: dict[WebhookId, StoredWebhook] = field(default_factory=dict)
    deliveries: dict[DeliveryId, Delivery] = field(default_factory=dict)
    last_delivery: int = 0
    quotas: dict[UserId, WebhookQuota] = field(default_factory=dict)
    rates: dict[UserId, tuple[datetime | None, int]] = field(default_factory=dict)
    """The minute of an owner's last attempt, and how many there were in it."""

    def tell(self, notices: Iterable[Notice], model: ThreatModelId | None, now: datetime) -> None:
        """Have those told who follow such events."""
        for event_type, payload in notices:
            for key, stored in self.webhooks.items():
                if takes(stored.webhook, event_type, model):
                    self.add(key, event_type, orjson.dumps(payload).decode(), now)

    def add(self, webhook: WebhookId, event_type: str, payload: str, now: datetime) -> Delivery:
        """A delivery that is due at once."""
        self.last_delivery += 1
        made = Delivery(
            id=DeliveryId(_id_of(self.last_delivery, now)),
            webhook=webhook,
            event_type=event_type,
            payload=payload,
            status=DeliveryStatus.PENDING,
            attempts=0,
            due_at=now,
            last_error=None,
            created_at=now,
            active_at=None,
            delivered_at=None,
        )
        self.deliveries[made.id] = made
        return made

    def remove(self, webhook: WebhookId) -> None:
        """A subscription with its deliveries."""
        del self.webhooks[webhook]
        for key in [key for key, one in self.deliveries.items() if one.webhook == webhook]:
            del self.deliveries[key]

    def remove_user(self, user: UserId) -> None:
        """What is an account's goes with it."""
        for webhook in [key for key, stored in self.webhooks.items() if stored.webhook.owner == user]:
            self.remove(webhook)
        self.quotas.pop(user, None)
        self.rates.pop(user, None)


def _id_of(number: int, now: datetime) -> UUID:
    """Of version 7 (RFC 9562, section 5.7)."""
    return UUID(int=int(now.timestamp() * 1000) << 80 | 7 << 76 | 2 << 62 | number)
