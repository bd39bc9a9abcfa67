"""One room in which everybody moves a cursor: presence only, no edits.

Of presence only the newest state matters, so a server may leave out what a newer state replaced. A move
therefore counts as seen by a client as soon as it reads this state or a newer one of the same author.
Each state read is held against the one that its author sent under that clock, and at the end each client must
have everybody's last one.
"""

import asyncio
import json
from array import array
from collections.abc import Sequence
from dataclasses import dataclass, field
from time import perf_counter
from typing import ClassVar

from picows import WSMsgType

from bench.client import RENEW_PRESENCE_S, Client
from bench.ledger import Window
from bench.load import Schedule
from bench.measuring import (
    CONDITIONS,
    QUIET_S,
    Cost,
    behind,
    client_number,
    drive,
    join_all,
    known,
    latency_curve,
    leave_all,
    lost_connections,
    probe_of,
    remarks_on,
    until_quiet,
)
from bench.model import Figure, Goal, Place, Run, option
from bench.protocols import Dialect
from bench.servers import Server
from bench.statistics import percentile
from bench.yjs import Reader

CURRENT_S = 0.1
MEMORY_LIMIT_BYTES = 4 << 30
BYTES_A_COPY = 220
"""What the generator keeps for one state that arrives in a frame of its own, at most."""

Seen = tuple[int, int]
"""An author's number and clock."""

GOALS: dict[int, tuple[Goal, ...]] = {
    50: (Goal("cpu_us", ratio=0.15), Goal("p99_ms", limit=40)),
    300: (Goal("slowest_p99_ms", limit=CURRENT_S * 1e3),),
}
"""At 10 moves per second of each, by the number of clients."""


class Pointer(Client):
    """An editor that moves its cursor. `states` and `moved_at` are indexed by the awareness clock."""

    def __init__(self, number: int, client_id: int, dialect: Dialect) -> None:
        super().__init__(number, client_id, dialect)
        self.states: list[bytes] = [b""]
        self.moved_at = array("d", [0.0])

    def move(self) -> None:
        """About a hundred bytes, as editors tell them: who, which colour, where."""
        clock = len(self.states)
        x, y = clock * 7 % 1900, clock * 3 % 1070
        self._announce(
            b'{"user":{"name":"Editor %d","color":"#%06x"},"cursor":{"x":%d,"y":%d},"selection":[]}'
            % (self.number, self.number * 40503 % (1 << 24), x, y)
        )

    def _renew_presence(self) -> None:
        self._announce(self.states[-1] or b"{}")
        self._renewal = asyncio.get_running_loop().call_later(RENEW_PRESENCE_S, self._renew_presence)

    def _announce(self, state: bytes) -> None:
        assert self._transport is not None
        frame = self.dialect.presence(self.writer.client, len(self.states), state)
        self.states.append(state)
        self.moved_at.append(perf_counter())
        self._transport.send(WSMsgType.BINARY, frame)


@dataclass
class Sight:
    """What everybody saw of everybody else. A copy is one move at one client other than its author."""

    copies: int = 0
    copies_in_window: int = 0
    moves_in_window: int = 0
    stale: int = 0
    """Pairs of a client and an author of whom it has not the last state."""
    altered: int = 0
    undecodable: int = 0
    frames: int = 0
    latencies_s: "list[array[float]]" = field(default_factory=list)
    """Of each client, sorted, of the moves within the window."""


