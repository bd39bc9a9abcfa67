"""Diagrams of a threat model: create, list, get with cells, put, patch, delete."""

from collections.abc import Mapping
from typing import Any
from uuid import UUID

from quart import Blueprint, Response
from quart_schema import operation_id, tag

from api import bodies, diagram_changes, edge, minimal, schemas
from api.context import (
    context,
    is_uuid,
    model_for,
    model_to_list,
    model_to_restore,
    parse_diagram_id,
    services,
)
from api.deeds import actor, deed
from api.documented import operation
from api.preconditions import expected_version
from rooms.editing import Edit
from tmi.domain.children import shown
from tmi.domain.events import Actor, ChangeType, Deed
from tmi.domain.ids import ChildId, DiagramId, ThreatModelId
from tmi.domain.kinds import ASSET
from tmi.domain.model import Diagram
from tmi.domain.ports import Page
from tmi.domain.roles import Action

routes = Blueprint("diagrams", __name__)

MAX_ASSETS = 1000
"""Shown with a diagram for analysis."""


@routes.post("/threat_models/<threat_model_id>/diagrams")
@tag(["Diagrams"])
@operation_id("createThreatModelDiagram")
@operation(
    body=schemas.DiagramInput,
    answers={201: schemas.DiagramOutput},
    errors=(400, 401, 403, 404, 413, 415, 503),
)
async def create_diagram(threat_model_id: str) -> Response:
    """Create an empty diagram"""
    model = await model_for(threat_model_id, Action.WRITE)
    given = await bodies.read_model(schemas.DiagramInput)
    limits = services().configuration.limits
    diagram = await services().diagrams.create(model, given.name, given.type, None, actor(), limits)
    location = f"{schemas.location_of(model)}/diagrams/{diagram.id}"
    return _answer(diagram, 0, [], {}, 201, {"Location": location})


@routes.get("/threat_models/<threat_model_id>/diagrams")
@tag(["Diagrams"])
@operation_id("getThreatModelDiagrams")
@operation(query=schemas.DeletedQuery, answers={200: schemas.DiagramList}, errors=(400, 401, 403, 404, 503))
async def list_diagrams(threat_model_id: str) -> Response:
    """List a threat model's diagrams, oldest first"""
    query = bodies.read_query(schemas.DeletedQuery)
    model = await model_to_list(threat_model_id, deleted=query.include_deleted)
    found, total = await services().diagrams.of_threat_model(
        model, Page(query.limit, query.offset), deleted=query.include_deleted
    )
    items = [schemas.DiagramListItem.of(diagram) for diagram in found]
    return bodies.answer(
        schemas.DiagramList(diagrams=items, total=total, limit=query.limit, offset=query.offset)
    )


@routes.get("/threat_models/<threat_model_id>/diagrams/<diagram_id>")
@tag(["Diagrams"])
@operation_id("getThreatModelDiagram")
@operation(answers={200: schemas.DiagramOutput}, errors=(400, 401, 403, 404, 503))
async def get_diagram(threat_model_id: str, diagram_id: str) -> Response:
    """Get a diagram with its cells, as its editors see them now"""
    model = await model_for(threat_model_id, Action.READ)
    diagram = await services().diagrams.get(model, parse_diagram_id(diagram_id))
    seen = await services().rooms.show(diagram.id)
    return _answer(diagram, seen.seq, seen.cells, seen.meta)


@routes.get("/threat_models/<threat_model_id>/diagrams/<diagram_id>/model")
@tag(["Diagrams"])
@operation_id("getDiagramModel")
@operation(
    query=schemas.FormatQuery,
    answers={200: schemas.MinimalDiagramModel},
    errors=(400, 401, 403, 404, 503),
    produces=(minimal.JSON, minimal.YAML, minimal.GRAPHML),
)
async def get_diagram_model(threat_model_id: str, diagram_id: str) -> Response:
    """Get a diagram for analysis: what is connected to what, without how it is drawn

    In JSON, YAML or GraphML, as `format` or else `Accept` says.
    """
    model = await model_for(threat_model_id, Action.READ)
    query = bodies.read_query(schemas.FormatQuery)
    diagram = await services().diagrams.get(model, parse_diagram_id(diagram_id))
    threat_model = await services().threat_models.get(model)
    cells = minimal.cells_of((await services().rooms.show(diagram.id)).cells)
    named = [ChildId(UUID(key)) for key in minimal.assets_of(cells) if is_uuid(key)][:MAX_ASSETS]
    found = await services().reads.named(model, ASSET, named) if named else ()
    assets = [shown(child) for child in found]
    body = {
        "id": model,
        "name": threat_model.name,
        "description": threat_model.description or "",
        "metadata": dict(threat_model.metadata),
        "cells": cells,
        "assets": assets,
    }
    media_type = minimal.FORMATS[query.format] if query.format else edge.preferred(minimal.FORMATS.values())
    if media_type == minimal.YAML:
        return Response(minimal.as_yaml(body), content_type="application/yaml; charset=utf-8")
    if media_type == minimal.GRAPHML:
        return Response(minimal.as_graphml(body), content_type=minimal.GRAPHML)
    return bodies.answer(body)


