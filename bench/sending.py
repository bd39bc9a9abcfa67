"""`python -m bench.sending PORT`: gives prepared frames to everybody who is connected, as fast as they read.

It does no more than a tap does, so that what is measured is who reads. Whoever connects under `/prompt` hands
the frames over, one message each, and opens the tap with a text message that says how many are to be written
at once. Everybody else has the first sync answered with nothing, and is then given all frames in order.
"""

import asyncio
import sys
from struct import pack

import uvloop
from picows import WSFrame, WSListener, WSMsgType, WSTransport, WSUpgradeRequest, ws_create_server

from bench.protocols import y_websocket
from bench.yjs import EMPTY_UPDATE

HOST = "127.0.0.1"
PROMPT = "/prompt"
MAX_FRAME_BYTES = 1 << 16


def on_the_wire(payload: bytes) -> bytes:
    """A server's binary frame (RFC 6455, section 5.2) of less than 64 KiB."""
    size = len(payload)
    head = pack("!BB", 0x82, size) if size < 126 else pack("!BBH", 0x82, 126, size)
    return head + payload


class Tap:
    """All frames as they go out, and those who read them."""

    def __init__(self) -> None:
        self.frames: list[bytes] = []
        self.readers: list[WSTransport] = []
        self.pouring: asyncio.Task[None] | None = None

    def accept(self, request: WSUpgradeRequest) -> WSListener:
        return Prompt(self) if request.path == PROMPT.encode() else Reading(self)

    async def pour(self, at_once: int) -> None:
        """Everything to everybody who is there now; the readers take turns, and slow ones hold up nobody."""
        pieces = [b"".join(self.frames[n : n + at_once]) for n in range(0, len(self.frames), at_once)]
        self.frames.clear()
        given = dict.fromkeys((reader.underlying_transport for reader in self.readers), 0)
        while given:
            for reader, number in list(given.items()):
                if reader.is_closing() or number == len(pieces):
                    del given[reader]
                elif not reader.get_write_buffer_size():
                    reader.write(pieces[number])
                    given[reader] = number + 1
            await asyncio.sleep(0)


class Prompt(WSListener):
    """Whoever hands the frames over."""

    def __init__(self, tap: Tap) -> None:
        self._tap = tap

    def on_ws_frame(self, transport: WSTransport, frame: WSFrame) -> None:
        if frame.msg_type is WSMsgType.BINARY:
            self._tap.frames.append(on_the_wire(frame.get_payload_as_bytes()))
        elif frame.msg_type is WSMsgType.TEXT:
            self._tap.pouring = asyncio.create_task(self._tap.pour(int(frame.get_payload_as_bytes())))
        else:
            transport.disconnect()


class Reading(WSListener):
    """Whoever reads."""

    def __init__(self, tap: Tap) -> None:
        self._tap = tap

    def on_ws_connected(self, transport: WSTransport) -> None:
        self._tap.readers.append(transport)

    def on_ws_disconnected(self, transport: WSTransport) -> None:
        self._tap.readers.remove(transport)

    def on_ws_frame(self, transport: WSTransport, frame: WSFrame) -> None:
        if frame.msg_type is WSMsgType.CLOSE:
            transport.disconnect()
        elif frame.get_payload_as_bytes().startswith(y_websocket().asked):
            transport.send(WSMsgType.BINARY, y_websocket().answer(EMPTY_UPDATE))


async def serve(port: int) -> None:
    server = await ws_create_server(Tap().accept, HOST, port, max_frame_size=MAX_FRAME_BYTES)
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(serve(int(sys.argv[1])))
