"""RFC 6455 as a table of raw frames: each violation ends in one Close with the right code, unlogged."""

import asyncio
import logging
import os
import resource
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from api.live.options import LiveOptions
from tests.harness.echo_socket import EchoServer, echo_server
from tests.harness.raw_websocket import (
    BINARY,
    CLOSE,
    CONTINUATION,
    PING,
    PONG,
    TEXT,
    RawWebSocket,
    close_frame,
    connected,
    frame,
    upgrade_head,
    upgraded,
)

LIMIT = 64 * 1024


@pytest.fixture
async def server() -> AsyncIterator[EchoServer]:
    async with echo_server(LiveOptions(frame_max_bytes=LIMIT, sweep_s=3600)) as served:
        yield served


def half(payload: bytes = b"half") -> bytes:
    return frame(BINARY, payload, fin=False)


VIOLATIONS: dict[str, tuple[bytes, int]] = {
    "unmasked": (frame(BINARY, b"x", masked=False), 1002),
    "unmasked close": (frame(CLOSE, masked=False), 1002),
    "rsv1": (frame(BINARY, b"x", rsv=4), 1002),
    "rsv2": (frame(BINARY, b"x", rsv=2), 1002),
    "rsv3": (frame(BINARY, b"x", rsv=1), 1002),
    "rsv on a ping": (frame(PING, b"x", rsv=4), 1002),
    "rsv on a close": (frame(CLOSE, b"\x03\xe8", rsv=4), 1002),
    "rsv on a continuation": (half() + frame(CONTINUATION, b"x", rsv=4), 1002),
    **{f"opcode {code:#x}": (frame(code, b"x"), 1002) for code in (3, 4, 5, 6, 7, 0xB, 0xC, 0xD, 0xE, 0xF)},
    "fragmented ping": (frame(PING, b"x", fin=False), 1002),
    "fragmented pong": (frame(PONG, b"x", fin=False), 1002),
    "fragmented close": (frame(CLOSE, b"\x03\xe8", fin=False), 1002),
    "ping of 126 bytes": (frame(PING, b"x" * 126), 1002),
    "pong of 70000 bytes": (frame(PONG, b"x" * 70_000), 1002),
    "close of 126 bytes": (frame(CLOSE, b"\x03\xe8" + b"x" * 124), 1002),
    "continuation of nothing": (frame(CONTINUATION, b"x"), 1002),
    "continuation of nothing, not final": (frame(CONTINUATION, b"x", fin=False), 1002),
    "continuation after the last": (half() + frame(CONTINUATION) + frame(CONTINUATION), 1002),
    "binary inside a fragmented message": (half() + frame(BINARY, b"x"), 1002),
    "text inside a fragmented message": (half() + frame(TEXT, b"x"), 1002),
    "fragment inside a fragmented message": (half() + half(), 1002),
    "length 5 in 2 bytes": (frame(BINARY, b"xxxxx", length_bytes=2), 1002),
    "length 5 in 8 bytes": (frame(BINARY, b"xxxxx", length_bytes=8), 1002),
    "length 300 in 8 bytes": (frame(BINARY, b"x" * 300, length_bytes=8), 1002),
    "length with its highest bit": (frame(BINARY, claimed=1 << 63), 1002),
    "too large": (frame(BINARY, claimed=LIMIT + 1), 1009),
    "16 GiB claimed": (frame(BINARY, claimed=1 << 34), 1009),
    "2^63 - 1 claimed": (frame(BINARY, claimed=(1 << 63) - 1), 1009),
    "a first fragment too large": (frame(BINARY, claimed=LIMIT + 1, fin=False), 1009),
    "too large in fragments": (half(b"x" * LIMIT) + frame(CONTINUATION, b"x"), 1009),
    "close of one byte": (frame(CLOSE, b"\x03"), 1002),
    **{
        f"close code {code}": (close_frame(code), 1002)
        for code in (0, 1, 999, 1004, 1005, 1006, 1015, 1016, 1100, 2000, 2999, 5000, 65535)
    },
    "close reason that is not UTF-8": (close_frame(1000, b"\xff\xfe"), 1007),
    "text": (frame(TEXT, b"hello"), 1003),
    "text in fragments": (frame(TEXT, b"\xe2\x82", fin=False) + frame(CONTINUATION, b"\xac"), 1003),
    "text that is not UTF-8": (frame(TEXT, b"\xff"), 1007),
    "text that ends within a character": (frame(TEXT, b"\xe2\x82"), 1007),
    "text with a surrogate": (frame(TEXT, b"\xed\xa0\x80"), 1007),
    "text in fragments that is not UTF-8": (
        frame(TEXT, b"\xe2", fin=False) + frame(CONTINUATION, b"\x28\xa1"),
        1007,
    ),
}


