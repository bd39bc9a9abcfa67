"""Quotas on PostgreSQL. Triggers of migration 0010 count what users are charged for.

`hold_to_it` is called in the transaction that has created something. The counting trigger has locked the row
of the user's usage by then, so creations for one user come one after the other, each knows of all before it,
and one that goes too far is rolled back.
"""

from collections.abc import Sequence
from uuid import UUID

import asyncpg

from persistence.postgres.audit import write
from persistence.postgres.database import PooledConnection, PostgresDatabase, Record
from tmi.domain.errors import NotFound, QuotaReached, StorageFull
from tmi.domain.ids import DiagramId, ThreatModelId, UserId
from tmi.domain.model import AuditEntry
from tmi.domain.ports import Page
from tmi.domain.quotas import Allowance, Limits, Quota, Usage

OVER_MAX = 10_000

GET = "SELECT * FROM user_quotas WHERE user_id = $1"

PAGE = "SELECT * FROM user_quotas ORDER BY created_at, user_id LIMIT $1 OFFSET $2"

TOTAL = "SELECT count(*) FROM user_quotas"

PUT = """
INSERT INTO user_quotas AS q
    (user_id, requests_per_min, requests_per_hour, threat_models, diagrams, stored_bytes, connections)
VALUES ($1, $2, $3, $4, $5, $6, $7)
ON CONFLICT (user_id) DO UPDATE
SET requests_per_min = $2, requests_per_hour = $3, threat_models = $4, diagrams = $5, stored_bytes = $6,
    connections = $7, modified_at = clock_timestamp()
RETURNING q.*, q.xmax = 0 AS is_new
"""

REMOVE = "DELETE FROM user_quotas WHERE user_id = $1 RETURNING user_id"

USAGE = """
SELECT threat_models, diagrams, greatest(stored_bytes, 0) AS stored_bytes FROM user_usage WHERE user_id = $1
"""

HELD = """
SELECT u.threat_models, u.diagrams, u.stored_bytes,
       coalesce(q.threat_models, $2) AS threat_models_max, coalesce(q.diagrams, $3) AS diagrams_max,
       coalesce(q.stored_bytes, $4) AS stored_max
FROM threat_models t JOIN user_usage u ON u.user_id = t.charged_to
LEFT JOIN user_quotas q ON q.user_id = u.user_id
WHERE t.id = $1
"""

# The first branch is empty in a healthy service: the index on stored_bytes ends it at once.
OVER = """
SELECT u.user_id FROM user_usage u LEFT JOIN user_quotas q ON q.user_id = u.user_id
WHERE $1::bigint > 0 AND u.stored_bytes > $1 AND q.stored_bytes IS NULL
UNION ALL
SELECT u.user_id FROM user_quotas q JOIN user_usage u ON u.user_id = q.user_id
WHERE q.stored_bytes > 0 AND u.stored_bytes > q.stored_bytes
LIMIT $2
"""

LIMIT_PASSED = """
SELECT coalesce(q.stored_bytes, $2) AS stored_max
FROM threat_models t JOIN user_usage u ON u.user_id = t.charged_to
LEFT JOIN user_quotas q ON q.user_id = u.user_id
WHERE t.id = $1 AND coalesce(q.stored_bytes, $2) > 0 AND u.stored_bytes > coalesce(q.stored_bytes, $2)
"""

PAID_BY = """
SELECT d.id FROM diagrams d JOIN threat_models t ON t.id = d.threat_model_id
WHERE d.id = ANY($1::uuid[]) AND t.charged_to = ANY($2::uuid[])
"""

TRANSFER = """
WITH moved AS (
    UPDATE threat_models SET charged_to = $2, version = version + 1, modified_at = clock_timestamp()
    WHERE id = ANY($3::uuid[]) RETURNING id
), sums AS (
    SELECT (SELECT count(*) FROM moved) AS models, count(d.id) AS diagrams,
           coalesce(sum(s.stored_bytes), 0) + (
               SELECT coalesce(sum(child_weight(c.content, c.metadata)), 0)
               FROM moved m JOIN children c ON c.threat_model_id = m.id) AS size
    FROM moved m LEFT JOIN diagrams d ON d.threat_model_id = m.id
    LEFT JOIN diagram_sizes s ON s.diagram_id = d.id
)
UPDATE user_usage u
SET threat_models = u.threat_models + sign * s.models, diagrams = u.diagrams + sign * s.diagrams,
    stored_bytes = u.stored_bytes + sign * s.size
FROM sums s, (VALUES ($1::uuid, -1), ($2::uuid, 1)) AS side (user_id, sign)
WHERE u.user_id = side.user_id
"""

HAVE_USAGE = "INSERT INTO user_usage (user_id) VALUES ($1) ON CONFLICT DO NOTHING"

CHARGED = "SELECT id FROM threat_models WHERE id = ANY($1::uuid[]) AND charged_to = $2"

LOCK_USAGE_OF = """
SELECT FROM user_usage WHERE user_id IN (SELECT charged_to FROM threat_models WHERE id = ANY($1::uuid[]))
ORDER BY user_id FOR UPDATE
"""

