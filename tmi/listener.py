"""The one port: every connection arrives here, and the head of its first request decides once who serves it.

A WebSocket upgrade for a live path goes to `api.live` and from there to picows; everything else goes to
Hypercorn's TCP server, with the bytes already read. The choice holds for the connection, so a live
upgrade on a connection that Hypercorn keeps alive is answered 503 with `Connection: close`, and the
client's next attempt arrives here.

What it holds true:

- **A head is bounded** in size (414, 431) and time (408), and so is the number of connections that have not
  sent theirs.
- **HTTP/1.1 only.** Hypercorn would follow a client into HTTP/2 (by `Upgrade: h2c` or prior knowledge)
  and open WebSockets inside that picows never sees; here it stays with h11, and TLS offers `http/1.1`
  alone.
- **One process.** This is Hypercorn's connection class and not its command, whose worker outlives a
  killed parent.
"""

import asyncio
import contextlib
import logging
import socket
import ssl
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from dataclasses import dataclass, field
from typing import Any, cast

import h11
import orjson
from hypercorn.asyncio.lifespan import Lifespan
from hypercorn.asyncio.task_group import TaskGroup
from hypercorn.asyncio.tcp_server import TCPServer
from hypercorn.asyncio.worker_context import WorkerContext
from hypercorn.config import Config
from hypercorn.events import Closed, RawData
from hypercorn.protocol.h11 import H11Protocol
from hypercorn.typing import ASGIFramework, ConnectionState, LifespanState
from hypercorn.utils import parse_socket_addr, wrap_app

from api.edge import without_version
from api.errors import Problem
from api.forwarding import TrustedProxies, share_of
from api.headers import ALWAYS
from api.live.deadlines import Deadlines
from api.live.endpoint import LiveEndpoint
from api.live.upgrade import UPGRADE_REQUIRED, RequestLine, parse_head, request_line
from api.rates import COUNTS
from api.short_way import ShortWay, asked
from tmi.connections import ConnectionsByAddress
from tmi.domain.errors import BadInput

log = logging.getLogger(__name__)

_END_OF_HEAD = b"\r\n\r\n"
_ACCEPT_PAUSE_S = 0.1
_READ_BYTES = 64 * 1024
_BAD_REQUEST = Problem(400, "invalid_input", "This is not an HTTP/1.1 request.")
_HEAD_TIMEOUT = Problem(408, "request_timeout", "The head of the request took too long.")
_HEAD_TOO_LARGE = Problem(431, "headers_too_large", "The head of the request is too large.")
_LINE_TOO_LONG = Problem(414, "uri_too_long", "The target of the request is too long.")
_FULL = Problem(503, "service_unavailable", "Too many connections.", headers={"Retry-After": "2"})
_TOO_MANY_OF_ADDRESS = Problem(
    503,
    "service_unavailable",
    "Too many connections of this address. Use fewer, and keep them alive.",
    headers={"Retry-After": "2"},
)
_RECONNECT = Problem(
    503,
    "service_unavailable",
    "This connection serves REST; open the WebSocket on a new one.",
    headers={"Connection": "close", "Retry-After": "0"},
)


@dataclass(frozen=True, slots=True)
class ListenerOptions:
    """Bounds of connections."""

    head_max_bytes: int = 16 * 1024
    head_timeout_s: float = 10.0
    heads_max: int = 2_000
    """Connections that have not sent their first head; see `openings_max`."""
    rest_connections_max: int = 10_000
    per_address_max: int = 2_000
    """Connections from one address that are at their handshake or first head, or serve REST."""
    proxies: TrustedProxies = field(default_factory=TrustedProxies)
    """Whose connections are not bounded by their address."""
    keep_alive_s: float = 75.0
    write_timeout_s: float = 60.0
    """How long a REST client may leave an answer unread."""
    startup_timeout_s: float = 30.0
    backlog: int = 1024
    tls: Callable[[], ssl.SSLContext] | None = None
    """Asked at each connection what it is to use; None: no TLS."""
    handshakes_max: int = 2_000
    """Connections that have not finished their TLS handshake; more are dropped."""
    handshake_timeout_s: float = 10.0

    @property
    def openings_max(self) -> int:
        """Once half as many connections are at their TLS handshake or first head, an address may have an
        eighth of it (`share_of`). The smaller one of both bounds, or one address could use that up.
        """
        return self.heads_max if self.tls is None else min(self.heads_max, self.handshakes_max)


