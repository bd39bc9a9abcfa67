"""A client stops reading its socket: what others in the room feel of it, and what the server keeps for it.

All read through a first window; through a second one of the same length the slow client does not; then it
reads again. The load is the same all the time. Where the server ends the slow client's connection, it comes
back as a stock client does.
"""

import asyncio
from dataclasses import dataclass
from functools import partial
from typing import ClassVar

from bench.client import Client, DistantClient
from bench.ledger import Delivery, Ledger, Window
from bench.load import Schedule
from bench.measuring import (
    CONDITIONS,
    QUIET_S,
    Cost,
    behind,
    client_number,
    collector_at_rest,
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
from bench.process import Moment, Probe
from bench.protocols import Dialect
from bench.scenarios.cold_open import any_string
from bench.scenarios.fanout import BYTES_A_COPY, MEMORY_LIMIT_BYTES, delivery_faults
from bench.servers import Server
from bench.statistics import percentile

MIB = 1 << 20
RECONNECT_S = 0.1
"""y-websocket's first pause before it connects again."""

TARGET_SECONDS = 300.0
ENOUGH_MIB = 2.0
"""What has to come for a slow client at least, that a bound of 1 MiB is tried."""

ENOUGH_SLOW = 10
"""With fewer of them, what is kept for each is lost in the noise of the server's memory."""


class SlowReader(DistantClient):
    """One that can stop reading."""

    def __init__(self, number: int, client_id: int, dialect: Dialect) -> None:
        super().__init__(number, client_id, dialect)
        self.times_lost = 0

    def stop_reading(self) -> None:
        assert self._transport is not None
        self._transport.underlying_transport.pause_reading()

    async def read_on(self, url: str) -> None:
        """Reads again, and connects again as often as the connection is lost; until cancelled."""
        assert self._transport is not None
        if self.lost is None:
            self._transport.underlying_transport.resume_reading()
        while True:
            await asyncio.sleep(RECONNECT_S)
            if self.lost is not None:
                self.times_lost += 1
                await self.rejoin(url, self.state_vector())


@dataclass(frozen=True)
class Stages:
    """The moments at which the windows begin and end: all read, some have stopped, they read again."""

    reading: Moment
    stopped: Moment
    resumed: Moment

    def grown(self) -> tuple[int, int] | None:
        """By how many bytes the server's memory grew in either window; None if it is out of sight."""
        first, middle, last = self.reading.usage, self.stopped.usage, self.resumed.usage
        if first is None or middle is None or last is None:
            return None
        return middle.server_rss - first.server_rss, last.server_rss - middle.server_rss


@dataclass(frozen=True)
class SlowReaderLoad:
    """A client stops reading its socket: what the others feel of it, and what the server keeps for it."""

    scenario: ClassVar[str] = "slow-reader"
    title: ClassVar[str] = "A client that does not read"
    cost: ClassVar[str] = "p99_stopped_ms"
    needs: ClassVar[frozenset[str]] = frozenset()
    figures: ClassVar[tuple[Figure, ...]] = (
        Figure("p50_reading_ms", "all read, p50", "ms", "lower"),
        Figure("p99_reading_ms", "p99", "ms", "lower"),
        Figure("p50_stopped_ms", "some do not, p50", "ms", "lower"),
        Figure("p99_stopped_ms", "p99", "ms", "lower"),
        Figure("p99_ratio", "p99", "x all read", "lower", ".2f"),
        Figure("max_reading_ms", "all read, max", "ms", "lower", in_table=False),
        Figure("max_stopped_ms", "some do not, max", "ms", "lower", in_table=False),
        Figure("queued_mib", "memory", "MiB/slow client", "lower", ".2f"),
        Figure("withheld_mib", "unread", "MiB/slow client", form=".1f"),
        Figure("grown_reading_mib", "memory, all read", "MiB more", in_table=False),
        Figure("grown_stopped_mib", "memory, some do not", "MiB more", in_table=False),
        Figure("caught_up_ms", "caught up after", "ms", "lower", ",.0f"),
        Figure("times_lost", "closed by the server", "connections", form=".0f", in_table=False),
        *CONDITIONS,
    )

    clients: int = option(50, "That read all the time.")
    writers: int = option(10, "How many of them write.")
    rate: float = option(40.0, "Edits per second of each writer.")
    value_bytes: int = option(700, "Size of what an edit sets.")
    slow: int = option(1, "Further clients, that stop reading.")
    seconds: float = option(8.0, "Length of either window.")
    warm_up_s: float = option(1.5, "Under load before that.")
    catch_up_s: float = option(2.0, "Under load while the slow ones read again.")
    settle_s: float = option(10.0, "How long copies may be under way before they count as missing.")

    def __post_init__(self) -> None:
        if not 1 <= self.writers <= self.clients or self.clients < 2 or self.slow < 1:
            raise ValueError("two clients or more, at most as many writers, and one or more that are slow")
        if min(self.rate, self.seconds) <= 0 or min(self.warm_up_s, self.catch_up_s, self.settle_s) < 0:
            raise ValueError("rate and seconds have to be positive")
        if not 1 <= self.value_bytes <= MIB:
            raise ValueError("an edit sets 1 byte to 1 MiB")
        edits = self.writers * self.rate * (self.warm_up_s + 2 * self.seconds + self.catch_up_s)
        if edits * (self.clients + self.slow) * (BYTES_A_COPY + self.value_bytes) > MEMORY_LIMIT_BYTES:
            raise ValueError(
                "the generator would keep over 4 GiB of frames: fewer seconds, clients or edits, or smaller"
            )

    @property
    def label(self) -> str:
        return f"{self.clients} clients, {self.writers} writers x {self.rate:g}/s, {self.slow} slow"

    @property
    def goals(self) -> tuple[Goal, ...]:
        if self.slow >= ENOUGH_SLOW:
            return (Goal("queued_mib", limit=1),)
        return (Goal("p99_ratio", limit=1.1),) if self.slow == 1 else ()

    @property
    def clients_at_once(self) -> int:
        return self.clients + self.slow

    async def measure(self, server: Server, place: Place) -> Run:
        """One run in a fresh room. Raises `ServerError`, `OSError`, `TimeoutError` or `WSError`."""
        server.is_worn = True
        room = await server.room()
        others = [new_client(number, room) for number in range(self.clients)]
        slow = [SlowReader(self.clients + n, client_number(), room.dialect) for n in range(self.slow)]
        schedule = Schedule(others[: self.writers], self.rate, partial(send_text, size=self.value_bytes))
        ledger = Ledger(others)
        try:
            await join_all([*others, *slow], room)
            with collector_at_rest():
                stages = await self._stages(schedule, slow, probe_of(server, place))
                async with asyncio.TaskGroup() as group:
                    reading = [group.create_task(one.read_on(room.url)) for one in slow]
                    await schedule.run(self.catch_up_s)
                    await self._settled(others, slow, ledger)
                    for task in reading:
                        task.cancel()
            first, second = (
                ledger.delivery(Window(start.at, end.at))
                for start, end in ((stages.reading, stages.stopped), (stages.stopped, stages.resumed))
            )
            faults = [*lost_connections([*others, *slow]), *delivery_faults(second)]
            faults.extend(_lacking(slow, ledger, second.edits))
        finally:
            await leave_all([*others, *slow])
        figures = self.memory(stages) | self._of_slow(slow, ledger, others[-1], stages)
        return self._run(server.name, stages, first, second, schedule, figures, faults)

    async def _stages(self, schedule: Schedule[Client], slow: list[SlowReader], probe: Probe) -> Stages:
        """Sends through warm-up and both windows."""
        async with asyncio.TaskGroup() as group:
            sending = group.create_task(schedule.run(self.warm_up_s + 2 * self.seconds))
            await asyncio.sleep(self.warm_up_s)
            reading = probe.read()
            await asyncio.sleep(self.seconds)
            for one in slow:
                one.stop_reading()
            stopped = probe.read()
            await sending
            return Stages(reading, stopped, probe.read())

    async def _settled(self, others: list[Client], slow: list[SlowReader], ledger: Ledger) -> None:
        """Waits until everybody has everything or nothing more comes; bounded."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self.settle_s
        while True:
            await until_quiet([*others, *slow], deadline)
            if not any(map(ledger.missing, [*others, *slow])) or loop.time() >= deadline:
                return
            await asyncio.sleep(QUIET_S)

    def memory(self, stages: Stages) -> dict[str, float]:
        grown = stages.grown()
        if grown is None:
            return {}
        while_all_read, while_some_do_not = grown
        return {
            "grown_reading_mib": while_all_read / MIB,
            "grown_stopped_mib": while_some_do_not / MIB,
            "queued_mib": (while_some_do_not - while_all_read) / MIB / self.slow,
        }

    def _of_slow(
        self, slow: list[SlowReader], ledger: Ledger, reader: Client, stages: Stages
    ) -> dict[str, float]:
        """How long they took to have all that was sent before. `reader` read what they did not."""
        stopped, resumed = stages.stopped.at, stages.resumed.at
        unread = sum(
            len(frame)
            for frame, read_at in zip(reader.frames, reader.read_at, strict=True)
            if stopped <= read_at < resumed
        )
        figures = {
            "withheld_mib": unread / MIB,
            "times_lost": float(sum(one.times_lost for one in slow)),
        }
        current_at = [ledger.current_at(one, resumed) for one in slow]
        if None not in current_at:
            figures["caught_up_ms"] = max(at - resumed for at in current_at if at is not None) * 1e3
        return figures

    def _run(
        self, server: str, stages: Stages, first: Delivery, second: Delivery, schedule: Schedule[Client],
        figures: dict[str, float], faults: list[str],
    ) -> Run:  # fmt: skip
        conditions = Cost.between(stages.reading, stages.resumed).conditions(schedule.late_s)
        due = (first.sent_in_window + second.sent_in_window - 2) * (self.clients - 1)
        behind_due = behind(first.copies_in_window + second.copies_in_window, due)
        remarks = [*remarks_on(conditions), *behind_due]
        if self.seconds < TARGET_SECONDS:
            remarks.append(f"brief: the targets speak of {TARGET_SECONDS:.0f} s")
        if figures["withheld_mib"] < ENOUGH_MIB:
            remarks.append("too little came for the slow client to try a bound of 1 MiB")
        if figures["times_lost"]:
            remarks.append(f"the server closed {figures['times_lost']:.0f} slow connections; they came back")
        figures |= {
            "p50_reading_ms": percentile(first.latencies_s, 0.50) * 1e3,
            "p99_reading_ms": percentile(first.latencies_s, 0.99) * 1e3,
            "max_reading_ms": percentile(first.latencies_s, 1) * 1e3,
            "p50_stopped_ms": percentile(second.latencies_s, 0.50) * 1e3,
            "p99_stopped_ms": percentile(second.latencies_s, 0.99) * 1e3,
            "max_stopped_ms": percentile(second.latencies_s, 1) * 1e3,
        }
        figures["p99_ratio"] = figures["p99_stopped_ms"] / figures["p99_reading_ms"]
        parameters = {
            "clients": self.clients, "writers": self.writers, "rate": self.rate, "slow": self.slow,
            "value_bytes": self.value_bytes, "seconds": self.seconds,
        }  # fmt: skip
        return Run(
            self.scenario, self.label, server, parameters, known(figures) | conditions,
            {"latency": latency_curve(second.latencies_s)}, faults, remarks,
        )  # fmt: skip


def send_text(writer: Client, size: int) -> None:
    """An edit that sets so many characters, under a key that nobody used before."""
    number = len(writer.sent_at)
    writer.edit(b"%d.%d" % (writer.number, number), any_string(f"{number:0{size}d}"))


def _lacking(slow: list[SlowReader], ledger: Ledger, edits: int) -> list[str]:
    """A fault for each slow client that was never given everything."""
    return [
        f"slow client {one.number} never got {missing} of {edits} edits"
        for one in slow
        if (missing := ledger.missing(one))
    ]
