"""How fast connections are accepted, and what a connection costs that does nothing.

A connection counts as accepted when its first sync is complete: by then every server has looked at whatever
it looks at, and one that checks token and role has checked them. Where a room's address holds a token, a
forged one is tried too, and has to be refused.
"""

import asyncio
from array import array
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from time import perf_counter
from typing import ClassVar
from urllib.parse import urlsplit

from picows import WSError, WSMsgType

from bench.caller import Caller, Door
from bench.client import Client
from bench.ledger import Ledger
from bench.load import send_one
from bench.measuring import (
    CONDITIONS,
    Cost,
    client_number,
    collector_at_rest,
    known,
    latency_curve,
    leave_all,
    lost_connections,
    probe_of,
    remarks_on,
    until_quiet,
)
from bench.model import Curve, Figure, Goal, Place, Run, option
from bench.process import open_files_limit
from bench.servers import Room, Server
from bench.statistics import percentile

FILES_KEPT_BACK = 200
CONNECTIONS_AN_ADDRESS = 5000
"""A loopback address has 28,000 ports for one destination, and those just closed are not free at once."""

FAILURES_MAX = 10
QUIET_LIMIT_S = 10.0


class Visitor(Client):
    """Says once that it is there, and then nothing."""

    def __init__(self, number: int, room: Room) -> None:
        super().__init__(number, client_number(), room.dialect)
        self.room = room

    async def enter(self) -> None:
        await self.join(self.room.url, source_address(urlsplit(self.room.url).hostname, self.number))

    def _renew_presence(self) -> None:
        assert self._transport is not None
        self._transport.send(WSMsgType.BINARY, self.dialect.presence(self.writer.client, 1))


def source_address(host: str | None, number: int) -> str | None:
    """Many connections to loopback come from several of its addresses; elsewhere the system chooses."""
    if host != "127.0.0.1":
        return None
    return f"127.0.0.{1 + number // CONNECTIONS_AN_ADDRESS % 250}"


@dataclass
class Accepted:
    """What came of a closed loop of connections."""

    until: float
    took_s: "array[float]" = field(default_factory=lambda: array("d"))
    failures: list[str] = field(default_factory=list)

    @property
    def goes_on(self) -> bool:
        return perf_counter() < self.until and len(self.failures) < FAILURES_MAX


