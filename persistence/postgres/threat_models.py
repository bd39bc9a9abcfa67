"""Threat models on PostgreSQL. A list takes one statement, whatever its length."""

from collections.abc import Mapping, Sequence
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import orjson

from persistence.grants import unique, with_creator
from persistence.postgres import events, rows
from persistence.postgres.audit import write
from persistence.postgres.database import PooledConnection, PostgresDatabase, Record
from persistence.postgres.diagrams import mark_deleted
from persistence.postgres.quotas import hold_to_it
from tmi.domain.errors import Conflict, LastOwner, NotFound
from tmi.domain.events import (
    PATCHED_BY_SYSTEM,
    SYSTEM,
    Actor,
    ChangeType,
    Deed,
    Event,
    principal_state,
)
from tmi.domain.ids import DiagramId, ThreatModelId, UserId
from tmi.domain.model import AuditEntry, NewThreatModel, ThreatModel, ThreatModelSummary, User
from tmi.domain.ports import Page, ThreatModelChange, ThreatModelFilter
from tmi.domain.quotas import NO_LIMITS, Limits
from tmi.domain.roles import Grant, Principal, has_owner
from tmi.domain.versions import check_version

CREATE = """
WITH next AS (
    UPDATE threat_model_aliases SET last = last + 1 RETURNING last
)
INSERT INTO threat_models
    (id, alias, name, description, threat_model_framework, issue_uri, is_confidential, created_by, metadata)
SELECT $1, next.last, $2, $3, $4, $5, $6, $7, $8::text::jsonb FROM next
"""

GRANT = """
INSERT INTO grants
    (threat_model_id, position, principal_type, provider, provider_id, email, display_name, role)
SELECT $1, *
FROM unnest($2::int[], $3::text[], $4::text[], $5::text[], $6::text[], $7::text[], $8::smallint[])
"""

GRANTS_OF_NAME = """grants g
        WHERE g.provider = n.provider AND lower(g.provider_id COLLATE "C") = n.name
          AND g.principal_type = n.principal_type AND g.is_living
          AND (n.exactly IS NULL OR g.provider_id = n.exactly)"""
"""Of a name of the view user_names, by the index grants_listed alone."""

VISIBLE = f"""
WITH names AS MATERIALIZED (
    SELECT n.*, (SELECT count(DISTINCT g.model_alias) FROM {GRANTS_OF_NAME}) AS living
    FROM user_names n WHERE n.user_id = $1
), several AS MATERIALIZED (
    SELECT count(*) > 1 AS yes FROM names WHERE living > 0
), page AS MATERIALIZED (
    SELECT DISTINCT g.model_alias, g.id
    FROM names n CROSS JOIN LATERAL (
        SELECT DISTINCT ON (g.model_alias) g.model_alias, g.threat_model_id AS id
        FROM {GRANTS_OF_NAME}
        ORDER BY g.model_alias DESC
        LIMIT (SELECT CASE WHEN yes THEN $2::bigint + $3::bigint ELSE $2::bigint END FROM several)
        OFFSET (SELECT CASE WHEN yes THEN 0 ELSE $3::bigint END FROM several)
    ) g
    WHERE n.living > 0
    ORDER BY g.model_alias DESC
    LIMIT $2::bigint OFFSET (SELECT CASE WHEN yes THEN $3::bigint ELSE 0 END FROM several)
), counted AS (
    SELECT CASE WHEN (SELECT yes FROM several) THEN (
               SELECT count(DISTINCT g.model_alias)
               FROM names n CROSS JOIN LATERAL (SELECT g.model_alias FROM {GRANTS_OF_NAME} OFFSET 0) g)
           ELSE (SELECT coalesce(sum(living), 0) FROM names)::bigint END AS total
)"""
"""Newest first is the order of the index. Only for who has grants by several names, such as a group's, are
those of all names put together; each name gives as many as the page may need.
"""

MATCHING = """
WITH mine AS MATERIALIZED (
    SELECT threat_model_id, max(role) AS role FROM user_grants WHERE user_id = $1 GROUP BY threat_model_id
), matching AS MATERIALIZED (
    SELECT t.id, t.alias FROM threat_models t JOIN mine ON mine.threat_model_id = t.id WHERE {where}
), page AS MATERIALIZED (
    SELECT id FROM matching ORDER BY alias DESC LIMIT $2 OFFSET $3
), counted AS (
    SELECT count(*) AS total FROM matching
)"""

