"""Rules of HTTP that hold for every operation alike: media types, `HEAD`, the prefix of the version.

`Accept` (RFC 9110, section 12.5.1) is compared with what an operation says it answers (`api/documented.py`),
and `Content-Type` with what it says it takes, before its handler runs. Errors are JSON whatever was asked
for. An operation that answers without a body takes any `Accept`.
"""

import secrets
from collections.abc import Iterable
from typing import Any, cast

from quart import Response, current_app, g, request

from api.documented import OPERATION
from api.errors import NotAcceptable, UnsupportedMediaType

REQUEST_ID_HEADER = "X-Request-ID"

_PREFIX = "/v1"


def without_version(path: str) -> str:
    """A path as it is routed: `/v1/me` is `/me`."""
    if path == _PREFIX:
        return "/"
    return path.removeprefix(_PREFIX) if path.startswith(_PREFIX + "/") else path


def scope_without_version(scope: Any) -> Any:
    """An ASGI scope as it is routed."""
    path = scope.get("path", "")
    routed = without_version(path)
    return scope if routed == path else {**scope, "path": routed, "raw_path": routed.encode()}


async def check_media_types() -> None:
    """Before each request. Raises NotAcceptable and UnsupportedMediaType."""
    if request.url_rule is None:
        return
    view = current_app.view_functions[request.url_rule.endpoint]
    said = cast("dict[str, Any]", getattr(view, OPERATION, {}))
    produces = said.get("produces", ())
    if produces and request.headers.get("Accept") and not request.accept_mimetypes.best_match(produces):
        raise NotAcceptable(f"this operation answers {' or '.join(produces)}")
    takes = said.get("takes", ())
    if takes and _has_body() and request.mimetype not in takes:
        raise UnsupportedMediaType(f"send {' or '.join(takes)}")


def preferred(produces: Iterable[str]) -> str:
    """What the client likes best of these, the first of them if it does not say."""
    given = list(produces)
    return request.accept_mimetypes.best_match(given, given[0]) or given[0]


def _has_body() -> bool:
    return bool(request.content_length) or "Transfer-Encoding" in request.headers


def new_request_id() -> str:
    """For an answer."""
    return secrets.token_hex(8)


def request_id() -> str:
    """What names this request, to its client and in the log. The client has no say in it."""
    if "request_id" not in g:
        g.request_id = new_request_id()
    return cast("str", g.request_id)


async def with_request_id(response: Response) -> Response:
    """Say which request is answered."""
    response.headers.setdefault(REQUEST_ID_HEADER, request_id())
    return response


async def without_body_for_head(response: Response) -> Response:
    """After all else: what `GET` answers, its length included, and no body (RFC 9110, section 9.3.2)."""
    if request.method == "HEAD":
        response.response = response.data_body_class(b"")
    return response
