"""What is deleted and can be restored, on PostgreSQL; in the end it goes for good."""

from collections.abc import Sequence
from datetime import datetime
from uuid import UUID

from persistence.postgres import events
from persistence.postgres.children import COLUMNS, child_of
from persistence.postgres.database import PooledConnection, PostgresDatabase, Record
from persistence.postgres.diagrams import delete_diagrams, restore
from persistence.postgres.quotas import lock_usage
from persistence.postgres.threat_models import get
from tmi.domain.children import event_of
from tmi.domain.errors import Conflict, NotFound
from tmi.domain.events import Deed, Event, forgotten
from tmi.domain.ids import DiagramId, ThreatModelId
from tmi.domain.kinds import THREAT
from tmi.domain.model import Diagram, ThreatModel

LOCK_MODEL = "SELECT deleted_at FROM threat_models WHERE id = $1 FOR UPDATE"
UNMARK_MODEL = """
UPDATE threat_models SET deleted_at = NULL, version = version + 1, modified_at = clock_timestamp()
WHERE id = $1
"""
GONE_WITH_MODEL = """
SELECT id FROM diagrams WHERE threat_model_id = $1 AND deleted_at = $2 ORDER BY id FOR UPDATE
"""

LOCK_DIAGRAM = """
SELECT d.deleted_at, t.deleted_at IS NOT NULL AS model_is_deleted
FROM diagrams d JOIN threat_models t ON t.id = d.threat_model_id
WHERE d.id = $1 AND d.threat_model_id = $2 FOR UPDATE OF d
"""

OLD_MODELS = """
SELECT id FROM threat_models WHERE deleted_at < $1 ORDER BY deleted_at LIMIT $2 FOR UPDATE SKIP LOCKED
"""
DIAGRAMS_OF = "SELECT id FROM diagrams WHERE threat_model_id = ANY($1::uuid[]) ORDER BY id FOR UPDATE"
DELETE_MODELS = "DELETE FROM threat_models WHERE id = ANY($1::uuid[])"

# The threat models first: what is locked of a row that is then skipped stays locked.
OLD_DIAGRAMS = """
SELECT d.id, d.threat_model_id FROM diagrams d JOIN threat_models t ON t.id = d.threat_model_id
WHERE d.deleted_at < $1 ORDER BY d.deleted_at LIMIT $2
FOR KEY SHARE OF t SKIP LOCKED FOR UPDATE OF d SKIP LOCKED
"""
OLD_CHILDREN = """
SELECT c.id, c.threat_model_id, c.kind FROM children c JOIN threat_models t ON t.id = c.threat_model_id
WHERE c.deleted_at < $1 ORDER BY c.deleted_at LIMIT $2
FOR KEY SHARE OF t SKIP LOCKED FOR UPDATE OF c SKIP LOCKED
"""
DELETE_CHILDREN = "DELETE FROM children WHERE id = ANY($1::uuid[])"
FORGET = f"""
WITH c AS (
    UPDATE children AS c
    SET fields = c.fields - $3, version = c.version + 1, modified_at = clock_timestamp()
    FROM (
        SELECT id FROM children
        WHERE threat_model_id = ANY($1::uuid[]) AND kind = 'threat' AND fields->>$3 = ANY($2::text[])
        ORDER BY id FOR NO KEY UPDATE
    ) t WHERE c.id = t.id
    RETURNING c.*
)
SELECT {COLUMNS}, c.content FROM c ORDER BY c.id
"""
"""Threats that name what is gone for good name nothing any more. Before that is deleted, since deletion locks
the usage of who is charged, which writers of children lock after those. Their events come last.
"""

DIAGRAMS_AT_ONCE = 10
"""Logs may be long: so many threat models or diagrams go in one transaction."""
EVENTS_AT_ONCE = 500
"""A diagram may be named by every threat of its threat model."""


class PostgresBin:
    """The port `Bin`."""

    def __init__(self, database: PostgresDatabase) -> None:
        self._database = database

    async def restore_model(self, model: ThreatModelId, deed: Deed) -> ThreatModel:
        """Raises NotFound, and Conflict if it is not deleted."""
        async with self._database.transaction() as connection:
            found = await connection.fetchrow(LOCK_MODEL, model)
            if found is None:
                raise NotFound("There is no such threat model.")
            if found["deleted_at"] is None:
                raise Conflict("the threat model is not deleted")
            await connection.execute(UNMARK_MODEL, model)
            gone = await connection.fetch(GONE_WITH_MODEL, model, found["deleted_at"])
            await restore(connection, [row["id"] for row in gone])
            restored = await get(connection, model)
            await events.write(connection, Event.of_model(deed, restored))
        return restored

    async def restore_diagram(self, model: ThreatModelId, diagram: DiagramId, deed: Deed) -> Diagram:
        """Raises NotFound, and Conflict if it is not deleted."""
        async with self._database.transaction() as connection:
            found = await connection.fetchrow(LOCK_DIAGRAM, diagram, model)
            if found is None:
                raise NotFound("There is no such diagram.")
            if found["deleted_at"] is None:
                raise Conflict("the diagram is not deleted")
            if found["model_is_deleted"]:
                raise Conflict("the diagram's threat model is deleted")
            (restored,) = await restore(connection, [diagram])
            await events.write(connection, Event.of_diagram(deed, restored))
        return restored

    async def purge(self, before: datetime, rows: int) -> int:
        """Delete for good what was deleted before then, in three transactions; returns how many went."""
        few = min(rows, DIAGRAMS_AT_ONCE)
        async with self._database.transaction() as connection:
            models = _ids(await connection.fetch(OLD_MODELS, before, few))
            if models:
                diagrams = _ids(await connection.fetch(DIAGRAMS_OF, models))
                await lock_usage(connection, models)
                await delete_diagrams(connection, diagrams)
                await connection.execute(DELETE_MODELS, models)
        async with self._database.transaction() as connection:
            found = await connection.fetch(OLD_DIAGRAMS, before, few)
            diagrams = _ids(found)
            if diagrams:
                told = await _forget(connection, "diagram_id", found)
                await delete_diagrams(connection, diagrams)
                await _tell(connection, told)
        async with self._database.transaction() as connection:
            children = await connection.fetch(OLD_CHILDREN, before, rows)
            told = await _forget(
                connection, "asset_id", [row for row in children if row["kind"] == "asset"]
            )
            await connection.execute(DELETE_CHILDREN, _ids(children))
            gone = {*_ids(children)}
            await _tell(connection, [event for event in told if event.object_id not in gone])
        return len(models) + len(diagrams) + len(children)


async def _forget(connection: PooledConnection, field: str, gone: Sequence[Record]) -> list[Event]:
    """Take out what names things that go; the events of that."""
    if not gone:
        return []
    models = {row["threat_model_id"] for row in gone}
    keys = [str(row["id"]) for row in gone]
    found = await connection.fetch(FORGET, list(models), keys, field)
    return [event_of(forgotten(field), child_of(row, THREAT)) for row in found]


async def _tell(connection: PooledConnection, told: Sequence[Event]) -> None:
    for first in range(0, len(told), EVENTS_AT_ONCE):
        await events.write(connection, *told[first : first + EVENTS_AT_ONCE])


def _ids(found: Sequence[Record]) -> list[UUID]:
    return [row["id"] for row in found]
