"""Nodes of a cluster on an embedded Valkey, and the Valkey itself, for tests."""

import contextlib
import ctypes
import os
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from uuid import uuid4

from rooms.coordination.redis import LeaseLimits, RedisCoordinator, connected
from tests.harness.service import children_of, wait_for
from tmi.domain.ids import NodeId
from tmi.domain.model import Node
from tmi.domain.ports import Ownership
from tmi.embedded.binaries import find_valkey
from tmi.embedded.valkey import SETTINGS

START_S = 10.0


def new_node(name: str = "node") -> Node:
    """A node that nobody has heard of."""
    return Node(NodeId(uuid4()), name, f"unix:/run/{name}")


@asynccontextmanager
async def running_coordinator(
    url: str, ownership: Ownership, node: Node | None = None, limits: LeaseLimits | None = None
) -> AsyncIterator[RedisCoordinator]:
    """The coordinator of a running node."""
    async with (
        connected(url) as redis,
        RedisCoordinator(ownership, redis, node or new_node(), limits).running() as coordinator,
    ):
        yield coordinator


def valkeys(parent: int | None = None) -> list[int]:
    """The process ids of the servers that a process, or this one, has started."""
    children = children_of(parent or os.getpid())
    return [pid for pid in children if Path(f"/proc/{pid}/comm").read_text() == "valkey-server\n"]


class OwnValkey:
    """A Valkey of the test's own on a Unix socket: to be emptied, stalled, killed and started again."""

    def __init__(self, folder: Path) -> None:
        self.socket = folder / "valkey.sock"
        self._folder = folder
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Run it, empty; returns when it answers."""
        self.socket.unlink(missing_ok=True)
        settings = SETTINGS | {"unixsocket": str(self.socket), "dir": str(self._folder)}
        options = [part for name, value in settings.items() for part in (f"--{name}", value)]
        with (self._folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [str(find_valkey()), *options],
                preexec_fn=_end_with_the_tests,  # noqa: PLW1509  (one system call, no lock is taken)
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        wait_for(self._answers, START_S, "an answer of Valkey")

    def _answers(self) -> bool:
        with contextlib.suppress(OSError):
            return self._ask(b"PING") == b"+PONG\r\n"
        return False

    def _ask(self, command: bytes) -> bytes:
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(START_S)
            connection.connect(str(self.socket))
            connection.sendall(command + b"\r\n")
            return connection.recv(64)

    def empty(self) -> None:
        """Forget everything (FLUSHALL)."""
        assert self._ask(b"FLUSHALL") == b"+OK\r\n"

    def kill(self) -> None:
        """kill -9."""
        if self._process is not None:
            self._process.kill()
            self._process.wait(START_S)


@contextmanager
def running_valkey() -> Iterator[OwnValkey]:
    """Run one and remove it. Its folder's path is short, as sockets need it."""
    with tempfile.TemporaryDirectory(prefix="tmi-valkey-") as folder:
        valkey = OwnValkey(Path(folder))
        valkey.start()
        try:
            yield valkey
        finally:
            valkey.kill()


def _end_with_the_tests() -> None:
    """Let the kernel end the server when the tests are killed (Linux: PR_SET_PDEATHSIG is 1)."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)
