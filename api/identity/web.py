"""Requests to identity providers: bounded in time and size, never redirected, to `https` alone.

What comes back is the word of somebody else. Errors say what happened and never what was sent, since that may
hold a secret.
"""

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from http.cookiejar import CookieJar, DefaultCookiePolicy
from ipaddress import ip_address
from typing import Any
from urllib.parse import urlsplit

import httpx

ANSWER_S = 10.0
"""For a whole answer."""
CONNECT_S = 5.0
MAX_ANSWER_BYTES = 512 * 1024
CONNECTIONS = 20
HEADERS = {"Accept": "application/json", "Accept-Encoding": "identity", "User-Agent": "tmi"}
"""Without a coding, so that what is counted is what is read into memory."""


class Unreachable(Exception):
    """The provider gave no usable answer; the text may be logged."""


@dataclass(frozen=True, slots=True)
class WebAnswer:
    """A status and a JSON value; None where the body is none."""

    status: int
    json: Any

    @property
    def members(self) -> Mapping[str, Any]:
        """The JSON object, empty if it is none."""
        return self.json if isinstance(self.json, dict) else {}


class Web:
    """Asks. `allow_loopback`: `http` will do for places on this machine."""

    def __init__(self, client: httpx.AsyncClient, *, allow_loopback: bool = False) -> None:
        self._client = client
        self._allow_loopback = allow_loopback

    def is_safe(self, url: object) -> bool:
        """Whether `url` may be asked, or a browser sent there."""
        if not isinstance(url, str) or not url.isascii() or len(url) > 2048 or not url.isprintable():
            return False
        try:
            parts = urlsplit(url)
            host = parts.hostname or ""
            is_well_formed = bool(host) and "@" not in parts.netloc and not parts.fragment
        except ValueError:
            return False
        is_local = parts.scheme == "http" and self._allow_loopback and _is_loopback(host)
        return is_well_formed and " " not in url and (parts.scheme == "https" or is_local)

    async def get(self, url: str, headers: Mapping[str, str] | None = None) -> WebAnswer:
        """Raises Unreachable."""
        return await self._ask("GET", url, headers or {}, None)

    async def post(self, url: str, form: str, headers: Mapping[str, str]) -> WebAnswer:
        """Send a form. Raises Unreachable."""
        form_type = {"Content-Type": "application/x-www-form-urlencoded"}
        return await self._ask("POST", url, {**form_type, **headers}, form)

    async def _ask(self, method: str, url: str, headers: Mapping[str, str], form: str | None) -> WebAnswer:
        if not self.is_safe(url):
            raise Unreachable("its address is not https:")
        sent = {**HEADERS, **headers}
        place = urlsplit(url).netloc
        try:
            async with (
                asyncio.timeout(ANSWER_S),
                self._client.stream(method, url, headers=sent, content=form) as answer,
            ):
                body = await _bounded(answer)
        except (httpx.HTTPError, httpx.InvalidURL, TimeoutError, OSError) as error:
            raise Unreachable(f"{place} did not answer: {type(error).__name__}") from None
        return WebAnswer(answer.status_code, _parsed(body))


@asynccontextmanager
async def opened(*, allow_loopback: bool = False) -> AsyncIterator[Web]:
    """A client. It connects when it is used; proxies and authorities are those of the environment."""
    context = httpx.create_ssl_context()
    async with httpx.AsyncClient(
        verify=context,
        # A cookie that one person's visit brought would go with all the others'.
        cookies=CookieJar(DefaultCookiePolicy(allowed_domains=())),
        timeout=httpx.Timeout(CONNECT_S),
        limits=httpx.Limits(max_connections=CONNECTIONS, max_keepalive_connections=4),
        follow_redirects=False,
        # `http` is for this machine alone, which no proxy leads to.
        mounts={"http://": httpx.AsyncHTTPTransport(verify=context)},
    ) as client:
        yield Web(client, allow_loopback=allow_loopback)


async def _bounded(answer: httpx.Response) -> bytes:
    body = bytearray()
    async for part in answer.aiter_raw():
        body += part
        if len(body) > MAX_ANSWER_BYTES:
            raise Unreachable(f"its answer has more than {MAX_ANSWER_BYTES} bytes")
    return bytes(body)


def _parsed(body: bytes) -> Any:
    try:
        return json.loads(body)
    except (ValueError, RecursionError):
        return None


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
