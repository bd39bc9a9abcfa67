"""The command `tmi`. Whatever keeps it from working is one line on standard error and a non-zero status."""

import sys
from collections.abc import Coroutine
from importlib.metadata import version
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import click
import uvloop

from tmi.domain.errors import TmiError
from tmi.logs import configure_logs
from tmi.serve import Exit, serve
from tmi.settings import BadSetting, Settings, describe_settings, read_settings
from tmi.wiring import open_database

T = TypeVar("T")

SIGN_IN = (
    "/oauth2/authorize?idp=tmi&login_hint=alice&client_callback=http://127.0.0.1/callback"
    "&state=any&code_challenge=...&code_challenge_method=S256"
)


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(version("tmi"), message="tmi %(version)s")
def main() -> None:
    """Real-time collaboration for threat modeling.

    Every option can be given as an environment variable, and more than the options can: see `tmi settings`.
    """


@main.command("serve")
@click.option("--host", help="Where to listen. [default: 127.0.0.1]")
@click.option("--port", type=int, help="0 takes a free one. [default: 8080]")
@click.option(
    "--data-dir",
    type=click.Path(path_type=Path, file_okay=False),
    help="Where the embedded PostgreSQL lies, without TMI_DATABASE_URL. [default: data]",
)
@click.option("--dev", is_flag=True, default=None, help="Let anybody sign in by name; on loopback only.")
@click.option("--dev-insecure-host", is_flag=True, default=None, help="Let --dev listen on any host.")
def serve_command(**options: Any) -> None:
    """Run the service until SIGTERM or Ctrl-C, then drain."""
    settings = _settings(options)

    def announce(url: str) -> None:
        click.echo(f"TMI is ready at {url}")
        if settings.dev:
            click.echo(f"Development: anybody signs in by name, at {url}{SIGN_IN} ; API: {url}/docs")

    sys.exit(_run(serve(settings, announce)))


@main.command("migrate")
@click.option("--data-dir", type=click.Path(path_type=Path, file_okay=False), help="[default: data]")
def migrate_command(**options: Any) -> None:
    """Bring the database up to date, and end."""
    applied = _run(_migrate(_settings(options)))
    click.echo(f"Applied {', '.join(applied)}." if applied else "The database is up to date.")


@main.command("settings")
def settings_command() -> None:
    """List the environment variables that TMI reads, with their defaults."""
    for variable, default, meaning in describe_settings():
        click.echo(f"{variable}={default}" + (f"\n    {meaning}" if meaning else ""))


async def _migrate(settings: Settings) -> list[str]:
    async with open_database(settings) as database:
        return list(await database.migrate())


def _settings(options: dict[str, Any]) -> Settings:
    given = {name: value for name, value in options.items() if value is not None}
    try:
        settings = read_settings(given)
    except BadSetting as error:
        _give_up(error, Exit.BAD_SETTING)
    configure_logs(settings.log_format, settings.log_level)
    return settings


def _run(work: Coroutine[Any, Any, T]) -> T:
    try:
        return uvloop.run(work)
    except TmiError as error:
        _give_up(error, Exit.FAILED)


def _give_up(error: TmiError, status: Exit) -> NoReturn:
    """One line, whatever the error's text holds."""
    click.echo("tmi: " + " ".join(str(error).split()), err=True)
    sys.exit(status)


if __name__ == "__main__":
    main()
