"""A TCP proxy whose connections suffer what networks do to them: the test decides what and when.

An `Edge` is the way from one party to one server. It knows what is wrong with it just now, for connections
that are open and for those that come. A `FaultProxy` is a port in front of a server; several edges may lead
through it, where all dial the same address (see `dialled_by`).

What a peer behind the proxy sees is what it would see of a network, with these differences: the kernel
goes on to acknowledge bytes that a black hole swallows until its buffers are full, and a connection that is
opened into a black hole opens, and stays silent. Network namespaces show the rest (`test_namespaces.py`).

Nothing is dropped from a stream: after `heal` it goes on where it stopped, as TCP would.
"""

import asyncio
import contextlib
import random
import socket
import struct
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from enum import Enum
from pathlib import Path
from typing import Self

CHUNK_BYTES = 64 * 1024
CHUNKS_MAX = 16
"""That many wait in a direction; then its sender is no longer read."""
CONNECT_S = 5.0
RESET = struct.pack("ii", 1, 0)
"""SO_LINGER, which makes the end of a connection an RST."""


class Direction(Enum):
    """Which way bytes go."""

    THERE = "to the server"
    BACK = "from the server"


BOTH = tuple(Direction)


class _End(Enum):
    FIN = "fin"
    RST = "rst"


class Edge:
    """One way to a server, and what is wrong with it. `upstream` is `host:port` or the path of a socket."""

    def __init__(self, name: str, upstream: str, seed: int = 0) -> None:
        self.name = name
        self.upstream = upstream
        self._random = random.Random(f"{seed}-{name}")
        self._delay_s = 0.0
        self._jitter_s = 0.0
        self._bytes_per_s: float | None = None
        self._is_refusing = False
        self._passable = {direction: asyncio.Event() for direction in Direction}
        for passable in self._passable.values():
            passable.set()
        self._connections: set[_Connection] = set()

    @property
    def open_connections(self) -> int:
        """How many lead over this edge now."""
        return len(self._connections)

    # --- what is wrong --------------------------------------------------------------------------

    def delay(self, seconds: float, jitter_s: float = 0.0) -> None:
        """Everything takes that much longer each way, and up to `jitter_s` more at random, in order."""
        self._delay_s, self._jitter_s = seconds, jitter_s

    def throttle(self, bytes_per_s: float) -> None:
        """Each connection carries no more in a direction."""
        self._bytes_per_s = bytes_per_s

    def blackhole(self, *directions: Direction) -> None:
        """Swallow everything, ends of connections too, in both directions or in these."""
        for direction in directions or BOTH:
            self._passable[direction].clear()

    def refuse(self) -> None:
        """Reset whoever connects."""
        self._is_refusing = True

    def cut(self, *, reset: bool = True) -> None:
        """End all open connections, by RST or by FIN."""
        for connection in list(self._connections):
            connection.end(reset=reset)

    def break_off(self) -> None:
        """End all connections and refuse new ones: the server's machine is there, and the server is not."""
        self.refuse()
        self.cut()

    def heal(self) -> None:
        """Nothing is wrong any more. Connections that are open go on."""
        self._delay_s = self._jitter_s = 0.0
        self._bytes_per_s = None
        self._is_refusing = False
        for passable in self._passable.values():
            passable.set()

    # --- what connections ask -------------------------------------------------------------------

    @property
    def is_refusing(self) -> bool:
        return self._is_refusing

    def lag_s(self) -> float:
        """How long what comes now is under way."""
        return self._delay_s + self._jitter_s * self._random.random()

    def transmission_s(self, size: int) -> float:
        """How long so many bytes take to pass."""
        return 0.0 if self._bytes_per_s is None else size / self._bytes_per_s

    async def passable(self, direction: Direction) -> None:
        """Wait until something gets through."""
        await self._passable[direction].wait()

    def joined(self, connection: "_Connection") -> None:
        self._connections.add(connection)

    def left(self, connection: "_Connection") -> None:
        self._connections.discard(connection)


class FaultProxy:
    """A port in front of a server. `edge_of` names the edge of a connection by its client's port."""

    def __init__(self, edge_of: Callable[[int], Edge], host: str = "127.0.0.1") -> None:
        self._edge_of = edge_of
        self._host = host
        self._tasks: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None
        self.port = 0

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._accept, self._host, 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_exception: object) -> None:
        assert self._server is not None
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            edge = self._edge_of(writer.get_extra_info("peername")[1])
            if edge.is_refusing:
                _abort(writer, reset=True)
            else:
                await _Connection(edge, reader, writer).run()
        except (OSError, TimeoutError, LookupError):
            _abort(writer, reset=True)
        except asyncio.CancelledError:
            _abort(writer, reset=True)
        finally:
            self._tasks.discard(task)


