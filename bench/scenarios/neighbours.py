"""Quiet rooms beside others: what they feel of a busy room, or of a storm of joins on a large diagram.

The quiet rooms are measured twice in a run, alone and beside the other load. That load is made by a process
of its own (see `bench.beside`), which also says when it began and ended, so that reading its frames delays
none of those that are measured.
"""

import asyncio
from array import array
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from time import perf_counter
from typing import ClassVar

from bench.beside import Task, Watch, beside
from bench.client import Client, DistantClient
from bench.ledger import Ledger, Window
from bench.load import Schedule
from bench.measuring import (
    CONDITIONS,
    QUIET_S,
    Cost,
    behind,
    client_number,
    collector_at_rest,
    drive,
    join_all,
    known,
    latency_curve,
    leave_all,
    lost_connections,
    new_client,
    probe_of,
    remarks_on,
)
from bench.model import Figure, Goal, Load, Place, Run, option
from bench.process import Moment, Probe
from bench.scenarios.cold_open import Draughtsman, drawn, states_in
from bench.scenarios.fanout import (
    BYTES_A_COPY,
    MEMORY_LIMIT_BYTES,
    delivery_faults,
    settle,
)
from bench.scenarios.join import KIB, Seeder, joiner_faults, storm, until_complete
from bench.scenarios.rooms import in_groups
from bench.servers import Room, Server
from bench.statistics import percentile

CLIENTS_IN_A_QUIET_ROOM = 2
READY_TIMEOUT_S = 120.0
LOAD_TIMEOUT_S = 300.0
"""From the beginning of the other load to the end of its own check."""

SETTLED_AFTER_S = 3.0
"""By then a server has stored a large diagram that was just written, and is about to do nothing."""

SLIP_LIMIT_MS = 5.0

BYTES_A_CELL = 300
CELLS_OF_8_MIB = 30_000


@dataclass(frozen=True)
class Neighbour:
    """What became of the other load."""

    before: Moment
    after: Moment
    figures: Mapping[str, float]
    faults: Sequence[str]
    remarks: Sequence[str] = ()

    @property
    def window(self) -> Window:
        return Window(self.before.at, self.after.at)


@dataclass(frozen=True)
class BusyRoom:
    """Many clients and writers in one room."""

    room: Room
    probe: Probe
    clients: int
    writers: int
    rate: float
    warm_up_s: float
    seconds: float
    settle_s: float

    async def run(self, until_told: Callable[[], Awaitable[None]]) -> Neighbour:
        clients = [new_client(number, self.room) for number in range(self.clients)]
        schedule = Schedule(clients[: self.writers], self.rate)
        try:
            await join_all(clients, self.room)
            await until_told()
            before, after = await drive(schedule, self.warm_up_s, self.seconds, self.probe)
            window = Window(before.at, after.at)
            delivery = await settle(clients, Ledger(clients), window, self.settle_s)
            faults = [*lost_connections(clients), *delivery_faults(delivery)]
        finally:
            await leave_all(clients)
        due_by_its_end = (delivery.sent_in_window - 1) * (self.clients - 1)
        figures = {"copies_per_s": delivery.copies_in_window / window.seconds}
        return Neighbour(before, after, figures, faults, behind(delivery.copies_in_window, due_by_its_end))


@dataclass(frozen=True)
class JoinStorm:
    """Many clients who join a large diagram at one moment."""

    room: Room
    probe: Probe
    joiners: int
    kib: int
    is_cold: bool = False
    """Nobody stays in the room before it."""

    async def run(self, until_told: Callable[[], Awaitable[None]]) -> Neighbour:
        seeder = Seeder(0, client_number(), self.room.dialect)
        ledger = Ledger([seeder])
        present: list[Client] = [seeder]
        numbers = range(1, self.joiners + 1)
        joiners = [DistantClient(number, client_number(), self.room.dialect) for number in numbers]
        try:
            await seeder.join(self.room.url)
            seeder.write(self.kib * KIB)
            present.append(await until_complete(self.room, ledger))
            await leave_all(present if self.is_cold else [seeder])
            await asyncio.sleep(SETTLED_AFTER_S)
            await until_told()
            before, after, took_s = await storm(joiners, self.room, self.probe)
            faults = [*lost_connections(joiners), *joiner_faults(joiners, ledger, len(seeder.sent_at))]
        finally:
            await leave_all([*present, *joiners])
        figures = {"joined_p99_ms": percentile(took_s, 0.99) * 1e3, "storm_s": after.at - before.at}
        return Neighbour(before, after, figures, faults)


