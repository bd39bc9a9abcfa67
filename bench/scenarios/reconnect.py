"""A network that fails and comes back: many clients are cut off at one moment and return at one moment.

In each room one writer, who is not cut off, goes on writing. Who returns asks as a stock client does, with
the state vector of what it has, so that the server need only give the difference. It is back when its sync
is complete and it has read everything that was written before the storm began.
"""

import asyncio
from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import mean
from time import perf_counter
from typing import ClassVar

from bench.client import Client
from bench.ledger import Ledger, Window
from bench.load import Schedule
from bench.measuring import (
    CONDITIONS,
    Cost,
    client_number,
    collector_at_rest,
    known,
    latency_curve,
    leave_all,
    lost_connections,
    new_client,
    probe_of,
    remarks_on,
    until_quiet,
)
from bench.model import Figure, Goal, Place, Run, option
from bench.process import Moment, Probe
from bench.scenarios.fanout import BYTES_A_COPY, MEMORY_LIMIT_BYTES, delivery_faults, settle
from bench.scenarios.join import KIB, SEED_TIMEOUT_S, Seeder
from bench.scenarios.rooms import MAX_ROOMS, in_groups
from bench.servers import Room, Server
from bench.statistics import percentile

STORM_LIMIT_S = 60.0
"""The writers go on for as long; no client takes longer to return or to fail."""


@dataclass
class Party:
    """A room, its writer, and those who are cut off."""

    room: Room
    writer: Seeder
    others: list[Client]

    @property
    def everybody(self) -> list[Client]:
        return [self.writer, *self.others]


@dataclass(frozen=True)
class Back:
    """When one had its first sync again, and how many bytes of updates it had been given by then."""

    at: float
    given: int


@dataclass(frozen=True)
class Storm:
    """What is known of a storm while it blows."""

    before: Moment
    after: Moment
    back: Sequence[Sequence[Back]]
    """Of each room, in the order of those who were cut off."""
    missed: float
    """Bytes of updates, an average of the rooms."""


