"""A WebSocket client that sends exactly the bytes it is told to, and checks what it receives."""

import asyncio
import base64
import contextlib
import os
import struct
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass

CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG = 0x0, 0x1, 0x2, 0x8, 0x9, 0xA
TIMEOUT_S = 5.0
KEY = base64.b64encode(bytes(range(16))).decode()


@dataclass(frozen=True, slots=True)
class Frame:
    """A frame from the server."""

    opcode: int
    payload: bytes

    @property
    def close_code(self) -> int:
        """The code of a Close frame; 1005 without one."""
        assert self.opcode == CLOSE
        return int.from_bytes(self.payload[:2], "big") if self.payload else 1005


def frame(
    opcode: int,
    payload: bytes = b"",
    *,
    fin: bool = True,
    rsv: int = 0,
    masked: bool = True,
    claimed: int | None = None,
    length_bytes: int | None = None,
) -> bytes:
    """A client's frame, right or wrong: `claimed` lies about the length, `length_bytes` is 0, 2 or 8."""
    size = len(payload) if claimed is None else claimed
    if length_bytes is None:
        length_bytes = 0 if size < 126 else 2 if size < 65536 else 8
    marker = {0: size, 2: 126, 8: 127}[length_bytes]
    head = bytes(((fin << 7) | (rsv << 4) | opcode, (masked << 7) | marker))
    head += {0: b"", 2: struct.pack(">H", size & 0xFFFF), 8: struct.pack(">Q", size)}[length_bytes]
    if not masked:
        return head + payload
    mask = os.urandom(4)
    return head + mask + bytes(byte ^ mask[i % 4] for i, byte in enumerate(payload))


def close_frame(code: int, reason: bytes = b"") -> bytes:
    """A client's Close."""
    return frame(CLOSE, struct.pack(">H", code) + reason)


def upgrade_head(path: str, headers: Mapping[str, str] | None = None, host: str = "localhost") -> bytes:
    """An opening handshake; a header given as empty is left out."""
    fields = {
        "Host": host,
        "Upgrade": "websocket",
        "Connection": "Upgrade",
        "Sec-WebSocket-Version": "13",
        "Sec-WebSocket-Key": KEY,
        **(headers or {}),
    }
    lines = "".join(f"{name}: {value}\r\n" for name, value in fields.items() if value)
    return f"GET {path} HTTP/1.1\r\n{lines}\r\n".encode("latin-1")


@dataclass(frozen=True, slots=True)
class Answer:
    """The head of an HTTP answer and, where a Content-Length says so, its body."""

    status: int
    headers: Mapping[str, str]
    body: bytes


class RawWebSocket:
    """A TCP connection that speaks HTTP for one request and frames from then on. Every wait is bounded."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    def send(self, data: bytes) -> None:
        """Queue bytes as they are."""
        self.writer.write(data)

    def send_binary(self, payload: bytes) -> None:
        """Queue a binary message."""
        self.send(frame(BINARY, payload))

    async def answer(self) -> Answer:
        """Read an HTTP answer."""
        async with asyncio.timeout(TIMEOUT_S):
            head = await self.reader.readuntil(b"\r\n\r\n")
            first, *lines = head[:-4].decode("latin-1").split("\r\n")
            headers = {
                name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)
            }
            body = await self.reader.readexactly(int(headers.get("content-length", "0")))
        return Answer(int(first.split(" ")[1]), headers, body)

    async def receive(self) -> Frame:
        """Read a frame, and check that a server may send it. Raises IncompleteReadError at the end."""
        async with asyncio.timeout(TIMEOUT_S):
            first, second = await self.reader.readexactly(2)
            assert first & 0xF0 == 0x80, "final, and no reserved bit"
            assert second < 0x80, "not masked"
            size = second
            if second >= 126:
                size = int.from_bytes(await self.reader.readexactly(2 if second == 126 else 8), "big")
            return Frame(first & 0x0F, await self.reader.readexactly(size))

    async def receive_binary(self) -> bytes:
        """Read the next binary message; pings are skipped."""
        while True:
            received = await self.receive()
            if received.opcode != PING:
                assert received.opcode == BINARY, received
                return received.payload

    async def receive_close(self) -> Frame:
        """Read until the Close frame, answer it, and check that nothing comes after it."""
        received = await self.receive_close_only()
        self.send(frame(CLOSE, received.payload))
        await self.receive_end()
        return received

    async def receive_close_only(self) -> Frame:
        """Read until the Close frame."""
        while (received := await self.receive()).opcode != CLOSE:
            pass
        return received

    async def receive_end(self) -> None:
        """Check that the connection ends here, without another byte."""
        async with asyncio.timeout(TIMEOUT_S):
            with contextlib.suppress(ConnectionResetError):
                assert await self.reader.read(1) == b""

    async def aclose(self) -> None:
        """Drop the connection."""
        self.writer.transport.abort()
        with contextlib.suppress(OSError):
            await self.writer.wait_closed()


@contextlib.asynccontextmanager
async def connected(port: int) -> AsyncIterator[RawWebSocket]:
    """A TCP connection to the service on this machine."""
    raw = RawWebSocket(*await asyncio.open_connection("127.0.0.1", port))
    try:
        yield raw
    finally:
        await raw.aclose()


@contextlib.asynccontextmanager
async def upgraded(
    port: int, path: str, headers: Mapping[str, str] | None = None
) -> AsyncIterator[RawWebSocket]:
    """An open WebSocket."""
    async with connected(port) as raw:
        raw.send(upgrade_head(path, headers))
        answer = await raw.answer()
        assert answer.status == 101, answer
        assert "sec-websocket-extensions" not in answer.headers
        yield raw