CONDITIONS = {
    "name": "strpos(lower(t.name), lower({0}::text)) > 0",
    "description": "strpos(lower(t.description), lower({0}::text)) > 0",
    "issue_uri": "strpos(lower(t.issue_uri), lower({0}::text)) > 0",
    "owner": """EXISTS (
        SELECT FROM grants g LEFT JOIN LATERAL (
            SELECT u.name, u.email FROM users u
            WHERE u.provider = g.provider AND u.provider_id = g.provider_id
            UNION ALL
            SELECT u.name, u.email FROM users u
            WHERE u.provider = g.provider AND u.email_verified
              AND lower(u.email COLLATE "C") = lower(g.provider_id COLLATE "C")) u ON true
        WHERE g.threat_model_id = t.id AND g.principal_type = 'user' AND g.role = 3
          AND (strpos(lower(coalesce(u.name, g.display_name)), lower({0}::text)) > 0
               OR strpos(lower(coalesce(u.email, g.email, g.provider_id)), lower({0}::text)) > 0))""",
    "security_reviewer": """(strpos(lower(t.security_reviewer->>'display_name'), lower({0}::text)) > 0
        OR strpos(lower(t.security_reviewer->>'email'), lower({0}::text)) > 0)""",
    "statuses": "t.status = ANY({0}::text[])",
    "created_after": "t.created_at > {0}::timestamptz",
    "created_before": "t.created_at < {0}::timestamptz",
    "modified_after": "t.modified_at > {0}::timestamptz",
    "modified_before": "t.modified_at < {0}::timestamptz",
    "status_updated_after": "coalesce(t.status_updated, t.created_at) > {0}::timestamptz",
    "status_updated_before": "coalesce(t.status_updated, t.created_at) < {0}::timestamptz",
}
"""By the fields of the filter; what is given is bound."""

REVIEWER_CONDITIONS = {
    "is:null": "t.security_reviewer IS NULL",
    "is:notnull": "t.security_reviewer IS NOT NULL",
}

OWNERS = """
        FROM grants g CROSS JOIN LATERAL (
            SELECT u.*, false AS is_by_email FROM users u
            WHERE u.provider = g.provider AND u.provider_id = g.provider_id
            UNION ALL
            SELECT u.*, true FROM users u
            WHERE u.provider = g.provider AND u.email_verified
              AND lower(u.email COLLATE "C") = lower(g.provider_id COLLATE "C")) u
        WHERE g.threat_model_id = t.id AND g.principal_type = 'user' AND g.role = 3
        ORDER BY g.position, u.is_by_email, u.created_at, u.id LIMIT 1"""
"""Each way of naming a user by its own index: by both in one condition, all users of a provider are read."""

COLUMNS = f"""t.id, t.alias, t.name, t.description, t.threat_model_framework, t.issue_uri, t.is_confidential,
       t.created_at, t.modified_at, t.version, t.status, t.status_updated, t.security_reviewer, t.metadata,
       t.deleted_at, {{grants}} AS grants,
       (SELECT json_object_agg(c.kind, c.living)::text
        FROM child_counters c WHERE c.threat_model_id = t.id) AS counts,
       (SELECT {rows.USER_AS_JSON} FROM users u WHERE u.id = t.created_by) AS created_by,
       (SELECT {rows.USER_AS_JSON} {OWNERS}) AS owner"""
"""`owner`: the first of the list's owners who has signed in; the creator, while that one is an owner."""

ALL_GRANTS = """(
           SELECT json_agg(json_build_array(
                      g.principal_type, g.provider, g.provider_id, g.email, g.display_name, g.role)
                  ORDER BY g.position)
           FROM grants g WHERE g.threat_model_id = t.id)"""

_WHOLE = f"SELECT {COLUMNS.format(grants=ALL_GRANTS + '::text')} FROM threat_models t"
MODEL = f"{_WHOLE} WHERE t.id = $1"
MODELS = f"{_WHOLE} WHERE t.id = ANY($1::uuid[]) ORDER BY t.id"

