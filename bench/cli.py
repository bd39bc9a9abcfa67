"""`python -m bench`: a command for each scenario, two for sets of them, and two that read what these wrote.

`compare` and `results` exit with 2 where a file cannot be read, so that 1 always speaks of TMI.
"""

import sys
from collections.abc import Callable, Sequence
from dataclasses import MISSING, fields
from math import inf, isfinite, nan
from pathlib import Path
from typing import Any

import click
import uvloop
from picows import WSError
from rich.console import Console

from bench.aim import OPTIONS, aimed
from bench.compare import compare, print_comparison
from bench.document import Document, NotResults, read_json
from bench.markdown import markdown
from bench.model import Load
from bench.page import write_html
from bench.runner import Plan, carry_out
from bench.scenarios import SCENARIOS, full_set, short_set, warmed
from bench.scenarios.itself import SelfLoad
from bench.servers import Sender, Server, ServerError

SHORT_SECONDS = 1.0
SHORT_REPEATS = 2
SHORT_HELP = "The sound short set, each load twice, in less than five minutes."
FULL_SECONDS = 8.0
FULL_REPEATS = 3
WIDTH_WITHOUT_TERMINAL = 200
HELP_WIDTH = 130
"""In a wide terminal, so that commands are told in whole sentences."""
FILE_TO_READ = click.Path(dir_okay=False, exists=True, path_type=Path)
FILE_TO_WRITE = click.Path(dir_okay=False, writable=True, path_type=Path)


def _file(name: str, help_text: str) -> click.Option:
    return click.Option([f"--{name}", f"{name}_file"], type=FILE_TO_WRITE, help=help_text)


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


def _finite(context: click.Context, parameter: click.Parameter, value: float) -> float:
    if not isfinite(value):
        raise click.BadParameter(f"{value} is no number to measure with", context, parameter)
    return value


def _fields_as_options(scenario: type[Load]) -> list[click.Parameter]:
    return [
        click.Option(
            [f"--{field.name.replace('_', '-')}"], type=type(field.default), default=field.default,
            callback=_finite if isinstance(field.default, float) else None,
            is_flag=isinstance(field.default, bool), show_default=True, help=field.metadata["help"],
        )
        for field in fields(scenario)  # type: ignore[arg-type]
        if field.default is not MISSING
    ]  # fmt: skip


def _scenario_command(scenario: type[Load], only: type[Server] | None = None) -> click.Command:
    """`only` is the one server that this scenario can be measured on; otherwise they may be chosen."""
    options = _fields_as_options(scenario)

    def run(**given: Any) -> None:
        load = {str(option.name): given.pop(str(option.name)) for option in options}
        try:
            loads = [scenario(**load)]
        except ValueError as unsound:
            raise click.UsageError(str(unsound)) from unsound
        _carry_out(loads, only=only, **given)

    parameters = [*options, *([] if only else OPTIONS), *_common(1)]
    return click.Command(scenario.scenario, callback=run, params=parameters, help=scenario.__doc__)


def _set_command(
    name: str, help_text: str, loads: Callable[[float], list[Load]], seconds_each: float, repeat_each: int,
    again: Callable[[Load, float], Load] = lambda load, _: load,
) -> click.Command:  # fmt: skip
    def run(seconds: float, **given: Any) -> None:
        _carry_out(loads(seconds), warmed_up=lambda load: again(load, seconds), **given)

    window = click.Option(
        ["--seconds"], type=click.FloatRange(1, 600), default=seconds_each, show_default=True,
        callback=_finite, help="Length of each measured window.",
    )  # fmt: skip
    parameters = [window, *OPTIONS, *_common(repeat_each)]
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


def _check_writable(file: Path) -> None:
    """Before anything is measured. A file that is there keeps its content until the end."""
    was_there = file.exists()
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with file.open("ab"):
            pass
        if not was_there:
            file.unlink()
    except OSError as error:
        raise click.UsageError(f"{file} cannot be written: {error}") from error


def _check_different(one: Path, other: Path) -> None:
    """Figures that a report has replaced are lost."""
    if one.resolve() == other.resolve():
        raise click.UsageError(f"figures and report cannot both be in {one}: give the report another name")


def _console() -> Console:
    return Console(width=None if sys.stdout.isatty() else WIDTH_WITHOUT_TERMINAL)


def _carry_out(
    loads: Sequence[Load], *, repeat: int, json_file: Path | None, html_file: Path | None,
    only: type[Server] | None = None, warmed_up: Callable[[Load], Load] = lambda load: load, **aim: Any,
) -> None:  # fmt: skip
    plan = Plan(loads, [only] if only else [], repeat, json_file, html_file, warmed=warmed_up)
    if json_file is not None and html_file is not None:
        _check_different(json_file, html_file)
    for file in filter(None, (json_file, html_file)):
        _check_writable(file)
    if only is None:
        plan = aimed(plan, **aim)
    console = _console()
    try:
        status = uvloop.run(carry_out(plan, console, sys.argv[1:]))
    except (ServerError, WSError, OSError, TimeoutError) as failure:
        raise click.ClickException(str(failure) or type(failure).__name__) from failure
    if status == 1:
        console.print("[red]Not sound, or not complete: see the tables and the remarks around them.")
    sys.exit(status)


@click.group(
    context_settings={"max_content_width": HELP_WIDTH},
    epilog="What the figures mean, and how to measure a deployment safely: bench/README.md.",
)
def main() -> None:
    """Measure TMI and its peers on this machine, side by side, over the wire."""


@main.command("compare")
@click.argument("old", type=FILE_TO_READ, callback=_document)
@click.argument("new", type=FILE_TO_READ, callback=_document)
@click.option("--threshold", callback=_share, default="10%", show_default=True, help="What is no change yet.")
@click.option("--allow-missing", is_flag=True, help="NEW need not have every load of OLD, nor every server.")
def _compare(old: Document, new: Document, threshold: float, *, allow_missing: bool) -> None:
    """What changed from OLD to NEW, two files of --json; exit code 1 if TMI became worse, or is missing."""
    found = compare(old, new, threshold, allow_missing=allow_missing)
    print_comparison(_console(), old, new, found)
    if found.regressed:
        sys.exit(1)


@main.command("results")
@click.argument("file", type=FILE_TO_READ)
@click.option("--html", "html_file", type=FILE_TO_WRITE, help="Write the report with charts here instead.")
@click.pass_context
def _results(context: click.Context, file: Path, html_file: Path | None) -> None:
    """Prints FILE, a file of --json, as Markdown."""
    document = _document(context, context.command.params[0], file)
    if html_file is None:
        click.echo(markdown(document), nl=False)
    else:
        _check_different(file, html_file)
        _check_writable(html_file)
        write_html(html_file, document)


for known in SCENARIOS:
    main.add_command(_scenario_command(known))
main.add_command(_scenario_command(SelfLoad, only=Sender))
main.add_command(
    _set_command("short", SHORT_HELP, short_set, SHORT_SECONDS, SHORT_REPEATS, warmed)
)
main.add_command(
    _set_command("full", "Every row of the targets and every scenario.", full_set, FULL_SECONDS, FULL_REPEATS)
)
