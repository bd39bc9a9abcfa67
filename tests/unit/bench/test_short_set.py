"""What `make bench` measures: everything twice, and how long that takes, by sums."""

import re
from collections.abc import Iterator
from itertools import groupby

import pytest
from click.testing import CliRunner

from bench import cli
from bench.machine import ROOT
from bench.measuring import behind
from bench.model import Load
from bench.runner import Plan
from bench.scenarios import SCENARIOS, full_set, short_set, warmed
from bench.scenarios.fanout import FanoutLoad
from bench.scenarios.growth import GrowthLoad
from bench.servers import DEFAULT, SERVERS
from bench.servers.peers import Peer

AT_MOST_S = 300.0
START_S = 3.7
"""All servers of a scenario, and until they have ended; this and the next as measured on two quiet cores."""

BESIDES_S = {
    "fanout": 1.02, "cursors": 0.8, "rooms": 2.06, "join": 1.26, "connect": 0.11, "ack": 0.95, "rest": 0.58,
    "growth": 7.0,
}  # fmt: skip
"""What a run takes besides its warm-up and its windows, on average over the servers: connecting, settling,
checking, and after `growth` another start.
"""

SLOWER = 1.25
"""By as much a machine of two cores may be slower from one hour to the next."""


@pytest.fixture
def plans(monkeypatch: pytest.MonkeyPatch) -> list[Plan]:
    """Of the commands that were called; nothing is measured, and all peers are installed."""
    found: list[Plan] = []

    async def carried_out(plan: Plan, *_: object) -> int:
        found.append(plan)
        return 0

    monkeypatch.setattr("bench.cli.carry_out", carried_out)
    for server in SERVERS.values():
        if issubclass(server, Peer):
            monkeypatch.setattr(server, "lacks", classmethod(lambda cls: None))
    return found


def _measured(plan: Plan) -> Iterator[tuple[str, list[Load]]]:
    """The loads of each scenario in the order of their runs."""
    for scenario, loads in groupby(plan.loads, key=lambda load: load.scenario):
        yield scenario, list(plan.in_turns(list(loads)))


def _planned_s(plan: Plan, slower: float) -> float:
    """All warm-ups, windows and what comes besides, which grows where a machine is slower, on all servers."""
    servers = [make() for make in plan.servers]
    planned_s = 0.0
    for scenario, loads in _measured(plan):
        able = sum(loads[0].needs <= server.offers for server in servers)
        planned_s += able * sum(_window_s(load) for load in loads)
        planned_s += slower * (START_S + able * len(loads) * BESIDES_S[scenario])
    return planned_s


def _window_s(load: Load) -> float:
    steps = len(load.steps) if isinstance(load, GrowthLoad) else 1
    return steps * float(vars(load)["warm_up_s"] + vars(load).get("seconds", 0.0))


def test_make_bench_runs_everything_twice_in_turns_and_is_done_within_five_minutes(plans: list[Plan]) -> None:
    makefile = (ROOT / "Makefile").read_text()
    (arguments,) = re.findall(r"-m bench (short .*) \$\(ARGS\)", makefile)
    words = [word for word in arguments.split() if not word.startswith(("--json", "--html", "build/"))]
    assert 0 == CliRunner().invoke(cli.main, words).exit_code
    (plan,) = plans
    assert list(DEFAULT) == [make().name for make in plan.servers]
    for _, loads in _measured(plan):
        labels = [load.label for load in loads]
        assert labels[: len(labels) // 2] * 2 == labels
    planned_s = _planned_s(plan, SLOWER)
    assert planned_s < AT_MOST_S, f"{planned_s:.0f} s"


def test_with_windows_of_three_seconds_nothing_is_saved(plans: list[Plan]) -> None:
    """So are the figures of RESULTS.md made."""
    assert 0 == CliRunner().invoke(cli.main, ["short", "--seconds", "3", "--repeat", "2"]).exit_code
    (plan,) = plans
    for scenario, loads in _measured(plan):
        usual = next(one for one in SCENARIOS if one.scenario == scenario)
        assert {vars(usual())["warm_up_s"]} == {vars(load)["warm_up_s"] for load in loads}
    assert [25, 50, 50, 50, 50] == [load.clients for load in plan.loads if isinstance(load, FanoutLoad)]


def test_what_is_under_way_at_the_end_of_a_window_is_not_taken_for_falling_behind() -> None:
    """TMI merges edits for some 18 ms, and cursors for some 38."""
    for load in short_set(1):
        if load.scenario in ("fanout", "cursors"):
            under_way_s = 0.038 if load.scenario == "cursors" else 0.018
            assert [] == behind(vars(load)["seconds"] - under_way_s, vars(load)["seconds"])


def test_only_the_first_of_a_scenario_is_warmed_up_at_length_where_windows_are_short(
    plans: list[Plan],
) -> None:
    assert 0 == CliRunner().invoke(cli.main, ["short"]).exit_code
    warm_ups = {
        scenario: [round(vars(load)["warm_up_s"], 2) for load in loads]
        for scenario, loads in _measured(plans[0])
    }
    assert warm_ups == {
        "fanout": [1.5, *[0.5] * 7], "cursors": [1.5, 0.5], "rooms": [1.5, 0.5], "join": [3, 0],
        "connect": [3, 0], "ack": [1, 0.33], "rest": [1, 0.33], "growth": [0.5, 0.5],
    }  # fmt: skip


def test_a_warmed_load_is_the_same_but_for_that() -> None:
    for load in short_set(1):
        changed = {name for name, value in vars(load).items() if value != vars(warmed(load, 1))[name]}
        assert changed <= {"warm_up_s"}
        assert (load.label, load.goals) == (warmed(load, 1).label, warmed(load, 1).goals)


def test_the_full_set_is_warmed_up_each_time(plans: list[Plan]) -> None:
    assert 0 == CliRunner().invoke(cli.main, ["full"]).exit_code
    assert full_set(8) == plans[0].loads
    assert all(plans[0].warmed(load) is load for load in plans[0].loads)
