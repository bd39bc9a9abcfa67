"""What came of a plan: medians beside the best peer, verdicts, and the terminal's tables."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Literal

from rich.console import Console
from rich.markup import escape
from rich.measure import Measurement
from rich.table import Table

from bench.model import FELL_BEHIND, Figure, Goal, Load, Run
from bench.servers import OURS
from bench.statistics import Spread

FAULTS_SHOWN = 3
LOAD_MIN_WIDTH = 10
"""In a narrow terminal, where lowest and highest run are broken into lines before a load is left out."""

WIDE = 1000
"""Columns, more than any table has."""

Standing = Literal["met", "short", "unsound", "not compared"]
MARKS: dict[Standing, str] = {
    "met": "[green]met[/green]    ",
    "short": "[red]short[/red]  ",
    "unsound": "[red]unsound[/red]",
    "not compared": "[yellow]?[/yellow]      ",
}


@dataclass(frozen=True)
class Verdict:
    """One goal, held against the medians: `met` is None where nothing could be compared."""

    figure: str
    met: bool | None
    text: str


@dataclass(frozen=True)
class Summary:
    """All runs of one server under one load: medians with spread, and how it stands beside the best peer."""

    scenario: str
    load: str
    server: str
    runs: int
    figures: dict[str, Spread]
    ratios: dict[str, float] = field(default_factory=dict)
    """To the best peer's medians; only for what is ours."""
    ratio_with_database: float | None = None
    """The same of the servers' CPU and their databases' together, where CPU is what they are compared by."""
    best_peer: str | None = None
    verdicts: list[Verdict] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class _Row:
    """What one server did under one load, in all its runs."""

    load: Load
    server: str
    group: Sequence[Run]
    figures: Mapping[str, Spread]
    """A figure that some run lacks is left out."""

    @classmethod
    def of(cls, load: Load, server: str, group: Sequence[Run]) -> "_Row":
        figures = {
            figure.key: Spread.of([run.figures[figure.key] for run in group])
            for figure in load.figures
            if all(figure.key in run.figures for run in group)
        }
        return cls(load, server, group, figures)

    @property
    def did_the_work(self) -> bool:
        behind = sum(FELL_BEHIND in run.remarks for run in self.group)
        return not any(run.faults for run in self.group) and 2 * behind <= len(self.group)


def summarise(loads: Sequence[Load], runs: Sequence[Run]) -> list[Summary]:
    """One summary per load and server, in the order in which they were first run."""
    found: list[Summary] = []
    for load in loads:
        groups: dict[str, list[Run]] = {}
        for run in runs:
            if (run.scenario, run.load) == (load.scenario, load.label):
                groups.setdefault(run.server, []).append(run)
        rows = [_Row.of(load, server, group) for server, group in groups.items()]
        best = _best_peer(load, rows)
        found.extend(_summary(row, best) for row in rows)
    return found


def _best_peer(load: Load, rows: Sequence[_Row]) -> _Row | None:
    """Of the peers that did the whole work, the one whose cost under this load is best.

    That is no fault in any run, and keeping up with the load in half of the runs or more: what a server needs
    for a part of the work says nothing, while one slow run on a busy machine excludes nobody.
    """
    able = [row for row in rows if row.server not in OURS and load.cost in row.figures and row.did_the_work]
    better = next(figure.better for figure in load.figures if figure.key == load.cost)
    choose = max if better == "higher" else min
    return choose(able, key=lambda row: row.figures[load.cost].median, default=None)


def _summary(row: _Row, best: _Row | None) -> Summary:
    load, is_ours = row.load, row.server in OURS
    ratios = _ratios(row, best) if best is not None and is_ours else {}
    return Summary(
        scenario=load.scenario,
        load=load.label,
        server=row.server,
        runs=len(row.group),
        figures=dict(row.figures),
        ratios=ratios,
        ratio_with_database=_with_database(row, best) if ratios and best is not None else None,
        best_peer=best.server if best is not None else None,
        verdicts=[_verdict(row, best, goal, ratios) for goal in load.goals] if is_ours else [],
        faults=_distinct(fault for run in row.group for fault in run.faults),
        remarks=_distinct(remark for run in row.group for remark in run.remarks),
    )