LOCK_USAGE = "SELECT FROM user_usage WHERE user_id = ANY($1::uuid[]) ORDER BY user_id FOR UPDATE"


async def hold_to_it(
    connection: PooledConnection, model: UUID, defaults: Limits, created: str
) -> None:
    """Undo what this transaction `created` (`threat_models` or `diagrams`) if it passes a quota of who is
    charged for the threat model. Raises QuotaReached.
    """
    row = await connection.fetchrow(
        HELD, model, defaults.threat_models, defaults.diagrams, defaults.stored_bytes
    )
    if row is None:
        return
    limit = row[f"{created}_max"]
    if limit and row[created] > limit:
        raise QuotaReached(created, limit, "who is charged for this threat model")
    if row["stored_max"] and row["stored_bytes"] > row["stored_max"]:
        raise StorageFull("stored_bytes", row["stored_max"], "who is charged for this threat model")


async def lock_usage(connection: PooledConnection, models: Sequence[UUID]) -> None:
    """Lock what all of those are charged who are charged for `models`, by id, where several statements of a
    transaction will change it: each of them would lock in an order of its own.
    """
    await connection.execute(LOCK_USAGE_OF, models)


async def transfer_charge(
    connection: PooledConnection, source: UserId, target: UserId, models: Sequence[UUID]
) -> frozenset[UUID]:
    """Charge `target` for those of `models` for which `source` was, in a transaction of the caller, who has
    locked them. Returns those; each has a new version.

    A snapshot of one of their diagrams that is written in this very moment may still be charged to `source`.
    """
    charged = frozenset(row["id"] for row in await connection.fetch(CHARGED, models, source))
    await connection.execute(HAVE_USAGE, target)
    await connection.execute(LOCK_USAGE, [source, target])
    await connection.execute(TRANSFER, source, target, list(charged))
    return charged


class PostgresQuotas:
    """The port `Quotas`."""

    def __init__(self, database: PostgresDatabase) -> None:
        self._database = database

    async def of(self, user: UserId) -> Quota | None:
        """None: the limits of everybody hold."""
        found = await self._database.read(GET, user)
        return _quota(found[0]) if found else None

    async def page(self, page: Page) -> tuple[Sequence[Quota], int]:
        """A page, oldest first, and the total."""

        async def work(connection: PooledConnection) -> tuple[Sequence[Quota], int]:
            found = await connection.fetch(PAGE, page.limit, page.offset)
            return [_quota(row) for row in found], await connection.fetchval(TOTAL)

        return await self._database.read_with(work)

    async def put(self, user: UserId, allowance: Allowance, entry: AuditEntry) -> tuple[Quota, bool]:
        """Set a user's allowance. Raises NotFound."""
        try:
            async with self._database.transaction() as connection:
                row = await connection.fetchrow(
                    PUT,
                    user,
                    allowance.requests_per_min,
                    allowance.requests_per_hour,
                    allowance.threat_models,
                    allowance.diagrams,
                    allowance.stored_bytes,
                    allowance.connections,
                )
                await write(connection, entry)
        except asyncpg.ForeignKeyViolationError:
            raise NotFound("There is no such user.") from None
        assert row is not None
        return _quota(row), row["is_new"]

    async def remove(self, user: UserId, entry: AuditEntry) -> None:
        """Raises NotFound where the limits of everybody hold already."""
        async with self._database.transaction() as connection:
            if await connection.fetchval(REMOVE, user) is None:
                raise NotFound("This user has no quota of their own.")
            await write(connection, entry)


class PostgresStorage:
    """The port `Storage`."""

    def __init__(self, database: PostgresDatabase) -> None:
        self._database = database

    async def usage(self, user: UserId) -> Usage:
        """Nothing for somebody who is not known."""
        found = await self._database.read(USAGE, user)
        return Usage(*found[0].values()) if found else Usage()

    async def payers_over(self, default: int) -> frozenset[UserId]:
        """Who has more stored bytes than allowed."""
        found = await self._database.read(OVER, default, OVER_MAX)
        return frozenset(UserId(row["user_id"]) for row in found)

    async def limit_passed(self, model: ThreatModelId, default: int) -> int | None:
        """How many bytes who is charged for a threat model may store; None unless they store more."""
        found = await self._database.read(LIMIT_PASSED, model, default)
        return found[0]["stored_max"] if found else None

    async def paid_by(self, diagrams: Sequence[DiagramId], users: frozenset[UserId]) -> frozenset[DiagramId]:
        """Those of `diagrams` for which one of `users` is charged."""
        found = await self._database.read(PAID_BY, list(diagrams), list(users))
        return frozenset(DiagramId(row["id"]) for row in found)


def _quota(row: Record) -> Quota:
    allowance = Allowance(
        row["requests_per_min"],
        row["requests_per_hour"],
        row["threat_models"],
        row["diagrams"],
        row["stored_bytes"],
        row["connections"],
    )
    return Quota(UserId(row["user_id"]), allowance, row["created_at"], row["modified_at"])
