"""Children of threat models on PostgreSQL: one table for all kinds (see migration 0011).

A change holds the locks of its rows, in the order of ids, while its new state is made from the one that they
have: so writers of one child stand in a queue, and none of them is lost or has to try again.
"""

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import orjson

from persistence.postgres import events
from persistence.postgres.database import PooledConnection, PostgresDatabase, Record
from tmi.domain.children import Child, ChildChange, ChildFilter, Draft, event_of, left_out, refuse
from tmi.domain.errors import Conflict, NotFound
from tmi.domain.events import ChangeType, Deed
from tmi.domain.ids import ChildId, ThreatModelId
from tmi.domain.kinds import DIAGRAM_KIND, SEVERITIES, Kind, Reference
from tmi.domain.ports import Page
from tmi.domain.versions import check_version

_HEAVY = 16 * 1024
"""Characters of a child and bytes of what changes it, from which on that is made in a thread."""

COLUMNS = """c.id, c.threat_model_id, c.kind, c.alias, c.fields, c.metadata, c.auto_generated, c.created_at,
       c.modified_at, c.deleted_at, c.version"""

# The order of locks: the threat model (shared, so that it is not deleted meanwhile), its children and
# diagrams by id, counters, the usage of who is charged, the trail. Whoever deletes a threat model has its row
# alone first, and so meets no writer on the way through the others.

CREATE = f"""
WITH counted AS (
    INSERT INTO child_counters AS n (threat_model_id, kind, last_alias)
    SELECT t.id, $2, $3 FROM threat_models t WHERE t.id = $1 AND t.deleted_at IS NULL FOR KEY SHARE
    ON CONFLICT (threat_model_id, kind) DO UPDATE SET last_alias = n.last_alias + $3
    RETURNING last_alias
), c AS (
    INSERT INTO children (id, threat_model_id, kind, alias, fields, content, metadata, auto_generated)
    SELECT u.id, $1, $2, counted.last_alias - $3 + u.place, u.fields, u.content, u.metadata, $8
    FROM counted,
         unnest($4::uuid[], $5::jsonb[], $6::text[], $7::jsonb[]) WITH ORDINALITY
         AS u (id, fields, content, metadata, place)
    RETURNING *
)
SELECT {COLUMNS}, c.content FROM c ORDER BY c.alias
"""

GET = f"""
SELECT {COLUMNS}, c.content FROM children c
WHERE c.id = $1 AND c.threat_model_id = $2 AND c.kind = $3 AND c.deleted_at IS NULL
"""

IN_MODEL = "WITH m AS MATERIALIZED (SELECT id FROM threat_models WHERE id = $2 FOR KEY SHARE)"

LOCK = f"""
{IN_MODEL}
SELECT {COLUMNS}, c.content FROM m JOIN children c ON c.threat_model_id = m.id
WHERE c.id = ANY($1::uuid[]) AND c.kind = $3
ORDER BY c.id FOR NO KEY UPDATE OF c
"""

UPDATE = f"""
WITH c AS (
    UPDATE children AS c
    SET fields = u.fields, content = u.content, metadata = u.metadata, version = c.version + 1,
        modified_at = clock_timestamp()
    FROM unnest($1::uuid[], $2::jsonb[], $3::text[], $4::jsonb[]) AS u (id, fields, content, metadata)
    WHERE c.id = u.id
    RETURNING c.*
)
SELECT {COLUMNS}, c.content FROM c
"""

MARK = f"""
WITH c AS (
    UPDATE children AS c
    SET deleted_at = CASE WHEN $2 THEN clock_timestamp() END, version = c.version + 1,
        modified_at = clock_timestamp()
    WHERE c.id = ANY($1::uuid[])
    RETURNING c.*
)
SELECT {COLUMNS}, c.content FROM c
"""

ALL_LIVING = "SELECT living FROM child_counters WHERE threat_model_id = $1 AND kind = $2"

WHICH = """
SELECT ARRAY(SELECT c.id FROM children c WHERE {where} ORDER BY {order} LIMIT $3 OFFSET $4) AS ids,
       {total} AS total
"""

