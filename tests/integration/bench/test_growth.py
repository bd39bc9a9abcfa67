"""Growth: the handmade overwrites against Yjs in Rust, and what a relay of edits does to the account."""

import asyncio
import os
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from functools import partial

import pycrdt
import pytest
from picows import WSMsgType

from bench.model import Place
from bench.scenarios import short_set
from bench.scenarios.growth import GrowthLoad, OwnGrowthLoad, Trails
from bench.yjs import Overwriter, any_position, keyed_structs, structs
from tests.integration.bench.test_fanout import Durable, Relay

CORE = min(os.sched_getaffinity(0))
LOAD = GrowthLoad(edits=10_000, writers=2, rate=200, seconds=0.3, warm_up_s=0.1)
ALL_EDITS = LOAD.edits + round(LOAD.writers * LOAD.rate * (LOAD.seconds + LOAD.warm_up_s))
FIRST_WRITER = 1
"""Of the sockets; that of the onlooker comes first."""


def _writer(client: int = 7, times: int = 0) -> tuple[Overwriter, list[bytes]]:
    writer = Overwriter(client, "meta", b"node %d" % client)
    return writer, [writer.set(any_position(n, client)) for n in range(times)]


def _document(*updates: bytes) -> pycrdt.Doc[pycrdt.Map[object]]:
    document: pycrdt.Doc[pycrdt.Map[object]] = pycrdt.Doc()
    document.get("meta", type=pycrdt.Map)
    for update in updates:
        document.apply_update(update)
    return document


def _content(document: pycrdt.Doc[pycrdt.Map[object]]) -> object:
    return document.get("meta", type=pycrdt.Map).to_py()


@pytest.mark.parametrize("times", [1, 2, 3, 50])
def test_the_last_value_is_what_yjs_reads(times: int) -> None:
    _, updates = _writer(times=times)
    assert {"node 7": [times - 1, 7]} == _content(_document(*updates))


def test_a_document_does_not_grow_with_values_that_were_replaced() -> None:
    few, many = (len(_document(*_writer(times=times)[1]).get_update()) for times in (10, 5000))
    assert many <= few + 8


@pytest.mark.parametrize("have", range(6))
def test_the_rest_of_what_was_written_completes_a_document(have: int) -> None:
    writer, updates = _writer(times=5)
    behind = _document(*updates[:have])
    behind.apply_update(writer.since(have))
    assert _content(_document(*updates)) == _content(behind)
    assert _document(*updates).get_state() == behind.get_state()


def test_the_first_struct_of_a_document_names_the_key_and_the_last_has_the_value() -> None:
    writer, updates = _writer(times=9)
    found = list(structs(_document(*updates).get_update()))
    assert [(0, 8, b"node 7"), (8, 1, None)] == [(s.clock, s.length, s.key) for s in found]
    assert writer.content == found[-1].content
    assert [(0, b"node 7")] == [(s.clock, s.key) for s in keyed_structs(_document(*updates).get_update())]


def _trails(*updates: bytes) -> Trails:
    trails = Trails()
    for update in updates:
        trails.follow(update)
    return trails


def test_a_trail_of_every_update_or_of_the_state_is_complete() -> None:
    writer, updates = _writer(times=20)
    state = _document(*updates).get_update()
    earlier = _document(*updates[:9]).get_update()
    for given in (updates, [state], [*updates[:5], state], [earlier, *updates[9:]]):
        assert [] == _trails(*given).faults("one", [writer])


@pytest.mark.parametrize(
    ("kept", "fault"),
    [
        ([0, 1, 2, 3], "one lacks edits of 1 of 1 writers"),
        ([0, 1, 3, 4], "one lacks edits of 1 of 1 writers"),
        ([], "one lacks edits of 1 of 1 writers"),
        ([1, 2, 3, 4], "one lacks edits of 1 of 1 writers"),
    ],
)
def test_an_edit_that_is_missing_is_a_fault(kept: list[int], fault: str) -> None:
    writer, updates = _writer(times=5)
    assert fault in _trails(*(updates[n] for n in kept)).faults("one", [writer])


def test_another_last_value_or_key_is_a_fault() -> None:
    writer, updates = _writer(times=5)
    forger, forged = Overwriter(7, "meta", b"node 8"), list[bytes]()
    for n in range(5):
        forged.append(forger.set(any_position(n, 8)))
    fault = ["one lacks last values of 1 of 1 writers"]
    assert fault == _trails(*updates[:4], forged[4]).faults("one", [writer])
    assert fault == _trails(forged[0], *updates[1:]).faults("one", [writer])


class Forgetful(Durable):
    """Does not give the onlooker all, besides."""

    def __init__(self) -> None:
        super().__init__()
        self.spoil = self._but_one

    def _but_one(self, number: int, payload: bytes) -> bytes | None:
        if number == 0 and any_position(700, 1) in payload:
            return None
        return payload


