"""Diagrams' metadata on PostgreSQL. A diagram is made with its fence row, and goes after it (see migration
0003); while it is deleted and can be restored, it has none (see migration 0011).
"""

from collections.abc import Sequence
from datetime import datetime
from uuid import UUID, uuid4

import orjson

from persistence.postgres import events, rows
from persistence.postgres.database import PooledConnection, PostgresDatabase
from persistence.postgres.quotas import hold_to_it
from tmi.domain.diagrams import DiagramFields
from tmi.domain.errors import Conflict, NotFound
from tmi.domain.events import SYSTEM, Actor, ChangeType, Deed, Event
from tmi.domain.ids import DiagramId, Seq, ThreatModelId
from tmi.domain.model import Diagram
from tmi.domain.ports import Page
from tmi.domain.quotas import NO_LIMITS, Limits
from tmi.domain.versions import check_version

CREATE = """
WITH model AS (
    UPDATE threat_models SET last_diagram_alias = last_diagram_alias + 1
    WHERE id = $2 AND deleted_at IS NULL
    RETURNING id, last_diagram_alias
), d AS (
    INSERT INTO diagrams (id, threat_model_id, alias, name, type, description)
    SELECT $1, model.id, model.last_diagram_alias, $3, $4, $5 FROM model
    RETURNING *
), fence AS (
    INSERT INTO diagram_fences (diagram_id) SELECT d.id FROM d
)
SELECT d.id, d.threat_model_id, d.alias, d.name, d.type, d.description, d.created_at, d.modified_at,
    d.version, d.image_svg, d.image_update_vector, d.include_in_report, d.timmy_enabled, d.metadata,
    d.deleted_at
FROM d
"""

WHICH = """
SELECT ARRAY(SELECT d.id FROM diagrams d WHERE d.threat_model_id = t.id AND d.deleted_at IS NULL
             ORDER BY d.alias LIMIT $2 OFFSET $3) AS ids,
       coalesce((SELECT c.living FROM child_counters c
                 WHERE c.threat_model_id = t.id AND c.kind = 'diagram'), 0) AS total
FROM threat_models t WHERE t.id = $1 AND t.deleted_at IS NULL
"""

WHICH_OF_ALL = """
SELECT ARRAY(SELECT d.id FROM diagrams d WHERE d.threat_model_id = t.id
             ORDER BY d.alias LIMIT $2 OFFSET $3) AS ids,
       (SELECT count(*) FROM diagrams d WHERE d.threat_model_id = t.id) AS total
FROM threat_models t WHERE t.id = $1 AND t.deleted_at IS NULL
"""

ROWS = """
SELECT d.id, d.threat_model_id, d.alias, d.name, d.type, d.description, d.created_at, d.modified_at,
    d.version, d.image_svg, d.image_update_vector, d.include_in_report, d.timmy_enabled, d.metadata,
    d.deleted_at
FROM diagrams d WHERE d.id = ANY($1::uuid[]) ORDER BY d.alias
"""

GET = """
SELECT d.id, d.threat_model_id, d.alias, d.name, d.type, d.description, d.created_at, d.modified_at,
    d.version, d.image_svg, d.image_update_vector, d.include_in_report, d.timmy_enabled, d.metadata,
    d.deleted_at
FROM diagrams d WHERE d.id = $1 AND d.threat_model_id = $2 AND d.deleted_at IS NULL
"""

WRITE = """
UPDATE diagrams d SET name = $2, description = $3, image_svg = $4, image_update_vector = $5,
    include_in_report = $6, timmy_enabled = $7, metadata = $8::text::jsonb, version = d.version + 1,
    modified_at = clock_timestamp()
WHERE d.id = $1
RETURNING d.id, d.threat_model_id, d.alias, d.name, d.type, d.description, d.created_at, d.modified_at,
    d.version, d.image_svg, d.image_update_vector, d.include_in_report, d.timmy_enabled, d.metadata,
    d.deleted_at
"""

LOCK = f"{GET} FOR UPDATE"

IDS = """
SELECT id FROM diagrams WHERE threat_model_id = $1 AND deleted_at IS NULL ORDER BY alias LIMIT 10000
"""

LOCK_FENCES = """
SELECT diagram_id FROM diagram_fences WHERE diagram_id = ANY($1::uuid[]) ORDER BY diagram_id FOR UPDATE
"""

MARK = """
UPDATE diagrams d SET deleted_at = $2, deleted_fence = f.fence, version = version + 1,
                      modified_at = clock_timestamp()
FROM diagram_fences f WHERE f.diagram_id = d.id AND d.id = ANY($1::uuid[])
"""

NEW_FENCES = """
INSERT INTO diagram_fences (diagram_id, fence)
SELECT id, deleted_fence + 1 FROM diagrams WHERE id = ANY($1::uuid[]) ORDER BY id
"""

UNMARK = """
UPDATE diagrams SET deleted_at = NULL, version = version + 1, modified_at = clock_timestamp()
WHERE id = ANY($1::uuid[])
"""

DELETE_DIAGRAMS = (
    "DELETE FROM diagram_fences WHERE diagram_id = ANY($1::uuid[])",
    "DELETE FROM diagram_updates WHERE diagram_id = ANY($1::uuid[])",
    "DELETE FROM diagram_snapshots WHERE diagram_id = ANY($1::uuid[])",
    "DELETE FROM diagrams WHERE id = ANY($1::uuid[])",
)

DELETE_TIMEOUT_S = 60.0
"""A long log takes a while to delete."""


