"""Threat models on PostgreSQL. A list takes two queries, whatever its length."""

from collections.abc import Sequence
from typing import Any
from uuid import UUID, uuid4

from persistence.grants import unique, with_creator
from persistence.postgres import rows
from persistence.postgres.audit import write
from persistence.postgres.database import PooledConnection, PostgresDatabase, Record
from persistence.postgres.diagrams import delete_diagrams
from tmi.domain.errors import Conflict, LastOwner, NotFound
from tmi.domain.ids import DiagramId, ThreatModelId, UserId
from tmi.domain.model import AuditEntry, NewThreatModel, ThreatModel, ThreatModelSummary, User
from tmi.domain.ports import Page, ThreatModelChange
from tmi.domain.roles import Grant, has_owner

CREATE = """
WITH next AS (
    UPDATE threat_model_aliases SET last = last + 1 RETURNING last
)
INSERT INTO threat_models
    (id, alias, name, description, threat_model_framework, issue_uri, is_confidential, created_by)
SELECT $1, next.last, $2, $3, $4, $5, $6, $7 FROM next
"""

GRANT = """
INSERT INTO grants
    (threat_model_id, position, principal_type, provider, provider_id, email, display_name, role)
SELECT $1, *
FROM unnest($2::int[], $3::text[], $4::text[], $5::text[], $6::text[], $7::text[], $8::smallint[])
"""

VISIBLE = """
WITH mine AS MATERIALIZED (
    SELECT DISTINCT threat_model_id FROM user_grants WHERE user_id = $1
)
SELECT (SELECT count(*) FROM mine) AS total,
       ARRAY(SELECT t.id FROM threat_models t JOIN mine ON mine.threat_model_id = t.id
             ORDER BY t.alias DESC LIMIT $2 OFFSET $3) AS ids
"""

MODELS = """
SELECT t.id, t.alias, t.name, t.description, t.threat_model_framework, t.issue_uri, t.is_confidential,
       t.created_at, t.modified_at, t.version,
       (SELECT count(*) FROM diagrams d WHERE d.threat_model_id = t.id) AS diagram_count,
       ARRAY(SELECT ROW(g.principal_type, g.provider, g.provider_id, g.email, g.display_name, g.role)
             FROM grants g WHERE g.threat_model_id = t.id ORDER BY g.position) AS grants,
       (SELECT ROW(u.id, u.provider, u.provider_id, u.email, u.name, u.created_at, u.email_verified)
        FROM users u WHERE u.id = t.created_by) AS created_by,
       (SELECT ROW(u.id, u.provider, u.provider_id, u.email, u.name, u.created_at, u.email_verified)
        FROM grants g JOIN users u
            ON u.provider = g.provider
           AND (u.provider_id = g.provider_id
                OR (u.email_verified AND lower(u.email COLLATE "C") = lower(g.provider_id COLLATE "C")))
        WHERE g.threat_model_id = t.id AND g.principal_type = 'user' AND g.role = 3
        ORDER BY g.position, u.provider_id = g.provider_id DESC, u.created_at, u.id LIMIT 1
       ) AS owner
FROM threat_models t WHERE t.id = ANY($1::uuid[]) ORDER BY t.alias DESC
"""
"""One query with everything, since a round trip costs as much as what it asks for. `owner`: the first of the
list's owners who has signed in; the creator, while that one is an owner.
"""

UPDATE = """
UPDATE threat_models
SET name = coalesce($3, name),
    description = CASE WHEN $5 THEN NULL ELSE coalesce($4, description) END,
    modified_at = clock_timestamp(),
    version = version + 1
WHERE id = $1 AND version = $2
RETURNING id
"""

LOCK = "SELECT id FROM threat_models WHERE id = $1 FOR UPDATE"
DIAGRAMS = "SELECT id FROM diagrams WHERE threat_model_id = $1 ORDER BY alias"


