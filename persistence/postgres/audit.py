"""The system audit on PostgreSQL. `write` adds an entry in the transaction of what it tells of."""

from datetime import datetime

from persistence.postgres import outbox
from persistence.postgres.database import PooledConnection, PostgresDatabase, Record
from tmi.domain.errors import NotFound
from tmi.domain.ids import AuditId, UserId
from tmi.domain.model import AuditEntry
from tmi.domain.ports import AuditFilter, AuditPage
from tmi.domain.webhooks import notice_of_audit

WRITE = """
INSERT INTO system_audit
    (id, created_at, actor_id, provider, provider_id, email, name, http_method, http_path, field_path,
     old_value, new_value, summary)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13)
"""

WHERE = """
WHERE ($1::text IS NULL OR lower(email) = lower($1)) AND ($2::text IS NULL OR provider = $2)
  AND ($3::timestamptz IS NULL OR created_at > $3) AND ($4::timestamptz IS NULL OR created_at < $4)
  AND ($5::text IS NULL OR http_method = $5) AND ($6::text IS NULL OR starts_with(http_path, $6))
  AND ($7::text IS NULL OR field_path = $7)
"""

TOTAL = f"SELECT count(*) FROM system_audit {WHERE}"

OLDER = f"""
SELECT * FROM system_audit {WHERE} AND ($8::bigint IS NULL OR number < $8) ORDER BY number DESC LIMIT $9
"""

NEWER = f"""
SELECT * FROM system_audit {WHERE} AND ($8::bigint IS NULL OR number > $8) ORDER BY number LIMIT $9
"""

IS_NEWER = f"SELECT EXISTS (SELECT FROM system_audit {WHERE} AND number > $8)"
IS_OLDER = f"SELECT EXISTS (SELECT FROM system_audit {WHERE} AND number < $8)"

GET = "SELECT * FROM system_audit WHERE id = $1"

PURGE = """
WITH gone AS (
    DELETE FROM system_audit WHERE number IN (
        SELECT number FROM system_audit WHERE created_at < $1 LIMIT $2 FOR UPDATE SKIP LOCKED)
    RETURNING 1
)
SELECT count(*) AS purged FROM gone
"""


async def write(connection: PooledConnection, entry: AuditEntry) -> None:
    """Add an entry in a transaction of the caller."""
    await connection.execute(WRITE, *_columns(entry))
    await outbox.tell(connection, notice_of_audit(entry))


class PostgresAudit:
    """The port `Audit`."""

    def __init__(self, database: PostgresDatabase) -> None:
        self._database = database

    async def record(self, entry: AuditEntry) -> None:
        """Add an entry of its own."""
        await self._database.fetch(WRITE, *_columns(entry))

    async def page(self, wanted: AuditFilter, limit: int, cursor: int | None, *, newer: bool) -> AuditPage:
        """The entries after (`newer`: before) a place in the list, from its newest end without one."""

        async def work(connection: PooledConnection) -> AuditPage:
            filters = (
                wanted.email,
                wanted.provider,
                wanted.after,
                wanted.before,
                wanted.method,
                wanted.path_prefix,
                wanted.what,
            )
            total = await connection.fetchval(TOTAL, *filters)
            rows = await connection.fetch(NEWER if newer else OLDER, *filters, cursor, limit)
            if newer:
                rows.reverse()
            if not rows:
                return AuditPage([], total, None, None)
            first, last = rows[0]["number"], rows[-1]["number"]
            is_newer = await connection.fetchval(IS_NEWER, *filters, first)
            is_older = await connection.fetchval(IS_OLDER, *filters, last)
            entries = [_entry(row) for row in rows]
            return AuditPage(entries, total, last if is_older else None, first if is_newer else None)

        return await self._database.read_with(work)

    async def place_of(self, entry: AuditId) -> int:
        """The cursor from which on a page begins with this entry. Raises NotFound."""
        return int((await self._row(entry))["number"]) + 1

    async def get(self, entry: AuditId) -> AuditEntry:
        """Raises NotFound."""
        return _entry(await self._row(entry))

    async def purge(self, before: datetime, rows: int) -> int:
        """Delete up to `rows` entries that are older; returns how many went."""
        return int((await self._database.fetch(PURGE, before, rows))[0]["purged"])

    async def _row(self, entry: AuditId) -> Record:
        found = await self._database.read(GET, entry)
        if not found:
            raise NotFound("There is no such audit entry.")
        return found[0]


def _columns(entry: AuditEntry) -> tuple[object, ...]:
    return (
        entry.id,
        entry.at,
        entry.actor,
        entry.provider,
        entry.provider_id,
        entry.email,
        entry.name,
        entry.method,
        entry.path,
        entry.what,
        entry.old,
        entry.new,
        entry.summary,
    )


def _entry(row: Record) -> AuditEntry:
    return AuditEntry(
        id=AuditId(row["id"]),
        at=row["created_at"],
        actor=None if row["actor_id"] is None else UserId(row["actor_id"]),
        provider=row["provider"],
        provider_id=row["provider_id"],
        email=row["email"],
        name=row["name"],
        method=row["http_method"],
        path=row["http_path"],
        what=row["field_path"],
        old=row["old_value"],
        new=row["new_value"],
        summary=row["summary"],
    )