@dataclass(frozen=True)
class ConnectLoad:
    """Connections come and go as fast as the server lets them: how many it accepts a second."""

    scenario: ClassVar[str] = "connect"
    title: ClassVar[str] = "Connections accepted"
    cost: ClassVar[str] = "accepted_per_s"
    needs: ClassVar[frozenset[str]] = frozenset()
    figures: ClassVar[tuple[Figure, ...]] = (
        Figure("accepted_per_s", "accepted", "a second", "higher", ",.0f"),
        Figure("cpu_us", "CPU", "us/connection", "lower", ",.0f"),
        Figure("database_us", "Postgres", "us/connection", "lower", ",.0f"),
        Figure("p50_ms", "joined, p50", "ms", "lower"),
        Figure("p99_ms", "joined, p99", "ms", "lower"),
        *CONDITIONS,
    )

    at_once: int = option(50, "Connections under way at any moment.")
    rooms: int = option(10, "That they join in turn.")
    seconds: float = option(5.0, "Measured.")
    warm_up_s: float = option(3.0, "Under load before that: servers that compile as they run get faster.")

    def __post_init__(self) -> None:
        if not 1 <= self.at_once <= 1000 or not 1 <= self.rooms <= 1000:
            raise ValueError("1 to 1,000 connections at once, to 1 to 1,000 rooms")
        if not 0 < self.seconds <= self.seconds + self.warm_up_s <= 60:
            raise ValueError("up to 60 seconds, since each connection takes a port for a minute")

    @property
    def label(self) -> str:
        return f"{self.at_once} at once, {self.rooms} rooms"

    @property
    def goals(self) -> tuple[Goal, ...]:
        return (Goal("accepted_per_s", ratio=1.2),)

    @property
    def clients_at_once(self) -> int:
        return self.rooms + self.at_once

    async def measure(self, server: Server, place: Place) -> Run:
        """One closed loop. Raises `ServerError`, `OSError`, `TimeoutError` or `WSError`."""
        rooms = [await server.room() for _ in range(self.rooms)]
        doors = [Door.of(room) for room in rooms]
        probe = probe_of(server, place)
        stays = [Visitor(number, room) for number, room in enumerate(rooms)]
        try:
            for visitor in stays:
                await visitor.enter()
            with collector_at_rest():
                warm_up = await self._accepted(perf_counter() + self.warm_up_s, doors)
                before = probe.read()
                accepted = await self._accepted(before.at + self.seconds, doors)
                after = probe.read()
            failures = [*warm_up.failures, *accepted.failures]
            faults = [*lost_connections(stays), *failures, *await forgery_let_in(rooms[0])]
        finally:
            await leave_all(stays)
        cost, took_s = Cost.between(before, after), array("d", sorted(accepted.took_s))
        conditions = cost.conditions()
        figures = {
            "accepted_per_s": len(took_s) / cost.seconds,
            "cpu_us": cost.server_us_per(len(took_s)),
            "database_us": cost.database_us_per(len(took_s)),
            "p50_ms": percentile(took_s, 0.50) * 1e3,
            "p99_ms": percentile(took_s, 0.99) * 1e3,
        }
        parameters = {"at_once": self.at_once, "rooms": self.rooms, "seconds": self.seconds}
        return Run(
            self.scenario, self.label, server.name, parameters, known(figures) | conditions,
            {"latency": latency_curve(took_s, "Time until joined")}, faults, remarks_on(conditions),
        )  # fmt: skip

    async def _accepted(self, until: float, doors: Sequence[Door]) -> Accepted:
        """What comes of a closed loop until that moment of the clock."""
        accepted = Accepted(until)
        await asyncio.gather(*(come_and_go(number, doors, accepted) for number in range(self.at_once)))
        return accepted


async def come_and_go(number: int, doors: Sequence[Door], accepted: Accepted) -> None:
    """One connection after the other, until the time is over. A failure is counted, and few end it."""
    while accepted.goes_on:
        start = perf_counter()
        door = doors[number % len(doors)]
        caller = Caller(door, client_number())
        try:
            await caller.join(source_address(door.host, len(accepted.took_s)))
            accepted.took_s.append(perf_counter() - start)
        except (OSError, TimeoutError) as failure:
            accepted.failures.append(f"a connection failed: {failure!r}")
        finally:
            with suppress(TimeoutError):
                await caller.leave()
        number += 1


async def forgery_let_in(room: Room) -> list[str]:
    """A fault if the room's token is no more than an ornament."""
    if "token=" not in room.url:
        return []
    last = room.url[-10]
    forged = room.url[:-10] + ("A" if last != "A" else "B") + room.url[-9:]
    visitor = Visitor(0, Room(forged, room.dialect))
    with suppress(OSError, TimeoutError, WSError):
        await visitor.enter()
        await visitor.leave()
        return ["a connection with a forged token was let in"]
    return []


