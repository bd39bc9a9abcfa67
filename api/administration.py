"""Nodes and rooms, for administrators: from any node, for all nodes."""

from quart import Blueprint, Response
from quart_schema import operation_id, tag

from api import bodies, schemas
from api.context import administrator, context, parse_diagram_id, parse_uuid, services
from api.documented import operation
from rooms.administration import Administration
from tmi.domain.ids import NodeId

routes = Blueprint("administration", __name__)


async def _administration() -> Administration:
    """Raises Forbidden unless the caller is an administrator."""
    await administrator()
    return services().administration


@routes.get("/admin/nodes")
@tag(["Administration"])
@operation_id("listNodes")
@operation(answers={200: schemas.NodeList}, errors=(401, 403, 503))
async def list_nodes() -> Response:
    """List the nodes of this deployment, and how they are"""
    nodes, silent = await (await _administration()).nodes()
    return bodies.answer(
        schemas.NodeList(
            nodes=[schemas.NodeOutput.of(node) for node in nodes],
            silent=[schemas.SilentNode.of(node) for node in silent],
        )
    )


@routes.post("/admin/nodes/<node_id>/drain")
@tag(["Administration"])
@operation_id("drainNode")
@operation(answers={202: None}, errors=(400, 401, 403, 404, 503))
async def drain_node(node_id: str) -> Response:
    """Let a node hand its rooms and clients to the others, and end

    Answers when the node has begun. It is gone when it is no longer listed.
    """
    administration = await _administration()
    await administration.drain(NodeId(parse_uuid(node_id)))
    return Response(status=202)


@routes.get("/admin/rooms")
@tag(["Administration"])
@operation_id("listRooms")
@operation(query=schemas.RoomsQuery, answers={200: schemas.RoomList}, errors=(400, 401, 403, 503))
async def list_rooms() -> Response:
    """List open rooms, those first that have most of what they are sorted by"""
    administration = await _administration()
    query = bodies.read_query(schemas.RoomsQuery)
    total, rooms, silent = await administration.rooms(query.sort, query.limit)
    return bodies.answer(
        schemas.RoomList(
            rooms=[schemas.RoomOutput.of(room) for room in rooms],
            total=total,
            silent=[schemas.SilentNode.of(node) for node in silent],
        )
    )


@routes.get("/admin/rooms/<diagram_id>")
@tag(["Administration"])
@operation_id("getRoom")
@operation(answers={200: schemas.RoomOutput}, errors=(400, 401, 403, 404, 503))
async def get_room(diagram_id: str) -> Response:
    """Get an open room; 404 where no node has it open"""
    administration = await _administration()
    room = await administration.room(parse_diagram_id(diagram_id))
    return bodies.answer(schemas.RoomOutput.of(room))


@routes.post("/admin/rooms/<diagram_id>/move")
@tag(["Administration"])
@operation_id("moveRoom")
@operation(
    body=schemas.MoveInput,
    answers={200: schemas.MoveOutput},
    errors=(400, 401, 403, 404, 409, 413, 415, 503),
)
async def move_room(diagram_id: str) -> Response:
    """Move an open room to another node; nobody is disconnected

    Without `node_id` it goes to a node that has clients in it already, if there is one.
    """
    administration = await _administration()
    diagram = parse_diagram_id(diagram_id)
    given = await bodies.read_model(schemas.MoveInput)
    to = None if given.node_id is None else NodeId(parse_uuid(given.node_id))
    owner = await context().to_the_end(administration.move(diagram, to))
    return bodies.answer(schemas.MoveOutput(id=str(diagram), node_id=str(owner.id), node_name=owner.name))