@dataclass(frozen=True)
class DrawnStorm:
    """Many clients who join at one moment what nobody has open: a large diagram as an editor draws it."""

    room: Room
    probe: Probe
    joiners: int
    cells: int

    async def run(self, until_told: Callable[[], Awaitable[None]]) -> Neighbour:
        numbers = range(1, self.joiners + 1)
        joiners = [DistantClient(number, client_number(), self.room.dialect) for number in numbers]
        try:
            drawing = await drawn(self.room, self.cells)
            await asyncio.sleep(SETTLED_AFTER_S)
            await until_told()
            before, after, took_s = await storm(joiners, self.room, self.probe)
            faults = [*lost_connections(joiners), *_undrawn(joiners, drawing)]
        finally:
            await leave_all(joiners)
        figures = {"joined_p99_ms": percentile(took_s, 0.99) * 1e3, "storm_s": after.at - before.at}
        return Neighbour(before, after, figures, faults)


def _undrawn(joiners: Sequence[Client], drawing: Draughtsman) -> list[str]:
    """A fault if joiners lack something. What several of them were given alike is looked through once."""
    lacking: dict[tuple[bytes, ...], int] = {}
    for joiner in joiners:
        given = tuple(states_in(joiner))
        if given not in lacking:
            lacking[given] = drawing.lacking(given)
    worst = max(lacking.values())
    return [f"joiners lack up to {worst} of {len(drawing.written)} properties"] if worst else []


@dataclass(frozen=True)
class Account:
    """A measurement of quiet rooms. Latencies are sorted, in seconds."""

    neighbour: Neighbour
    alone_s: "array[float]"
    beside_s: "array[float]"
    slip_s: "array[float]"
    """By how much the measuring process woke up late while the other load ran."""
    faults: list[str]

    def figures(self) -> dict[str, float]:
        return {
            **{f"{name}_alone_ms": value for name, value in _in_ms(self.alone_s).items()},
            **{f"{name}_beside_ms": value for name, value in _in_ms(self.beside_s).items()},
            "own_slip_p99_ms": percentile(self.slip_s, 0.99) * 1e3,
            "own_slip_max_ms": percentile(self.slip_s, 1) * 1e3,
            "copies": float(len(self.beside_s)),
            **self.neighbour.figures,
        }

    def run(
        self, load: Load, server: str, parameters: dict[str, float],
        figures: dict[str, float], slip: str,
    ) -> Run:  # fmt: skip
        """The run that this was. `slip` names the slip that would falsify it."""
        conditions = Cost.between(self.neighbour.before, self.neighbour.after).conditions()
        remarks = [*remarks_on(conditions), *self.neighbour.remarks]
        if figures[slip] > SLIP_LIMIT_MS:
            remarks.append(f"the generator itself woke {figures[slip]:.1f} ms late")
        return Run(
            load.scenario, load.label, server, parameters, known(figures) | conditions,
            {"latency": latency_curve(self.beside_s)}, self.faults, remarks,
        )  # fmt: skip


def _in_ms(latencies_s: Sequence[float]) -> dict[str, float]:
    shares = {"p50": 0.50, "p99": 0.99, "max": 1.0}
    return {name: percentile(latencies_s, share) * 1e3 for name, share in shares.items()}


