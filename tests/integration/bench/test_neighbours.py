"""Quiet rooms beside a load in another process: what becomes of its faults, and of pauses."""

import asyncio
import os
import re
import signal
import sys
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from itertools import count
from pathlib import Path

import pytest
from picows import WSListener, WSMsgType, WSTransport

from bench.beside import BrokeOff, Watch, beside
from bench.failing import in_full
from bench.ledger import Window
from bench.machine import ROOT
from bench.model import Place
from bench.process import name_of
from bench.scenarios.neighbours import ColdStallLoad, NeighboursLoad, StallLoad
from bench.servers import Room
from bench.servers.base import HOST
from bench.yjs import Reader
from tests.integration.bench.test_fanout import UPDATE, Relay, RelaySocket, beyond

BUSY = NeighboursLoad(
    clients=4, writers=2, busy_rate=50, quiet_rooms=1, rate=20, seconds=0.5, warm_up_s=0.2, settle_s=0.6
)
STORM = StallLoad(joiners=40, kib=100, rate=50, seconds=0.3, warm_up_s=0.1, settle_s=30)
BUSY_EDITS = round(BUSY.writers * BUSY.busy_rate * (BUSY.warm_up_s + BUSY.seconds))
BUSY_COPIES_PER_S = BUSY.writers * BUSY.busy_rate * (BUSY.clients - 1)
ALONE_EDITS = round(2 * BUSY.rate * (BUSY.warm_up_s + BUSY.seconds))
"""Of the quiet room, before the busy one begins."""

CORE = min(os.sched_getaffinity(0))
PAUSE_S = 2.0
FIRST_BUSY = 2
"""Of all sockets; those of the two clients of the quiet room come first."""

PRESENT_BEFORE_THE_STORM = 4
"""At most: two clients of the quiet room, the seeder and a witness."""

Spoil = Callable[[int, bytes], bytes | None]


class Apart(Relay):
    """A relay of several rooms."""

    def __init__(self, spoil: Spoil) -> None:
        super().__init__(spoil)
        self.paths: dict[WSTransport, str] = {}
        self.updates_of: defaultdict[str, list[bytes]] = defaultdict(list)
        self.rooms = count()

    async def room(self) -> Room:
        return replace(await super().room(), url=f"ws://{HOST}:{self.port}/{next(self.rooms)}")

    def listener(self, path: str) -> WSListener:
        return ApartSocket(self, path)


class ApartSocket(RelaySocket):
    relay: Apart

    def __init__(self, relay: Apart, path: str) -> None:
        super().__init__(relay)
        self.path = path

    def on_ws_connected(self, transport: WSTransport) -> None:
        self.relay.paths[transport] = self.path
        super().on_ws_connected(transport)

    def beyond(self, have: bytes) -> bytes:
        return beyond(self.relay.updates_of[self.path], have)

    def _relay(self, payload: bytes) -> None:
        update = payload[len(UPDATE) :]
        self.relay.updates_of[self.path].append(Reader(update).chunk())
        for number, socket in enumerate(self.relay.sockets):
            spoilt = self.relay.spoil(number, payload) if self.relay.paths[socket] == self.path else None
            if spoilt is not None:
                socket.send(WSMsgType.BINARY, spoilt)


class Hesitant(Apart):
    """Keeps what the second client of the quiet room is to get for a while, as long as a storm is on. That
    ends only when an edit was kept that was made in it: most joiners are answered no sooner.
    """

    def __init__(self, _spoil: Spoil) -> None:
        super().__init__(self._keep_back)
        self.unanswered: list[tuple[WSTransport, Callable[[], None]]] = []
        self.storm: asyncio.Task[None] | None = None
        self.is_on = self.is_over = False
        self.ending: asyncio.Task[None] | None = None

    def listener(self, path: str) -> WSListener:
        return HesitantSocket(self, path)

    async def begin(self) -> None:
        """What was sent before the storm has been read in some turns of the loop."""
        await _some_turns()
        self.is_on = True

    async def end(self) -> None:
        self.is_over = True
        for _, answer in self.unanswered:
            answer()

    def _keep_back(self, number: int, payload: bytes) -> bytes | None:
        if number != 1 or not self.is_on:
            return payload
        send = self.sockets[1].send
        asyncio.get_running_loop().call_later(PAUSE_S, send, WSMsgType.BINARY, payload)
        if self.ending is None:
            self.ending = asyncio.create_task(self.end())
        return None


