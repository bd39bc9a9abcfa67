"""What every scenario does around its load: clients in and out, the clocks of a window, and doubts."""

import asyncio
import gc
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from math import isnan

from bench.client import Client
from bench.load import Pace
from bench.model import FELL_BEHIND, Curve, Figure, Place
from bench.process import Moment, Probe
from bench.servers import Room, Server
from bench.statistics import distribution, percentile

JOINS_AT_ONCE = 10
QUIET_S = 0.25

BUSY_LIMIT = 0.85
SLIP_LIMIT_MS = 10.0
NOISE_LIMIT = 0.05
BEHIND_LIMIT = 0.98

CONDITIONS = (
    Figure("server_busy", "server busy", "of its core", form=".0%", in_table=False),
    Figure("database_busy", "Postgres busy", "of the server's core", form=".0%", in_table=False),
    Figure("server_rss_mib", "server memory", "MiB", "lower", in_table=False),
    Figure("generator_busy", "generator busy", "of its core", form=".0%", in_table=False),
    Figure("slip_p99_ms", "sent late, p99", "ms", form=".1f", in_table=False),
    Figure("server_core_noise", "others on the server's core", "of the core", form=".0%", in_table=False),
    Figure(
        "generator_core_noise", "others on the generator's core", "of the core", form=".0%", in_table=False
    ),
)
"""Under what conditions a run took place: figures of every scenario, in the files but not in the terminal."""


@dataclass(frozen=True)
class Cost:
    """What one window took of server, database and generator; None for processes that are out of sight."""

    seconds: float
    server_s: float | None
    database_s: float | None
    server_rss: int | None
    server_core_s: float
    generator_s: float
    generator_core_s: float

    @classmethod
    def between(cls, before: Moment, after: Moment) -> "Cost":
        first, last = before.usage, after.usage
        seen = first is not None and last is not None
        return cls(
            seconds=after.at - before.at,
            server_s=last.server_s - first.server_s if seen and first and last else None,
            database_s=last.database_s - first.database_s if seen and first and last else None,
            server_rss=last.server_rss if last else None,
            server_core_s=after.server_core_s - before.server_core_s,
            generator_s=after.generator_s - before.generator_s,
            generator_core_s=after.generator_core_s - before.generator_core_s,
        )

    def server_us_per(self, count: float) -> float:
        """CPU microseconds of the server for each of `count` things; not-a-number if out of sight."""
        return _per(self.server_s, count)

    def database_us_per(self, count: float) -> float:
        return _per(self.database_s, count)

    def conditions(self, late_s: Sequence[float] = ()) -> dict[str, float]:
        """The `CONDITIONS` that could be read."""
        figures = {
            "generator_busy": self.generator_s / self.seconds,
            "generator_core_noise": max(0.0, (self.generator_core_s - self.generator_s) / self.seconds),
            "slip_p99_ms": percentile(sorted(late_s), 0.99) * 1e3,
        }
        if self.server_s is not None and self.database_s is not None and self.server_rss is not None:
            others_s = self.server_core_s - self.server_s - self.database_s
            figures |= {
                "server_busy": self.server_s / self.seconds,
                "database_busy": self.database_s / self.seconds,
                "server_rss_mib": self.server_rss / (1 << 20),
                "server_core_noise": max(0.0, others_s / self.seconds),
            }
        return known(figures)


def _per(seconds: float | None, count: float) -> float:
    return float("nan") if seconds is None else seconds / max(1, count) * 1e6


def known(figures: Mapping[str, float]) -> dict[str, float]:
    """Without those that could not be read."""
    return {key: value for key, value in figures.items() if not isnan(value)}


def remarks_on(conditions: Mapping[str, float]) -> list[str]:
    """What the conditions of a run say about its figures."""
    remarks = []
    if conditions.get("generator_busy", 0) > BUSY_LIMIT:
        remarks.append("generator busy")
    if conditions.get("slip_p99_ms", 0) > SLIP_LIMIT_MS:
        remarks.append("generator late")
    noise = (conditions.get("server_core_noise", 0), conditions.get("generator_core_noise", 0))
    if max(noise) > NOISE_LIMIT:
        remarks.append("noise")
    return remarks


def behind(arrived: float, due: float) -> list[str]:
    """A remark if not nearly all copies of what was sent within a window arrived within it."""
    return [FELL_BEHIND] if arrived < BEHIND_LIMIT * due else []


def probe_of(server: Server, place: Place) -> Probe:
    return Probe(server.measured_pid, server.database_pid, place.generator_core, place.server_core)


@contextmanager
def collector_at_rest() -> Iterator[None]:
    """No garbage collection within a window."""
    gc.collect()
    gc.freeze()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
        gc.unfreeze()


async def drive(pace: Pace, warm_up_s: float, seconds: float, probe: Probe) -> tuple[Moment, Moment]:
    """Sends through warm-up and window; the moments at the window's ends."""
    with collector_at_rest():
        async with asyncio.TaskGroup() as group:
            sending = group.create_task(pace.run(warm_up_s + seconds))
            await asyncio.sleep(warm_up_s)
            before = probe.read()
            await sending
            return before, probe.read()


def latency_curve(ascending_s: Sequence[float], title: str = "Latency from send to seen") -> Curve:
    """The distribution of latencies."""
    in_ms = [(share * 100, seconds * 1e3) for share, seconds in distribution(ascending_s)]
    return Curve(title, "percentile", "ms", in_ms)


def new_client(number: int, room: Room) -> Client:
    return Client(number, client_number(), room.dialect)


def client_number() -> int:
    """As Yjs chooses one: 32 random bits."""
    return int.from_bytes(os.urandom(4), "big")


async def join_all(clients: Sequence[Client], room: Room) -> None:
    """The first one alone, since a server may stumble over two that open a room at the same moment; then some
    at a time. Raises what the first failing join raises.
    """
    await clients[0].join(room.url)
    for first in range(1, len(clients), JOINS_AT_ONCE):
        await asyncio.gather(*(client.join(room.url) for client in clients[first : first + JOINS_AT_ONCE]))


async def leave_all(clients: Sequence[Client]) -> None:
    """All of them, whatever state they are in."""
    await asyncio.gather(*(client.leave() for client in clients), return_exceptions=True)


async def until_quiet(clients: Sequence[Client], deadline: float) -> None:
    """Until no client reads anything for a moment; at most until `deadline` of the loop's clock."""
    before, now = -1, sum(len(client.frames) for client in clients)
    while before != now and asyncio.get_running_loop().time() < deadline:
        await asyncio.sleep(QUIET_S)
        before, now = now, sum(len(client.frames) for client in clients)


def lost_connections(clients: Sequence[Client]) -> list[str]:
    """A fault for each client whose connection ended by itself."""
    return [f"client {client.number}: {client.lost}" for client in clients if client.lost is not None]
