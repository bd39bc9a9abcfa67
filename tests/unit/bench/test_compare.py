"""Two measurements: a regression is found, noise is not, and the exit code tells."""

from collections.abc import Sequence
from dataclasses import replace
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from rich.console import Console

from bench.cli import main
from bench.compare import Change, Comparison, compare, print_comparison
from bench.document import Document, write_json
from bench.model import FELL_BEHIND, Run
from tests.unit.bench.made_up import MACHINE, document, load, run

TEN_PERCENT = 0.1
CHANGES: Sequence[Any] = ({"figures": {}}, {"remarks": [FELL_BEHIND]})


def _measured(tmi: Sequence[float], peer: Sequence[float] = (10.0, 10.0)) -> Document:
    return document([*(run("tmi", cpu) for cpu in tmi), *(run("y-websocket", cpu) for cpu in peer)])


def _cpu(found: Comparison, server: str = "tmi") -> Change:
    return next(one for one in found.changes if one.key[2] == server and one.figure.key == "cpu_us")


@pytest.mark.parametrize(
    ("old", "new", "finding"),
    [
        ((5, 5), (6, 6), "regression"),
        ((5, 5), (5.4, 5.4), "same"),
        ((5, 5), (5.5, 5.5), "same"),
        ((5, 5.2), (5.1, 7), "within the spread"),
        ((5, 5), (4, 4), "better"),
        ((5, 6), (4.5, 5.1), "within the spread"),
    ],
)
def test_worse_by_more_than_the_threshold_and_outside_the_spread_is_a_regression(
    old: tuple[float, ...], new: tuple[float, ...], finding: str
) -> None:
    found = compare(_measured(old), _measured(new), TEN_PERCENT)
    assert finding == _cpu(found).finding
    assert found.regressed == (finding == "regression")


def test_a_higher_threshold_lets_more_pass() -> None:
    assert not compare(_measured([5, 5]), _measured([6, 6]), 0.25).regressed


def test_a_figure_that_should_be_high_regresses_downwards() -> None:
    def measured(per_s: float) -> Document:
        whole = document([run("tmi", 5, {"copies_per_s": per_s})])
        copies = replace(whole.figure("fanout", "copies_per_s"), better="higher")
        info = replace(whole.scenarios["fanout"], cost="copies_per_s", figures=[copies])
        return replace(whole, scenarios={"fanout": info})

    assert ["better"] == [one.finding for one in compare(measured(100), measured(150), 0.1).changes]
    assert ["regression"] == [one.finding for one in compare(measured(100), measured(80), 0.1).changes]


def test_a_machine_that_became_slower_for_all_is_no_regression() -> None:
    found = compare(_measured([5, 5], [10, 10]), _measured([8, 8], [16, 16]), TEN_PERCENT)
    assert ("same", "y-websocket") == (_cpu(found).finding, _cpu(found).peer)
    assert "worse" == _cpu(found, "y-websocket").finding
    assert not found.regressed


def test_the_ratio_is_to_a_peer_that_both_have_without_a_fault() -> None:
    old = document([run("tmi", 5), run("hocuspocus", 20), run("y-websocket", 10)])
    new = document([run("tmi", 5), run("hocuspocus", 20), run("y-websocket", 1, faults=["lost"])])
    assert ("hocuspocus", "same") == (_cpu(compare(old, new, 0.1)).peer, _cpu(compare(old, new, 0.1)).finding)


def test_without_a_common_peer_times_are_compared() -> None:
    old = document([run("tmi", 5), run("y-websocket", 10)])
    new = document([run("tmi", 5), run("hocuspocus", 1)])
    change = _cpu(compare(old, new, TEN_PERCENT))
    assert (None, 5, 5) == (change.peer, change.old.median, change.new.median)


def test_the_spread_of_a_ratio_holds_that_of_the_peer() -> None:
    found = compare(_measured([5, 5], [10, 10]), _measured([6, 6], [8, 12]), TEN_PERCENT)
    assert "within the spread" == _cpu(found).finding
    assert pytest.approx(6 / 12) == _cpu(found).new.low