LIST = f"""{{which}}
SELECT counted.total, m.*
FROM counted LEFT JOIN LATERAL (
    SELECT {COLUMNS.format(grants='NULL::text')}
    FROM page JOIN threat_models t ON t.id = page.id {{also}}
) m ON true
ORDER BY m.alias DESC
"""
"""One statement with everything, since a round trip costs as much as what it asks for."""

UPDATE = f"""
UPDATE threat_models t
SET name = coalesce($3, name),
    description = CASE WHEN $5 THEN NULL ELSE coalesce($4, description) END,
    threat_model_framework = coalesce($6, threat_model_framework),
    issue_uri = CASE WHEN $8 THEN NULL ELSE coalesce($7, issue_uri) END,
    status = coalesce($9, status),
    status_updated = CASE WHEN $9 <> status THEN clock_timestamp() ELSE status_updated END,
    security_reviewer = CASE WHEN $11 THEN NULL ELSE coalesce($10::text::jsonb, security_reviewer) END,
    metadata = coalesce($12::text::jsonb, metadata),
    modified_at = clock_timestamp(),
    version = version + 1
WHERE id = $1 AND version = $2 AND deleted_at IS NULL
RETURNING {COLUMNS.format(grants=ALL_GRANTS + '::text')}
"""

LOCK = "SELECT version FROM threat_models WHERE id = $1 AND deleted_at IS NULL FOR UPDATE"
DIAGRAMS = """
SELECT id FROM diagrams WHERE threat_model_id = $1 AND deleted_at IS NULL ORDER BY alias FOR UPDATE
"""
MARK = """
UPDATE threat_models
SET deleted_at = clock_timestamp(), version = version + 1, modified_at = clock_timestamp()
WHERE id = $1 RETURNING deleted_at
"""


class PostgresThreatModels:
    """The port `ThreatModels`."""

    def __init__(self, database: PostgresDatabase) -> None:
        self._database = database

    async def create(
        self, creator: User, new: NewThreatModel, defaults: Limits = NO_LIMITS
    ) -> ThreatModel:
        """Store a threat model under the next alias, its creator the first owner. Raises BadInput and
        QuotaReached, and NotFound when the creator's account is gone.
        """
        grants = with_creator(creator, new.grants)
        key = ThreatModelId(uuid4())
        async with self._database.transaction() as connection:
            try:
                await connection.execute(
                    CREATE,
                    key,
                    new.name,
                    new.description,
                    new.threat_model_framework,
                    new.issue_uri,
                    new.is_confidential,
                    creator.id,
                    orjson.dumps(dict(new.metadata)).decode(),
                )
            except asyncpg.ForeignKeyViolationError:
                raise NotFound("The account is gone that this threat model would be of.") from None
            await hold_to_it(connection, key, defaults, "threat_models")
            await _store_grants(connection, key, grants)
            made = await get(connection, key)
            await events.write(connection, Event.of_model(Deed(Actor.of(creator), ChangeType.CREATED), made))
            return made

    async def visible_to(
        self, user: UserId, page: Page, wanted: ThreatModelFilter | None = None
    ) -> tuple[Sequence[ThreatModelSummary], int]:
        """A page, newest first, and the total."""
        statement, arguments = list_statement(wanted)
        found = await self._database.read(statement, user, page.limit, page.offset, *arguments)
        return [_summary(row) for row in found if row["id"] is not None], found[0]["total"]

    async def get(self, model: ThreatModelId) -> ThreatModel:
        """Raises NotFound."""
        found = await self._database.read(f"{MODEL} AND t.deleted_at IS NULL", model)
        if not found:
            raise NotFound("There is no such threat model.")
        return _summary(found[0]).model

    async def update(
        self,
        model: ThreatModelId,
        expected_version: int,
        change: ThreatModelChange,
        entry: AuditEntry | None = None,
        deed: Deed = PATCHED_BY_SYSTEM,
    ) -> ThreatModel:
        """Raises NotFound, Conflict, LastOwner, and BadInput for a principal named twice."""
        if change.grants is not None and not has_owner(unique(change.grants)):
            raise LastOwner
        async with self._database.transaction() as connection:
            updated = await connection.fetchrow(
                UPDATE,
                model,
                expected_version,
                change.name,
                change.description,
                change.clear_description,
                change.threat_model_framework,
                change.issue_uri,
                change.clear_issue_uri,
                change.status,
                _json(_reviewer_state(change.security_reviewer)),
                change.clear_security_reviewer,
                _json(change.metadata),
            )
            if updated is None:
                present = await get(connection, model)
                if present.deleted_at is not None:
                    raise NotFound("There is no such threat model.")
                raise Conflict(f"Version {expected_version} is not the present one, {present.version}.")
            if change.grants is not None:
                await connection.execute("DELETE FROM grants WHERE threat_model_id = $1", model)
                await _store_grants(connection, model, change.grants)
            if entry is not None:
                await write(connection, entry)
            is_shared = change.grants is not None
            changed = await get(connection, model) if is_shared else _summary(updated).model
            await events.write(connection, Event.of_model(deed, changed, change.fields))
            return changed

    async def delete(
        self, model: ThreatModelId, by: Actor = SYSTEM, *, expected: int | None = None
    ) -> Sequence[DiagramId]:
        """Delete with everything in it, so that it can be restored; returns the diagrams. Raises NotFound
        and VersionMismatch.

        Its diagrams are marked with the same moment, since rooms look at those alone. Its other children are
        reached by it only, and need no mark.
        """
        async with self._database.transaction() as connection:
            version = await connection.fetchval(LOCK, model)
            if version is None:
                raise NotFound("There is no such threat model.")
            check_version(expected, version, "threat model")
            diagrams = [DiagramId(row["id"]) for row in await connection.fetch(DIAGRAMS, model)]
            await mark_deleted(connection, diagrams, await connection.fetchval(MARK, model))
            deleted = await get(connection, model)
            await events.write(connection, Event.of_model(Deed(by, ChangeType.DELETED), deleted))
        return diagrams


