"""Carries out a plan: starts the servers, runs them in turn, reports, and stops what it started.

Servers live for one scenario and are started anew for the next, so that no scenario meets the memory that
another left behind, and a server that died under one load is there again for the next.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field, replace
from itertools import groupby, product
from pathlib import Path
from tempfile import mkdtemp

from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from bench import page, report, wording
from bench.document import Document, ServerInfo, described, write_json
from bench.ending import EndedEarly, Ending, may_end_early
from bench.keeping import Kept
from bench.machine import Provenance, provenance
from bench.model import Load, Place, Run
from bench.process import cores, open_files_limit, pin
from bench.servers import Server, ServerError

REDRAW_S = 1.0
"""A redraw takes about a millisecond of the generator's core, so it is rare."""


@dataclass(frozen=True)
class Plan:
    """What to measure on which servers; each element of `servers` makes one that is not yet started."""

    loads: Sequence[Load]
    servers: Sequence[Callable[[], Server]]
    repeat: int = 1
    json_file: Path | None = None
    html_file: Path | None = None
    at_most_s: float | None = None
    """After which the measurement is cut short."""
    notes: Sequence[str] = ()
    """What a reader of the results has to know beforehand, as which servers were left out."""
    warmed: Callable[[Load], Load] = lambda load: load
    """A load as it is put on servers that a load of its scenario has warmed up already."""

    def in_turns(self, loads: Sequence[Load]) -> Iterator[Load]:
        """Those of one scenario, as often as each is run, in the order in which they are."""
        for turn, (number, load) in product(range(self.repeat), enumerate(loads)):
            yield self.warmed(load) if turn or number else load


@dataclass
class Outcome:
    """What is known so far."""

    runs: list[Run] = field(default_factory=list)
    summaries: list[report.Summary] = field(default_factory=list)
    servers: dict[str, ServerInfo] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    is_complete: bool = False
    has_left_something: bool = False
    """Whether what was made on a running service is still there."""


async def carry_out(plan: Plan, console: Console, command: list[str]) -> int:
    """The exit status: 0 if TMI delivered everything unaltered in every run, no run of any server broke off,
    and nothing was cut short.

    Whatever ends it, what is known by then is written; 1 also where that could not be. Raises `ServerError`
    if no server starts.
    """
    about, is_written = provenance(command), False
    generator_core, server_core = cores()
    if generator_core == server_core:
        console.print("[yellow]One core only: generator and server share it.")
    open_files_limit()
    pin(generator_core)
    with may_end_early(plan.at_most_s) as ending:
        measurement = _Measurement(plan, Place(generator_core, server_core), console, ending)
        outcome = measurement.outcome
        try:
            await measurement.carry_out()
        finally:
            document = _document(about, plan.loads, outcome)
            is_written = _write(plan, document, console)
    for fact in wording.origin(document):
        console.print(": ".join(fact), highlight=False, markup=False, soft_wrap=True)
    for name, server in outcome.servers.items():
        console.print(f"{name}: {server.version}, persistence: {server.persistence}")
    if ending.reason is not None:
        return ending.status
    is_whole = outcome.runs and is_written and not outcome.has_left_something
    broke_off = any(run.broke_off is not None for run in outcome.runs)
    return int(not is_whole or broke_off or report.lost_or_altered(outcome.runs))


def _document(about: Provenance, loads: Sequence[Load], outcome: Outcome) -> Document:
    return Document(
        replace(about, versions=outcome.versions), outcome.servers, described(loads), outcome.runs,
        outcome.summaries, outcome.is_complete, outcome.notes,
    )  # fmt: skip


def _write(plan: Plan, document: Document, console: Console) -> bool:
    """Whether both files could be written where they were wanted. Figures go elsewhere if need be."""
    files: list[tuple[str, Path | None, Callable[[Path, Document], None]]] = [
        ("All figures", plan.json_file, write_json), ("Report", plan.html_file, page.write_html),
    ]  # fmt: skip
    is_written = True
    for what, file, write in files:
        if file is None:
            continue
        written = file
        try:
            write(file, document)
        except OSError as error:
            is_written = False
            console.print(f"[red]{escape(f'{file} could not be written: {error}')}", soft_wrap=True)
            if write is not write_json:
                continue
            try:
                written = Path(mkdtemp(prefix="tmi-bench-figures-")) / file.name
                write(written, document)
            except OSError:
                continue
        console.print(f"{what}: {written}", highlight=False, markup=False, soft_wrap=True)
    return is_written


