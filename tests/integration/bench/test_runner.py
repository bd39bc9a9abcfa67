"""The order of runs, who runs on which core, and what is said of conditions, by what a plan really does."""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import ClassVar

import pytest
from click.testing import CliRunner
from rich.console import Console

from bench.beside import BrokeOff
from bench.cli import main
from bench.document import Document, read_json
from bench.model import Place, Run
from bench.runner import Plan, carry_out
from bench.scenarios.fanout import FanoutLoad
from bench.servers import Server
from tests.integration.bench.test_keeping import LISTENS, Listener

ALLOWED = sorted(os.sched_getaffinity(0))


class First(Listener):
    name = "tmi"

    def __init__(self) -> None:
        super().__init__(LISTENS)

    def runs_on(self) -> dict[str, str]:
        return {"Node": "1.2.3", f"Python of {self.name}": f"3.{self.pid}"}


class Second(First):
    name = "y-websocket"


@dataclass(frozen=True)
class Look(FanoutLoad):
    """Notes who is where instead of measuring."""

    seen: ClassVar[list[tuple[str, str, set[int], set[int], Place]]] = []
    faults: ClassVar[list[str]] = []
    breaks_off_at: ClassVar[str] = ""
    """The server whose every run breaks off."""

    async def measure(self, server: Server, place: Place) -> Run:
        if server.name == self.breaks_off_at:
            raise BrokeOff("Traceback (most recent call last):\n  ...\nValueError: odd\n\nValueError: odd\n")
        where = os.sched_getaffinity(0), os.sched_getaffinity(server.pid)
        self.seen.append((f"{self.rate:g}", server.name, *where, place))
        return Run(self.scenario, self.label, server.name, {}, {"cpu_us": 1.0}, faults=self.faults)


@pytest.fixture(autouse=True)
def _as_before() -> Iterator[None]:
    """The generator pins the process that it is in."""
    Look.seen.clear()
    yield
    os.sched_setaffinity(0, ALLOWED)


async def _carried_out(tmp_path: Path, *rates: float, repeat: int) -> tuple[int, Document]:
    loads = [Look(rate=rate) for rate in rates]
    plan = Plan(loads, [First, Second], repeat, tmp_path / "out.json", tmp_path / "out.html")
    status = await carry_out(plan, Console(file=StringIO()), ["fanout"])
    return status, read_json(tmp_path / "out.json")


async def test_runs_are_interleaved_so_that_a_drift_meets_all_servers_alike(tmp_path: Path) -> None:
    status, document = await _carried_out(tmp_path, 10, 40, repeat=2)
    once = [(rate, server) for rate in ("10", "40") for server in ("tmi", "y-websocket")]
    assert once * 2 == [(rate, server) for rate, server, *_ in Look.seen]
    assert [(Look(rate=float(rate)).label, server) for rate, server in once * 2] == [
        (run.load, run.server) for run in document.runs
    ]
    assert (0, True, [2] * 4) == (status, document.is_complete, [row.runs for row in document.summaries])


async def test_the_commit_and_the_versions_of_what_servers_ran_on_are_told_and_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bench.machine.revision", lambda: "abc123+changes")
    console = Console(file=StringIO(), width=200)
    plan = Plan([Look()], [First, Second], 1, tmp_path / "out.json", tmp_path / "out.html")
    assert 0 == await carry_out(plan, console, ["fanout"])
    assert isinstance(console.file, StringIO)
    about = read_json(tmp_path / "out.json").about
    assert {"Node", "Python of tmi", "Python of y-websocket"} == about.versions.keys()
    versions = ", ".join(f"{name} {version}" for name, version in about.versions.items())
    told = console.file.getvalue()
    assert f"servers on: {versions}\n" in told
    assert "revision: abc123+changes\n" in told
    assert f"<dd>{versions}</dd>" in (tmp_path / "out.html").read_text()


async def test_the_generator_has_a_core_and_all_servers_another(tmp_path: Path) -> None:
    await _carried_out(tmp_path, 10, repeat=1)
    here, there = ALLOWED[0], ALLOWED[-1]
    assert [({here}, {there}, Place(here, there))] * 2 == [tuple(where) for _, _, *where in Look.seen]


async def test_one_fault_of_tmi_in_one_run_is_an_exit_status(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Look, "faults", ["lost"])
    status, document = await _carried_out(tmp_path, 10, repeat=1)
    assert (1, [["lost"]] * 2) == (status, [run.faults for run in document.runs])


@pytest.mark.parametrize("at", ["tmi", "y-websocket"])
async def test_a_part_that_breaks_off_is_told_in_plain_words_and_the_rest_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: str
) -> None:
    """Of a peer, too, since the measurement is not whole then. The traceback is in the file."""
    monkeypatch.setattr(Look, "breaks_off_at", at)
    console = Console(file=StringIO(), width=200)
    plan = Plan([Look(rate=10), Look(rate=40)], [First, Second], 1, tmp_path / "out.json")
    assert 1 == await carry_out(plan, console, ["fanout"])
    assert isinstance(console.file, StringIO)
    told, document = console.file.getvalue(), read_json(tmp_path / "out.json")
    for rate in (10, 40):
        what = f"fanout, {Look(rate=rate).label}, {at}"
        assert f"{what}: broke off: in the load beside: ValueError: odd." in told
    assert "Traceback" not in told
    assert [at != run.server for run in document.runs] == [run.broke_off is None for run in document.runs]
    assert all("Traceback" in run.broke_off for run in document.runs if run.broke_off is not None)
    assert (4, True) == (len(document.runs), document.is_complete)


async def test_a_file_that_cannot_be_written_in_the_end_costs_neither_table_nor_figures(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("no folder")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "elsewhere"))
    console = Console(file=StringIO(), width=200)
    plan = Plan([Look(rate=10)], [First], 1, tmp_path / "file" / "out.json", tmp_path / "out.html")
    assert 1 == await carry_out(plan, console, ["fanout"])
    assert isinstance(console.file, StringIO)
    told = console.file.getvalue()
    (kept,) = (tmp_path / "elsewhere").glob("*/out.json")
    assert 1 == len(read_json(kept).runs)
    for text in ("medians (lowest to highest run)", "out.json could not be written", f"All figures: {kept}"):
        assert text in told
    assert (tmp_path / "out.html").read_text().startswith("<!DOCTYPE html>")


def test_a_file_that_cannot_be_written_is_refused_before_anything_starts(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("before")
    for option in ("--json", "--html"):
        other = "--html" if option == "--json" else "--json"
        arguments = ["fanout", "--servers", "tmi", option, f"{tmp_path}/file/out", other, f"{tmp_path}/file"]
        refused = CliRunner().invoke(main, arguments)
        assert 2 == refused.exit_code
        assert "file/out cannot be written: " in " ".join(refused.output.split())
    assert "before" == (tmp_path / "file").read_text()
    assert ["file"] == [path.name for path in tmp_path.iterdir()]


def test_figures_and_report_cannot_be_one_file(tmp_path: Path) -> None:
    arguments = ["fanout", "--servers", "tmi", "--json", f"{tmp_path}/out", "--html", f"{tmp_path}/./out"]
    refused = CliRunner().invoke(main, arguments)
    assert (2, True) == (refused.exit_code, "give the report another name" in refused.output)
    assert [] == list(tmp_path.iterdir())
