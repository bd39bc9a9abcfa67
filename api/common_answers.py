"""What every operation may answer, for the OpenAPI document: errors in their one shape, and headers."""

from http import HTTPStatus
from typing import Any

Json = Any

_ERRORS = (400, 401, 403, 404, 405, 406, 409, 410, 413, 415, 422, 426, 428, 429, 500, 502, 503)
_ALWAYS = ("X-API-Version", "X-Request-ID", "Cache-Control")
_RATES = ("X-RateLimit-Limit", "X-RateLimit-Remaining", "X-RateLimit-Reset")
_OWN = {401: ("WWW-Authenticate",), 405: ("Allow",), 429: ("Retry-After",), 503: ("Retry-After",)}

HEADERS: dict[str, Json] = {
    "X-API-Version": {"description": "The version of the contract.", "schema": {"type": "string"}},
    "X-Request-ID": {
        "description": "Names the request, in this service's log too.",
        "schema": {"type": "string"},
    },
    "Cache-Control": {"description": "Nothing may be kept.", "schema": {"type": "string"}},
    "X-RateLimit-Limit": {
        "description": "How many requests a minute are allowed, by the limit that is nearest.",
        "schema": {"type": "integer"},
    },
    "X-RateLimit-Remaining": {"description": "How many of them are left.", "schema": {"type": "integer"}},
    "X-RateLimit-Reset": {
        "description": "When the minute is over, in seconds of Unix time.",
        "schema": {"type": "integer"},
    },
    "Retry-After": {"description": "Seconds to wait.", "schema": {"type": "integer"}},
    "Allow": {"description": "The methods that this path takes.", "schema": {"type": "string"}},
    "WWW-Authenticate": {"description": "How to say who you are.", "schema": {"type": "string"}},
    "ETag": {"description": "The version, for If-Match.", "schema": {"type": "string"}},
    "Content-Disposition": {
        "description": "The name of the file, where a file was asked for.",
        "schema": {"type": "string"},
    },
    "Link": {"description": "Where the rest is (RFC 8288).", "schema": {"type": "string"}},
    "Location": {"description": "The path of what was made.", "schema": {"type": "string"}},
}


def headers(*names: str) -> dict[str, Json]:
    """References to headers, with those that every answer has."""
    return {name: {"$ref": f"#/components/headers/{name}"} for name in (*_ALWAYS, *names)}


def components() -> dict[str, Json]:
    """The named answers, and the headers that they refer to."""
    return {"responses": {_name(status): _error(status) for status in _ERRORS}, "headers": HEADERS}


def _error(status: int) -> Json:
    schema = {"$ref": "#/components/schemas/Error"}
    return {
        "description": HTTPStatus(status).phrase,
        "headers": headers(*_RATES, *_OWN.get(status, ())),
        "content": {"application/json": {"schema": schema}},
    }


def _name(status: int) -> str:
    return "".join(part for part in HTTPStatus(status).phrase.title() if part.isalpha())


def reference(status: int) -> Json:
    """An error's named answer; None for one that has no name."""
    return {"$ref": f"#/components/responses/{_name(status)}"} if status in _ERRORS else None


def success_headers(status: int, schema: Json) -> dict[str, Json]:
    """The headers of an answer that is no error, whose body has this schema."""
    names = [*_RATES]
    if isinstance(schema, dict) and {"id", "version"} <= schema.get("properties", {}).keys():
        names.append("ETag")
    if status in (HTTPStatus.CREATED, HTTPStatus.FOUND):
        names.append("Location")
    return headers(*names)
