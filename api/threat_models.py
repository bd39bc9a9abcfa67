"""Threat models: create, list, get, put, patch, delete, restore."""

import asyncio
import random
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass

from quart import Blueprint, Response
from quart_schema import operation_id, tag

from api import audit, bodies, model_changes, patch, reads, rendering, schemas
from api.context import (
    allowed,
    caller,
    context,
    model_for,
    model_to_restore,
    parse_uuid,
    services,
)
from api.deeds import actor, deed
from api.documented import operation
from api.preconditions import etag, expected_version
from tmi.domain.errors import Conflict, LastOwner, NotFound, Unavailable
from tmi.domain.events import Actor, ChangeType, State
from tmi.domain.ids import DiagramId, ThreatModelId
from tmi.domain.model import AuditEntry, NewThreatModel, ThreatModel
from tmi.domain.ports import ThreatModelChange
from tmi.domain.roles import Action, Grant, Principal
from tmi.domain.versions import check_version

routes = Blueprint("threat_models", __name__)

TRIES = 10
"""How often a write without If-Match is put on top of one that came first on another node."""
PAUSE_MAX_S = 0.02
ROOMS_TOLD_WITHIN_S = 2.0
"""How long an answer waits for open rooms to follow a change of roles; they go on following after that."""


@routes.post("/threat_models")
@tag(["Threat models"])
@operation_id("createThreatModel")
@operation(
    body=schemas.ThreatModelInput,
    answers={201: schemas.ThreatModelOutput},
    errors=(400, 401, 403, 413, 415, 503),
)
async def create_threat_model() -> Response:
    """Create a threat model

    The caller becomes its owner, besides those whom `authorization` names.
    """
    given = await bodies.read_model(schemas.ThreatModelInput)
    creator = caller().user
    own = Principal("user", creator.provider, creator.provider_id).key
    new = NewThreatModel(
        name=given.name,
        description=given.description,
        threat_model_framework=given.threat_model_framework or schemas.DEFAULT_FRAMEWORK,
        issue_uri=given.issue_uri or None,
        is_confidential=given.is_confidential,
        grants=tuple(g for g in patch.unique_grants(given.authorization) if g.principal.key != own),
        metadata=schemas.metadata_of(given.metadata),
    )
    model = await services().threat_models.create(creator, new, services().configuration.limits)
    return await _answer(model, 201, {"Location": schemas.location_of(model.id)})


@routes.get("/threat_models")
@tag(["Threat models"])
@operation_id("listThreatModels")
@operation(query=schemas.ThreatModelQuery, answers={200: schemas.ThreatModelList}, errors=(400, 401, 503))
async def list_threat_models() -> Response:
    """List the threat models on which the caller has a role, newest first

    Of those that are deleted, those that the caller owns.
    """
    query = bodies.read_query(schemas.ThreatModelQuery)
    return bodies.answer((await reads.models(services(), caller().user.id, query)).body)


@routes.get("/threat_models/<threat_model_id>")
@tag(["Threat models"])
@operation_id("getThreatModel")
@operation(answers={200: schemas.ThreatModelOutput}, errors=(400, 401, 403, 404, 503))
async def get_threat_model(threat_model_id: str) -> Response:
    """Get a threat model with what is in it

    Diagrams come without their cells, notes without their content; at most 1,000 of each kind.
    """
    model = ThreatModelId(parse_uuid(threat_model_id))
    found = await reads.model(services(), caller().user.id, model)
    if found is None:
        await model_for(threat_model_id, Action.READ)  # which says why
        raise NotFound("There is no such threat model.")
    return bodies.answer(found.body, 200, etag(found.version))


@routes.put("/threat_models/<threat_model_id>")
@tag(["Threat models"])
@operation_id("updateThreatModel")
@operation(
    body=schemas.ThreatModelInput,
    headers=schemas.IfMatch,
    answers={200: schemas.ThreatModelOutput},
    errors=(400, 401, 403, 404, 409, 413, 415, 428, 503),
)
async def put_threat_model(threat_model_id: str) -> Response:
    """Replace a threat model

    Without `authorization` access stays as it is, without `metadata` those do; to change access is for
    owners only.
    """
    model = await model_for(threat_model_id, Action.WRITE)
    given = await bodies.read_model(schemas.ThreatModelInput)
    write = _Write(model, lambda before: model_changes.of_put(before, given), ChangeType.UPDATED)
    return await _answer(await context().to_the_end(_written(write, expected_version())))


@routes.patch("/threat_models/<threat_model_id>")
@tag(["Threat models"])
@operation_id("patchThreatModel")
@operation(
    body=schemas.JsonPatch,
    media_types=(bodies.JSON_PATCH,),
    headers=schemas.IfMatch,
    answers={200: schemas.ThreatModelOutput},
    errors=(400, 401, 403, 404, 409, 413, 415, 428, 503),
)
async def patch_threat_model(threat_model_id: str) -> Response:
    """Change a threat model by JSON Patch

    Paths: `/name`, `/description`, `/threat_model_framework`, `/issue_uri`, `/status`, `/metadata` and what
    is in them; for owners only `/security_reviewer`, `/authorization`, `/authorization/-` and
    `/authorization/{i}`.
    """
    model = await model_for(threat_model_id, Action.WRITE)
    operations = (await bodies.read_model(schemas.JsonPatch, bodies.JSON_PATCH)).root
    needed = Action.SHARE if model_changes.touches_roles(operations) else Action.WRITE
    write = _Write(
        model, lambda before: model_changes.of_patch(before, operations), ChangeType.PATCHED, needed
    )
    return await _answer(await context().to_the_end(_written(write, expected_version())))


