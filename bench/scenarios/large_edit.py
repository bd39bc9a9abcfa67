"""A quiet room beside a large edit: somebody brings a diagram that was drawn elsewhere, in one message.

It is measured as beside a storm of joins (`bench/scenarios/neighbours.py`): the edit comes from a process of
its own, in which somebody else waits until all of it has arrived.
"""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from time import perf_counter
from typing import ClassVar

from bench.client import Client
from bench.measuring import CONDITIONS, leave_all, lost_connections, new_client, probe_of
from bench.model import Figure, Goal, Place, Run, option
from bench.process import Probe
from bench.scenarios.cold_open import Draughtsman, Pen, states_in
from bench.scenarios.neighbours import (
    BYTES_A_CELL,
    CLIENTS_IN_A_QUIET_ROOM,
    QUIET_FIGURES,
    Neighbour,
    Quiet,
    check_quiet,
)
from bench.servers import Room, Server

NEARLY_ALL = 0.95
"""Servers may encode an edit in fewer bytes. From so many on all of it is looked for."""
LOOK_EVERY_S = 0.02


@dataclass(frozen=True)
class LargeEdit:
    """One client sends it, and another one in its room waits for all of it."""

    room: Room
    probe: Probe
    cells: int
    settle_s: float

    async def run(self, until_told: Callable[[], Awaitable[None]]) -> Neighbour:
        author, watcher = Pen(self.room), new_client(1, self.room)
        drawing = Draughtsman(author.writer.client)
        update = drawing.draw(range(self.cells))
        try:
            await author.join(self.room.url)
            await watcher.join(self.room.url)
            await until_told()
            before = self.probe.read()
            author.send(update)
            missing = await _arrived(watcher, drawing, len(update), self.settle_s)
            after = self.probe.read()
            faults = lost_connections([author, watcher])
        finally:
            await leave_all([author, watcher])
        if missing:
            faults.append(f"the other editor lacks {missing} of {len(drawing.written)} properties")
        seen_s = watcher.read_at[-1] - before.at if watcher.read_at else 0.0
        return Neighbour(before, after, {"seen_ms": seen_s * 1e3, "kib": len(update) / 1024}, faults)


async def _arrived(watcher: Client, drawing: Draughtsman, size: int, patience_s: float) -> int:
    """How many properties have not when all have, or the time is over."""
    deadline = perf_counter() + patience_s
    counted, received = 0, 0
    while True:
        received += sum(map(len, watcher.frames[counted:]))
        counted = len(watcher.frames)
        is_over = perf_counter() > deadline
        if is_over or received >= NEARLY_ALL * size:
            missing = drawing.lacking(states_in(watcher))
            if is_over or not missing:
                return missing
        await asyncio.sleep(LOOK_EVERY_S)


@dataclass(frozen=True)
class EditStallLoad:
    """Another room while somebody brings a large diagram in one message: the longest pause that it sees."""

    scenario: ClassVar[str] = "stall-edit"
    title: ClassVar[str] = "A quiet room beside a large edit"
    cost: ClassVar[str] = "max_beside_ms"
    needs: ClassVar[frozenset[str]] = frozenset()
    figures: ClassVar[tuple[Figure, ...]] = (
        *QUIET_FIGURES,
        Figure("seen_ms", "edit seen by another", "after ms", "lower", ",.0f"),
        Figure("kib", "edit", "KiB", form=",.0f", in_table=False),
        *CONDITIONS,
    )

    cells: int = option(6000, "Of the diagram that is brought.")
    rate: float = option(100.0, "Edits per second of each of the two clients of the other room.")
    seconds: float = option(5.0, "Measured alone; the edit takes as long as it takes.")
    warm_up_s: float = option(1.5, "Under load before that.")
    settle_s: float = option(30.0, "How long copies, and the edit, may be under way before they are missing.")

    def __post_init__(self) -> None:
        if not 1 <= self.cells <= 50_000:
            raise ValueError(f"1 to 50,000 cells of {BYTES_A_CELL} bytes, since a message may have 16 MiB")
        if min(self.rate, self.seconds) <= 0 or min(self.warm_up_s, self.settle_s) < 0:
            raise ValueError("rate and seconds have to be positive")
        check_quiet(1, self.rate)

    @property
    def label(self) -> str:
        return f"2 clients x {self.rate:g}/s beside an edit of {self.cells:,} cells"

    @property
    def goals(self) -> tuple[Goal, ...]:
        return (Goal("max_beside_ms", limit=20),) if (self.cells, self.rate) == (6000, 100) else ()

    @property
    def clients_at_once(self) -> int:
        return 2 + CLIENTS_IN_A_QUIET_ROOM

    async def measure(self, server: Server, place: Place) -> Run:
        """One edit. Raises `ServerError`, `OSError`, `TimeoutError` or `WSError`."""
        quiet = Quiet([await server.room()], self.rate, self.warm_up_s, self.seconds, self.settle_s)
        edit = LargeEdit(await server.room(), probe_of(server, place), self.cells, self.settle_s)
        account = await quiet.measured_beside(edit)
        parameters = {"cells": self.cells, "rate": self.rate}
        return account.run(self, server.name, parameters, account.figures(), slip="own_slip_max_ms")
