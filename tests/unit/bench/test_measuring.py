"""Where a measurement runs, what lies within its window, and which remarks its conditions call for."""

import gc
import os
import sys
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from time import perf_counter, process_time, sleep

import pytest

from bench import process
from bench.client import Client
from bench.ledger import Window
from bench.load import Pace
from bench.measuring import Cost, behind, drive, lost_connections, remarks_on
from bench.model import FELL_BEHIND
from bench.process import Moment, Probe, Usage, core_busy_s, cores, usage
from bench.protocols import y_websocket
from bench.scenarios.cursors import Gallery, Pointer
from bench.scenarios.growth import GrowthLoad, Step
from bench.servers import SERVERS, Sender, Server
from bench.servers.peers import Peer
from bench.yjs import var_bytes, var_uint

MIB = 1 << 20
BEFORE = Moment(100.0, 5.0, 50.0, 40.0, Usage(3.0, 1.0, 30 * MIB))


@pytest.fixture
def one_core() -> Iterator[int]:
    """This process has one core alone."""
    allowed = os.sched_getaffinity(0)
    process.pin(max(allowed))
    assert os.sched_getaffinity(0) == {max(allowed)}
    yield max(allowed)
    os.sched_setaffinity(0, allowed)


# --- cores ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("allowed", "chosen"), [({2, 5, 7}, (2, 7)), ({0, 1}, (0, 1)), ({3}, (3, 3))])
def test_the_generator_has_the_first_core_and_the_server_the_last(
    monkeypatch: pytest.MonkeyPatch, allowed: set[int], chosen: tuple[int, int]
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _pid: allowed)
    assert chosen == cores()


