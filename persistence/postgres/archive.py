"""Whole threat models out of the database and into it, as rows in JSON; `tmi/archive.py` makes files of them.

Reading is one snapshot of the database, writing one transaction. Columns are named here, so that neither a
file nor a later migration decides what is written; a column that a file does not have gets its default.
"""

from collections.abc import Mapping, Sequence
from typing import Any
from uuid import UUID

import asyncpg
import orjson

from persistence.postgres import events
from persistence.postgres.database import PooledConnection, PostgresDatabase
from tmi.domain.errors import BadInput, Conflict, NotFound
from tmi.domain.ids import ThreatModelId

Json = Any
Rows = list[dict[str, Json]]

COLUMNS: Mapping[str, tuple[str, ...]] = {
    "threat_models": (
        *("id", "alias", "name", "description", "threat_model_framework", "issue_uri", "is_confidential"),
        *("created_by", "created_at", "modified_at", "version", "last_diagram_alias", "status"),
        *("status_updated", "security_reviewer", "metadata", "deleted_at"),
    ),
    "grants": (
        *("threat_model_id", "position", "principal_type", "provider", "provider_id", "email"),
        *("display_name", "role"),
    ),
    "children": (
        *("id", "threat_model_id", "kind", "alias", "fields", "content", "metadata", "auto_generated"),
        *("created_at", "modified_at", "version", "deleted_at"),
    ),
    "diagrams": (
        *("id", "threat_model_id", "alias", "name", "type", "description", "created_at", "modified_at"),
        *("version", "image_svg", "image_update_vector", "include_in_report", "timmy_enabled", "metadata"),
        "deleted_at",
    ),
    "diagram_updates": ("diagram_id", "seq", "fence", "author", "origin", "created_at", "data"),
    "diagram_snapshots": ("diagram_id", "seq", "fence", "state"),
    "events": (
        *("id", "created_at", "threat_model_id", "object_type", "object_id", "change_type", "actor_id"),
        *("provider", "provider_id", "email", "name", "version", "summary", "seq"),
    ),
}

_READ = {
    "threat_models": "t.id = $1 AND (t.deleted_at IS NULL OR $2)",
    "grants": "t.threat_model_id = $1 ORDER BY t.position",
    "children": "t.threat_model_id = $1 AND (t.deleted_at IS NULL OR $2) ORDER BY t.kind, t.alias",
    "diagrams": "t.threat_model_id = $1 AND (t.deleted_at IS NULL OR $2) ORDER BY t.alias",
}
"""By the threat model, and whether what is deleted is wanted; `$3`: whether every update is."""
_OF_DIAGRAMS = "SELECT id FROM diagrams WHERE threat_model_id = $1 AND (deleted_at IS NULL OR $2)"
_LOGS = {
    "diagram_snapshots": f"t.diagram_id IN ({_OF_DIAGRAMS}) AND t.seq = (SELECT max(s.seq) "
    "FROM diagram_snapshots s WHERE s.diagram_id = t.diagram_id) ORDER BY t.diagram_id",
    "diagram_updates": f"t.diagram_id IN ({_OF_DIAGRAMS}) AND ($3 OR t.seq > coalesce((SELECT max(s.seq) "
    "FROM diagram_snapshots s WHERE s.diagram_id = t.diagram_id), 0)) ORDER BY t.diagram_id, t.seq",
}
_EVENTS = """
SELECT to_jsonb(e) || jsonb_build_object('state', s.state) AS row
FROM events e LEFT JOIN event_states s ON s.number = e.number WHERE e.threat_model_id = $1 ORDER BY e.number
"""
_PEOPLE = "SELECT id, provider, provider_id, email, name FROM users WHERE id = ANY($1::uuid[])"
_KNOWN = """
SELECT p.provider, p.provider_id, u.id FROM unnest($1::text[], $2::text[]) AS p (provider, provider_id)
JOIN users u ON u.provider = p.provider AND u.provider_id = p.provider_id
"""
_TAKE_ALIAS = """
UPDATE threat_model_aliases SET last = CASE
    WHEN $1::bigint IS NULL OR EXISTS (SELECT FROM threat_models WHERE alias = $1) THEN last + 1
    ELSE greatest(last, $1) END
RETURNING last
"""
_STATES = """
INSERT INTO event_states (number, created_at, object_id, state)
SELECT e.number, e.created_at, e.object_id, s.state
FROM unnest($1::uuid[], $2::text[]) AS g (id, state) JOIN events e ON e.id = g.id,
     LATERAL (SELECT g.state::jsonb AS state) s
"""
_TOLD = """
INSERT INTO diagram_trails (diagram_id, seq)
SELECT d.id, max(e.seq)
FROM events e JOIN diagrams d ON d.id = e.object_id
WHERE e.id = ANY($1::uuid[]) AND e.object_type = 'diagram' AND e.change_type = 'patched' AND e.seq IS NOT NULL
    AND NOT EXISTS (SELECT FROM event_states s WHERE s.number = e.number)
GROUP BY d.id
ON CONFLICT DO NOTHING
"""
"""What the file's trail tells of edits in open editors is not told again."""

_UNCLAIMED = "UPDATE diagrams SET deleted_fence = 0 WHERE id = ANY($1::uuid[])"
"""A deleted diagram has no fence row, but what it begins with when it is restored."""

_THERE = "SELECT id FROM events WHERE id = ANY($1::uuid[])"
TIMEOUT_S = 600.0


