"""Many small rooms: what an edit costs where nothing can be shared among readers.

A server that keeps its documents has to prove it here: everybody leaves, the rooms are evicted, and a
newcomer to each has to be given every edit, from the database alone.
"""

import asyncio
from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from bench.client import Client
from bench.ledger import Delivery, Ledger, Window
from bench.load import Schedule
from bench.measuring import (
    CONDITIONS,
    JOINS_AT_ONCE,
    Cost,
    behind,
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
from bench.model import Figure, Goal, Place, Run, option
from bench.scenarios.fanout import settle
from bench.servers import Room, Server
from bench.statistics import percentile

MAX_ROOMS = 2000


@dataclass(frozen=True)
class RoomsLoad:
    """Many small rooms at once: what an edit costs."""

    scenario: ClassVar[str] = "rooms"
    title: ClassVar[str] = "Many small rooms"
    cost: ClassVar[str] = "cpu_us"
    needs: ClassVar[frozenset[str]] = frozenset()
    figures: ClassVar[tuple[Figure, ...]] = (
        Figure("cpu_us", "CPU", "us/edit", "lower", ".0f"),
        Figure("database_us", "Postgres", "us/edit", "lower", ".0f"),
        Figure("p50_ms", "p50", "ms", "lower"),
        Figure("p99_ms", "p99", "ms", "lower"),
        Figure("max_ms", "max", "ms", "lower", in_table=False),
        Figure("edits_per_s", "edits", "a second", form=",.0f"),
        *CONDITIONS,
    )

    rooms: int = option(200, "At once.")
    clients: int = option(2, "In each room; all of them write.")
    rate: float = option(5.0, "Edits per second of each client.")
    seconds: float = option(5.0, "Measured.")
    warm_up_s: float = option(1.5, "Under load before that.")
    settle_s: float = option(5.0, "How long copies may be under way before they count as missing.")

    def __post_init__(self) -> None:
        if not 1 <= self.rooms <= MAX_ROOMS or not 2 <= self.clients <= 50:
            raise ValueError(f"there have to be 1 to {MAX_ROOMS} rooms of 2 to 50 clients each")
        if min(self.rate, self.seconds) <= 0 or min(self.warm_up_s, self.settle_s) < 0:
            raise ValueError("rate and seconds have to be positive")
        if self.rooms * self.clients**2 * self.rate * (self.seconds + self.warm_up_s) > 10_000_000:
            raise ValueError("that is over ten million copies: fewer rooms, clients, edits or seconds")

    @property
    def label(self) -> str:
        return f"{self.rooms} rooms x {self.clients} clients, {self.rate:g}/s each"

    @property
    def goals(self) -> tuple[Goal, ...]:
        return (Goal("cpu_us", ratio=0.8),) if (self.rooms, self.clients, self.rate) == (200, 2, 5) else ()

    @property
    def clients_at_once(self) -> int:
        return self.rooms * (self.clients + 1)

    async def measure(self, server: Server, place: Place) -> Run:
        """One run in fresh rooms. Raises `ServerError`, `OSError`, `TimeoutError` or `WSError`."""
        rooms = [await server.room() for _ in range(self.rooms)]
        members = [[new_client(number, room) for number in range(self.clients)] for room in rooms]
        everybody = [client for clients in members for client in clients]
        newcomers = [new_client(self.clients, room) for room in rooms]
        schedule = Schedule(everybody, self.rate)
        try:
            await in_groups(rooms, members)
            before, after = await drive(schedule, self.warm_up_s, self.seconds, probe_of(server, place))
            ledgers = [Ledger(clients) for clients in members]
            deliveries = await self._settled(members, ledgers, Window(before.at, after.at))
            faults = lost_connections(everybody)
            if "durable" in server.offers:
                await leave_all(everybody)
                await server.until_evicted()
            await in_groups(rooms, [[newcomer] for newcomer in newcomers])
            unseen = sum(ledger.missing(one) for ledger, one in zip(ledgers, newcomers, strict=True))
        finally:
            await leave_all([*everybody, *newcomers])
        return self._run(server.name, deliveries, Cost.between(before, after), schedule, faults, unseen)

    async def _settled(
        self, members: Sequence[Sequence[Client]], ledgers: Sequence[Ledger], window: Window
    ) -> list[Delivery]:
        settling = (
            settle(clients, ledger, window, self.settle_s)
            for clients, ledger in zip(members, ledgers, strict=True)
        )
        return list(await asyncio.gather(*settling))

    def _run(
        self, server: str, deliveries: Sequence[Delivery], cost: Cost, schedule: Schedule[Client],
        faults: list[str], unseen: int,
    ) -> Run:  # fmt: skip
        latencies = array("d", sorted(latency for one in deliveries for latency in one.latencies_s))
        edits, due = sum(one.edits for one in deliveries), sum(one.copies_due for one in deliveries)
        delivered = sum(one.copies_in_window for one in deliveries) / (self.clients - 1)
        conditions = cost.conditions(schedule.late_s)
        sent = sum(one.sent_in_window for one in deliveries)
        counts = (
            (sum(one.copies_missing for one in deliveries), f"of {due} copies never arrived"),
            (sum(one.altered for one in deliveries), "edits arrived altered"),
            (sum(one.invented for one in deliveries), "edits arrived that nobody sent"),
            (sum(one.undecodable for one in deliveries), "frames could not be read"),
            (unseen, f"of {edits} edits were not given to newcomers"),
        )
        figures = {
            "cpu_us": cost.server_us_per(delivered),
            "database_us": cost.database_us_per(delivered),
            "p50_ms": percentile(latencies, 0.50) * 1e3,
            "p99_ms": percentile(latencies, 0.99) * 1e3,
            "max_ms": percentile(latencies, 1) * 1e3,
            "edits_per_s": delivered / cost.seconds,
        }
        parameters = {
            "rooms": self.rooms,
            "clients": self.clients,
            "rate": self.rate,
            "seconds": self.seconds,
        }
        return Run(
            self.scenario, self.label, server, parameters, known(figures) | conditions,
            {"latency": latency_curve(latencies)},
            [*faults, *(f"{count} {what}" for count, what in counts if count)],
            [*remarks_on(conditions), *behind(delivered, sent)],
        )  # fmt: skip


async def in_groups(rooms: Sequence[Room], members: Sequence[Sequence[Client]]) -> None:
    """The members join their rooms, some rooms at a time."""
    for first in range(0, len(rooms), JOINS_AT_ONCE):
        some = slice(first, first + JOINS_AT_ONCE)
        pairs = zip(rooms[some], members[some], strict=True)
        await asyncio.gather(*(join_all(clients, room) for room, clients in pairs))
