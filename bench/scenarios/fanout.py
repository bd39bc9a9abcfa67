"""One room, N clients, W of them writing: what a delivered copy of an edit costs, and how long it takes."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from bench.client import Client
from bench.ledger import Delivery, Ledger, Window
from bench.load import Schedule
from bench.measuring import (
    CONDITIONS,
    QUIET_S,
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
    until_quiet,
)
from bench.model import Figure, Goal, Place, Run, option
from bench.servers import Server
from bench.statistics import percentile

MEMORY_LIMIT_BYTES = 4 << 30
BYTES_A_COPY = 200
"""What the generator keeps for one copy that arrives in a frame of its own, at most."""

GOALS: dict[float, tuple[Goal, ...]] = {
    10: (Goal("cpu_us", ratio=0.85), Goal("p50_ms", ratio=1.5)),
    40: (Goal("cpu_us", ratio=0.45), Goal("p99_ms", limit=20)),
    100: (Goal("cpu_us", ratio=0.25), Goal("p99_ms", limit=20)),
    200: (Goal("cpu_us", ratio=0.2), Goal("p99_ms", limit=20)),
}
"""With 50 clients and 10 writers, by edits per second of each."""


@dataclass(frozen=True)
class FanoutLoad:
    """One room: what a delivered copy of an edit costs, and how long it takes."""

    scenario: ClassVar[str] = "fanout"
    title: ClassVar[str] = "Fan-out in one room"
    cost: ClassVar[str] = "cpu_us"
    needs: ClassVar[frozenset[str]] = frozenset()
    figures: ClassVar[tuple[Figure, ...]] = (
        Figure("cpu_us", "CPU", "us/copy", "lower", ".2f"),
        Figure("p50_ms", "p50", "ms", "lower"),
        Figure("p99_ms", "p99", "ms", "lower"),
        Figure("max_ms", "max", "ms", "lower", in_table=False),
        Figure("database_us", "Postgres", "us/copy", "lower", ".2f"),
        Figure("copies_per_s", "copies", "a second", form=",.0f"),
        Figure("copies_per_frame", "edits", "a frame"),
        *CONDITIONS,
    )

    clients: int = option(50, "In the room.")
    writers: int = option(10, "How many of them write.")
    rate: float = option(10.0, "Edits per second of each writer.")
    seconds: float = option(8.0, "Measured.")
    warm_up_s: float = option(1.5, "Under load before that.")
    settle_s: float = option(5.0, "How long copies may be under way before they count as missing.")

    def __post_init__(self) -> None:
        if not 1 <= self.writers <= self.clients or self.clients < 2:
            raise ValueError("a room needs two clients or more, and at most as many writers as clients")
        if min(self.rate, self.seconds) <= 0 or min(self.warm_up_s, self.settle_s) < 0:
            raise ValueError("rate and seconds have to be positive")
        copies = self.writers * self.rate * (self.seconds + self.warm_up_s) * self.clients
        if copies * BYTES_A_COPY > MEMORY_LIMIT_BYTES:
            raise ValueError("the generator would keep over 4 GiB of frames: fewer seconds, clients or edits")

    @property
    def label(self) -> str:
        return f"{self.clients} clients, {self.writers} writers x {self.rate:g}/s"

    @property
    def goals(self) -> tuple[Goal, ...]:
        return GOALS.get(self.rate, ()) if (self.clients, self.writers) == (50, 10) else ()

    @property
    def clients_at_once(self) -> int:
        return self.clients

    async def measure(self, server: Server, place: Place) -> Run:
        """One run in a fresh room. Raises `ServerError`, `OSError`, `TimeoutError` or `WSError`."""
        room = await server.room()
        clients = [new_client(number, room) for number in range(self.clients)]
        newcomer = new_client(self.clients, room)
        schedule = Schedule(clients[: self.writers], self.rate)
        try:
            await join_all(clients, room)
            before, after = await drive(schedule, self.warm_up_s, self.seconds, probe_of(server, place))
            ledger = Ledger(clients)
            window = Window(before.at, after.at)
            delivery = await settle(clients, ledger, window, self.settle_s)
            await newcomer.join(room.url)
            faults = [*lost_connections(clients), *delivery_faults(delivery)]
            if unseen := ledger.missing(newcomer):
                faults.append(f"a newcomer was not given {unseen} of {delivery.edits} edits")
        finally:
            await leave_all([*clients, newcomer])
        return self._run(server.name, delivery, Cost.between(before, after), schedule, faults)

    def _run(
        self, server: str, delivery: Delivery, cost: Cost, schedule: Schedule[Any], faults: list[str]
    ) -> Run:
        conditions = cost.conditions(schedule.late_s)
        due_by_its_end = (delivery.sent_in_window - 1) * (self.clients - 1)
        figures = {
            "cpu_us": cost.server_us_per(delivery.copies_in_window),
            "database_us": cost.database_us_per(delivery.copies_in_window),
            "p50_ms": percentile(delivery.latencies_s, 0.50) * 1e3,
            "p99_ms": percentile(delivery.latencies_s, 0.99) * 1e3,
            "max_ms": percentile(delivery.latencies_s, 1) * 1e3,
            "copies_per_s": delivery.copies_in_window / cost.seconds,
            "copies_per_frame": delivery.edits * self.clients / max(1, delivery.update_frames),
        }
        return Run(
            scenario=self.scenario,
            load=self.label,
            server=server,
            parameters={
                "clients": self.clients, "writers": self.writers, "rate": self.rate,
                "edits_per_s": self.writers * self.rate, "seconds": self.seconds,
            },
            figures=known(figures) | conditions,
            curves={"latency": latency_curve(delivery.latencies_s)},
            faults=faults,
            remarks=[*remarks_on(conditions), *behind(delivery.copies_in_window, due_by_its_end)],
        )  # fmt: skip


async def settle(clients: Sequence[Client], ledger: Ledger, window: Window, limit_s: float) -> Delivery:
    """Waits until every copy has arrived or nothing more comes; bounded."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + limit_s
    while True:
        await until_quiet(clients, deadline)
        delivery = ledger.delivery(window)
        if not delivery.copies_missing or loop.time() >= deadline:
            return delivery
        await asyncio.sleep(QUIET_S)


def delivery_faults(delivery: Delivery) -> list[str]:
    """What was lost or altered on the way."""
    faults = []
    if delivery.copies_missing:
        faults.append(f"{delivery.copies_missing} of {delivery.copies_due} copies never arrived")
    if delivery.altered:
        faults.append(f"{delivery.altered} edits arrived altered")
    if delivery.invented:
        faults.append(f"{delivery.invented} edits arrived that nobody sent")
    if delivery.undecodable:
        faults.append(f"{delivery.undecodable} frames could not be read")
    return faults
