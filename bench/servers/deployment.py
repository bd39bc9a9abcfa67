"""A TMI service that runs already, somewhere: it is signed in to, used and tidied up, and never stopped."""

import asyncio
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from urllib.parse import urlsplit

from bench.servers.base import Room, Server, ServerError, Unreachable
from bench.servers.rest import Rest, y_websocket_at
from bench.target import NotAllowed, Target, addresses_of, at_address

USER = "load"
CLEAN_UP_TIMEOUT_S = 60.0
PROBE_TIMEOUT_S = 5.0
PORTS = {"http": 80, "ws": 80, "https": 443, "wss": 443}


class Deployment(Server):
    """What is made there is one threat model, which `stop` deletes. Its processes are out of sight."""

    name = "deployment"
    persistence = "its own"
    offers = frozenset({"acknowledgements"})
    """When it evicts rooms is not known, so it does not prove durability, nor open diagrams cold."""

    def __init__(self, target: Target) -> None:
        super().__init__()
        self._target = target
        self._rest: Rest | None = None
        self._addresses: dict[tuple[str, int], str] = {}
        """By host and port: the checked address that is connected to."""

    async def start(self, core: int) -> None:  # noqa: ARG002 - it is where it is
        self._rest = Rest(self._target.url, await self._address(self._target.url))
        try:
            if self._target.token is not None:
                self._rest.bring(self._target.token)
            else:
                await _sign_in(self._rest)
            collab = await self._rest.collab()
        except Unreachable as error:
            raise Unreachable(f"{error}\n{_advice(str(error), self._target.url)}") from error
        self._check(collab)

    async def stop(self) -> None:
        """Deletes what was made. Raises `ServerError` with the name of what is left."""
        if self._rest is None:
            return
        failure = None
        try:
            async with asyncio.timeout(CLEAN_UP_TIMEOUT_S):
                await self._rest.clean_up()
        except (ServerError, TimeoutError) as error:
            failure = str(error) or f"no answer within {CLEAN_UP_TIMEOUT_S:.0f} s"
        rest, self._rest = self._rest, None
        await rest.aclose()
        if failure is not None:
            raise ServerError(f"the threat model {rest.model_name!r} could not be deleted: {failure}")

    async def room(self) -> Room:
        assert self._rest is not None
        diagram = await self._rest.new_diagram()
        collab = await self._rest.collab(diagram)
        self._check(collab)
        room = y_websocket_at(diagram, collab)
        dialect = replace(room.dialect, authority=urlsplit(room.url).netloc)
        return Room(at_address(room.url, await self._address(room.url)), dialect)

    async def _address(self, url: str) -> str:
        """Of those that were checked the first at which something listens. No name is looked up again."""
        parts = urlsplit(url)
        key = parts.hostname or "", parts.port or PORTS[parts.scheme]
        if key not in self._addresses:
            self._addresses[key] = await _first_that_listens(addresses_of(key[0]), key[1])
        return self._addresses[key]

    def _check(self, collab: Mapping[str, str]) -> None:
        """Every answer says anew where the sockets are. Raises `ServerError`."""
        try:
            self._target.check_sockets(collab["y_websocket_url"])
        except NotAllowed as reason:
            raise ServerError(str(reason)) from None

    def version(self) -> str:
        return f"TMI at {self._target.url}"

    @property
    def measured_pid(self) -> int | None:
        return None


async def _first_that_listens(addresses: Sequence[str], port: int) -> str:
    """Or the first of all, where none does: that connection then tells why. Link-local ones come last."""
    ordered = sorted(addresses, key=lambda address: "%" in address)
    for address in ordered:
        with suppress(OSError, TimeoutError):
            _, writer = await asyncio.wait_for(asyncio.open_connection(address, port), PROBE_TIMEOUT_S)
            writer.close()
            return address
    return ordered[0]


def _advice(error: str, url: str) -> str:
    if "CERTIFICATE_VERIFY_FAILED" in error:
        return "Its certificate is not trusted here: for an authority of your own set SSL_CERT_FILE."
    return f"Nobody answers at {url}: does the service run, and are scheme, host and port of --url right?"


async def _sign_in(rest: Rest) -> None:
    try:
        await rest.sign_in(USER)
    except Unreachable:
        raise
    except ServerError as error:
        raise ServerError(
            f"{error}\nWithout a token the development provider is needed: give --token-file, "
            "or TMI_BENCH_TOKEN in the environment."
        ) from error
