"""Diagrams of a threat model: create, list, get with cells, delete."""

from typing import Any

from quart import Blueprint, Response
from quart_schema import operation_id, tag

from api import bodies, schemas
from api.context import context, model_for, parse_diagram_id, services
from api.documented import operation
from crdt.diagram import read_cells
from tmi.domain.ids import DiagramId, ThreatModelId
from tmi.domain.model import Diagram
from tmi.domain.ports import Page
from tmi.domain.roles import Action

routes = Blueprint("diagrams", __name__)


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
    diagram = await services().diagrams.create(model, given.name, given.type, None, limits)
    location = f"{schemas.location_of(model)}/diagrams/{diagram.id}"
    return _answer(diagram, 0, [], 201, {"Location": location})


@routes.get("/threat_models/<threat_model_id>/diagrams")
@tag(["Diagrams"])
@operation_id("getThreatModelDiagrams")
@operation(query=schemas.PageQuery, answers={200: schemas.DiagramList}, errors=(400, 401, 403, 404, 503))
async def list_diagrams(threat_model_id: str) -> Response:
    """List a threat model's diagrams, oldest first"""
    model = await model_for(threat_model_id, Action.READ)
    query = bodies.read_query(schemas.PageQuery)
    found, total = await services().diagrams.of_threat_model(model, Page(query.limit, query.offset))
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
    seq, document = await services().rooms.read(diagram.id)
    # Nothing may be awaited between these two: `seq` numbers exactly what the cells show.
    return _answer(diagram, seq, read_cells(document))


@routes.delete("/threat_models/<threat_model_id>/diagrams/<diagram_id>")
@tag(["Diagrams"])
@operation_id("deleteThreatModelDiagram")
@operation(answers={204: None}, errors=(400, 401, 403, 404, 503))
async def delete_diagram(threat_model_id: str, diagram_id: str) -> Response:
    """Delete a diagram

    Its open editors are closed.
    """
    model = await model_for(threat_model_id, Action.DELETE_DIAGRAM)
    await context().to_the_end(_delete(model, parse_diagram_id(diagram_id)))
    return bodies.no_content()


async def _delete(model: ThreatModelId, diagram: DiagramId) -> None:
    await services().diagrams.delete(model, diagram)
    services().rooms.deleted([diagram])


def _answer(
    diagram: Diagram,
    seq: int,
    cells: list[dict[str, Any]],
    status: int = 200,
    headers: dict[str, str] | None = None,
) -> Response:
    described = schemas.DiagramListItem.of(diagram).model_dump(exclude_none=True)
    # The cells are not made into a model: they are shown as they are, an absent value apart from a null.
    body = {**described, "version": diagram.version, "update_vector": seq, "cells": cells}
    return bodies.answer(body, status, {"ETag": f'"{diagram.version}"', **(headers or {})})
