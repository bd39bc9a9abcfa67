"""The command `tmi`. Whatever keeps it from working is one line on standard error and a non-zero status."""

import asyncio
import os
import sys
import time
from collections.abc import Callable, Coroutine, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, BinaryIO, NoReturn, TypeVar
from uuid import UUID

import click
import orjson
import uvloop

from persistence.postgres.accounts import PostgresAccounts
from persistence.postgres.archive import PostgresArchives
from persistence.postgres.database import PostgresDatabase
from persistence.postgres.groups import PostgresMemberships
from rooms.administration import ROOMS_MAX, SORTS, Administration
from tmi import people
from tmi.archive import MAX_BYTES, exported, imported
from tmi.client import access_token, read_credential
from tmi.domain.errors import Conflict, NotFound, TmiError, Unavailable
from tmi.domain.ids import DiagramId, NodeId, ThreatModelId, UserId
from tmi.domain.model import ADMINISTRATORS_GROUP, Account, Node
from tmi.domain.ports import AccountFilter, Page
from tmi.logs import configure_logs
from tmi.serve import Exit, serve
from tmi.settings import BadSetting, Settings, describe_settings, read_settings
from tmi.tables import moment, table_of_keys, table_of_nodes, table_of_rooms
from tmi.wiring import Keys, Worker, open_administration, open_database, open_keys
from tmi.workers import serve_workers, tell_ready

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
@click.option("--workers", type=int, help="Processes that share the port and the rooms. [default: 1]")
@click.option("--dev", is_flag=True, default=None, help="Let anybody sign in by name; on loopback only.")
@click.option("--dev-insecure-host", is_flag=True, default=None, help="Let --dev listen on any host.")
def serve_command(**options: Any) -> None:
    """Run the service until SIGTERM or Ctrl-C, then drain."""
    settings = _settings(options)

    def announce(url: str) -> None:
        click.echo(f"TMI is ready at {url}")
        if settings.dev:
            click.echo(f"Development: anybody signs in by name, at {url}{SIGN_IN} ; API: {url}/docs")

    sys.exit(_run(serve(settings, announce) if settings.workers == 1 else serve_workers(settings, announce)))


@main.command("worker", hidden=True)
@click.option("--number", type=int, required=True)
@click.option("--ready-fd", type=int, required=True)
@click.option("--socket", required=True)
@click.option("--is-among-others", is_flag=True)
def worker_command(ready_fd: int, **options: Any) -> None:
    """Be one of the processes of `tmi serve --workers`, which starts it."""
    worker = Worker(**options)
    settings = _settings({}, worker=worker.number)
    sys.exit(_run(serve(settings, lambda _: tell_ready(ready_fd), worker)))


@main.command("migrate")
@click.option("--data-dir", type=click.Path(path_type=Path, file_okay=False), help="[default: data]")
def migrate_command(**options: Any) -> None:
    """Bring the database up to date, and end."""
    applied = _run(_migrate(_settings(options)))
    click.echo(f"Applied {', '.join(applied)}." if applied else "The database is up to date.")


# --- nodes and rooms ----------------------------------------------------------------------------

GONE_WITHIN_S = 120.0
AS_JSON = click.option("--json", "as_json", is_flag=True, help="For programs.")


@main.group("nodes", invoke_without_command=True)
@AS_JSON
@click.pass_context
def nodes_group(context: click.Context, as_json: bool) -> None:
    """List the nodes of this deployment. Reads the same settings as they do."""
    if context.invoked_subcommand is not None:
        return
    nodes, silent = _administer(lambda administration: administration.nodes())
    if as_json:
        _echo_json({"nodes": nodes, "silent": silent})
    else:
        click.echo(table_of_nodes(nodes, silent))


@nodes_group.command("drain")
@click.argument("node")
def drain_command(node: str) -> None:
    """Let NODE, a name or an id, hand its rooms to the other nodes, send its clients there, and end.

    Returns when it is gone.
    """

    async def drain(administration: Administration) -> float:
        found = await _node_called(administration, node)
        started = time.monotonic()
        await administration.drain(found)
        while await _is_there(administration, found):
            if time.monotonic() - started > GONE_WITHIN_S:
                raise Unavailable(f"Node {node} is draining, and still there after {GONE_WITHIN_S:.0f} s.")
            await asyncio.sleep(0.2)
        return time.monotonic() - started

    click.echo(f"Node {node} is gone after {_administer(drain):.1f} s.")


