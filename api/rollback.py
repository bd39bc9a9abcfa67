"""Bring an object back to what it was after an entry of its trail, as a new change like any other.

What is restored is what its authors write: roles on a threat model, that of the security reviewer included,
stay as they are now, or whoever was removed would come back with an old name. Cells are made to look like
they did by one edit of the live document, merged with what others do at that moment.
"""

import asyncio
from functools import partial
from typing import Any

from quart import Blueprint, Response
from quart_schema import operation_id, tag

from api import bodies, diagrams, schemas, threat_models
from api.context import context, model_for, services
from api.deeds import deed
from api.documented import operation
from api.errors import Gone
from api.trail import entries, entry_of
from crdt.reading import read_by_steps, read_meta
from rooms.editing import Edit
from tmi.domain.children import ChildChange, Draft, shown
from tmi.domain.errors import NotFound, Unavailable
from tmi.domain.events import ChangeType, Event, ObjectType, Recorded, State
from tmi.domain.ids import ChildId, DiagramId, Seq, ThreatModelId
from tmi.domain.kinds import BY_NAME
from tmi.domain.ports import Page
from tmi.domain.roles import Action

routes = Blueprint("rollback", __name__)

Json = Any

WAIT_S = 10.0
_NEWEST = Page(20, 0)

@routes.post("/threat_models/<threat_model_id>/audit_trail/<entry_id>/rollback")
@tag(["Audit trail"])
@operation_id("rollbackToVersion")
@operation(
    answers={200: schemas.RollbackOutput}, errors=(400, 401, 403, 404, 409, 410, 413, 429, 503)
)
async def roll_back(threat_model_id: str, entry_id: str) -> Response:
    """Bring an object back to what it was after an entry of the audit trail

    That is a new change with an entry of its own; nothing of the trail goes. Roles stay as they are. What is
    deleted has to be restored first. A diagram or an asset that is not there any more cannot be named again:
    `left_out` says which fields that concerns. The cells of a diagram are brought back if the entry tells of
    cells.
    """
    model = await model_for(threat_model_id, Action.WRITE)
    recorded = await entry_of(model, entry_id)
    if not recorded.is_kept:
        raise Gone
    restored, version, left_out = await context().to_the_end(_rolled_back(model, recorded))
    made = await _entry(recorded.event, version)
    (entry,) = await entries([made])
    answer = {"restored_entity": restored, "audit_entry": entry.model_dump(exclude_none=True)}
    return bodies.answer({**answer, "left_out": left_out} if left_out else answer)


async def _rolled_back(model: ThreatModelId, recorded: Recorded) -> tuple[Json, int, list[str]]:
    """What it is now, as `GET` shows it, its version, and the fields that could not be brought back."""
    event = recorded.event
    if event.object_type is ObjectType.DIAGRAM:
        return *await _diagram(model, event), []
    if event.state is None:
        raise Gone
    if event.object_type is ObjectType.THREAT_MODEL:
        after = await threat_models.rolled_back(model, event.state)
        return schemas.ThreatModelOutput.of(after).model_dump(exclude_none=True), after.version, []
    return await _child(model, event, event.state)


async def _child(model: ThreatModelId, event: Event, state: State) -> tuple[Json, int, list[str]]:
    kind = BY_NAME[event.object_type.value]
    draft = Draft.from_state(kind, state)
    change = ChildChange(ChildId(event.object_id), lambda _: draft, leaves_out_lost=True)
    (child,) = await services().children.change(model, kind, [change], deed(ChangeType.ROLLED_BACK))
    left_out = sorted(name for name in draft.references(kind) if name not in child.fields)
    return shown(child), child.version, left_out


async def _diagram(model: ThreatModelId, event: Event) -> tuple[Json, int]:
    diagram = (await services().diagrams.get(model, DiagramId(event.object_id))).id
    past: dict[str, Json] = dict(event.state or {})
    if event.seq is not None:
        past["cells"], past["meta"] = await _cells(diagram, event.seq)
    edit = Edit(model, diagram, deed(ChangeType.ROLLED_BACK), {"roll_back": past})
    edited = await services().editing.edit(edit)
    return diagrams.as_json(edited.diagram, edited.seq, edited.cells, edited.meta), edited.diagram.version


async def _cells(diagram: DiagramId, seq: Seq) -> tuple[list[Json], dict[str, Json]]:
    """The cells and the rest of a document as they were after an update. Raises Gone."""
    try:
        async with asyncio.timeout(WAIT_S), context().rebuilding:
            stored = await services().cell_edits.document(diagram, seq)
            slices = services().rooms.slices
            document = await slices.load(stored)
            return await slices.run(read_by_steps(document, partial(read_meta, document)))
    except NotFound:
        raise Gone from None
    except TimeoutError:
        raise Unavailable("too many diagrams are being rolled back; try again shortly") from None


async def _entry(event: Event, version: int) -> Recorded:
    """The entry of the rollback that made this version. Raises NotFound."""
    found, _ = await services().trail.of_object(
        event.threat_model, event.object_type, event.object_id, _NEWEST
    )
    for recorded in found:
        if recorded.event.change is ChangeType.ROLLED_BACK and recorded.event.version == version:
            return recorded
    raise NotFound("The rollback is made; its entry is among many that came after it.")
