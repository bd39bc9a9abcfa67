"""The JSON file: what is written is read again, and what is no such file is refused with the reason."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from bench.document import NotResults, read_json, write_json
from tests.unit.bench.made_up import document, run

WHOLE = document([run("tmi", 5, remarks=["noise"]), run("y-websocket", 10, faults=["lost"])])


def test_what_was_written_is_read_again(tmp_path: Path) -> None:
    write_json(tmp_path / "build" / "out.json", WHOLE)
    assert WHOLE == read_json(tmp_path / "build" / "out.json")


def test_what_is_known_of_a_measurement_that_was_cut_short_is_read_again(tmp_path: Path) -> None:
    cut = replace(WHOLE, is_complete=False, notes=["Not complete: ended by SIGINT."])
    write_json(tmp_path / "out.json", cut)
    assert cut == read_json(tmp_path / "out.json")


def _without_about(content: dict[str, Any]) -> None:
    del content["about"]


def _without_a_median(content: dict[str, Any]) -> None:
    del content["summaries"][0]["figures"]["cpu_us"]["median"]


def _with_an_unknown_scenario(content: dict[str, Any]) -> None:
    content["runs"][1]["scenario"] = "other"


def _with_an_unknown_server(content: dict[str, Any]) -> None:
    content["summaries"][1]["server"] = "other"


def _with_an_unknown_figure(content: dict[str, Any]) -> None:
    content["runs"][0]["figures"]["other"] = 1


def _with_an_unknown_cost(content: dict[str, Any]) -> None:
    content["scenarios"]["fanout"]["cost"] = "other"


def _with_an_unknown_form(content: dict[str, Any]) -> None:
    content["scenarios"]["fanout"]["figures"][0]["form"] = "%s!"


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (_without_about, "about: Field required"),
        (_without_a_median, "summaries.0.figures.cpu_us.median: Field required"),
        (_with_an_unknown_scenario, "there is no scenario other"),
        (_with_an_unknown_server, "there is no server other"),
        (_with_an_unknown_figure, "scenario fanout has no figure other"),
        (_with_an_unknown_cost, "scenario fanout has no figure other, its cost"),
        (_with_an_unknown_form, "figure cpu_us of scenario fanout cannot be printed as '%s!'"),
    ],
)
def test_a_file_that_lacks_something_is_refused_by_name(
    tmp_path: Path, spoil: Callable[[dict[str, Any]], None], reason: str
) -> None:
    file = tmp_path / "out.json"
    write_json(file, WHOLE)
    content = json.loads(file.read_text())
    spoil(content)
    file.write_text(json.dumps(content))
    with pytest.raises(NotResults) as refused:
        read_json(file)
    assert reason in str(refused.value)
    assert str(file) in str(refused.value)


@pytest.mark.parametrize("text", ["", "not JSON", "[NaN]", "\x00", "[" * 10])
def test_what_is_no_json_is_refused(tmp_path: Path, text: str) -> None:
    file = tmp_path / "out.json"
    file.write_text(text)
    with pytest.raises(NotResults, match="is not JSON"):
        read_json(file)


@pytest.mark.parametrize("text", ["[]", "{}", "1", '{"rows": []}'])
def test_other_json_is_refused(tmp_path: Path, text: str) -> None:
    file = tmp_path / "out.json"
    file.write_text(text)
    with pytest.raises(NotResults, match="holds no results"):
        read_json(file)
