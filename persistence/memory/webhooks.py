"""Webhooks in memory: subscriptions, deliveries and quotas."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime
from uuid import uuid4

import orjson

from persistence.memory.store import MemoryStore
from persistence.memory.webhook_tables import StoredWebhook
from tmi.domain.errors import BadInput, NotFound, QuotaReached
from tmi.domain.ids import DeliveryId, ThreatModelId, UserId, WebhookId
from tmi.domain.model import AuditEntry
from tmi.domain.ports import COUNTED_MAX, Page
from tmi.domain.webhooks import (
    Delivery,
    NewWebhook,
    Webhook,
    WebhookLimits,
    WebhookQuota,
    WebhookStatus,
    payload_of_test,
)


class MemoryWebhooks:
    """The port `Webhooks`."""

    def __init__(self, store: MemoryStore) -> None:
        self._store = store

    async def create(self, new: NewWebhook, defaults: WebhookLimits, entry: AuditEntry) -> Webhook:
        """A subscription whose endpoint has to be verified. Raises QuotaReached and NotFound."""
        self._store.visit()
        quota = self._store.hooks.quotas.get(new.owner)
        most = (defaults if quota is None else quota.limits).subscriptions
        standing = [one for one in self._all() if one.status is not WebhookStatus.PENDING_DELETE]
        if sum(one.owner == new.owner for one in standing) >= most:
            raise QuotaReached("max_subscriptions", most, "this user")
        if new.threat_model is not None and new.threat_model not in self._store.threat_models:
            raise NotFound("There is no such threat model.")
        now = self._store.clock()
        made = Webhook(
            id=WebhookId(uuid4()),
            owner=new.owner,
            name=new.name,
            url=new.url,
            events=new.events,
            threat_model=new.threat_model,
            status=WebhookStatus.PENDING_VERIFICATION,
            challenges_sent=0,
            created_at=now,
            modified_at=now,
        )
        self._store.hooks.webhooks[made.id] = StoredWebhook(made, new.secret, now)
        self._store.write_audit(entry)
        return made

    async def get(self, webhook: WebhookId) -> Webhook:
        """Raises NotFound."""
        self._store.visit()
        return _stored(self._store, webhook).webhook

    async def page(self, model: ThreatModelId | None, page: Page) -> tuple[Sequence[Webhook], int]:
        """A page, oldest first, and the total."""
        self._store.visit()
        found = [one for one in self._all() if model is None or one.threat_model == model]
        return found[page.offset : page.offset + page.limit], len(found)

    async def remove(self, webhook: WebhookId, entry: AuditEntry) -> None:
        """With its deliveries. Raises NotFound."""
        self._store.visit()
        _stored(self._store, webhook)
        self._store.hooks.remove(webhook)
        self._store.write_audit(entry)

    async def purge(self, before: datetime, rows: int) -> int:
        """Delete up to `rows` of those that were given up before; returns how many went."""
        self._store.visit()
        given_up = [
            w for w in self._all() if w.status is WebhookStatus.PENDING_DELETE and w.modified_at < before
        ]
        for webhook in given_up[:rows]:
            del self._store.hooks.webhooks[webhook.id]
        return len(given_up[:rows])

    def _all(self) -> list[Webhook]:
        return [stored.webhook for stored in self._store.hooks.webhooks.values()]


class MemoryDeliveries:
    """The port `Deliveries`."""

    def __init__(self, store: MemoryStore) -> None:
        self._store = store

    async def test(self, webhook: WebhookId, event_type: str, entry: AuditEntry) -> Delivery:
        """Have a test delivered. Raises NotFound, and BadInput before the endpoint is verified."""
        self._store.visit()
        if _stored(self._store, webhook).webhook.status is not WebhookStatus.ACTIVE:
            raise BadInput("the endpoint is not verified")
        made = self._store.hooks.add(webhook, event_type, "", self._store.clock())
        payload = payload_of_test(event_type, webhook, made.id, made.created_at)
        made = replace(made, payload=orjson.dumps(payload).decode())
        self._store.hooks.deliveries[made.id] = made
        self._store.write_audit(entry)
        return made

    async def get(self, delivery: DeliveryId) -> Delivery:
        """Raises NotFound."""
        self._store.visit()
        try:
            return self._store.hooks.deliveries[delivery]
        except KeyError:
            raise NotFound("There is no such delivery.") from None

    async def page(self, webhook: WebhookId | None, page: Page) -> tuple[Sequence[Delivery], int]:
        """A page, newest first, and the total, which is counted up to COUNTED_MAX."""
        self._store.visit()
        found = [one for one in self._store.hooks.deliveries.values() if webhook in (None, one.webhook)][::-1]
        return found[page.offset : page.offset + page.limit], min(len(found), COUNTED_MAX)

    async def purge(self, before: datetime, rows: int) -> int:
        """Delete up to `rows` that are older, those that wait included; returns how many went."""
        self._store.visit()
        old = [key for key, one in self._store.hooks.deliveries.items() if one.created_at < before][:rows]
        for key in old:
            del self._store.hooks.deliveries[key]
        return len(old)


class MemoryWebhookQuotas:
    """The port `WebhookQuotas`."""

    def __init__(self, store: MemoryStore) -> None:
        self._store = store

    async def of(self, user: UserId) -> WebhookQuota | None:
        """None: the limits of everybody hold."""
        self._store.visit()
        return self._store.hooks.quotas.get(user)

    async def page(self, page: Page) -> tuple[Sequence[WebhookQuota], int]:
        """A page, oldest first, and the total."""
        self._store.visit()
        quotas = sorted(self._store.hooks.quotas.values(), key=lambda q: (q.created_at, q.user))
        return quotas[page.offset : page.offset + page.limit], len(quotas)

    async def put(self, user: UserId, limits: WebhookLimits, entry: AuditEntry) -> tuple[WebhookQuota, bool]:
        """Set a user's limits; also says whether there were none before. Raises NotFound."""
        self._store.visit()
        if user not in self._store.users:
            raise NotFound("There is no such user.")
        now, present = self._store.clock(), self._store.hooks.quotas.get(user)
        quota = WebhookQuota(user, limits, now if present is None else present.created_at, now)
        self._store.hooks.quotas[user] = quota
        self._store.write_audit(entry)
        return quota, present is None

    async def remove(self, user: UserId, entry: AuditEntry) -> None:
        """Let the limits of everybody hold again. Raises NotFound where they do already."""
        self._store.visit()
        if self._store.hooks.quotas.pop(user, None) is None:
            raise NotFound("This user has no quota of their own.")
        self._store.write_audit(entry)


def _stored(store: MemoryStore, webhook: WebhookId) -> StoredWebhook:
    try:
        return store.hooks.webhooks[webhook]
    except KeyError:
        raise NotFound("There is no such webhook subscription.") from None