class Gallery:
    """Reads the presence frames that clients kept; equal frames are decoded once."""

    def __init__(self, pointers: Sequence[Pointer]) -> None:
        self._pointers = pointers
        self._numbers = {pointer.writer.client: n for n, pointer in enumerate(pointers)}
        self._decoded: dict[bytes, tuple[Seen, ...]] = {}
        self._altered: set[Seen] = set()
        self._undecodable = 0

    def sight(self, window: Window) -> Sight:
        """The whole account of a run that has ended."""
        outcome = Sight()
        for number in range(len(self._pointers)):
            self._look(number, window, outcome)
        outcome.moves_in_window = sum(
            window.start <= moved < window.end for pointer in self._pointers for moved in pointer.moved_at
        )
        outcome.altered = len(self._altered)
        outcome.undecodable = self._undecodable
        return outcome

    def _look(self, number: int, window: Window, outcome: Sight) -> None:
        pointer, latencies, in_window = self._pointers[number], array("d"), 0
        newest = [0] * len(self._pointers)
        moved_at = [author.moved_at for author in self._pointers]
        for frame, read_at in zip(pointer.frames, pointer.read_at, strict=True):
            seen = self._seen_in(pointer, frame)
            outcome.frames += bool(seen)
            for author, clock in seen:
                for moved in moved_at[author][newest[author] + 1 : clock + 1] if author != number else ():
                    outcome.copies += 1
                    in_window += window.start <= read_at < window.end
                    if window.start <= moved < window.end:
                        latencies.append(read_at - moved)
                newest[author] = max(newest[author], clock)
        outcome.copies_in_window += in_window
        outcome.latencies_s.append(array("d", sorted(latencies)))
        outcome.stale += sum(
            newest[author] < len(other.states) - 1
            for author, other in enumerate(self._pointers)
            if author != number
        )

    def _seen_in(self, pointer: Pointer, frame: bytes) -> tuple[Seen, ...]:
        if not frame.startswith(pointer.dialect.present):
            return ()
        known_frame = self._decoded.get(frame)
        if known_frame is None:
            known_frame = self._decoded[frame] = tuple(self._decode(frame[len(pointer.dialect.present) :]))
        return known_frame

    def _decode(self, payload: bytes) -> list[Seen]:
        found: list[Seen] = []
        try:
            reader = Reader(Reader(payload).chunk())
            for _ in range(reader.var_uint()):
                author, clock = self._numbers.get(reader.var_uint()), reader.var_uint()
                state = reader.chunk()
                if author is None or clock == 0 or state == b"null":
                    continue
                if self._is_what_was_sent(author, clock, state):
                    found.append((author, clock))
                else:
                    self._altered.add((author, clock))
        except ValueError:
            self._undecodable += 1
        return found

    def _is_what_was_sent(self, author: int, clock: int, state: bytes) -> bool:
        states = self._pointers[author].states
        if clock >= len(states):
            return False
        return states[clock] == state or bool(json.loads(states[clock]) == json.loads(state))