class Listener:
    """The listening socket, and every connection that has not become a live socket. Made by `start`."""

    def __init__(
        self,
        app: ASGIFramework,
        live: LiveEndpoint,
        options: ListenerOptions,
        short_way: ShortWay | None = None,
    ) -> None:
        self.options = options
        self._short_way = short_way
        self.live = live
        self.heads: set[_Head] = set()
        self.head_deadlines = Deadlines[_Head](self.options.head_timeout_s, _Head.take_too_long)
        self.by_address = ConnectionsByAddress(self.options.per_address_max, self.options.proxies)
        self.opening = ConnectionsByAddress(share_of(self.options.openings_max), self.options.proxies)
        """Those at their TLS handshake or first head."""
        self._rest: set[asyncio.Task[None]] = set()
        self._checks: set[asyncio.Task[None]] = set()
        self._opening_count = 0
        self._scarce_from = options.openings_max // 2
        self._config = _hypercorn_config(options)
        self._app = wrap_app(cast(ASGIFramework, _gate(app, live)), 0, "asgi")
        self._context = WorkerContext(None)
        self._state: LifespanState = {}
        self._lifespan: Lifespan | None = None
        self._lifespan_task: asyncio.Task[None] | None = None
        self._server: asyncio.Server | None = None
        self._accepting: _TlsAcceptor | None = None

    @classmethod
    async def start(
        cls,
        app: ASGIFramework,
        live: LiveEndpoint,
        listening: socket.socket,
        options: ListenerOptions | None = None,
        short_way: ShortWay | None = None,
    ) -> "Listener":
        """Start the application and accept connections on a listening socket, which stays the caller's."""
        listener = cls(app, live, options or ListenerOptions(), short_way)
        await listener._start_app()
        await listener._listen(listening)
        return listener

    @property
    def port(self) -> int:
        """The port that it listens on, or did."""
        return self._port

    def stop_accepting(self) -> None:
        """Take no more connections; those that are open go on."""
        if self._server is not None:
            self._server.close()
        if self._accepting is not None:
            self._accepting.stop()

    async def aclose(self, deadline_s: float) -> None:
        """Let requests in flight finish until the deadline, end all connections, stop the application."""
        self.stop_accepting()
        for head in list(self.heads):
            head.abort()
        await self._context.terminated.set()
        if self._rest or self._checks:
            _, late = await asyncio.wait({*self._rest, *self._checks}, timeout=deadline_s)
            for task in late:
                task.cancel()
            await asyncio.gather(*late, return_exceptions=True)
        await self._stop_app()

    # --- the application ------------------------------------------------------------------------

    async def _start_app(self) -> None:
        loop = asyncio.get_running_loop()
        self._lifespan = Lifespan(self._app, self._config, loop, self._state)
        self._lifespan_task = loop.create_task(self._lifespan.handle_lifespan(), name="asgi-lifespan")
        await self._lifespan.wait_for_startup()
        if self._lifespan_task.done():
            self._lifespan_task.result()

    async def _stop_app(self) -> None:
        if self._lifespan is None or self._lifespan_task is None:
            return
        await self._lifespan.wait_for_shutdown()
        self._lifespan_task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._lifespan_task

    async def _listen(self, listening: socket.socket) -> None:
        self._port = int(listening.getsockname()[1])
        if self.options.tls is not None:
            self._accepting = _TlsAcceptor(self, listening.dup(), self.options.tls)
            return
        self._server = await asyncio.get_running_loop().create_server(
            lambda: _Head(self), sock=listening.dup(), backlog=self.options.backlog
        )

    # --- connections ----------------------------------------------------------------------------

    def take(self, peer: object) -> str | None:
        """Count a connection for its address; None: refuse it. See `ConnectionsByAddress.take`.

        It is counted as one that is being opened as well, until `opened`.
        """
        is_scarce = self._opening_count >= self._scarce_from
        bucket = self.opening.take(peer, is_bounded=is_scarce)
        if bucket is None:
            self.live.sockets.refusals["openings_per_address"] += 1
            return None
        if self.by_address.take(peer) is None:
            self.opening.give(bucket)
            self.live.sockets.refusals["connections_per_address"] += 1
            return None
        self._opening_count += 1
        return bucket

    def opened(self, bucket: str) -> None:
        """A connection that was taken has sent its first head, or is over."""
        self._opening_count -= 1
        self.opening.give(bucket)

    def decide(
        self, received: bytes, end: int, line: RequestLine, transport: asyncio.Transport, bucket: str
    ) -> None:
        """Give a connection whose first head ends at `end` to whom it is for. `line`: the first one of it.
        `bucket`: see `ConnectionsByAddress.take`; live sockets have bounds of their own.
        """
        path = line[2].partition(b"?")[0].decode("ascii")
        if self.live.matches(without_version(path)):
            try:
                head = parse_head(received[:end], line)
            except BadInput:
                self.by_address.give(bucket)
                self.live.refuse(transport, _BAD_REQUEST)
                return
            if head.wants_websocket:
                self.by_address.give(bucket)
                # Read on only when picows has taken over: what comes meanwhile waits in the kernel.
                transport.pause_reading()
                rest = received[end + len(_END_OF_HEAD) :]
                _spawn(self.live.open(head, rest, transport), self._checks, self.live.sockets.loop)
                return
        if len(self._rest) >= self.options.rest_connections_max:
            self.live.sockets.refusals["rest_connections"] += 1
            self.by_address.give(bucket)
            self.live.refuse(transport, _FULL)
        else:
            self._hand_to_hypercorn(received, transport).add_done_callback(
                lambda _: self.by_address.give(bucket)
            )

    def _hand_to_hypercorn(self, received: bytes, transport: asyncio.Transport) -> asyncio.Task[None]:
        loop = asyncio.get_running_loop()
        _limit_unread(transport, self.options.write_timeout_s)
        reader = asyncio.StreamReader(loop=loop)
        protocol = asyncio.StreamReaderProtocol(reader, loop=loop)
        transport.set_protocol(protocol)
        protocol.connection_made(transport)
        reader.feed_data(received)
        writer = asyncio.StreamWriter(transport, protocol, reader, loop)
        connection = _RestConnection(
            self._app, loop, self._config, self._context, self._state, reader, writer
        )
        connection.short_way = self._short_way
        return _spawn(_serve(connection), self._rest)


