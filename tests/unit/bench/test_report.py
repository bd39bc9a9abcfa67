"""Figures: percentiles, ratios to the best peer, verdicts, and what /proc says."""

import math
import os
import re
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import replace
from io import StringIO
from types import MappingProxyType

import pytest
from rich.console import Console

from bench.model import FELL_BEHIND, Run
from bench.process import parse_stat, usage
from bench.protocols import hocuspocus, y_websocket
from bench.report import Summary, lost_or_altered, print_table, standing, summarise, to_best_peer
from bench.scenarios.connect import ConnectLoad
from bench.scenarios.fanout import FanoutLoad
from bench.statistics import Spread, percentile

LOAD = FanoutLoad(clients=50, writers=10, rate=10, seconds=8)


def _run(
    server: str, cpu_us: float, figures: Mapping[str, float] = MappingProxyType({}), fault: str = ""
) -> Run:
    known = {"cpu_us": cpu_us, "p50_ms": 1.0, "p99_ms": 5.0} | dict(figures)
    return Run("fanout", LOAD.label, server, {}, known, faults=[fault] if fault else [])


def test_percentiles_are_nearest_rank() -> None:
    values = [float(n) for n in range(1, 101)]
    assert (50, 99, 100, 1) == tuple(percentile(values, share) for share in (0.5, 0.99, 1, 0))
    assert 7 == percentile([7.0], 0.99)
    assert math.isnan(percentile([], 0.5))


def test_a_spread_names_the_middle_and_the_outer_runs() -> None:
    assert Spread(2, 1, 9) == Spread.of([9, 1, 2])


def _ratio(summary: Summary) -> float | None:
    return summary.ratios.get("cpu_us")


def test_the_ratio_is_to_the_peer_that_is_cheapest_by_medians() -> None:
    runs = [_run("tmi", 5), _run("hocuspocus", 20), _run("y-websocket", 10), _run("y-websocket", 12)]
    ratios = {summary.server: _ratio(summary) for summary in summarise([LOAD], [*runs, _run("tmi", 6)])}
    assert {"tmi": pytest.approx(0.5), "hocuspocus": None, "y-websocket": None} == ratios


def test_a_peer_that_lost_edits_is_no_best_peer() -> None:
    lossy = _run("y-websocket", 10, fault="1 of 9 copies never arrived")
    runs = [_run("tmi", 5), _run("hocuspocus", 20), lossy]
    assert 0.25 == _ratio(summarise([LOAD], runs)[0])


def _behind(run: Run) -> Run:
    return replace(run, remarks=["noise", FELL_BEHIND])


def test_a_peer_that_did_not_keep_up_is_no_best_peer_however_little_it_needed() -> None:
    runs = [_run("tmi", 5), _run("hocuspocus", 20), _behind(_run("y-websocket", 10))]
    assert ("hocuspocus", 0.25) == (summarise([LOAD], runs)[0].best_peer, _ratio(summarise([LOAD], runs)[0]))


def test_where_no_peer_kept_up_there_is_nothing_to_compare() -> None:
    summary = summarise([LOAD], [_run("tmi", 5), _behind(_run("y-websocket", 10))])[0]
    assert (None, {}) == (summary.best_peer, summary.ratios)


@pytest.mark.parametrize(("behind", "best"), [(1, "y-websocket"), (2, "y-websocket"), (3, "hocuspocus")])
def test_a_run_in_which_a_peer_fell_behind_excludes_it_only_if_most_did(behind: int, best: str) -> None:
    often = [_run("y-websocket", 10) for _ in range(4)]
    runs = [*(_behind(run) for run in often[:behind]), *often[behind:], _run("hocuspocus", 20)]
    assert best == summarise([LOAD], runs)[0].best_peer


def test_that_tmi_fell_behind_is_said_and_changes_no_ratio() -> None:
    summary = summarise([LOAD], [_behind(_run("tmi", 5)), _run("y-websocket", 10)])[0]
    assert (["noise", FELL_BEHIND], 0.5) == (summary.remarks, _ratio(summary))


def test_a_service_of_which_the_processes_are_out_of_sight_is_judged_by_what_was_seen() -> None:
    run = _run("deployment", 0)
    del run.figures["cpu_us"]
    load = replace(LOAD, rate=40)
    summary = summarise([load], [replace(run, load=load.label)])[0]
    assert [None, True] == [verdict.met for verdict in summary.verdicts]
    console = Console(file=StringIO(), width=160)
    print_table(console, [load], [summary])
    assert isinstance(console.file, StringIO)
    assert "p99 5 <= 20 ms" in console.file.getvalue()


