"""Two measurements side by side: what changed, and what of it is a regression of TMI.

Times drift between machines, and on one machine from day to day. So where a peer ran without a fault in both
measurements, TMI is compared by its ratio to that peer, and else by the figure itself. A change is a
regression where it is worse by more than the threshold and the runs of the two measurements do not overlap.
Peers do not regress: what they changed by tells how far the machine drifted.

What of TMI was measured before and is not there any more counts as a fault, be it a figure, a load or a whole
scenario: nothing shows that it did not get worse.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from math import copysign, inf
from typing import Literal

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from bench.document import Document
from bench.machine import Provenance
from bench.model import FELL_BEHIND, Figure
from bench.report import FAULTS_SHOWN, Summary, in_two_lines
from bench.servers import OURS
from bench.statistics import Spread

Key = tuple[str, str, str]
"""Scenario, load and server."""

Finding = Literal["regression", "worse", "better", "same", "within the spread", "unsound"]
"""`worse` is what a regression is called of a peer; `unsound` is a row with faults in either measurement."""

COLOURS: dict[Finding, str] = {"regression": "red", "unsound": "red", "worse": "yellow", "better": "green"}
ROUNDING = 1e-9
NAME_MIN_WIDTH = 11
SPREAD_MIN_WIDTH = 8


@dataclass(frozen=True)
class Change:
    """One figure of one server under one load. Where `peer` is named, `old` and `new` are ratios to it."""

    key: Key
    figure: Figure
    peer: str | None
    old: Spread
    new: Spread
    finding: Finding

    @property
    def share(self) -> float:
        """Of the old median; infinite where that was zero and the new one is not."""
        return _share(self.old, self.new)

    @property
    def form(self) -> str:
        return ".2f" if self.peer else self.figure.form

    @property
    def title(self) -> str:
        return f"{self.figure.title}, {f'x {self.peer}' if self.peer else self.figure.unit}"


@dataclass(frozen=True)
class Comparison:
    """What two documents have in common, and what not."""

    changes: list[Change]
    new_faults: dict[Key, list[str]]
    """Of TMI, where it had none before: also that it fell behind, or that it or a figure is missing."""
    only_old: list[Key]
    only_new: list[Key]
    machines: list[str]
    """In what the machines differ, and the versions of what the servers ran on."""
    is_complete: bool
    """Whether the new measurement was not cut short."""
    single: bool
    """Whether a row is of one run only, so that nothing is known of its spread."""

    @property
    def regressions(self) -> list[Change]:
        return [change for change in self.changes if change.finding == "regression"]

    @property
    def regressed(self) -> bool:
        """Or nothing that shows the contrary."""
        return bool(self.regressions or self.new_faults) or not self.is_complete or not self.has_ours

    @property
    def has_ours(self) -> bool:
        """Whether any figure of TMI was compared."""
        return any(change.key[2] in OURS for change in self.changes)


def compare(old: Document, new: Document, threshold: float, *, allow_missing: bool = False) -> Comparison:
    """`threshold` is a share: 0.1 is ten percent. With `allow_missing`, rows that the new document does not
    have are no faults; figures that are missing in a row are, all the same.
    """
    before, after = _by_key(old), _by_key(new)
    both = [key for key in after if key in before]
    return Comparison(
        changes=[change for key in both for change in _changes(key, before, after, new, threshold)],
        new_faults={
            key: found
            for key in before
            if key[2] in OURS and (key in after or not allow_missing)
            if (found := _worse(key, before, after))
        },
        only_old=[key for key in before if key not in after],
        only_new=[key for key in after if key not in before],
        machines=_differences(old.about, new.about),
        is_complete=new.is_complete,
        single=any(1 in (before[key].runs, after[key].runs) for key in both),
    )


def _worse(key: Key, before: Mapping[Key, Summary], after: Mapping[Key, Summary]) -> list[str]:
    """What is wrong with a row that was not before."""
    if key not in after:
        is_measured = any(other[:2] == key[:2] for other in after)
        return ["it was not measured, while others were" if is_measured else "its load was not measured"]
    was, now = before[key], after[key]
    faults = now.faults if not was.faults else []
    is_behind = FELL_BEHIND in now.remarks and FELL_BEHIND not in was.remarks
    missing = [f"its {name} is missing" for name in was.figures if name not in now.figures]
    return [*_first(faults), *([FELL_BEHIND] if is_behind else []), *_first(missing)]


def _first(texts: Sequence[str]) -> list[str]:
    """As many as are shown, and how many there are besides."""
    more = len(texts) - FAULTS_SHOWN
    return [*texts[:FAULTS_SHOWN], *([f"and {more} more"] if more > 0 else [])]


def _by_key(document: Document) -> dict[Key, Summary]:
    return {(summary.scenario, summary.load, summary.server): summary for summary in document.summaries}


def _differences(old: Provenance, new: Provenance) -> list[str]:
    was_on, now_on = old.machine, new.machine
    pairs = (
        ("processor", was_on.processor, now_on.processor),
        ("cores", was_on.cores, now_on.cores),
        ("memory, bytes", was_on.memory_bytes, now_on.memory_bytes),
        ("system", was_on.system, now_on.system),
        *((name, old.versions[name], now) for name, now in new.versions.items() if name in old.versions),
    )
    return [f"{what}: {was} before, {now} now" for what, was, now in pairs if was != now]


def _changes(
    key: Key, before: Mapping[Key, Summary], after: Mapping[Key, Summary], new: Document, threshold: float
) -> Iterator[Change]:
    """Of every figure that can be better or worse and that both have."""
    peer = _common_peer(key, before, after)
    unsound = bool(before[key].faults or after[key].faults)
    for figure in new.scenarios[key[0]].figures:
        was, now = before[key].figures.get(figure.key), after[key].figures.get(figure.key)
        if figure.better is None or was is None or now is None:
            continue
        ratios = None
        if peer is not None:
            beside = (key[0], key[1], peer)
            ratios = _ratios(was, before[beside], now, after[beside], figure)
        was, now = ratios or (was, now)
        finding = "unsound" if unsound else _finding(key[2], figure, was, now, threshold)
        yield Change(key, figure, peer if ratios else None, was, now, finding)


def _common_peer(key: Key, before: Mapping[Key, Summary], after: Mapping[Key, Summary]) -> str | None:
    """The best peer of the new measurement, or else of the old, that both have without a fault."""
    if key[2] not in OURS:
        return None
    for name in (after[key].best_peer, before[key].best_peer):
        beside = (key[0], key[1], name or "")
        if all(beside in found and not found[beside].faults for found in (before, after)):
            return name
    return None


def _ratios(
    was: Spread, peer_was: Summary, now: Spread, peer_now: Summary, figure: Figure
) -> tuple[Spread, Spread] | None:
    """Both figures beside the peer's, or neither."""
    theirs = peer_was.figures.get(figure.key), peer_now.figures.get(figure.key)
    if theirs[0] is None or theirs[1] is None or min(theirs[0].low, theirs[1].low) <= 0:
        return None
    return _ratio(was, theirs[0]), _ratio(now, theirs[1])


