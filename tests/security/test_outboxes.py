"""What clients that do not read may hold together, on real sockets."""

import asyncio
from collections.abc import Callable
from contextlib import AsyncExitStack
from functools import partial
from typing import Any

import pytest
from pycrdt import Doc, Map

from api.live.options import LiveOptions
from crdt import awareness, y_websocket
from crdt.awareness import Entry
from crdt.messages import Awareness, SyncStep2, Update
from rooms.hosting import Runner
from tests.harness.echo_socket import EchoSocket, echo_server
from tests.harness.live_service import an_update, live_service
from tests.harness.raw_websocket import BINARY, RawWebSocket, frame, upgraded

MIB = 1024 * 1024
STEP_1 = y_websocket.sync_step1(b"\x00")


async def test_clients_that_do_not_read_are_closed_when_all_together_hold_too_much() -> None:
    options = LiveOptions(sweep_s=3600, outbox_total_max_bytes=20 * MIB)

    def came(number: int) -> Callable[[], bool]:
        return lambda: len(server.sockets) == number

    def stalls(socket: EchoSocket) -> Callable[[], bool]:
        return lambda: socket.pauses > 0

    async with AsyncExitStack() as stack:
        server = await stack.enter_async_context(echo_server(options))
        registry, outboxes = server.registry, server.registry.outboxes
        reader = await stack.enter_async_context(upgraded(server.port, "/"))
        await until(lambda: server.sockets)
        keeping_up = server.last
        stuck: list[tuple[RawWebSocket, EchoSocket]] = []
        for number in range(8):
            raw = await stack.enter_async_context(upgraded(server.port, "/"))
            await until(came(number + 2))
            raw.writer.transport.pause_reading()  # type: ignore[attr-defined]
            stuck.append((raw, server.last))
            raw.send(frame(BINARY, bytes(14 * MIB)))
            await until(stalls(server.last))
            reader.send_binary(b"x" * 100_000)
            assert 100_000 == len(await reader.receive_binary())
            assert outboxes.total_bytes <= 20 * MIB
        closed = sum(socket.is_closing for _, socket in stuck)
        assert 0 < closed == registry.refusals["outbox_total"] == registry.closes[1013]
        assert 8 - closed == len(outboxes)
        assert not keeping_up.is_closing
        await until(lambda: len(registry) == 9 - closed)  # those are dropped soon
        assert sum(socket.queued_bytes for socket in registry) <= 20 * MIB
        for raw, socket in stuck:  # who reads again is counted no more
            if not socket.is_closing:
                raw.writer.transport.resume_reading()  # type: ignore[attr-defined]
                assert 14 * MIB == len(await raw.receive_binary())
        await until(lambda: not outboxes.total_bytes)
        assert 0 == len(outboxes)


async def test_a_diagram_that_many_open_and_do_not_read_counts_once() -> None:
    async with live_service(LiveOptions(sweep_s=3600)) as service, AsyncExitStack() as stack:
        outboxes = service.live.sockets.outboxes
        diagram = await service.diagram()
        path = f"/collab/{diagram}?token={await service.token('alice', diagram)}"
        writer = await stack.enter_async_context(upgraded(service.port, path))
        writer.send_binary(y_websocket.update(an_update("k", "x" * 14 * MIB)))
        writer.send_binary(STEP_1)
        while len(await writer.receive_binary()) < 14 * MIB:
            pass
        for _ in range(5):
            raw = await stack.enter_async_context(upgraded(service.port, path))
            raw.writer.transport.pause_reading()  # type: ignore[attr-defined]
            raw.send_binary(STEP_1)
        await until(lambda: len(outboxes) == 5)
        assert 14 * MIB < outboxes.total_bytes < 15 * MIB
        assert sum(socket.queued_bytes for socket in service.live.sockets) > 20 * MIB
    assert 0 == outboxes.total_bytes


