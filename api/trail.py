"""The audit trail: of a threat model with all that is in it, of one object, of all for administrators."""

import asyncio
from collections.abc import Sequence
from datetime import UTC, datetime
from uuid import UUID

from quart import Blueprint, Response
from quart_schema import operation_id, tag

from api import bodies, cursors, patch, schemas
from api.context import administrator, model_for, parse_uuid, services
from api.documented import operation
from tmi.domain.errors import NotFound
from tmi.domain.events import ChangeType, ObjectType, Recorded, told_until
from tmi.domain.ids import ChildId, DiagramId, EventId, ThreatModelId
from tmi.domain.kinds import BY_NAME
from tmi.domain.ports import EventFilter, EventPage, Page
from tmi.domain.roles import Action

routes = Blueprint("trail", __name__)

CHILDREN = (
    (ObjectType.DIAGRAM, "diagrams", "Diagram"),
    (ObjectType.THREAT, "threats", "Threat"),
    (ObjectType.ASSET, "assets", "Asset"),
    (ObjectType.DOCUMENT, "documents", "Document"),
    (ObjectType.NOTE, "notes", "Note"),
    (ObjectType.REPOSITORY, "repositories", "Repository"),
)
"""The kinds of child: their segment of the path, and their name in operation ids."""


@routes.get("/threat_models/<threat_model_id>/audit_trail")
@tag(["Audit trail"])
@operation_id("getThreatModelAuditTrail")
@operation(query=schemas.TrailQuery, answers={200: schemas.TrailPage}, errors=(400, 401, 403, 404, 503))
async def list_trail(threat_model_id: str) -> Response:
    """List what happened to a threat model and everything in it, newest first

    Edits of diagrams in open editors are shown once for each author and minute, when the minute is over.
    """
    model = await model_for(threat_model_id, Action.READ)
    query = bodies.read_query(schemas.TrailQuery)
    await _tell(model)
    page = await _page(_wanted(query, model), query)
    return bodies.answer(
        schemas.TrailPage(
            audit_entries=await entries(page.events),
            total=page.total,
            limit=query.limit,
            next_cursor=cursors.older(page.older),
            prev_cursor=cursors.newer(page.newer),
        )
    )


@routes.get("/threat_models/<threat_model_id>/audit_trail/<entry_id>")
@tag(["Audit trail"])
@operation_id("getAuditEntry")
@operation(answers={200: schemas.TrailEntry}, errors=(400, 401, 403, 404, 503))
async def get_entry(threat_model_id: str, entry_id: str) -> Response:
    """Get an entry of a threat model's trail"""
    model = await model_for(threat_model_id, Action.READ)
    (entry,) = await entries([await entry_of(model, entry_id)])
    return bodies.answer(entry)


def _add_child(object_type: ObjectType, segment: str, name: str) -> None:
    key_name = f"{object_type.value}_id"

    @tag(["Audit trail"])
    @operation_id(f"get{name}AuditTrail")
    @operation(query=schemas.PageQuery, answers={200: schemas.ObjectTrail}, errors=(400, 401, 403, 404, 503))
    async def list_child_trail(threat_model_id: str, **ids: str) -> Response:
        model = await model_for(threat_model_id, Action.READ)
        return await _of_object(model, object_type, parse_uuid(ids[key_name]))

    list_child_trail.__doc__ = f"List what happened to one of the {segment}, newest first"
    path = f"/threat_models/<threat_model_id>/{segment}/<{key_name}>/audit_trail"
    routes.add_url_rule(path, f"{segment}_trail", list_child_trail, methods=["GET"])


for _child in CHILDREN:
    _add_child(*_child)


async def _tell(model: ThreatModelId, diagram: DiagramId | None = None) -> None:
    """See to it that the trail has all edits of cells, or of one diagram's, up to the last full minute."""
    await services().cell_edits.tell_of(model, told_until(datetime.now(UTC)), diagram)


