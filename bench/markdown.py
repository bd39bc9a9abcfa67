"""Results as Markdown, for `bench/RESULTS.md`: compact, and with everything that speaks against a figure."""

import re
from collections.abc import Iterable, Sequence

from bench import wording
from bench.document import Document, ScenarioInfo
from bench.report import Standing, Summary, Verdict, to_best_peer, with_spread

_SPECIAL = re.compile(r"([\\`*_\[\]|~]|<(?=[A-Za-z/!?]))")


def markdown(document: Document) -> str:
    parts = [
        "# Results",
        wording.tally(document),
        wording.HOW_TO_READ,
        _about(document),
        _targets(document),
        *(_scenario(document, name, info) for name, info in document.scenarios.items()),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def part(document: Document, heading: str, *, about: bool) -> str:
    """The same as a part of a larger text: under a heading, with the machine only if asked for."""
    whole = [
        _about(document) if about else "",
        _targets(document),
        *(_scenario(document, name, info) for name, info in document.scenarios.items()),
    ]
    return "\n\n".join([heading, *(_deeper(text) for text in whole if text)])


def _deeper(text: str) -> str:
    return re.sub(r"^## ", "### ", text, flags=re.MULTILINE)


def targets_table(found: Iterable[tuple[Document, Summary, Verdict, Standing]]) -> str:
    rows = [
        (
            how,
            verdict.text,
            f"{document.scenarios[summary.scenario].title}: {summary.load}",
            summary.server,
            ", ".join(summary.remarks),
        )
        for document, summary, verdict, how in found
    ]
    return _table(["verdict", "figure and bound", "load", "server", "remarks"], rows)


def _about(document: Document) -> str:
    facts = _table(["", ""], wording.facts(document))
    servers = _table(
        ["server", "version", "persistence", "command"],
        [
            (name, server.version, server.persistence, wording.command_line(server.command))
            for name, server in document.servers.items()
        ],
    )
    return f"{facts}\n\n{servers}"


def _targets(document: Document) -> str:
    found = wording.targets(document)
    if not found:
        return ""
    return f"## Targets\n\n{targets_table((document, *one) for one in found)}"


def _scenario(document: Document, name: str, info: ScenarioInfo) -> str:
    summaries = document.summaries_of(name)
    if not summaries:
        return f"## {escape(info.title)}\n\nNone of the servers offers what this needs."
    shown = [figure for figure in info.figures if figure.in_table]
    units = [f"{figure.title}, {figure.unit}" for figure in shown]
    heads = ["load", "server", *units, "x best peer", "runs", "check"]
    rows = [
        (
            summary.load,
            summary.server,
            *(with_spread(summary.figures.get(figure.key), figure.form) for figure in shown),
            " ".join(to_best_peer(summary, info.cost)),
            str(summary.runs),
            ", ".join([wording.soundness(summary), *summary.remarks]),
        )
        for summary in summaries
    ]
    return "\n\n".join([f"## {escape(info.title)}", _table(heads, rows), *_faults(summaries)])


def _faults(summaries: Sequence[Summary]) -> list[str]:
    lines = [
        f"- {escape(f'{summary.load}, {summary.server}')}: {escape('; '.join(texts))}"
        for summary, texts in wording.faulty(summaries)
    ]
    return ["\n".join(lines)] if lines else []


def _table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    return "\n".join([_row(heads), "|---" * len(heads) + "|", *map(_row, rows)])


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(map(escape, cells))} |"


def escape(text: str) -> str:
    """On one line, and nothing in it means anything to Markdown."""
    return _SPECIAL.sub(r"\\\1", " ".join(text.split()))
