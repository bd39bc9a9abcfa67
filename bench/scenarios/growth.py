"""What a room costs after a thousand edits, and after a million, while its document stays as small as it was.

Each writer sets one key over and over, as somebody does who drags a node all day. Yjs keeps one struct for
all that was replaced, so neither the document nor a newcomer's first sync grows. Whatever grows all the same
is the server's own: a log kept in memory, or a document that is searched from its beginning. At each power of
ten the edits stop; a newcomer joins, and then a few seconds at a modest rate show what an edit costs by now.

Nobody keeps frames here, since a million of them would not do. An onlooker reads each as it comes, and it and
every newcomer have to have the last value of each key and everything before it, without a gap.
"""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import isnan
from time import perf_counter
from typing import ClassVar

from picows import WSFrame, WSMsgType, WSTransport

from bench.client import ROOT, Client
from bench.load import TIMER_RESOLUTION_S, Schedule
from bench.measuring import (
    CONDITIONS,
    Cost,
    behind,
    client_number,
    drive,
    known,
    leave_all,
    lost_connections,
    new_client,
    probe_of,
    remarks_on,
)
from bench.model import Curve, Figure, Goal, Place, Run, option
from bench.process import Probe
from bench.protocols import Dialect
from bench.scenarios.cold_open import states_in
from bench.servers import Room, Server
from bench.yjs import Overwriter, Reader, any_position, clock_in_state_vector, structs

FIRST_STEP = 1000
MAX_EDITS = 10_000_000
UNDER_WAY = 500
"""Edits of one writer that the onlooker has not seen yet."""

ENOUGH_FOR_MEMORY = 1_000_000
"""With fewer edits, what an allocator keeps by chance weighs more than four bytes for each of them."""

ENOUGH_FOR_SYNC = 100_000
"""Likewise: a server may send what is newest behind a state that it keeps encoded."""

EDITS_BETWEEN_READS = 50
STALLED_AFTER_S = 20.0
QUIET_S = 1.0
"""After a step has been reached, for what the server does in the background."""


class Dragger(Client):
    """Sets its key over and over, and keeps nothing of what it reads."""

    def __init__(self, number: int, client_id: int, dialect: Dialect) -> None:
        super().__init__(number, client_id, dialect)
        self.node = Overwriter(client_id, ROOT, b"node %d" % number)

    def drag(self) -> None:
        assert self._transport is not None
        update = self.node.set(any_position(self.node.count, self.number))
        self.sent_at.append(perf_counter())
        self._transport.send(WSMsgType.BINARY, self.dialect.tell(update))

    def on_ws_frame(self, transport: WSTransport, frame: WSFrame) -> None:
        super().on_ws_frame(transport, frame)
        self.frames.clear()
        del self.read_at[:]

    def _answer(self, transport: WSTransport, payload: bytes) -> None:
        have = clock_in_state_vector(Reader(payload[len(self.dialect.asked) :]).chunk(), self.node.client)
        transport.send(WSMsgType.BINARY, self.dialect.answer(self.node.since(have)))


@dataclass
class Trail:
    """How far one has come with one writer."""

    key: bytes | None = None
    count: int = 0
    content: bytes = b""
    gaps: int = 0


class Trails(dict[int, Trail]):
    """How far one has come with each writer, by Yjs client id."""

    def follow(self, update: bytes) -> None:
        """Raises `ValueError`."""
        for client, clock, length, key, content in structs(update):
            trail = self.setdefault(client, Trail(key))
            if clock + length > trail.count:
                trail.gaps += clock > trail.count
                trail.count, trail.content = clock + length, content

    def faults(self, who: str, nodes: Sequence[Overwriter]) -> list[str]:
        """What this one lacks of all that was written."""
        pairs = [(self.get(node.client, Trail()), node) for node in nodes]
        counts = (
            (sum(a.count < b.count or a.gaps > 0 for a, b in pairs), "edits"),
            (sum((a.key, a.content) != (b.key, b.content) for a, b in pairs), "last values"),
        )
        return [
            f"{who} lacks {what} of {count} of {len(nodes)} writers" for count, what in counts if count
        ]


class Onlooker(Client):
    """Reads frames as they come, and keeps only how far it has come."""

    def __init__(self, number: int, client_id: int, dialect: Dialect) -> None:
        super().__init__(number, client_id, dialect)
        self.trails = Trails()

    def on_ws_frame(self, transport: WSTransport, frame: WSFrame) -> None:
        super().on_ws_frame(transport, frame)
        try:
            for update in states_in(self):
                self.trails.follow(update)
        except ValueError as error:
            self.lost = f"a frame could not be read: {error}"
        self.frames.clear()
        del self.read_at[:]

    def behind(self, writer: Dragger) -> int:
        """How many of the writer's edits it has not seen."""
        trail = self.trails.get(writer.node.client)
        return writer.node.count - (trail.count if trail else 0)


