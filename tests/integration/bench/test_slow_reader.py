"""Clients that stop reading: that they do, that they get everything in the end, and what is said of it."""

import asyncio
import os
from collections.abc import AsyncIterator, Callable
from time import perf_counter
from typing import ClassVar

import pytest
from picows import WSListener

from bench.load import send_one
from bench.measuring import leave_all, new_client
from bench.model import Place
from bench.process import Moment, Usage
from bench.scenarios.slow_reader import SlowReader, SlowReaderLoad, Stages
from tests.integration.bench.test_fanout import Relay

LOAD = SlowReaderLoad(
    clients=3, writers=2, rate=50, slow=2, seconds=0.4, warm_up_s=0.2, catch_up_s=0.2, settle_s=1
)  # fmt: skip
CORE = min(os.sched_getaffinity(0))
FIRST_SLOW = LOAD.clients
EDITS = round(LOAD.writers * LOAD.rate * (LOAD.warm_up_s + 2 * LOAD.seconds + LOAD.catch_up_s))
EDIT = b"0.40\x01w"
"""Is in the update of an edit that is made while the slow ones do not read."""

Spoil = Callable[[int, bytes], bytes | None]


class Impatient(Relay):
    """Drops the first slow client when it is to be sent an edit that it will not read."""

    def __init__(self, spoil: Spoil) -> None:
        super().__init__(self._drop)
        self._drops = 1

    def _drop(self, number: int, payload: bytes) -> bytes | None:
        if number == FIRST_SLOW and self._drops and EDIT in payload:
            self._drops -= 1
            self.sockets[number].disconnect(graceful=False)
        return payload


class Unforgiving(Impatient):
    """Lets nobody in again."""

    def listener(self, path: str) -> WSListener | None:
        return super().listener(path) if self._drops else None


class Watched(SlowReader):
    """Notes since when it does not read, and until when."""

    all: ClassVar[list["Watched"]] = []

    def stop_reading(self) -> None:
        super().stop_reading()
        self.stopped_at = perf_counter()
        self.all.append(self)

    async def read_on(self, url: str) -> None:
        self.resumed_at = perf_counter()
        await super().read_on(url)


def _faithfully(_number: int, payload: bytes) -> bytes:
    return payload


def _not_all_to_slow_ones(number: int, payload: bytes) -> bytes | None:
    """One gets nothing any more, the other one lacks an edit that was made while it did not read."""
    has_ended = number == FIRST_SLOW and _clock(payload) >= 40
    return None if has_ended or (number == FIRST_SLOW + 1 and EDIT in payload) else payload


def _clock(payload: bytes) -> int:
    """Of the one edit in a frame: its key says it."""
    return int(payload.split(b"\x01w", 1)[0].rsplit(b".", 1)[1])


def _not_all_to_another(number: int, payload: bytes) -> bytes | None:
    return None if number == FIRST_SLOW - 1 and EDIT in payload else payload


class Rude(Relay):
    """Ends the connection of one who reads all the time, when it has given it everything."""

    def __init__(self, spoil: Spoil) -> None:
        super().__init__(self._and_then_end)
        self._spoil = spoil

    def _and_then_end(self, number: int, payload: bytes) -> bytes | None:
        if len(self.updates) == EDITS and number == FIRST_SLOW - 1:
            asyncio.get_running_loop().call_soon(self.sockets[number].disconnect)
        return self._spoil(number, payload)


@pytest.fixture
async def relay(request: pytest.FixtureRequest) -> AsyncIterator[Relay]:
    kind, spoil = request.param
    server: Relay = kind(spoil)
    await server.start(0)
    yield server
    await server.stop()


@pytest.mark.parametrize("relay", [(Relay, _faithfully)], indirect=True)
async def test_who_stops_reading_reads_nothing_until_it_reads_again(relay: Relay) -> None:
    room = await relay.room()
    author, slow = new_client(0, room), SlowReader(1, 7, room.dialect)
    reading = None
    try:
        await author.join(room.url)
        await slow.join(room.url)
        await asyncio.sleep(0.05)
        slow.stop_reading()
        before = len(slow.frames)
        send_one(author)
        await asyncio.sleep(0.1)
        assert before == len(slow.frames)
        reading = asyncio.create_task(slow.read_on(room.url))
        await asyncio.sleep(0.1)
        assert before < len(slow.frames)
    finally:
        if reading is not None:
            reading.cancel()
        await leave_all([author, slow])


