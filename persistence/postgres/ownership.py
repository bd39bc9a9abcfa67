"""Who owns which room, in the rows that also decide who may write: nothing else is needed to find an owner.

Owners renew `seen_at` for all their rooms in one statement, and learn by it which fences have risen. Appends
leave it alone: they would each add a new version of the row to what is the hottest statement, and a node that
appends renews as well.

Rows are locked in the order of ids, as by appends and deletions: no deadlock. No lock outlives its statement,
so a paused node holds up nobody.
"""

from collections.abc import Collection, Mapping
from uuid import UUID

from persistence.postgres.database import PostgresDatabase, Record
from tmi.domain.errors import Conflict, NotFound, OwnedElsewhere
from tmi.domain.ids import DiagramId, Fence, NodeId
from tmi.domain.model import Node
from tmi.domain.ports import Tenure

CLAIM = """
UPDATE diagram_fences
SET fence = fence + 1, named_fence = fence + 1, owner = $2, owner_name = $3, owner_url = $4,
    claimed_at = now(), seen_at = now()
WHERE diagram_id = $1 AND ($5::bigint IS NULL OR fence = $5)
    AND NOT coalesce(named_fence = fence AND owner = ANY($6::text[]), false)
RETURNING fence
"""

FIND = """
SELECT fence, owner, owner_name, owner_url, coalesce(named_fence = fence, false) AS is_named,
       coalesce(extract(epoch FROM now() - greatest(seen_at, claimed_at)), 'infinity')::float8 AS unseen_s
FROM diagram_fences WHERE diagram_id = $1
"""

RENEW = """
WITH asked AS (
    SELECT * FROM unnest($1::uuid[], $2::bigint[]) AS a (diagram_id, fence)
), held AS MATERIALIZED (
    SELECT f.diagram_id
    FROM asked a JOIN diagram_fences f ON f.diagram_id = a.diagram_id AND f.fence = a.fence
    ORDER BY f.diagram_id
    FOR NO KEY UPDATE OF f
), seen AS (
    UPDATE diagram_fences f SET seen_at = now() FROM held h WHERE f.diagram_id = h.diagram_id
)
SELECT diagram_id FROM held
"""

RELEASE = """
UPDATE diagram_fences SET owner = NULL, owner_name = NULL, owner_url = NULL
WHERE diagram_id = $1 AND fence = $2 AND owner = $3
"""


class PostgresOwnership:
    """The port `Ownership`."""

    def __init__(self, database: PostgresDatabase) -> None:
        self._database = database

    async def claim(
        self, diagram: DiagramId, owner: Node, spared: Collection[NodeId] = (), after: Fence | None = None
    ) -> Fence:
        """Raise the fence. Raises NotFound, OwnedElsewhere (by a spared node) and Conflict."""
        names = [str(node) for node in spared]
        rows = await self._database.fetch(
            CLAIM, diagram, str(owner.id), owner.name, owner.url, after, names
        )  # fmt: skip
        if rows:
            return Fence(rows[0]["fence"])
        tenure = await self.find(diagram)
        if tenure.owner is not None and tenure.owner.id in spared:
            raise OwnedElsewhere(tenure.owner)
        raise Conflict("Another node has claimed the room first.")

    async def find(self, diagram: DiagramId) -> Tenure:
        """Who owns a room. Raises NotFound."""
        rows = await self._database.read(FIND, diagram)
        if not rows:
            raise NotFound("There is no such diagram.")
        row = rows[0]
        return Tenure(Fence(row["fence"]), _owner(row), row["owner"] is None, row["unseen_s"])

    async def renew(self, held: Mapping[DiagramId, Fence]) -> frozenset[DiagramId]:
        """Note that the owner lives, in one statement; returns the rooms whose fence still stands."""
        rows = await self._database.fetch(RENEW, list(held.keys()), list(held.values()))
        return frozenset(DiagramId(row["diagram_id"]) for row in rows)

    async def release(self, diagram: DiagramId, owner: NodeId, fence: Fence) -> None:
        """Let nobody own the room, unless it was claimed again since."""
        await self._database.fetch(RELEASE, diagram, fence, str(owner))


def _owner(row: Record) -> Node | None:
    if row["owner"] is None or not row["is_named"]:
        return None
    return Node(NodeId(UUID(row["owner"])), row["owner_name"], row["owner_url"])