class PostgresArchives:
    """Reads and writes threat models as a whole."""

    def __init__(self, database: PostgresDatabase) -> None:
        self._database = database

    async def read(
        self, model: ThreatModelId, *, history: bool, deleted: bool = False
    ) -> dict[str, Rows]:
        """The rows by table, and `people`, who they name. Raises NotFound.

        Of each diagram the newest snapshot and what came after it; with `history` every update. With
        `deleted` also what is deleted and can be restored, the threat model itself included.
        """

        async def work(connection: PooledConnection) -> dict[str, Rows]:
            async with connection.transaction(isolation="repeatable_read", readonly=True):
                return await _read(connection, model, history=history, deleted=deleted)

        return await self._database.read_with(work)

    async def known(self, people: Sequence[Mapping[str, str]]) -> dict[tuple[str, str], UUID]:
        """Who of these has an account here, by provider and the provider's id."""
        providers, ids = [p["provider"] for p in people], [p["provider_id"] for p in people]
        found = await self._database.read(_KNOWN, providers, ids)
        return {(row["provider"], row["provider_id"]): row["id"] for row in found}

    async def write(self, tables: Mapping[str, Rows], *, alias: int | None) -> int:
        """Store all rows or none; returns the threat model's alias, `alias` if that is free.

        Raises Conflict where an id is taken, and BadInput for rows that the database refuses.
        """
        try:
            async with self._database.transaction() as connection:
                return await _write(connection, tables, alias)
        except asyncpg.UniqueViolationError as error:
            raise Conflict(f"something with an id of the file is here already ({error.table_name})") from None
        except (asyncpg.DataError, asyncpg.IntegrityConstraintViolationError) as error:
            raise BadInput(f"the database refuses the file's rows: {str(error)[:300]}") from None


async def _read(
    connection: PooledConnection, model: ThreatModelId, *, history: bool, deleted: bool
) -> dict[str, Rows]:
    tables: dict[str, Rows] = {}
    for table, where in _READ.items():
        arguments: tuple[object, ...] = (model, deleted) if "$2" in where else (model,)
        tables[table] = await _rows(connection, f"{_selected(table)} WHERE {where}", *arguments)
    if not tables["threat_models"]:
        raise NotFound("There is no such threat model.")
    for table, where in _LOGS.items():
        arguments = (model, deleted, history) if "$3" in where else (model, deleted)
        tables[table] = await _rows(connection, f"{_selected(table)} WHERE {where}", *arguments)
    tables["events"] = await _rows(connection, _EVENTS, model) if history else []
    named = {row["created_by"] for row in tables["threat_models"]}
    named |= {row["author"] for row in tables["diagram_updates"]}
    found = await connection.fetch(_PEOPLE, [UUID(key) for key in named if key], timeout=TIMEOUT_S)
    tables["people"] = [{**row, "id": str(row["id"])} for row in found]
    return tables


def _selected(table: str) -> str:
    names = ", ".join(f"t.{name}" for name in COLUMNS[table])
    return f"SELECT to_jsonb(r) AS row FROM {table} t, LATERAL (SELECT {names}) r"


async def _rows(connection: PooledConnection, sql: str, *arguments: object) -> Rows:
    found = await connection.fetch(sql, *arguments, timeout=TIMEOUT_S)
    return [orjson.loads(row["row"]) for row in found]


async def _write(connection: PooledConnection, tables: Mapping[str, Rows], alias: int | None) -> int:
    (model,) = tables["threat_models"]
    taken: int = await connection.fetchval(_TAKE_ALIAS, alias)
    await _insert(connection, "threat_models", [{**model, "alias": taken}])
    for table in ("grants", "children", "diagrams"):
        await _insert(connection, table, tables[table])
    gone = [UUID(row["id"]) for row in tables["diagrams"] if row.get("deleted_at") is not None]
    keys = [UUID(row["id"]) for row in tables["diagrams"] if row.get("deleted_at") is None]
    await connection.execute(_UNCLAIMED, gone)
    await connection.execute(
        "INSERT INTO diagram_fences (diagram_id) SELECT * FROM unnest($1::uuid[])", keys
    )
    await _insert(connection, "diagram_updates", tables["diagram_updates"])
    if tables["events"]:
        await connection.execute(events.LOCK_AND_TELL, events.TRAIL_LOCK, events.CHANNEL, [model["id"]])
        # The trail outlives what it tells of: what is there already stays as it is.
        keys = [UUID(row["id"]) for row in tables["events"]]
        there = {row["id"] for row in await connection.fetch(_THERE, keys)}
        fresh = [row for row in tables["events"] if UUID(row["id"]) not in there]
        await _insert(connection, "events", fresh)
        kept = [(UUID(row["id"]), row["state"]) for row in fresh if row.get("state") is not None]
        states = [orjson.dumps(state).decode() for _, state in kept]
        await connection.execute(_STATES, [key for key, _ in kept], states, timeout=TIMEOUT_S)
        await connection.execute(_TOLD, [UUID(row["id"]) for row in fresh], timeout=TIMEOUT_S)
    return taken


async def _insert(connection: PooledConnection, table: str, rows: Rows) -> None:
    """Rows of one table; all have the columns that the first one has."""
    if not rows:
        return
    names = [name for name in COLUMNS[table] if name in rows[0]]
    if any(name not in row for row in rows for name in names):
        raise BadInput(f"the rows of {table} do not all have the same fields")
    listed = ", ".join(names)
    source = f"jsonb_populate_recordset(NULL::{table}, $1::text::jsonb)"
    sql = f"INSERT INTO {table} ({listed}) SELECT {listed} FROM {source}"
    for first in range(0, len(rows), 500):
        part = orjson.dumps(rows[first : first + 500]).decode()
        await connection.execute(sql, part, timeout=TIMEOUT_S)