class PostgresDiagrams:
    """The ports `Diagrams` and `DiagramWrites`."""

    def __init__(self, database: PostgresDatabase) -> None:
        self._database = database

    async def create(
        self,
        model: ThreatModelId,
        name: str,
        type_: str,
        description: str | None,
        by: Actor = SYSTEM,
        defaults: Limits = NO_LIMITS,
    ) -> Diagram:
        """Store a diagram under the next alias of its threat model. Raises NotFound and QuotaReached."""
        async with self._database.transaction() as connection:
            found = await connection.fetchrow(CREATE, uuid4(), model, name, type_, description)
            if found is None:
                raise NotFound("There is no such threat model.")
            await hold_to_it(connection, model, defaults, "diagrams")
            made = rows.diagram(found)
            event = Event.of_diagram(Deed(by, ChangeType.CREATED), made, seq=Seq(0))
            await events.write(connection, event)
        return made

    async def of_threat_model(
        self, model: ThreatModelId, page: Page, *, deleted: bool = False
    ) -> tuple[Sequence[Diagram], int]:
        """A page, oldest first, and the total. Raises NotFound."""

        async def work(connection: PooledConnection) -> tuple[Sequence[Diagram], int]:
            which = WHICH_OF_ALL if deleted else WHICH
            found = await connection.fetchrow(which, model, page.limit, page.offset)
            if found is None:
                raise NotFound("There is no such threat model.")
            shown = await connection.fetch(ROWS, found["ids"]) if found["ids"] else []
            return [rows.diagram(row) for row in shown], found["total"]

        return await self._database.read_with(work)

    async def get(self, model: ThreatModelId, diagram: DiagramId) -> Diagram:
        """Raises NotFound, also when the diagram belongs to another threat model."""
        found = await self._database.read(GET, diagram, model)
        if not found:
            raise NotFound("There is no such diagram.")
        return rows.diagram(found[0])

    async def write(
        self,
        model: ThreatModelId,
        diagram: DiagramId,
        fields: DiagramFields,
        deed: Deed,
        *,
        expected: int | None = None,
        read: DiagramFields | None = None,
        seq: Seq | None = None,
    ) -> Diagram:
        """Raises NotFound, and Conflict when `expected` is not the present version."""
        async with self._database.transaction() as connection:
            found = await connection.fetchrow(LOCK, diagram, model)
            if found is None:
                raise NotFound("There is no such diagram.")
            before = rows.diagram(found)
            if expected is not None and before.version != expected:
                raise Conflict(f"Version {expected} is not the present one, {before.version}.")
            if read is not None:
                fields = fields.on_top_of(read, before.fields)
            image = fields.image
            (written,) = await connection.fetch(
                WRITE,
                diagram,
                fields.name,
                fields.description,
                None if image is None else image.svg or "",
                None if image is None else image.update_vector,
                fields.include_in_report,
                fields.timmy_enabled,
                orjson.dumps(dict(fields.metadata)).decode(),
            )
            after = rows.diagram(written)
            await events.write(connection, Event.of_diagram_write(deed, before, after, seq))
        return after

    async def delete(
        self,
        model: ThreatModelId,
        diagram: DiagramId,
        by: Actor = SYSTEM,
        *,
        expected: int | None = None,
    ) -> None:
        """Delete a diagram, so that it can be restored. Raises NotFound and VersionMismatch."""
        async with self._database.transaction() as connection:
            found = await connection.fetchrow(LOCK, diagram, model)
            if found is None:
                raise NotFound("There is no such diagram.")
            check_version(expected, rows.diagram(found).version, "diagram")
            at = await connection.fetchval("SELECT clock_timestamp()")
            await mark_deleted(connection, [diagram], at)
            (deleted,) = await connection.fetch(ROWS, [diagram])
            deed = Deed(by, ChangeType.DELETED)
            await events.write(connection, Event.of_diagram(deed, rows.diagram(deleted)))

    async def ids_of(self, model: ThreatModelId) -> Sequence[DiagramId]:
        """Every diagram of a threat model, oldest first (at most 10,000)."""
        return [DiagramId(row["id"]) for row in await self._database.read(IDS, model)]


async def mark_deleted(connection: PooledConnection, diagrams: Sequence[UUID], at: datetime) -> None:
    """Delete diagrams in a transaction of the caller, who holds their locks, so that they can be restored.

    Their fence rows go (see migration 0011): an append that is under way is waited for and kept, none begins
    after that, and their rooms can be neither claimed nor loaded.
    """
    await connection.execute(LOCK_FENCES, diagrams)
    await connection.execute(MARK, diagrams, at)
    await connection.execute("DELETE FROM diagram_fences WHERE diagram_id = ANY($1::uuid[])", diagrams)
    await connection.execute("DELETE FROM collaborations WHERE diagram_id = ANY($1::uuid[])", diagrams)


async def restore(connection: PooledConnection, diagrams: Sequence[UUID]) -> Sequence[Diagram]:
    """Restore diagrams in a transaction of the caller, who holds their locks. Whoever owned their rooms has a
    fence of before, and stays shut out.
    """
    await connection.execute(NEW_FENCES, diagrams)
    await connection.execute(UNMARK, diagrams)
    return [rows.diagram(row) for row in await connection.fetch(ROWS, diagrams)]


async def delete_diagrams(connection: PooledConnection, diagrams: Sequence[UUID]) -> None:
    """Delete diagrams in a transaction of the caller. Each statement sees what was committed before it
    began.
    """
    await connection.execute(LOCK_FENCES, diagrams)
    for statement in DELETE_DIAGRAMS:
        await connection.execute(statement, diagrams, timeout=DELETE_TIMEOUT_S)
