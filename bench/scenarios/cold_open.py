"""Opening a diagram that nobody has open: from the connection to the first sync, all out of the database.

Each diagram is written by a client as an editor writes it: a map of cells, each a map of its properties.
Everybody leaves, the rooms are evicted, and a few cells more are drawn, less than the server takes a new
snapshot for. Then one client at a time opens one diagram after the other.
Every state read is checked for every property of every cell.
"""

import asyncio
import uuid
from array import array
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from time import perf_counter
from typing import ClassVar

from picows import WSMsgType

from bench.client import Client
from bench.measuring import (
    CONDITIONS,
    Cost,
    client_number,
    collector_at_rest,
    known,
    latency_curve,
    leave_all,
    new_client,
    probe_of,
    remarks_on,
)
from bench.model import Figure, Goal, Place, Run, option
from bench.servers import Room, Server, ServerError
from bench.statistics import percentile
from bench.yjs import KeyedStruct, any_int, keyed_structs, var_bytes, var_uint

CELLS_A_FRAME = 250
CELLS_LATER = 10
PAUSE_S = 0.1
SEED_TIMEOUT_S = 60.0

_MAP, _ANY_OBJECT, _ANY_STRING = b"\x01", b"\x76", b"\x77"
_KEYED_TYPE, _KEYED_ANY = b"\x27", b"\x28"


def any_string(text: str) -> bytes:
    return _ANY_STRING + var_bytes(text.encode())


def any_pair(first: str, a: int, second: str, b: int) -> tuple[bytes, bytes]:
    """lib0 `any` of an object of two integers, in both orders, since Yjs in Rust does not keep any."""
    one, other = (var_bytes(key.encode()) + any_int(value) for key, value in ((first, a), (second, b)))
    head = _ANY_OBJECT + b"\x02"
    return head + one + other, head + other + one


