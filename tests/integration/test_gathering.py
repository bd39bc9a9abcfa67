"""Sockets of a busy room, read when its tick is due (`rooms/gathering.py`): raw ones, with real rooms."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from api.live.options import LiveOptions
from api.live.socket import LiveSocket
from crdt import awareness, y_websocket
from crdt.awareness import Entry
from crdt.messages import Awareness
from rooms.edits import RoomLimits
from rooms.limits import RoomsLimits
from tests.harness.certificates import Authority
from tests.harness.live_service import LiveService, an_update, live_service
from tests.harness.raw_websocket import (
    BINARY,
    RawWebSocket,
    close_frame,
    frame,
    upgrade_head,
    upgraded,
)
from tests.integration.test_live_hocuspocus import opened
from tests.integration.test_live_y_websocket import keys, path, synced, update_on
from tmi.domain.ids import DiagramId
from tmi.listener import ListenerOptions
from tmi.tls import Certificate

SOON_BUSY = RoomsLimits(room=RoomLimits(quiet_copies_per_s=15, tick_s=0.05, awareness_tick_s=0.05))
"""Two edits at once make a room of two busy; a fifth of a second later it is quiet again."""


@pytest.fixture
async def service() -> AsyncIterator[LiveService]:
    async with live_service(LiveOptions(sweep_s=3600), rooms_limits=SOON_BUSY) as running:
        yield running


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(5):
        while not condition():
            await asyncio.sleep(0.002)


def sockets(service: LiveService) -> list[LiveSocket]:
    """In the order in which they came."""
    found = [socket for socket in service.live.sockets if isinstance(socket, LiveSocket)]
    return sorted(found, key=lambda socket: socket.serial)


class Pair:
    """Two of a room: one talks, the other listens."""

    def __init__(
        self, service: LiveService, diagram: DiagramId, talker: RawWebSocket, listener: RawWebSocket
    ) -> None:
        self.service = service
        self.diagram = diagram
        self.talker = talker
        self.listener = listener
        self.sent: set[str] = set()
        self.heard: set[str] = set()
        self.talking, self.listening = sockets(service)

    def say(self) -> None:
        key = f"k{len(self.sent)}"
        self.sent.add(key)
        self.talker.send_binary(y_websocket.update(an_update(key)))

    async def talk_until_gathered(self) -> None:
        async with asyncio.timeout(5):
            while self.talking.gathering is None:
                self.say()
                await asyncio.sleep(0.002)

    async def hears_everything(self) -> None:
        while self.heard != self.sent:
            self.heard |= keys(await update_on(self.listener))


@pytest.fixture
async def pair(service: LiveService) -> AsyncIterator[Pair]:
    async with a_pair(service) as two:
        yield two


@contextlib.asynccontextmanager
async def a_pair(service: LiveService) -> AsyncIterator[Pair]:
    diagram = await service.diagram()
    address = await path(service, diagram)
    async with upgraded(service.port, address) as talker, upgraded(service.port, address) as listener:
        await synced(talker)
        await synced(listener)
        yield Pair(service, diagram, talker, listener)


async def test_who_talks_in_a_busy_room_is_read_by_ticks_until_it_is_quiet(pair: Pair) -> None:
    await pair.talk_until_gathered()
    assert pair.listening.gathering is None
    for _ in range(20):
        pair.say()
    await pair.hears_everything()
    await until(lambda: pair.talking.gathering is None)
    pair.say()
    assert {f"k{len(pair.sent) - 1}"} == keys(await update_on(pair.listener))


async def test_all_that_came_within_a_tick_goes_out_as_one(pair: Pair) -> None:
    await pair.talk_until_gathered()
    await pair.hears_everything()
    before = set(pair.sent)
    await pair.talk_until_gathered()
    for _ in range(5):
        pair.say()
    assert pair.sent - before >= keys(await update_on(pair.listener)) >= {f"k{len(pair.sent) - 1}"}


async def test_cursors_make_a_room_busy_too(pair: Pair) -> None:
    async with asyncio.timeout(5):
        clock = 0
        while pair.talking.gathering is None:
            clock += 1
            pair.talker.send_binary(y_websocket.awareness(awareness.encode([Entry(7, clock, b"{}")])))
            await asyncio.sleep(0.002)
        clock += 1
        pair.talker.send_binary(y_websocket.awareness(awareness.encode([Entry(7, clock, b'{"last":1}')])))
        seen: list[Entry] = []
        while Entry(7, clock, b'{"last":1}') not in seen:
            (message,) = y_websocket.decode(await pair.listener.receive_binary())
            if isinstance(message, Awareness):
                seen = awareness.parse(message.data)


async def test_one_that_closes_is_answered(pair: Pair) -> None:
    await pair.talk_until_gathered()
    pair.say()
    pair.talker.send(close_frame(1000))
    assert 1000 == (await pair.talker.receive_close_only()).close_code
    await pair.talker.receive_end()
    await pair.hears_everything()


async def test_one_that_goes_without_a_word_leaves_the_room(pair: Pair) -> None:
    await pair.talk_until_gathered()
    pair.say()
    pair.talker.writer.write_eof()
    await until(lambda: len(pair.service.live.sockets) == 1)
    await pair.hears_everything()
    assert 1 == pair.service.rooms.sessions


async def test_one_whose_connection_is_reset_leaves_the_room(pair: Pair) -> None:
    await pair.talk_until_gathered()
    pair.talker.writer.transport.abort()
    await until(lambda: len(pair.service.live.sockets) == 1)
    assert 1 == pair.service.rooms.sessions


@pytest.mark.parametrize(
    ("bad", "code"),
    [(frame(BINARY, b"\xff\xff"), 4400), (frame(BINARY, rsv=4), 1002), (frame(0x3), 1002)],
    ids=["no message", "reserved bit", "unknown opcode"],
)
async def test_a_violation_closes_one_alone(pair: Pair, bad: bytes, code: int) -> None:
    await pair.talk_until_gathered()
    pair.talker.send(bad)
    assert code == (await pair.talker.receive_close_only()).close_code
    await until(lambda: len(pair.service.live.sockets) == 1)
    await pair.hears_everything()


async def test_one_that_is_sent_away_reads_the_close_of_its_client(pair: Pair) -> None:
    await pair.talk_until_gathered()
    pair.talking.close(1012, "go")
    assert pair.talking.gathering is None
    assert 1012 == (await pair.talker.receive_close()).close_code
    await until(lambda: len(pair.service.live.sockets) == 1)


async def test_much_at_once_is_read_by_the_loop(pair: Pair) -> None:
    await pair.talk_until_gathered()
    pair.sent.add("large")
    pair.talker.send_binary(y_websocket.update(an_update("large", "x" * 1_000_000)))
    async with asyncio.timeout(5):
        await pair.hears_everything()


async def test_who_sends_much_within_a_tick_is_left_to_the_loop(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    left: list[int] = []
    leave = LiveSocket.leave_gathering

    def counted(socket: LiveSocket) -> None:
        if socket.gathering is not None:
            left.append(socket.since_frame)
        leave(socket)

    monkeypatch.setattr(LiveSocket, "leave_gathering", counted)
    async with asyncio.timeout(30):
        while not left:  # the room may have become quiet just before
            await pair.talk_until_gathered()
            pair.sent.add(key := f"large{len(pair.sent)}")
            pair.talker.send_binary(y_websocket.update(an_update(key, "x" * 1_000_000)))
            await pair.hears_everything()
    assert 64 * 1024 < left[0] < 64 * 1024 + 20 * 1024


async def test_what_is_read_by_ticks_of_a_message_that_is_not_whole_is_counted(pair: Pair) -> None:
    await pair.talk_until_gathered()
    await pair.hears_everything()
    await pair.talk_until_gathered()
    whole = frame(BINARY, y_websocket.update(an_update("large", "x" * 50_000)))
    pair.talker.send(whole[:40_000])
    await until(lambda: pair.talking.since_frame == 40_000)
    pair.talker.send(whole[40_000:])
    await until(lambda: pair.talking.since_frame == 0)


async def test_who_sends_many_small_messages_within_a_tick_is_left_to_the_loop(pair: Pair) -> None:
    await pair.talk_until_gathered()
    await pair.hears_everything()
    await pair.talk_until_gathered()
    before = pair.talking.messages_in
    pair.talker.send(frame(BINARY, y_websocket.awareness(b"\x00")) * 300)
    await until(lambda: pair.talking.messages_in >= before + 300)
    assert pair.talking.gathering is None


async def test_one_over_its_rate_is_paused_and_everything_arrives() -> None:
    options = LiveOptions(sweep_s=3600, edits_per_s=200, edits_burst=30)
    async with live_service(options, rooms_limits=SOON_BUSY) as service, a_pair(service) as pair:
        await pair.talk_until_gathered()
        for _ in range(60):
            pair.say()
        await until(lambda: service.live.sockets.throttles > 0)
        assert pair.talking.gathering is None
        await pair.hears_everything()


async def test_a_drained_room_lets_everybody_go(pair: Pair) -> None:
    await pair.talk_until_gathered()
    assert {} == await pair.service.rooms.drain(2)
    assert 1012 == (await pair.talker.receive_close()).close_code
    assert pair.sent == keys(*(row.data for _, row in pair.service.store.logs[pair.diagram].rows))


async def test_a_hocuspocus_socket_is_read_by_ticks_while_it_has_one_document(service: LiveService) -> None:
    diagram, second = await service.diagram(), await service.diagram()
    async with upgraded(service.port, "/collab") as raw, upgraded(service.port, "/collab") as other:
        provider = await opened(service, raw, diagram)
        await opened(service, other, diagram)
        (socket, _) = sockets(service)
        sent = 0

        async def is_gathered_within(seconds: float) -> bool:
            nonlocal sent
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    while socket.gathering is None:
                        provider.send(y_websocket.update(an_update(f"k{sent}")))
                        sent += 1
                        await asyncio.sleep(0.002)
            return socket.gathering is not None

        assert await is_gathered_within(5)
        another = await opened(service, raw, second)
        assert not await is_gathered_within(0.1)
        another.send(y_websocket.sync_step1(b"\x00"))
        assert b"\x00\x01" == (await another.receive(0))[:2]


async def test_a_socket_with_tls_is_always_read_by_the_loop(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    files = tmp_path / "tls.pem", tmp_path / "tls.key"
    authority.issue().write(*files)
    limits = ListenerOptions(tls=Certificate.load(*files).for_next)
    async with live_service(LiveOptions(sweep_s=3600), limits, rooms_limits=SOON_BUSY) as service:
        diagram = await service.diagram()
        address = await path(service, diagram)
        raws = [
            RawWebSocket(*await asyncio.open_connection("127.0.0.1", service.port, ssl=authority.trusting()))
            for _ in range(2)
        ]
        for raw in raws:
            raw.send(upgrade_head(address))
            assert 101 == (await raw.answer()).status
            await synced(raw)
        pair = Pair(service, diagram, *raws)
        for _ in range(50):
            pair.say()
            await asyncio.sleep(0.002)
            assert pair.talking.gathering is None
        await pair.hears_everything()
        for raw in raws:
            await raw.aclose()
