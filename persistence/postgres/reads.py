"""What is read most, each in one statement that looks up the reader's role as well.

A statement costs some 80 us of this process and as much of the server's, whatever it asks, so a threat model
comes with everything in it: rows of one shape, told apart by their kind. Rows of children are passed on as
they are stored, with their fields as text. Who has no role gets no row, and nothing is looked at for them:
the role is an expression that is evaluated first (a one-time filter).
"""

from collections.abc import Collection, Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

import orjson

from persistence.postgres import rows
from persistence.postgres.children import COLUMNS, CONDITIONS, SORTS, child_of
from persistence.postgres.database import PostgresDatabase, Record
from persistence.postgres.threat_models import ALL_GRANTS, OWNERS
from tmi.domain.children import Child, ChildFilter, StoredChild
from tmi.domain.diagrams import DiagramImage
from tmi.domain.ids import ChildId, DiagramId, ThreatModelId, UserId
from tmi.domain.kinds import DIAGRAM_KIND, KINDS, Kind
from tmi.domain.model import Diagram, ThreatModel
from tmi.domain.ports import Contents, Page
from tmi.domain.roles import Principal

ROLE = """
WITH mine AS MATERIALIZED (
    SELECT max(g.role) AS role FROM user_grants g WHERE g.user_id = $1 AND g.threat_model_id = $2
)"""
MAY = "(SELECT role FROM mine) IS NOT NULL"
"""Every role may read."""

HEAD = f"""
SELECT 'threat_model' AS kind, t.id::text AS id, t.alias, json_build_object(
           'name', t.name, 'description', t.description, 'threat_model_framework', t.threat_model_framework,
           'issue_uri', t.issue_uri, 'is_confidential', t.is_confidential, 'status', t.status,
           'status_updated', t.status_updated, 'security_reviewer', t.security_reviewer,
           'grants', {ALL_GRANTS},
           'created_by', (SELECT {rows.USER_AS_JSON} FROM users u WHERE u.id = t.created_by),
           'owner', (SELECT {rows.USER_AS_JSON} {OWNERS})
       )::text AS fields, t.metadata::text AS metadata, false AS auto_generated,
       t.created_at::text AS created_at, t.modified_at::text AS modified_at, t.version
FROM threat_models t WHERE t.id = $2 AND t.deleted_at IS NULL AND {{may}}
"""

DIAGRAMS = """
SELECT 'diagram' AS kind, d.id::text AS id, d.alias, json_build_object(
           'name', d.name, 'type', d.type, 'description', d.description, 'image_svg', d.image_svg,
           'image_update_vector', d.image_update_vector, 'include_in_report', d.include_in_report,
           'timmy_enabled', d.timmy_enabled)::text AS fields, d.metadata::text AS metadata,
       false AS auto_generated, d.created_at::text AS created_at, d.modified_at::text AS modified_at,
       d.version
FROM diagrams d WHERE d.threat_model_id = {model} AND d.deleted_at IS NULL AND {may}
ORDER BY d.alias LIMIT {most}
"""

CHILD = """c.kind, c.id::text AS id, c.alias, c.fields::text AS fields, c.metadata::text AS metadata,
       c.auto_generated, c.created_at::text AS created_at, c.modified_at::text AS modified_at, c.version"""

CHILDREN = f"""
SELECT c.* FROM unnest({{kinds}}::text[]) AS k (kind)
CROSS JOIN LATERAL (
    SELECT {CHILD} FROM children c
    WHERE c.threat_model_id = {{model}} AND c.kind = k.kind AND c.deleted_at IS NULL
    ORDER BY c.alias LIMIT {{most}}
) c WHERE {{may}}
"""


def _contents(**places: str) -> str:
    return f"({DIAGRAMS.format(**places)}) UNION ALL ({CHILDREN.format(**places)})"


MODEL = f"""{ROLE}
({HEAD.format(may=MAY)}) UNION ALL {_contents(model="$2", most="$3", kinds="$4", may=MAY)}
"""

CONTENTS = _contents(model="$1", most="$2", kinds="$3", may="true")

PAGE = f"""{ROLE}
SELECT counted.total, c.*
FROM (SELECT coalesce({{total}}, 0) AS total FROM threat_models t
      WHERE t.id = $2 AND t.deleted_at IS NULL AND {MAY}) counted
LEFT JOIN LATERAL (
    SELECT page.place, {CHILD}
    FROM unnest(ARRAY(SELECT c.id FROM children c WHERE {{where}} ORDER BY {{order}} LIMIT $4 OFFSET $5))
         WITH ORDINALITY AS page (id, place)
    JOIN children c ON c.id = page.id
) c ON true
ORDER BY c.place
"""
"""A page's ids are found first, in the usual order in an index alone; then its rows."""

ALL_LIVING = "(SELECT living FROM child_counters WHERE threat_model_id = $2 AND kind = $3)"

ONE = f"""{ROLE}
SELECT {COLUMNS}, c.content
FROM children c JOIN threat_models t ON t.id = c.threat_model_id AND t.deleted_at IS NULL
WHERE c.id = $3 AND c.threat_model_id = $2 AND c.kind = $4 AND c.deleted_at IS NULL AND {MAY}
"""

