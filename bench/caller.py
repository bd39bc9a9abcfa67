"""Connections made as cheaply as they can be, for the load that does nothing but connect.

`Client` comes by way of a WebSocket library, whose handshake costs the generator more than it costs the
servers, so that they would all look alike. A `Caller` speaks the few lines of HTTP and the few frames itself
(RFC 6455), says what a stock client says when it opens a document, and hears no more than its first sync.
"""

import asyncio
import os
from base64 import b64encode
from dataclasses import dataclass
from hashlib import sha1
from typing import cast
from urllib.parse import urlsplit

from bench.client import JOIN_TIMEOUT_S, MAX_FRAME_BYTES
from bench.protocols import Dialect
from bench.refusals import Refused, with_setting
from bench.servers import Room
from bench.tls import checking
from bench.yjs import EMPTY_UPDATE

HEAD_MAX_BYTES = 16 << 10

_GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
BINARY, CLOSE = 0x82, 0x88
"""The first byte of a frame that is a whole message of that kind."""

_GOING = (1000).to_bytes(2, "big")


@dataclass(frozen=True)
class Door:
    """Where a room is entered, and what is said there: worked out once for all who call."""

    host: str
    port: int
    is_secure: bool
    server_name: str | None
    dialect: Dialect
    head: bytes

    @classmethod
    def of(cls, room: Room) -> "Door":
        """Raises `ValueError` for a URL without a host."""
        url = urlsplit(room.url)
        if url.hostname is None:
            raise ValueError(f"no host in {room.url!r}")
        port = url.port or (443 if url.scheme == "wss" else 80)
        authority = room.dialect.authority or url.netloc
        target = (url.path or "/") + (f"?{url.query}" if url.query else "")
        head = (
            f"GET {target} HTTP/1.1\r\nHost: {authority}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: "
        )
        name = urlsplit(f"//{authority}").hostname
        return cls(url.hostname, port, url.scheme == "wss", name, room.dialect, head.encode())


class Caller(asyncio.Protocol):
    """One connection: up to the first sync, and gone again."""

    def __init__(self, door: Door, client_id: int) -> None:
        self._door = door
        self._client_id = client_id
        self._dialect = door.dialect
        self._key = b64encode(os.urandom(16))
        self._read = b""
        self._is_open = False
        self._transport: asyncio.Transport | None = None
        loop = asyncio.get_running_loop()
        self._joined: asyncio.Future[None] = loop.create_future()
        self._gone: asyncio.Future[None] = loop.create_future()

    async def join(self, source: str | None = None) -> None:
        """Connects, from a given address of this machine or any, and waits for the first sync.

        Raises `OSError` (`Refused` with the server's reason) or `TimeoutError`.
        """
        door = self._door
        local = None if source is None else (source, 0)
        async with asyncio.timeout(JOIN_TIMEOUT_S):
            await asyncio.get_running_loop().create_connection(
                lambda: self,
                door.host,
                door.port,
                local_addr=local,
                ssl=checking() if door.is_secure else None,
                server_hostname=door.server_name if door.is_secure else None,
            )
            await self._joined

    async def leave(self) -> None:
        """Says that it goes, closes, and waits until that is done. Raises `TimeoutError`."""
        if self._transport is None:
            return
        if self._is_open and not self._transport.is_closing():
            self._write(frame(CLOSE, _GOING))
        self._transport.close()
        await asyncio.wait_for(self._gone, JOIN_TIMEOUT_S)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's own transports are no subclasses of asyncio's.
        self._transport = cast(asyncio.Transport, transport)
        self._transport.write(self._door.head + self._key + b"\r\n\r\n")

    def data_received(self, data: bytes) -> None:
        if self._joined.done():
            return
        self._read = self._read + data if self._read else data
        try:
            if self._is_open or self._hear_head():
                self._hear_frames()
        except ConnectionError as failure:
            self._fail(failure)

    def connection_lost(self, exc: Exception | None) -> None:
        self._fail(ConnectionError("closed before the first sync" if exc is None else f"lost: {exc}"))
        if not self._gone.done():
            self._gone.set_result(None)

    def _hear_head(self) -> bool:
        """Whether the answer to the handshake is there. Raises `ConnectionError` for a wrong one."""
        head, end, rest = self._read.partition(b"\r\n\r\n")
        if len(head) > HEAD_MAX_BYTES:
            raise ConnectionError(f"the answer to the handshake is longer than {HEAD_MAX_BYTES:,} bytes")
        if not end:
            return False
        status, *lines = head.split(b"\r\n")
        if not status.startswith(b"HTTP/1.1 101"):
            raise Refused.with_answer(status.decode(errors="replace"), rest)
        fields = {name.lower(): value.strip() for name, _, value in (line.partition(b":") for line in lines)}
        if fields.get(b"sec-websocket-accept") != accept_of(self._key):
            raise ConnectionError("the answer to the handshake belongs to another key")
        self._read, self._is_open = rest, True
        dialect = self._dialect
        opening = b"" if dialect.opening is None else frame(BINARY, dialect.opening)
        presence = frame(BINARY, dialect.presence(self._client_id, 1))
        self._write(opening + frame(BINARY, dialect.ask()) + presence)
        return True

    def _hear_frames(self) -> None:
        """Raises `ConnectionError` for a closing frame, and for what no server sends so early."""
        heard = self._read
        at = 0
        while (cut := cut_frame(heard, at)) is not None:
            kind, payload, at = cut
            if kind == CLOSE:
                raise ConnectionError(said_at_the_end(payload))
            if kind == BINARY and payload.startswith(self._dialect.asked):
                self._write(frame(BINARY, self._dialect.answer(EMPTY_UPDATE)))
            elif kind == BINARY and payload.startswith(self._dialect.answered) and not self._joined.done():
                self._joined.set_result(None)
        self._read = heard[at:]

    def _write(self, data: bytes) -> None:
        assert self._transport is not None
        self._transport.write(data)

    def _fail(self, failure: ConnectionError) -> None:
        if not self._joined.done():
            self._joined.set_exception(failure)
            self._joined.exception()  # Nobody may be waiting any more, and then nobody has to be told.