@routes.put("/threat_models/<threat_model_id>/diagrams/<diagram_id>")
@tag(["Diagrams"])
@operation_id("updateThreatModelDiagram")
@operation(
    body=schemas.DiagramUpdate,
    headers=schemas.IfMatch,
    answers={200: schemas.DiagramOutput},
    errors=(400, 401, 403, 404, 409, 413, 415, 428, 429, 503),
)
async def put_diagram(threat_model_id: str, diagram_id: str) -> Response:
    """Make a diagram look like this

    Its open editors see it as one change, merged property by property with what they do at that moment. What
    is left out gets its default, but for metadata, which stay.
    """
    model = await model_for(threat_model_id, Action.WRITE)
    expected = expected_version()
    given = await bodies.read_model(schemas.DiagramUpdate)
    if given.version is not None and expected is None:
        expected = given.version
    return await _edited(
        model, diagram_id, deed(ChangeType.UPDATED), diagram_changes.of_put(given), expected
    )


@routes.patch("/threat_models/<threat_model_id>/diagrams/<diagram_id>")
@tag(["Diagrams"])
@operation_id("patchThreatModelDiagram")
@operation(
    body=schemas.JsonPatch,
    media_types=(bodies.JSON_PATCH,),
    headers=schemas.IfMatch,
    answers={200: schemas.DiagramOutput},
    errors=(400, 401, 403, 404, 409, 413, 415, 428, 429, 503),
)
async def patch_diagram(threat_model_id: str, diagram_id: str) -> Response:
    """Change a diagram by JSON Patch

    Paths: `/cells`, `/name`, `/description`, `/image`, `/color_palette` and what is in them,
    `/metadata` likewise, `/include_in_report` and `/timmy_enabled`. Cells are counted as `GET` shows them;
    the patch is applied, whole or not at all, to what the open editors see at that moment.
    """
    model = await model_for(threat_model_id, Action.WRITE)
    expected = expected_version()
    operations = (await bodies.read_model(schemas.JsonPatch, bodies.JSON_PATCH)).root
    return await _edited(
        model, diagram_id, deed(ChangeType.PATCHED), diagram_changes.of_patch(operations), expected
    )


async def _edited(
    model: ThreatModelId, diagram_id: str, by: Deed, change: Any, expected: int | None
) -> Response:
    edit = Edit(model, parse_diagram_id(diagram_id), by, change, expected)
    edited = await context().to_the_end(services().editing.edit(edit))
    return _answer(edited.diagram, edited.seq, edited.cells, edited.meta)


@routes.delete("/threat_models/<threat_model_id>/diagrams/<diagram_id>")
@tag(["Diagrams"])
@operation_id("deleteThreatModelDiagram")
@operation(headers=schemas.IfMatch, answers={204: None}, errors=(400, 401, 403, 404, 409, 503))
async def delete_diagram(threat_model_id: str, diagram_id: str) -> Response:
    """Delete a diagram

    It can be restored for a time. Its open editors are closed.
    """
    model = await model_for(threat_model_id, Action.DELETE_DIAGRAM)
    expected = expected_version(of_deletion=True)
    await context().to_the_end(_delete(model, parse_diagram_id(diagram_id), actor(), expected))
    return bodies.no_content()


@routes.post("/threat_models/<threat_model_id>/diagrams/<diagram_id>/restore")
@tag(["Diagrams"])
@operation_id("restoreDiagram")
@operation(answers={200: schemas.DiagramOutput}, errors=(400, 401, 403, 404, 409, 503))
async def restore_diagram(threat_model_id: str, diagram_id: str) -> Response:
    """Restore a deleted diagram with its cells and their history

    For owners and administrators.
    """
    model = await model_to_restore(threat_model_id)
    work = services().bin.restore_diagram(model, parse_diagram_id(diagram_id), deed(ChangeType.RESTORED))
    diagram = await context().to_the_end(work)
    seen = await services().rooms.show(diagram.id)
    return _answer(diagram, seen.seq, seen.cells, seen.meta)


async def _delete(model: ThreatModelId, diagram: DiagramId, by: Actor, expected: int | None) -> None:
    await services().diagrams.delete(model, diagram, by, expected=expected)
    services().rooms.rights.deleted([diagram])


def _answer(
    diagram: Diagram,
    seq: int,
    cells: list[dict[str, Any]],
    meta: Mapping[str, Any],
    status: int = 200,
    headers: dict[str, str] | None = None,
) -> Response:
    body = as_json(diagram, seq, cells, meta)
    return bodies.answer(body, status, {"ETag": f'"{diagram.version}"', **(headers or {})})


def as_json(
    diagram: Diagram, seq: int, cells: list[dict[str, Any]], meta: Mapping[str, Any]
) -> dict[str, Any]:
    """A diagram with its cells as JSON."""
    described = schemas.DiagramListItem.of(diagram).model_dump(exclude_none=True)
    # The cells are not made into a model: they are shown as they are, an absent value apart from a null.
    body = {**described, "version": diagram.version, "update_vector": seq, "cells": cells}
    body["metadata"] = [
        {"key": key, "value": value} for key, value in sorted(diagram.metadata.items())
    ]
    colors = diagram_changes.palette(meta)
    if colors is not None:
        body["color_palette"] = colors
    return body