class _Head(asyncio.Protocol):
    """A connection until its first head is complete."""

    __slots__ = ("_bucket", "_listener", "_received", "_transport")

    def __init__(self, listener: Listener, bucket: str | None = None) -> None:
        """`bucket`: what the connection was counted for already."""
        self._listener = listener
        self._received = bytearray()
        self._transport: asyncio.Transport | None = None
        self._bucket = bucket

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        listener = self._listener
        if len(listener.heads) >= listener.options.heads_max:
            listener.live.sockets.refusals["heads"] += 1
            self._refuse(_FULL)
            return
        if self._bucket is None:
            self._bucket = listener.take(transport.get_extra_info("peername"))
        if self._bucket is None:
            self._refuse(_TOO_MANY_OF_ADDRESS)
            return
        listener.heads.add(self)
        listener.head_deadlines.add(self)

    def data_received(self, data: bytes) -> None:
        transport, received = self._transport, self._received
        if transport is None or transport.is_closing():
            return
        searched = max(0, len(received) - len(_END_OF_HEAD) + 1)
        received += data
        end = received.find(_END_OF_HEAD, searched)
        line_end = received.find(b"\r\n")
        line = request_line(bytes(received[:line_end])) if line_end >= 0 else None
        if line_end >= 0 and line is None:
            self._refuse(_BAD_REQUEST)
        elif (end if end >= 0 else len(received)) > self._listener.options.head_max_bytes:
            self._refuse(_HEAD_TOO_LARGE if line_end >= 0 else _LINE_TOO_LONG)
        elif line is not None and end >= 0:
            if self._bucket is not None:
                self._listener.opened(self._bucket)
            bucket, self._bucket = self._bucket or "", None
            self._done()
            # uvloop's transport may know its first protocol to the end: leave nothing in it.
            self._received, self._transport = bytearray(), None
            self._listener.decide(bytes(received), end, line, transport, bucket)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002
        self._done()

    def abort(self) -> None:
        """Drop the connection."""
        if self._transport is not None:
            self._transport.abort()

    def let_go(self) -> None:
        """Nothing has become of the connection."""
        self._done()

    def _done(self) -> None:
        self._listener.heads.discard(self)
        if self._bucket is not None:
            self._listener.opened(self._bucket)
            self._listener.by_address.give(self._bucket)
            self._bucket = None
        self._listener.head_deadlines.discard(self)

    def take_too_long(self) -> None:
        """The head has not come in time."""
        self._refuse(_HEAD_TIMEOUT)

    def _refuse(self, problem: Problem) -> None:
        self._done()
        if self._transport is not None:
            self._listener.live.refuse(self._transport, problem)


