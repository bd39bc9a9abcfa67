"""Access control on PostgreSQL; the view `user_grants` (migration 0002) says whom a grant means."""

from collections.abc import Mapping, Sequence

from persistence.postgres.database import PostgresDatabase, Record
from tmi.domain.errors import NotFound
from tmi.domain.ids import DiagramId, ThreatModelId, UserId
from tmi.domain.ports import Access, Entrant, Standing
from tmi.domain.roles import Role

TO_DIAGRAM = """
SELECT d.threat_model_id,
       (SELECT max(g.role) FROM user_grants g
        WHERE g.user_id = $1 AND g.threat_model_id = d.threat_model_id) AS role
FROM diagrams d WHERE d.id = $2 AND d.deleted_at IS NULL
"""

TO_THREAT_MODEL = """
SELECT (SELECT max(g.role) FROM user_grants g WHERE g.user_id = $1 AND g.threat_model_id = t.id) AS role
FROM threat_models t WHERE t.id = $2 AND ($3 OR t.deleted_at IS NULL)
"""

TO_THREAT_MODELS = """
SELECT (SELECT max(g.role) FROM user_grants g
        WHERE g.user_id = a.user_id AND g.threat_model_id = t.id) AS role
FROM unnest($1::uuid[], $2::uuid[]) WITH ORDINALITY AS a (user_id, threat_model_id, place)
LEFT JOIN threat_models t ON t.id = a.threat_model_id AND t.deleted_at IS NULL
ORDER BY a.place
"""

TO_DIAGRAM_OF_ALL = """
SELECT g.user_id, max(g.role) AS role
FROM diagrams d
LEFT JOIN user_grants g ON g.threat_model_id = d.threat_model_id AND g.user_id = ANY($1::uuid[])
WHERE d.id = $2 AND d.deleted_at IS NULL
GROUP BY g.user_id
"""

STANDINGS = """
SELECT s.id IS NOT NULL AS signed_in, d.threat_model_id,
       (SELECT u.provider FROM users u WHERE u.id = s.user_id) AS provider,
       (SELECT max(g.role) FROM user_grants g
        WHERE g.user_id = a.user_id AND g.threat_model_id = d.threat_model_id) AS role
FROM unnest($1::uuid[], $2::uuid[], $3::uuid[]) WITH ORDINALITY AS a (user_id, sign_in_id, diagram_id, place)
LEFT JOIN sign_ins s
    ON s.id = a.sign_in_id AND s.user_id = a.user_id AND s.ended_at IS NULL AND s.expires_at > now()
LEFT JOIN diagrams d ON d.id = a.diagram_id AND d.deleted_at IS NULL
ORDER BY a.place
"""


class PostgresAccessControl:
    """The port `AccessControl`."""

    def __init__(self, database: PostgresDatabase) -> None:
        self._database = database

    async def to_diagram(self, user: UserId, diagram: DiagramId) -> Access:
        """The user's access to a diagram. Raises NotFound."""
        found = await self._database.read(TO_DIAGRAM, user, diagram)
        if not found:
            raise NotFound("There is no such diagram.")
        return Access(ThreatModelId(found[0]["threat_model_id"]), _role(found[0]["role"]))

    async def to_threat_model(
        self, user: UserId, model: ThreatModelId, *, deleted: bool = False
    ) -> Role | None:
        """The user's role on a threat model (`deleted`: on one that may be deleted). Raises NotFound."""
        found = await self._database.read(TO_THREAT_MODEL, user, model, deleted)
        if not found:
            raise NotFound("There is no such threat model.")
        return _role(found[0]["role"])

    async def to_threat_models(
        self, pairs: Sequence[tuple[UserId, ThreatModelId]]
    ) -> Sequence[Role | None]:
        """The role of each of many users on a threat model, in their order and in one query."""
        users, models = [user for user, _ in pairs], [model for _, model in pairs]
        return [_role(row["role"]) for row in await self._database.read(TO_THREAT_MODELS, users, models)]

    async def to_diagram_of_all(
        self, users: Sequence[UserId], diagram: DiagramId
    ) -> Mapping[UserId, Role | None]:
        """The roles of many users on one diagram, in one query. Raises NotFound."""
        found = await self._database.read(TO_DIAGRAM_OF_ALL, users, diagram)
        if not found:
            raise NotFound("There is no such diagram.")
        roles = {row["user_id"]: _role(row["role"]) for row in found}
        return {user: roles.get(user) for user in users}

    async def standings(self, entrants: Sequence[Entrant]) -> Sequence[Standing]:
        """How each of many entrants stands, in their order and in one query."""
        found = await self._database.read(
            STANDINGS,
            [entrant.user for entrant in entrants],
            [entrant.sign_in for entrant in entrants],
            [entrant.diagram for entrant in entrants],
        )
        return [_standing(row) for row in found]


def _standing(row: Record) -> Standing:
    model = row["threat_model_id"]
    key = None if model is None else ThreatModelId(model)
    return Standing(row["signed_in"], key, _role(row["role"]), row["provider"])


def _role(value: int | None) -> Role | None:
    return None if value is None else Role(value)
