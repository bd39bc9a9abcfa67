"""Subscriptions to events, and what users may have of them, on PostgreSQL."""

from collections.abc import Sequence
from datetime import datetime
from uuid import uuid4

import asyncpg

from persistence.postgres.audit import write
from persistence.postgres.database import PooledConnection, PostgresDatabase, Record
from persistence.sealing import Seal
from tmi.domain.errors import NotFound, QuotaReached
from tmi.domain.ids import ThreatModelId, UserId, WebhookId
from tmi.domain.model import AuditEntry
from tmi.domain.ports import Page
from tmi.domain.webhooks import NewWebhook, Webhook, WebhookLimits, WebhookQuota, WebhookStatus

OWNER_LOCK = 0x746D6903
"""The first of two keys of the advisory lock on what an owner has; the second is the owner's hash."""

LOCK_OWNER = "SELECT pg_advisory_xact_lock($1, hashtext($2))"

MAY_HAVE = """
SELECT coalesce((SELECT subscriptions FROM webhook_quotas WHERE user_id = $1), $2) AS most,
       (SELECT count(*) FROM webhook_subscriptions WHERE owner_id = $1 AND status <> 'pending_delete') AS has
"""

IS_MODEL = "SELECT EXISTS (SELECT FROM threat_models WHERE id = $1 AND deleted_at IS NULL)"

COLUMNS = """
id, owner_id, name, url, events, threat_model_id, status, challenges_sent, created_at, modified_at,
last_success_at, failures
"""

CREATE = f"""
INSERT INTO webhook_subscriptions (id, owner_id, name, url, events, threat_model_id, secret)
VALUES ($1, $2, $3, $4, $5, $6, $7) RETURNING {COLUMNS}
"""

GET = f"SELECT {COLUMNS} FROM webhook_subscriptions WHERE id = $1"

WHERE = "WHERE $1::uuid IS NULL OR threat_model_id = $1"
TOTAL = f"SELECT count(*) FROM webhook_subscriptions {WHERE}"
PAGE = f"SELECT {COLUMNS} FROM webhook_subscriptions {WHERE} ORDER BY created_at, id LIMIT $2 OFFSET $3"

REMOVE = "DELETE FROM webhook_subscriptions WHERE id = $1 RETURNING id"
REMOVE_DELIVERIES = "DELETE FROM webhook_deliveries WHERE subscription_id = $1"

PURGE = """
WITH gone AS (
    DELETE FROM webhook_subscriptions WHERE id IN (
        SELECT id FROM webhook_subscriptions WHERE status = 'pending_delete' AND modified_at < $1
        LIMIT $2 FOR UPDATE SKIP LOCKED)
    RETURNING 1
)
SELECT count(*) AS purged FROM gone
"""

OTHERWISE_SEALED = """
SELECT id, secret FROM webhook_subscriptions WHERE substring(secret FROM 1 FOR length($1::bytea)) <> $1
ORDER BY id LIMIT $2
"""
SEAL_ANEW = "UPDATE webhook_subscriptions SET secret = $3 WHERE id = $1 AND secret = $2"

GET_QUOTA = "SELECT * FROM webhook_quotas WHERE user_id = $1"
QUOTAS = "SELECT * FROM webhook_quotas ORDER BY created_at, user_id LIMIT $1 OFFSET $2"
QUOTAS_TOTAL = "SELECT count(*) FROM webhook_quotas"
PUT_QUOTA = """
INSERT INTO webhook_quotas AS q (user_id, subscriptions, events_per_min, requests_per_min, requests_per_day)
VALUES ($1, $2, $3, $4, $5)
ON CONFLICT (user_id) DO UPDATE
SET subscriptions = $2, events_per_min = $3, requests_per_min = $4, requests_per_day = $5,
    modified_at = clock_timestamp()
RETURNING q.*, q.xmax = 0 AS is_new
"""
REMOVE_QUOTA = "DELETE FROM webhook_quotas WHERE user_id = $1 RETURNING user_id"


