"""The load client: one WebSocket, one Yjs client id, and a record of every frame with the time it was read.

While a measurement runs a client does the least it can: it keeps the frame and one time stamp per read event.
What the frames say is found out afterwards (see `bench.ledger`), so that work stays out of the latencies.
"""

import asyncio
from array import array
from contextlib import suppress
from itertools import islice
from socket import AF_INET, AF_INET6, IPPROTO_TCP, SO_RCVBUF, SOL_SOCKET, TCP_MAXSEG, socket
from time import perf_counter
from typing import Any
from urllib.parse import urlsplit

from picows import (
    WSCloseCode,
    WSFrame,
    WSHandshakeError,
    WSListener,
    WSMsgType,
    WSTransport,
    ws_connect,
)
from picows.url import WSParsedURL

from bench.protocols import Dialect
from bench.refusals import Refused, with_setting
from bench.tls import checking
from bench.yjs import (
    EMPTY_STATE_VECTOR,
    EMPTY_UPDATE,
    MapWriter,
    Reader,
    clock_in_state_vector,
    keyed_structs,
    state_vector,
)

RENEW_PRESENCE_S = 15.0
JOIN_TIMEOUT_S = 20.0
MAX_FRAME_BYTES = 256 << 20
SEGMENT_BYTES = 1400
RECEIVE_BUFFER_BYTES = 128 << 10
ROOT = "meta"


