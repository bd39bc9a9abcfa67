"""Results as Markdown: the right verdicts, every figure, and nothing that breaks a table."""

from dataclasses import replace
from pathlib import Path

from click.testing import CliRunner

from bench.cli import main
from bench.document import write_json
from bench.markdown import escape, markdown
from tests.unit.bench.made_up import document, load, run


def _lines_with(text: str, words: str) -> list[str]:
    return [line for line in text.splitlines() if words in line]


def test_each_target_has_its_verdict_and_its_figure() -> None:
    loads = [load(10), load(40), load(100)]
    runs = [
        run("tmi", 8, {"p50_ms": 2}, loads[0], remarks=["noise"]),
        run("y-websocket", 10, of=loads[0]),
        run("tmi", 1, of=loads[1], faults=["1 of 9 copies never arrived"]),
        run("y-websocket", 10, of=loads[1]),
        run("tmi", 1, {"p99_ms": 30}, loads[2]),
    ]
    text = markdown(document(runs, loads))
    rows = [
        "| met | CPU 0.8 <= 0.85x the best peer | 10/s | tmi | noise |",
        "| short | p50 2 > 1.5x the best peer | 10/s | tmi | noise |",
        "| unsound | CPU 0.1 <= 0.45x the best peer | 40/s | tmi |  |",
        "| unsound | p99 5 <= 20 ms | 40/s | tmi |  |",
        "| not compared | CPU: nothing to compare | 100/s | tmi |  |",
        "| short | p99 30 > 20 ms | 100/s | tmi |  |",
    ]
    assert rows == [
        line.replace("Fan-out in one room: 50 clients, 10 writers x ", "")
        for line in _lines_with(text, "Fan-out in one room:")
    ]
    assert "Targets: 1 met, 2 short, 2 unsound, 1 not compared." in text
    assert "Rows with faults: 1 of TMI, 0 of peers." in text
    assert ["- 50 clients, 10 writers x 40/s, tmi: 1 of 9 copies never arrived"] == _lines_with(text, "- 50 ")


def test_medians_have_their_spread_and_tmi_its_ratio() -> None:
    text = markdown(document([run("tmi", 4), run("tmi", 5), run("tmi", 9), run("y-websocket", 10)]))
    (ours,) = _lines_with(text, "x 10/s | tmi | 5.00")
    assert "| 5.00 (4.00 to 9.00) |" in ours
    assert "| 0.50 | 3 | sound |" in ours


def test_it_says_where_and_with_what_but_no_folders() -> None:
    text = markdown(document([run("tmi", 5)]))
    for fact in (
        "| date | 2026-01-02 03:04:05 UTC |", "| machine | Processor, 2 cores, 8.0 GiB, Linux 6 |",
        "| revision | abc123 |", "| command | python -m bench fanout --json out.json |",
        "| hocuspocus | hocuspocus 1 | none | node hocuspocus.js |",
    ):  # fmt: skip
        assert fact in text
    assert "/home/somebody" not in text


def test_notes_are_told_without_the_last_words_of_a_server() -> None:
    notes = ["Left out: hocuspocus is not installed", "tmi ended with status 1.\nIt said:\nsomething long"]
    text = markdown(replace(document([run("tmi", 5)]), notes=notes))
    assert "| note | Left out: hocuspocus is not installed |\n| note | tmi ended with status 1. |" in text
    assert "something long" not in text


def test_of_many_faults_the_first_are_told_and_the_rest_counted() -> None:
    text = markdown(document([run("tmi", 5, faults=[f"client {number}: lost" for number in range(500)])]))
    (line,) = _lines_with(text, "client 0: lost")
    assert line.endswith("client 9: lost; and 490 more, all in the JSON file")


def test_what_runs_say_means_nothing_to_markdown() -> None:
    assert r"a \| b \<script> \*c\* \[d\] \`e\` 1 < 2" == escape("a | b\n<script> *c* [d] `e` 1 < 2")
    text = markdown(document([run("tmi", 5, faults=["a | b\n# c"])]))
    assert r"- 50 clients, 10 writers x 10/s, tmi: a \| b # c" in text.splitlines()


def test_every_row_of_a_table_has_as_many_cells_as_its_head() -> None:
    runs = [run("tmi", 5, remarks=["a | b"]), run("y-websocket", 10)]
    tables = [part for part in markdown(document(runs)).split("\n\n") if part.startswith("|")]
    assert 4 == len(tables)
    for table in tables:
        assert 1 == len({line.replace(r"\|", "").count("|") for line in table.splitlines()})


def test_the_commands_make_markdown_and_the_report_from_the_file(tmp_path: Path) -> None:
    whole = document([run("tmi", 5), run("y-websocket", 10)])
    write_json(tmp_path / "out.json", whole)
    printed = CliRunner().invoke(main, ["results", str(tmp_path / "out.json")])
    assert (0, markdown(whole)) == (printed.exit_code, printed.output)
    page = tmp_path / "new" / "out.html"
    again = CliRunner().invoke(main, ["results", str(tmp_path / "out.json"), "--html", str(page)])
    assert (0, "") == (again.exit_code, again.output)
    assert page.read_text().startswith("<!DOCTYPE html>")


def test_a_report_that_cannot_be_written_or_would_replace_the_figures_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "out.json"
    write_json(file, document([run("tmi", 5)]))
    before = file.read_text()
    pages = {f"{file}/out.html": "cannot be written: ", f"{tmp_path}/./out.json": "another name"}
    for page, why in pages.items():
        refused = CliRunner().invoke(main, ["results", str(file), "--html", page])
        assert (2, True) == (refused.exit_code, why in " ".join(refused.output.split()))
    assert before == file.read_text()


def test_what_is_no_file_of_figures_is_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "out.json").write_text("{}")
    refused = CliRunner().invoke(main, ["results", str(tmp_path / "out.json")])
    assert 2 == refused.exit_code
    assert "holds no results" in " ".join(refused.output.split())
