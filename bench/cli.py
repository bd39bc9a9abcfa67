"""`python -m bench`: the commands of the load tester."""

import sys
from pathlib import Path

import click
import uvloop
from picows import WSError
from rich.console import Console

from bench.report import Goal
from bench.runner import Plan, carry_out
from bench.scenarios.fanout import FanoutLoad
from bench.servers import SERVERS, ServerError

SHORT_SECONDS = 6.0
SHORT_REPEATS = 2
GOALS = {
    10: Goal(cpu_ratio=0.85, p50_ratio=1.5),
    40: Goal(cpu_ratio=0.45, p99_ms=20),
    100: Goal(cpu_ratio=0.25, p99_ms=20),
    200: Goal(cpu_ratio=0.2, p99_ms=20),
}
"""What TMI must reach with 50 clients and 10 writers, by edits per second of each."""


def _names(context: click.Context, parameter: click.Parameter, value: str) -> tuple[str, ...]:
    names = tuple(dict.fromkeys(name.strip() for name in value.split(",") if name.strip()))
    unknown = [name for name in names if name not in SERVERS]
    if unknown or not names:
        there_are = f"there are {', '.join(SERVERS)}"
        raise click.BadParameter(f"no server {', '.join(unknown)}; {there_are}", context, parameter)
    return names


servers_option = click.option(
    "--servers", callback=_names, default="tmi,hocuspocus,y-websocket", show_default=True,
    help="Which to measure, in which order.",
)  # fmt: skip
json_option = click.option(
    "--json", "json_file", type=click.Path(dir_okay=False, writable=True, path_type=Path),
    help="Write all figures here.",
)  # fmt: skip


@click.group()
def main() -> None:
    """Measure TMI and its peers on this machine, side by side, over the wire."""


@main.command()
@click.option("--clients", type=click.IntRange(2, 5000), default=50, show_default=True)
@click.option("--writers", type=click.IntRange(1, 5000), default=10, show_default=True)
@click.option("--rate", type=click.FloatRange(0.1, 5000), default=10.0, show_default=True, help="Edits/s.")
@click.option("--seconds", type=click.FloatRange(1, 600), default=8, show_default=True, help="Measured.")
@click.option("--repeat", type=click.IntRange(1, 100), default=1, show_default=True, help="Interleaved runs.")
@servers_option
@json_option
def fanout(
    clients: int, writers: int, rate: float, seconds: float, repeat: int, servers: tuple[str, ...],
    json_file: Path | None,
) -> None:  # fmt: skip
    """One room: what a delivered copy of an edit costs, and how long it takes."""
    try:
        load = FanoutLoad(clients, writers, rate, seconds)
    except ValueError as unsound:
        raise click.UsageError(str(unsound)) from unsound
    _carry_out(Plan([load], servers, repeat, {}, json_file))


@main.command()
@servers_option
@json_option
@click.option("--seconds", type=click.FloatRange(1, 60), default=SHORT_SECONDS, show_default=True)
@click.option("--repeat", type=click.IntRange(1, 20), default=SHORT_REPEATS, show_default=True)
def short(servers: tuple[str, ...], json_file: Path | None, seconds: float, repeat: int) -> None:
    """The sound short set, in less than five minutes: one room under four loads, held against its targets."""
    loads = {FanoutLoad(50, 10, rate, seconds): goal for rate, goal in GOALS.items()}
    _carry_out(Plan(list(loads), servers, repeat, loads, json_file))


def _carry_out(plan: Plan) -> None:
    console = Console(width=None if sys.stdout.isatty() else 200)
    try:
        sound = uvloop.run(carry_out(plan, console, sys.argv[1:]))
    except (ServerError, WSError, OSError, TimeoutError) as failure:
        raise click.ClickException(str(failure) or type(failure).__name__) from failure
    if not sound:
        sys.exit(1)
