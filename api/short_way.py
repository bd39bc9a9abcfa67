"""The short way: what is read most, by clients that ask in the usual way, answered without a framework.

The long way (h11, Hypercorn, Quart) takes three times as long as the database for such a request. So the
listener shows each head to `asked` first. The rules:

- **It answers or does nothing.** A head that holds anything out of the ordinary (a cookie, an Origin, a
  body, a header twice, a character that is not plain ASCII) goes the long way, before anything is counted. So
  does a request that would be refused, whatever for: refusals are worded, and noted in the audit, in one
  place.
- **What was counted is not counted twice.** A request that goes the long way after all brings its counts
  along (`rates.COUNTS`).
- **Answers are equal** but for the order of headers; `tests/unit/api/test_short_way.py` compares them.
- **Nothing is remembered.** The sign-in is looked up as for every request, and the role in the very statement
  that reads.
"""

import logging
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass
from email.utils import formatdate
from functools import lru_cache
from typing import Any
from uuid import UUID

from api import edge, headers, rates, reads, schemas
from api.bodies import JSON, checked, wire
from api.context import HOST, Context, is_uuid
from api.schemas.base import Query
from tmi.domain.errors import TmiError, Unavailable
from tmi.domain.ids import ChildId, ThreatModelId, UserId
from tmi.domain.kinds import KINDS

log = logging.getLogger(__name__)

HEAD_MAX_BYTES = 8 * 1024
_END = b"\r\n\r\n"
_HEAD = re.compile(
    rb"GET (/[A-Za-z0-9/_-]{1,200})(?:\?([A-Za-z0-9_=&:-]{0,500}))? HTTP/1\.1\r\n"
    rb"((?:[!#$%&'*+.^_`|~0-9A-Za-z-]+:[\t\x20-\x7e]*\r\n)+)\r\n"
)
"""Of RFC 9112, sections 3 and 5, what clients send."""
_REFUSED = frozenset(
    (
        "cookie", "origin", "content-length", "transfer-encoding", "content-type", "upgrade", "expect", "te",
        "trailer", "http2-settings", "access-control-request-method", "access-control-request-headers",
    )
)  # fmt: skip
"""Headers that change what a request means, or that it has a body."""
_ONCE = frozenset(("host", "authorization", "accept", "connection"))
_ACCEPTED = frozenset(("", "*/*", JSON, "application/json, text/plain, */*", "application/json, */*"))
_KINDS = {kind.plural: kind for kind in KINDS}


@dataclass(frozen=True, slots=True)
class Asked:
    """A request that can go the short way."""

    path: tuple[str, ...]
    """Its parts after `threat_models`."""
    query: Mapping[str, Any]
    headers: Mapping[str, str]
    """By their names in lower case; of those that come several times all, with commas."""


def asked(received: bytes) -> Asked | None:
    """What is asked, if that is a whole head and nothing else, and can go the short way."""
    if len(received) > HEAD_MAX_BYTES or not received.startswith(b"GET ") or not received.endswith(_END):
        return None
    match = _HEAD.fullmatch(received)
    if match is None:
        return None
    parts = edge.without_version(match[1].decode()).split("/")
    if len(parts) < 2 or parts[1] != "threat_models" or not _is_known(parts[2:]):
        return None
    told = _told(match[3].decode())
    query = _query(match[2])
    return None if told is None or query is None else Asked(tuple(parts[2:]), query, told)


def _is_known(parts: list[str]) -> bool:
    """`threat_models`, one, a list of its children, or one of them."""
    if len(parts) > 3 or not all(is_uuid(key) for key in parts[::2]):
        return False
    return len(parts) < 2 or parts[1] in _KINDS


def _told(lines: str) -> Mapping[str, str] | None:
    told: dict[str, str] = {}
    for line in lines[:-2].split("\r\n"):
        name, _, value = line.partition(":")
        name, value = name.lower(), value.strip(" \t")
        if name in told:
            if name in _ONCE:
                return None
            value = f"{told[name]},{value}"
        told[name] = value
    if not told.keys().isdisjoint(_REFUSED) or not HOST.fullmatch(told.get("host", "")):
        return None
    is_usual = told.get("connection", "").lower() in ("", "keep-alive")
    return told if is_usual and told.get("accept", "") in _ACCEPTED else None