@dataclass(frozen=True)
class ReconnectLoad:
    """Everybody is cut off at one moment and comes back at one moment, while somebody writes."""

    scenario: ClassVar[str] = "reconnect-storm"
    title: ClassVar[str] = "A storm of reconnects"
    cost: ClassVar[str] = "cpu_ms"
    needs: ClassVar[frozenset[str]] = frozenset()
    figures: ClassVar[tuple[Figure, ...]] = (
        Figure("cpu_ms", "CPU", "ms/reconnect", "lower", ".2f"),
        Figure("database_ms", "Postgres", "ms/reconnect", "lower", ".2f"),
        Figure("p50_ms", "back, p50", "ms", "lower", ",.0f"),
        Figure("p99_ms", "back, p99", "ms", "lower", ",.0f"),
        Figure("max_ms", "back, all", "ms", "lower", ",.0f"),
        Figure("given_kib", "given", "KiB/reconnect", "lower"),
        Figure("missed_kib", "missed", "KiB/reconnect"),
        *CONDITIONS,
    )

    clients: int = option(200, "That are cut off, all rooms together.")
    rooms: int = option(10, "Each with a writer besides, who stays.")
    rate: float = option(10.0, "Edits per second of each writer.")
    kib: int = option(100, "Size of each diagram.")
    together_s: float = option(1.0, "Under load before the cut.")
    away_s: float = option(3.0, "From the cut to the return.")
    settle_s: float = option(10.0, "How long copies may be under way before they count as missing.")

    def __post_init__(self) -> None:
        if not 1 <= self.rooms <= min(self.clients, MAX_ROOMS) or self.clients > 5000:
            raise ValueError(f"up to 5,000 clients in at most {MAX_ROOMS} rooms, one or more in each")
        if self.rate <= 0 or self.kib < 1 or min(self.together_s, self.away_s, self.settle_s) < 0:
            raise ValueError("rate and size have to be positive")
        edits = self.rate * (self.together_s + self.away_s + STORM_LIMIT_S)
        if self.clients * (self.kib * KIB + edits * BYTES_A_COPY) > MEMORY_LIMIT_BYTES:
            raise ValueError("the generator would keep over 4 GiB: fewer or smaller diagrams, or fewer edits")

    @property
    def label(self) -> str:
        return f"{self.clients} clients, {self.rooms} rooms of {self.kib:,} KiB"

    @property
    def goals(self) -> tuple[Goal, ...]:
        return ()

    @property
    def clients_at_once(self) -> int:
        return self.clients + self.rooms

    async def measure(self, server: Server, place: Place) -> Run:
        """One storm in fresh rooms. Raises `ServerError`, `OSError`, `TimeoutError` or `WSError`."""
        parties = [self._party(number, await server.room()) for number in range(self.rooms)]
        everybody = [client for party in parties for client in party.everybody]
        try:
            await self._assemble(parties)
            storm = await self._storm(parties, probe_of(server, place))
            window = Window(storm.before.at, storm.after.at)
            ledgers = [Ledger(party.everybody) for party in parties]
            deliveries = await asyncio.gather(*(
                settle(party.everybody, ledger, window, self.settle_s)
                for party, ledger in zip(parties, ledgers, strict=True)
            ))  # fmt: skip
            faults = lost_connections(everybody)
            for delivery in deliveries:
                faults.extend(delivery_faults(delivery))
        finally:
            await leave_all(everybody)
        return self._run(server.name, storm, _took_s(parties, ledgers, storm), faults)

    def _party(self, number: int, room: Room) -> Party:
        others = range(number, self.clients, self.rooms)
        writer = Seeder(0, client_number(), room.dialect)
        return Party(room, writer, [new_client(1 + other, room) for other in others])

    async def _assemble(self, parties: Sequence[Party]) -> None:
        """All are there and have the whole diagram."""
        rooms = [party.room for party in parties]
        await in_groups(rooms, [[party.writer] for party in parties])
        for party in parties:
            party.writer.write(self.kib * KIB)
        await in_groups(rooms, [party.others for party in parties])
        everybody = [client for party in parties for client in party.everybody]
        await until_quiet(everybody, asyncio.get_running_loop().time() + SEED_TIMEOUT_S)
        for client in everybody:
            client.state_vector()  # decodes the diagram, so that little is left to decode in the storm

    async def _storm(self, parties: Sequence[Party], probe: Probe) -> Storm:
        """The writers write, the others are cut off and come back."""
        schedule = Schedule([party.writer for party in parties], self.rate)
        cut_off = [one for party in parties for one in party.others]
        with collector_at_rest():
            async with asyncio.TaskGroup() as group:
                sending = group.create_task(schedule.run(self.together_s + self.away_s + STORM_LIMIT_S))
                await asyncio.sleep(self.together_s)
                first_missed = [len(party.writer.sent_at) for party in parties]
                await asyncio.gather(*(one.cut() for one in cut_off))
                have = {one: one.state_vector() for one in cut_off}
                await asyncio.sleep(self.away_s)
                missed = mean(
                    len(party.writer.writer.since(first))
                    for party, first in zip(parties, first_missed, strict=True)
                )
                before = probe.read()
                back = await asyncio.gather(*(
                    asyncio.gather(*(come_back(one, party.room, have[one]) for one in party.others))
                    for party in parties
                ))  # fmt: skip
                after = probe.read()
                sending.cancel()
        return Storm(before, after, back, missed)

    def _run(self, server: str, storm: Storm, took_s: Sequence[float], faults: list[str]) -> Run:
        cost = Cost.between(storm.before, storm.after)
        conditions = cost.conditions()
        figures = {
            "cpu_ms": cost.server_us_per(self.clients) / 1e3,
            "database_ms": cost.database_us_per(self.clients) / 1e3,
            "p50_ms": percentile(took_s, 0.50) * 1e3,
            "p99_ms": percentile(took_s, 0.99) * 1e3,
            "max_ms": percentile(took_s, 1) * 1e3,
            "given_kib": sum(back.given for party in storm.back for back in party) / self.clients / KIB,
            "missed_kib": storm.missed / KIB,
        }
        parameters = {
            "clients": self.clients, "rooms": self.rooms, "rate": self.rate, "kib": self.kib,
            "away_s": self.away_s,
        }  # fmt: skip
        return Run(
            self.scenario, self.label, server, parameters, known(figures) | conditions,
            {"latency": latency_curve(took_s, "Time until joined")}, faults, remarks_on(conditions),
        )  # fmt: skip


async def come_back(one: Client, room: Room, have: bytes) -> Back:
    """Raises `OSError`, `TimeoutError` or `WSError`."""
    first = len(one.frames)
    await one.rejoin(room.url, have)
    at = perf_counter()
    return Back(at, sum(len(frame) for frame in one.frames[first:] if frame.startswith(one.dialect.updates)))


def _took_s(parties: Sequence[Party], ledgers: Sequence[Ledger], storm: Storm) -> "array[float]":
    """How long those took who have everything that was written before the storm, sorted."""
    start, took_s = storm.before.at, array("d")
    for party, ledger, returned in zip(parties, ledgers, storm.back, strict=True):
        for one, back in zip(party.others, returned, strict=True):
            current_at = ledger.current_at(one, start)
            if current_at is not None:
                took_s.append(max(back.at, current_at) - start)
    return array("d", sorted(took_s))
