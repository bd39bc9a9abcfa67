"""PostgreSQL 18 in the data directory, run by this service for itself.

What it holds true:

- **One owner.** The lock on the data directory keeps a second service away, so whatever still runs on the
  cluster is a leftover of a killed run: it is ended properly before our own server starts.
- **Making a cluster is all or nothing.** It is made in a folder beside its place and moved there complete;
  a run that is killed before that leaves a folder that the next run removes.
- **Nobody is superuser.** Over the socket, which lies in a folder of mode 0700, the only way in is as role
  `tmi` for the operating system's user of this service (`peer`). The role is made in single-user mode, owns
  the database `tmi` and nothing else. There is no TCP port.
- **Time is given.** Crash recovery takes as long as it takes; only the end of the process is a failure.
- **It ends with the service, and only with it.** It runs in a session of its own, so that Ctrl-C in a
  terminal reaches the service alone, which then stops it last. If it ends by itself it is started again.

Started by root, PostgreSQL runs as an unprivileged account (account.py). What this process writes for it
never goes into folders of that account, where a link could lead it elsewhere.
"""

import asyncio
import contextlib
import logging
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from tmi.domain.errors import StartupError
from tmi.embedded.account import Account, choose_account, open_way
from tmi.embedded.binaries import Binaries, find_binaries
from tmi.embedded.children import LOG_MAX_BYTES, POLL_S, ended, open_log, spawn, supervised
from tmi.embedded.processes import TELL_EVERY_S, is_ready, stop_leftovers
from tmi.embedded.sockets import folder_for, make_private

log = logging.getLogger(__name__)

ROLE = "tmi"
SOCKET_NAME = ".s.PGSQL.5432"

FAST_STOP_S = 30.0
IMMEDIATE_STOP_S = 10.0

CONNECTIONS_MIN = 40
SETTINGS = {
    "listen_addresses": "",
    "port": "5432",
    "unix_socket_permissions": "0700",
    "fsync": "on",
    "shared_buffers": "64MB",
    "wal_level": "minimal",
    "max_wal_senders": "0",
    "max_wal_size": "512MB",
    "max_parallel_workers_per_gather": "0",
    "jit": "off",
    "log_min_messages": "warning",
    "log_checkpoints": "off",
    "logging_collector": "off",
    "log_destination": "stderr",
    "timezone": "UTC",
    "log_timezone": "UTC",
}

MAKE_ROLE = f"""CREATE ROLE {ROLE} LOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE NOREPLICATION
CREATE DATABASE {ROLE} OWNER {ROLE}
"""
"""Single-user mode takes a statement per line."""

HBA = f"local {ROLE} {ROLE} peer map={ROLE}\n"


@dataclass(frozen=True, slots=True)
class Places:
    """Where everything of the embedded server lies."""

    data_dir: Path
    """Locked by this process."""

    @property
    def cluster(self) -> Path:
        return self.data_dir / "postgres"

    @property
    def unfinished(self) -> str:
        """The prefix of folders in which clusters are made."""
        return "postgres.new-"

    @property
    def hba(self) -> Path:
        return self.data_dir / "postgres-hba.conf"

    @property
    def ident(self) -> Path:
        return self.data_dir / "postgres-ident.conf"

    @property
    def log(self) -> Path:
        return self.data_dir / "postgres.log"

    @property
    def sockets(self) -> Path:
        return folder_for(self.data_dir / "run", SOCKET_NAME)

    @property
    def url(self) -> str:
        """Of its database, for the account of this service."""
        return f"postgresql://{ROLE}@/{ROLE}?host={quote(str(self.sockets), safe='/')}"

    def complaint_since(self, written: int) -> str:
        """The first line of the log, after so many bytes, that tells of a failure; else the last."""
        with self.log.open("rb") as said:
            said.seek(written)
            lines = said.read(LOG_MAX_BYTES).decode(errors="replace").strip().splitlines()
        telling = (line for line in lines if "FATAL" in line or "error" in line)
        return next(telling, lines[-1] if lines else "it said nothing")


@contextlib.asynccontextmanager
async def embedded_postgres(data_dir: Path, clients: int | None = None) -> AsyncIterator[str]:
    """Run PostgreSQL on a locked data directory; yields the URL of its database. Raises StartupError.

    `clients`: how many connections it has to take, where other processes than this one use it. Then it ends
    when this one is killed, as those do; else it is a leftover that the next start ends.
    """
    places = Places(data_dir)
    binaries = find_binaries()
    account = choose_account(places.cluster)
    _prepare_access(places, binaries, account)
    await _make_cluster_if_missing(places, binaries, account)
    _write_rules(places)
    make_private(places.sockets, account)
    server = _Server(places, binaries, account, clients)
    await server.start()
    try:
        async with supervised("PostgreSQL", server, places.log):
            yield places.url
    finally:
        await server.stop()


def _prepare_access(places: Places, binaries: Binaries, account: Account) -> None:
    opened = open_way(account, (places.data_dir, binaries.postgres.parent))
    if not (account.can_run(binaries.postgres) and account.can_read(binaries.catalog)):
        raise StartupError(
            f"User {account.name}, as whom PostgreSQL runs, may not read its programs in {binaries.folder}."
        )
    if account.is_other:
        way = f" and may now pass through {', '.join(map(str, opened))}" if opened else ""
        log.info("PostgreSQL runs as user %s, since it refuses to be root%s", account.name, way)