def test_a_new_fault_of_ours_is_a_regression_and_its_figures_are_none() -> None:
    new = document([run("tmi", 50, faults=["1 of 9 copies never arrived"]), run("y-websocket", 10)])
    found = compare(_measured([5]), new, TEN_PERCENT)
    assert (True, [], "unsound") == (found.regressed, found.regressions, _cpu(found).finding)
    assert not compare(new, new, TEN_PERCENT).regressed


def test_a_fault_of_a_peer_is_no_regression() -> None:
    new = document([run("tmi", 5), run("y-websocket", 10, faults=["lost"])])
    assert not compare(_measured([5]), new, TEN_PERCENT).regressed


def test_what_came_from_nothing_is_worse_without_bounds() -> None:
    old, new = document([run("tmi", 0)]), document([run("tmi", 5)])
    assert ("regression", float("inf")) == (
        _cpu(compare(old, new, 0.1)).finding, _cpu(compare(old, new, 0.1)).share
    )  # fmt: skip


def _printed(old: Document, new: Document, width: int = 200) -> str:
    console = Console(file=StringIO(), width=width)
    print_comparison(console, old, new, compare(old, new, TEN_PERCENT))
    assert isinstance(console.file, StringIO)
    return console.file.getvalue()


def test_versions_that_differ_are_told_and_what_only_one_file_knows_is_no_difference() -> None:
    old, new = document([run("tmi", 1)]), document([run("tmi", 1)])
    assert [] == compare(old, new, 0.1).machines
    newer = replace(new, about=replace(new.about, versions={"Node": "22.0.0", "Python of a peer": "3.11.7"}))
    assert ["Node: 20.1.2 before, 22.0.0 now"] == compare(old, newer, 0.1).machines
    assert [] == compare(replace(old, about=replace(old.about, versions={})), newer, 0.1).machines


def test_the_text_tells_machines_apart_and_what_is_only_in_one() -> None:
    loads = [load(10), load(40)]
    runs: list[Run] = [run("tmi", 5, of=of) for of in loads]
    old = document(runs[:1], loads)
    new = document(runs, loads, replace(MACHINE, cores=64))
    text = _printed(old, new)
    assert "Other machine: cores: 2 before, 64 now" in text
    assert "Only in the new file: fanout, 50 clients, 10 writers x 40/s, tmi" in text
    assert "single run" in text
    assert "Only in the old file: fanout, 50 clients, 10 writers x 40/s, tmi" in _printed(new, old)


def test_a_terminal_of_80_columns_leaves_nothing_out() -> None:
    text = _printed(_measured((5.0, 5.2), (10, 11)), _measured((6.0, 6.4), (10, 11.5)), width=80)
    assert "…" not in text
    for words in ("50 clients,", "tmi", "CPU, x", "y-websocket", "0.45 to", "0.52", "+18.7%", "regression"):
        assert any(f" {words} " in line for line in text.splitlines() if line.startswith("│")), words


def test_files_without_anything_in_common_are_said_to_be_so() -> None:
    old, new = document([run("tmi", 5)]), document([run("tmi", 5, of=load(40))], [load(40)])
    assert "no figures in common" in _printed(old, new)


def _compared(tmp_path: Path, old: Document, new: Document, *more: str) -> Result:
    write_json(tmp_path / "old.json", old)
    write_json(tmp_path / "new.json", new)
    files = [str(tmp_path / "old.json"), str(tmp_path / "new.json")]
    return CliRunner().invoke(main, ["compare", *files, *more])


@pytest.mark.parametrize(("cpu", "more", "code"), [(6, [], 1), (5.2, [], 0), (6, ["--threshold", "30%"], 0)])
def test_the_exit_code_tells_a_regression(tmp_path: Path, cpu: float, more: list[str], code: int) -> None:
    done = _compared(tmp_path, _measured([5, 5]), _measured([cpu, cpu]), *more)
    assert code == done.exit_code
    assert ("regression fanout" in done.output) == bool(code)


@pytest.mark.parametrize("threshold", ["x", "-1%", "nan", "inf%"])
def test_a_threshold_that_is_no_percentage_is_refused(tmp_path: Path, threshold: str) -> None:
    done = _compared(tmp_path, _measured([5]), _measured([5]), "--threshold", threshold)
    assert 2 == done.exit_code
    assert "is no percentage" in done.output