NAMED = f"""
SELECT {COLUMNS} FROM children c
WHERE c.id = ANY($1::uuid[]) AND c.threat_model_id = $2 AND c.kind = $3 AND c.deleted_at IS NULL
ORDER BY c.alias
"""

_KINDS = [kind.name for kind in KINDS]


class PostgresReads:
    """The port `Reads`."""

    def __init__(self, database: PostgresDatabase) -> None:
        self._database = database

    async def model(
        self, user: UserId, model: ThreatModelId, most: int
    ) -> tuple[ThreatModel, Contents] | None:
        """A threat model with what is in it; None: not for this user."""
        found = await self._database.read(MODEL, user, model, most, _KINDS)
        if not found or found[0]["kind"] != "threat_model":
            return None
        return _model(found[0], model), _told(model, found[1:])

    async def page(
        self, user: UserId, model: ThreatModelId, kind: Kind, wanted: ChildFilter, page: Page
    ) -> tuple[Sequence[StoredChild], int] | None:
        """A page and the total; None: not for this user."""
        statement, arguments = page_statement(wanted)
        found = await self._database.read(
            statement, user, model, kind.name, page.limit, page.offset, *arguments
        )
        if not found:
            return None
        children = [StoredChild._make(tuple(row)[2:]) for row in found if row["place"] is not None]
        return children, found[0]["total"]

    async def child(self, user: UserId, model: ThreatModelId, kind: Kind, child: ChildId) -> Child | None:
        """A child; None: not for this user."""
        found = await self._database.read(ONE, user, model, child, kind.name)
        return child_of(found[0], kind) if found else None

    async def contents(self, model: ThreatModelId, most: int) -> Contents:
        """What is in a threat model, whoever asks."""
        return _told(model, await self._database.read(CONTENTS, model, most, _KINDS))

    async def named(self, model: ThreatModelId, kind: Kind, children: Collection[ChildId]) -> Sequence[Child]:
        """Those of these children that there are, whoever asks."""
        found = await self._database.read(NAMED, list(children), model, kind.name)
        return [child_of(row, kind, is_listed=True) for row in found]


def page_statement(wanted: ChildFilter) -> tuple[str, Sequence[Any]]:
    """The statement that reads a page, and what to bind from its sixth parameter on."""
    parts = ["c.threat_model_id = $2", "c.kind = $3", "c.deleted_at IS NULL"]
    parts += [CONDITIONS[name].format(f"${place}") for place, name in enumerate(wanted.conditions, 6)]
    where = " AND ".join(parts)
    direction = "DESC" if wanted.descending else "ASC"
    order = f"c.alias {direction}"
    if SORTS[wanted.sort_by] != "c.alias":
        order = f"{SORTS[wanted.sort_by]} {direction} NULLS LAST, {order}"
    total = f"(SELECT count(*) FROM children c WHERE {where})" if wanted.conditions else ALL_LIVING
    return PAGE.format(where=where, order=order, total=total), list(wanted.conditions.values())


def _told(model: ThreatModelId, found: Sequence[Record]) -> Contents:
    diagrams = [_diagram(row, model) for row in found if row["kind"] == DIAGRAM_KIND]
    return Contents(diagrams, [StoredChild._make(row) for row in found if row["kind"] != DIAGRAM_KIND])


def _model(row: Record, model: ThreatModelId) -> ThreatModel:
    told = orjson.loads(row["fields"])
    reviewer = told["security_reviewer"]
    return ThreatModel(
        id=model,
        alias=row["alias"],
        name=told["name"],
        description=told["description"],
        threat_model_framework=told["threat_model_framework"],
        issue_uri=told["issue_uri"],
        is_confidential=told["is_confidential"],
        owner=rows.user_of_json(told["owner"]),
        created_by=rows.user_of_json(told["created_by"]),
        grants=tuple(rows.grant(*grant) for grant in told["grants"] or ()),
        created_at=datetime.fromisoformat(row["created_at"]),
        modified_at=datetime.fromisoformat(row["modified_at"]),
        version=row["version"],
        status=told["status"],
        status_updated=_moment(told["status_updated"]),
        security_reviewer=None if reviewer is None else Principal(**reviewer),
        metadata=orjson.loads(row["metadata"]),
    )


def _diagram(row: Record, model: ThreatModelId) -> Diagram:
    told = orjson.loads(row["fields"])
    svg, vector = told.pop("image_svg"), told.pop("image_update_vector")
    return Diagram(
        id=DiagramId(UUID(row["id"])),
        threat_model_id=model,
        alias=row["alias"],
        created_at=datetime.fromisoformat(row["created_at"]),
        modified_at=datetime.fromisoformat(row["modified_at"]),
        version=row["version"],
        image=None if svg is None else DiagramImage(svg or None, vector),
        metadata=orjson.loads(row["metadata"]),
        **told,
    )


def _moment(text: str | None) -> datetime | None:
    return None if text is None else datetime.fromisoformat(text)