@dataclass(frozen=True)
class Step:
    """What was found after so many edits."""

    edits: int
    filled_per_s: float
    sync_bytes: int
    sent: int
    """Edits of the measured window, and its cost."""
    cost: Cost
    conditions: dict[str, float]
    remarks: list[str]
    faults: list[str]

    @property
    def cpu_us(self) -> float:
        """Of one edit; not-a-number out of sight."""
        return self.cost.server_us_per(self.sent)

    @property
    def rss(self) -> float:
        """Bytes; not-a-number out of sight."""
        return float("nan") if self.cost.server_rss is None else float(self.cost.server_rss)


@dataclass(frozen=True)
class GrowthLoad:
    """One small document, edited a great many times: what an edit costs then, and what past ones left."""

    scenario: ClassVar[str] = "growth"
    title: ClassVar[str] = "Growth with past edits"
    cost: ClassVar[str] = "cpu_us"
    needs: ClassVar[frozenset[str]] = frozenset()
    figures: ClassVar[tuple[Figure, ...]] = (
        Figure("cost_growth", "CPU at the end", "x that after 1,000", "lower", ".2f"),
        Figure("memory_growth", "memory", "B/past edit", "lower"),
        Figure("sync_growth", "first sync", "B/past edit", "lower", ".3f"),
        Figure("cpu_us", "CPU at the end", "us/edit", "lower", ",.0f"),
        Figure("first_cpu_us", "CPU after 1,000", "us/edit", "lower", ",.0f", in_table=False),
        Figure("database_us", "Postgres", "us/edit", "lower", ",.0f", in_table=False),
        Figure("sync_bytes", "first sync", "bytes", "lower", ",.0f"),
        Figure("filled_per_s", "edits taken", "a second", "higher", ",.0f"),
        *CONDITIONS,
    )

    edits: int = option(100_000, "In the end; looked at after 1,000, 10,000 and so on.")
    writers: int = option(2, "Each of them sets one key over and over.")
    rate: float = option(250.0, "Edits per second of each writer while the cost is measured.")
    seconds: float = option(4.0, "Measured at each step.")
    warm_up_s: float = option(0.5, "Under load before that.")
    finely: bool = option(False, "Look after 3,000, 30,000 and so on, too.")

    def __post_init__(self) -> None:
        if not 10 * FIRST_STEP <= self.edits <= MAX_EDITS:
            raise ValueError(f"{10 * FIRST_STEP:,} to {MAX_EDITS:,} edits")
        if not 1 <= self.writers <= 50 or min(self.rate, self.seconds) <= 0 or self.warm_up_s < 0:
            raise ValueError("1 to 50 writers; rate and seconds have to be positive")
        room = (2 if self.finely else 9) * FIRST_STEP
        if self.writers * self.rate * (self.seconds + self.warm_up_s) > room:
            raise ValueError(f"a window of over {room:,} edits would go beyond the next step")

    @property
    def steps(self) -> list[int]:
        heads = (1, 3) if self.finely else (1,)
        steps = [head * 10**power for power in range(3, 8) for head in heads]
        return [step for step in steps if step <= self.edits]

    @property
    def label(self) -> str:
        return f"{self.edits:,} edits of {self.writers} keys"

    @property
    def goals(self) -> tuple[Goal, ...]:
        goals = [Goal("cost_growth", limit=1.2)]
        if self.edits >= ENOUGH_FOR_SYNC:
            goals.append(Goal("sync_growth", limit=0.1))
        if self.edits >= ENOUGH_FOR_MEMORY:
            goals.append(Goal("memory_growth", limit=4))
        return tuple(goals)

    @property
    def clients_at_once(self) -> int:
        return self.writers + 1

    async def measure(self, server: Server, place: Place) -> Run:
        """One room, step by step. Raises `ServerError`, `OSError`, `TimeoutError` or `WSError`."""
        server.is_worn = True
        room = await server.room()
        writers = [Dragger(number, client_number(), room.dialect) for number in range(self.writers)]
        onlooker = Onlooker(self.writers, client_number(), room.dialect)
        present, nodes = [onlooker, *writers], [writer.node for writer in writers]
        try:
            for client in present:
                await client.join(room.url)
            probe = probe_of(server, place)
            steps = [await self._step(edits, writers, onlooker, room, probe) for edits in self.steps]
            for writer in writers:
                await caught_up(onlooker, writer)
            faults = [*lost_connections(present), *onlooker.trails.faults("the onlooker", nodes)]
            if "durable" in server.offers:
                await leave_all(present)
                await server.until_evicted()
            trails, _ = await first_sync(room)
            faults += trails.faults("a newcomer at the end", nodes)
        finally:
            await leave_all(present)
        return self._run(server.name, steps, faults)

    async def _step(
        self, edits: int, writers: Sequence[Dragger], onlooker: Onlooker, room: Room, probe: Probe
    ) -> Step:
        filled_per_s = await fill(writers, onlooker, edits)
        await asyncio.sleep(QUIET_S)
        trails, sync_bytes = await first_sync(room)
        faults = trails.faults(f"a newcomer after {edits:,} edits", [writer.node for writer in writers])
        schedule = Schedule(writers, self.rate, Dragger.drag)
        before, after = await drive(schedule, self.warm_up_s, self.seconds, probe)
        under_way = sum(onlooker.behind(writer) for writer in writers)
        sent = sum(before.at <= at < after.at for writer in writers for at in writer.sent_at)
        cost = Cost.between(before, after)
        conditions = cost.conditions(schedule.late_s)
        remarks = [*remarks_on(conditions), *behind(sent - under_way, sent)]
        return Step(edits, filled_per_s, sync_bytes, sent, cost, conditions, remarks, faults)

    def _run(self, server: str, steps: Sequence[Step], faults: Sequence[str]) -> Run:
        first, last = steps[0], steps[-1]
        figures = {
            "cost_growth": last.cpu_us / (first.cpu_us or float("nan")),
            "memory_growth": (last.rss - first.rss) / (last.edits - first.edits),
            "sync_growth": (last.sync_bytes - first.sync_bytes) / (last.edits - first.edits),
            "cpu_us": last.cpu_us,
            "first_cpu_us": first.cpu_us,
            "database_us": last.cost.database_us_per(last.sent),
            "sync_bytes": float(last.sync_bytes),
            "filled_per_s": last.filled_per_s,
        }
        parameters = {
            "edits": self.edits, "writers": self.writers, "rate": self.rate, "seconds": self.seconds
        }  # fmt: skip
        return Run(
            self.scenario, self.label, server, parameters, known(figures) | last.conditions,
            _curves(steps), [*(fault for step in steps for fault in step.faults), *faults],
            list(dict.fromkeys(remark for step in steps for remark in step.remarks)),
        )  # fmt: skip


