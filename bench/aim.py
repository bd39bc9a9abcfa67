"""What a command measures: servers that are started here, or a service that runs already, within bounds."""

import os
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import click

from bench.runner import Plan
from bench.servers import DEFAULT, SERVERS, Deployment
from bench.target import OWN, NotAllowed, Target

TOKEN = "TMI_BENCH_TOKEN"
AT_MOST_S = 300.0
AT_MOST_CLIENTS = 1000


def _names(context: click.Context, parameter: click.Parameter, value: str | None) -> tuple[str, ...] | None:
    if value is None:
        return None
    names = tuple(dict.fromkeys(name.strip() for name in value.split(",") if name.strip()))
    unknown = [name for name in names if name not in SERVERS]
    if unknown or not names:
        there_are = f"there are {', '.join(SERVERS)}"
        raise click.BadParameter(f"no server {', '.join(unknown)}; {there_are}", context, parameter)
    return names


OPTIONS: tuple[click.Parameter, ...] = (
    click.Option(
        ["--servers"], callback=_names, show_default=f"those of {','.join(DEFAULT)} that are installed",
        help=f"Which of {', '.join(SERVERS)} to start and measure, in which order; with commas between them.",
    ),
    click.Option(["--url"], help="Measure the TMI service that runs at this address instead."),
    click.Option(
        ["--token-file"], type=click.Path(exists=True, dir_okay=False, path_type=Path),
        help=f"With --url: holds an access token. Or set {TOKEN}. With neither: the development provider.",
    ),
    click.Option([OWN, "is_own"], is_flag=True, help="With --url: it may be on another machine."),
    click.Option(
        ["--at-most-s"], type=click.FloatRange(1, 3600), show_default=f"{AT_MOST_S:g}",
        help="With --url: when to end, done or not.",
    ),
    click.Option(
        ["--at-most-clients"], type=click.IntRange(1, 100_000), show_default=f"{AT_MOST_CLIENTS}",
        help="With --url: how many clients a load may have at once.",
    ),
)  # fmt: skip


def aimed(plan: Plan, *, url: str | None, servers: Sequence[str] | None, **bounds: Any) -> Plan:
    """The plan with its servers, by the values of `OPTIONS`. Raises `click.ClickException`."""
    if url is None:
        return _at_servers(plan, servers, **bounds)
    if servers is not None:
        raise click.UsageError("--url measures that service alone: leave --servers out")
    return _at_service(plan, url, **bounds)


def _at_servers(
    plan: Plan, names: Sequence[str] | None, *, token_file: Path | None, is_own: bool,
    at_most_s: float | None, at_most_clients: int | None,
) -> Plan:  # fmt: skip
    """One that was asked for by name has to be installed; of the others, those that are not are left out."""
    if is_own or any(given is not None for given in (token_file, at_most_s, at_most_clients)):
        raise click.UsageError(f"--token-file, {OWN}, --at-most-s and --at-most-clients go with --url")
    lacking = {name: lack for name in names or DEFAULT if (lack := SERVERS[name].lacks()) is not None}
    if lacking and names is not None:
        raise click.ClickException("; ".join(f"{name} {lack}" for name, lack in lacking.items()))
    makers = [SERVERS[name] for name in names or DEFAULT if name not in lacking]
    return replace(plan, servers=makers, notes=[f"Left out: {name} {lack}" for name, lack in lacking.items()])


def _at_service(
    plan: Plan, url: str, *, token_file: Path | None, is_own: bool, at_most_s: float | None,
    at_most_clients: int | None,
) -> Plan:  # fmt: skip
    at_most_clients = at_most_clients or AT_MOST_CLIENTS
    for load in plan.loads:
        if load.clients_at_once > at_most_clients:
            raise click.UsageError(
                f"{load.title}, {load.label}: {load.clients_at_once:,} clients at once, "
                f"and --at-most-clients is {at_most_clients:,}"
            )
    try:
        target = Target(url.rstrip("/"), _token(token_file), is_own)
    except NotAllowed as reason:
        raise click.ClickException(str(reason)) from reason
    return replace(plan, servers=[partial(Deployment, target)], at_most_s=at_most_s or AT_MOST_S)


def _token(file: Path | None) -> str | None:
    """What the file or the environment holds. No argument, since everybody on a machine can read those."""
    text = os.environ.get(TOKEN, "") if file is None else file.read_text(encoding="utf-8", errors="replace")
    token = text.strip()
    if file is not None and not token:
        raise click.UsageError(f"{file} is empty")
    if not (token.isascii() and token.isprintable() and " " not in token):
        raise click.UsageError("a token is one word of visible characters")
    return token or None