@pytest.mark.parametrize("name", VIOLATIONS)
async def test_a_violation_ends_in_one_close_frame_and_no_traceback(
    name: str, server: EchoServer, caplog: pytest.LogCaptureFixture
) -> None:
    sent, expected = VIOLATIONS[name]
    with caplog.at_level(logging.INFO):
        async with upgraded(server.port, "/") as raw:
            raw.send(sent)
            assert expected == (await raw.receive_close()).close_code
    assert [] == caplog.records
    assert (1, 0) == (server.last.endings, server.registry.faults)
    assert {expected: 1} == server.registry.closes
    assert (expected == 1009) == server.registry.refusals["frame"]


@pytest.mark.parametrize("name", VIOLATIONS)
async def test_a_violation_that_comes_byte_by_byte_ends_alike(name: str, server: EchoServer) -> None:
    sent, expected = VIOLATIONS[name]
    async with upgraded(server.port, "/") as raw:
        for at in range(min(len(sent), 40)):
            raw.send(sent[at : at + 1])
            await asyncio.sleep(0)
        raw.send(sent[40:])
        assert expected == (await raw.receive_close()).close_code


@pytest.mark.parametrize("name", VIOLATIONS)
async def test_what_follows_a_violation_is_not_served(name: str, server: EchoServer) -> None:
    sent, expected = VIOLATIONS[name]
    async with upgraded(server.port, "/") as raw:
        raw.send(sent + frame(PING, b"no") + frame(BINARY, b"no") + close_frame(1000))
        assert expected == (await raw.receive_close()).close_code


@pytest.mark.parametrize(
    ("sent", "expected"),
    [
        (frame(CLOSE), 1000),
        *((close_frame(code), code) for code in (1000, 1001, 1003, 1007, 1008, 1009, 1010, 1011, 1012, 1014)),
        (close_frame(3000), 3000),
        (close_frame(4999, "grüß".encode()), 4999),
    ],
)
async def test_a_clean_close_is_answered_with_its_code(
    sent: bytes, expected: int, server: EchoServer
) -> None:
    async with upgraded(server.port, "/") as raw:
        raw.send(sent)
        assert expected == (await raw.receive_close()).close_code
    assert 1 == server.last.endings


async def test_fragments_are_joined_and_control_frames_may_come_between(server: EchoServer) -> None:
    async with upgraded(server.port, "/") as raw:
        raw.send(half(b"a") + frame(PING, b"1") + frame(CONTINUATION, b"b", fin=False))
        raw.send(frame(CONTINUATION, b"", fin=False) + frame(PONG) + frame(CONTINUATION, b"c"))
        pong = await raw.receive()
        assert (PONG, b"1") == (pong.opcode, pong.payload)
        assert b"abc" == await raw.receive_binary()
        raw.send_binary(b"whole")
        assert b"whole" == await raw.receive_binary()


@pytest.mark.parametrize("size", [0, 1, 125, 126, 127, 65535, 65536])
async def test_messages_of_every_length_encoding_come_back(size: int) -> None:
    payload = os.urandom(size)
    async with echo_server() as server, upgraded(server.port, "/") as raw:
        raw.send_binary(payload)
        assert payload == await raw.receive_binary()


async def test_a_ping_is_answered_with_its_payload(server: EchoServer) -> None:
    async with upgraded(server.port, "/") as raw:
        raw.send(frame(PING) + frame(PING, b"x" * 125))
        assert [b"", b"x" * 125] == [(await raw.receive()).payload for _ in range(2)]


