"""The cheap connections of the load that only connects, against a library's WebSocket server."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest
from aiohttp import WSMsgType, web

from bench.caller import HEAD_MAX_BYTES, Caller, Door, accept_of, cut_frame, frame
from bench.protocols import Dialect, hocuspocus, y_websocket
from bench.refusals import Refused
from bench.servers import Room
from bench.yjs import EMPTY_STATE_VECTOR, EMPTY_UPDATE

CLIENT = 7

Handler = Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]


@asynccontextmanager
async def _served(handler: Handler, dialect: Dialect | None = None) -> AsyncIterator[Door]:
    """A server with that handler for every path, and the way in."""
    runner = web.ServerRunner(web.Server(handler))
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        port = runner.addresses[0][1]
        yield Door.of(Room(f"ws://127.0.0.1:{port}/a/room?token=x", dialect or y_websocket()))
    finally:
        await runner.cleanup()


@asynccontextmanager
async def _said(answer: bytes) -> AsyncIterator[Door]:
    """A server that says those bytes to whatever it is asked, and closes."""

    async def say(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(answer)
        writer.close()

    server = await asyncio.start_server(say, "127.0.0.1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        yield Door.of(Room(f"ws://127.0.0.1:{port}/room", y_websocket()))


@pytest.mark.parametrize("dialect", [y_websocket(), hocuspocus("a document", "a token " * 100)])
async def test_it_says_what_a_stock_client_says_and_waits_for_the_first_sync(dialect: Dialect) -> None:
    heard: list[bytes] = []
    asked: list[tuple[str, str]] = []

    async def serve(request: web.BaseRequest) -> web.WebSocketResponse:
        asked.append((request.path_qs, request.headers["Host"]))
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        await socket.ping()
        await socket.send_bytes(dialect.ask(EMPTY_STATE_VECTOR + b"\x00" * 300))
        async for message in socket:
            assert message.type is WSMsgType.BINARY
            heard.append(message.data)
            if message.data == dialect.ask():
                await socket.send_bytes(dialect.present + b"\x00" * 70_000)
                await socket.send_bytes(dialect.answer(EMPTY_UPDATE))
        heard.append(str(socket.close_code).encode())
        return socket

    async with _served(serve, dialect) as door:
        caller = Caller(door, CLIENT)
        await caller.join("127.0.0.3")
        await caller.leave()
    opening = [] if dialect.opening is None else [dialect.opening]
    said = [*opening, dialect.ask(), dialect.presence(CLIENT, 1), dialect.answer(EMPTY_UPDATE), b"1000"]
    assert said == heard
    assert [("/a/room?token=x", f"127.0.0.1:{door.port}")] == asked


async def test_the_first_sync_is_waited_for() -> None:
    async def say_nothing(request: web.BaseRequest) -> web.WebSocketResponse:
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        await socket.send_bytes(y_websocket().ask())
        async for _ in socket:
            pass
        return socket

    async with _served(say_nothing) as door:
        caller = Caller(door, CLIENT)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(caller.join(), 0.2)
        await caller.leave()


async def test_a_refusal_says_what_the_server_says() -> None:
    async def refuse(_request: web.BaseRequest) -> web.Response:
        return web.json_response({"error_description": "This node has as many sockets as it may"}, status=503)

    async with _served(refuse) as door:
        caller = Caller(door, CLIENT)
        with pytest.raises(Refused, match=r"503: This node has .* TMI_SOCKETS_MAX"):
            await caller.join()
        await caller.leave()


async def test_a_closing_frame_before_the_first_sync_is_told() -> None:
    async def close(request: web.BaseRequest) -> web.WebSocketResponse:
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        await socket.close(code=4403, message=b"no role here")
        return socket

    async with _served(close) as door:
        caller = Caller(door, CLIENT)
        with pytest.raises(ConnectionError, match="closed with 4403: no role here"):
            await caller.join()
        await caller.leave()


ACCEPTED = b"HTTP/1.1 101 Switching Protocols\r\nSec-WebSocket-Accept: "


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        (ACCEPTED + accept_of(b"another") + b"\r\n\r\n", "belongs to another key"),
        (b"SSH-2.0-OpenSSH\r\n\r\n", "no HTTP"),
        (b"HTTP/1.1 101 " + b"x" * HEAD_MAX_BYTES, "longer than"),
        (b"", "closed before the first sync"),
    ],
)
async def test_anything_else_than_a_handshake_is_no_connection(answer: bytes, told: str) -> None:
    async with _said(answer) as door:
        caller = Caller(door, CLIENT)
        with pytest.raises(ConnectionError, match=told):
            await caller.join()
        await caller.leave()


async def test_who_never_came_leaves_at_once() -> None:
    await Caller(Door.of(Room("ws://127.0.0.1:1/room", y_websocket())), CLIENT).leave()


@pytest.mark.parametrize("size", [0, 1, 125, 126, 65_535])
def test_a_frame_is_masked_and_says_its_length(size: int) -> None:
    payload = bytes(at % 251 for at in range(size))
    sent = frame(0x82, payload)
    head = 2 if size < 126 else 4
    mask, masked = sent[head : head + 4], sent[head + 4 :]
    assert bytes(byte ^ mask[at % 4] for at, byte in enumerate(masked)) == payload
    assert sent[1] == 0x80 | min(126, size)


def test_a_caller_says_nothing_longer() -> None:
    with pytest.raises(ValueError, match="65,535"):
        frame(0x82, b"x" * 65_536)


def test_frames_are_cut_only_when_whole() -> None:
    for head in (b"\x82\x05", b"\x82\x7e\x00\x05", b"\x82\x7f" + (5).to_bytes(8, "big")):
        whole = head + b"hello"
        assert all(cut_frame(whole[:end], 0) is None for end in range(len(whole)))
        assert cut_frame(b"?" + whole + b"!", 1) == (0x82, b"hello", len(whole) + 1)


@pytest.mark.parametrize("head", [b"\x82\x85", b"\x82\xff", b"\x82\x7f" + b"\xff" * 8])
def test_what_no_server_sends_is_refused(head: bytes) -> None:
    with pytest.raises(ConnectionError):
        cut_frame(head, 0)


def test_the_address_of_a_room_needs_a_host() -> None:
    with pytest.raises(ValueError, match="no host"):
        Door.of(Room("/room", y_websocket()))
    door = Door.of(Room("wss://127.0.0.1/room", Dialect(b"", None, "tmi.example:8443")))
    assert (door.port, door.is_secure, door.server_name) == (443, True, "tmi.example")
    assert b"Host: tmi.example:8443\r\n" in door.head


def test_the_accept_key_is_that_of_the_rfc() -> None:
    # RFC 6455, 1.3.
    assert accept_of(b"dGhlIHNhbXBsZSBub25jZQ==") == b"s3pPLMBiTxaQ9kYGzzhZRbK+xOo="
