"""`python -m bench`: a command for each scenario, two for sets of them, and two that read what these wrote.

`compare` and `results` exit with 2 where a file cannot be read, so that 1 always speaks of TMI.
"""

import sys
from collections.abc import Callable, Sequence
from dataclasses import MISSING, fields
from math import inf, nan
from pathlib import Path
from typing import Any

import click
import uvloop
from picows import WSError
from rich.console import Console

from bench.compare import compare, print_comparison
from bench.document import Document, NotResults, read_json
from bench.markdown import markdown
from bench.model import Load
from bench.page import write_html
from bench.runner import Plan, carry_out
from bench.scenarios import SCENARIOS, full_set, short_set
from bench.scenarios.itself import SelfLoad
from bench.servers import SERVERS, Sender, Server, ServerError

SHORT_SECONDS = 3.0
FULL_SECONDS = 8.0
FULL_REPEATS = 3
WIDTH_WITHOUT_TERMINAL = 200
FILE_TO_READ = click.Path(dir_okay=False, exists=True, path_type=Path)
FILE_TO_WRITE = click.Path(dir_okay=False, writable=True, path_type=Path)


def _names(context: click.Context, parameter: click.Parameter, value: str) -> tuple[str, ...]:
    names = tuple(dict.fromkeys(name.strip() for name in value.split(",") if name.strip()))
    unknown = [name for name in names if name not in SERVERS]
    if unknown or not names:
        there_are = f"there are {', '.join(SERVERS)}"
        raise click.BadParameter(f"no server {', '.join(unknown)}; {there_are}", context, parameter)
    return names


def _file(name: str, help_text: str) -> click.Option:
    return click.Option([f"--{name}", f"{name}_file"], type=FILE_TO_WRITE, help=help_text)


def _servers() -> click.Parameter:
    return click.Option(
        ["--servers"], callback=_names, default="tmi,hocuspocus,y-websocket", show_default=True,
        help="Which to measure, in which order.",
    )  # fmt: skip


def _common(repeat: int) -> list[click.Parameter]:
    """The options of every command that measures."""
    return [
        click.Option(
            ["--repeat"], type=click.IntRange(1, 100), default=repeat, show_default=True,
            help="Interleaved runs of each.",
        ),
        _file("json", "Write all figures here."),
        _file("html", "Write a report with charts here."),
    ]  # fmt: skip


def _fields_as_options(scenario: type[Load]) -> list[click.Parameter]:
    return [
        click.Option(
            [f"--{field.name.replace('_', '-')}"], type=type(field.default), default=field.default,
            is_flag=isinstance(field.default, bool), show_default=True, help=field.metadata["help"],
        )
        for field in fields(scenario)  # type: ignore[arg-type]
        if field.default is not MISSING
    ]  # fmt: skip


def _scenario_command(scenario: type[Load], only: type[Server] | None = None) -> click.Command:
    """`only` is the one server that this scenario can be measured on; otherwise they may be chosen."""

    def run(
        repeat: int, json_file: Path | None, html_file: Path | None, servers: Sequence[str] = (), **load: Any
    ) -> None:
        try:
            loads = [scenario(**load)]
        except ValueError as unsound:
            raise click.UsageError(str(unsound)) from unsound
        makers = [only] if only else _makers(servers)
        _carry_out(Plan(loads, makers, repeat, json_file, html_file))

    parameters = [*_fields_as_options(scenario), *([] if only else [_servers()]), *_common(1)]
    return click.Command(scenario.scenario, callback=run, params=parameters, help=scenario.__doc__)


def _set_command(
    name: str, help_text: str, loads: Callable[[float], list[Load]], seconds_each: float, repeat_each: int
) -> click.Command:
    def run(
        seconds: float, repeat: int, servers: Sequence[str], json_file: Path | None, html_file: Path | None
    ) -> None:
        _carry_out(Plan(loads(seconds), _makers(servers), repeat, json_file, html_file))

    window = click.Option(
        ["--seconds"], type=click.FloatRange(1, 600), default=seconds_each, show_default=True,
        help="Length of each measured window.",
    )  # fmt: skip
    parameters = [window, _servers(), *_common(repeat_each)]
    return click.Command(name, callback=run, params=parameters, help=help_text)


def _document(context: click.Context, parameter: click.Parameter, value: Path) -> Document:
    try:
        return read_json(value)
    except (NotResults, OSError) as unreadable:
        raise click.BadParameter(str(unreadable), context, parameter) from unreadable


def _share(context: click.Context, parameter: click.Parameter, value: str) -> float:
    """Of `10%` or `10`: 0.1."""
    try:
        share = float(value.removesuffix("%")) / 100
    except ValueError:
        share = nan
    if not 0 <= share < inf:
        raise click.BadParameter(f"{value} is no percentage, such as 10%", context, parameter)
    return share


def _makers(names: Sequence[str]) -> list[Callable[[], Server]]:
    return [SERVERS[name] for name in names]


def _console() -> Console:
    return Console(width=None if sys.stdout.isatty() else WIDTH_WITHOUT_TERMINAL)


def _carry_out(plan: Plan) -> None:
    console = _console()
    try:
        sound = uvloop.run(carry_out(plan, console, sys.argv[1:]))
    except (ServerError, WSError, OSError, TimeoutError) as failure:
        raise click.ClickException(str(failure) or type(failure).__name__) from failure
    if not sound:
        console.print("[red]TMI lost or altered something, or broke off: see the tables.")
        sys.exit(1)


@click.group()
def main() -> None:
    """Measure TMI and its peers on this machine, side by side, over the wire."""


@main.command("compare")
@click.argument("old", type=FILE_TO_READ, callback=_document)
@click.argument("new", type=FILE_TO_READ, callback=_document)
@click.option("--threshold", callback=_share, default="10%", show_default=True, help="What is no change yet.")
def _compare(old: Document, new: Document, threshold: float) -> None:
    """What changed from OLD to NEW, two files of --json; exit code 1 if TMI became worse."""
    found = compare(old, new, threshold)
    print_comparison(_console(), old, new, found)
    if found.regressed:
        sys.exit(1)


@main.command("results")
@click.argument("file", type=FILE_TO_READ, callback=_document)
@click.option("--html", "html_file", type=FILE_TO_WRITE, help="Write the report with charts here instead.")
def _results(file: Document, html_file: Path | None) -> None:
    """Prints FILE, a file of --json, as Markdown."""
    if html_file is None:
        click.echo(markdown(file), nl=False)
    else:
        write_html(html_file, file)


for known in SCENARIOS:
    main.add_command(_scenario_command(known))
main.add_command(_scenario_command(SelfLoad, only=Sender))
main.add_command(
    _set_command("short", "The sound short set, in less than five minutes.", short_set, SHORT_SECONDS, 1)
)
main.add_command(
    _set_command("full", "Every row of the targets and every scenario.", full_set, FULL_SECONDS, FULL_REPEATS)
)
