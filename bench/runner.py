"""Carries out a plan: starts the servers, runs them in turn, reports, and stops what it started."""

import asyncio
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from bench import report
from bench.machine import provenance
from bench.process import cores, pin
from bench.scenarios.fanout import FanoutLoad, FanoutRun, measure
from bench.servers import OURS, SERVERS, Server


@dataclass(frozen=True)
class Plan:
    loads: list[FanoutLoad]
    servers: tuple[str, ...]
    repeat: int
    goals: dict[FanoutLoad, report.Goal]
    json_file: Path | None


async def carry_out(plan: Plan, console: Console, command: list[str]) -> bool:
    """Whether TMI delivered every edit everywhere in every run. Raises `ServerError` and `OSError`."""
    about = provenance(command)
    generator_core, server_core = cores()
    if generator_core == server_core:
        console.print("[yellow]One core only: generator and server share it.")
    async with AsyncExitStack() as stack:
        servers = [await _started(stack, SERVERS[name](), server_core) for name in plan.servers]
        pin(generator_core)
        runs = await _runs(plan, servers, console, generator_core, server_core)
        described: dict[str, dict[str, object]] = {
            server.name: {
                "version": server.version(),
                "command": server.command,
                "persistence": server.persistence,
            }
            for server in servers
        }
    summaries = report.summarise(runs)
    report.print_table(console, summaries, plan.goals)
    for name, description in described.items():
        console.print(f"{name}: {description['version']}, persistence: {description['persistence']}")
    if plan.json_file is not None:
        report.write_json(plan.json_file, about, described, runs, summaries)
    return not any(run.faults for run in runs if run.server in OURS)


async def _started(stack: AsyncExitStack, server: Server, core: int) -> Server:
    stack.push_async_callback(server.stop)
    await server.start(core)
    return server


async def _runs(
    plan: Plan, servers: list[Server], console: Console, generator_core: int, server_core: int
) -> list[FanoutRun]:
    """A, B, C, A, B, C, ...: a drift of the machine meets all servers alike."""
    runs: list[FanoutRun] = []
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True, auto_refresh=False) as progress:
        task = progress.add_task("", total=plan.repeat * len(plan.loads) * len(servers))
        for _ in range(plan.repeat):
            for load in plan.loads:
                for server in servers:
                    progress.update(task, description=f"{load.label}: {server.name}", refresh=True)
                    runs.append(await measure(server, load, generator_core, server_core))
                    progress.advance(task)
                    await asyncio.sleep(0)
    return runs
