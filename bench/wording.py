"""What the page and the Markdown say in the same words."""

import shlex
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import get_args

from bench.document import Document
from bench.report import Standing, Summary, Verdict, standing
from bench.servers import OURS

FAULTS_TOLD = 10

HOW_TO_READ = (
    "Figures are medians of the runs, with the lowest and the highest run in brackets. Runs are interleaved, "
    "so that a drift of the machine meets all servers alike. A ratio, such as 0.50x, is to the best peer: of "
    "those that kept up without a fault the one that did best under the same load in the same measurement. "
    "With a fault in any run a target is unsound, whatever the figures say. What figures and remarks mean "
    "stands in bench/README.md."
)


def facts(document: Document) -> list[tuple[str, str]]:
    """When, where and with what; without the folders of the machine."""
    about = document.about
    return [
        ("date", about.at.replace("T", " ").replace("+00:00", " UTC")),
        *origin(document),
        ("load before", ", ".join(f"{load:.2f}" for load in about.machine.load_before)),
        ("command", command_line(["python", "-m", "bench", *about.command])),
        *(("note", note.splitlines()[0]) for note in document.notes),
    ]


def origin(document: Document) -> list[tuple[str, str]]:
    """Of which commit on which machine, and with which versions."""
    about, machine = document.about, document.about.machine
    memory = f"{machine.memory_bytes / (1 << 30):.1f} GiB"
    return [
        ("revision", about.revision),
        ("machine", f"{machine.processor}, {machine.cores} cores, {memory}, {machine.system}"),
        ("generator", _versions(about.generator)),
        *([("servers on", _versions(about.versions))] if about.versions else []),
    ]


def _versions(of: Mapping[str, str]) -> str:
    return ", ".join(f"{name} {version}" for name, version in of.items())


def command_line(command: Sequence[str]) -> str:
    """As one types it, with the name alone of whatever has an absolute path."""
    return shlex.join(Path(word).name if word.startswith("/") else word for word in command)


def targets(document: Document) -> list[tuple[Summary, Verdict, Standing]]:
    return [
        (summary, verdict, standing(summary, verdict))
        for summary in document.summaries
        for verdict in summary.verdicts
    ]


def tally(document: Document) -> str:
    """How many targets stand how, and how many rows have faults."""
    found = Counter(how for _, _, how in targets(document))
    told = ", ".join(f"{found[how]} {how}" for how in get_args(Standing))
    faults = Counter(summary.server in OURS for summary in document.summaries if summary.faults)
    rows = f"Rows with faults: {faults[True]} of TMI, {faults[False]} of peers."
    return f"Targets: {told}. {rows}" if found else rows


def by_load(summaries: Sequence[Summary]) -> dict[str, list[Summary]]:
    found: dict[str, list[Summary]] = {}
    for summary in summaries:
        found.setdefault(summary.load, []).append(summary)
    return found


def faulty(summaries: Sequence[Summary]) -> list[tuple[Summary, list[str]]]:
    """The rows with faults, and of each the first ones."""
    return [(summary, _first(summary.faults)) for summary in summaries if summary.faults]


def _first(faults: Sequence[str]) -> list[str]:
    more = len(faults) - FAULTS_TOLD
    return [*faults[:FAULTS_TOLD], *([f"and {more} more, all in the JSON file"] if more > 0 else [])]


def soundness(summary: Summary) -> str:
    return "unsound" if summary.faults else "sound"
