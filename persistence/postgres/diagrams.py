"""Diagrams' metadata on PostgreSQL. A diagram is made with its fence row, and goes after it (see migration
0003).
"""

from collections.abc import Sequence
from uuid import UUID, uuid4

from persistence.postgres import rows
from persistence.postgres.database import PooledConnection, PostgresDatabase
from persistence.postgres.quotas import hold_to_it
from tmi.domain.errors import NotFound
from tmi.domain.ids import DiagramId, ThreatModelId
from tmi.domain.model import Diagram
from tmi.domain.ports import Page
from tmi.domain.quotas import NO_LIMITS, Limits

CREATE = """
WITH model AS (
    UPDATE threat_models SET last_diagram_alias = last_diagram_alias + 1 WHERE id = $2
    RETURNING id, last_diagram_alias
), d AS (
    INSERT INTO diagrams (id, threat_model_id, alias, name, type, description)
    SELECT $1, model.id, model.last_diagram_alias, $3, $4, $5 FROM model
    RETURNING *
), fence AS (
    INSERT INTO diagram_fences (diagram_id) SELECT d.id FROM d
)
SELECT d.id, d.threat_model_id, d.alias, d.name, d.type, d.description, d.created_at, d.modified_at, d.version
FROM d
"""

PAGE = """
SELECT d.id, d.threat_model_id, d.alias, d.name, d.type, d.description, d.created_at, d.modified_at, d.version
FROM diagrams d WHERE d.threat_model_id = $1 ORDER BY d.alias LIMIT $2 OFFSET $3
"""

TOTAL = """
SELECT (SELECT count(*) FROM diagrams d WHERE d.threat_model_id = t.id) AS total
FROM threat_models t WHERE t.id = $1
"""

GET = """
SELECT d.id, d.threat_model_id, d.alias, d.name, d.type, d.description, d.created_at, d.modified_at, d.version
FROM diagrams d WHERE d.id = $1 AND d.threat_model_id = $2
"""

LOCK = "SELECT id FROM diagrams WHERE id = $1 AND threat_model_id = $2 FOR UPDATE"

IDS = "SELECT id FROM diagrams WHERE threat_model_id = $1 ORDER BY alias LIMIT 10000"

LOCK_FENCES = """
SELECT diagram_id FROM diagram_fences WHERE diagram_id = ANY($1::uuid[]) ORDER BY diagram_id FOR UPDATE
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
    """The port `Diagrams`."""

    def __init__(self, database: PostgresDatabase) -> None:
        self._database = database

    async def create(
        self,
        model: ThreatModelId,
        name: str,
        type_: str,
        description: str | None,
        defaults: Limits = NO_LIMITS,
    ) -> Diagram:
        """Store a diagram under the next alias of its threat model. Raises NotFound and QuotaReached."""
        async with self._database.transaction() as connection:
            found = await connection.fetchrow(CREATE, uuid4(), model, name, type_, description)
            if found is None:
                raise NotFound("There is no such threat model.")
            await hold_to_it(connection, model, defaults, "diagrams")
        return rows.diagram(found)

    async def of_threat_model(self, model: ThreatModelId, page: Page) -> tuple[Sequence[Diagram], int]:
        """A page, oldest first, and the total. Raises NotFound."""
        total = await self._database.read(TOTAL, model)
        if not total:
            raise NotFound("There is no such threat model.")
        found = await self._database.read(PAGE, model, page.limit, page.offset)
        return [rows.diagram(row) for row in found], total[0]["total"]

    async def get(self, model: ThreatModelId, diagram: DiagramId) -> Diagram:
        """Raises NotFound, also when the diagram belongs to another threat model."""
        found = await self._database.read(GET, diagram, model)
        if not found:
            raise NotFound("There is no such diagram.")
        return rows.diagram(found[0])

    async def delete(self, model: ThreatModelId, diagram: DiagramId) -> None:
        """Delete a diagram with its log and snapshots. Raises NotFound."""
        async with self._database.transaction() as connection:
            found = await connection.fetchval(LOCK, diagram, model)
            if found is None:
                raise NotFound("There is no such diagram.")
            await delete_diagrams(connection, [diagram])

    async def ids_of(self, model: ThreatModelId) -> Sequence[DiagramId]:
        """Every diagram of a threat model, oldest first (at most 10,000)."""
        return [DiagramId(row["id"]) for row in await self._database.read(IDS, model)]


async def delete_diagrams(connection: PooledConnection, diagrams: Sequence[UUID]) -> None:
    """Delete diagrams in a transaction of the caller. Each statement sees what was committed before it
    began.
    """
    await connection.execute(LOCK_FENCES, diagrams)
    for statement in DELETE_DIAGRAMS:
        await connection.execute(statement, diagrams, timeout=DELETE_TIMEOUT_S)