@dataclass(frozen=True)
class CursorsLoad:
    """One room where everybody moves a cursor: what a copy of a move costs, and how current clients are."""

    scenario: ClassVar[str] = "cursors"
    title: ClassVar[str] = "Cursors in one room"
    cost: ClassVar[str] = "cpu_us"
    needs: ClassVar[frozenset[str]] = frozenset()
    figures: ClassVar[tuple[Figure, ...]] = (
        Figure("cpu_us", "CPU", "us/copy", "lower", ".2f"),
        Figure("p50_ms", "p50", "ms", "lower"),
        Figure("p99_ms", "p99", "ms", "lower"),
        Figure("slowest_p99_ms", "slowest client's p99", "ms", "lower"),
        Figure("current_share", "within 100 ms", "of copies", "higher", ".1%"),
        Figure("max_ms", "max", "ms", "lower", in_table=False),
        Figure("database_us", "Postgres", "us/copy", "lower", ".2f", in_table=False),
        Figure("copies_per_s", "copies", "a second", form=",.0f"),
        Figure("copies_per_frame", "moves", "a frame"),
        *CONDITIONS,
    )

    clients: int = option(50, "In the room, each with a cursor.")
    rate: float = option(10.0, "Moves per second of each.")
    seconds: float = option(5.0, "Measured.")
    warm_up_s: float = option(1.5, "Under load before that.")
    settle_s: float = option(5.0, "How long last states may be under way before they count as missing.")

    def __post_init__(self) -> None:
        if self.clients < 2:
            raise ValueError("a room needs two clients or more")
        if min(self.rate, self.seconds) <= 0 or min(self.warm_up_s, self.settle_s) < 0:
            raise ValueError("rate and seconds have to be positive")
        copies = self.clients**2 * self.rate * (self.seconds + self.warm_up_s)
        if copies * BYTES_A_COPY > MEMORY_LIMIT_BYTES:
            raise ValueError("the generator would keep over 4 GiB of frames: fewer seconds, clients or moves")

    @property
    def label(self) -> str:
        return f"{self.clients} clients x {self.rate:g}/s"

    @property
    def goals(self) -> tuple[Goal, ...]:
        return GOALS.get(self.clients, ()) if self.rate == 10 else ()

    @property
    def clients_at_once(self) -> int:
        return self.clients

    async def measure(self, server: Server, place: Place) -> Run:
        """One run in a fresh room. Raises `ServerError`, `OSError`, `TimeoutError` or `WSError`."""
        room = await server.room()
        pointers = [Pointer(number, client_number(), room.dialect) for number in range(self.clients)]
        schedule = Schedule(pointers, self.rate, Pointer.move)
        try:
            await join_all(pointers, room)
            before, after = await drive(schedule, self.warm_up_s, self.seconds, probe_of(server, place))
            sight = await _settle(pointers, Window(before.at, after.at), self.settle_s)
            faults = _faults(pointers, sight)
        finally:
            await leave_all(pointers)
        return self._run(server.name, sight, Cost.between(before, after), schedule, faults)

    def _run(
        self, server: str, sight: Sight, cost: Cost, schedule: Schedule[Pointer], faults: list[str]
    ) -> Run:
        conditions = cost.conditions(schedule.late_s)
        everybody = array("d", sorted(latency for one in sight.latencies_s for latency in one))
        due = sight.moves_in_window * (self.clients - 1)
        figures = {
            "cpu_us": cost.server_us_per(sight.copies_in_window),
            "database_us": cost.database_us_per(sight.copies_in_window),
            "p50_ms": percentile(everybody, 0.50) * 1e3,
            "p99_ms": percentile(everybody, 0.99) * 1e3,
            "max_ms": percentile(everybody, 1) * 1e3,
            "slowest_p99_ms": max(percentile(one, 0.99) for one in sight.latencies_s) * 1e3,
            "current_share": sum(latency <= CURRENT_S for latency in everybody) / max(1, due),
            "copies_per_s": sight.copies_in_window / cost.seconds,
            "copies_per_frame": sight.copies / max(1, sight.frames),
        }
        parameters = {"clients": self.clients, "rate": self.rate, "seconds": self.seconds}
        return Run(
            self.scenario, self.label, server, parameters, known(figures) | conditions,
            {"latency": latency_curve(everybody)}, faults,
            [*remarks_on(conditions), *behind(sight.copies_in_window, due)],
        )  # fmt: skip


async def _settle(pointers: Sequence[Pointer], window: Window, limit_s: float) -> Sight:
    """Waits until everybody has everybody's last state or nothing more comes; bounded."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + limit_s
    gallery = Gallery(pointers)
    while True:
        await until_quiet(pointers, deadline)
        sight = gallery.sight(window)
        if not sight.stale or loop.time() >= deadline:
            return sight
        await asyncio.sleep(QUIET_S)


def _faults(pointers: Sequence[Pointer], sight: Sight) -> list[str]:
    faults = lost_connections(pointers)
    if sight.stale:
        pairs = len(pointers) * (len(pointers) - 1)
        faults.append(f"{sight.stale} of {pairs} last states never arrived")
    if sight.altered:
        faults.append(f"{sight.altered} states arrived altered")
    if sight.undecodable:
        faults.append(f"{sight.undecodable} frames could not be read")
    return faults