def list_statement(wanted: ThreatModelFilter | None) -> tuple[str, Sequence[Any]]:
    """The statement that lists, and what to bind from its fourth parameter on."""
    if wanted is None or wanted == ThreatModelFilter():
        return LIST.format(which=VISIBLE, also="AND t.deleted_at IS NULL"), []
    parts = ["(t.deleted_at IS NULL OR mine.role = 3)" if wanted.deleted else "t.deleted_at IS NULL"]
    values: list[Any] = []
    for name, condition in CONDITIONS.items():
        value = getattr(wanted, name)
        if name == "security_reviewer" and value in REVIEWER_CONDITIONS:
            parts.append(REVIEWER_CONDITIONS[value])
        elif value is not None:
            values.append(value)
            parts.append(condition.format(f"${len(values) + 3}"))
    return LIST.format(which=MATCHING.format(where=" AND ".join(parts)), also=""), values


def _reviewer_state(reviewer: Principal | None) -> Mapping[str, Any] | None:
    return None if reviewer is None else principal_state(reviewer)


def _json(value: Mapping[str, Any] | None) -> str | None:
    return None if value is None else orjson.dumps(dict(value)).decode()


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


async def get(connection: PooledConnection, model: ThreatModelId) -> ThreatModel:
    """A threat model, deleted or not. Raises NotFound."""
    found = await connection.fetchrow(MODEL, model)
    if found is None:
        raise NotFound("There is no such threat model.")
    return _summary(found).model


async def get_all(connection: PooledConnection, models: Sequence[UUID]) -> Sequence[ThreatModel]:
    """Those of `models` that there are, deleted or not, in one statement."""
    return [_summary(row).model for row in await connection.fetch(MODELS, models)]


def _summary(row: Record) -> ThreatModelSummary:
    model = ThreatModel(
        id=ThreatModelId(row["id"]),
        alias=row["alias"],
        name=row["name"],
        description=row["description"],
        threat_model_framework=row["threat_model_framework"],
        issue_uri=row["issue_uri"],
        is_confidential=row["is_confidential"],
        owner=rows.user_of_json(row["owner"]),
        created_by=rows.user_of_json(row["created_by"]),
        grants=rows.grants_of_json(row["grants"]),
        created_at=row["created_at"],
        modified_at=row["modified_at"],
        version=row["version"],
        status=row["status"],
        status_updated=row["status_updated"],
        security_reviewer=_principal(row["security_reviewer"]),
        metadata=orjson.loads(row["metadata"]),
        deleted_at=row["deleted_at"],
    )
    return ThreatModelSummary(model, {} if row["counts"] is None else orjson.loads(row["counts"]))


def _principal(stored: str | None) -> Principal | None:
    return None if stored is None else Principal(**orjson.loads(stored))
