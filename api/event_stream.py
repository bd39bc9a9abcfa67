"""What happens to a threat model, as server-sent events."""

import re

from quart import Blueprint, Response, request
from quart_schema import operation_id, tag

from api import schemas
from api.context import caller, model_for, services
from api.documented import operation
from tmi.domain.errors import BadInput
from tmi.domain.roles import Action

routes = Blueprint("event_stream", __name__)

EVENT_STREAM = "text/event-stream"
_HEADERS = {
    "Cache-Control": "no-store",
    # nginx passes on each event at once; others do by themselves.
    "X-Accel-Buffering": "no",
}
_NUMBER = re.compile(r"[0-9]{1,18}")


@routes.get("/threat_models/<threat_model_id>/events")
@tag(["Audit trail"])
@operation_id("getThreatModelEvents")
@operation(
    headers=schemas.LastEventId,
    answers={200: schemas.TrailEntry},
    errors=(400, 401, 403, 404, 429, 503),
    produces=(EVENT_STREAM,),
)
async def stream_events(threat_model_id: str) -> Response:
    """Follow what happens to a threat model and everything in it

    Server-sent events of the kind `change`, each with an entry of the audit trail, as they are committed.
    `Last-Event-ID` takes the last one that the reader has. Edits in open editors come once for each author
    and minute, some time after the minute is over.
    """
    model = await model_for(threat_model_id, Action.READ)
    after = _last_event_id()
    if request.method == "HEAD":
        return Response(b"", headers=_HEADERS, content_type=EVENT_STREAM)
    streams = services().streams
    stream = await streams.open(model, caller(), after)
    response = Response(streams.read(stream), headers=_HEADERS, content_type=EVENT_STREAM)
    response.timeout = None
    return response


def _last_event_id() -> int | None:
    """Raises BadInput."""
    text = request.headers.get("Last-Event-ID")
    if not text:
        return None
    if not _NUMBER.fullmatch(text):
        raise BadInput("Last-Event-ID is none of this service's")
    return int(text)
