"""Requests in and answers out: strict JSON, bounded, checked against the contract's schemas.

RFC 8259 leaves open what a parser does with a repeated member, and lenient parsers take `NaN` and lone
surrogates. Two parsers that differ on one text are how checks get bypassed, so such a text is refused.
"""

import asyncio
import json
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar
from urllib.parse import parse_qsl
from uuid import UUID

import orjson
from pydantic import BaseModel, ValidationError
from quart import Response, g, request

from api.errors import InvalidRequest, Problem, UnsupportedMediaType
from api.schemas.base import Query
from tmi.domain.errors import BadInput

JSON = "application/json"
JSON_PATCH = "application/json-patch+json"
FORM = "application/x-www-form-urlencoded"

_MAX_FORM_FIELDS = 32
_MAX_NAMED_FAULTS = 20
_LARGE_BYTES = 16 * 1024
"""A body from this size on is checked beside the event loop: a long note may take a third of a second."""

Model = TypeVar("Model", bound=BaseModel)


async def read_model(schema: type[Model], media_type: str = JSON) -> Model:
    """The request's JSON. Raises BadInput and UnsupportedMediaType."""
    _expect(media_type)
    body = await _body()
    if len(body) < _LARGE_BYTES:
        return checked(schema, parse_json(body))
    return await asyncio.to_thread(lambda: checked(schema, parse_json(body)))


async def read_json_or_form(schema: type[Model]) -> Model:
    """A JSON object or a form, as OAuth clients send it. Raises BadInput and UnsupportedMediaType."""
    media_type = _expect(JSON, FORM)
    body = await _body()
    return checked(schema, parse_json(body) if media_type == JSON else parse_form(body))


def read_query(schema: type[Model]) -> Model:
    """The query string. Raises BadInput, also for unknown parameters, and for repeated ones where one value
    is taken.
    """
    given = request.args.to_dict(flat=False)
    if any("\x00" in text for name, values in given.items() for text in (name, *values)):
        raise BadInput("a parameter holds a NUL, which no text may")  # PostgreSQL takes none
    several = schema.SEVERAL if issubclass(schema, Query) else frozenset()
    if any(len(values) > 1 for name, values in given.items() if name not in several):
        raise BadInput("a parameter is repeated")
    single = {name: values if name in several else values[0] for name, values in given.items()}
    return checked(schema, single)


def parse_json(body: bytes) -> Any:
    """Raises BadInput unless `body` is one unambiguous JSON text in UTF-8 (RFC 8259)."""
    try:
        # orjson checks the grammar, UTF-8 and the depth; it keeps the last of repeated members.
        data = orjson.loads(body)
        json.loads(body, object_pairs_hook=_members_once)
    except (ValueError, RecursionError):
        raise BadInput("the body is not valid JSON, or repeats a member of an object") from None
    return data


def parse_form(body: bytes) -> dict[str, str]:
    """Raises BadInput for anything ambiguous; RFC 6749, section 3.2, forbids repeated parameters."""
    try:
        pairs = parse_qsl(
            body.decode("ascii"),
            keep_blank_values=True,
            strict_parsing=True,
            errors="strict",
            max_num_fields=_MAX_FORM_FIELDS,
        )
    except ValueError:
        raise BadInput("the body is not a valid form") from None
    fields = dict(pairs)
    if len(fields) != len(pairs):
        raise BadInput("a parameter is repeated")
    return {name: value for name, value in fields.items() if value}


def checked(schema: type[Model], data: object) -> Model:
    """`data` as an instance of `schema`. Raises InvalidRequest, which names the fields at fault."""
    try:
        return schema.model_validate(data)
    except ValidationError as error:
        raise _invalid(error) from None


def answer(
    body: BaseModel | Mapping[str, Any],
    status: int = 200,
    headers: Mapping[str, str] | None = None,
) -> Response:
    """A JSON answer; optional fields without a value are left out."""
    return Response(wire(body), status, dict(headers or {}), content_type=JSON)


def wire(body: BaseModel | Mapping[str, Any]) -> bytes:
    """A body as it is sent."""
    data = body.model_dump(exclude_none=True) if isinstance(body, BaseModel) else body
    return orjson.dumps(data, default=plain, option=orjson.OPT_UTC_Z)


def answer_list(items: Sequence[Mapping[str, Any]], status: int = 200) -> Response:
    """A JSON answer that is a list."""
    sent = orjson.dumps(items, default=plain, option=orjson.OPT_UTC_Z)
    return Response(sent, status, content_type=JSON)


def plain(value: object) -> str:
    """asyncpg gives UUIDs of a class of its own; orjson knows the standard one only."""
    if isinstance(value, UUID):
        return str(value)
    raise TypeError


def problem_answer(problem: Problem) -> Response:
    """The one shape of errors."""
    return answer(problem.body, problem.status, problem.headers)


def no_content() -> Response:
    """204, without a body."""
    return Response(b"", 204)


def _expect(*media_types: str) -> str:
    if request.mimetype not in media_types:
        raise UnsupportedMediaType(f"send {' or '.join(media_types)}")
    return request.mimetype


def length() -> int:
    """Bytes of the request's body, once it was read."""
    return int(g.get("body_bytes", 0))


async def _body() -> bytes:
    given = await request.get_data(cache=False, as_text=False)
    body = given if isinstance(given, bytes) else given.encode()
    g.body_bytes = len(body)
    return body


def _members_once(pairs: Sequence[tuple[str, Any]]) -> None:
    if len({name for name, _ in pairs}) != len(pairs):
        raise ValueError("repeated member")


def _invalid(error: ValidationError) -> InvalidRequest:
    faults = error.errors(include_url=False, include_context=False, include_input=False)
    fields = [
        {"field": ".".join(map(str, fault["loc"]))[:200] or "body", "problem": fault["msg"][:200]}
        for fault in faults[:_MAX_NAMED_FAULTS]
    ]
    first = fields[0]
    return InvalidRequest(f"{first['field']}: {first['problem']}", {"fields": fields})
