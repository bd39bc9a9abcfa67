"""One POST to an endpoint: to a checked address alone, bounded in time and size, never redirected.

The name is resolved here, each time, and the connection is made to one of the addresses that were checked.
TLS still asks for a certificate of the name (SNI). Connections are not kept: one that was opened for a name
is never used for another. Proxies of the environment are not used, since they would resolve the name again.

An endpoint's words are read to a bound and passed on to nobody; errors say what happened in words of ours.
"""

import asyncio
import ssl
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from ipaddress import IPv6Address, ip_address

import httpx

from api.hooks.resolving import Resolve, Resolver, by_the_system
from tmi.domain.targets import Address, Refused, Target, TargetRules

READ_MAX_BYTES = 64 * 1024
ADDRESSES_TRIED = 3
USER_AGENT = "TMI-Webhook/1.0"


class Undelivered(Exception):
    """The endpoint could not be asked; the text may be shown."""


@dataclass(frozen=True, slots=True)
class Answered:
    """What an endpoint said."""

    status: int
    body: bytes
    """At most its first 64 KiB."""
    retry_after_s: float | None


class Sender:
    """Calls endpoints."""

    def __init__(
        self,
        client: httpx.AsyncClient,
        resolver: Resolver,
        rules: TargetRules,
        timeout_s: float,
    ) -> None:
        self._client = client
        self._resolver = resolver
        self._rules = rules
        self._timeout_s = timeout_s

    async def post(self, url: str, body: bytes, headers: Mapping[str, str]) -> Answered:
        """Raises Undelivered."""
        try:
            async with asyncio.timeout(self._timeout_s):
                target = self._rules.target(url)
                addresses = await self._addresses(target)
                return await self._post(target, addresses, body, headers)
        except TimeoutError:
            raise Undelivered(f"no answer within {self._timeout_s:g} s") from None
        except Refused as error:
            raise Undelivered(f"not allowed: {error}") from None

    async def _addresses(self, target: Target) -> Sequence[Address]:
        try:
            found = await self._resolver.addresses(target.host, target.port)
            addresses = [ip_address(text) for text in dict.fromkeys(found)]
        except (OSError, ValueError):
            raise Undelivered("the host's name could not be resolved") from None
        self._rules.check(addresses)
        return addresses[:ADDRESSES_TRIED]

    async def _post(
        self, target: Target, addresses: Sequence[Address], body: bytes, headers: Mapping[str, str]
    ) -> Answered:
        for place, address in enumerate(addresses, 1):
            try:
                return await self._post_to(target, address, body, headers)
            except (httpx.ConnectError, httpx.ConnectTimeout) as error:
                if place == len(addresses) or _is_of_tls(error):
                    raise Undelivered(_words(error)) from None
            except (httpx.HTTPError, httpx.InvalidURL, OSError) as error:
                raise Undelivered(_words(error)) from None
        raise Undelivered("the host has no address")

    async def _post_to(
        self, target: Target, address: Address, body: bytes, headers: Mapping[str, str]
    ) -> Answered:
        literal = f"[{address}]" if isinstance(address, IPv6Address) else str(address)
        request = self._client.build_request(
            "POST",
            f"{target.scheme}://{literal}:{target.port}{target.rest}",
            content=body,
            headers={**headers, "Host": target.netloc},
            extensions={"sni_hostname": target.host},
        )
        answer = await self._client.send(request, stream=True)
        try:
            return Answered(answer.status_code, await _first_bytes(answer), _retry_after_s(answer))
        finally:
            await answer.aclose()


@asynccontextmanager
async def sending(
    rules: TargetRules,
    timeout_s: float,
    *,
    context: ssl.SSLContext | None = None,
    resolve: Resolve = by_the_system,
) -> AsyncIterator[Sender]:
    """A sender. `context`: whose certificates it believes; None: those of the environment."""
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=0)
    verify = context or httpx.create_ssl_context()
    fixed = {"User-Agent": USER_AGENT, "Accept": "*/*", "Accept-Encoding": "identity"}
    async with httpx.AsyncClient(
        verify=verify,
        headers=fixed,
        timeout=httpx.Timeout(timeout_s),
        limits=limits,
        follow_redirects=False,
        trust_env=False,
    ) as client:
        yield Sender(client, Resolver(resolve), rules, timeout_s)


async def _first_bytes(answer: httpx.Response) -> bytes:
    body = bytearray()
    async for part in answer.aiter_raw():
        body += part
        if len(body) >= READ_MAX_BYTES:
            break
    return bytes(body[:READ_MAX_BYTES])


def _retry_after_s(answer: httpx.Response) -> float | None:
    told = answer.headers.get("Retry-After", "")
    return float(told) if told.isascii() and told.isdecimal() and len(told) < 10 else None


def _is_of_tls(error: Exception) -> bool:
    return "SSL" in str(error) or "certificate" in str(error)


def _words(error: Exception) -> str:
    if _is_of_tls(error):
        return "the TLS handshake failed, or the certificate is not valid"
    return f"the connection failed ({type(error).__name__})"