def _query(text: bytes | None) -> Mapping[str, Any] | None:
    if not text:
        return {}
    pairs = [pair.split("=") for pair in text.decode().split("&")]
    if any(len(pair) != 2 for pair in pairs):
        return None
    query = dict(pairs)
    return query if len(query) == len(pairs) else None


def _checked(schema: type[Query], asked: Asked) -> Any:
    """Raises BadInput."""
    several = schema.SEVERAL
    return checked(schema, {k: [v] if k in several else v for k, v in asked.query.items()})


class ShortWay:
    """Answers what is asked."""

    def __init__(self, context: Context) -> None:
        self._context = context

    async def answer(self, asked: Asked, peer: str, own_scheme: str) -> bytes | rates.Counts:
        """The whole answer; or what was counted, for a request that has to go the long way after all."""
        counts = rates.Counts()
        try:
            found = await self._found(asked, peer, counts)
        except TmiError as error:
            counts.failure = error if isinstance(error, Unavailable) else None
            return counts
        except Exception:
            log.exception("the short way failed")
            return counts
        return counts if found is None else self._written(found, asked, peer, own_scheme, counts)

    async def _found(self, asked: Asked, peer: str, counts: rates.Counts) -> reads.Found | None:
        services, told = self._context.services, asked.headers
        forwarded = [told["x-forwarded-for"]] if "x-forwarded-for" in told else []
        address = services.options.trusted_proxies.client(peer, forwarded)
        await rates.count_address(services, counts, "/threat_models", address)
        sign_in = await self._context.sign_in_of_request([told.get("authorization", "")])
        user = sign_in.user.id
        await rates.count_user(services, counts, user)
        return await self._read(asked, user)

    async def _read(self, asked: Asked, user: UserId) -> reads.Found | None:
        services, path = self._context.services, asked.path
        if not path:
            return await reads.models(services, user, _checked(schemas.ThreatModelQuery, asked))
        model = ThreatModelId(UUID(path[0]))
        if len(path) == 2:
            kind = _KINDS[path[1]]
            query = _checked(schemas.CHILD_BODIES[kind.name].query, asked)
            if query.include_deleted:
                return None
            return await reads.page(services, user, model, kind, query)
        if len(path) == 1:
            return await reads.model(services, user, model)
        return await reads.child(services, user, model, _KINDS[path[1]], ChildId(UUID(path[2])))

    def _written(
        self, found: reads.Found, asked: Asked, peer: str, own_scheme: str, counts: rates.Counts
    ) -> bytes:
        options, told = self._context.services.options, asked.headers
        body = wire(found.body)
        lines = [_FIRST_LINES, f"content-length: {len(body)}\r\ndate: {_date(int(time.time()))}\r\n"]
        lines.append(f"{edge.REQUEST_ID_HEADER.lower()}: {edge.new_request_id()}\r\n")
        if found.version is not None:
            lines.append(f'etag: "{found.version}"\r\n')
        if options.origins.listed:
            lines.append("vary: Origin\r\n")
        proto = [told["x-forwarded-proto"]] if "x-forwarded-proto" in told else []
        scheme = options.trusted_proxies.scheme(peer, proto, own_scheme)
        more = {**counts.headers(), **options.hsts.headers(scheme)}
        lines += [f"{name.lower()}: {value}\r\n" for name, value in more.items()]
        lines.append("\r\n")
        return "".join(lines).encode() + body


@lru_cache(1)
def _date(second: int) -> str:
    return formatdate(second, usegmt=True)


_FIRST_LINES = "".join(
    (
        f"HTTP/1.1 200 \r\ncontent-type: {JSON}\r\n",
        *(f"{name.lower()}: {value}\r\n" for name, value in headers.ALWAYS.items()),
    )
)
