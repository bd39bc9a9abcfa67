"""Metadata on PostgreSQL: a jsonb in the row of what they belong to, so that keys are unique by construction,
and a change of them is a change of that row, under its lock and with its version.
"""

from collections.abc import Callable, Mapping

import orjson

from persistence.postgres import events, rows
from persistence.postgres.children import LOCK as LOCK_CHILD
from persistence.postgres.children import child_of
from persistence.postgres.database import PooledConnection, PostgresDatabase
from persistence.postgres.diagrams import LOCK as LOCK_DIAGRAM
from persistence.postgres.threat_models import LOCK as LOCK_MODEL
from persistence.postgres.threat_models import get as get_model
from tmi.domain.children import Entity, event_of
from tmi.domain.errors import NotFound
from tmi.domain.events import Deed, Event
from tmi.domain.kinds import BY_NAME, DIAGRAM_KIND

READ_OF_MODEL = "SELECT metadata FROM threat_models WHERE id = $1 AND deleted_at IS NULL"
READ_OF_DIAGRAM = """
SELECT metadata FROM diagrams WHERE id = $1 AND threat_model_id = $2 AND deleted_at IS NULL
"""
READ_OF_CHILD = """
SELECT metadata FROM children WHERE id = $1 AND threat_model_id = $2 AND kind = $3 AND deleted_at IS NULL
"""

_SET = "SET metadata = $2::text::jsonb, version = version + 1, modified_at = clock_timestamp() WHERE id = $1"
WRITE_OF_MODEL = f"UPDATE threat_models {_SET}"
WRITE_OF_DIAGRAM = f"UPDATE diagrams {_SET}"
WRITE_OF_CHILD = f"UPDATE children {_SET}"

CHANGED = ("metadata",)


class PostgresMetadata:
    """The port `Metadata`."""

    def __init__(self, database: PostgresDatabase) -> None:
        self._database = database

    async def of(self, entity: Entity) -> Mapping[str, str]:
        """Raises NotFound."""
        if entity.kind is None:
            found = await self._database.read(READ_OF_MODEL, entity.threat_model)
        elif entity.kind == DIAGRAM_KIND:
            found = await self._database.read(READ_OF_DIAGRAM, entity.id, entity.threat_model)
        else:
            found = await self._database.read(READ_OF_CHILD, entity.id, entity.threat_model, entity.kind)
        if not found:
            raise _not_found(entity)
        metadata: dict[str, str] = orjson.loads(found[0]["metadata"])
        return metadata

    async def change(
        self, entity: Entity, make: Callable[[Mapping[str, str]], Mapping[str, str]], deed: Deed
    ) -> Mapping[str, str]:
        """Change metadata under the lock of their entity. Raises NotFound and what `make` raises."""
        async with self._database.transaction() as connection:
            if entity.kind is None:
                return await _of_model(connection, entity, make, deed)
            if entity.kind == DIAGRAM_KIND:
                return await _of_diagram(connection, entity, make, deed)
            return await _of_child(connection, entity, make, deed)


Make = Callable[[Mapping[str, str]], Mapping[str, str]]


async def _of_model(
    connection: PooledConnection, entity: Entity, make: Make, deed: Deed
) -> Mapping[str, str]:
    if await connection.fetchval(LOCK_MODEL, entity.threat_model) is None:
        raise _not_found(entity)
    before = await get_model(connection, entity.threat_model)
    after = make(before.metadata)
    await connection.execute(WRITE_OF_MODEL, entity.threat_model, _json(after))
    changed = await get_model(connection, entity.threat_model)
    await events.write(connection, Event.of_model(deed, changed, CHANGED))
    return after


async def _of_diagram(
    connection: PooledConnection, entity: Entity, make: Make, deed: Deed
) -> Mapping[str, str]:
    found = await connection.fetchrow(LOCK_DIAGRAM, entity.id, entity.threat_model)
    if found is None:
        raise _not_found(entity)
    after = make(rows.diagram(found).metadata)
    await connection.execute(WRITE_OF_DIAGRAM, entity.id, _json(after))
    changed = await connection.fetchrow(LOCK_DIAGRAM, entity.id, entity.threat_model)
    assert changed is not None
    await events.write(connection, Event.of_diagram(deed, rows.diagram(changed), CHANGED))
    return after


async def _of_child(
    connection: PooledConnection, entity: Entity, make: Make, deed: Deed
) -> Mapping[str, str]:
    assert entity.kind is not None
    kind = BY_NAME[entity.kind]
    found = await connection.fetchrow(LOCK_CHILD, [entity.id], entity.threat_model, kind.name)
    if found is None or found["deleted_at"] is not None:
        raise _not_found(entity)
    before = child_of(found, kind)
    after = make(before.metadata)
    await connection.execute(WRITE_OF_CHILD, entity.id, _json(after))
    changed = await connection.fetchrow(LOCK_CHILD, [entity.id], entity.threat_model, kind.name)
    assert changed is not None
    await events.write(connection, event_of(deed, child_of(changed, kind), before))
    return after


def _json(metadata: Mapping[str, str]) -> str:
    return orjson.dumps(dict(metadata)).decode()


def _not_found(entity: Entity) -> NotFound:
    return NotFound(f"There is no such {entity.words}.")