@pytest.mark.parametrize("relay", [(Relay, _faithfully)], indirect=True)
async def test_an_honest_server_is_found_without_fault(
    relay: Relay, all_remarks: set[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    Watched.all.clear()
    monkeypatch.setattr("bench.scenarios.slow_reader.SlowReader", Watched)
    run = await LOAD.measure(relay, Place(CORE, CORE))
    assert [] == run.faults
    for slow in Watched.all:
        # The window's end is fixed beforehand, and a busy machine may be late for its beginning.
        assert slow.resumed_at - slow.stopped_at > 0.5 * LOAD.seconds
        assert not [at for at in slow.read_at if slow.stopped_at < at < slow.resumed_at]
    assert (LOAD.slow, True) == (len(Watched.all), relay.most <= LOAD.clients_at_once)
    assert all_remarks <= set(run.remarks)
    assert "slip_p99_ms" in run.figures
    figures = run.figures
    assert 0 == figures["times_lost"]
    assert 0 < figures["caught_up_ms"] < 1_000
    assert 0.4 * 100 * LOAD.value_bytes * 0.8 < figures["withheld_mib"] * (1 << 20)
    assert figures.keys() <= {figure.key for figure in LOAD.figures}
    assert {
        "brief: the targets speak of 300 s", "too little came for the slow client to try a bound of 1 MiB",
    } <= set(run.remarks)  # fmt: skip
    assert [] == relay.sockets


@pytest.mark.parametrize("relay", [(Impatient, _faithfully)], indirect=True)
async def test_a_slow_client_that_is_dropped_comes_back_and_has_everything(relay: Relay) -> None:
    run = await LOAD.measure(relay, Place(CORE, CORE))
    assert [] == run.faults
    assert 1 == run.figures["times_lost"]
    assert "the server closed 1 slow connections; they came back" in run.remarks


@pytest.mark.parametrize("relay", [(Relay, _not_all_to_slow_ones)], indirect=True)
async def test_a_slow_client_that_never_catches_up_is_a_fault(relay: Relay) -> None:
    run = await LOAD.measure(relay, Place(CORE, CORE))
    assert [
        f"slow client 3 never got 40 of {EDITS} edits", f"slow client 4 never got 1 of {EDITS} edits",
    ] == run.faults  # fmt: skip
    assert "caught_up_ms" not in run.figures


@pytest.mark.parametrize("relay", [(Rude, _not_all_to_another)], indirect=True)
async def test_another_s_lost_edit_and_lost_connection_are_faults(relay: Relay) -> None:
    run = await LOAD.measure(relay, Place(CORE, CORE))
    assert ["client 2: the connection was lost", "1 of 240 copies never arrived"] == run.faults


@pytest.mark.parametrize("relay", [(Unforgiving, _faithfully)], indirect=True)
async def test_a_slow_client_that_cannot_come_back_breaks_the_run_off(relay: Relay) -> None:
    with pytest.raises(ExceptionGroup) as raised:
        await LOAD.measure(relay, Place(CORE, CORE))
    assert raised.group_contains(OSError)


def test_memory_is_what_grew_while_some_did_not_read_beyond_what_grows_anyway() -> None:
    moments = (
        Moment(at, 0, 0, 0, Usage(0, 0, rss << 20)) for at, rss in ((0.0, 100), (1.0, 103), (2.0, 110))
    )
    assert {"grown_reading_mib": 3, "grown_stopped_mib": 7, "queued_mib": 2} == LOAD.memory(Stages(*moments))
    unseen = Moment(0, 0, 0, 0, None)
    assert {} == LOAD.memory(Stages(unseen, unseen, unseen))


@pytest.mark.parametrize(
    ("load", "why"),
    [
        ({"slow": 0}, "one or more that are slow"),
        ({"clients": 5, "writers": 6}, "at most as many writers"),
        ({"seconds": 0}, "positive"),
        ({"value_bytes": 0}, "1 byte"),
        ({"seconds": 300}, "4 GiB"),
    ],
)  # fmt: skip
def test_an_impossible_load_is_refused(load: dict[str, int], why: str) -> None:
    with pytest.raises(ValueError, match=why):
        SlowReaderLoad(**load)


def test_the_run_of_the_target_is_possible() -> None:
    load = SlowReaderLoad(seconds=300, value_bytes=60)
    assert ["p99_ratio"] == [goal.figure for goal in load.goals]