@dataclass(frozen=True)
class Quiet:
    """Small rooms in which everybody writes, a little."""

    rooms: Sequence[Room]
    rate: float
    warm_up_s: float
    seconds: float
    settle_s: float

    async def measured_beside(
        self, task: Task[Neighbour], prepared: Callable[[], Awaitable[None]] | None = None
    ) -> Account:
        """Alone first; `prepared` is awaited when the task is ready. Raises `OSError`, `TimeoutError` or
        `WSError`, and what `prepared` raises.
        """
        members = [
            [new_client(number, room) for number in range(CLIENTS_IN_A_QUIET_ROOM)] for room in self.rooms
        ]
        everybody = [client for clients in members for client in clients]
        try:
            await in_groups(self.rooms, members)
            with collector_at_rest():
                alone = await self._alone(everybody)
                async with beside(task, READY_TIMEOUT_S) as other:
                    if prepared is not None:
                        await prepared()
                    watch = Watch()
                    async with asyncio.TaskGroup() as group:
                        going_on = (watch.run(), Schedule(everybody, self.rate).run(LOAD_TIMEOUT_S))
                        tasks = [group.create_task(one) for one in going_on]
                        neighbour = await other.go(LOAD_TIMEOUT_S)
                        for one in tasks:
                            one.cancel()
            faults = [*lost_connections(everybody), *neighbour.faults]
            ledgers = [Ledger(clients) for clients in members]
            for clients, ledger in zip(members, ledgers, strict=True):
                delivery = await settle(clients, ledger, neighbour.window, self.settle_s)
                faults.extend(delivery_faults(delivery))
        finally:
            await leave_all(everybody)
        return Account(
            neighbour, _latencies(ledgers, alone), _latencies(ledgers, neighbour.window),
            watch.late_s(neighbour.window), faults,
        )  # fmt: skip

    async def _alone(self, everybody: Sequence[Client]) -> Window:
        async with asyncio.TaskGroup() as group:
            group.create_task(Schedule(everybody, self.rate).run(self.warm_up_s + self.seconds))
            await asyncio.sleep(self.warm_up_s)
            start = perf_counter()
        window = Window(start, perf_counter())
        await asyncio.sleep(QUIET_S)
        return window


def _latencies(ledgers: Sequence[Ledger], window: Window) -> "array[float]":
    return array("d", sorted(one for ledger in ledgers for one in ledger.delivery(window).latencies_s))


QUIET_FIGURES = (
    Figure("p50_alone_ms", "alone, p50", "ms", "lower"),
    Figure("p99_alone_ms", "p99", "ms", "lower"),
    Figure("max_alone_ms", "max", "ms", "lower"),
    Figure("p50_beside_ms", "beside, p50", "ms", "lower"),
    Figure("p99_beside_ms", "p99", "ms", "lower"),
    Figure("max_beside_ms", "max", "ms", "lower"),
    Figure("copies", "copies looked at", "beside", form=",.0f", in_table=False),
    Figure("own_slip_p99_ms", "generator woke late, p99", "ms", "lower", in_table=False),
    Figure("own_slip_max_ms", "generator late, max", "ms", "lower"),
)