@dataclass(frozen=True)
class IdleLoad:
    """Thousands of connections that do nothing: how much memory each of them takes, its room included."""

    scenario: ClassVar[str] = "idle"
    title: ClassVar[str] = "Idle connections"
    cost: ClassVar[str] = "kib_per_socket"
    needs: ClassVar[frozenset[str]] = frozenset()
    figures: ClassVar[tuple[Figure, ...]] = (
        Figure("kib_per_socket", "memory", "KiB/socket", "lower", ".1f"),
        Figure("sockets", "sockets", "open", form=",.0f"),
        Figure("idle_busy", "CPU when idle", "of its core", "lower", ".1%"),
        Figure("joined_s", "all joined after", "s", "lower"),
        *CONDITIONS,
    )

    sockets: int = option(10_000, "Open at the same time.")
    rooms: int = option(200, "That they are spread over.")
    at_once: int = option(50, "Of them that connect at any moment.")
    hold_s: float = option(3.0, "How long they are held before the memory is read.")

    def __post_init__(self) -> None:
        if not 1 <= self.rooms <= min(self.sockets, 5000) or not 1 <= self.at_once <= 1000:
            raise ValueError("1 to 5,000 rooms with a socket each or more, 1 to 1,000 connecting at once")
        if not 0 < self.hold_s <= 600:
            raise ValueError("sockets are held for 600 s at most")
        if self.sockets + FILES_KEPT_BACK > open_files_limit():
            raise ValueError(
                f"this process may open {open_files_limit():,} files: fewer sockets, or `ulimit -n`"
            )

    @property
    def label(self) -> str:
        return f"{self.sockets:,} sockets in {self.rooms:,} rooms"

    @property
    def goals(self) -> tuple[Goal, ...]:
        return (Goal("kib_per_socket", limit=8),) if self.sockets >= 1000 else ()

    @property
    def clients_at_once(self) -> int:
        return self.sockets

    async def measure(self, server: Server, place: Place) -> Run:
        """Opens, holds, proves that all are alive.

        Raises `ServerError`, `OSError`, `TimeoutError` or `WSError`.
        """
        server.is_worn = True
        rooms = [await server.room() for _ in range(self.rooms)]
        probe = probe_of(server, place)
        visitors = [Visitor(number, rooms[number % self.rooms]) for number in range(self.sockets)]
        curve: list[tuple[float, float]] = []
        try:
            first = [Visitor(0, rooms[0]) for _ in range(self.at_once)]
            await self._enter(first[:1])
            await self._enter(first[1:])
            await leave_all(first)
            before = probe.read()
            await self._enter(visitors[: self.rooms])
            await self._enter(visitors[self.rooms :])
            joined = probe.read()
            await asyncio.sleep(self.hold_s)
            after = probe.read()
            faults = [*lost_connections(visitors), *await self._deaf(visitors)]
        finally:
            await leave_all(visitors)
        held = Cost.between(joined, after)
        figures = {"sockets": float(self.sockets), "joined_s": joined.at - before.at}
        if before.usage is not None and after.usage is not None and held.server_s is not None:
            grown = after.usage.server_rss - before.usage.server_rss
            figures |= {
                "kib_per_socket": grown / self.sockets / 1024,
                "idle_busy": held.server_s / held.seconds,
            }
            curve = [
                (0, before.usage.server_rss / (1 << 20)),
                (self.sockets, after.usage.server_rss / (1 << 20)),
            ]
        parameters: dict[str, float] = {"sockets": self.sockets, "rooms": self.rooms}
        conditions = held.conditions()
        return Run(
            self.scenario, self.label, server.name, parameters, known(figures) | conditions,
            {"memory": Curve("Memory against idle sockets", "sockets", "MiB", curve)} if curve else {},
            faults, remarks_on(conditions),
        )  # fmt: skip

    async def _enter(self, visitors: Sequence[Visitor]) -> None:
        """Some at a time. Who opens a room does so alone, as everywhere (see `join_all`)."""
        for start in range(0, len(visitors), self.at_once):
            await asyncio.gather(*(visitor.enter() for visitor in visitors[start : start + self.at_once]))

    async def _deaf(self, visitors: Sequence[Visitor]) -> list[str]:
        """An edit in every room has to reach all who idle there."""
        rooms = [visitors[first :: self.rooms] for first in range(self.rooms)]
        for members in rooms:
            send_one(members[0])
        await until_quiet(visitors, asyncio.get_running_loop().time() + QUIET_LIMIT_S)
        deaf = sum(
            bool(ledger.missing(one)) for members in rooms for ledger in [Ledger(members)] for one in members
        )
        return [f"{deaf} of {len(visitors)} idle clients did not get an edit"] if deaf else []
