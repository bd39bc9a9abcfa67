"""A TMI service that runs already, somewhere: it is signed in to, used and tidied up, and never stopped."""

import asyncio
from collections.abc import Mapping

from bench.servers.base import Room, Server, ServerError, Unreachable
from bench.servers.rest import Rest, y_websocket_at
from bench.target import NotAllowed, Target

USER = "load"
CLEAN_UP_TIMEOUT_S = 60.0


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

    async def start(self, core: int) -> None:  # noqa: ARG002 - it is where it is
        self._rest = Rest(self._target.url)
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
        return y_websocket_at(diagram, collab)

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
