"""Cross-origin requests, for pages of origins that the operator lists, and nobody else (Fetch, section 3.2).

A listed origin is named in answers as it is, never as `*`, and may use the session cookie. To pages of all
others answers say nothing, so that browsers keep them from reading. Programs are not concerned.
"""

from quart import Response, request

from api.context import services
from tmi.domain.errors import Forbidden

_METHODS = "GET, HEAD, POST, PUT, PATCH, DELETE"
_REQUEST_HEADERS = "Authorization, Content-Type, If-Match, If-None-Match, Last-Event-ID, X-CSRF-Token"
_ANSWER_HEADERS = (
    "ETag, Location, Retry-After, WWW-Authenticate, "
    "X-RateLimit-Limit, X-RateLimit-Remaining, X-RateLimit-Reset"
)
_MAX_AGE_S = 600


async def answer_preflight() -> Response | None:
    """Before each request: a browser asks what a page may do. Raises Forbidden for pages that may not."""
    asks = "Origin" in request.headers and "Access-Control-Request-Method" in request.headers
    if request.method != "OPTIONS" or not asks:
        return None
    if _listed_origin() is None:
        raise Forbidden("pages of this origin may not ask this service")
    return Response(
        b"",
        204,
        {
            "Access-Control-Allow-Methods": _METHODS,
            "Access-Control-Allow-Headers": _REQUEST_HEADERS,
            "Access-Control-Max-Age": str(_MAX_AGE_S),
        },
    )


async def with_cors_headers(response: Response) -> Response:
    """Let a listed page read the answer."""
    if services().options.origins.listed:
        response.vary.add("Origin")
    origin = _listed_origin()
    if origin is not None:
        response.headers["Access-Control-Allow-Origin"] = origin
        response.headers["Access-Control-Allow-Credentials"] = "true"
        response.headers["Access-Control-Expose-Headers"] = _ANSWER_HEADERS
        # Or a page that demands isolation could not use what it may read.
        response.headers["Cross-Origin-Resource-Policy"] = "cross-origin"
    return response


def _listed_origin() -> str | None:
    origins = request.headers.getlist("Origin")
    if len(origins) == 1 and origins[0] in services().options.origins.listed:
        return origins[0]
    return None