class PostgresThreatModels:
    """The port `ThreatModels`."""

    def __init__(self, database: PostgresDatabase) -> None:
        self._database = database

    async def create(self, creator: User, new: NewThreatModel) -> ThreatModel:
        """Store a threat model under the next alias, its creator the first owner. Raises BadInput."""
        grants = with_creator(creator, new.grants)
        key = ThreatModelId(uuid4())
        async with self._database.transaction() as connection:
            await connection.execute(
                CREATE,
                key,
                new.name,
                new.description,
                new.threat_model_framework,
                new.issue_uri,
                new.is_confidential,
                creator.id,
            )
            await _store_grants(connection, key, grants)
            return await _get(connection, key)

    async def visible_to(self, user: UserId, page: Page) -> tuple[Sequence[ThreatModelSummary], int]:
        """A page, newest first, and the total."""

        async def work(connection: PooledConnection) -> tuple[Sequence[ThreatModelSummary], int]:
            found = await connection.fetchrow(VISIBLE, user, page.limit, page.offset)
            assert found is not None
            return await _summaries(connection, found["ids"]), found["total"]

        return await self._database.read_with(work)

    async def get(self, model: ThreatModelId) -> ThreatModel:
        """Raises NotFound."""
        return await self._database.read_with(lambda connection: _get(connection, model))

    async def update(
        self,
        model: ThreatModelId,
        expected_version: int,
        change: ThreatModelChange,
        entry: AuditEntry | None = None,
    ) -> ThreatModel:
        """Raises NotFound, Conflict, LastOwner, and BadInput for a principal named twice."""
        if change.grants is not None and not has_owner(unique(change.grants)):
            raise LastOwner
        async with self._database.transaction() as connection:
            updated = await connection.fetchval(
                UPDATE, model, expected_version, change.name, change.description, change.clear_description
            )
            if updated is None:
                present = await _get(connection, model)
                raise Conflict(f"Version {expected_version} is not the present one, {present.version}.")
            if change.grants is not None:
                await connection.execute("DELETE FROM grants WHERE threat_model_id = $1", model)
                await _store_grants(connection, model, change.grants)
            if entry is not None:
                await write(connection, entry)
            return await _get(connection, model)

    async def delete(self, model: ThreatModelId) -> Sequence[DiagramId]:
        """Delete with everything in it; returns the diagrams. Raises NotFound."""
        async with self._database.transaction() as connection:
            if await connection.fetchval(LOCK, model) is None:
                raise NotFound("There is no such threat model.")
            diagrams = [DiagramId(row["id"]) for row in await connection.fetch(DIAGRAMS, model)]
            await delete_diagrams(connection, diagrams)
            await connection.execute("DELETE FROM threat_models WHERE id = $1", model)
        return diagrams


async def _store_grants(connection: PooledConnection, model: ThreatModelId, grants: Sequence[Grant]) -> None:
    principals = [g.principal for g in grants]
    await connection.execute(
        GRANT,
        model,
        list(range(len(grants))),
        [p.principal_type for p in principals],
        [p.provider for p in principals],
        [p.provider_id for p in principals],
        [p.email for p in principals],
        [p.display_name for p in principals],
        [int(g.role) for g in grants],
    )


async def _get(connection: PooledConnection, model: ThreatModelId) -> ThreatModel:
    found = await _summaries(connection, [model])
    if not found:
        raise NotFound("There is no such threat model.")
    return found[0].model


async def _summaries(connection: PooledConnection, models: Sequence[UUID]) -> Sequence[ThreatModelSummary]:
    return [_summary(row) for row in await connection.fetch(MODELS, models)]


def _summary(row: Record) -> ThreatModelSummary:
    model = ThreatModel(
        id=ThreatModelId(row["id"]),
        alias=row["alias"],
        name=row["name"],
        description=row["description"],
        threat_model_framework=row["threat_model_framework"],
        issue_uri=row["issue_uri"],
        is_confidential=row["is_confidential"],
        owner=_user(row["owner"]),
        created_by=_user(row["created_by"]),
        grants=tuple(rows.grant(*grant) for grant in row["grants"]),
        created_at=row["created_at"],
        modified_at=row["modified_at"],
        version=row["version"],
    )
    return ThreatModelSummary(model, row["diagram_count"])


def _user(columns: Sequence[Any] | None) -> User | None:
    return None if columns is None else User(*columns)
