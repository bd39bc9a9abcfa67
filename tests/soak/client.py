"""A light client with a Yjs document of its own, so that one process can be two hundred of them."""

import asyncio
import json
import random
from typing import Any, cast

from pycrdt import Doc, Map

from crdt import y_websocket
from crdt.lib0 import Decoder, var_bytes, var_string, write_var_uint
from tests.harness.raw_websocket import BINARY, CLOSE, upgrade_head

JOIN_TIMEOUT_S = 30
KEYS = 50
_SYNC, _STEP_1, _AUTH, _DENIED = 0, 0, 2, 1


def masked(opcode: int, payload: bytes) -> bytes:
    """A client's frame, with a mask of zeros: it changes nothing and so costs nothing."""
    size = len(payload)
    if size < 126:
        return bytes((0x80 | opcode, 0x80 | size)) + bytes(4) + payload
    if size < 65536:
        return bytes((0x80 | opcode, 0xFE)) + size.to_bytes(2, "big") + bytes(4) + payload
    return bytes((0x80 | opcode, 0xFF)) + size.to_bytes(8, "big") + bytes(4) + payload


class Wire(asyncio.Protocol):
    """One connection of a client: the upgrade, then frames."""

    def __init__(self, client: "Client", head: bytes) -> None:
        loop = asyncio.get_running_loop()
        self._client = client
        self._head = head
        self._received = bytearray()
        self.is_upgraded = False
        self.transport: asyncio.Transport | None = None
        self.synced: asyncio.Future[None] = loop.create_future()
        """Set by the first SyncStep2; fails with what the server says against it."""
        self.ended: asyncio.Future[None] = loop.create_future()
        self.close_code: int | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self.transport.write(self._head)

    def connection_lost(self, exc: Exception | None) -> None:
        self.fail(f"the connection ended: {exc}, close code {self.close_code}")
        self.ended.set_result(None)

    def fail(self, reason: str) -> None:
        """Tell who waits for the first sync that it will not come."""
        if not self.synced.done():
            self.synced.set_exception(ConnectionError(reason))
            self.synced.exception()  # a client that was dropped waits no longer

    def data_received(self, data: bytes) -> None:
        received = self._received
        received += data
        if not self.is_upgraded:
            end = received.find(b"\r\n\r\n")
            if end < 0:
                return
            if not received.startswith(b"HTTP/1.1 101"):
                self.fail(bytes(received[:500]).decode("latin-1"))
                return
            del received[: end + 4]
            self.is_upgraded = True
            self._client.opened(self)
        while (frame := self._next_frame()) is not None:
            opcode, payload = frame
            if opcode == BINARY:
                self._client.received(self, payload)
            elif opcode == CLOSE:
                self.close_code = int.from_bytes(payload[:2], "big")
                self.send(CLOSE, payload)

    def _next_frame(self) -> tuple[int, bytes] | None:
        received = self._received
        if len(received) < 2:
            return None
        size, at = received[1], 2
        if size >= 126:
            at = 4 if size == 126 else 10
            size = int.from_bytes(received[2:at], "big")
        if len(received) < at + size:
            return None
        frame = received[0] & 0x0F, bytes(received[at : at + size])
        del received[: at + size]
        return frame

    def send(self, opcode: int, payload: bytes) -> None:
        if self.transport is not None and not self.transport.is_closing():
            self.transport.write(masked(opcode, payload))


