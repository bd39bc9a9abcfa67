"""Figures: percentiles, ratios to the best peer, verdicts, and what /proc says."""

import math
import os
from collections.abc import Mapping
from types import MappingProxyType

import pytest

from bench.process import parse_stat, usage
from bench.protocols import hocuspocus, y_websocket
from bench.report import Goal, summarise, verdict
from bench.scenarios.fanout import FanoutLoad, FanoutRun
from bench.statistics import Spread, percentile

LOAD = FanoutLoad(clients=50, writers=10, rate=10, seconds=8)


def _run(
    server: str, cpu_us: float, figures: Mapping[str, float] = MappingProxyType({}), fault: str = ""
) -> FanoutRun:
    known = {"p50_ms": 1.0, "p99_ms": 5.0} | dict(figures)
    return FanoutRun(
        server=server, load=LOAD, cpu_us_per_copy=cpu_us, database_us_per_copy=0, p50_ms=known["p50_ms"],
        p99_ms=known["p99_ms"], max_ms=9, copies_per_s=1, copies_per_frame=1, edits=1, copies_missing=0,
        server_busy=0.1, server_rss_bytes=1, generator_busy=0.1, slip_p99_ms=0, server_core_noise=0,
        generator_core_noise=0, faults=[fault] if fault else [], remarks=[],
    )  # fmt: skip


def test_percentiles_are_nearest_rank() -> None:
    values = [float(n) for n in range(1, 101)]
    assert (50, 99, 100, 1) == tuple(percentile(values, share) for share in (0.5, 0.99, 1, 0))
    assert 7 == percentile([7.0], 0.99)
    assert math.isnan(percentile([], 0.5))


def test_a_spread_names_the_middle_and_the_outer_runs() -> None:
    assert Spread(2, 1, 9) == Spread.of([9, 1, 2])


def test_the_ratio_is_to_the_peer_that_is_cheapest_in_cpu_by_medians() -> None:
    runs = [_run("tmi", 5), _run("hocuspocus", 20), _run("y-websocket", 10), _run("y-websocket", 12)]
    ratios = {summary.server: summary.cpu_ratio for summary in summarise([*runs, _run("tmi", 6)])}
    assert {"tmi": pytest.approx(0.5), "hocuspocus": None, "y-websocket": None} == ratios


def test_a_peer_that_lost_edits_is_no_best_peer() -> None:
    lossy = _run("y-websocket", 10, fault="1 of 9 copies never arrived")
    runs = [_run("tmi", 5), _run("hocuspocus", 20), lossy]
    assert 0.25 == summarise(runs)[0].cpu_ratio


def test_a_row_without_peers_has_no_ratio() -> None:
    assert [None] == [summary.cpu_ratio for summary in summarise([_run("tmi", 5)])]


@pytest.mark.parametrize(
    ("tmi", "expected"),
    [
        (_run("tmi", 4), "met"),
        (_run("tmi", 6), "CPU 0.60x > 0.45x"),
        (_run("tmi", 4, {"p99_ms": 30}), "p99 30 > 20 ms"),
        (_run("tmi", 4, {"p50_ms": 2}), "p50 2.00x > 1.5x"),
        (_run("tmi", 4, fault="2 of 9 copies never arrived"), "2 of 9 copies never arrived"),
    ],
)
def test_a_verdict_names_each_shortfall(tmi: FanoutRun, expected: str) -> None:
    ours = next(s for s in summarise([tmi, _run("y-websocket", 10)]) if s.server == "tmi")
    assert expected == verdict(ours, Goal(cpu_ratio=0.45, p50_ratio=1.5, p99_ms=20))


@pytest.mark.parametrize(("clients", "writers"), [(1, 1), (5, 6), (5, 0)])
def test_an_impossible_load_is_refused(clients: int, writers: int) -> None:
    with pytest.raises(ValueError, match="two clients or more"):
        FanoutLoad(clients, writers, 10, 8)


def test_a_load_that_would_fill_the_memory_is_refused() -> None:
    with pytest.raises(ValueError, match="4 GiB"):
        FanoutLoad(5000, 5000, 1000, 600)


def test_a_stat_line_is_read_whatever_the_name() -> None:
    line = "42 (a) b (c) S 7 42 42 0 -1 4194304 1 2 3 4 100 50 20 10 20 0 1 0 5 1000 3 184467"
    process = parse_stat(line)
    tick = 1 / os.sysconf("SC_CLK_TCK")
    assert (42, 7, "a) b (c") == (process.pid, process.parent, process.name)
    assert pytest.approx(150 * tick) == process.own_s
    assert pytest.approx(30 * tick) == process.reaped_s
    assert 3 * os.sysconf("SC_PAGE_SIZE") == process.resident


def test_the_usage_of_this_process_grows_and_has_memory() -> None:
    before = usage(os.getpid())
    sum(n * n for n in range(3_000_000))
    after = usage(os.getpid())
    assert after.server_s > before.server_s
    assert after.server_rss > 0


def test_the_first_frames_are_those_of_stock_clients() -> None:
    assert bytes.fromhex("00000100") == y_websocket().ask()
    assert bytes.fromhex("016402000 3746f6b05342e382e30".replace(" ", "")) == hocuspocus("d", "tok").opening
    assert bytes.fromhex("016400000100") == hocuspocus("d", "tok").ask()
    assert bytes.fromhex("01060107 01027b7d".replace(" ", "")) == y_websocket().presence(7, 1)
