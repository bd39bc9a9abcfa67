"""A live socket without a protocol or rooms, on a port of its own: what RFC 6455 asks of all of them."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import cast

from api.live.connection import hand_over
from api.live.options import LiveOptions
from api.live.socket import LiveSocket, binary_frame
from api.live.sockets import Sockets
from api.live.upgrade import canonical_request, parse_head
from tmi.domain.errors import BadFrame


class EchoSocket(LiveSocket):
    """Echoes messages; some have a meaning: `fault` is the client's, `bug` is ours."""

    __slots__ = ("endings", "pauses", "resumes")

    def __init__(self, options: LiveOptions, sockets: Sockets) -> None:
        super().__init__(options, sockets)
        self.endings = self.pauses = self.resumes = 0

    def received(self, message: bytes) -> None:
        if message == b"fault":
            raise BadFrame("a fault")
        if message == b"bug":
            raise RuntimeError("a bug")
        self.write(binary_frame(message))

    def keepalive(self, now: float) -> None:
        self.write(binary_frame(b"keepalive"))

    def paused(self) -> None:
        self.pauses += 1

    def resumed(self) -> None:
        self.resumes += 1

    def ended(self) -> None:
        self.endings += 1


class EchoServer:
    """Takes every connection whose head has come in one piece."""

    def __init__(self, options: LiveOptions) -> None:
        self.options = options
        self.registry = Sockets(
            options.sweep_s,
            options.documents_per_user_max,
            outbox_total_max_bytes=options.outbox_total_max_bytes,
        )
        self.sockets: list[EchoSocket] = []
        self.port = 0

    @property
    def last(self) -> EchoSocket:
        """The newest socket."""
        return self.sockets[-1]


class _Accept(asyncio.Protocol):
    def __init__(self, server: EchoServer) -> None:
        self._server = server

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        head, _, rest = data.partition(b"\r\n\r\n")
        key = parse_head(head).headers["sec-websocket-key"]
        socket = EchoSocket(self._server.options, self._server.registry)
        self._server.sockets.append(socket)
        hand_over(socket, canonical_request(key) + rest, self._transport)


@contextlib.asynccontextmanager
async def echo_server(options: LiveOptions | None = None) -> AsyncIterator[EchoServer]:
    """Serve on a free port of the loopback interface."""
    served = EchoServer(options or LiveOptions())
    listening = await asyncio.get_running_loop().create_server(lambda: _Accept(served), "127.0.0.1", 0)
    served.port = listening.sockets[0].getsockname()[1]
    try:
        yield served
    finally:
        listening.close()
        served.registry.abort_all()
        async with asyncio.timeout(10):
            await served.registry.none_left()
