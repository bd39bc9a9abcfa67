"""A storm of joins on one large diagram: what a join costs, and how long it takes to have everything.

The diagram is written by one client: as many small properties as a diagram of that size has, some forty bytes
each, so that a server that builds its answer from the document has real work to do. A join is complete when
the frame that completes the first sync is read; afterwards every joiner's frames are checked for all.

Warm, the room is open: a witness stays in it. Cold, everybody has left and the server has evicted the room
before the storm, so the first joiner's answer comes from the database, and the others wait for it.

Before that come storms on another diagram of the same size: servers that compile as they run get faster, and
no cache of the measured diagram may be filled by them.
"""

import asyncio
from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from time import perf_counter
from typing import ClassVar

from picows import WSMsgType

from bench.client import Client
from bench.ledger import Ledger
from bench.measuring import (
    CONDITIONS,
    Cost,
    collector_at_rest,
    known,
    latency_curve,
    leave_all,
    lost_connections,
    new_client,
    probe_of,
    remarks_on,
)
from bench.model import Figure, Goal, Place, Run, option
from bench.process import Moment, Probe
from bench.servers import Room, Server, ServerError
from bench.statistics import percentile
from bench.yjs import any_position

KIB = 1024
BYTES_A_FRAME = 64 * KIB
MEMORY_LIMIT_BYTES = 4 << 30
SEED_TIMEOUT_S = 60.0
WITNESS_PAUSE_S = 0.25


class Seeder(Client):
    """Writes a large document, many properties a frame."""

    def write(self, size_bytes: int) -> None:
        """So many bytes of updates. Nothing is drained in between: the whole fits into memory."""
        assert self._transport is not None
        written = 0
        while written < size_bytes:
            start, frame_bytes = len(self.sent_at), 0
            while frame_bytes < BYTES_A_FRAME and written + frame_bytes < size_bytes:
                number = len(self.sent_at)
                key = b"cell-%08d.position" % number
                frame_bytes += len(self.writer.set(key, any_position(number % 1900, number % 1070)))
                self.sent_at.append(perf_counter())
            written += frame_bytes
            self._transport.send(WSMsgType.BINARY, self.dialect.tell(self.writer.since(start)))