class HesitantSocket(ApartSocket):
    relay: Hesitant

    def on_ws_connected(self, transport: WSTransport) -> None:
        super().on_ws_connected(transport)
        if len(self.relay.sockets) > PRESENT_BEFORE_THE_STORM and self.relay.storm is None:
            self.relay.storm = asyncio.create_task(self.relay.begin())

    def answer(self, transport: WSTransport, have: bytes) -> None:
        answer = partial(super().answer, transport, have)
        if self.relay.storm is None or self.relay.is_over:
            answer()
        else:
            self.relay.unanswered.append((transport, answer))


class Inhospitable(Hesitant):
    """Ends the connection of one joiner whom it has answered, before it answers most others."""

    async def end(self) -> None:
        while not self.unanswered:  # nobody may have asked so far
            await asyncio.sleep(0.002)
        first, answer = self.unanswered.pop(0)
        answer()
        _end(first)
        await _gone(self, first)
        await super().end()


class Severing(Apart):
    """Gives everybody everything, and ends the connection of one of them when a room has so many edits."""

    def __init__(self, number: int, path: str, edits: int, _spoil: Spoil) -> None:
        super().__init__(self._and_then_end)
        self.number, self.path, self.edits = number, path, edits

    def _and_then_end(self, number: int, payload: bytes) -> bytes:
        if (number, self.edits) == (self.number, len(self.updates_of[self.path])):
            self.edits = -1
            asyncio.get_running_loop().call_soon(_end, self.sockets[number])
        return payload


def _end(transport: WSTransport) -> None:
    """The client reads all that was sent, and then that there is no more: closed at once, a socket on which
    something was unread would take back what the client has not read either (RFC 1122, 4.2.2.13).
    """
    transport.underlying_transport.write_eof()


async def _some_turns() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


async def _gone(relay: Relay, transport: WSTransport) -> None:
    """Until a connection has ended, and its client has been able to read so."""
    while transport in relay.sockets:
        await asyncio.sleep(0)
    await _some_turns()


def _faithfully(_number: int, payload: bytes) -> bytes:
    return payload


def _unfaithfully(number: int, payload: bytes) -> bytes | None:
    """One copy less for the second client of the quiet room, and one for the last of the busy one."""
    return None if number in (1, FIRST_BUSY + 3) and b"0.5\x01" in payload else payload


@pytest.fixture
async def relay(request: pytest.FixtureRequest) -> AsyncIterator[Relay]:
    kind, spoil = request.param
    server: Relay = kind(spoil)
    await server.start(0)
    yield server
    await server.stop()