@pytest.mark.parametrize("at_once", [1, 3])
async def test_a_large_diagram_with_much_that_came_later_is_opened_by_who_reads(at_once: int) -> None:
    async with live_service(LiveOptions(sweep_s=3600)) as service, AsyncExitStack() as stack:
        diagram = await service.diagram()
        path = f"/collab/{diagram}?token={await service.token('alice', diagram)}"
        writer, listener, *newcomers = [
            await stack.enter_async_context(upgraded(service.port, path)) for _ in range(2 + at_once)
        ]
        writer.send_binary(y_websocket.update(an_update("base", "x" * 12 * MIB)))
        await until(lambda: service.live.sockets.partial_bytes == 0)
        listener.send_binary(STEP_1)  # from now on the state is remembered
        expected = {"base", *(f"later{number}" for number in range(3))}
        for key in expected - {"base"}:
            writer.send_binary(y_websocket.update(an_update(key, "x" * 600_000)))
        await holds(listener, expected)
        for raw in newcomers:
            raw.send_binary(STEP_1)
        await asyncio.gather(*(holds(raw, expected) for raw in newcomers))
        assert not service.live.sockets.refusals


@pytest.mark.parametrize("at_once", [1, 3])
async def test_a_large_diagram_with_much_presence_is_opened_by_who_reads(at_once: int) -> None:
    """A session may have 16 ids with 64 KiB each: two of them must not keep everybody else out."""
    async with live_service(LiveOptions(sweep_s=3600)) as service, AsyncExitStack() as stack:
        diagram = await service.diagram()
        path = f"/collab/{diagram}?token={await service.token('alice', diagram)}"
        writer, other, *newcomers = [
            await stack.enter_async_context(upgraded(service.port, path)) for _ in range(2 + at_once)
        ]
        writer.send_binary(y_websocket.update(an_update("base", "x" * 6 * MIB)))
        await until(lambda: service.live.sockets.partial_bytes == 0)
        # These two are sent megabytes as well, and are closed unless they read.
        reading = [asyncio.create_task(reads_on(raw)) for raw in (writer, other)]
        state = b'{"x":"%s"}' % (b"x" * 60_000)
        (runner,) = service.rooms.runners
        said = 0
        for raw, first in ((writer, 1), (other, 101)):
            for client in range(first, first + 16):
                raw.send_binary(y_websocket.awareness(awareness.encode([Entry(client, 1, state)])))
                said += 1
                # One at a time: what a busy machine has not read yet may be no more than an outbox holds.
                await until(partial(_is_known, runner, said * 2 * 60_000))
        for raw in newcomers:
            raw.send_binary(STEP_1)
        expected = {*range(1, 17), *range(101, 117)}
        await asyncio.gather(*(hears_of(raw, expected) for raw in newcomers))
        assert not service.live.sockets.refusals
        assert not any(task.done() for task in reading)
        for task in reading:
            task.cancel()


def _is_known(runner: Runner[Any], presence_bytes: int) -> bool:
    return bool(runner.room.presence_bytes > presence_bytes)


async def reads_on(raw: RawWebSocket) -> None:
    """Read whatever comes, to the end."""
    while True:
        await raw.receive_binary()


async def hears_of(raw: RawWebSocket, expected: set[int]) -> None:
    """Read until it knows of all of them, and the diagram."""
    here: set[int] = set()
    await holds(raw, {"base"})
    while here < expected:
        for message in y_websocket.decode(await raw.receive_binary()):
            if isinstance(message, Awareness):
                here.update(entry.client for entry in awareness.parse(message.data))
    assert here == expected


async def holds(raw: RawWebSocket, expected: set[str]) -> None:
    """Read until it has all of it."""
    doc: Doc[Any] = Doc()
    cells = doc.get("cells", type=Map[Any])
    while set(cells) < expected:
        for message in y_websocket.decode(await raw.receive_binary()):
            if isinstance(message, SyncStep2 | Update):
                doc.apply_update(message.update)
    assert set(cells) == expected


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0.005)
