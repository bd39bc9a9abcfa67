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

from rooms.coordination.redis import LeaseLimits, RedisCoordinator
from tests.harness.service import children_of, free_port, wait_for
from tmi.domain.ids import NodeId
from tmi.domain.model import Node
from tmi.domain.ports import Ownership
from tmi.embedded.binaries import find_valkey
from tmi.embedded.valkey import SETTINGS
from tmi.wiring.redis import connected

START_S = 10.0
SLOTS = 16384


def new_node(name: str = "node") -> Node:
    """A node that nobody has heard of."""
    return Node(NodeId(uuid4()), name, f"unix:/run/{name}")


@asynccontextmanager
async def running_coordinator(
    url: str,
    ownership: Ownership,
    node: Node | None = None,
    limits: LeaseLimits | None = None,
    *,
    is_cluster: bool = False,
) -> AsyncIterator[RedisCoordinator]:
    """The coordinator of a running node."""
    async with (
        connected(url, is_cluster=is_cluster) as redis,
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


class OwnValkeyCluster:
    """Three servers of the test's own on ports of the loopback interface, as one cluster: to be emptied,
    killed and started again.
    """

    SERVERS = 3

    def __init__(self, folder: Path, *options: str) -> None:
        self._folder = folder
        self._options = options
        self.ports = [free_port() for _ in range(self.SERVERS)]
        self._bus = [free_port() for _ in range(self.SERVERS)]
        self._processes: dict[int, subprocess.Popen[bytes]] = {}

    def start(self) -> None:
        """Run them, and let them divide the slots; returns when all of them say that it is done."""
        for number in range(self.SERVERS):
            self.start_one(number)
        share = SLOTS // self.SERVERS + 1
        for number in range(self.SERVERS):
            last = min(share * (number + 1), SLOTS) - 1
            self.ask(number, f"CLUSTER ADDSLOTSRANGE {share * number} {last}")
            self.ask(number, f"CLUSTER MEET 127.0.0.1 {self.ports[0]} {self._bus[0]}")
        self.wait_until_whole()

    def start_one(self, number: int) -> None:
        """Run one, with what it knew of the others; returns when it answers."""
        settings = SETTINGS | {
            "port": str(self.ports[number]),
            "bind": "127.0.0.1",
            "cluster-enabled": "yes",
            "cluster-port": str(self._bus[number]),
            "cluster-config-file": f"nodes-{number}.conf",
            "cluster-node-timeout": "1000",
            "cluster-require-full-coverage": "no",
            "dir": str(self._folder),
        }
        options = [part for name, value in settings.items() for part in (f"--{name}", value)]
        with (self._folder / f"log-{number}").open("ab") as log:
            self._processes[number] = subprocess.Popen(
                [str(find_valkey()), *options, *self._options],
                preexec_fn=_end_with_the_tests,  # noqa: PLW1509  (one system call, no lock is taken)
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        wait_for(lambda: self._answers(number), START_S, "an answer of Valkey")

    def wait_until_whole(self) -> None:
        """Until each server has heard of all slots, and that they are served."""

        def is_whole(number: int) -> bool:
            told = self.ask(number, "CLUSTER INFO")
            wanted = "cluster_state:ok", f"cluster_slots_ok:{SLOTS}", f"cluster_known_nodes:{self.SERVERS}"
            return all(line in told for line in wanted)

        wait_for(lambda: all(map(is_whole, range(self.SERVERS))), START_S, "the cluster")

    def _answers(self, number: int) -> bool:
        with contextlib.suppress(OSError):
            return self.ask(number, "PING").startswith(("+PONG", "-NOAUTH"))
        return False

    def ask(self, number: int, command: str) -> str:
        """What a server answers, as it is on the wire."""
        with socket.create_connection(("127.0.0.1", self.ports[number]), START_S) as connection:
            connection.sendall(command.encode() + b"\r\n")
            return connection.recv(65536).decode()

    @property
    def hosts(self) -> str:
        """All of them, for a URL."""
        return ",".join(f"127.0.0.1:{port}" for port in self.ports)

    @property
    def url(self) -> str:
        return f"redis://{self.hosts}/0"

    def keys(self, number: int) -> int:
        """How many keys a server has."""
        return int(self.ask(number, "DBSIZE").strip()[1:])

    def empty(self) -> None:
        """Forget everything."""
        for number in range(self.SERVERS):
            assert self.ask(number, "FLUSHALL") == "+OK\r\n"

    def kill(self, number: int) -> None:
        """kill -9 one of them."""
        self._processes[number].kill()
        self._processes[number].wait(START_S)

    def end(self) -> None:
        """kill -9 all."""
        for number in self._processes:
            self.kill(number)


@contextmanager
def running_valkey_cluster(*options: str) -> Iterator[OwnValkeyCluster]:
    """Run one and remove it."""
    with tempfile.TemporaryDirectory(prefix="tmi-valkey-") as folder:
        cluster = OwnValkeyCluster(Path(folder), *options)
        try:
            cluster.start()
            yield cluster
        finally:
            cluster.end()


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