@main.group("rooms", invoke_without_command=True)
@AS_JSON
@click.option("--sort", type=click.Choice(SORTS), default=SORTS[0], show_default=True, help="Largest first.")
@click.option("--limit", type=click.IntRange(1, ROOMS_MAX), default=50, show_default=True)
@click.pass_context
def rooms_group(context: click.Context, as_json: bool, sort: str, limit: int) -> None:
    """List open rooms: who owns them, how large, how busy, how long since the last commit."""
    if context.invoked_subcommand is not None:
        return
    total, rooms, silent = _administer(lambda administration: administration.rooms(sort, limit))
    if as_json:
        _echo_json({"total": total, "rooms": rooms, "silent": silent})
        return
    click.echo(table_of_rooms(rooms))
    if total > len(rooms):
        click.echo(f"{len(rooms)} of {total} rooms.")
    for node in silent:
        click.echo(f"tmi: node {node.name} does not answer: {node.why}", err=True)


@rooms_group.command("move")
@click.argument("diagram", type=click.UUID, metavar="ID")
@click.option("--to", metavar="NODE", help="A name or an id; else a node with clients in the room already.")
def move_command(diagram: UUID, to: str | None) -> None:
    """Move the open room of diagram ID to another node. Nobody is disconnected."""

    async def move(administration: Administration) -> Node:
        node = None if to is None else await _node_called(administration, to)
        return await administration.move(DiagramId(diagram), node)

    click.echo(f"Room {diagram} is on node {_administer(move).name} now.")


# --- for scripts --------------------------------------------------------------------------------


@main.command("token")
@click.option("--url", default="http://127.0.0.1:8080", show_default=True, help="Where the service is.")
@click.option(
    "--credentials",
    type=click.Path(path_type=Path, dir_okay=False),
    help="A file with the answer of POST /me/client_credentials.",
)
@AS_JSON
def token_command(url: str, credentials: Path | None, as_json: bool) -> None:
    """Get an access token of a running service, by a client credential.

    Without --credentials it is read from TMI_CLIENT_ID and TMI_CLIENT_SECRET, or TMI_CLIENT_SECRET_FILE. No
    secret is taken from the command line, where others could read it. The token goes to standard output.
    """
    try:
        answer = access_token(url, read_credential(credentials, os.environ))
    except BadSetting as error:
        _give_up(error, Exit.BAD_SETTING)
    except TmiError as error:
        _give_up(error, Exit.FAILED)
    if as_json:
        _echo_json(answer)
    else:
        click.echo(answer["access_token"])


# --- signing keys -------------------------------------------------------------------------------

@main.group("keys")
def keys_group() -> None:
    """The keys that sign tokens. Reads the same settings as the nodes do, and never shows a private key."""


@keys_group.command("list")
@AS_JSON
def list_keys_command(as_json: bool) -> None:
    """List the keys that verify tokens, newest first."""
    terms = _with_keys(lambda keys: keys.list())
    if as_json:
        _echo_json({"keys": terms})
    else:
        click.echo(table_of_keys(terms))


@keys_group.command("rotate")
@click.option(
    "--compromised",
    is_flag=True,
    help="Take all older keys away at once: every access token ends, and clients refresh.",
)
def rotate_command(compromised: bool) -> None:
    """Make a new key.

    It signs a minute from now, when every node knows it. Older keys verify until the last token that they
    signed has ended.
    """
    if compromised:
        gone = _with_keys(lambda keys: keys.replace("tmi keys rotate --compromised"))
        click.echo(f"A new key signs from now on. Keys taken away: {', '.join(gone)}.")
        return
    term = _with_keys(lambda keys: keys.rotate("tmi keys rotate"))
    click.echo(f"Key {term.kid} signs from {moment(term.signs_from)} on.")


def _with_keys(work: Callable[[Keys], Coroutine[Any, Any, T]]) -> T:
    settings = _settings({})

    async def run() -> T:
        async with open_keys(settings) as keys:
            return await work(keys)

    return _run(run())


async def _node_called(administration: Administration, called: str) -> NodeId:
    """The node of this name or id. Raises NotFound and Conflict."""
    nodes, _ = await administration.nodes()
    found = [node.id for node in nodes if called in (node.id, node.name)]
    if len(found) > 1:
        raise Conflict(f"There are {len(found)} nodes called {called}: give an id.")
    if not found:
        raise NotFound(f"There is no node {called} that answers.")
    return NodeId(UUID(found[0]))


async def _is_there(administration: Administration, node: NodeId) -> bool:
    nodes, _ = await administration.nodes()
    return any(one.id == str(node) for one in nodes)


def _administer(work: Callable[[Administration], Coroutine[Any, Any, T]]) -> T:
    settings = _settings({})

    async def run() -> T:
        async with open_administration(settings) as administration:
            return await work(administration)

    return _run(run())


def _echo_json(what: object) -> None:
    click.echo(orjson.dumps(what, option=orjson.OPT_INDENT_2).decode())


