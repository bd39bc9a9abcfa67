"""The real service as a process of its own: started, killed and started again on the same port and data."""

import contextlib
import os
import re
import secrets
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Self

ADMINISTRATOR = "admin"
"""Who signs in under this name is an administrator."""
READY = re.compile(r"https?://[\w.\[\]:-]+:\d+")


_PORTS = range(12_000, 32_000)
"""Below those that Linux gives to connections: none of them can take one before a server does."""
_given: set[int] = set()


def free_port() -> int:
    """A TCP port of the loopback interface that was free a moment ago, each time another one."""
    while True:
        port = secrets.choice(_PORTS)
        if port in _given:
            continue
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
        _given.add(port)
        return port


def wait_for(condition: Callable[[], bool], timeout_s: float, what: str, every_s: float = 0.02) -> None:
    """Poll until `condition` holds. Raises TimeoutError that names `what`."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"{what} did not happen within {timeout_s} s")
        time.sleep(every_s)


def children_of(pid: int) -> list[int]:
    """The process ids whose parent is `pid`."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            except (OSError, ValueError, IndexError):
                continue
            if parent == pid:
                found.append(int(entry.name))
    return found


def is_running(pid: int) -> bool:
    """Whether a process exists and is no zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


class PostgresProcess:
    """A running PostgreSQL, known by its data directory: to be stalled, resumed and killed."""

    def __init__(self, data: Path) -> None:
        self.data = data

    @property
    def pid(self) -> int:
        """The postmaster's process id. Raises OSError when there is none."""
        return int((self.data / "postmaster.pid").read_text().split()[0])

    def signal_all(self, number: signal.Signals) -> None:
        """Send a signal to the postmaster and all its backends."""
        postmaster = self.pid
        for pid in (postmaster, *children_of(postmaster)):
            try:
                os.kill(pid, number)
            except ProcessLookupError:
                continue

    def stall(self) -> None:
        """Stop every process: connections stay open and nothing answers."""
        self.signal_all(signal.SIGSTOP)
        self.signal_all(signal.SIGSTOP)

    def resume(self) -> None:
        """Let a stalled server go on."""
        self.signal_all(signal.SIGCONT)

    def kill(self) -> None:
        """kill -9 the postmaster with all its backends."""
        pid = self.pid
        self.signal_all(signal.SIGKILL)
        wait_for(lambda: not is_running(pid), 30, "the end of Postgres")


class Service:
    """`tmi serve --dev`, on loopback unless told otherwise, with the database of a URL or an embedded
    Postgres in `data`.
    """

    def __init__(
        self,
        data: Path,
        environment: Mapping[str, str] | None = None,
        database_url: str | None = None,
        host: str = "127.0.0.1",
        prefix: Sequence[str] = (),
    ) -> None:
        """`prefix` goes before the command, to run it elsewhere, with one process id for both."""
        self.data = data
        self.host = host
        self.port = free_port()
        self._prefix = prefix
        self.log = data.parent / f"{data.name}-service.log"
        self._database_url = database_url
        self._environment = dict(environment or {})
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"http{self._s}://{self.host}:{self.port}"

    @property
    def collab(self) -> str:
        """The base URL of live sockets."""
        return f"ws{self._s}://{self.host}:{self.port}/collab"

    @property
    def _s(self) -> str:
        return "s" if "TMI_TLS_CERT_FILE" in self._environment else ""

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.end()

    def start(self, environment: Mapping[str, str] | None = None, ready_s: float = 60) -> float:
        """Start and wait for the ready line; returns the seconds that took."""
        variables = {key: value for key, value in os.environ.items() if not key.startswith("TMI_")}
        variables["TMI_ADMINISTRATORS"] = f"tmi:{ADMINISTRATOR}@tmi.local"
        variables |= self._environment | dict(environment or {})
        if self._database_url is not None:
            variables["TMI_DATABASE_URL"] = self._database_url
        command = [*self._prefix, sys.executable, "-m", "tmi.cli", "serve", "--dev", "--host", self.host]
        command += ["--port", str(self.port), "--data-dir", str(self.data)]
        started = time.monotonic()
        with self.log.open("ab") as log:
            offset = log.tell()
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=variables,
                start_new_session=True,
            )
        wait_for(lambda: self._is_ready(offset), ready_s, f"the ready line in {self.log}")
        return time.monotonic() - started

    def _is_ready(self, offset: int) -> bool:
        assert self._process is not None
        output = self.output(offset)
        if self._process.poll() is not None:
            raise RuntimeError(f"the service ended with {self._process.returncode}:\n{output[-4000:]}")
        return str(self.port) in "".join(READY.findall(output))

    def output(self, offset: int = 0) -> str:
        """What the service wrote since a byte offset of its log."""
        with self.log.open("rb") as log:
            log.seek(offset)
            return log.read().decode(errors="replace")

    def output_size(self) -> int:
        """Bytes written to the log up to now."""
        return self.log.stat().st_size

    def kill(self) -> None:
        """kill -9 the service's process group."""
        assert self._process is not None
        os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait(30)

    def pause(self) -> None:
        """SIGSTOP: connections stay open and nothing answers."""
        os.kill(self.pid, signal.SIGSTOP)

    def resume(self) -> None:
        """SIGCONT."""
        os.kill(self.pid, signal.SIGCONT)

    def terminate(self) -> None:
        """SIGTERM: the service drains and ends."""
        assert self._process is not None
        self._process.send_signal(signal.SIGTERM)

    def wait(self, timeout_s: float) -> int:
        """The exit status. Raises subprocess.TimeoutExpired."""
        assert self._process is not None
        return self._process.wait(timeout_s)

    @property
    def is_alive(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def stop(self, timeout_s: float = 30) -> int:
        """Drain and end; returns the exit status."""
        self.terminate()
        return self.wait(timeout_s)

    def end(self) -> None:
        """Whatever state it is in: nothing of it runs afterwards, its embedded Postgres included."""
        if self.is_alive:
            try:
                self.stop()
            except subprocess.TimeoutExpired:
                self.kill()
        for postgres in self.embedded_postgres():
            try:
                postgres.kill()
            except OSError:
                continue

    def embedded_postgres(self) -> list[PostgresProcess]:
        """The embedded Postgres of the data directory, if one runs."""
        return [PostgresProcess(found.parent) for found in self.data.rglob("postmaster.pid")]

    def resident_bytes(self) -> int:
        """The resident memory of the service's own process."""
        pages = int(Path(f"/proc/{self.pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE")


@contextlib.contextmanager
def running(*services: Service) -> Iterator[None]:
    """Nodes of one deployment, started side by side: a start keeps one core busy. The last ends first."""
    with contextlib.ExitStack() as stack:
        for service in services:
            stack.callback(service.end)
        with ThreadPoolExecutor() as starts:
            list(starts.map(Service.start, services))
        yield