@dataclass(frozen=True)
class OwnGrowthLoad(GrowthLoad):
    """The same of TMI alone: peers are compared in a run of its own."""

    needs: ClassVar[frozenset[str]] = frozenset({"rest"})


def _curves(steps: Sequence[Step]) -> dict[str, Curve]:
    def against_edits(title: str, unit: str, value: Callable[[Step], float]) -> Curve:
        points = [(float(step.edits), value(step)) for step in steps]
        return Curve(title, "past edits", unit, points, logarithmic_x=True)

    sync = against_edits("First sync against past edits", "bytes", lambda step: float(step.sync_bytes))
    if isnan(steps[0].rss):
        return {"sync": sync}
    return {
        "memory": against_edits("Memory against past edits", "MiB", lambda step: step.rss / (1 << 20)),
        "cost": against_edits("CPU time of an edit against past edits", "us", lambda step: step.cpu_us),
        "sync": sync,
    }


async def fill(writers: Sequence[Dragger], onlooker: Onlooker, edits: int) -> float:
    """The writers bring the room to so many edits as fast as it takes them: how many a second that was.

    Raises `ConnectionError`, and `TimeoutError` if nothing moves for a while.
    """

    async def bring(writer: Dragger) -> None:
        while writer.node.count < edits // len(writers):
            await caught_up(onlooker, writer, UNDER_WAY)
            for _ in range(min(EDITS_BETWEEN_READS, edits // len(writers) - writer.node.count)):
                writer.drag()
            await asyncio.sleep(0)
        await caught_up(onlooker, writer)

    start, before = perf_counter(), sum(writer.node.count for writer in writers)
    await asyncio.gather(*map(bring, writers))
    return (sum(writer.node.count for writer in writers) - before) / (perf_counter() - start)


async def caught_up(onlooker: Onlooker, writer: Dragger, but_for: int = 0) -> None:
    """Until the onlooker has seen all of the writer's edits but so many.

    Raises `ConnectionError`, and `TimeoutError` if that takes too long.
    """
    deadline = perf_counter() + STALLED_AFTER_S
    while onlooker.behind(writer) > but_for:
        for client in (writer, onlooker):
            if client.lost is not None:
                raise ConnectionError(f"client {client.number}: {client.lost}")
        if perf_counter() > deadline:
            raise TimeoutError(f"{onlooker.behind(writer)} edits did not arrive in {STALLED_AFTER_S:.0f} s")
        await asyncio.sleep(TIMER_RESOLUTION_S)


async def first_sync(room: Room) -> tuple[Trails, int]:
    """What a newcomer is given, and how many bytes of updates that is."""
    newcomer, trails = new_client(0, room), Trails()
    try:
        await newcomer.join(room.url)
    finally:
        await leave_all([newcomer])
    updates = list(states_in(newcomer))
    for update in updates:
        trails.follow(update)
    return trails, sum(map(len, updates))
