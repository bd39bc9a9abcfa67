"""Everything in one go: what is measured, what becomes of a part that takes too long, and the text."""

import signal
import time
from dataclasses import replace
from pathlib import Path

import pytest

from bench import cli, results
from bench.document import Document, write_json
from bench.results import PARTS, REMARKS, Part, carry_out, composed, measure, read
from bench.scenarios import SCENARIOS, short_set
from tests.unit.bench.made_up import document, load, run

LONG = Part("self", ("self", "--edits", "100000", "--at-once", "1"), 4.0)
"""It has begun by then, also on a busy machine."""


def _documents() -> dict[str, Document]:
    short = document([run("tmi", 5), run("y-websocket", 5)])
    return {"short": short, "ack": document([run("tmi", 1, of=load(40))], [load(40)])}


def test_every_scenario_is_measured_by_a_command_that_there_is() -> None:
    for part in PARTS.values():
        name, *options = part.command
        cli.main.commands[name].make_context(name, [*options], resilient_parsing=False).close()
    measured = {part.command[0] for part in PARTS.values()} | {one.scenario for one in short_set(3)}
    assert {*(scenario.scenario for scenario in SCENARIOS), "self", "short"} == measured


def test_what_people_wrote_comes_first_and_what_fell_short_next() -> None:
    text = composed("Somebody's remarks.\n", _documents())
    short = "| short | CPU 1 > 0.85x the best peer | Fan-out in one room: 50 clients, 10 writers x 10/s |"
    places = [text.index(words) for words in ("Somebody's remarks.", "targets", short, "## The short set")]
    assert sorted(places) == places
    assert text.startswith("# Results\n")
    assert "| servers on | Node 20.1.2, PostgreSQL 18.3 |" in text


def test_what_no_peer_was_measured_for_is_no_target_that_was_missed() -> None:
    alone = document([run("tmi", 5), run("tmi", 5, of=load(40))], [load(), load(40)])
    assert "**Of 1 targets 1 are met.**\n" in composed("", {"ack": alone})
    faulty = [run("tmi", 5), run("y-websocket", 5, faults=["it lost an edit"])]
    assert "| not compared | CPU: nothing to compare |" in composed("", {"ack": document(faulty)})


def test_every_part_is_there_with_its_command_or_said_to_be_missing() -> None:
    text = composed("", _documents())
    for name, part in PARTS.items():
        command = f"`python -m bench {' '.join(part.command)}`"
        is_told = f"{command}: **not measured.**" in text
        assert is_told == (name not in _documents())
        assert f"{command}, 2026-01-02 03:04:05 UTC, revision abc123" in text or is_told
    assert 1 == text.count("| machine | Processor"), "of the first part only"
    assert "\n## Targets" not in text


def test_what_was_cut_short_is_said_to_be_so() -> None:
    cut = {"ack": replace(_documents()["ack"], is_complete=False)}
    assert "revision abc123, **cut short**" in composed("", cut)
    assert "cut short" not in composed("", _documents())


def test_a_run_touches_no_remarks_and_names_what_is_missing(tmp_path: Path) -> None:
    before, told = REMARKS.read_text(), list[str]()
    for name, whole in _documents().items():
        write_json(tmp_path / f"{name}.json", whole)
    (tmp_path / "idle.json").write_text("{}")
    assert 1 == carry_out([], tmp_path, tmp_path / "RESULTS.md", told.append)
    assert {"short", "ack"} == set(read(tmp_path))
    assert "idle was not measured" in told
    assert before == REMARKS.read_text()
    assert before.strip() in (tmp_path / "RESULTS.md").read_text()
    for name in PARTS:
        write_json(tmp_path / f"{name}.json", _documents()["ack"])
    assert 0 == carry_out([], tmp_path, tmp_path / "RESULTS.md", told.append)


def test_a_part_that_takes_too_long_is_ended_and_older_figures_do_not_stand_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(results, "STOP_TIMEOUT_S", 20.0)
    write_json(tmp_path / "self.json", _documents()["ack"])
    started = time.monotonic()
    assert 128 + signal.SIGINT == measure(LONG, tmp_path)
    assert LONG.limit_s <= time.monotonic() - started < 20
    assert all(not one.is_complete and not one.runs for one in read(tmp_path).values())


def test_a_part_is_measured(tmp_path: Path) -> None:
    part = Part("self", ("self", "--clients", "2", "--edits", "1000"), 60)
    assert 0 == measure(part, tmp_path)
    (whole,) = read(tmp_path).values()
    assert (True, ["self"]) == (whole.is_complete, list(whole.scenarios))
