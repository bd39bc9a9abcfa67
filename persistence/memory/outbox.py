"""The outbox of webhooks in memory."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta

from persistence.memory.store import MemoryStore
from tmi.domain.ids import UserId, WebhookId
from tmi.domain.webhooks import (
    CHALLENGES_MAX,
    ERROR_MAX,
    Attempt,
    Backlog,
    Challenge,
    Delivery,
    DeliveryStatus,
    Outcome,
    Slots,
    WebhookLimits,
    WebhookStatus,
)


class MemoryOutbox:
    """The port `Outbox`."""

    def __init__(self, store: MemoryStore) -> None:
        self._store = store

    async def take(self, slots: Slots, defaults: WebhookLimits) -> Sequence[Attempt]:
        """Take what is due. Nobody else has it until the lease ends."""
        self._store.visit()
        now = self._store.clock()
        left: dict[UserId, int] = {}
        turns = sorted(self._due(slots), key=lambda turn: (turn[0], turn[1].due_at))
        taken: list[Attempt] = []
        for _, delivery in turns:
            stored = self._store.hooks.webhooks[delivery.webhook]
            owner = stored.webhook.owner
            if left.setdefault(owner, self._left(owner, defaults)) <= 0 or len(taken) == slots.free:
                continue
            left[owner] -= 1
            self._count(owner)
            due_at = now + timedelta(seconds=slots.lease_s)
            number, status = delivery.attempts + 1, DeliveryStatus.IN_PROGRESS
            self._store.hooks.deliveries[delivery.id] = replace(
                delivery, status=status, attempts=number, due_at=due_at, active_at=now
            )
            taken.append(
                Attempt(
                    delivery.id,
                    delivery.webhook,
                    owner,
                    stored.webhook.url,
                    stored.secret,
                    delivery.event_type,
                    delivery.payload,
                    number,
                )
            )
        return taken

    def _due(self, slots: Slots) -> list[tuple[int, Delivery]]:
        """What may be taken, each with how many of its subscription's go before it."""
        now, found = self._store.clock(), []
        busy: Counter[WebhookId] = Counter(
            one.webhook
            for one in self._store.hooks.deliveries.values()
            if one.status is DeliveryStatus.IN_PROGRESS and one.due_at is not None and one.due_at > now
        )
        waiting = [
            one
            for one in self._store.hooks.deliveries.values()
            if one.due_at is not None and one.due_at <= now
        ]
        for delivery in sorted(waiting, key=lambda one: one.due_at or now):
            stored = self._store.hooks.webhooks.get(delivery.webhook)
            if stored is None or stored.webhook.status is not WebhookStatus.ACTIVE:
                continue
            if busy[delivery.webhook] < (1 if stored.webhook.failures else slots.per_webhook):
                busy[delivery.webhook] += 1
                found.append((busy[delivery.webhook], delivery))
        return found

    def _left(self, owner: UserId, defaults: WebhookLimits) -> int:
        quota = self._store.hooks.quotas.get(owner)
        minute, sent = self._store.hooks.rates.get(owner, (None, 0))
        this_minute = self._store.clock().replace(second=0, microsecond=0)
        limits = defaults if quota is None else quota.limits
        return limits.events_per_min - (sent if minute == this_minute else 0)

    def _count(self, owner: UserId) -> None:
        minute, sent = self._store.hooks.rates.get(owner, (None, 0))
        this_minute = self._store.clock().replace(second=0, microsecond=0)
        self._store.hooks.rates[owner] = this_minute, (sent if minute == this_minute else 0) + 1

    async def settle(self, attempt: Attempt, outcome: Outcome) -> None:
        """Say what came of an attempt. Nothing happens if somebody else has taken it over, or it is gone."""
        self._store.visit()
        now, delivery = self._store.clock(), self._store.hooks.deliveries.get(attempt.delivery)
        is_ours = delivery is not None and delivery.attempts == attempt.number
        if delivery is None or not is_ours or delivery.status is not DeliveryStatus.IN_PROGRESS:
            return
        stored = self._store.hooks.webhooks[attempt.webhook]
        error = None if outcome.error is None else outcome.error[:ERROR_MAX]
        if error is None:
            done = replace(delivery, status=DeliveryStatus.DELIVERED, due_at=None, delivered_at=now)
            stored.webhook = replace(stored.webhook, last_success_at=now, failures=0)
        elif outcome.retry_s is None:
            done = replace(delivery, status=DeliveryStatus.FAILED, due_at=None)
            stored.webhook = replace(stored.webhook, failures=stored.webhook.failures + 1)
        else:
            due_at = now + timedelta(seconds=outcome.retry_s)
            done = replace(delivery, status=DeliveryStatus.PENDING, due_at=due_at)
        self._store.hooks.deliveries[delivery.id] = replace(done, last_error=error, active_at=now)

    async def take_challenges(self, most: int, lease_s: float) -> Sequence[Challenge]:
        """Take subscriptions that are to be verified."""
        self._store.visit()
        now = self._store.clock()
        taken: list[Challenge] = []
        for stored in self._store.hooks.webhooks.values():
            webhook = stored.webhook
            is_due = stored.challenge_due_at <= now
            if webhook.status is not WebhookStatus.PENDING_VERIFICATION or not is_due or len(taken) == most:
                continue
            if webhook.challenges_sent >= CHALLENGES_MAX:
                stored.webhook = replace(webhook, status=WebhookStatus.PENDING_DELETE, modified_at=now)
                continue
            stored.webhook = replace(webhook, challenges_sent=webhook.challenges_sent + 1, modified_at=now)
            stored.challenge_due_at = now + timedelta(seconds=lease_s)
            number = stored.webhook.challenges_sent
            taken.append(Challenge(webhook.id, webhook.owner, webhook.url, stored.secret, number))
        return taken

    async def settle_challenge(self, challenge: Challenge, outcome: Outcome) -> None:
        """Say whether the endpoint answered. After CHALLENGES_MAX it is given up."""
        self._store.visit()
        now, stored = self._store.clock(), self._store.hooks.webhooks.get(challenge.webhook)
        if stored is None or stored.webhook.status is not WebhookStatus.PENDING_VERIFICATION:
            return
        if stored.webhook.challenges_sent != challenge.number:
            return
        if outcome.error is None:
            status = WebhookStatus.ACTIVE
        elif challenge.number >= CHALLENGES_MAX or outcome.retry_s is None:
            status = WebhookStatus.PENDING_DELETE
        else:
            status = stored.webhook.status
            stored.challenge_due_at = now + timedelta(seconds=outcome.retry_s)
        stored.webhook = replace(stored.webhook, status=status, modified_at=now)

    async def backlog(self) -> Backlog:
        """What waits, and how long the oldest has."""
        self._store.visit()
        active = {
            key for key, s in self._store.hooks.webhooks.items() if s.webhook.status is WebhookStatus.ACTIVE
        }
        waiting = [
            one.created_at
            for one in self._store.hooks.deliveries.values()
            if one.due_at is not None and one.webhook in active
        ]
        oldest = (self._store.clock() - min(waiting)).total_seconds() if waiting else 0.0
        return Backlog(min(len(waiting), 10_000), oldest)