@main.command("export")
@click.argument("model", type=click.UUID, metavar="ID")
@click.option("--output", "-o", type=click.File("wb"), default="-", help="[default: standard output]")
@click.option("--history", is_flag=True, help="With every edit of its diagrams, and its audit trail.")
@click.option("--deleted", is_flag=True, help="With what is deleted and can be restored.")
def export_command(model: UUID, output: BinaryIO, history: bool, deleted: bool) -> None:
    """Write threat model ID, with all that is in it, to a file that `tmi import` reads.

    Reads the database of the settings; the service may be running on it.
    """

    async def read(archives: PostgresArchives) -> bytes:
        return await exported(archives, ThreatModelId(model), history=history, deleted=deleted)

    output.write(_with_archives(read))


def _complain(words: str) -> None:
    click.echo(words, err=True)


@main.command("import")
@click.argument("file", type=click.File("rb"))
@click.option("--new-ids", is_flag=True, help="Make new ids, so that it may be here twice.")
@click.option("--owner", metavar="EMAIL", help="Whose it is to be, where the file does not say.")
def import_command(file: BinaryIO, new_ids: bool, owner: str | None) -> None:
    """Store the threat model of a FILE, all of it or nothing.

    `tmi export` writes such files; people write shorter ones, in the words of the API, as docs/security.json
    is: `{"threat_model": {...}, "diagrams": [...], "threats": [...]}`.
    """

    async def write(database: PostgresDatabase) -> tuple[ThreatModelId, int]:
        user = None if owner is None else await people.by_email(PostgresAccounts(database), owner)
        archives, data = PostgresArchives(database), file.read(MAX_BYTES + 1)
        return await imported(archives, data, new_ids=new_ids, owner=user, tell=_complain)

    model, alias = _with_database(write)
    click.echo(f"Threat model {model} is here, with alias {alias}.")


@main.group("users")
def users_group() -> None:
    """People who have signed in."""


@users_group.command("list")
@AS_JSON
@click.option("--limit", type=click.IntRange(1, 1000), default=100, show_default=True)
@click.option("--offset", type=click.IntRange(0), default=0)
def list_users_command(as_json: bool, limit: int, offset: int) -> None:
    """List accounts, newest first."""

    async def read(database: PostgresDatabase) -> tuple[Sequence[Account], int]:
        return await PostgresAccounts(database).matching(AccountFilter(), Page(limit, offset))

    accounts, total = _with_database(read)
    if as_json:
        _echo_json({"total": total, "users": [people.as_json(account) for account in accounts]})
        return
    for account in accounts:
        click.echo(people.line_of(account))
    if total > len(accounts):
        click.echo(f"{len(accounts)} of {total} users.")


@users_group.command("show")
@click.argument("user", type=click.UUID, metavar="ID")
def show_user_command(user: UUID) -> None:
    """Show one account as JSON."""

    async def read(database: PostgresDatabase) -> Account:
        return await PostgresAccounts(database).get(UserId(user))

    _echo_json(people.as_json(_with_database(read)))


@users_group.command("administrator")
@click.argument("user", type=click.UUID, metavar="ID")
@click.option("--revoke", is_flag=True, help="Take it back. Whom TMI_ADMINISTRATORS names stays one.")
def administrator_command(user: UUID, revoke: bool) -> None:
    """Make somebody who has signed in an administrator."""

    async def change(database: PostgresDatabase) -> Account:
        account = await PostgresAccounts(database).get(UserId(user))
        memberships = PostgresMemberships(database)
        entry = people.entry(account, added=not revoke)
        if revoke:
            await memberships.remove(ADMINISTRATORS_GROUP, UserId(user), entry)
        else:
            await memberships.add(ADMINISTRATORS_GROUP, UserId(user), UserId(user), None, entry)
        return account

    changed = _with_database(change)
    click.echo(f"{changed.user.name} is {'no administrator any more' if revoke else 'an administrator'}.")


@main.command("settings")
def settings_command() -> None:
    """List the environment variables that TMI reads, with their defaults."""
    for variable, default, meaning in describe_settings():
        click.echo(f"{variable}={default}" + (f"\n    {meaning}" if meaning else ""))


def _with_database(work: Callable[[PostgresDatabase], Coroutine[Any, Any, T]]) -> T:
    settings = _settings({})

    async def run() -> T:
        async with open_database(settings) as database:
            await database.migrate()
            return await work(database)

    return _run(run())


def _with_archives(work: Callable[[PostgresArchives], Coroutine[Any, Any, T]]) -> T:
    return _with_database(lambda database: work(PostgresArchives(database)))


async def _migrate(settings: Settings) -> list[str]:
    async with open_database(settings) as database:
        return list(await database.migrate())


def _settings(options: dict[str, Any], worker: int | None = None) -> Settings:
    given = {name: value for name, value in options.items() if value is not None}
    try:
        settings = read_settings(given)
    except BadSetting as error:
        _give_up(error, Exit.BAD_SETTING)
    configure_logs(settings.log_format, settings.log_level, worker)
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
