"""Tokens and addresses for live sockets."""

from urllib.parse import urlencode

from quart import Blueprint, Response
from quart_schema import operation_id, tag

from api import audit, bodies, schemas
from api.context import allowed, base_url, caller, parse_diagram_id, services
from api.documented import operation
from tmi.domain.ids import DiagramId
from tmi.domain.roles import Action

routes = Blueprint("collab_tokens", __name__)


@routes.post("/collab/tokens")
@tag(["Live collaboration"])
@operation_id("createCollabToken")
@operation(
    body=schemas.CollabTokenInput,
    answers={200: schemas.CollabTokenOutput},
    errors=(400, 401, 403, 404, 413, 415, 503),
)
async def create_collab_token() -> Response:
    """Get a token for live editing

    Of one diagram, or without `diagram_id` of all that the caller may see. It is good for opening sockets
    within its time, and for nothing else. With y-websocket the token goes into `params`, and the diagram's id
    is the room; with Hocuspocus the token is `token`, and the diagram's id is the document's name.
    """
    given = await bodies.read_model(schemas.CollabTokenInput)
    diagram = None if given.diagram_id is None else await _watchable(given.diagram_id)
    sign_in, tokens = caller(), services().tokens
    endpoint = f"{socket_base()}/collab"
    # The hint helps a proxy to route; who may join is decided by the token alone.
    hint = "" if diagram is None else f"?{urlencode({'diagram': str(diagram)})}"
    answer = schemas.CollabTokenOutput(
        token=tokens.collab_token(sign_in.user.id, sign_in.id, diagram),
        expires_in=int(tokens.collab_ttl.total_seconds()),
        y_websocket_url=endpoint,
        hocuspocus_url=f"{endpoint}{hint}",
    )
    place = "all diagrams" if diagram is None else f"diagram {diagram}"
    await audit.note(services().audit, audit.entry("collab_token.issued", place, new=str(sign_in.id)))
    return bodies.answer(answer, headers={"Cache-Control": "no-store"})


async def _watchable(text: str) -> DiagramId:
    """Raises BadInput, NotFound and Forbidden."""
    diagram = parse_diagram_id(text)
    access = await services().access.to_diagram(caller().user.id, diagram)
    allowed(access.role, Action.WATCH)
    return diagram


def socket_base() -> str:
    """Where sockets of this service are, as `ws://host`. Raises BadInput for a Host that is none."""
    secure, _, rest = base_url().partition("://")
    return f"{'wss' if secure == 'https' else 'ws'}://{rest}"