class Draughtsman:
    """One Yjs client that draws cells; `written` holds key and possible contents by clock."""

    def __init__(self, client: int) -> None:
        self.client = client
        self.written: list[tuple[bytes, tuple[bytes, ...]]] = []

    def draw(self, numbers: range) -> bytes:
        """The update that adds these cells."""
        clock, structs = len(self.written), b"".join(map(self._cell, numbers))
        count = len(self.written) - clock
        return b"\x01" + b"".join(map(var_uint, (count, self.client, clock))) + structs + b"\x00"

    def _cell(self, number: int) -> bytes:
        structs = self._struct(b"\x01" + var_bytes(b"cells"), str(uuid.uuid4()))
        cell = self._last_as_parent()
        structs += self._struct(cell, "shape", (any_string("process"),))
        place = any_pair("x", number % 100 * 160, "y", number // 100 * 90)
        structs += self._struct(cell, "position", place)
        structs += self._struct(cell, "size", any_pair("width", 120, "height", 60))
        structs += self._struct(cell, "ord", (any_string(f"a{number:06d}"),))
        structs += self._struct(cell, "attrs")
        return structs + self._struct(self._last_as_parent(), "label", (any_string(f"Process {number}"),))

    def _last_as_parent(self) -> bytes:
        return b"\x00" + var_uint(self.client) + var_uint(len(self.written) - 1)

    def _struct(self, parent: bytes, key: str, values: tuple[bytes, ...] = ()) -> bytes:
        """One value under a key, or a map if there is none."""
        contents = tuple(b"\x01" + value for value in values) or (_MAP,)
        self.written.append((key.encode(), contents))
        return (_KEYED_ANY if values else _KEYED_TYPE) + parent + var_bytes(key.encode()) + contents[0]

    def lacking(self, updates: Iterable[bytes], since: int = 0) -> int:
        """How many of the properties written from that clock on are not in these updates, or altered. Raises
        `ValueError`.
        """
        found = {
            struct.clock
            for update in updates
            for struct in keyed_structs(update)
            if struct.client == self.client and struct.clock >= since and self._is_as_written(struct)
        }
        return len(self.written) - since - len(found)

    def _is_as_written(self, struct: KeyedStruct) -> bool:
        if struct.clock >= len(self.written):
            return False
        key, contents = self.written[struct.clock]
        return struct.key == key and struct.content in contents


@dataclass(frozen=True)
class ColdOpenLoad:
    """A client opens a diagram of thousands of cells that nobody has open: how long until it has it."""

    scenario: ClassVar[str] = "cold-open"
    title: ClassVar[str] = "Opening a cold diagram"
    cost: ClassVar[str] = "cpu_ms"
    needs: ClassVar[frozenset[str]] = frozenset({"durable"})
    figures: ClassVar[tuple[Figure, ...]] = (
        Figure("p50_ms", "opened, p50", "ms", "lower"),
        Figure("p99_ms", "opened, p99", "ms", "lower"),
        Figure("cpu_ms", "CPU", "ms/open", "lower"),
        Figure("database_ms", "Postgres", "ms/open", "lower"),
        Figure("kib", "state", "KiB", form=",.0f"),
        *CONDITIONS,
    )

    cells: int = option(5000, "Of each diagram.")
    opens: int = option(20, "Diagrams, each opened once.")

    def __post_init__(self) -> None:
        if not 1 <= self.cells <= 20_000 or not 1 <= self.opens <= 200:
            raise ValueError("1 to 20,000 cells, 1 to 200 diagrams")

    @property
    def label(self) -> str:
        return f"{self.cells:,} cells"

    @property
    def goals(self) -> tuple[Goal, ...]:
        return (Goal("p99_ms", limit=50),) if self.cells == 5000 else ()

    @property
    def clients_at_once(self) -> int:
        return self.opens

    async def measure(self, server: Server, place: Place) -> Run:
        """Opens each diagram once. Raises `ServerError`, `OSError`, `TimeoutError` or `WSError`."""
        rooms = [await server.room() for _ in range(self.opens)]
        authors = [await drawn(room, self.cells) for room in rooms]
        await server.until_evicted()
        later = range(self.cells, self.cells + CELLS_LATER)
        for room, author in zip(rooms, authors, strict=True):
            await draw(room, author, later)
        await server.until_evicted()
        clients = [new_client(number, room) for number, room in enumerate(rooms)]
        probe, took_s = probe_of(server, place), array("d")
        try:
            with collector_at_rest():
                before = probe.read()
                for client, room in zip(clients, rooms, strict=True):
                    start = perf_counter()
                    await client.join(room.url)
                    took_s.append(perf_counter() - start)
                    await asyncio.sleep(PAUSE_S)
                after = probe.read()
            states = [list(states_in(client)) for client in clients]
        finally:
            await leave_all(clients)
        cost, ascending = Cost.between(before, after), array("d", sorted(took_s))
        conditions = cost.conditions()
        figures = {
            "p50_ms": percentile(ascending, 0.50) * 1e3,
            "p99_ms": percentile(ascending, 0.99) * 1e3,
            "cpu_ms": cost.server_us_per(self.opens) / 1e3,
            "database_ms": cost.database_us_per(self.opens) / 1e3,
            "kib": sum(len(state) for parts in states for state in parts) / self.opens / 1024,
        }
        lacking = [
            missing
            for author, parts in zip(authors, states, strict=True)
            if (missing := author.lacking(parts))
        ]
        faults = [f"{len(lacking)} of {self.opens} diagrams lacked properties"] if lacking else []
        parameters: dict[str, float] = {"cells": self.cells, "opens": self.opens}
        return Run(
            self.scenario, self.label, server.name, parameters, known(figures) | conditions,
            {"latency": latency_curve(ascending, "Time until joined")}, faults, remarks_on(conditions),
        )  # fmt: skip


async def drawn(room: Room, cells: int) -> Draughtsman:
    """Draws so many cells and leaves when a newcomer has been given all of them. Raises `ServerError`."""
    drawing = Draughtsman(client_number())
    await draw(room, drawing, range(cells))
    return drawing


async def draw(room: Room, drawing: Draughtsman, cells: range) -> None:
    """Draws more, and leaves when a newcomer has been given that. Raises `ServerError`."""
    pen, since = Pen(room), len(drawing.written)
    try:
        await pen.join(room.url)
        for first in range(cells.start, cells.stop, CELLS_A_FRAME):
            pen.send(drawing.draw(range(first, min(cells.stop, first + CELLS_A_FRAME))))
        await _until_there(room, drawing, since)
    finally:
        await leave_all([pen])


class Pen(Client):
    """Sends updates that were made elsewhere."""

    def __init__(self, room: Room) -> None:
        super().__init__(0, client_number(), room.dialect)

    def send(self, update: bytes) -> None:
        assert self._transport is not None
        self._transport.send(WSMsgType.BINARY, self.dialect.tell(update))


async def _until_there(room: Room, drawing: Draughtsman, since: int) -> None:
    deadline = asyncio.get_running_loop().time() + SEED_TIMEOUT_S
    while True:
        witness = new_client(1, room)
        try:
            await witness.join(room.url)
            missing = drawing.lacking(states_in(witness), since)
        finally:
            await leave_all([witness])
        if not missing:
            return
        if asyncio.get_running_loop().time() > deadline:
            raise ServerError(f"a newcomer lacks {missing} properties after {SEED_TIMEOUT_S:.0f} s")
        await asyncio.sleep(PAUSE_S)


def states_in(client: Client) -> Iterator[bytes]:
    """The updates among the frames of a client."""
    for frame in client.frames:
        update = client.dialect.update_in(frame)
        if update is not None:
            yield update