def test_a_goal_is_not_met_by_who_did_a_part_of_the_work() -> None:
    (ours,) = [one for one in summarise([LOAD], [_run("tmi", 5), _run("y-websocket", 10)]) if one.verdicts]
    assert "met" == standing(ours, ours.verdicts[0])
    assert "short" == standing(replace(ours, remarks=[FELL_BEHIND]), ours.verdicts[0])
    assert "unsound" == standing(replace(ours, faults=["lost"]), ours.verdicts[0])


@pytest.mark.parametrize(("ours", "met"), [(250, True), (240, True), (239, False)])
def test_where_more_is_better_the_best_peer_has_the_most_and_the_goal_is_a_lower_bound(
    ours: float, met: bool
) -> None:
    load = ConnectLoad()
    runs = [
        Run("connect", load.label, server, {}, {"accepted_per_s": per_s})
        for server, per_s in (("tmi", ours), ("hocuspocus", 100), ("y-websocket", 200))
    ]
    summary = summarise([load], runs)[0]
    (verdict,) = summary.verdicts
    assert ("y-websocket", met) == (summary.best_peer, verdict.met)
    assert ours / 200 == summary.ratios["accepted_per_s"]
    assert ("met" if met else "short") == standing(summary, verdict)


@pytest.mark.parametrize(
    ("ours", "peers", "text"),
    [
        ([250, 230, 260], [200, 200, 200], "accepted 1.25 >= 1.2x the best peer, so in 2 of 3 runs"),
        ([230, 250, 220], [200, 200, 200], "accepted 1.15 < 1.2x the best peer, so in 2 of 3 runs"),
        ([250, 125, 260], [200, 100, 200], "accepted 1.25 >= 1.2x the best peer"),
    ],
)
def test_a_verdict_tells_in_how_many_runs_it_holds_each_beside_the_peer_s_of_that_time(
    ours: list[float], peers: list[float], text: str
) -> None:
    load = ConnectLoad()
    runs = [
        Run("connect", load.label, server, {}, {"accepted_per_s": per_s})
        for pair in zip(ours, peers, strict=True)
        for server, per_s in zip(("tmi", "y-websocket"), pair, strict=True)
    ]
    (verdict,) = summarise([load], runs)[0].verdicts
    assert text == verdict.text


def test_a_row_without_peers_has_no_ratio_and_no_verdict_on_one() -> None:
    summary = summarise([LOAD], [_run("tmi", 5)])[0]
    assert ({}, [None, None]) == (summary.ratios, [verdict.met for verdict in summary.verdicts])


def test_a_run_that_broke_off_takes_the_medians_of_its_server_but_not_the_others() -> None:
    broken = Run("fanout", LOAD.label, "y-websocket", {}, {}, faults=["broke off: gone"])
    summaries = summarise([LOAD], [_run("tmi", 5), broken, _run("hocuspocus", 10)])
    assert ["hocuspocus"] * 3 == [summary.best_peer for summary in summaries]
    assert {} == summaries[1].figures


CPU_LOW = "CPU 0.4 <= 0.45x the best peer"
CPU_MET, P50_MET = "CPU 0.8 <= 0.85x the best peer", "p50 1 <= 1.5x the best peer"


@pytest.mark.parametrize(
    ("rate", "tmi", "expected"),
    [
        (10, _run("tmi", 8), [(True, CPU_MET), (True, P50_MET)]),
        (10, _run("tmi", 9), [(False, "CPU 0.9 > 0.85x the best peer"), (True, P50_MET)]),
        (10, _run("tmi", 8, {"p50_ms": 2}), [(True, CPU_MET), (False, "p50 2 > 1.5x the best peer")]),
        (40, _run("tmi", 4, {"p99_ms": 30}), [(True, CPU_LOW), (False, "p99 30 > 20 ms")]),
    ],
)  # fmt: skip
def test_a_verdict_names_figure_and_bound(rate: float, tmi: Run, expected: list[tuple[bool, str]]) -> None:
    load = FanoutLoad(clients=50, writers=10, rate=rate, seconds=8)
    runs = [replace(run, load=load.label) for run in (tmi, _run("y-websocket", 10))]
    ours = summarise([load], runs)[0]
    assert expected == [(verdict.met, verdict.text) for verdict in ours.verdicts]


def test_a_bound_in_milliseconds_tells_in_how_many_runs_it_holds() -> None:
    load = FanoutLoad(clients=50, writers=10, rate=40, seconds=8)
    runs = [replace(_run("tmi", 4, {"p99_ms": p99}), load=load.label) for p99 in (30, 10, 15)]
    assert "p99 15 <= 20 ms, so in 2 of 3 runs" in [
        verdict.text for verdict in summarise([load], runs)[0].verdicts
    ]