async def _of_object(model: ThreatModelId, object_type: ObjectType, key: UUID) -> Response:
    query = bodies.read_query(schemas.PageQuery)
    if object_type is ObjectType.DIAGRAM:
        await _tell(model, DiagramId(key))
    page = Page(query.limit, query.offset)
    found, total = await services().trail.of_object(model, object_type, key, page)
    if not total:
        await _find(model, object_type, key)
    shown = await entries(found)
    return bodies.answer(
        schemas.ObjectTrail(audit_entries=shown, total=total, limit=query.limit, offset=query.offset)
    )


async def _find(model: ThreatModelId, object_type: ObjectType, key: UUID) -> None:
    """Raises NotFound unless there is such an object: its trail may be past its retention."""
    kind = BY_NAME.get(object_type.value)
    if kind is None:
        await services().diagrams.get(model, DiagramId(key))
    else:
        await services().children.get(model, kind, ChildId(key))


async def entries(found: Sequence[Recorded]) -> list[schemas.TrailEntry]:
    """Events as JSON with what they changed, by one query for all."""
    changes = await services().trail.changes([recorded.number for recorded in found]) if found else {}
    shown = []
    for recorded in found:
        change = changes.get(recorded.number)
        steps = None if change is None else patch.made(change.before, change.after)
        omitted = [] if change is None else list(change.omitted)
        if change is not None and recorded.event.object_type is ObjectType.DIAGRAM and recorded.event.seq:
            omitted.append("cells")
        shown.append(schemas.TrailEntry.of(recorded, steps, omitted))
        # One of a hundred metadata takes 5 ms: rooms are not to wait for a page of them.
        await asyncio.sleep(0)
    return shown


async def entry_of(model: ThreatModelId, entry_id: str) -> Recorded:
    """An entry of a threat model's trail. Raises BadInput and NotFound."""
    found = await services().trail.get(EventId(parse_uuid(entry_id)))
    if found.event.threat_model != model:
        raise NotFound("There is no such audit entry.")
    return found


# --- for administrators -------------------------------------------------------------------------

# They see what was done to threat models in which they have no role, and not what is in them: no `changes`.


@routes.get("/admin/audit/threat_models")
@tag(["Administration"])
@operation_id("listAdminThreatModelAuditEntries")
@operation(
    query=schemas.AdminTrailQuery, answers={200: schemas.AdminTrailPage}, errors=(400, 401, 403, 404, 503)
)
async def list_all() -> Response:
    """List what happened to all threat models, newest first

    `cursor` takes `next_cursor` or `prev_cursor` of another page; `around` begins with the entry of this id.
    """
    await administrator()
    query = bodies.read_query(schemas.AdminTrailQuery)
    model = None if query.threat_model_id is None else ThreatModelId(parse_uuid(query.threat_model_id))
    page = await _page(_wanted(query, model, query.actor_provider), query, query.around)
    return bodies.answer(
        schemas.AdminTrailPage(
            entries=[schemas.TrailEntry.of(found) for found in page.events],
            total=page.total,
            limit=query.limit,
            next_cursor=cursors.older(page.older),
            prev_cursor=cursors.newer(page.newer),
        )
    )


@routes.get("/admin/audit/threat_models/<entry_id>")
@tag(["Administration"])
@operation_id("getAdminThreatModelAuditEntry")
@operation(answers={200: schemas.TrailEntry}, errors=(400, 401, 403, 404, 503))
async def get_any(entry_id: str) -> Response:
    """Get an entry of any threat model's trail"""
    await administrator()
    return bodies.answer(schemas.TrailEntry.of(await services().trail.get(EventId(parse_uuid(entry_id)))))


def _wanted(
    query: schemas.TrailQuery, model: ThreatModelId | None, provider: str | None = None
) -> EventFilter:
    return EventFilter(
        threat_model=model,
        object_type=None if query.object_type is None else ObjectType(query.object_type),
        change=None if query.change_type is None else ChangeType(query.change_type),
        email=query.actor_email,
        provider=provider,
        after=query.created_after,
        before=query.created_before,
    )


async def _page(wanted: EventFilter, query: schemas.TrailQuery, around: str | None = None) -> EventPage:
    newer, cursor = cursors.parsed(query.cursor)
    if around is not None:
        found = await services().trail.get(EventId(parse_uuid(around)))
        newer, cursor = False, found.number + 1
    return await services().trail.page(wanted, query.limit, cursor, newer=newer)