class Dropping(Relay):
    """Ends the connection of the first writer after its last edit, and gives out the very last one then."""

    def __init__(self) -> None:
        super().__init__(self._and_end)
        self.kept: list[Callable[[], None]] = []

    def _and_end(self, number: int, payload: bytes) -> bytes | None:
        if len(self.updates) == ALL_EDITS - 1 and number == 0:
            self.ended = self.sockets[FIRST_WRITER]
            asyncio.get_running_loop().call_soon(self.ended.disconnect)
        if len(self.updates) < ALL_EDITS:
            return payload
        self.kept.append(partial(self.sockets[number].send, WSMsgType.BINARY, payload))
        if len(self.kept) == 1:
            self.giving = asyncio.create_task(self._give())
        return None

    async def _give(self) -> None:
        while self.ended in self.sockets:
            await asyncio.sleep(0)
        for _ in range(10):  # the writer may read that it is alone
            await asyncio.sleep(0)
        for give in self.kept:
            give()


def _faithfully(_number: int, payload: bytes) -> bytes:
    return payload


@pytest.fixture
async def relay(request: pytest.FixtureRequest) -> AsyncIterator[Relay]:
    server = request.param if isinstance(request.param, Relay) else Relay(request.param)
    await server.start(0)
    yield server
    await server.stop()


@pytest.mark.parametrize("relay", [_faithfully], indirect=True)
async def test_an_honest_server_is_found_without_fault_and_one_that_keeps_a_log_for_what_it_is(
    relay: Relay, all_remarks: set[str]
) -> None:
    run = await LOAD.measure(relay, Place(CORE, CORE))
    assert [] == run.faults
    assert run.figures["sync_growth"] > 10
    assert [1000, 10_000] == [edits for edits, _ in run.curves["memory"].points]
    assert all(10 < mib < 4096 for _, mib in run.curves["memory"].points)
    assert all_remarks <= set(run.remarks)
    assert "slip_p99_ms" in run.figures
    assert [1000, 10_000] == [edits for edits, _ in run.curves["cost"].points]
    assert run.figures.keys() <= {figure.key for figure in LOAD.figures}


@pytest.mark.parametrize("relay", [Dropping()], indirect=True)
async def test_a_connection_that_is_lost_is_a_fault(relay: Relay) -> None:
    run = await LOAD.measure(relay, Place(CORE, CORE))
    assert ["client 0: the connection was lost"] == run.faults


@pytest.mark.usefixtures("soon_evicted")
@pytest.mark.parametrize("relay", [Forgetful()], indirect=True)
async def test_a_copy_that_never_arrives_and_an_edit_not_kept_are_faults(relay: Relay) -> None:
    run = await LOAD.measure(relay, Place(CORE, CORE))
    assert [
        "the onlooker lacks edits of 1 of 2 writers", "a newcomer at the end lacks edits of 1 of 2 writers",
    ] == run.faults[:2]  # fmt: skip


@pytest.mark.parametrize(
    "parameters", [{"edits": 5000}, {"edits": 10**9}, {"writers": 0}, {"rate": 0}, {"rate": 5000}]
)
def test_an_impossible_load_is_refused(parameters: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=r"edits|writers"):
        GrowthLoad(**parameters)  # type: ignore[arg-type]


@pytest.mark.parametrize("relay", [_faithfully], indirect=True)
async def test_the_short_sets_growth_draws_cost_and_memory_against_edits(
    relay: Relay, monkeypatch: pytest.MonkeyPatch
) -> None:
    (load,) = (one for one in short_set(3) if one.scenario == "growth")
    assert isinstance(load, OwnGrowthLoad)
    assert {"rest"} == load.needs
    assert [1000, 3000, 10_000] == load.steps
    monkeypatch.setattr("bench.scenarios.growth.QUIET_S", 0.1)
    run = await replace(load, seconds=0.3, warm_up_s=0.1).measure(relay, Place(CORE, CORE))
    points = {curve.title: [x for x, _ in curve.points] for curve in run.curves.values()}
    wanted = "CPU time of an edit against past edits", "Memory against past edits"
    assert [load.steps] * 2 == [points[title] for title in wanted]


def test_few_edits_are_held_to_no_bound_that_chance_passes() -> None:
    by_edits = {
        edits: [goal.figure for goal in GrowthLoad(edits=edits).goals]
        for edits in (10_000, 100_000, 1_000_000)
    }
    assert {
        10_000: ["cost_growth"],
        100_000: ["cost_growth", "sync_growth"],
        1_000_000: ["cost_growth", "sync_growth", "memory_growth"],
    } == by_edits


def test_a_window_does_not_go_beyond_the_next_step() -> None:
    GrowthLoad(rate=250, seconds=3.5, warm_up_s=0.5, finely=True)
    with pytest.raises(ValueError, match="over 2,000 edits would go beyond"):
        GrowthLoad(rate=250, seconds=3.6, warm_up_s=0.5, finely=True)
    GrowthLoad(rate=250, seconds=3.6, warm_up_s=0.5)