@routes.delete("/threat_models/<threat_model_id>")
@tag(["Threat models"])
@operation_id("deleteThreatModel")
@operation(headers=schemas.IfMatch, answers={204: None}, errors=(400, 401, 403, 404, 409, 503))
async def delete_threat_model(threat_model_id: str) -> Response:
    """Delete a threat model with everything in it

    It can be restored for a time. Open editors of its diagrams are closed.
    """
    model = await model_for(threat_model_id, Action.DELETE_MODEL)
    await context().to_the_end(_delete(model, actor(), expected_version(of_deletion=True)))
    return bodies.no_content()


@routes.post("/threat_models/<threat_model_id>/restore")
@tag(["Threat models"])
@operation_id("restoreThreatModel")
@operation(answers={200: schemas.ThreatModelOutput}, errors=(400, 401, 403, 404, 409, 503))
async def restore_threat_model(threat_model_id: str) -> Response:
    """Restore a deleted threat model with what was deleted together with it

    For owners and administrators.
    """
    model = await model_to_restore(threat_model_id, deleted=True)
    work = services().bin.restore_model(model, deed(ChangeType.RESTORED))
    return await _answer(await context().to_the_end(work))


@dataclass(frozen=True, slots=True)
class _Write:
    """A write of a threat model."""

    model: ThreatModelId
    make: Callable[[ThreatModel], ThreatModelChange]
    change: ChangeType
    needed: Action = Action.WRITE


async def rolled_back(model: ThreatModelId, past: State) -> ThreatModel:
    """Make a threat model what it was. Raises Conflict while others keep changing it."""
    write = _Write(model, lambda before: model_changes.of_roll_back(before, past), ChangeType.ROLLED_BACK)
    return await _written(write, None)


async def _written(write: _Write, expected: int | None) -> ThreatModel:
    """The threat model after a write is committed and open rooms know of changed roles.

    Writers on this node stand in a queue; those of others are noticed by the version.
    """
    async with context().queue_of(write.model):
        for tries_left in reversed(range(TRIES)):
            before = await services().threat_models.get(write.model)
            # Read after the version that the update expects: the role is the one under which it is committed,
            # also when another owner's write came in between.
            role = await services().access.to_threat_model(caller().user.id, write.model)
            allowed(role, write.needed)
            check_version(expected, before.version, "threat model")
            change = write.make(before)
            if change.grants is not None:
                allowed(role, Action.SHARE)
            try:
                return await _update(write, before, change)
            except LastOwner:
                raise
            except Conflict:
                if expected is not None or not tries_left:
                    raise
                # Whoever writes on other nodes does so as quickly: not all at the same moments.
                await asyncio.sleep(random.uniform(0, PAUSE_MAX_S))  # noqa: S311
    raise Conflict("others keep changing it; try again")


async def _update(write: _Write, before: ThreatModel, change: ThreatModelChange) -> ThreatModel:
    done, model = deed(write.change), write.model
    if change.grants is None:
        return await services().threat_models.update(model, before.version, change, None, done)
    made = _roles_changed(model, before.grants, change.grants)
    diagrams = await services().diagrams.ids_of(model)
    after = await services().threat_models.update(model, before.version, change, made, done)
    audit.logged(made)
    await _tell_rooms(model, diagrams)
    return after


def _roles_changed(model: ThreatModelId, before: Sequence[Grant], after: Sequence[Grant]) -> AuditEntry:
    """The audit entry of a changed authorization list: what went, and what came."""
    old, new = [_line(grant) for grant in before], [_line(grant) for grant in after]
    return audit.entry(
        "roles.changed",
        f"threat model {model}",
        old=", ".join(line for line in old if line not in new),
        new=", ".join(line for line in new if line not in old),
    )


def _line(grant: Grant) -> str:
    return f"{':'.join(grant.principal.key)}={grant.role.label}"


async def _tell_rooms(model: ThreatModelId, diagrams: Sequence[DiagramId]) -> None:
    """Have open rooms read roles again. The change is committed, so nothing here may fail the request."""
    with suppress(Unavailable):
        # Again, for a diagram that was made while the change was under way.
        diagrams = await services().diagrams.ids_of(model)
    following = context().in_background(services().rooms.rights.access_changed(diagrams))
    await asyncio.wait([following], timeout=ROOMS_TOLD_WITHIN_S)


async def _delete(model: ThreatModelId, by: Actor, expected: int | None) -> None:
    services().rooms.rights.deleted(await services().threat_models.delete(model, by, expected=expected))


async def _answer(model: ThreatModel, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    """A threat model with what is in it."""
    contents = await services().reads.contents(model.id, reads.MOST_SHOWN)
    body = rendering.whole(model, contents)
    return bodies.answer(body, status, {**etag(model.version), **(headers or {})})