def test_a_file_that_cannot_be_read_has_an_exit_code_of_its_own(tmp_path: Path) -> None:
    (tmp_path / "none.json").write_text('{"rows": []}')
    done = CliRunner().invoke(main, ["compare", str(tmp_path / "none.json"), str(tmp_path / "none.json")])
    assert 2 == done.exit_code
    assert "holds no results" in done.output


def test_what_of_tmi_is_not_there_any_more_is_no_good_news() -> None:
    old, new = _measured([5, 5]), _measured([5, 5])
    assert not compare(old, new, TEN_PERCENT).regressed
    gone = replace(new, summaries=[one for one in new.summaries if one.server != "tmi"])
    found = compare(old, gone, TEN_PERCENT)
    assert ["it was not measured, while others were"] == found.new_faults[_key(found)]
    assert compare(old, replace(new, is_complete=False), TEN_PERCENT).regressed
    assert compare(old, replace(new, summaries=[]), TEN_PERCENT).regressed, "nothing of TMI was compared"


def test_a_figure_that_is_missing_and_a_load_that_became_too_much_are_told() -> None:
    old = _measured([5, 5])
    less, behind = (
        replace(
            old,
            summaries=[replace(one, **change) if one.server == "tmi" else one for one in old.summaries],
        )
        for change in CHANGES
    )
    (missing,) = compare(old, less, TEN_PERCENT).new_faults.values()
    assert "its cpu_us is missing" in missing
    assert [[FELL_BEHIND]] == list(compare(old, behind, TEN_PERCENT).new_faults.values())
    assert not compare(behind, behind, TEN_PERCENT).regressed, "it did before, too"


def test_a_load_that_was_not_measured_again_is_told_and_counts() -> None:
    loads = [load(10), load(40)]
    old = document([run(server, 5, of=of) for of in loads for server in ("tmi", "y-websocket")], loads)
    new = replace(old, summaries=[one for one in old.summaries if one.load == loads[0].label])
    found = compare(old, new, TEN_PERCENT)
    assert {("fanout", loads[1].label, "tmi"): ["its load was not measured"]} == found.new_faults
    assert found.regressed
    assert f"new fault fanout, {loads[1].label}, tmi: its load was not measured" in _printed(old, new)
    assert not compare(old, new, TEN_PERCENT, allow_missing=True).regressed
    assert not compare(new, old, TEN_PERCENT).regressed, "one more is no fault"


def test_a_peer_that_is_not_there_any_more_is_no_fault_of_ours() -> None:
    old = _measured([5, 5])
    assert not compare(old, document([run("tmi", 5), run("tmi", 5)]), TEN_PERCENT).new_faults


def test_what_is_missing_by_leave_is_rows_and_not_figures(tmp_path: Path) -> None:
    loads = [load(10), load(40)]
    old = document([run("tmi", 5, of=of) for of in loads], loads)
    new = replace(old, summaries=old.summaries[:1])
    assert [1, 0] == [_compared(tmp_path, old, new, *more).exit_code for more in ([], ["--allow-missing"])]
    without = [replace(one, figures={"p50_ms": one.figures["p50_ms"]}) for one in new.summaries]
    less = replace(old, summaries=without)
    assert 1 == _compared(tmp_path, old, less, "--allow-missing").exit_code


def test_faults_hide_neither_missing_figures_nor_a_load_that_became_too_much() -> None:
    old = _measured([5])
    faults = [f"{number} copies never arrived" for number in range(5)]
    broken = [
        replace(one, figures={}, faults=faults, remarks=[FELL_BEHIND]) if one.server == "tmi" else one
        for one in old.summaries
    ]
    (told,) = compare(old, replace(old, summaries=broken), TEN_PERCENT).new_faults.values()
    assert [*faults[:3], "and 2 more", FELL_BEHIND] == told[:5]
    assert {f"its {key} is missing" for key in ("cpu_us", "p50_ms", "p99_ms")} == set(told[5:])


def _key(found: Comparison) -> tuple[str, str, str]:
    (key,) = found.new_faults
    return key
