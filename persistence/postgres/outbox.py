"""The outbox of webhooks on PostgreSQL: rows that transactions of changes wrote, taken by one node at a time.

What it holds true
    A row is there if and only if its change is committed. Whoever takes one moves `due_at` to the end of a
    lease and counts the attempt; the count proves, when it is settled, that it is still theirs. A node that
    is killed leaves rows that are due again when their leases end: nothing is lost, and what was sent just
    before may be sent twice.

    One node takes at a time (an advisory lock of the transaction; who does not get it comes back), so bounds
    on a subscription and on an owner's minute are exact, whoever takes.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import orjson

from persistence.postgres.database import PooledConnection, PostgresDatabase, Record
from persistence.sealing import Seal
from tmi.domain.ids import DeliveryId, UserId, WebhookId
from tmi.domain.webhooks import (
    CHALLENGES_MAX,
    ERROR_MAX,
    Attempt,
    Backlog,
    Challenge,
    Outcome,
    Slots,
    WebhookLimits,
)

TAKE_LOCK = 0x746D6904
TRY_LOCK = "SELECT pg_try_advisory_xact_lock($1)"

TELL = """
INSERT INTO webhook_deliveries (id, subscription_id, event_type, payload)
SELECT webhook_delivery_id(), s.id, $1, $2 FROM webhook_subscriptions s
WHERE s.status = 'active' AND $1 = ANY (s.events) AND s.threat_model_id IS NULL
"""
"""Of what is in no threat model."""

# $1 of one subscription at once, $2 in all, $3 an owner's attempts in a minute unless there is a quota, $4 a
# lease, in seconds.
# A subscription that waits for fewer comes first: a slow one never keeps the others from their turn.
TAKE = """
WITH busy AS (
    SELECT subscription_id, count(*) AS n FROM webhook_deliveries
    WHERE status = 'in_progress' AND due_at > now() GROUP BY subscription_id
), owners AS (
    SELECT u.owner_id, coalesce(q.events_per_min, $3)
           - CASE WHEN r.minute = date_trunc('minute', now()) THEN r.sent ELSE 0 END AS may
    FROM (SELECT DISTINCT owner_id FROM webhook_subscriptions WHERE status = 'active') u
    LEFT JOIN webhook_quotas q ON q.user_id = u.owner_id
    LEFT JOIN webhook_rates r ON r.user_id = u.owner_id
), due AS (
    SELECT d.id, d.due_at, s.owner_id, coalesce(b.n, 0) + d.place AS turn
    FROM webhook_subscriptions s
    JOIN owners o ON o.owner_id = s.owner_id AND o.may > 0
    LEFT JOIN busy b ON b.subscription_id = s.id
    CROSS JOIN LATERAL (
        SELECT first.*, row_number() OVER (ORDER BY due_at) AS place FROM (
            SELECT id, due_at FROM webhook_deliveries
            WHERE subscription_id = s.id AND due_at <= now()
            ORDER BY due_at
            LIMIT greatest(CASE WHEN s.failures > 0 THEN 1 ELSE $1::int END - coalesce(b.n, 0), 0)
        ) first
    ) d
    WHERE s.status = 'active'
), allowed AS (
    SELECT id, owner_id, due_at, turn,
           row_number() OVER (PARTITION BY owner_id ORDER BY turn, due_at) AS place
    FROM due
), taken AS (
    SELECT a.id, a.owner_id FROM allowed a JOIN owners o ON o.owner_id = a.owner_id AND a.place <= o.may
    ORDER BY a.turn, a.due_at LIMIT $2
), counted AS (
    INSERT INTO webhook_rates AS r (user_id, minute, sent)
    SELECT owner_id, date_trunc('minute', now()), count(*) FROM taken GROUP BY owner_id
    ON CONFLICT (user_id) DO UPDATE SET minute = excluded.minute,
        sent = excluded.sent + CASE WHEN r.minute = excluded.minute THEN r.sent ELSE 0 END
)
UPDATE webhook_deliveries d
SET status = 'in_progress', attempts = d.attempts + 1, active_at = now(),
    due_at = now() + make_interval(secs => $4)
FROM taken t JOIN webhook_subscriptions s ON true
WHERE d.id = t.id AND s.id = d.subscription_id AND d.due_at <= now()
RETURNING d.id, d.subscription_id, d.event_type, d.payload, d.attempts, s.owner_id, s.url, s.secret
"""

IS_DUE = """
SELECT EXISTS (
    SELECT FROM webhook_subscriptions s WHERE s.status = 'active' AND EXISTS (
        SELECT FROM webhook_deliveries d WHERE d.subscription_id = s.id AND d.due_at <= now())) AS is_due
"""
"""Asked first, since mostly there is nothing."""

IS_OURS = "id = $1 AND attempts = $2 AND status = 'in_progress'"
DELIVERED = f"""
WITH done AS (
    UPDATE webhook_deliveries SET status = 'delivered', due_at = NULL, last_error = NULL,
        active_at = clock_timestamp(), delivered_at = clock_timestamp()
    WHERE {IS_OURS} RETURNING subscription_id
)
UPDATE webhook_subscriptions SET last_success_at = clock_timestamp(), failures = 0
WHERE id IN (SELECT subscription_id FROM done)
"""
AGAIN = f"""
UPDATE webhook_deliveries SET status = 'pending', last_error = $3, active_at = clock_timestamp(),
    due_at = clock_timestamp() + make_interval(secs => $4)