@dataclass(frozen=True)
class NeighboursLoad:
    """Quiet rooms, alone and beside a busy one: what its people cost the others."""

    scenario: ClassVar[str] = "neighbours"
    title: ClassVar[str] = "Quiet rooms beside a busy one"
    cost: ClassVar[str] = "p99_beside_ms"
    needs: ClassVar[frozenset[str]] = frozenset()
    figures: ClassVar[tuple[Figure, ...]] = (
        *QUIET_FIGURES,
        Figure("p99_ratio", "p99", "x alone", "lower", ".2f"),
        Figure("copies_per_s", "busy room", "copies a second", form=",.0f"),
        *CONDITIONS,
    )

    clients: int = option(50, "In the busy room.")
    writers: int = option(10, "How many of them write.")
    busy_rate: float = option(200.0, "Edits per second of each writer.")
    quiet_rooms: int = option(10, "Measured; several, so that a p99 has something to be taken of.")
    rate: float = option(5.0, "Edits per second of each of the two clients of a quiet room.")
    seconds: float = option(8.0, "Measured, alone and beside.")
    warm_up_s: float = option(1.5, "Under load before that.")
    settle_s: float = option(30.0, "How long copies may be under way before they count as missing.")

    def __post_init__(self) -> None:
        if not 1 <= self.writers <= self.clients or self.clients < 2 or not 1 <= self.quiet_rooms <= 200:
            raise ValueError("1 to 200 quiet rooms, two clients or more, and at most as many writers")
        if min(self.rate, self.busy_rate, self.seconds) <= 0 or min(self.warm_up_s, self.settle_s) < 0:
            raise ValueError("rates and seconds have to be positive")
        check_quiet(self.quiet_rooms, self.rate)
        copies = self.writers * self.busy_rate * (self.seconds + self.warm_up_s) * self.clients
        if copies * BYTES_A_COPY > MEMORY_LIMIT_BYTES:
            raise ValueError("the generator would keep over 4 GiB of frames: fewer seconds, clients or edits")

    @property
    def label(self) -> str:
        busy = f"{self.clients} clients, {self.writers} writers x {self.busy_rate:g}/s"
        return f"{self.quiet_rooms} quiet rooms beside {busy}"

    @property
    def goals(self) -> tuple[Goal, ...]:
        is_target = (self.clients, self.writers, self.busy_rate, self.rate) == (50, 10, 200, 5)
        return (Goal("p99_ratio", limit=3),) if is_target else ()

    @property
    def clients_at_once(self) -> int:
        return self.clients + self.quiet_rooms * CLIENTS_IN_A_QUIET_ROOM

    async def measure(self, server: Server, place: Place) -> Run:
        """One run in fresh rooms. Raises `ServerError`, `OSError`, `TimeoutError` or `WSError`."""
        rooms = [await server.room() for _ in range(self.quiet_rooms)]
        quiet = Quiet(rooms, self.rate, self.warm_up_s, self.seconds, self.settle_s)
        account = await quiet.measured_beside(BusyRoom(
            await server.room(), probe_of(server, place), self.clients, self.writers, self.busy_rate,
            self.warm_up_s, self.seconds, self.settle_s,
        ))  # fmt: skip
        figures = account.figures()
        figures["p99_ratio"] = figures["p99_beside_ms"] / figures["p99_alone_ms"]
        parameters = {
            "clients": self.clients, "writers": self.writers, "busy_rate": self.busy_rate,
            "quiet_rooms": self.quiet_rooms, "rate": self.rate, "seconds": self.seconds,
        }  # fmt: skip
        return account.run(self, server.name, parameters, figures, slip="own_slip_p99_ms")