def _ratio(ours: Spread, theirs: Spread) -> Spread:
    """With the spread of both: from our lowest beside their highest to our highest beside their lowest."""
    return Spread(ours.median / theirs.median, ours.low / theirs.high, ours.high / theirs.low)


def _finding(server: str, figure: Figure, old: Spread, new: Spread, threshold: float) -> Finding:
    share = _share(old, new)
    if abs(share) <= threshold + ROUNDING:
        return "same"
    if old.low <= new.high and new.low <= old.high:
        return "within the spread"
    if (share > 0) == (figure.better == "higher"):
        return "better"
    return "regression" if server in OURS else "worse"


def _share(old: Spread, new: Spread) -> float:
    if old.median == new.median:
        return 0.0
    change = new.median - old.median
    return change / abs(old.median) if old.median else copysign(inf, change)


def print_comparison(console: Console, old: Document, new: Document, found: Comparison) -> None:
    """Tables of all changes, and then what follows from them."""
    console.print(f"Old: {old.about.at}, {old.about.revision}", markup=False)
    console.print(f"New: {new.about.at}, {new.about.revision}\n", markup=False)
    for difference in found.machines:
        console.print(f"[yellow]Other machine:[/yellow] {escape(difference)}")
    for scenario, changes in groupby(found.changes, key=lambda change: change.key[0]):
        console.print(_table(new.scenarios[scenario].title, list(changes)))
    for what, keys in (("old", found.only_old), ("new", found.only_new)):
        for key in keys:
            console.print(f"Only in the {what} file: {', '.join(key)}", markup=False)
    if not found.changes:
        console.print("[yellow]The files have no figures in common.")
    if found.single:
        console.print("[yellow]Some rows are of a single run: noise cannot be told from change there.")
    for change in found.regressions:
        told = escape(f"{', '.join(change.key)}: {change.title}, {change.share:+.1%}")
        console.print(f"[red]regression[/red] {told}")
    for key, faults in found.new_faults.items():
        told = escape(f"{', '.join(key)}: {'; '.join(faults)}")
        console.print(f"[red]new fault[/red] {told}")
    if not found.is_complete:
        console.print("[red]The new measurement was cut short.")
    if not found.has_ours:
        console.print("[red]Nothing of TMI could be compared.")
    if not found.regressed:
        console.print("[green]No regression.")


def _table(title: str, changes: list[Change]) -> Table:
    """Narrow enough for 80 columns: there a spread is broken into lines before a name is left out."""
    table = Table(title=title, title_justify="left", title_style="bold", header_style="bold")
    table.add_column("load and server", min_width=max(len(change.key[2]) for change in changes))
    table.add_column("figure", min_width=NAME_MIN_WIDTH)
    for column in ("old", "new"):
        table.add_column(column, justify="right", min_width=SPREAD_MIN_WIDTH)
    table.add_column("change", justify="right", no_wrap=True)
    table.add_column("finding", min_width=len("regression"))
    before: Key | None = None
    for change in changes:
        new_row = change.key != before
        if new_row and before is not None:
            table.add_section()
        colour = COLOURS.get(change.finding, "default")
        table.add_row(
            escape("\n".join(change.key[1:])) if new_row else "",
            escape(change.title),
            in_two_lines(change.old, change.form),
            in_two_lines(change.new, change.form),
            f"{change.share:+.1%}",
            f"[{colour}]{change.finding}[/{colour}]",
        )
        before = change.key
    return table