WHERE {IS_OURS}
"""
FAILED = f"""
WITH done AS (
    UPDATE webhook_deliveries SET status = 'failed', due_at = NULL, last_error = $3,
        active_at = clock_timestamp()
    WHERE {IS_OURS} RETURNING subscription_id
)
UPDATE webhook_subscriptions SET failures = failures + 1 WHERE id IN (SELECT subscription_id FROM done)
"""

IS_TO_VERIFY = """
SELECT EXISTS (
    SELECT FROM webhook_subscriptions WHERE status = 'pending_verification' AND challenge_due_at <= now()
) AS is_due
"""
TAKE_CHALLENGES = """
UPDATE webhook_subscriptions SET challenges_sent = challenges_sent + 1, modified_at = clock_timestamp(),
    challenge_due_at = clock_timestamp() + make_interval(secs => $2)
WHERE id IN (
    SELECT id FROM webhook_subscriptions
    WHERE status = 'pending_verification' AND challenge_due_at <= now() AND challenges_sent < $3
    ORDER BY challenge_due_at LIMIT $1 FOR UPDATE SKIP LOCKED)
RETURNING id, owner_id, url, secret, challenges_sent
"""
GIVE_UP_CHALLENGED = """
UPDATE webhook_subscriptions SET status = 'pending_delete', modified_at = clock_timestamp()
WHERE status = 'pending_verification' AND challenge_due_at <= now() AND challenges_sent >= $1
"""
"""Of those whose last challenge nobody settled: its node was killed."""
VERIFIED = """
UPDATE webhook_subscriptions SET status = 'active', modified_at = clock_timestamp()
WHERE id = $1 AND challenges_sent = $2 AND status = 'pending_verification'
"""
UNVERIFIED = """
UPDATE webhook_subscriptions
SET status = CASE WHEN $3::float8 IS NULL THEN 'pending_delete' ELSE status END,
    modified_at = clock_timestamp(),
    challenge_due_at = clock_timestamp() + make_interval(secs => coalesce($3, 0))
WHERE id = $1 AND challenges_sent = $2 AND status = 'pending_verification'
"""

BACKLOG = """
SELECT count(*) AS pending, coalesce(extract(epoch FROM now() - min(created_at)), 0)::float8 AS oldest_s
FROM (
    SELECT d.created_at FROM webhook_subscriptions s CROSS JOIN LATERAL (
        SELECT created_at FROM webhook_deliveries
        WHERE subscription_id = s.id AND due_at IS NOT NULL ORDER BY due_at LIMIT 10000
    ) d
    WHERE s.status = 'active' LIMIT 10000
) waiting
"""
"""By the index of what is due, so that a long log costs nothing. Past its bound the age is that of some."""


async def tell(connection: PooledConnection, notice: tuple[str, Mapping[str, Any]] | None) -> None:
    """Have those told who follow what is in no threat model, in a transaction of the caller."""
    if notice is not None:
        await connection.execute(TELL, notice[0], orjson.dumps(notice[1]).decode())


class PostgresOutbox:
    """The port `Outbox`."""

    def __init__(self, database: PostgresDatabase, seal: Seal) -> None:
        self._database = database
        self._seal = seal

    async def take(self, slots: Slots, defaults: WebhookLimits) -> Sequence[Attempt]:
        """Take what is due. Nobody else has it until the lease ends."""
        if not (await self._database.read(IS_DUE))[0]["is_due"]:
            return []
        async with self._database.transaction() as connection:
            if not await connection.fetchval(TRY_LOCK, TAKE_LOCK):
                return []
            rows = await connection.fetch(
                TAKE, slots.per_webhook, slots.free, defaults.events_per_min, slots.lease_s
            )
        return [self._attempt(row) for row in rows]

    async def settle(self, attempt: Attempt, outcome: Outcome) -> None:
        """Say what came of an attempt. Nothing happens if somebody else has taken it over, or it is gone."""
        which = attempt.delivery, attempt.number
        if outcome.error is None:
            await self._database.fetch(DELIVERED, *which)
        elif outcome.retry_s is None:
            await self._database.fetch(FAILED, *which, outcome.error[:ERROR_MAX])
        else:
            await self._database.fetch(AGAIN, *which, outcome.error[:ERROR_MAX], outcome.retry_s)

    async def take_challenges(self, most: int, lease_s: float) -> Sequence[Challenge]:
        """Take subscriptions that are to be verified."""
        if not (await self._database.read(IS_TO_VERIFY))[0]["is_due"]:
            return []
        await self._database.fetch(GIVE_UP_CHALLENGED, CHALLENGES_MAX)
        rows = await self._database.fetch(TAKE_CHALLENGES, most, lease_s, CHALLENGES_MAX)
        return [
            Challenge(
                webhook=WebhookId(row["id"]),
                owner=UserId(row["owner_id"]),
                url=row["url"],
                secret=self._seal.open(row["secret"], row["id"].bytes),
                number=row["challenges_sent"],
            )
            for row in rows
        ]

    async def settle_challenge(self, challenge: Challenge, outcome: Outcome) -> None:
        """Say whether the endpoint answered. After CHALLENGES_MAX it is given up."""
        which = challenge.webhook, challenge.number
        if outcome.error is None:
            await self._database.fetch(VERIFIED, *which)
            return
        is_last = challenge.number >= CHALLENGES_MAX
        await self._database.fetch(UNVERIFIED, *which, None if is_last else outcome.retry_s)

    async def backlog(self) -> Backlog:
        """What waits, and how long the oldest has."""
        row = (await self._database.read(BACKLOG))[0]
        return Backlog(row["pending"], row["oldest_s"])

    def _attempt(self, row: Record) -> Attempt:
        key = row["subscription_id"]
        return Attempt(
            delivery=DeliveryId(row["id"]),
            webhook=WebhookId(key),
            owner=UserId(row["owner_id"]),
            url=row["url"],
            secret=self._seal.open(row["secret"], key.bytes),
            event_type=row["event_type"],
            payload=row["payload"],
            number=row["attempts"],
        )