ROWS = f"""
SELECT {COLUMNS} FROM unnest($1::uuid[]) WITH ORDINALITY AS u (id, place) JOIN children c USING (id)
ORDER BY u.place
"""

REFERRED = {
    DIAGRAM_KIND: f"""
{IN_MODEL}
SELECT d.id FROM m JOIN diagrams d ON d.threat_model_id = m.id
WHERE d.id = ANY($1::uuid[]) AND d.deleted_at IS NULL ORDER BY d.id FOR KEY SHARE OF d
""",
    "asset": f"""
{IN_MODEL}
SELECT c.id FROM m JOIN children c ON c.threat_model_id = m.id
WHERE c.id = ANY($1::uuid[]) AND c.kind = 'asset' AND c.deleted_at IS NULL ORDER BY c.id FOR KEY SHARE OF c
""",
}

CONDITIONS = {
    "name": "strpos(lower(c.fields->>'name'), lower({0}::text)) > 0",
    "description": "strpos(lower(c.fields->>'description'), lower({0}::text)) > 0",
    "threat_type": "c.fields->'threat_type' ?| {0}::text[]",
    "severity": "lower(c.fields->>'severity') = ANY({0}::text[])",
    "priority": "c.fields->>'priority' = ANY({0}::text[])",
    "status": "c.fields->>'status' = ANY({0}::text[])",
    "mitigated": "coalesce((c.fields->>'mitigated')::boolean, false) = {0}::boolean",
    "diagram_id": "c.fields->>'diagram_id' = {0}::text",
    "cell_id": "c.fields->>'cell_id' = {0}::text",
    "score_gt": "(c.fields->>'score')::float8 > {0}::float8",
    "score_ge": "(c.fields->>'score')::float8 >= {0}::float8",
    "score_lt": "(c.fields->>'score')::float8 < {0}::float8",
    "score_le": "(c.fields->>'score')::float8 <= {0}::float8",
    "score_eq": "(c.fields->>'score')::float8 = {0}::float8",
    "created_after": "c.created_at > {0}::timestamptz",
    "created_before": "c.created_at < {0}::timestamptz",
    "modified_after": "c.modified_at > {0}::timestamptz",
    "modified_before": "c.modified_at < {0}::timestamptz",
}
"""By parameter; what is given is bound."""

SORTS = {
    "created_at": "c.alias",
    "alias": "c.alias",
    "modified_at": "c.modified_at",
    "name": "lower(c.fields->>'name') COLLATE \"C\"",
    "severity": "array_position(ARRAY[{}], lower(c.fields->>'severity'))".format(
        ", ".join(f"'{word}'" for word in SEVERITIES)
    ),
    "score": "(c.fields->>'score')::float8",
    "priority": "c.fields->>'priority' COLLATE \"C\"",
    "status": "c.fields->>'status' COLLATE \"C\"",
    "mitigated": "coalesce((c.fields->>'mitigated')::boolean, false)",
}
"""Aliases rise with time, and an index knows them. What has no value comes last either way."""