@dataclass(frozen=True)
class JoinLoad:
    """Many clients join one large diagram at the same moment; the room is open already."""

    scenario: ClassVar[str] = "join"
    title: ClassVar[str] = "A storm of joins, warm"
    cost: ClassVar[str] = "cpu_ms"
    needs: ClassVar[frozenset[str]] = frozenset()
    figures: ClassVar[tuple[Figure, ...]] = (
        Figure("cpu_ms", "CPU", "ms/join", "lower", ".2f"),
        Figure("database_ms", "Postgres", "ms/join", "lower", ".2f"),
        Figure("p50_ms", "joined, p50", "ms", "lower", ",.0f"),
        Figure("p99_ms", "joined, p99", "ms", "lower", ",.0f"),
        Figure("mib_per_s", "given out", "MiB/s", "higher", ",.0f"),
        *CONDITIONS,
    )

    joiners: int = option(100, "At once.")
    kib: int = option(800, "Size of the diagram.")
    warm_up_s: float = option(3.0, "Of storms on another diagram before that, as servers compile.")

    def __post_init__(self) -> None:
        if not 1 <= self.joiners <= 5000 or not 1 <= self.kib <= 65536:
            raise ValueError("1 to 5,000 joiners of a diagram of 1 KiB to 64 MiB")
        if not 0 <= self.warm_up_s <= 60:
            raise ValueError("a warm-up lasts 60 s at most")
        if self.joiners * self.kib * KIB > MEMORY_LIMIT_BYTES:
            raise ValueError(
                "the generator would keep over 4 GiB of states: fewer joiners, or a smaller diagram"
            )

    @property
    def label(self) -> str:
        return f"{self.joiners} clients join {self.kib:,} KiB"

    @property
    def goals(self) -> tuple[Goal, ...]:
        return (Goal("cpu_ms", ratio=0.25),) if (self.joiners, self.kib) == (100, 800) else ()

    @property
    def clients_at_once(self) -> int:
        return self.joiners

    async def measure(self, server: Server, place: Place) -> Run:
        """One storm on a fresh diagram. Raises `ServerError`, `OSError`, `TimeoutError` or `WSError`."""
        early_faults = await self._warm_up(server)
        room = await server.room()
        seeder = Seeder(0, new_client(0, room).writer.client, room.dialect)
        ledger = Ledger([seeder])
        witnesses: list[Client] = []
        joiners = [new_client(number, room) for number in range(1, self.joiners + 1)]
        try:
            await seeder.join(room.url)
            seeder.write(self.kib * KIB)
            witnesses.append(await until_complete(room, ledger))
            await self._prepare(server, [seeder, *witnesses])
            before, after, took_s = await storm(joiners, room, probe_of(server, place))
            lacking = joiner_faults(joiners, ledger, len(seeder.sent_at))
            faults = [*early_faults, *lost_connections(joiners), *lacking]
        finally:
            await leave_all([seeder, *witnesses, *joiners])
        return self._run(server.name, Cost.between(before, after), took_s, joiners, faults)

    async def _warm_up(self, server: Server) -> list[str]:
        """Storms, one after the other, until the time is over; connections that were lost are faults."""
        if not self.warm_up_s:
            return []
        room, faults = await server.room(), []
        seeder = Seeder(0, new_client(0, room).writer.client, room.dialect)
        witnesses: list[Client] = []
        try:
            await seeder.join(room.url)
            seeder.write(self.kib * KIB)
            witnesses.append(await until_complete(room, Ledger([seeder])))
            await seeder.leave()
            until = perf_counter() + self.warm_up_s
            while perf_counter() < until:
                joiners = [new_client(number, room) for number in range(1, self.joiners + 1)]
                try:
                    await asyncio.gather(*(joiner.join(room.url) for joiner in joiners))
                    faults += lost_connections(joiners)
                finally:
                    await leave_all(joiners)
        finally:
            await leave_all([seeder, *witnesses])
        return faults

    async def _prepare(self, server: Server, present: Sequence[Client]) -> None:  # noqa: ARG002 - of all servers
        """The seeder leaves; a witness keeps the room open."""
        await present[0].leave()

    def _run(
        self, server: str, cost: Cost, took_s: Sequence[float], joiners: Sequence[Client], faults: list[str]
    ) -> Run:
        conditions = cost.conditions()
        received = sum(len(frame) for joiner in joiners for frame in joiner.frames)
        figures = {
            "cpu_ms": cost.server_us_per(len(joiners)) / 1e3,
            "database_ms": cost.database_us_per(len(joiners)) / 1e3,
            "p50_ms": percentile(took_s, 0.50) * 1e3,
            "p99_ms": percentile(took_s, 0.99) * 1e3,
            "mib_per_s": received / (1 << 20) / cost.seconds,
        }
        parameters: dict[str, float] = {"joiners": self.joiners, "kib": self.kib}
        return Run(
            self.scenario, self.label, server, parameters, known(figures) | conditions,
            {"latency": latency_curve(took_s, "Time until joined")}, faults, remarks_on(conditions),
        )  # fmt: skip


@dataclass(frozen=True)
class ColdJoinLoad(JoinLoad):
    """Many clients join one large diagram whose room has been evicted: the first answer is the database's."""

    scenario: ClassVar[str] = "join-cold"
    title: ClassVar[str] = "A storm of joins, cold"
    needs: ClassVar[frozenset[str]] = frozenset({"durable"})

    @property
    def goals(self) -> tuple[Goal, ...]:
        return ()

    async def _prepare(self, server: Server, present: Sequence[Client]) -> None:
        """All leave, and the room is evicted."""
        await leave_all(present)
        await server.until_evicted()


async def until_complete(room: Room, ledger: Ledger) -> Client:
    """Newcomers look in until one is given the whole diagram; that one stays. Raises `ServerError`."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + SEED_TIMEOUT_S
    while True:
        witness = new_client(0, room)
        await witness.join(room.url)
        missing = ledger.missing(witness)
        if not missing:
            return witness
        await witness.leave()
        if loop.time() > deadline:
            raise ServerError(f"a newcomer still lacks {missing} properties after {SEED_TIMEOUT_S:.0f} s")
        await asyncio.sleep(WITNESS_PAUSE_S)


async def storm(joiners: Sequence[Client], room: Room, probe: Probe) -> tuple[Moment, Moment, "array[float]"]:
    """All join at once; the moments around it, and how long each took, sorted, in seconds."""

    async def timed(joiner: Client) -> float:
        start = perf_counter()
        await joiner.join(room.url)
        return perf_counter() - start

    with collector_at_rest():
        before = probe.read()
        took_s = await asyncio.gather(*(timed(joiner) for joiner in joiners))
        return before, probe.read(), array("d", sorted(took_s))


def joiner_faults(joiners: Sequence[Client], ledger: Ledger, properties: int) -> list[str]:
    lacking = [missing for missing in map(ledger.missing, joiners) if missing]
    if not lacking:
        return []
    return [f"{len(lacking)} of {len(joiners)} joiners lack up to {max(lacking)} of {properties} properties"]