# --- making a cluster ---------------------------------------------------------------------------


async def _make_cluster_if_missing(places: Places, binaries: Binaries, account: Account) -> None:
    for leftover in places.data_dir.glob(f"{places.unfinished}*"):
        shutil.rmtree(leftover, ignore_errors=True)
    if places.cluster.exists():
        return
    log.info("making a new database in %s", places.cluster)
    folder = Path(tempfile.mkdtemp(prefix=places.unfinished, dir=places.data_dir))
    try:
        account.own(folder)
        await _run(places, account, _initdb_command(binaries, folder), b"")
        await _run(places, account, _single_user_command(binaries, folder), MAKE_ROLE.encode())
        folder.rename(places.cluster)
        _sync_folder(places.data_dir)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise


def _initdb_command(binaries: Binaries, folder: Path) -> Sequence[str]:
    return (
        str(binaries.initdb),
        f"--pgdata={folder}",
        "--username=postgres",
        "--encoding=UTF8",
        "--locale-provider=builtin",
        "--builtin-locale=C.UTF-8",
        "--locale=C",
        "--auth=reject",
        "--data-checksums",
        "--no-instructions",
    )


def _single_user_command(binaries: Binaries, folder: Path) -> Sequence[str]:
    return (str(binaries.postgres), "--single", "-D", str(folder), "-c", "exit_on_error=on", "postgres")


async def _run(places: Places, account: Account, command: Sequence[str], text: bytes) -> None:
    """Run a program to its end. Raises StartupError with what it complained of first."""
    with tempfile.TemporaryFile() as source, open_log(places.log) as output:
        source.write(text)
        source.seek(0)
        written = output.tell()
        process = spawn(account, command, source, output)
        try:
            await ended(process)
        finally:
            process.kill()
            process.wait()
        if process.returncode != 0:
            said = places.complaint_since(written)
            raise StartupError(f"{Path(command[0]).name} failed ({process.returncode}): {said}")


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


# --- who may connect ----------------------------------------------------------------------------


def _write_rules(places: Places) -> None:
    user = pwd.getpwuid(os.geteuid()).pw_name
    _write(places.hba, HBA)
    _write(places.ident, f'{ROLE} "{user}" {ROLE}\n')


def _write(path: Path, text: str) -> None:
    """Write a file that every account may read, whatever the umask; folders guard it."""
    path.write_text(text)
    path.chmod(0o644)


# --- running ------------------------------------------------------------------------------------


class _Server:
    """The postmaster as our child."""

    def __init__(self, places: Places, binaries: Binaries, account: Account, clients: int | None) -> None:
        self._places = places
        self._account = account
        rules = {
            "max_connections": str(max(clients or 0, CONNECTIONS_MIN)),
            "hba_file": str(places.hba),
            "ident_file": str(places.ident),
            "unix_socket_directories": f'"{places.sockets}"',
        }
        options = [f"--{name}={value}" for name, value in (SETTINGS | rules).items()]
        setpriv = None if clients is None else shutil.which("setpriv")
        # The kernel asks it to end properly (a fast shutdown) when we end, however that happens.
        with_us = () if setpriv is None else (setpriv, "--pdeathsig", "INT")
        self._command = (*with_us, str(binaries.postgres), "-D", str(places.cluster), *options)
        self._process: subprocess.Popen[bytes] | None = None

    async def start(self) -> None:
        """End what an earlier run left, start, and wait until connections are taken. Raises StartupError."""
        await stop_leftovers(self._places.cluster)
        open_way(self._account, (self._places.data_dir,))  # a chmod may have closed it again
        # A socket's lock file names a process id, which by now may be anybody's.
        for stale in (SOCKET_NAME, f"{SOCKET_NAME}.lock"):
            (self._places.sockets / stale).unlink(missing_ok=True)
        with open_log(self._places.log) as output:
            written = output.tell()
            self._process = spawn(self._account, self._command, subprocess.DEVNULL, output, own_session=True)
        try:
            await self._until_ready(self._process, written)
        except BaseException:
            await self.stop()
            raise

    async def _until_ready(self, process: subprocess.Popen[bytes], written: int) -> None:
        started = told = time.monotonic()
        while not is_ready(self._places.cluster, process.pid):
            if process.poll() is not None:
                raise StartupError(
                    f"PostgreSQL ended while starting: {self._places.complaint_since(written)}"
                )
            now = time.monotonic()
            if now - told > TELL_EVERY_S:
                told = now
                log.info("PostgreSQL is still starting, perhaps recovering (%.0f s)", now - started)
            await asyncio.sleep(POLL_S)

    async def ended(self) -> None:
        """Wait until the postmaster has ended by itself; at once if it does not run."""
        if self._process is not None:
            await ended(self._process)

    async def stop(self) -> None:
        """Shut down fast, then at once, then by force, each with its time."""
        process = self._process
        if process is None:
            return
        for number, limit_s in ((signal.SIGINT, FAST_STOP_S), (signal.SIGQUIT, IMMEDIATE_STOP_S)):
            process.send_signal(number)
            process.send_signal(signal.SIGCONT)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(ended(process), limit_s)
                return
        process.kill()
        await asyncio.wait_for(ended(process), IMMEDIATE_STOP_S)
