"""The head of an HTTP/1.1 request, as far as a WebSocket upgrade needs it (RFC 6455, section 4.2)."""

import re
from collections.abc import Mapping
from http import HTTPStatus
from urllib.parse import parse_qs

import orjson

from api.edge import without_version
from api.errors import Problem
from api.headers import ALWAYS
from tmi.domain.errors import BadInput, TmiError
from tmi.domain.values import value

_NAME = r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+"
_REQUEST_LINE = re.compile(rf"({_NAME}) ([!-~]+) HTTP/1\.([01])".encode())
_VALUE = r"[^\x00-\x08\x0a-\x1f\x7f]*"
# A line matches in one way only, so that a head which does not match is found out in one pass.
_ARE_FIELDS = re.compile(rf"(?:\r\n{_NAME}:{_VALUE})*")
_FIELD = re.compile(rf"\r\n({_NAME}):({_VALUE})")
_KEY = re.compile(r"[A-Za-z0-9+/]{22}==")
"""16 bytes in base64."""
_HEADERS_MAX = 100
_PARAMETERS_MAX = 20
_ONCE = frozenset(
    {"host", "origin", "cookie", "sec-websocket-key", "sec-websocket-version", "content-length"}
)


@value
class RequestHead:
    """A request without its body. Names of headers are in lower case, repeated ones joined by a comma."""

    method: str
    path: str
    query: str
    minor_version: int
    headers: Mapping[str, str]

    @property
    def wants_websocket(self) -> bool:
        """Whether it asks to become a WebSocket, correctly or not."""
        return "websocket" in self.tokens("upgrade")

    def tokens(self, name: str) -> list[str]:
        """The members of a header that is a list, in lower case."""
        return [token.strip() for token in self.headers.get(name, "").lower().split(",")]

    def parameter(self, name: str) -> str | None:
        """A parameter of the query, None if absent. Raises BadInput if there are two, or too many in all."""
        query = self.query
        pairs = query.split("&")
        if len(pairs) > _PARAMETERS_MAX:
            raise BadInput("the query has too many parameters")
        if "%" in query or "+" in query:
            values = parse_qs(query).get(name, [])
        else:  # nothing is escaped, as usual: the same in a fifth of the time
            start = name + "="
            values = [pair.removeprefix(start) for pair in pairs if pair.startswith(start) and pair != start]
        if len(values) > 1:
            raise BadInput(f"the query parameter {name!r} is given twice")
        return values[0] if values else None


RequestLine = re.Match[bytes]
"""Method, target and minor version."""


def request_line(line: bytes) -> RequestLine | None:
    """A first line (without its line break), if it can open an HTTP/1 request."""
    return _REQUEST_LINE.fullmatch(line)


def parse_head(head: bytes, request: RequestLine | None = None) -> RequestHead:
    """Parse all up to, without, the empty line. `request`: its first line, where that was parsed already.

    Raises BadInput.
    """
    line_end = head.find(b"\r\n")
    if line_end < 0:
        line_end = len(head)
    if request is None:
        request = request_line(head[:line_end])
    if request is None:
        raise BadInput("this is not an HTTP/1.1 request")
    path, _, query = request[2].decode("ascii").partition("?")
    path = without_version(path)
    headers = _headers(head[line_end:].decode("latin-1"))
    return RequestHead(request[1].decode("ascii"), path, query, int(request[3]), headers)


def _headers(text: str) -> Mapping[str, str]:
    """The fields of some lines, of which each begins with its line break."""
    if not _ARE_FIELDS.fullmatch(text):
        raise BadInput("a header is malformed")
    fields = _FIELD.findall(text)
    if len(fields) > _HEADERS_MAX:
        raise BadInput("too many headers")
    headers: dict[str, str] = {}
    for told_name, told in fields:
        name, content = told_name.lower(), told.strip(" \t")
        if name in headers:
            if name in _ONCE:
                raise BadInput(f"the header {name!r} is given twice")
            content = f"{headers[name]}, {content}"
        headers[name] = content
    return headers


class UpgradeRequired(TmiError):
    """This address takes WebSocket connections of version 13 only."""


# RFC 9110, section 15.5.22, and RFC 6455, section 4.4.
UPGRADE_REQUIRED = Problem(
    426,
    "upgrade_required",
    UpgradeRequired().summary,
    headers={"Upgrade": "websocket", "Sec-WebSocket-Version": "13"},
)


def check_upgrade(head: RequestHead) -> str:
    """The key of a valid opening handshake. Raises BadInput and UpgradeRequired."""
    if head.headers.get("sec-websocket-version") != "13":
        raise UpgradeRequired
    if head.method != "GET" or head.minor_version != 1 or "upgrade" not in head.tokens("connection"):
        raise BadInput("a WebSocket upgrade is a GET of HTTP/1.1 with 'Connection: Upgrade'")
    if "host" not in head.headers:
        raise BadInput("the Host header is missing")
    if "transfer-encoding" in head.headers or head.headers.get("content-length", "0") != "0":
        raise BadInput("a WebSocket upgrade has no body")
    key = head.headers.get("sec-websocket-key", "")
    if not _KEY.fullmatch(key):
        raise BadInput("Sec-WebSocket-Key is not 16 bytes in base64")
    return key


def canonical_request(key: str) -> bytes:
    """The opening handshake that picows is given: what it needs, and no secret that it could log.

    picows wants `Connection: upgrade` alone, while Firefox sends `keep-alive, Upgrade`.
    """
    return (
        "GET / HTTP/1.1\r\nUpgrade: websocket\r\nConnection: upgrade\r\n"
        f"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {key}\r\n\r\n"
    ).encode("ascii")


def response(problem: Problem, more: Mapping[str, str] | None = None) -> bytes:
    """A complete HTTP answer that ends the connection, with more headers than its problem's."""
    body = orjson.dumps(problem.body)
    headers = {
        "Content-Type": "application/json",
        "Content-Length": str(len(body)),
        **ALWAYS,
        "Connection": "close",
        **(more or {}),
        **problem.headers,
    }
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    status = HTTPStatus(problem.status)
    return f"HTTP/1.1 {status.value} {status.phrase}\r\n{lines}\r\n".encode("latin-1") + body
