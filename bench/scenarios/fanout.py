"""One room, N clients, W of them writing: what a delivered copy of an edit costs, and how long it takes."""

import asyncio
import gc
import os
from collections.abc import Sequence
from dataclasses import dataclass

from bench.client import Client
from bench.ledger import Delivery, Ledger, Window
from bench.load import Schedule
from bench.process import Moment, Probe
from bench.servers import Room, Server
from bench.statistics import percentile

QUIET_S = 0.25
JOINS_AT_ONCE = 10
MEMORY_LIMIT_BYTES = 4 << 30
BYTES_A_COPY = 200
"""What the generator keeps for one copy that arrives in a frame of its own, at most."""

BUSY_LIMIT = 0.85
SLIP_LIMIT_MS = 10.0
BEHIND_LIMIT = 0.98
NOISE_LIMIT = 0.05


@dataclass(frozen=True)
class FanoutLoad:
    clients: int
    writers: int
    rate: float
    """Edits per second of each writer."""
    seconds: float
    warm_up_s: float = 1.5
    settle_s: float = 5.0
    """How long copies may be under way after the last edit before they count as missing."""

    def __post_init__(self) -> None:
        if not 1 <= self.writers <= self.clients or self.clients < 2:
            raise ValueError("a room needs two clients or more, and at most as many writers as clients")
        copies = self.writers * self.rate * (self.seconds + self.warm_up_s) * self.clients
        if copies * BYTES_A_COPY > MEMORY_LIMIT_BYTES:
            raise ValueError("the generator would keep over 4 GiB of frames: fewer seconds, clients or edits")

    @property
    def label(self) -> str:
        return f"{self.clients} clients, {self.writers} writers x {self.rate:g}/s"


@dataclass(frozen=True)
class FanoutRun:
    """One run's figures. A copy is one edit at one client other than its author."""

    server: str
    load: FanoutLoad
    cpu_us_per_copy: float
    database_us_per_copy: float
    p50_ms: float
    p99_ms: float
    max_ms: float
    copies_per_s: float
    copies_per_frame: float
    edits: int
    copies_missing: int
    server_busy: float
    server_rss_bytes: int
    generator_busy: float
    slip_p99_ms: float
    server_core_noise: float
    generator_core_noise: float
    faults: list[str]
    """Why this run's figures may not be used."""
    remarks: list[str]
    """What to bear in mind when reading them."""


async def measure(server: Server, load: FanoutLoad, generator_core: int, server_core: int) -> FanoutRun:
    """One run in a fresh room. Raises `ServerError`, `OSError`, `TimeoutError` or `WSError`."""
    room = await server.room()
    clients = [Client(number, _client_id(), room.dialect) for number in range(load.clients)]
    newcomer = Client(load.clients, _client_id(), room.dialect)
    probe = Probe(server.pid, server.database_pid, generator_core, server_core)
    schedule = Schedule(clients[: load.writers], load.rate)
    try:
        await _join_all(clients, room)
        before, after = await _drive(schedule, load, probe)
        ledger = Ledger(clients)
        window = Window(before.at, after.at)
        delivery = await _settle(clients, ledger, window, load.settle_s)
        await newcomer.join(room.url)
        faults = _faults(clients, delivery, ledger.missing(newcomer))
    finally:
        await asyncio.gather(*(client.leave() for client in (*clients, newcomer)), return_exceptions=True)
    return _run(server.name, load, delivery, window, (before, after), schedule, faults)


async def _join_all(clients: Sequence[Client], room: Room) -> None:
    for first in range(0, len(clients), JOINS_AT_ONCE):
        await asyncio.gather(*(client.join(room.url) for client in clients[first : first + JOINS_AT_ONCE]))


async def _drive(schedule: Schedule, load: FanoutLoad, probe: Probe) -> tuple[Moment, Moment]:
    """Sends through warm-up and window; the moments at the window's ends."""
    gc.collect()
    gc.freeze()
    gc.disable()
    try:
        sending = asyncio.create_task(schedule.run(load.warm_up_s + load.seconds))
        await asyncio.sleep(load.warm_up_s)
        before = probe.read()
        await sending
        return before, probe.read()
    finally:
        gc.enable()
        gc.unfreeze()


