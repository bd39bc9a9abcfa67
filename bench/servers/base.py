"""What the load tester needs of a server: a process on a core, and rooms to join."""

import asyncio
import contextlib
import os
import signal
import socket
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING

from bench.process import pinned_to
from bench.protocols import Dialect

if TYPE_CHECKING:
    from bench.filling import Filling

LAST_WORDS_BYTES = 4000
HOST = "127.0.0.1"
STOP_TIMEOUT_S = 20.0
EVICTED_AFTER_S = 3.0
"""After the last one left, a room of a server that cannot be asked is taken for gone."""


class ServerError(Exception):
    """A server that was to be measured did not start, or died."""


class Unreachable(ServerError):
    """Nobody answered: no service is there, or something stands in between."""


@dataclass(frozen=True)
class Room:
    """Where a client connects, and how it speaks there."""

    url: str
    dialect: Dialect


@dataclass(frozen=True)
class Account:
    """Somebody who is signed in: where the REST API is, the token that speaks for them, and who they are."""

    url: str
    token: str
    email: str


class Server(ABC):
    """One server under test, as a process group of its own, pinned to a core."""

    name: str
    persistence: str
    offers: frozenset[str] = frozenset()
    """What not every server has, and some loads need: `rest`, `acknowledgements`, `durable`, `filling`."""

    def __init__(self) -> None:
        self.is_worn = False
        """Set by a run that another one should not follow: the memory that it left would flatter that one."""
        self.port = 0
        self.command: list[str] = []
        self._process: asyncio.subprocess.Process | None = None
        self._log: IO[bytes] | None = None

    @abstractmethod
    async def start(self, core: int) -> None:
        """Starts and waits until it serves. Raises `ServerError`."""

    @abstractmethod
    async def room(self) -> Room:
        """A fresh, empty document."""

    async def account(self, who: str) -> Account:
        """Somebody signed in, of a server that offers `rest`. Raises `ServerError`."""
        raise ServerError(f"{self.name} has no REST API; {who} cannot sign in")

    async def filled(self, models: int, threats: int) -> "Filling":
        """The data of one user, written once, of a server that offers `filling`. Raises `ServerError`."""
        raise ServerError(f"{self.name} cannot be given {models:,} threat models of {threats:,} threats each")

    async def until_evicted(self, inhabited: int = 0) -> None:  # noqa: ARG002 - of servers that can be asked
        """Until the rooms that everybody has left are gone from memory, of a server that offers `durable`.
        `inhabited`: rooms that somebody stays in. Raises `ServerError`.
        """
        await asyncio.sleep(EVICTED_AFTER_S)

    def room_at(self, diagram: str, _collab: Mapping[str, str]) -> Room:
        """Where the answer to `POST /collab/tokens` leads, of a server that offers `rest`."""
        raise ServerError(f"{self.name} has no REST API, nor a diagram {diagram}")

    @abstractmethod
    def version(self) -> str:
        """What is measured, as its package names it."""

    def runs_on(self) -> dict[str, str]:
        """The versions of what it runs on, as far as this checkout does not fix them. It has started."""
        return {}

    @classmethod
    def lacks(cls) -> str | None:
        """What keeps it from being started on this machine, as the rest of a sentence about it."""
        return None

    @property
    def death(self) -> str | None:
        """How it ended, with its last words, if it did so by itself."""
        if self._process is None or self._process.returncode is None:
            return None
        return f"{self.name} ended with status {self._process.returncode}.{self.last_words()}"

    @property
    def pid(self) -> int:
        if self._process is None or self._process.returncode is not None:
            raise ServerError(self.death or f"{self.name} is not running.")
        return self._process.pid

    @property
    def measured_pid(self) -> int | None:
        """Whose CPU time and memory count; None where the processes are not on this machine."""
        return self.pid

    @property
    def database_pid(self) -> int | None:
        return None

    async def stop(self) -> None:
        """SIGTERM, and SIGKILL to its process group if that does not end it in time."""
        process = self._process
        if process is None:
            return
        if process.returncode is None:
            process.terminate()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(process.wait(), STOP_TIMEOUT_S)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        await process.wait()
        self._process = None
        if self._log is not None:
            self._log.close()

    async def _spawn(
        self, command: Sequence[str], core: int | None, environment: Mapping[str, str], folder: Path
    ) -> None:
        self.command = list(command)
        self._log = tempfile.TemporaryFile()  # noqa: SIM115 - closed by stop()
        self._process = await asyncio.create_subprocess_exec(
            *command, cwd=folder, env=dict(environment), stdin=asyncio.subprocess.DEVNULL, stdout=self._log,
            stderr=self._log, start_new_session=True, preexec_fn=pinned_to(core),
        )  # fmt: skip

    async def _until_listening(self, timeout_s: float) -> None:
        deadline = asyncio.get_running_loop().time() + timeout_s
        while asyncio.get_running_loop().time() < deadline:
            assert self.pid
            try:
                _, writer = await asyncio.open_connection(HOST, self.port)
            except OSError:
                await asyncio.sleep(0.05)
                continue
            writer.close()
            await writer.wait_closed()
            return
        raise ServerError(f"{self.name} does not listen after {timeout_s:.0f} s.{self.last_words()}")

    def last_words(self) -> str:
        """The end of what it printed, or nothing."""
        if self._log is None or self._log.closed:
            return ""
        size = self._log.seek(0, os.SEEK_END)
        self._log.seek(max(0, size - LAST_WORDS_BYTES))
        words = self._log.read().decode(errors="replace").strip()
        return f"\nIt said:\n{words}" if words else ""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        port: int = probe.getsockname()[1]
        return port