class _TlsAcceptor:
    """Takes connections one by one, and each through its handshake with the certificate of that moment.

    A server of the loop would keep the certificate that it was made with, and any number of handshakes.
    """

    def __init__(
        self, listener: Listener, listening: socket.socket, tls: Callable[[], ssl.SSLContext]
    ) -> None:
        listening.setblocking(False)
        listening.listen(listener.options.backlog)
        self._listener = listener
        self._listening = listening
        self._tls = tls
        self._options = listener.options
        self._handshakes: set[asyncio.Task[None]] = set()
        self._task = asyncio.create_task(self._accept_all(), name="tls-accept")

    def stop(self) -> None:
        """Take no more connections, and drop those that are at their handshake."""
        self._task.cancel()
        for handshake in self._handshakes:
            handshake.cancel()

    async def _accept_all(self) -> None:
        loop = asyncio.get_running_loop()
        try:
            while True:
                try:
                    connection, peer = await loop.sock_accept(self._listening)
                except OSError as error:  # the connection has gone, or there are too many descriptors
                    log.warning("a connection can't be taken: %s", error.strerror)
                    await asyncio.sleep(_ACCEPT_PAUSE_S)
                    continue
                if len(self._handshakes) >= self._options.handshakes_max:
                    self._listener.live.sockets.refusals["tls_handshakes"] += 1
                    connection.close()
                    continue
                bucket = self._listener.take(peer)
                if bucket is None:
                    connection.close()
                else:
                    _spawn(self._handshake(connection, bucket), self._handshakes)
        finally:
            self._listening.close()

    async def _handshake(self, connection: socket.socket, bucket: str) -> None:
        head, is_through = _Head(self._listener, bucket), False
        try:
            await asyncio.get_running_loop().connect_accepted_socket(
                lambda: head,
                connection,
                ssl=self._tls(),
                ssl_handshake_timeout=self._options.handshake_timeout_s,
            )
            is_through = True
        except (OSError, TimeoutError):  # whatever the other side did instead; an SSLError is an OSError
            log.debug("a TLS handshake failed", exc_info=True)
        except Exception:
            log.exception("a TLS handshake failed")
        finally:
            if not is_through:
                connection.close()
                head.let_go()


class _Http11(H11Protocol):
    """h11 that stays HTTP/1.1, whatever the client proposes."""

    async def _check_protocol(self, event: h11.Request) -> None:
        pass

    async def _send_error_response(self, status_code: int) -> None:
        """What is no request of HTTP/1.1 on a connection that was given away: in the one shape of errors."""
        problem = _HEAD_TOO_LARGE if status_code == _HEAD_TOO_LARGE.status else _BAD_REQUEST
        body = orjson.dumps(problem.body)
        fields = {
            "Content-Type": "application/json",
            "Content-Length": str(len(body)),
            "Connection": "close",
            **ALWAYS,
        }
        headers = [(name.encode(), value.encode()) for name, value in fields.items()]
        await self._send_h11_event(h11.Response(status_code=problem.status, headers=headers))
        await self._send_h11_event(h11.Data(data=body))
        await self._send_h11_event(h11.EndOfMessage())