class _Measurement:
    """A plan on its way: `outcome` grows, also where it is cut short."""

    def __init__(self, plan: Plan, place: Place, console: Console, ending: Ending) -> None:
        self.outcome = Outcome()
        self._plan = plan
        self._place = place
        self._console = console
        self._ending = ending

    async def carry_out(self) -> None:
        """Raises `ServerError` if no server starts."""
        for note in self._plan.notes:
            self._tell(note)
        try:
            async with _progress(self._plan, self._console) as progress:
                for _, loads in groupby(self._plan.loads, key=lambda load: load.scenario):
                    await self._scenario(list(loads), progress)
            self.outcome.is_complete = True
        except EndedEarly as reason:
            self._tell(f"Not complete: {reason}.")

    def _tell(self, note: str) -> None:
        self.outcome.notes.append(note)
        self._console.print(f"[yellow]{escape(note)}", soft_wrap=True)

    async def _scenario(self, loads: Sequence[Load], progress: "_Shown") -> None:
        able = [make for make in self._plan.servers if loads[0].needs <= make().offers]
        if not able:
            self._tell(f"{loads[0].title}: none of these servers offers {', '.join(loads[0].needs)}.")
            return
        servers = [Kept(make, self._place.server_core, self._tell) for make in able]
        runs: list[Run] = []
        try:
            async with AsyncExitStack() as stack:
                for kept in servers:
                    stack.push_async_callback(kept.stop)
                with self._ending.measuring():
                    progress.say(f"{loads[0].title}: starting the servers")
                    await self._start(servers)
                    await self._run_in_turns(loads, servers, runs, progress)
        finally:
            self.outcome.has_left_something |= any(kept.left_behind for kept in servers)
            self._summarise(loads, runs)

    async def _start(self, servers: Sequence[Kept]) -> None:
        """All at once. Raises `ServerError` if none starts."""
        await asyncio.gather(*(kept.start() for kept in servers))
        if all(kept.did_not_start for kept in servers):
            raise ServerError("No server started, so there is nothing to measure.")
        for kept in servers:
            self.outcome.servers.setdefault(kept.server.name, _described(kept.server))
            if not kept.did_not_start:
                self.outcome.versions |= await asyncio.to_thread(kept.server.runs_on)

    async def _run_in_turns(
        self, loads: Sequence[Load], servers: Sequence[Kept], runs: list[Run], progress: "_Shown"
    ) -> None:
        """A, B, C, A, B, C, ...: a drift of the machine meets all servers alike."""
        for load, kept in product(self._plan.in_turns(loads), servers):
            self._ending.check()
            progress.say(f"{load.title}, {load.label}: {kept.server.name}")
            runs.append(await kept.run(load, self._place))
            progress.advance()

    def _summarise(self, loads: Sequence[Load], runs: Sequence[Run]) -> None:
        summaries = report.summarise(loads, runs)
        if summaries:
            report.print_table(self._console, loads, summaries)
        self.outcome.runs.extend(runs)
        self.outcome.summaries.extend(summaries)


def _described(server: Server) -> ServerInfo:
    return ServerInfo(server.version(), server.command, server.persistence)


class _Shown:
    """The progress bar, redrawn once a second by the loop itself: a thread would disturb the clocks."""

    def __init__(self, progress: Progress, total: int) -> None:
        self._progress = progress
        self._task = progress.add_task("", total=total)

    @property
    def console(self) -> Console:
        return self._progress.console

    def say(self, what: str) -> None:
        self._progress.update(self._task, description=what, refresh=True)

    def advance(self) -> None:
        self._progress.update(self._task, advance=1, refresh=True)

    async def redraw(self) -> None:
        while True:
            await asyncio.sleep(REDRAW_S)
            self._progress.refresh()


@asynccontextmanager
async def _progress(plan: Plan, console: Console) -> AsyncIterator[_Shown]:
    columns = (
        SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(),
        TimeElapsedColumn(), TextColumn("left"), TimeRemainingColumn(),
    )  # fmt: skip
    made = [make() for make in plan.servers]
    total = plan.repeat * sum(load.needs <= server.offers for load in plan.loads for server in made)
    with Progress(*columns, console=console, transient=True, auto_refresh=False) as progress:
        shown = _Shown(progress, total)
        redrawing = asyncio.create_task(shown.redraw())
        try:
            yield shown
        finally:
            redrawing.cancel()