async def test_frames_that_came_with_the_handshake_are_served(server: EchoServer) -> None:
    async with connected(server.port) as raw:
        raw.send(upgrade_head("/") + b"".join(frame(BINARY, bytes((n,)) * 100) for n in range(100)))
        assert 101 == (await raw.answer()).status
        assert [bytes((n,)) * 100 for n in range(100)] == [await raw.receive_binary() for _ in range(100)]


async def test_compression_is_never_negotiated(server: EchoServer) -> None:
    offers = {
        "Sec-WebSocket-Extensions": "permessage-deflate; client_max_window_bits, x-webkit-deflate-frame"
    }
    async with upgraded(server.port, "/", offers) as raw:
        raw.send(frame(BINARY, b"\xca\x48\xcd\xc9\xc9\x07\x00", rsv=4))
        assert 1002 == (await raw.receive_close()).close_code


async def test_a_clients_fault_closes_4400_and_our_bug_1011_with_a_traceback(
    server: EchoServer, caplog: pytest.LogCaptureFixture
) -> None:
    async with upgraded(server.port, "/") as other:
        async with upgraded(server.port, "/") as raw:
            raw.send_binary(b"fault")
            assert 4400 == (await raw.receive_close()).close_code
        assert ([], 0) == (caplog.records, server.registry.faults)
        async with upgraded(server.port, "/") as raw:
            raw.send_binary(b"bug")
            assert 1011 == (await raw.receive_close()).close_code
        assert 1 == server.registry.faults
        assert [True] == [record.exc_info is not None for record in caplog.records]
        other.send_binary(b"still here")
        assert b"still here" == await other.receive_binary()


async def test_claims_of_huge_frames_take_no_memory() -> None:
    async with echo_server() as server:
        before = _resident()
        async with asyncio.TaskGroup() as group:
            for _ in range(100):
                group.create_task(_bomb(server.port))
        assert _resident() - before < 8 * 1024 * 1024


async def _bomb(port: int) -> None:
    async with upgraded(port, "/") as raw:
        raw.send(frame(BINARY, b"x" * 1000, claimed=(1 << 24) + 1) + b"x" * 65536)
        assert 1009 == (await raw.receive_close()).close_code


async def test_a_million_empty_fragments_take_no_memory() -> None:
    unlimited = LiveOptions(edits_burst=1_000_000)
    async with echo_server(unlimited) as server, upgraded(server.port, "/") as raw:
        raw.send(half(b"x"))
        fragments = frame(CONTINUATION, fin=False) * 10_000
        before = _resident()
        for _ in range(20):
            raw.send(fragments)
            await raw.writer.drain()
        raw.send(frame(CONTINUATION, b"y"))
        assert b"xy" == await raw.receive_binary()
        assert _resident() - before < 8 * 1024 * 1024


async def test_a_peer_that_does_not_answer_close_is_dropped() -> None:
    async with echo_server(LiveOptions(close_timeout_s=0.1)) as server, upgraded(server.port, "/") as raw:
        await _settled(server, raw)
        server.last.close(4403, "ß" * 100)
        closing = await raw.receive_close()
        assert (4403, "ß" * 61) == (closing.close_code, closing.payload[2:].decode())
        await server.registry.none_left()
    assert 1 == server.last.endings


async def test_only_the_first_close_counts(server: EchoServer) -> None:
    async with upgraded(server.port, "/") as raw:
        await _settled(server, raw)
        server.last.close(4403, "first")
        server.last.close(4404, "second")
        server.last.write(b"\x82\x00")
        raw.send(close_frame(4403))
        assert 4403 == (await raw.receive_close()).close_code


async def test_a_dropped_connection_ends_its_socket_once(server: EchoServer) -> None:
    async with upgraded(server.port, "/") as raw:
        await _settled(server, raw)
        assert 1 == len(server.registry)
    async with asyncio.timeout(10):
        await server.registry.none_left()
    assert 1 == server.last.endings
    server.last.write(b"\x82\x00")
    server.last.close(1000, "too late")


async def _settled(server: EchoServer, raw: RawWebSocket) -> None:
    raw.send_binary(b"hello")
    assert b"hello" == await raw.receive_binary()


def _resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()
