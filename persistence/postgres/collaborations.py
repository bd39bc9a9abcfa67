"""Collaboration sessions and their tickets on PostgreSQL.

A ticket is taken out by the one statement that deletes its row: of any number of redemptions at once, one
gets it.
"""

from collections.abc import Sequence
from datetime import timedelta
from uuid import uuid4

from persistence.postgres import audit
from persistence.postgres.database import PostgresDatabase, Record
from persistence.secrets import digest
from tmi.domain.errors import NotFound
from tmi.domain.ids import CollaborationId, DiagramId, SignInId, ThreatModelId, UserId
from tmi.domain.model import AuditEntry, Collaboration, Ticket

BEGIN = """
INSERT INTO collaborations AS c (id, diagram_id, host_id)
SELECT $1, d.id, $4 FROM diagrams d WHERE d.id = $3 AND d.threat_model_id = $2
ON CONFLICT (diagram_id) DO UPDATE SET host_id = coalesce(c.host_id, excluded.host_id)
RETURNING c.id
"""

COLUMNS = """
SELECT c.id, c.host_id, c.started_at, d.id AS diagram_id, d.name AS diagram_name,
       t.id AS threat_model_id, t.name AS threat_model_name
"""

GET = f"""
{COLUMNS}
FROM collaborations c JOIN diagrams d ON d.id = c.diagram_id JOIN threat_models t ON t.id = d.threat_model_id
WHERE c.id = $1
"""

OF_DIAGRAM = f"""
{COLUMNS}
FROM diagrams d JOIN threat_models t ON t.id = d.threat_model_id
LEFT JOIN collaborations c ON c.diagram_id = d.id
WHERE d.id = $2 AND t.id = $1
"""

VISIBLE_TO = f"""
{COLUMNS}
FROM collaborations c JOIN diagrams d ON d.id = c.diagram_id JOIN threat_models t ON t.id = d.threat_model_id
WHERE d.deleted_at IS NULL AND t.deleted_at IS NULL
  AND t.id IN (SELECT g.threat_model_id FROM user_grants g WHERE g.user_id = $1)
ORDER BY c.started_at DESC, c.id LIMIT $2
"""

END = "DELETE FROM collaborations WHERE id = $1 RETURNING id"

ISSUE = """
INSERT INTO tickets (ticket_hash, collaboration_id, user_id, sign_in_id, expires_at)
SELECT $1, c.id, $3, $4, now() + $5::interval FROM collaborations c WHERE c.id = $2
RETURNING ticket_hash
"""

REDEEM = """
DELETE FROM tickets k USING collaborations c, diagrams d
WHERE k.ticket_hash = $1 AND c.id = k.collaboration_id AND d.id = c.diagram_id
RETURNING k.user_id, k.sign_in_id, k.collaboration_id, d.threat_model_id, d.id AS diagram_id,
          k.expires_at > now() AS valid
"""


class PostgresCollaborations:
    """The port `Collaborations`."""

    def __init__(self, database: PostgresDatabase) -> None:
        self._database = database

    async def begin(
        self, model: ThreatModelId, diagram: DiagramId, host: UserId, entry: AuditEntry | None = None
    ) -> tuple[Collaboration, bool]:
        """The session of a diagram, and whether it was begun just now. Raises NotFound."""
        key = uuid4()
        async with self._database.transaction() as connection:
            found = await connection.fetchval(BEGIN, key, model, diagram, host)
            if found is None:
                raise NotFound("There is no such diagram.")
            row = await connection.fetchrow(GET, found)
            if entry is not None and found == key:
                await audit.write(connection, entry)
        assert row is not None
        return _collaboration(row), found == key

    async def of_diagram(self, model: ThreatModelId, diagram: DiagramId) -> Collaboration | None:
        """The session of a diagram, if there is one. Raises NotFound."""
        found = await self._database.read(OF_DIAGRAM, model, diagram)
        if not found:
            raise NotFound("There is no such diagram.")
        return None if found[0]["id"] is None else _collaboration(found[0])

    async def get(self, collaboration: CollaborationId) -> Collaboration:
        """Raises NotFound."""
        found = await self._database.read(GET, collaboration)
        if not found:
            raise NotFound("There is no such collaboration session.")
        return _collaboration(found[0])

    async def visible_to(self, user: UserId, limit: int) -> Sequence[Collaboration]:
        """The newest sessions of diagrams on whose threat model a user has a role."""
        return [_collaboration(row) for row in await self._database.read(VISIBLE_TO, user, limit)]

    async def end(self, collaboration: CollaborationId, entry: AuditEntry | None = None) -> bool:
        """End a session and forget its tickets. False if there was none."""
        async with self._database.transaction() as connection:
            was_there = await connection.fetchval(END, collaboration) is not None
            if was_there and entry is not None:
                await audit.write(connection, entry)
        return was_there


class PostgresTickets:
    """The port `Tickets`."""

    def __init__(self, database: PostgresDatabase) -> None:
        self._database = database

    async def issue(self, ticket: str, grant: Ticket, ttl: timedelta) -> None:
        """Remember a ticket. Raises NotFound when its collaboration session has ended."""
        found = await self._database.fetch(
            ISSUE, digest(ticket), grant.collaboration, grant.user, grant.sign_in, ttl
        )
        if not found:
            raise NotFound("There is no such collaboration session.")

    async def redeem(self, ticket: str) -> Ticket | None:
        """Take a ticket out, once."""
        found = await self._database.fetch(REDEEM, digest(ticket))
        if not found or not found[0]["valid"]:
            return None
        row = found[0]
        return Ticket(
            UserId(row["user_id"]),
            SignInId(row["sign_in_id"]),
            CollaborationId(row["collaboration_id"]),
            ThreatModelId(row["threat_model_id"]),
            DiagramId(row["diagram_id"]),
        )


def _collaboration(row: Record) -> Collaboration:
    return Collaboration(
        id=CollaborationId(row["id"]),
        threat_model_id=ThreatModelId(row["threat_model_id"]),
        threat_model_name=row["threat_model_name"],
        diagram_id=DiagramId(row["diagram_id"]),
        diagram_name=row["diagram_name"],
        host=None if row["host_id"] is None else UserId(row["host_id"]),
        started_at=row["started_at"],
    )