@dataclass(frozen=True)
class StallLoad:
    """Another room while many clients join a large diagram: the longest pause that its people see."""

    scenario: ClassVar[str] = "stall"
    title: ClassVar[str] = "A quiet room beside a storm of joins"
    cost: ClassVar[str] = "max_beside_ms"
    needs: ClassVar[frozenset[str]] = frozenset()
    figures: ClassVar[tuple[Figure, ...]] = (
        *QUIET_FIGURES,
        Figure("storm_s", "all joined", "after s", "lower", ".2f"),
        Figure("joined_p99_ms", "joined, p99", "ms", "lower", in_table=False),
        *CONDITIONS,
    )

    joiners: int = option(100, "At once.")
    kib: int = option(8192, "Size of the diagram they join.")
    rate: float = option(100.0, "Edits per second of each of the two clients of the other room.")
    seconds: float = option(5.0, "Measured alone; the storm takes as long as it takes.")
    warm_up_s: float = option(1.5, "Under load before that.")
    settle_s: float = option(30.0, "How long copies may be under way before they count as missing.")

    def __post_init__(self) -> None:
        if not 1 <= self.joiners <= 5000 or not 1 <= self.kib <= 65536:
            raise ValueError("1 to 5,000 joiners of a diagram of 1 KiB to 64 MiB")
        if min(self.rate, self.seconds) <= 0 or min(self.warm_up_s, self.settle_s) < 0:
            raise ValueError("rate and seconds have to be positive")
        check_quiet(1, self.rate)
        if self.joiners * self.kib * KIB > MEMORY_LIMIT_BYTES:
            raise ValueError("the generator would keep over 4 GiB: fewer joiners, or a smaller diagram")

    @property
    def label(self) -> str:
        return f"2 clients x {self.rate:g}/s beside {self.joiners} who join {self.kib:,} KiB"

    @property
    def goals(self) -> tuple[Goal, ...]:
        is_target = (self.joiners, self.kib, self.rate) == (100, 8192, 100)
        return (Goal("max_beside_ms", limit=20),) if is_target else ()

    @property
    def clients_at_once(self) -> int:
        return self.joiners + 1 + CLIENTS_IN_A_QUIET_ROOM

    async def measure(self, server: Server, place: Place) -> Run:
        """One storm. Raises `ServerError`, `OSError`, `TimeoutError` or `WSError`."""
        quiet = Quiet([await server.room()], self.rate, self.warm_up_s, self.seconds, self.settle_s)
        account = await self._measured(quiet, await server.room(), probe_of(server, place), server)
        return account.run(self, server.name, self._parameters, account.figures(), slip="own_slip_max_ms")

    @property
    def _parameters(self) -> dict[str, float]:
        return {"joiners": self.joiners, "kib": self.kib, "rate": self.rate}

    async def _measured(self, quiet: Quiet, large: Room, probe: Probe, _server: Server) -> Account:
        return await quiet.measured_beside(JoinStorm(large, probe, self.joiners, self.kib))


@dataclass(frozen=True)
class ColdStallLoad(StallLoad):
    """As `stall`, but nobody has the large diagram open: it is read for the first of those who join."""

    scenario: ClassVar[str] = "stall-cold"
    title: ClassVar[str] = "A quiet room beside a storm of joins, cold"
    needs: ClassVar[frozenset[str]] = frozenset({"durable"})

    cells: int = option(0, "Of a diagram as an editor draws it, instead of one flat map of so many KiB.")

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.cells <= 100_000 or self.joiners * self.cells * BYTES_A_CELL > MEMORY_LIMIT_BYTES:
            raise ValueError("up to 100,000 cells, and no more than 4 GiB of them for all joiners")

    @property
    def label(self) -> str:
        if not self.cells:
            return f"{super().label}, cold"
        return f"2 clients x {self.rate:g}/s beside {self.joiners} who join {self.cells:,} cells, cold"

    @property
    def goals(self) -> tuple[Goal, ...]:
        if not self.cells:
            return super().goals
        is_target = (self.joiners, self.cells, self.rate) == (100, CELLS_OF_8_MIB, 100)
        return (Goal("max_beside_ms", limit=20),) if is_target else ()

    @property
    def _parameters(self) -> dict[str, float]:
        return {**super()._parameters, "cells": self.cells}

    async def _measured(self, quiet: Quiet, large: Room, probe: Probe, server: Server) -> Account:
        storm: Task[Neighbour] = (
            DrawnStorm(large, probe, self.joiners, self.cells)
            if self.cells
            else JoinStorm(large, probe, self.joiners, self.kib, is_cold=True)
        )
        return await quiet.measured_beside(storm, lambda: server.until_evicted(inhabited=len(quiet.rooms)))


def check_quiet(rooms: int, rate: float) -> None:
    """Their writers go on for as long as the other load may take. Raises `ValueError`."""
    copies = rooms * CLIENTS_IN_A_QUIET_ROOM * rate * LOAD_TIMEOUT_S
    if copies * BYTES_A_COPY > MEMORY_LIMIT_BYTES:
        raise ValueError("the generator would keep over 4 GiB of frames: fewer quiet rooms, or fewer edits")