class _RestConnection(TCPServer):
    """Hypercorn's connection without its ways into HTTP/2, and with the short way beside it."""

    short_way: ShortWay | None = None

    async def run(self) -> None:
        connected = self.writer.get_extra_info("socket")
        self._answering = asyncio.Lock()
        self._idle_since = self.loop.time()
        try:
            async with TaskGroup(self.loop) as task_group:
                self._task_group = task_group
                self._http = _Http11(
                    self.app,
                    self.config,
                    self.context,
                    task_group,
                    ConnectionState(LifespanState(self.state.copy())),
                    self.writer.get_extra_info("ssl_object") is not None,
                    parse_socket_addr(connected.family, connected.getpeername()),
                    parse_socket_addr(connected.family, connected.getsockname()),
                    self.protocol_send,
                )
                # Hypercorn has a wrapper here that can switch to HTTP/2.
                self.protocol = self._http  # type: ignore[assignment]
                await self.protocol.initiate()
                await self.idle_task.restart(task_group, self._idle_timeout)
                await self._read_data()
                # Or what waits for the client to be idle would keep the connection of one that has gone.
                await self.idle_task.stop()
        except OSError:
            log.debug("a REST connection was lost", exc_info=True)
        finally:
            await self._close()

    async def _read_data(self) -> None:
        while not self.reader.at_eof():
            try:
                received = await self.reader.read(_READ_BYTES)
            except (OSError, TimeoutError):
                break
            await self._take(received)
        await self.protocol.handle(Closed())

    async def _take(self, received: bytes) -> None:
        """Answer what was received the short way if that can be done, and else leave it to Hypercorn."""
        wanted = asked(received) if self.short_way is not None and self._is_between_requests() else None
        if self.short_way is None or wanted is None:
            await self.protocol.handle(RawData(received))
            return
        # Whoever ends this connection for being idle, or since the service stops, waits for the answer.
        async with self._answering:
            peer = self._http.client[0] if self._http.client else ""
            scheme = "https" if self._http.ssl else "http"
            answer = await self.short_way.answer(wanted, peer, scheme)
            if isinstance(answer, bytes):
                await self.protocol_send(RawData(answer))
                self._idle_since = self.loop.time()
                return
        # It is the next request that Hypercorn begins, and that one alone gets what was counted for it.
        state = self._http.connection_state
        state[COUNTS] = answer
        try:
            await self.protocol.handle(RawData(received))
        finally:
            state.pop(COUNTS, None)

    def _is_between_requests(self) -> bool:
        """Whether Hypercorn has answered all that it was given, and nothing of a request is with it."""
        http = self._http.connection
        return (
            isinstance(http, h11.Connection)
            and http.our_state is h11.IDLE
            and http.their_state is h11.IDLE
            and not http.trailing_data[0]
            and not self.context.terminated.is_set()
        )

    async def _idle_timeout(self) -> None:
        self._idle_since = self.loop.time()
        while True:
            left_s = self._idle_since + self.config.keep_alive_timeout - self.loop.time()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self.context.terminated.wait(), max(left_s, 0))
            async with self._answering:
                is_over = self.loop.time() >= self._idle_since + self.config.keep_alive_timeout
                if is_over or self.context.terminated.is_set():
                    break
        await asyncio.shield(self._initiate_server_close())


async def _serve(connection: _RestConnection) -> None:
    try:
        await connection.run()
    except Exception:
        log.exception("a REST connection failed")


def _spawn(
    work: Coroutine[Any, Any, None],
    tasks: set[asyncio.Task[None]],
    loop: asyncio.AbstractEventLoop | None = None,
) -> asyncio.Task[None]:
    """`loop`: the running one, where it is known."""
    task = (loop or asyncio.get_running_loop()).create_task(work)
    tasks.add(task)
    task.add_done_callback(tasks.discard)
    return task


def _limit_unread(transport: asyncio.Transport, timeout_s: float) -> None:
    """Let the kernel drop a client that acknowledges or reads nothing for so long (TCP_USER_TIMEOUT)."""
    connected = transport.get_extra_info("socket")
    if hasattr(socket, "TCP_USER_TIMEOUT") and connected.family in (socket.AF_INET, socket.AF_INET6):
        connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(timeout_s * 1000))


def _hypercorn_config(options: ListenerOptions) -> Config:
    config = Config()
    config.accesslog = None
    config.errorlog = logging.getLogger("tmi.http")
    config.include_server_header = False
    config.keep_alive_timeout = options.keep_alive_s
    config.h11_max_incomplete_size = options.head_max_bytes
    config.startup_timeout = config.shutdown_timeout = options.startup_timeout_s
    return config


def _gate(app: ASGIFramework, live: LiveEndpoint) -> Callable[..., Awaitable[None]]:
    """Keep what belongs to live sockets away from the REST application."""

    async def gated(scope: Any, receive: Any, send: Any) -> None:
        kind, path = scope["type"], without_version(scope.get("path", ""))
        if kind == "websocket" and live.matches(path):
            await _answer(send, "websocket.http.response", _RECONNECT, transport_headers(scope))
        elif kind == "http" and live.is_address(path):
            await _answer(send, "http.response", UPGRADE_REQUIRED, transport_headers(scope))
        else:
            await app(scope, receive, send)

    def transport_headers(scope: Any) -> Mapping[str, str]:
        told = [value.decode("latin-1") for name, value in scope["headers"] if name == b"x-forwarded-proto"]
        own = "https" if scope["scheme"] in ("https", "wss") else "http"
        return live.transport_headers(scope["client"], told, own)

    return gated


async def _answer(
    send: Callable[[dict[str, Any]], Awaitable[None]], event: str, problem: Problem, more: Mapping[str, str]
) -> None:
    body = orjson.dumps(problem.body)
    headers = {
        "Content-Type": "application/json",
        "Content-Length": str(len(body)),
        **ALWAYS,
        **more,
        **problem.headers,
    }
    lines = [(name.lower().encode(), value.encode()) for name, value in headers.items()]
    await send({"type": f"{event}.start", "status": problem.status, "headers": lines})
    await send({"type": f"{event}.body", "body": body, "more_body": False})