@pytest.mark.parametrize("relay", [(Apart, _faithfully)], indirect=True)
async def test_an_honest_server_is_found_without_fault_beside_a_busy_room(
    relay: Relay, all_remarks: set[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bench.scenarios.neighbours.SLIP_LIMIT_MS", -1.0)
    run = await BUSY.measure(relay, Place(CORE, CORE))
    assert [] == run.faults
    assert all_remarks - {"generator late"} <= set(run.remarks)
    assert any(remark.startswith("the generator itself woke") for remark in run.remarks)
    figures = run.figures
    # Of 20, as those below; where the busy room takes longer for its edits, so many more.
    longer = max(1.0, BUSY_COPIES_PER_S / figures["copies_per_s"])
    assert 5 <= figures["copies"] <= 24 * longer
    assert 0 < figures["p50_alone_ms"] <= figures["p99_alone_ms"] <= figures["max_alone_ms"]
    assert 0 < figures["p50_beside_ms"] <= figures["p99_beside_ms"] <= figures["max_beside_ms"]
    assert 100 <= figures["copies_per_s"] <= 330  # of 300; on a slow machine some come after the window
    assert figures.keys() <= {figure.key for figure in BUSY.figures}
    assert [] == relay.sockets


@pytest.mark.parametrize("relay", [(Apart, _unfaithfully)], indirect=True)
async def test_a_copy_that_never_arrives_is_a_fault_in_either_room(relay: Relay) -> None:
    run = await BUSY.measure(relay, Place(CORE, CORE))
    assert "1 of 210 copies never arrived" in run.faults
    assert ["1 of"] * 2 == [fault[:4] for fault in run.faults]


@pytest.mark.parametrize(
    "relay", [(partial(Severing, FIRST_BUSY + 3, "/1", BUSY_EDITS), _faithfully)], indirect=True
)
async def test_one_of_the_busy_room_who_loses_the_connection_is_a_fault(relay: Relay) -> None:
    """One who has everything by then, so that nothing else is wrong. Which of them came last is chance."""
    (fault,) = (await BUSY.measure(relay, Place(CORE, CORE))).faults
    assert re.fullmatch(r"client [123]: the connection was lost", fault)


@pytest.mark.parametrize("relay", [(partial(Severing, 1, "/0", ALONE_EDITS + 6), _faithfully)], indirect=True)
async def test_one_of_a_quiet_room_who_loses_the_connection_is_a_fault(relay: Relay) -> None:
    """While the busy room is busy. What they write from then on reaches nobody, which is told as well."""
    lost, *missing = (await BUSY.measure(relay, Place(CORE, CORE))).faults
    assert "client 1: the connection was lost" == lost
    assert ["copies never arrived"] == [fault.split(" ", 3)[-1] for fault in missing]


@pytest.mark.parametrize("relay", [(Hesitant, _faithfully)], indirect=True)
async def test_a_pause_during_a_storm_is_seen(relay: Relay) -> None:
    run = await STORM.measure(relay, Place(CORE, CORE))
    assert [] == run.faults
    # The machine may have paused by itself, but not most of the time.
    assert run.figures["p50_alone_ms"] < PAUSE_S * 1e3 <= run.figures["max_beside_ms"]
    assert run.figures["storm_s"] > 0
    assert run.figures.keys() <= {figure.key for figure in STORM.figures}
    assert [] == relay.sockets


@pytest.mark.parametrize("relay", [(Inhospitable, _faithfully)], indirect=True)
async def test_a_joiner_that_loses_its_connection_is_a_fault(relay: Relay) -> None:
    run = await STORM.measure(relay, Place(CORE, CORE))
    (fault,) = run.faults
    assert fault.startswith("client ")
    assert fault.endswith(": the connection was lost")


class Deserted(Apart):
    """Notes who is there when rooms are to be evicted, and when the first joiner comes."""

    def __init__(self, spoil: Spoil) -> None:
        super().__init__(spoil)
        self.evicting: list[tuple[int, int]] = []

    async def until_evicted(self, inhabited: int = 0) -> None:
        self.evicting.append((inhabited, len(self.sockets)))


@pytest.mark.parametrize("cells", [0, 300])
@pytest.mark.parametrize("relay", [(Deserted, _faithfully)], indirect=True)
async def test_nobody_is_in_a_cold_room_before_the_storm(relay: Deserted, cells: int) -> None:
    storm = ColdStallLoad(
        joiners=5, kib=100, rate=50, seconds=0.3, warm_up_s=0.1, settle_s=30, cells=cells
    )
    run = await storm.measure(relay, Place(CORE, CORE))
    assert [(1, 2)] == relay.evicting, "the quiet room's two clients are there, and nobody else"
    assert ([], "stall-cold") == (run.faults, run.scenario)
    assert storm.label.endswith(", cold")
    assert [] == relay.sockets


class Forgetful(Deserted):
    """Has lost the last frame that was drawn when the storm comes."""

    def listener(self, path: str) -> WSListener:
        return ForgetfulSocket(self, path)


class ForgetfulSocket(ApartSocket):
    relay: Forgetful

    def beyond(self, have: bytes) -> bytes:
        known = self.relay.updates_of[self.path]
        return beyond(known[:-1] if self.relay.evicting else known, have)


@pytest.mark.parametrize("relay", [(Forgetful, _faithfully)], indirect=True)
async def test_joiners_who_lack_what_was_drawn_are_a_fault(relay: Forgetful) -> None:
    storm = ColdStallLoad(joiners=3, rate=50, seconds=0.3, warm_up_s=0.1, settle_s=30, cells=300)
    (fault,) = (await storm.measure(relay, Place(CORE, CORE))).faults
    # 50 cells came last, a map of six properties each, of which one is a map of one.
    assert "joiners lack up to 350 of 2100 properties" == fault


async def test_a_process_that_could_not_run_is_found_out() -> None:
    watch = Watch()
    watching = asyncio.create_task(watch.run())
    await asyncio.sleep(0.02)
    start = time.perf_counter()
    time.sleep(0.1)  # noqa: ASYNC251 - what is to be noticed
    await asyncio.sleep(0.02)
    watching.cancel()
    assert watch.late_s(Window(start - 0.01, start + 0.1))[-1] > 0.08
    assert not watch.late_s(Window(start + 1, start + 2))


async def _fail() -> None:
    raise ConnectionError("too little\nof it")


@dataclass(frozen=True)
class Sum:
    """Adds up, in another process."""

    numbers: tuple[int, ...]

    async def run(self, until_told: Callable[[], Awaitable[None]]) -> tuple[int, int, int]:
        if not self.numbers:
            raise OSError("nothing to add")
        await until_told()
        if sum(self.numbers) < 0:
            async with asyncio.TaskGroup() as group:
                group.create_task(_fail())
        return os.getpid(), os.sched_getscheduler(0), sum(self.numbers)


async def test_a_task_is_done_by_another_process_that_gives_way_to_this_one() -> None:
    async with beside(Sum((1, 2)), 20) as other:
        pid, policy, total = await other.go(20)
    assert pid != os.getpid()
    assert (os.SCHED_IDLE, 3) == (policy, total)


@pytest.mark.parametrize(("numbers", "why"), [((), "nothing to add"), ((1, -2), "too little")])
async def test_what_ends_the_other_process_is_told(numbers: tuple[int, ...], why: str) -> None:
    """In one line, wherever in a group of tasks it happened, and in full behind that."""
    with pytest.raises(BrokeOff) as raised:
        async with beside(Sum(numbers), 20) as other:
            await other.go(20)
    assert f"in the load beside: {why}" == str(raised.value)
    assert "in run\n" in in_full(raised.value)


async def test_a_process_that_is_ended_without_a_word_is_said_to_be() -> None:
    async with beside(Sum((1,)), 20) as other:
        os.kill(other.pid, signal.SIGKILL)
        with pytest.raises(BrokeOff, match="in the load beside: it ended without a word"):
            await other.go(20)


async def test_a_process_that_is_never_told_to_go_ends_with_the_context() -> None:
    async with beside(Sum((1,)), 20) as other:
        pid = other.pid
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


@pytest.mark.parametrize(
    ("load", "why"),
    [
        ({"quiet_rooms": 0}, "quiet rooms"),
        ({"clients": 5, "writers": 6}, "at most as many writers"),
        ({"busy_rate": 0}, "positive"),
        ({"quiet_rooms": 200, "rate": 1000}, "fewer quiet rooms"),
        ({"seconds": 600}, "4 GiB of frames"),
    ],
)  # fmt: skip
def test_impossible_neighbours_are_refused(load: dict[str, int], why: str) -> None:
    with pytest.raises(ValueError, match=why):
        NeighboursLoad(**load)


@pytest.mark.parametrize(
    ("load", "why"),
    [
        ({"joiners": 0}, "1 to 5,000 joiners"),
        ({"rate": 0}, "positive"),
        ({"joiners": 600}, "4 GiB"),
        ({"rate": 100_000}, "fewer quiet rooms"),
    ],
)  # fmt: skip
def test_an_impossible_storm_is_refused(load: dict[str, int], why: str) -> None:
    with pytest.raises(ValueError, match=why):
        StallLoad(**load)


@dataclass(frozen=True)
class Endless:
    """Works until it is ended, and reads no pipe meanwhile."""

    file: str

    async def run(self, until_told: Callable[[], Awaitable[None]]) -> None:
        await until_told()
        Path(self.file).write_text(f"{os.getpid()}\n")
        await asyncio.sleep(60)


KILLED = """
import asyncio, sys
from bench.beside import beside
from tests.integration.bench.test_neighbours import Endless
async def main():
    async with beside(Endless(sys.argv[1]), 20) as other:
        await other.go(60)
asyncio.run(main())
"""


async def test_a_load_beside_ends_when_the_bench_is_killed(tmp_path: Path) -> None:
    file = tmp_path / "pid"
    bench = await asyncio.create_subprocess_exec(sys.executable, "-c", KILLED, str(file), cwd=ROOT)
    async with asyncio.timeout(60):
        while not file.exists() or not file.read_text():
            await asyncio.sleep(0.02)
        bench.kill()
        await bench.wait()
        pid = int(file.read_text())
        try:
            async with asyncio.timeout(10):
                while name_of(pid) is not None:
                    await asyncio.sleep(0.02)
        finally:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