class PostgresChildren:
    """The port `Children`."""

    def __init__(self, database: PostgresDatabase) -> None:
        self._database = database

    async def create(
        self, model: ThreatModelId, kind: Kind, drafts: Sequence[Draft], deed: Deed
    ) -> Sequence[Child]:
        """Store new children under the next aliases. Raises NotFound and BadInput."""
        if not drafts:
            return []
        async with self._database.transaction() as connection:
            made = await _create(connection, model, kind, {ChildId(uuid4()): d for d in drafts}, deed)
            await events.write(connection, *(event_of(deed, child) for child in made))
            return made

    async def page(
        self, model: ThreatModelId, kind: Kind, wanted: ChildFilter, page: Page
    ) -> tuple[Sequence[Child], int]:
        """A page and the total, by two statements."""
        which, arguments = _which(wanted)

        async def work(connection: PooledConnection) -> tuple[Sequence[Child], int]:
            found = await connection.fetchrow(which, model, kind.name, page.limit, page.offset, *arguments)
            assert found is not None
            rows = await connection.fetch(ROWS, found["ids"]) if found["ids"] else []
            return [child_of(row, kind, is_listed=True) for row in rows], found["total"] or 0

        return await self._database.read_with(work)

    async def get(self, model: ThreatModelId, kind: Kind, child: ChildId) -> Child:
        """Raises NotFound."""
        found = await self._database.read(GET, child, model, kind.name)
        if not found:
            raise NotFound(f"There is no such {kind.name}.")
        return child_of(found[0], kind)

    async def change(
        self, model: ThreatModelId, kind: Kind, changes: Sequence[ChildChange], deed: Deed
    ) -> Sequence[Child]:
        """Change children under their locks. Raises NotFound, BadInput and what a change raises."""
        async with self._database.transaction() as connection:
            needed = [change.id for change in changes if change.new is None]
            before = await _locked(connection, model, kind, [change.id for change in changes], needed)
            if any(child.deleted_at is not None for child in before.values()):
                raise NotFound(f"There is no such {kind.name}.")
            drafts = {c.id: await _made(c, before[c.id]) for c in changes if c.id in before}
            named = {key: draft.references(kind, before[key].draft) for key, draft in drafts.items()}
            lost = await _lost(connection, model, kind, named.values())
            without = {c.id: left_out(kind, c, named[c.id], lost) for c in changes if c.id in named}
            drafts = {key: draft.without(without[key]) for key, draft in drafts.items()}
            found = await connection.fetch(UPDATE, list(drafts), *_columns(kind, drafts.values()))
            after = {child.id: child for child in (child_of(row, kind) for row in found)}
            new = {c.id: c.new for c in changes if c.new is not None and c.id not in before}
            after |= {child.id: child for child in await _create(connection, model, kind, new, deed)}
            written = [event_of(deed, after[key], before[key], without[key]) for key in drafts]
            created = replace(deed, change=ChangeType.CREATED)
            written += [event_of(created, after[key]) for key in new]
            await events.write(connection, *written)
            return [after[change.id] for change in changes]

    async def mark(
        self,
        model: ThreatModelId,
        kind: Kind,
        children: Sequence[ChildId],
        deed: Deed,
        *,
        deleted: bool,
        expected: int | None = None,
    ) -> Sequence[Child]:
        """Delete or restore. Raises NotFound, Conflict for one that is not deleted, and VersionMismatch."""
        async with self._database.transaction() as connection:
            before = await _locked(connection, model, kind, children, children)
            for child in before.values():
                if deleted and child.deleted_at is not None:
                    raise NotFound(f"There is no such {kind.name}.")
                if not deleted and child.deleted_at is None:
                    raise Conflict(f"the {kind.name} is not deleted")
                check_version(expected, child.version, kind.name)
            found = await connection.fetch(MARK, list(before), deleted)
            after = {child.id: child for child in (child_of(row, kind) for row in found)}
            await events.write(connection, *(event_of(deed, after[key]) for key in children))
            return [after[key] for key in children]


async def _made(change: ChildChange, before: Child) -> Draft:
    """What a change makes, beside the event loop where it may take long: Markdown is judged as a whole, and
    the longest note takes seconds. Raises what the change raises.
    """
    weight = change.weight + sum(len(value) for value in before.fields.values() if isinstance(value, str))
    if weight < _HEAVY:
        return change.make(before)
    return await asyncio.to_thread(change.make, before)