def _ratios(ours: _Row, best: _Row) -> dict[str, float]:
    return {
        key: figure.median / best.figures[key].median
        for key, figure in ours.figures.items()
        if key in best.figures and best.figures[key].median
    }


def _with_database(ours: _Row, best: _Row) -> float | None:
    """None where the cost is no CPU, or a database was out of sight."""
    cost = ours.load.cost
    keys = (cost, cost.replace("cpu_", "database_"))
    if keys[0] == keys[1] or not all(key in row.figures for key in keys for row in (ours, best)):
        return None
    mine, theirs = (sum(row.figures[key].median for key in keys) for row in (ours, best))
    return mine / theirs if theirs else None


def to_best_peer(summary: Summary, cost: str) -> list[str]:
    """How the cost stands to the best peer's, and in brackets with the database's counted too."""
    if cost not in summary.ratios:
        return []
    whole = summary.ratio_with_database
    return [f"{summary.ratios[cost]:.2f}", *([] if whole is None else [f"({whole:.2f})"])]


def _verdict(row: _Row, best: _Row | None, goal: Goal, ratios: Mapping[str, float]) -> Verdict:
    figure = next(figure for figure in row.load.figures if figure.key == goal.figure)
    if goal.ratio is not None:
        value, bound, of = ratios.get(goal.figure), goal.ratio, "x the best peer"
    else:
        spread = row.figures.get(goal.figure)
        value, bound, of = spread.median if spread else None, goal.limit or 0.0, f" {figure.unit}"
    if value is None:
        return Verdict(goal.figure, None, f"{figure.title}: nothing to compare")

    def meets(one: float) -> bool:
        return one >= bound if figure.better == "higher" else one <= bound

    met = meets(value)
    each = _in_each_run(row, best if goal.ratio is not None else None, goal.figure)
    agreeing = sum(meets(one) == met for one in each)
    doubt = "" if agreeing == len(each) else f", so in {agreeing} of {len(each)} runs"
    sign = {("higher", True): ">=", ("higher", False): "<"}.get(
        (str(figure.better), met), "<=" if met else ">"
    )
    return Verdict(goal.figure, met, f"{figure.title} {_plain(value)} {sign} {_plain(bound)}{of}{doubt}")


def _plain(value: float) -> str:
    """Four digits that count, without an exponent."""
    return f"{Decimal(f'{value:.4g}'):,f}"


def _in_each_run(ours: _Row, best: _Row | None, key: str) -> list[float]:
    """A figure of single runs; with a peer, as a ratio to that of its run of the same round."""
    if best is None:
        return [run.figures[key] for run in ours.group]
    rounds = zip(ours.group, best.group, strict=False)  # in a round that broke off only some were measured
    return [mine.figures[key] / its.figures[key] for mine, its in rounds if its.figures[key]]


def _distinct(texts: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(texts))


def lost_or_altered(runs: Iterable[Run]) -> bool:
    """Whether TMI did not do what was asked of it in any run."""
    return any(run.faults for run in runs if run.server in OURS)


