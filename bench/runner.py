"""Carries out a plan: starts the servers, runs them in turn, reports, and stops what it started.

Servers live for one scenario and are started anew for the next, so that no scenario meets the memory that
another left behind, and a server that died under one load is there again for the next.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path

from picows import WSError
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from bench import page, report
from bench.document import Document, ServerInfo, described, write_json
from bench.machine import provenance
from bench.model import Load, Place, Run
from bench.process import cores, open_files_limit, pin
from bench.servers import Server, ServerError

REDRAW_S = 1.0
"""A redraw takes about a millisecond of the generator's core, so it is rare."""

RUN_TIMEOUT_S = 1800.0
"""No single run takes longer, whatever a server does."""


@dataclass(frozen=True)
class Plan:
    """What to measure on which servers; each element of `servers` makes one that is not yet started."""

    loads: Sequence[Load]
    servers: Sequence[Callable[[], Server]]
    repeat: int = 1
    json_file: Path | None = None
    html_file: Path | None = None


@dataclass
class Outcome:
    """What is known so far."""

    runs: list[Run] = field(default_factory=list)
    summaries: list[report.Summary] = field(default_factory=list)
    servers: dict[str, ServerInfo] = field(default_factory=dict)


async def carry_out(plan: Plan, console: Console, command: list[str]) -> bool:
    """Whether TMI delivered everything unaltered in every run.

    Raises `ServerError` and `OSError` if a server does not start.
    """
    about = provenance(command)
    generator_core, server_core = cores()
    if generator_core == server_core:
        console.print("[yellow]One core only: generator and server share it.")
    place = Place(generator_core, server_core)
    outcome = Outcome()
    open_files_limit()
    pin(generator_core)
    async with _progress(plan, console) as progress:
        for _, loads in groupby(plan.loads, key=lambda load: load.scenario):
            await _scenario(list(loads), plan, place, outcome, progress)
    for name, server in outcome.servers.items():
        console.print(f"{name}: {server.version}, persistence: {server.persistence}")
    scenarios = described(plan.loads)
    _write(plan, Document(about, outcome.servers, scenarios, outcome.runs, outcome.summaries), console)
    return not report.lost_or_altered(outcome.runs)


def _write(plan: Plan, document: Document, console: Console) -> None:
    if plan.json_file is not None:
        write_json(plan.json_file, document)
        console.print(f"All figures: {plan.json_file}", highlight=False, soft_wrap=True)
    if plan.html_file is not None:
        page.write_html(plan.html_file, document)
        console.print(f"Report: {plan.html_file}", highlight=False, soft_wrap=True)


async def _scenario(
    loads: Sequence[Load], plan: Plan, place: Place, outcome: Outcome, progress: "_Shown"
) -> None:
    """A, B, C, A, B, C, ...: a drift of the machine meets all servers alike."""
    runs: list[Run] = []
    async with AsyncExitStack() as stack:
        progress.say(f"{loads[0].title}: starting the servers")
        servers = [_Kept(make, place.server_core) for make in plan.servers if loads[0].needs <= make().offers]
        for kept in servers:
            stack.push_async_callback(kept.stop)
        await asyncio.gather(*(kept.start() for kept in servers))
        for kept in servers:
            outcome.servers.setdefault(kept.server.name, _described(kept.server))
        for load, kept in _turns(plan.repeat, loads, servers):
            progress.say(f"{load.title}, {load.label}: {kept.server.name}")
            runs.append(await _one_run(load, kept, place))
            progress.advance()
    summaries = report.summarise(loads, runs)
    if summaries:
        report.print_table(progress.console, loads, summaries)
    else:
        progress.console.print(
            f"{loads[0].title}: none of these servers offers {', '.join(loads[0].needs)}.\n"
        )
    outcome.runs.extend(runs)
    outcome.summaries.extend(summaries)


def _turns(repeat: int, loads: Sequence[Load], servers: "Sequence[_Kept]") -> "Iterator[tuple[Load, _Kept]]":
    return ((load, kept) for _ in range(repeat) for load in loads for kept in servers)


async def _one_run(load: Load, kept: "_Kept", place: Place) -> Run:
    """A run that breaks off is a run with a fault, and its server is started again."""
    try:
        return await asyncio.wait_for(load.measure(kept.server, place), RUN_TIMEOUT_S)
    except* (ServerError, WSError, OSError, TimeoutError) as group:
        reason = _first(group)
    fault = (
        f"broke off: {str(reason).strip().splitlines()[-1] if str(reason).strip() else type(reason).__name__}"
    )
    name = kept.server.name
    await kept.restart()
    return Run(load.scenario, load.label, name, {}, {}, faults=[fault])


def _first(group: BaseException) -> BaseException:
    while isinstance(group, BaseExceptionGroup):
        group = group.exceptions[0]
    return group


class _Kept:
    """A server that can be started again."""

    def __init__(self, make: Callable[[], Server], core: int) -> None:
        self._make = make
        self._core = core
        self.server = make()

    async def start(self) -> None:
        await self.server.start(self._core)

    async def stop(self) -> None:
        await self.server.stop()

    async def restart(self) -> None:
        await self.stop()
        self.server = self._make()
        await self.start()


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