def accept_of(key: bytes) -> bytes:
    """What a server answers to a key (RFC 6455, 4.2.2)."""
    return b64encode(sha1(key + _GUID, usedforsecurity=False).digest())


def frame(kind: int, payload: bytes) -> bytes:
    """A whole masked message of a client, of 125 bytes at most or, with two bytes of length, of 65,535.

    Raises `ValueError` for a longer one. RFC 6455, 5.2 and 5.3.
    """
    size = len(payload)
    if size > 0xFFFF:
        raise ValueError("a caller has nothing to say that takes more than 65,535 bytes")
    head = bytes((kind, 0x80 | size)) if size < 126 else bytes((kind, 0x80 | 126)) + size.to_bytes(2, "big")
    mask = os.urandom(4)
    pad = (mask * (size // 4 + 1))[:size]
    masked = int.from_bytes(payload, "big") ^ int.from_bytes(pad, "big")
    return head + mask + masked.to_bytes(size, "big")


def cut_frame(data: bytes, at: int) -> tuple[int, bytes, int] | None:
    """A server's frame that begins at `at`, by first byte and payload, and where the next begins.

    None if it is not whole yet. Raises `ConnectionError` for one that is masked or too long.
    """
    if len(data) < at + 2:
        return None
    start, size = at + 2, data[at + 1]
    if size > 125:
        length_bytes = 2 if size == 126 else 8
        if size > 127:
            raise ConnectionError("a server masked its frame")
        if len(data) < start + length_bytes:
            return None
        size = int.from_bytes(data[start : start + length_bytes], "big")
        start += length_bytes
        if size > MAX_FRAME_BYTES:
            raise ConnectionError(f"a frame of {size:,} bytes")
    end = start + size
    return None if len(data) < end else (data[at], data[start:end], end)


def said_at_the_end(payload: bytes) -> str:
    """What a closing frame says, with the setting of TMI that it may be about."""
    code = int.from_bytes(payload[:2], "big") if payload else 1005
    return f"closed with {code}: {with_setting(payload[2:].decode(errors='replace'))}"