def test_the_table_says_which_goals_are_met_and_which_are_short() -> None:
    console = Console(file=StringIO(), width=160)
    runs = [_run("tmi", 8, {"p50_ms": 2}), _run("y-websocket", 10)]
    print_table(console, [LOAD], summarise([LOAD], runs))
    assert isinstance(console.file, StringIO)
    lines = console.file.getvalue().splitlines()
    assert [("met", "CPU 0.8 <="), ("short", "p50 2 >")] == [
        (line.split()[0], line.split(": ")[-1][:10].strip() if "CPU" in line else line.split(": ")[-1][:7])
        for line in lines
        if "the best peer" in line
    ]


def test_faults_of_ours_are_told_from_those_of_peers() -> None:
    assert not lost_or_altered([_run("tmi", 1), _run("y-websocket", 1, fault="lost")])
    assert lost_or_altered([_run("tmi", 1, fault="lost"), _run("y-websocket", 1)])
    assert lost_or_altered([_run("deployment", 1, fault="lost")])


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


def test_a_worker_that_has_ended_counts_with_the_server_and_not_with_the_database() -> None:
    before = usage(os.getpid())
    subprocess.run([sys.executable, "-S", "-c", "sum(n * n for n in range(6_000_000))"], check=True)
    after = usage(os.getpid())
    assert after.server_s - before.server_s > 0.1
    assert before.database_s == after.database_s


def test_the_first_frames_are_those_of_stock_clients() -> None:
    assert bytes.fromhex("00000100") == y_websocket().ask()
    assert bytes.fromhex("016402000 3746f6b05342e382e30".replace(" ", "")) == hocuspocus("d", "tok").opening
    assert bytes.fromhex("016400000100") == hocuspocus("d", "tok").ask()
    assert bytes.fromhex("01060107 01027b7d".replace(" ", "")) == y_websocket().presence(7, 1)


@pytest.mark.parametrize("width", [60, 80, 120, 200])
def test_a_table_has_room_for_the_load_the_median_and_the_spread(width: int) -> None:
    more = {"p50_ms": 700.0, "p99_ms": 900.0, "database_us": 1.0, "copies_per_s": 49_000.0}
    runs = [
        _run(server, 13.61 * by, {key: value * by for key, value in more.items()})
        for server in ("tmi", "pycrdt-websocket")
        for by in (1, 1.2)
    ]
    console = Console(file=StringIO(), width=width)
    print_table(console, [LOAD], summarise([LOAD], runs))
    assert isinstance(console.file, StringIO)
    table = console.file.getvalue().split("\n  ")[0]
    words = " ".join(re.sub("[^ -~]", " ", table).split())
    assert "…" not in table
    for told in ("14.97", "13.61 to", "16.33", "58,800", "pycrdt-websocket", "clients,", "writers", "x best"):
        assert told in words
    assert 2 == words.count("sound")
    assert (LOAD.label in table) == (width == 200), "on one line where there is room"


def test_the_ratio_is_told_with_the_database_s_cpu_counted_too() -> None:
    runs = [_run("tmi", 8.0, {"database_us": 1.0}), _run("y-websocket", 10.0, {"database_us": 0.0})]
    ours, theirs = summarise([LOAD], runs)
    assert ["0.80", "(0.90)"] == to_best_peer(ours, LOAD.cost)
    assert [] == to_best_peer(theirs, LOAD.cost)
    del runs[0].figures["database_us"]
    assert ["0.80"] == to_best_peer(summarise([LOAD], runs)[0], LOAD.cost), "out of sight"


def test_no_cpu_is_added_to_what_is_no_cpu() -> None:
    load = ConnectLoad()
    figures = {"accepted_per_s": 100.0, "cpu_us": 1.0, "database_us": 1.0}
    runs = [Run("connect", load.label, server, {}, figures) for server in ("tmi", "y-websocket")]
    assert ["1.00"] == to_best_peer(summarise([load], runs)[0], load.cost)


@pytest.mark.parametrize(
    ("per_s", "text"),
    [
        (239.2, "accepted 1.196 < 1.2x the best peer"),
        (412_345, "accepted 2,062 >= 1.2x the best peer"),
        (0.0134, "accepted 0.000067 < 1.2x the best peer"),
    ],
)
def test_a_verdict_tells_figures_without_an_exponent_and_apart_from_the_bound(
    per_s: float, text: str
) -> None:
    load = ConnectLoad()
    runs = [
        Run("connect", load.label, server, {}, {"accepted_per_s": value})
        for server, value in (("tmi", per_s), ("y-websocket", 200))
    ]
    assert [text] == [verdict.text for verdict in summarise([load], runs)[0].verdicts]