class Client:
    """An editor of one diagram at a time, who comes and goes and keeps what was edited offline."""

    def __init__(self, port: int, token: str, *, is_hocuspocus: bool, seed: int) -> None:
        self._port = port
        self._token = token
        self._is_hocuspocus = is_hocuspocus
        self._random = random.Random(seed)
        self._wire: Wire | None = None
        self._clock = 0
        self.diagram = ""
        self.unexpected: list[str] = []
        """What the server did that it should not have."""
        self.lock = asyncio.Lock()
        """Held by whoever makes it come or go."""

    def __str__(self) -> str:
        there = "away" if self._wire is None else f"joined {self._wire.synced.done()}"
        return f"{'Hocuspocus' if self._is_hocuspocus else 'y-websocket'} in {self.diagram} ({there})"

    async def move(self, diagram: str) -> None:
        """Leave, forget everything, and join another diagram."""
        await self.leave()
        self.diagram = diagram
        self.doc: Doc[Any] = Doc()
        self.cells = self.doc.get("cells", type=Map[Any])
        await self.join()

    async def join(self) -> None:
        """Connect and wait for the first sync. Raises ConnectionError."""
        path = "/collab" if self._is_hocuspocus else f"/collab/{self.diagram}?token={self._token}"
        wire = Wire(self, upgrade_head(path))
        await asyncio.get_running_loop().create_connection(lambda: wire, "127.0.0.1", self._port)
        self._wire = wire
        async with asyncio.timeout(JOIN_TIMEOUT_S):
            await wire.synced

    async def leave(self) -> None:
        """Close politely, and wait for the end."""
        wire, self._wire = self._wire, None
        if wire is not None:
            wire.send(CLOSE, (1000).to_bytes(2, "big"))
            async with asyncio.timeout(JOIN_TIMEOUT_S):
                await wire.ended

    async def drop(self) -> None:
        """Be gone without a word."""
        wire, self._wire = self._wire, None
        if wire is not None and wire.transport is not None:
            wire.transport.abort()
            await wire.ended

    def edit(self) -> None:
        """Set one of a few keys; offline, too."""
        before = self.doc.get_state()
        self.cells[f"k{self._random.randrange(KEYS)}"] = {"x": self._random.random(), "y": 1}
        self._send(y_websocket.update(self.doc.get_update(before)))

    def point(self) -> None:
        """Move the cursor."""
        self._clock += 1
        state = var_string(json.dumps({"cursor": {"x": self._random.random()}}))
        ids = b"\x01" + write_var_uint(self.doc.client_id) + write_var_uint(self._clock)
        self._send(y_websocket.awareness(ids + state))

    def content(self) -> dict[str, Any]:
        return self.cells.to_py() or {}

    def differing(self, other: "Client") -> set[str]:
        """The keys at which the two hold different things."""
        mine, theirs = self.content(), other.content()
        return {key for key in mine.keys() | theirs.keys() if mine.get(key) != theirs.get(key)}

    # --- the wire -------------------------------------------------------------------------------

    def opened(self, wire: Wire) -> None:
        """The upgrade is done."""
        if self._is_hocuspocus:
            wire.send(BINARY, self._framed(b"\x02\x00" + var_string(self._token)))
        wire.send(BINARY, self._framed(y_websocket.sync_step1(self.doc.get_state())))

    def received(self, wire: Wire, message: bytes) -> None:
        """A message of the server."""
        if wire is not self._wire and self._wire is not None:
            return
        decoder = Decoder(message)
        if self._is_hocuspocus:
            decoder.read_var_bytes()
        kind = decoder.read_var_uint()
        if kind == _AUTH and self._is_hocuspocus and decoder.read_var_uint() == _DENIED:
            wire.fail("denied: " + decoder.read_var_bytes().decode())
        if kind != _SYNC:
            return
        step, body = decoder.read_var_uint(), decoder.read_var_bytes()
        if step == _STEP_1:
            answer = b"\x00\x01" + var_bytes(self.doc.get_update(body))
            wire.send(BINARY, self._framed(answer))
            return
        self.doc.apply_update(body)
        if not wire.synced.done():
            wire.synced.set_result(None)

    def _framed(self, body: bytes) -> bytes:
        return var_string(self.diagram) + body if self._is_hocuspocus else body

    def _send(self, body: bytes) -> None:
        if self._wire is None:
            return
        if self._wire.close_code is not None:
            self.unexpected.append(f"closed with {self._wire.close_code}")
            self._wire = None
        elif (
            self._wire.is_upgraded
        ):  # before it is synced, too: the server may have been told the state already
            self._wire.send(BINARY, self._framed(body))
