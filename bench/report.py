"""The table in the terminal and the JSON file."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

from bench.machine import Provenance
from bench.scenarios.fanout import FanoutLoad, FanoutRun
from bench.servers import OURS
from bench.statistics import Spread

FIGURES = (
    "cpu_us_per_copy", "database_us_per_copy", "p50_ms", "p99_ms", "max_ms", "copies_per_s",
    "copies_per_frame", "server_busy", "server_rss_bytes", "generator_busy",
)  # fmt: skip


@dataclass(frozen=True)
class Goal:
    """What a row of the targets asks of TMI beside the best peer."""

    cpu_ratio: float
    p50_ratio: float | None = None
    p99_ms: float | None = None


@dataclass(frozen=True)
class Summary:
    """All runs of one server under one load: medians with spread, and how it stands beside the best peer."""

    server: str
    load: FanoutLoad
    runs: int
    figures: dict[str, Spread]
    cpu_ratio: float | None
    p50_ratio: float | None
    faults: list[str]
    remarks: list[str]


def summarise(runs: Sequence[FanoutRun]) -> list[Summary]:
    """One summary per load and server, in the order in which they were first run."""
    groups: dict[tuple[FanoutLoad, str], list[FanoutRun]] = {}
    for run in runs:
        groups.setdefault((run.load, run.server), []).append(run)
    sound_peers = {
        key for key, group in groups.items() if key[1] not in OURS and not any(run.faults for run in group)
    }
    figures = {
        key: {name: Spread.of([getattr(run, name) for run in group]) for name in FIGURES}
        for key, group in groups.items()
    }
    return [
        Summary(
            server=server,
            load=load,
            runs=len(group),
            figures=figures[load, server],
            cpu_ratio=_ratio_to_best_peer(figures, sound_peers, load, server, "cpu_us_per_copy"),
            p50_ratio=_ratio_to_best_peer(figures, sound_peers, load, server, "p50_ms"),
            faults=_distinct(fault for run in group for fault in run.faults),
            remarks=_distinct(remark for run in group for remark in run.remarks),
        )
        for (load, server), group in groups.items()
    ]


def _ratio_to_best_peer(
    figures: dict[tuple[FanoutLoad, str], dict[str, Spread]], sound_peers: set[tuple[FanoutLoad, str]],
    load: FanoutLoad, server: str, figure: str,
) -> float | None:  # fmt: skip
    """Beside one server for every figure: of the peers that delivered everything, the cheapest in CPU."""
    peers = [key for key in sound_peers if key[0] == load]
    if server not in OURS or not peers:
        return None
    best = min(peers, key=lambda key: figures[key]["cpu_us_per_copy"].median)
    return figures[load, server][figure].median / figures[best][figure].median


def _distinct(texts: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(texts))


def verdict(summary: Summary, goal: Goal) -> str:
    """Where a row falls short of its goal; "met" if nowhere."""
    short = list(summary.faults)
    if summary.cpu_ratio is None:
        return "no peer to compare with"
    if summary.cpu_ratio > goal.cpu_ratio:
        short.append(f"CPU {summary.cpu_ratio:.2f}x > {goal.cpu_ratio:g}x")
    if goal.p50_ratio is not None and (summary.p50_ratio or 0) > goal.p50_ratio:
        short.append(f"p50 {summary.p50_ratio:.2f}x > {goal.p50_ratio:g}x")
    if goal.p99_ms is not None and summary.figures["p99_ms"].median > goal.p99_ms:
        short.append(f"p99 {summary.figures['p99_ms'].median:.0f} > {goal.p99_ms:g} ms")
    return "; ".join(short) or "met"


def print_table(console: Console, summaries: Sequence[Summary], goals: dict[FanoutLoad, Goal]) -> None:
    table = Table(title="Fan-out: medians (lowest to highest run)", title_justify="left", show_lines=False)
    for name in ("load", "server"):
        table.add_column(name, no_wrap=True)
    for name in ("CPU us/copy", "x best peer", "p50 ms", "p99 ms", "Postgres us", "copies/s", "copies/frame"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("check")
    for summary in summaries:
        figures = summary.figures
        table.add_row(
            summary.load.label,
            summary.server,
            _spread(figures["cpu_us_per_copy"], ".2f"),
            "" if summary.cpu_ratio is None else f"{summary.cpu_ratio:.2f}",
            _spread(figures["p50_ms"], ".1f"),
            _spread(figures["p99_ms"], ".1f"),
            f"{figures['database_us_per_copy'].median:.2f}",
            f"{figures['copies_per_s'].median:,.0f}",
            f"{figures['copies_per_frame'].median:.1f}",
            _check(summary),
        )
    console.print(table)
    for summary in summaries:
        if summary.load in goals and summary.server in OURS:
            console.print(f"{summary.load.label}, {summary.server}: {verdict(summary, goals[summary.load])}")


def _spread(spread: Spread, form: str) -> str:
    if spread.low == spread.high:
        return f"{spread.median:{form}}"
    return f"{spread.median:{form}} ({spread.low:{form}} to {spread.high:{form}})"


def _check(summary: Summary) -> str:
    lines = [f"[red]{fault}[/red]" for fault in summary.faults[:3]] or ["sound"]
    return "\n".join(lines + [f"[yellow]{remark}[/yellow]" for remark in summary.remarks[:3]])


def write_json(
    path: Path, about: Provenance, servers: dict[str, dict[str, object]], runs: Sequence[FanoutRun],
    summaries: Sequence[Summary],
) -> None:  # fmt: skip
    document = {
        **about,
        "servers": servers,
        "runs": [asdict(run) for run in runs],
        "summaries": [asdict(summary) for summary in summaries],
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