class _Connection:
    """A client's connection and the one that is made for it."""

    def __init__(self, edge: Edge, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._edge = edge
        self._reader = reader
        self._writers = [writer]

    async def run(self) -> None:
        """Until both directions have ended."""
        self._edge.joined(self)
        try:
            await self._edge.passable(Direction.THERE)
            if self._reader.at_eof() or self._reader.exception() is not None:
                return  # whoever wanted it has gone meanwhile
            async with asyncio.timeout(CONNECT_S):
                reader, writer = await _connect(self._edge.upstream)
            self._writers.append(writer)
            async with asyncio.TaskGroup() as group:
                group.create_task(self._carry(self._reader, writer, Direction.THERE))
                group.create_task(self._carry(reader, self._writers[0], Direction.BACK))
        except* OSError:
            pass
        finally:
            self._edge.left(self)
            self.end(reset=False)

    def end(self, *, reset: bool) -> None:
        """End both connections at once."""
        for writer in self._writers:
            _abort(writer, reset=reset)

    async def _carry(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, direction: Direction
    ) -> None:
        waiting: asyncio.Queue[tuple[float, bytes | _End]] = asyncio.Queue(CHUNKS_MAX)
        async with asyncio.TaskGroup() as group:
            group.create_task(self._take_in(reader, waiting))
            group.create_task(self._pass_on(waiting, writer, direction))

    async def _take_in(
        self, reader: asyncio.StreamReader, waiting: "asyncio.Queue[tuple[float, bytes | _End]]"
    ) -> None:
        clock = asyncio.get_running_loop().time
        due = 0.0
        while True:
            try:
                got: bytes | _End = await reader.read(CHUNK_BYTES) or _End.FIN
            except OSError:
                got = _End.RST
            due = max(due, clock() + self._edge.lag_s())
            await waiting.put((due, got))
            if isinstance(got, _End):
                return

    async def _pass_on(
        self,
        waiting: "asyncio.Queue[tuple[float, bytes | _End]]",
        writer: asyncio.StreamWriter,
        direction: Direction,
    ) -> None:
        clock = asyncio.get_running_loop().time
        while True:
            due, got = await waiting.get()
            await asyncio.sleep(max(0.0, due - clock()))
            await self._edge.passable(direction)
            if got is _End.RST:
                self.end(reset=True)
                return
            if got is _End.FIN:
                with contextlib.suppress(OSError, RuntimeError):  # it may have ended meanwhile
                    writer.write_eof()
                return
            assert isinstance(got, bytes)
            await asyncio.sleep(self._edge.transmission_s(len(got)))
            try:
                writer.write(got)
            except RuntimeError as error:  # uvloop, after `end`
                raise ConnectionResetError from error
            await writer.drain()


async def _connect(upstream: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    if upstream.startswith("/"):
        return await asyncio.open_unix_connection(upstream)
    host, _, port = upstream.rpartition(":")
    return await asyncio.open_connection(host, int(port))


def _abort(writer: asyncio.StreamWriter, *, reset: bool) -> None:
    found = writer.get_extra_info("socket")
    if reset and found is not None and found.family != socket.AF_UNIX:
        with contextlib.suppress(OSError):
            found.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
    writer.transport.abort()


@contextlib.asynccontextmanager
async def proxied(name: str, upstream: str, host: str = "127.0.0.1") -> AsyncIterator[tuple[Edge, int]]:
    """An edge of its own port; yields it and the port."""
    edge = Edge(name, upstream)
    async with FaultProxy(lambda _: edge, host) as proxy:
        yield edge, proxy.port


def dialled_by(port: int, processes: Mapping[str, int]) -> str:
    """Which of these processes, by name and id, has the connection from this port of 127.0.0.1.

    Raises LookupError when none has it, or no longer. Linux: the table of sockets, and who has them open.
    """
    wanted = f"0100007F:{port:04X}"
    rows = (line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:])
    inodes = {f"socket:[{row[9]}]" for row in rows if row[1] == wanted}
    for name, pid in processes.items():
        if inodes & set(_open_by(pid)):
            return name
    raise LookupError(f"no node has a connection from port {port}")


def _open_by(pid: int) -> Iterator[str]:
    """What the descriptors of a process stand for."""
    with contextlib.suppress(OSError):
        for descriptor in Path(f"/proc/{pid}/fd").iterdir():
            with contextlib.suppress(OSError):
                yield str(descriptor.readlink())