def _which(wanted: ChildFilter) -> tuple[str, Sequence[Any]]:
    """The statement that finds a page's ids and the total, and what to bind from its fifth parameter on."""
    parts = ["c.threat_model_id = $1", "c.kind = $2"]
    if not wanted.deleted:
        parts.append("c.deleted_at IS NULL")
    for place, name in enumerate(wanted.conditions, 5):
        parts.append(CONDITIONS[name].format(f"${place}"))
    where = " AND ".join(parts)
    direction = "DESC" if wanted.descending else "ASC"
    order = f"{SORTS[wanted.sort_by]} {direction} NULLS LAST, c.alias {direction}"
    if SORTS[wanted.sort_by] == "c.alias":
        order = f"c.alias {direction}"
    is_all = not wanted.conditions and not wanted.deleted
    total = ALL_LIVING if is_all else f"SELECT count(*) FROM children c WHERE {where}"
    return WHICH.format(where=where, order=order, total=f"({total})"), list(wanted.conditions.values())


async def _create(
    connection: PooledConnection,
    model: ThreatModelId,
    kind: Kind,
    drafts: Mapping[ChildId, Draft],
    deed: Deed,
) -> list[Child]:
    """New children by their ids. Raises NotFound, BadInput and Conflict."""
    if not drafts:
        return []
    refuse(kind, await _lost(connection, model, kind, [d.references(kind) for d in drafts.values()]))
    columns = _columns(kind, drafts.values())
    try:
        found = await connection.fetch(
            CREATE, model, kind.name, len(drafts), list(drafts), *columns, deed.by_program
        )
    except asyncpg.UniqueViolationError:
        raise Conflict("an id is taken by something else") from None
    if not found:
        raise NotFound("There is no such threat model.")
    return [child_of(row, kind) for row in found]


async def _locked(
    connection: PooledConnection,
    model: ThreatModelId,
    kind: Kind,
    children: Sequence[ChildId],
    needed: Sequence[ChildId],
) -> dict[ChildId, Child]:
    """Those that there are, deleted ones too, under locks that last as long as the transaction. Raises
    NotFound where one of the needed is missing.
    """
    found = await connection.fetch(LOCK, list(children), model, kind.name)
    locked = {child.id: child for child in (child_of(row, kind) for row in found)}
    if any(key not in locked for key in needed):
        raise NotFound(f"There is no such {kind.name}.")
    return locked


async def _lost(
    connection: PooledConnection, model: ThreatModelId, kind: Kind, references: Iterable[Mapping[str, str]]
) -> dict[str, set[str]]:
    """By field, what is named and is not in the threat model; what is there is locked."""
    named: dict[str, set[str]] = {}
    for one in references:
        for name, key in one.items():
            named.setdefault(name, set()).add(key)
    lost = {}
    for name in sorted(named):
        shape = kind.field(name).shape
        assert isinstance(shape, Reference)
        found = await connection.fetch(REFERRED[shape.to], [UUID(key) for key in named[name]], model)
        there = {row["id"] for row in found}
        gone = {key for key in named[name] if UUID(key) not in there}
        if gone:
            lost[name] = gone
    return lost


def _columns(kind: Kind, drafts: Iterable[Draft]) -> tuple[list[str], list[str | None], list[str]]:
    """Fields, bulky fields and metadata as the statements take them."""
    drafts = list(drafts)
    return (
        [_json({k: v for k, v in draft.fields.items() if k != kind.apart}) for draft in drafts],
        [draft.fields.get(kind.apart) if kind.apart else None for draft in drafts],
        [_json(draft.metadata) for draft in drafts],
    )


def _json(value: Mapping[str, Any]) -> str:
    return orjson.dumps(dict(value)).decode()


def child_of(row: Record, kind: Kind, *, is_listed: bool = False) -> Child:
    """A row as a child; `is_listed`: without its bulky field."""
    fields = orjson.loads(row["fields"])
    if kind.apart and not is_listed:
        fields[kind.apart] = row["content"]
    return Child(
        id=ChildId(row["id"]),
        threat_model_id=ThreatModelId(row["threat_model_id"]),
        kind=row["kind"],
        alias=row["alias"],
        fields={f.name: fields[f.name] for f in kind.fields if f.name in fields},
        metadata=orjson.loads(row["metadata"]),
        auto_generated=row["auto_generated"],
        created_at=row["created_at"],
        modified_at=row["modified_at"],
        deleted_at=row["deleted_at"],
        version=row["version"],
    )