class PostgresWebhooks:
    """The port `Webhooks`."""

    def __init__(self, database: PostgresDatabase, seal: Seal) -> None:
        self._database = database
        self._seal = seal

    async def create(self, new: NewWebhook, defaults: WebhookLimits, entry: AuditEntry) -> Webhook:
        """A subscription whose endpoint has to be verified. Raises QuotaReached and NotFound."""
        key = uuid4()
        async with self._database.transaction() as connection:
            await connection.execute(LOCK_OWNER, OWNER_LOCK, str(new.owner))
            quota = await connection.fetchrow(MAY_HAVE, new.owner, defaults.subscriptions)
            assert quota is not None
            if quota["has"] >= quota["most"]:
                raise QuotaReached("max_subscriptions", quota["most"], "this user")
            if new.threat_model is not None and not await connection.fetchval(IS_MODEL, new.threat_model):
                raise NotFound("There is no such threat model.")
            row = await connection.fetchrow(
                CREATE,
                key,
                new.owner,
                new.name,
                new.url,
                sorted(new.events),
                new.threat_model,
                self._seal.close(new.secret, key.bytes),
            )
            await write(connection, entry)
        assert row is not None
        return webhook_of(row)

    async def get(self, webhook: WebhookId) -> Webhook:
        """Raises NotFound."""
        found = await self._database.read(GET, webhook)
        if not found:
            raise not_found()
        return webhook_of(found[0])

    async def page(self, model: ThreatModelId | None, page: Page) -> tuple[Sequence[Webhook], int]:
        """A page, oldest first, and the total."""

        async def work(connection: PooledConnection) -> tuple[Sequence[Webhook], int]:
            total = await connection.fetchval(TOTAL, model)
            return [
                webhook_of(row) for row in await connection.fetch(PAGE, model, page.limit, page.offset)
            ], total

        return await self._database.read_with(work)

    async def remove(self, webhook: WebhookId, entry: AuditEntry) -> None:
        """With its deliveries. Raises NotFound."""
        async with self._database.transaction() as connection:
            if await connection.fetchval(REMOVE, webhook) is None:
                raise not_found()
            await connection.execute(REMOVE_DELIVERIES, webhook)
            await write(connection, entry)

    async def purge(self, before: datetime, rows: int) -> int:
        """Delete up to `rows` of those that were given up before; returns how many went."""
        return int((await self._database.fetch(PURGE, before, rows))[0]["purged"])


    async def seal_anew(self, rows: int) -> int:
        """Seal secrets with the newest key that are stored as they are, or sealed with another one; returns
        how many of `rows` were. Nothing is done without a key.
        """
        if self._seal.is_empty:
            return 0
        sealed = 0
        for row in await self._database.fetch(OTHERWISE_SEALED, self._seal.mark, rows):
            key, stored = row["id"], row["secret"]
            secret = self._seal.open(stored, key.bytes)
            if secret is not None:
                await self._database.fetch(SEAL_ANEW, key, stored, self._seal.close(secret, key.bytes))
                sealed += 1
        return sealed


class PostgresWebhookQuotas:
    """The port `WebhookQuotas`."""

    def __init__(self, database: PostgresDatabase) -> None:
        self._database = database

    async def of(self, user: UserId) -> WebhookQuota | None:
        """None: the limits of everybody hold."""
        found = await self._database.read(GET_QUOTA, user)
        return _quota(found[0]) if found else None

    async def page(self, page: Page) -> tuple[Sequence[WebhookQuota], int]:
        """A page, oldest first, and the total."""

        async def work(connection: PooledConnection) -> tuple[Sequence[WebhookQuota], int]:
            found = await connection.fetch(QUOTAS, page.limit, page.offset)
            return [_quota(row) for row in found], await connection.fetchval(QUOTAS_TOTAL)

        return await self._database.read_with(work)

    async def put(self, user: UserId, limits: WebhookLimits, entry: AuditEntry) -> tuple[WebhookQuota, bool]:
        """Set a user's limits; also says whether there were none before. Raises NotFound."""
        try:
            async with self._database.transaction() as connection:
                row = await connection.fetchrow(
                    PUT_QUOTA,
                    user,
                    limits.subscriptions,
                    limits.events_per_min,
                    limits.requests_per_min,
                    limits.requests_per_day,
                )
                await write(connection, entry)
        except asyncpg.ForeignKeyViolationError:
            raise NotFound("There is no such user.") from None
        assert row is not None
        return _quota(row), row["is_new"]

    async def remove(self, user: UserId, entry: AuditEntry) -> None:
        """Let the limits of everybody hold again. Raises NotFound where they do already."""
        async with self._database.transaction() as connection:
            if await connection.fetchval(REMOVE_QUOTA, user) is None:
                raise NotFound("This user has no quota of their own.")
            await write(connection, entry)


def not_found() -> NotFound:
    """Of a subscription."""
    return NotFound("There is no such webhook subscription.")


def webhook_of(row: Record) -> Webhook:
    """A row with COLUMNS."""
    model = row["threat_model_id"]
    return Webhook(
        id=WebhookId(row["id"]),
        owner=UserId(row["owner_id"]),
        name=row["name"],
        url=row["url"],
        events=frozenset(row["events"]),
        threat_model=None if model is None else ThreatModelId(model),
        status=WebhookStatus(row["status"]),
        challenges_sent=row["challenges_sent"],
        created_at=row["created_at"],
        modified_at=row["modified_at"],
        last_success_at=row["last_success_at"],
        failures=row["failures"],
    )


def _quota(row: Record) -> WebhookQuota:
    limits = WebhookLimits(
        row["subscriptions"], row["events_per_min"], row["requests_per_min"], row["requests_per_day"]
    )
    return WebhookQuota(UserId(row["user_id"]), limits, row["created_at"], row["modified_at"])