async def _settle(
    clients: Sequence[Client], ledger: Ledger, window: Window, limit_s: float
) -> Delivery:
    """Waits until every copy has arrived or nothing more comes; bounded."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + limit_s
    while True:
        await _until_quiet(clients, deadline)
        delivery = ledger.delivery(window)
        if not delivery.copies_missing or loop.time() >= deadline:
            return delivery
        await asyncio.sleep(QUIET_S)


async def _until_quiet(clients: Sequence[Client], deadline: float) -> None:
    before, now = -1, sum(len(client.frames) for client in clients)
    while before != now and asyncio.get_running_loop().time() < deadline:
        await asyncio.sleep(QUIET_S)
        before, now = now, sum(len(client.frames) for client in clients)


def _faults(clients: Sequence[Client], delivery: Delivery, unseen_by_newcomer: int) -> list[str]:
    faults = [f"client {client.number}: {client.lost}" for client in clients if client.lost is not None]
    if delivery.copies_missing:
        faults.append(f"{delivery.copies_missing} of {delivery.copies_due} copies never arrived")
    if delivery.altered:
        faults.append(f"{delivery.altered} edits arrived altered")
    if delivery.undecodable:
        faults.append(f"{delivery.undecodable} frames could not be read")
    if unseen_by_newcomer:
        faults.append(f"a newcomer was not given {unseen_by_newcomer} of {delivery.edits} edits")
    return faults


def _run(
    server: str, load: FanoutLoad, delivery: Delivery, window: Window, moments: tuple[Moment, Moment],
    schedule: Schedule, faults: list[str],
) -> FanoutRun:  # fmt: skip
    before, after = moments
    copies = max(1, delivery.copies_in_window)
    server_s = after.usage.server_s - before.usage.server_s
    database_s = after.usage.database_s - before.usage.database_s
    generator_s = after.generator_s - before.generator_s
    run = FanoutRun(
        server=server,
        load=load,
        cpu_us_per_copy=server_s / copies * 1e6,
        database_us_per_copy=database_s / copies * 1e6,
        p50_ms=percentile(delivery.latencies_s, 0.50) * 1e3,
        p99_ms=percentile(delivery.latencies_s, 0.99) * 1e3,
        max_ms=percentile(delivery.latencies_s, 1) * 1e3,
        copies_per_s=delivery.copies_in_window / window.seconds,
        copies_per_frame=delivery.edits * load.clients / max(1, delivery.update_frames),
        edits=delivery.edits,
        copies_missing=delivery.copies_missing,
        server_busy=server_s / window.seconds,
        server_rss_bytes=after.usage.server_rss,
        generator_busy=generator_s / window.seconds,
        slip_p99_ms=percentile(sorted(schedule.late_s), 0.99) * 1e3,
        server_core_noise=_noise(after.server_core_s - before.server_core_s - server_s - database_s, window),
        generator_core_noise=_noise(after.generator_core_s - before.generator_core_s - generator_s, window),
        faults=faults,
        remarks=[],
    )
    run.remarks.extend(_remarks(run, delivery, load))
    return run


def _noise(other_s: float, window: Window) -> float:
    return max(0.0, other_s / window.seconds)


def _remarks(run: FanoutRun, delivery: Delivery, load: FanoutLoad) -> list[str]:
    remarks = []
    if run.generator_busy > BUSY_LIMIT:
        remarks.append("generator busy")
    if run.slip_p99_ms > SLIP_LIMIT_MS:
        remarks.append("generator late")
    if delivery.copies_in_window < BEHIND_LIMIT * delivery.sent_in_window * (load.clients - 1):
        remarks.append("fell behind")
    if max(run.server_core_noise, run.generator_core_noise) > NOISE_LIMIT:
        remarks.append("noise")
    return remarks


def _client_id() -> int:
    """As Yjs chooses one: 32 random bits."""
    return int.from_bytes(os.urandom(4), "big")