def print_table(console: Console, loads: Sequence[Load], summaries: Sequence[Summary]) -> None:
    """The table of one scenario, and under it how TMI stands to its goals."""
    scenario = loads[0]
    shown = [figure for figure in scenario.figures if figure.in_table]
    title = f"{scenario.title}: medians (lowest to highest run)"
    table = Table(title=title, title_justify="left", title_style="bold", header_style="bold")
    table.add_column("load", min_width=LOAD_MIN_WIDTH)
    table.add_column("server", no_wrap=True, min_width=max(len(summary.server) for summary in summaries))
    for figure in shown:
        table.add_column(f"{figure.title}\n{figure.unit}", justify="right")
    table.add_column("x best\npeer", justify="right", no_wrap=True, min_width=len("x best"))
    table.add_column("check", min_width=len("unsound"))
    before = None
    for summary in summaries:
        if before not in (None, summary.load):
            table.add_section()
        table.add_row(
            summary.load if summary.load != before else "",
            summary.server,
            *(in_two_lines(summary.figures.get(figure.key), figure.form) for figure in shown),
            "\n".join(to_best_peer(summary, scenario.cost)),
            _check(summary),
        )
        before = summary.load
    if _least_width(console, table) > console.width:
        table = _of_single_figures(title, shown, scenario.cost, summaries)
    console.print(table)
    for summary in summaries:
        for verdict in summary.verdicts:
            text = escape(f"{summary.load}, {summary.server}: {verdict.text}")
            console.print(f"  {MARKS[standing(summary, verdict)]} {text}")
    console.print()


def _least_width(console: Console, table: Table) -> int:
    """In which no word of it is cut off."""
    return Measurement.get(console, console.options.update(width=WIDE), table).minimum


def _of_single_figures(
    title: str, figures: Sequence[Figure], cost: str, summaries: Sequence[Summary]
) -> Table:
    """A row for each figure, for a terminal in which side by side some would be cut off."""
    table = Table(title=title, title_justify="left", title_style="bold", header_style="bold")
    table.add_column("load and server", min_width=max(len(summary.server) for summary in summaries))
    table.add_column("figure", overflow="fold")
    table.add_column("median", justify="right", no_wrap=True)
    table.add_column("lowest to highest", justify="right")
    for summary in summaries:
        of_whom = f"{summary.load}\n{summary.server}"
        for figure in figures:
            median, outer = median_and_outer(summary.figures.get(figure.key), figure.form)
            table.add_row(of_whom, f"{figure.title}, {figure.unit}", median, outer)
            of_whom = ""
        if ratio := to_best_peer(summary, cost):
            table.add_row("", "x best peer", *ratio)
        table.add_row("", "check", "", _check(summary))
        table.add_section()
    return table


def standing(summary: Summary, verdict: Verdict) -> Standing:
    """What a verdict is worth: none holds for runs with faults, nor any for a part of the load."""
    if summary.faults:
        return "unsound"
    if FELL_BEHIND in summary.remarks:
        return "short"
    if verdict.met is None:
        return "not compared"
    return "met" if verdict.met else "short"


def with_spread(spread: Spread | None, form: str) -> str:
    """The median and, where the runs differ, the lowest and the highest."""
    median, outer = median_and_outer(spread, form)
    return f"{median} ({outer})" if outer else median


def median_and_outer(spread: Spread | None, form: str) -> tuple[str, str]:
    """The second is empty where the runs do not differ, as far as the form tells."""
    if spread is None:
        return "-", ""
    low, high = f"{spread.low:{form}}", f"{spread.high:{form}}"
    return f"{spread.median:{form}}", "" if low == high else f"{low} to {high}"


def in_two_lines(spread: Spread | None, form: str) -> str:
    """The median, and under it the lowest and the highest run: side by side they leave the load no room."""
    median, outer = median_and_outer(spread, form)
    return f"{median}\n{outer}" if outer else median


def _check(summary: Summary) -> str:
    lines = [f"[red]{escape(fault)}[/red]" for fault in summary.faults[:FAULTS_SHOWN]] or [
        "[green]sound[/green]"
    ]
    if len(summary.faults) > FAULTS_SHOWN:
        lines.append(f"[red]and {len(summary.faults) - FAULTS_SHOWN} faults more[/red]")
    return "\n".join(
        lines + [f"[yellow]{escape(remark)}[/yellow]" for remark in summary.remarks[:FAULTS_SHOWN]]
    )