@pytest.mark.parametrize("make", [*SERVERS.values(), Sender], ids=lambda make: make.name)
async def test_every_server_is_started_on_the_core_that_it_is_given(
    make: type[Server], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    spawned: list[int | None] = []

    async def spawn(_server: Server, _command: Sequence[str], core: int | None, *_more: object) -> None:
        spawned.append(core)
        raise InterruptedError

    monkeypatch.setattr(Server, "_spawn", spawn)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    if issubclass(make, Peer):
        monkeypatch.setattr(make, "lacks", classmethod(lambda cls: None))
        monkeypatch.setattr(make, "program", classmethod(lambda cls: ["node"]))
    with pytest.raises(InterruptedError):
        await make().start(7)
    assert [None if make.name == "tmi-2" else 7] == spawned


def test_what_any_process_does_on_a_core_is_seen_there(one_core: int) -> None:
    before, until = core_busy_s(one_core), process_time() + 0.1
    while process_time() < until:
        pass
    assert core_busy_s(one_core) - before >= 0.08


def test_a_child_named_postgres_is_the_database_and_not_the_server(tmp_path: Path) -> None:
    (tmp_path / "postgres").symlink_to(os.path.realpath(sys.executable))
    burn = "import time\nwhile time.process_time() < 0.2: pass\nprint(flush=True)\ninput()"
    before = usage(os.getpid())
    read_end, write_end = os.pipe()
    input_end, gate = os.pipe()
    child = os.posix_spawn(
        tmp_path / "postgres", ["postgres", "-S", "-E", "-c", burn], os.environ,
        file_actions=[(os.POSIX_SPAWN_DUP2, write_end, 1), (os.POSIX_SPAWN_DUP2, input_end, 0)],
    )  # fmt: skip
    os.close(write_end)
    assert b"\n" == os.read(read_end, 1)
    after = usage(os.getpid())
    os.close(gate)
    os.waitpid(child, 0)
    assert after.database_s - before.database_s >= 0.15
    assert after.server_s - before.server_s < 0.15
    assert after.server_rss - before.server_rss < 4 * MIB


# --- what a window costs, and remarks ---------------------------------------------------------------


def _cost(
    seconds: float = 10, server_s: float = 2, database_s: float = 1, generator_s: float = 3,
    others_here_s: float = 0, others_there_s: float = 0, seen: bool = True,
) -> Cost:  # fmt: skip
    """Of a window with so much of everything; `others` are those on the generator's core and the server's."""
    after = Moment(
        BEFORE.at + seconds, BEFORE.generator_s + generator_s,
        BEFORE.generator_core_s + generator_s + others_here_s,
        BEFORE.server_core_s + server_s + database_s + others_there_s,
        Usage(3 + server_s, 1 + database_s, 64 * MIB),
    )  # fmt: skip
    if seen:
        return Cost.between(BEFORE, after)
    return Cost.between(replace(BEFORE, usage=None), replace(after, usage=None))


def test_the_conditions_of_a_window_are_shares_of_its_cores() -> None:
    cost = _cost(others_here_s=0.2, others_there_s=0.4)
    assert pytest.approx({
        "server_busy": 0.2, "database_busy": 0.1, "server_rss_mib": 64, "generator_busy": 0.3,
        "generator_core_noise": 0.02, "server_core_noise": 0.04, "slip_p99_ms": 7,
    }) == cost.conditions([0.007, 0.001])  # fmt: skip
    assert pytest.approx((20, 10)) == (cost.server_us_per(100_000), cost.database_us_per(100_000))


def test_of_processes_out_of_sight_only_the_generator_s_conditions_are_known() -> None:
    assert {"generator_busy", "generator_core_noise"} == _cost(seen=False).conditions().keys()
    assert [] == remarks_on(_cost(seen=False).conditions())


@pytest.mark.parametrize(
    ("cost", "late_s", "remarks"),
    [
        (_cost(generator_s=8.4), (), []),
        (_cost(generator_s=8.6), (), ["generator busy"]),
        (_cost(), (0.0099,), []),
        (_cost(), (0.0101,), ["generator late"]),
        (_cost(), (*[0.0] * 99, 1.0), []),
        (_cost(), (*[0.0] * 98, 1.0, 1.0), ["generator late"]),
        (_cost(others_here_s=0.49), (), []),
        (_cost(others_here_s=0.51), (), ["noise"]),
        (_cost(others_there_s=0.49), (), []),
        (_cost(others_there_s=0.51), (), ["noise"]),
        (_cost(others_here_s=0.51, seen=False), (), ["noise"]),
        (_cost(server_s=9, database_s=0.9), (), []),
        (_cost(generator_s=9, others_there_s=1), (1.0,), ["generator busy", "generator late", "noise"]),
    ],
)
def test_a_remark_is_made_beyond_its_threshold_and_not_before(
    cost: Cost, late_s: Sequence[float], remarks: list[str]
) -> None:
    assert remarks == remarks_on(cost.conditions(late_s))


@pytest.mark.parametrize(("arrived", "remarks"), [(100, []), (98, []), (97.9, [FELL_BEHIND])])
def test_two_in_a_hundred_may_be_under_way(arrived: float, remarks: list[str]) -> None:
    assert remarks == behind(arrived, 100)
    assert FELL_BEHIND == "fell behind"


async def test_each_connection_that_ended_by_itself_is_a_fault() -> None:
    clients = [Client(number, number, y_websocket()) for number in range(3)]
    clients[1].lost = "closed with 1011: gone"
    assert ["client 1: closed with 1011: gone"] == lost_connections(clients)
    for client in clients[::2]:
        client.on_ws_disconnected(None)  # type: ignore[arg-type]
        client._joined.exception()
    assert 3 == len(lost_connections(clients))


async def test_who_leaves_has_not_lost_its_connection() -> None:
    client = Client(0, 0, y_websocket())
    await client.leave()
    client.on_ws_disconnected(None)  # type: ignore[arg-type]
    client._joined.exception()
    assert [] == lost_connections([client])


# --- windows ----------------------------------------------------------------------------------------


async def test_a_window_begins_when_the_warm_up_is_over_and_ends_with_the_load() -> None:
    acts = array("d")

    def act(_number: int) -> bool:
        acts.append(perf_counter())
        return True

    start = perf_counter()
    before, after = await drive(Pace(100, act), 0.2, 0.3, Probe(os.getpid(), None, *cores()))
    assert 50 == len(acts)
    assert start + 0.2 <= before.at < acts[-5] < acts[-1] <= after.at
    assert before.usage is not None


async def test_a_pace_is_even_and_says_how_late_each_turn_was() -> None:
    def block_once(number: int) -> bool:
        if number == 3:
            sleep(0.06)
        return True

    pace, start = Pace(50, block_once), perf_counter()
    await pace.run(0.2)
    assert perf_counter() - start >= 0.18
    assert (10, True) == (len(pace.late_s), pace.late_s[4] >= 0.039)
    assert ["generator late"] == remarks_on(_cost().conditions(pace.late_s))


async def test_the_collector_is_at_rest_within_a_window_and_works_again_where_the_load_breaks_off() -> None:
    def act(_number: int) -> bool:
        assert not gc.isenabled()
        raise ConnectionError("gone")

    with pytest.raises(ExceptionGroup):
        await drive(Pace(100, act), 0, 0.1, Probe(None, None, *cores()))
    assert gc.isenabled()


def _told(pointer: Pointer, clock: int) -> bytes:
    entry = b"\x01" + var_uint(pointer.writer.client) + var_uint(clock) + var_bytes(pointer.states[clock])
    return pointer.dialect.present + var_bytes(entry)


async def test_moves_and_copies_of_the_warm_up_are_not_figures() -> None:
    author, other = (Pointer(number, 10 + number, y_websocket()) for number in range(2))
    for moved, read in ((1.0, 1.5), (2.0, 6.0), (7.0, 8.0), (9.0, 20.0)):
        author.states.append(b"{%d}" % moved)
        author.moved_at.append(moved)
        other.frames.append(_told(author, len(author.states) - 1))
        other.read_at.append(read)
    sight = Gallery([author, other]).sight(Window(5, 10))
    assert (4, 2, 2, 0) == (sight.copies, sight.copies_in_window, sight.moves_in_window, sight.stale)
    assert [[], [1, 11]] == [list(latencies) for latencies in sight.latencies_s]


# --- growth -----------------------------------------------------------------------------------------


def _step(edits: int, cpu_us: float, rss: int, sync_bytes: int) -> Step:
    usages = Usage(1, 1, 1), Usage(1 + cpu_us * 1e-3, 1, rss)
    before, after = (replace(BEFORE, at=at, usage=one) for at, one in zip((1, 2), usages, strict=True))
    cost = Cost.between(before, after)
    return Step(edits, 5.0, sync_bytes, 1000, cost, {}, [f"after {edits}"], [f"fault after {edits}"])


def test_growth_is_what_came_on_top_between_the_first_step_and_the_last() -> None:
    steps = [
        _step(1000, 20, 50 * MIB, 100), _step(10_000, 25, 59 * MIB, 190), _step(100_000, 30, 61 * MIB, 1090)
    ]  # fmt: skip
    run = GrowthLoad(edits=100_000)._run("tmi", steps, ["at the end"])
    wanted = {
        "cost_growth": 1.5, "cpu_us": 30, "first_cpu_us": 20, "memory_growth": 11 * MIB / 99_000,
        "sync_growth": 0.01, "sync_bytes": 1090,
    }  # fmt: skip
    assert pytest.approx(wanted) == {key: run.figures[key] for key in wanted}
    assert [(1000, 50), (10_000, 59), (100_000, 61)] == list(run.curves["memory"].points)
    assert [(1000, 100), (10_000, 190), (100_000, 1090)] == list(run.curves["sync"].points)
    costs = [y for _, y in run.curves["cost"].points]
    assert pytest.approx([20, 25, 30]) == costs
    assert ("MiB", True) == (run.curves["memory"].y, run.curves["memory"].logarithmic_x)
    told = [f"after {step.edits}" for step in steps]
    assert (told, [*(f"fault {one}" for one in told), "at the end"]) == (run.remarks, run.faults)


def test_growth_of_a_server_out_of_sight_has_no_curve_of_memory() -> None:
    unseen = replace(BEFORE, usage=None)
    steps = [replace(_step(n, 1, 1, n), cost=Cost.between(unseen, unseen)) for n in (1000, 10_000)]
    run = GrowthLoad(edits=10_000)._run("deployment", steps, [])
    assert {"sync"} == run.curves.keys()
    assert not run.figures.keys() & {"memory_growth", "cost_growth", "cpu_us"}
