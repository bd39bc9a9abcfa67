"""Threat models: create, list, get, patch, delete."""

import asyncio
import re
from collections.abc import Sequence
from contextlib import suppress

from quart import Blueprint, Response, request
from quart_schema import operation_id, tag

from api import audit, bodies, patch, schemas
from api.context import allowed, caller, context, model_for, services
from api.documented import operation
from api.errors import PreconditionMismatch
from tmi.domain.errors import BadInput, Conflict, LastOwner, Unavailable
from tmi.domain.ids import DiagramId, ThreatModelId
from tmi.domain.model import AuditEntry, NewThreatModel, ThreatModel
from tmi.domain.ports import Page
from tmi.domain.roles import Action, Grant, Principal

routes = Blueprint("threat_models", __name__)

PATCH_TRIES = 3
"""How often a PATCH without If-Match is put on top of another write that came first."""
ROOMS_TOLD_WITHIN_S = 2.0
"""How long an answer waits for open rooms to follow a change of roles; they go on following after that."""

_IF_MATCH = re.compile(r'\*|(?:W/)?"?([0-9]{1,10})"?')


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
    )
    model = await services().threat_models.create(creator, new, services().configuration.limits)
    return _answer(model, 201, {"Location": schemas.location_of(model.id)})


@routes.get("/threat_models")
@tag(["Threat models"])
@operation_id("listThreatModels")
@operation(query=schemas.PageQuery, answers={200: schemas.ThreatModelList}, errors=(400, 401, 503))
async def list_threat_models() -> Response:
    """List the threat models on which the caller has a role, newest first"""
    query = bodies.read_query(schemas.PageQuery)
    found, total = await services().threat_models.visible_to(
        caller().user.id, Page(query.limit, query.offset)
    )
    items = [schemas.ThreatModelListItem.of(summary) for summary in found]
    return bodies.answer(
        schemas.ThreatModelList(threat_models=items, total=total, limit=query.limit, offset=query.offset)
    )


@routes.get("/threat_models/<threat_model_id>")
@tag(["Threat models"])
@operation_id("getThreatModel")
@operation(answers={200: schemas.ThreatModelOutput}, errors=(400, 401, 403, 404, 503))
async def get_threat_model(threat_model_id: str) -> Response:
    """Get a threat model"""
    model = await model_for(threat_model_id, Action.READ)
    return _answer(await services().threat_models.get(model))


@routes.patch("/threat_models/<threat_model_id>")
@tag(["Threat models"])
@operation_id("patchThreatModel")
@operation(
    body=schemas.JsonPatch,
    media_types=(bodies.JSON_PATCH,),
    headers=schemas.IfMatch,
    answers={200: schemas.ThreatModelOutput},
    errors=(400, 401, 403, 404, 409, 413, 415, 503),
)
async def patch_threat_model(threat_model_id: str) -> Response:
    """Change a threat model by JSON Patch

    Paths: `/name`, `/description`, `/authorization`, `/authorization/-` and `/authorization/{i}`; the last
    three for owners only.
    """
    model = await model_for(threat_model_id, Action.WRITE)
    operations = (await bodies.read_model(schemas.JsonPatch, bodies.JSON_PATCH)).root
    return _answer(await context().to_the_end(_patched(model, operations, _expected_version())))


@routes.delete("/threat_models/<threat_model_id>")
@tag(["Threat models"])
@operation_id("deleteThreatModel")
@operation(answers={204: None}, errors=(400, 401, 403, 404, 503))
async def delete_threat_model(threat_model_id: str) -> Response:
    """Delete a threat model with everything in it

    Open editors of its diagrams are closed.
    """
    model = await model_for(threat_model_id, Action.DELETE_MODEL)
    await context().to_the_end(_delete(model))
    return bodies.no_content()


async def _patched(
    model: ThreatModelId, operations: list[schemas.JsonPatchOperation], expected: int | None
) -> ThreatModel:
    """The threat model after the patch is committed and open rooms know of changed roles."""
    needed = Action.SHARE if patch.touches_authorization(operations) else Action.WRITE
    for tries_left in reversed(range(PATCH_TRIES)):
        before = await services().threat_models.get(model)
        # Read after the version that the update expects: the role is the one under which it is committed,
        # also when another owner's write came in between.
        allowed(await services().access.to_threat_model(caller().user.id, model), needed)
        if expected is not None and expected != before.version:
            raise PreconditionMismatch(f"the threat model is at version {before.version} now")
        change = patch.apply(before, operations)
        made = None if change.grants is None else _roles_changed(model, before.grants, change.grants)
        diagrams = await services().diagrams.ids_of(model) if change.grants is not None else ()
        try:
            after = await services().threat_models.update(model, before.version, change, made)
        except LastOwner:
            raise
        except Conflict:
            if expected is not None or not tries_left:
                raise
            continue
        if made is not None:
            audit.logged(made)
            await _tell_rooms(model, diagrams)
        return after
    raise Conflict("others keep changing it; try again")


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
    following = context().in_background(services().rooms.access_changed(diagrams))
    await asyncio.wait([following], timeout=ROOMS_TOLD_WITHIN_S)


async def _delete(model: ThreatModelId) -> None:
    services().rooms.deleted(await services().threat_models.delete(model))


def _expected_version() -> int | None:
    """The version of If-Match; None where any will do. Raises BadInput."""
    text = request.headers.get("If-Match")
    if text is None:
        return None
    match = _IF_MATCH.fullmatch(text.strip())
    if match is None:
        raise BadInput('If-Match takes a version, as in If-Match: "3"')
    return None if match[1] is None else int(match[1])


def _answer(model: ThreatModel, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    return bodies.answer(
        schemas.ThreatModelOutput.of(model), status, {"ETag": f'"{model.version}"', **(headers or {})}
    )