class Client(WSListener):
    """One editor in one room."""

    def __init__(self, number: int, client_id: int, dialect: Dialect) -> None:
        self.number = number
        self.writer = MapWriter(client_id, ROOT)
        self.sent_at = array("d")
        self.frames: list[bytes] = []
        self.read_at = array("d")
        self.lost: str | None = None
        self.dialect = dialect
        self._told = dialect.updates[1]
        self._asked = dialect.asked
        self._answered = dialect.answered
        self._joined: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._have = EMPTY_STATE_VECTOR
        self._clocks: dict[int, int] = {}
        self._clocks_of_frames = 0
        self._transport: WSTransport | None = None
        self._read_starts = True
        self._now = 0.0
        self._presence_clock = 0
        self._renewal: asyncio.TimerHandle | None = None
        self._leaving = False
        self._headers = None if dialect.authority is None else {"Host": dialect.authority}
        self._certified = None if dialect.authority is None else urlsplit(f"//{dialect.authority}").hostname

    async def join(self, url: str, source: str | None = None) -> None:
        """Connects, from a given address of this machine or any, and waits for the first sync.

        Raises `OSError` (`Refused` with the server's reason), `TimeoutError` or `WSError`.
        """
        try:
            await ws_connect(
                lambda: self, url, websocket_handshake_timeout=JOIN_TIMEOUT_S, max_frame_size=MAX_FRAME_BYTES,
                local_addr=None if source is None else (source, 0), max_redirects=0,
                socket_factory=self._socket, extra_headers=self._headers,
                **(self._tls() if url.startswith("wss:") else {}),
            )  # fmt: skip
        except WSHandshakeError as refusal:
            raise Refused.by(refusal) from refusal
        await asyncio.wait_for(self._joined, JOIN_TIMEOUT_S)

    async def rejoin(self, url: str, have: bytes) -> None:
        """Connects again, as a stock client does: asks for what lies beyond `have`, its state vector.

        Raises `OSError`, `TimeoutError` or `WSError`.
        """
        await self.cut()
        self._joined = asyncio.get_running_loop().create_future()
        self._have, self._leaving, self._read_starts, self.lost = have, False, True, None
        await self.join(url)

    def state_vector(self) -> bytes:
        """Of the document that a stock client would have made of what it wrote and of the frames read so far.

        Those read since it was last asked for are decoded. One that cannot be read brings nothing.
        """
        clocks = self._clocks
        for frame in islice(self.frames, self._clocks_of_frames, None):
            with suppress(ValueError):
                for struct in keyed_structs(self.dialect.update_in(frame) or EMPTY_UPDATE):
                    if struct.clock == clocks.get(struct.client, 0):
                        clocks[struct.client] = struct.clock + 1
        self._clocks_of_frames = len(self.frames)
        return state_vector({**clocks, self.writer.client: len(self.writer.written)})

    def edit(self, key: bytes, value: bytes) -> None:
        """Sends one edit. Its clock is its index in `sent_at`."""
        assert self._transport is not None
        frame = self.dialect.tell(self.writer.set(key, value))
        self.sent_at.append(perf_counter())
        self._transport.send(WSMsgType.BINARY, frame)

    async def cut(self) -> None:
        """Ends the connection without a word to the server."""
        self._leaving = True
        if self._transport is not None and not self._transport.is_disconnected:
            self._transport.disconnect(graceful=False)
            await asyncio.wait_for(self._transport.wait_disconnected(), JOIN_TIMEOUT_S)

    async def leave(self) -> None:
        self._leaving = True
        if self._renewal is not None:
            self._renewal.cancel()
        if self._transport is not None and not self._transport.is_disconnected:
            self._transport.send_close(WSCloseCode.OK)
            self._transport.disconnect()
            await asyncio.wait_for(self._transport.wait_disconnected(), JOIN_TIMEOUT_S)

    def on_ws_connected(self, transport: WSTransport) -> None:
        self._transport = transport
        if self.dialect.opening is not None:
            transport.send(WSMsgType.BINARY, self.dialect.opening)
        transport.send(WSMsgType.BINARY, self.dialect.ask(self._have))
        self._renew_presence()

    def on_ws_frame(self, transport: WSTransport, frame: WSFrame) -> None:
        """Hot: `msg_type` costs as much as all the rest, and no control frame begins like an update."""
        if self._read_starts:
            self._now = perf_counter()
        self._read_starts = frame.last_in_buffer
        payload = frame.get_payload_as_bytes()
        if payload.startswith(self._told) or frame.msg_type is WSMsgType.BINARY:
            self.frames.append(payload)
            self.read_at.append(self._now)
        else:
            self._on_other_frame(transport, frame)
        if payload.startswith(self._asked):
            self._answer(transport, payload)
        elif not self._joined.done() and payload.startswith(self._answered):
            self._joined.set_result(None)

    def on_ws_disconnected(self, _transport: WSTransport) -> None:
        if self._renewal is not None:
            self._renewal.cancel()
        if not self._leaving and self.lost is None:
            self.lost = "the connection was lost"
        if not self._joined.done():
            self._joined.set_exception(ConnectionError(self.lost or "closed before the first sync"))

    def _tls(self) -> dict[str, Any]:
        """Whose certificate has to be shown: the named host's, or else that of the URL's."""
        named = {} if self._certified is None else {"server_hostname": self._certified}
        return {"ssl_context": checking(), **named}

    async def _socket(self, _url: WSParsedURL) -> socket | None:
        """What is connected already; None for a connection with the system's defaults. Raises `OSError`."""
        return None

    def _on_other_frame(self, transport: WSTransport, frame: WSFrame) -> None:
        if frame.msg_type is WSMsgType.CLOSE:
            told = (frame.get_close_message() or b"").decode(errors="replace")
            self.lost = f"closed with {frame.get_close_code()}: {with_setting(told)}"
            transport.disconnect()
        elif frame.msg_type is not WSMsgType.PONG:
            self.lost = f"an unexpected frame: {frame.msg_type}"
            transport.disconnect()

    def _answer(self, transport: WSTransport, payload: bytes) -> None:
        state_vector = Reader(payload[len(self._asked) :]).chunk()
        have = clock_in_state_vector(state_vector, self.writer.client)
        transport.send(WSMsgType.BINARY, self.dialect.answer(self.writer.since(have)))

    def _renew_presence(self) -> None:
        assert self._transport is not None
        self._presence_clock += 1
        presence = self.dialect.presence(self.writer.client, self._presence_clock)
        self._transport.send(WSMsgType.BINARY, presence)
        self._renewal = asyncio.get_running_loop().call_later(RENEW_PRESENCE_S, self._renew_presence)


class DistantClient(Client):
    """One that connects as over Ethernet, with small segments and a bounded receive buffer.

    With loopback's own sizes the kernel takes four megabytes for a client before the server notices that it
    does not read, and hands over as much in one call, in which nobody else on that core gets a turn.
    """

    async def _socket(self, url: WSParsedURL) -> socket:
        connection = socket(AF_INET6 if ":" in url.host else AF_INET)
        try:
            connection.setblocking(False)
            connection.setsockopt(IPPROTO_TCP, TCP_MAXSEG, SEGMENT_BYTES)
            connection.setsockopt(SOL_SOCKET, SO_RCVBUF, RECEIVE_BUFFER_BYTES)
            # picows would leave it open where this fails.
            await asyncio.get_running_loop().sock_connect(connection, (url.host, url.port))
        except BaseException:
            connection.close()
            raise
        return connection
