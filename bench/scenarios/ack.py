"""Acknowledgements: how long after it was sent an author knows that an edit is kept.

y-websocket has no word for it; TMI's own, for clients that connect with `?saved=1`, is a frame `0x64 n`: the
first sync and the first n Update messages of this connection are committed. Hocuspocus answers each message
that brings edits with a SyncStatus, `8 1`, in the order they came. Its own server means "received" by it.

Whether it was true is checked where a server keeps its documents: everybody leaves, the room is evicted, and
a newcomer has to be given every edit, from the database alone.
"""

import asyncio
from array import array
from dataclasses import dataclass
from time import perf_counter
from typing import ClassVar

from picows import WSFrame, WSTransport

from bench.client import Client
from bench.ledger import Ledger
from bench.load import Schedule
from bench.measuring import (
    CONDITIONS,
    Cost,
    client_number,
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
from bench.protocols import Dialect
from bench.servers import Room, Server
from bench.statistics import percentile
from bench.yjs import Reader

_SAVED = b"\x64"
_STATUS = b"\x08"
MAX_EDITS = 1_000_000


class AckClient(Client):
    """Notes when it was told of each edit."""

    def __init__(self, number: int, client_id: int, dialect: Dialect) -> None:
        super().__init__(number, client_id, dialect)
        self.known_at = array("d")
        self.refused = 0
        self.taken_back = 0
        self._status = dialect.prefix + _STATUS
        self._is_synced = not dialect.prefix

    def on_ws_frame(self, transport: WSTransport, frame: WSFrame) -> None:
        super().on_ws_frame(transport, frame)
        payload = frame.get_payload_as_bytes()
        if self.dialect.prefix:
            if payload.startswith(self._status):
                self._answered_one(payload[len(self._status)])
        elif payload.startswith(_SAVED):
            told = Reader(payload[1:]).var_uint() - len(self.known_at)
            self.known_at.extend([perf_counter()] * told)
            self.taken_back += told < 0

    def _answered_one(self, accepted: int) -> None:
        """The first one is for the sync."""
        if not accepted:
            self.refused += 1
        elif self._is_synced:
            self.known_at.append(perf_counter())
        else:
            self._is_synced = True


def saying_saved(room: Room) -> Room:
    """The room's address for clients that ask to be told."""
    if room.dialect.prefix:
        return room
    return Room(f"{room.url}{'&' if '?' in room.url else '?'}saved=1", room.dialect)


@dataclass(frozen=True)
class AckLoad:
    """How long until the author of an edit knows that it is committed."""

    scenario: ClassVar[str] = "ack"
    title: ClassVar[str] = "Acknowledgements"
    cost: ClassVar[str] = "p50_ms"
    needs: ClassVar[frozenset[str]] = frozenset({"acknowledgements"})
    figures: ClassVar[tuple[Figure, ...]] = (
        Figure("p50_ms", "acknowledged, p50", "ms", "lower"),
        Figure("p99_ms", "acknowledged, p99", "ms", "lower"),
        Figure("max_ms", "max", "ms", "lower"),
        Figure("cpu_us", "CPU", "us/edit", "lower", ".0f"),
        Figure("database_us", "Postgres", "us/edit", "lower", ".0f"),
        Figure("edits_per_s", "edits", "a second", form=",.0f"),
        *CONDITIONS,
    )

    writers: int = option(10, "In one room.")
    rate: float = option(200.0, "Edits per second of each.")
    seconds: float = option(5.0, "Measured.")
    warm_up_s: float = option(1.0, "Under load before that.")
    settle_s: float = option(5.0, "How long the last acknowledgement may take.")

    def __post_init__(self) -> None:
        if not 1 <= self.writers <= 500 or min(self.rate, self.seconds) <= 0:
            raise ValueError("1 to 500 writers; rate and seconds have to be positive")
        if self.writers * self.rate * (self.seconds + self.warm_up_s) > MAX_EDITS:
            raise ValueError(f"that is over {MAX_EDITS:,} edits: fewer writers, edits or seconds")

    @property
    def label(self) -> str:
        return f"{self.writers} writers x {self.rate:g}/s"

    @property
    def goals(self) -> tuple[Goal, ...]:
        at_2000 = self.writers * self.rate == 2000
        return (Goal("p50_ms", limit=10), Goal("p99_ms", limit=50)) if at_2000 else ()

    @property
    def clients_at_once(self) -> int:
        return self.writers

    async def measure(self, server: Server, place: Place) -> Run:
        """One run in a fresh room. Raises `ServerError`, `OSError`, `TimeoutError` or `WSError`."""
        room = await server.room()
        clients = [AckClient(number, client_number(), room.dialect) for number in range(self.writers)]
        newcomer = new_client(self.writers, room)
        schedule = Schedule(clients, self.rate)
        try:
            await join_all(clients, saying_saved(room))
            before, after = await drive(schedule, self.warm_up_s, self.seconds, probe_of(server, place))
            await self._settled(clients)
            faults = self._faults(clients)
            if "durable" in server.offers:
                await leave_all(clients)
                await server.until_evicted()
            await newcomer.join(room.url)
            if unseen := Ledger(clients).missing(newcomer):
                faults.append(f"{unseen} edits were not given to a newcomer")
        finally:
            await leave_all([*clients, newcomer])
        window = before.at, after.at
        return self._run(server.name, clients, window, Cost.between(before, after), schedule, faults)

    async def _settled(self, clients: list[AckClient]) -> None:
        deadline = perf_counter() + self.settle_s
        while perf_counter() < deadline and any(len(c.known_at) < len(c.sent_at) for c in clients):
            await asyncio.sleep(0.02)

    @staticmethod
    def _faults(clients: list[AckClient]) -> list[str]:
        faults = lost_connections(clients)
        early = (
            known_at < sent_at
            for client in clients
            for sent_at, known_at in zip(client.sent_at, client.known_at, strict=False)
        )
        counts = (
            (sum(max(0, len(c.sent_at) - len(c.known_at)) for c in clients), "edits were never acknowledged"),
            (sum(c.refused for c in clients), "edits were refused"),
            (sum(early), "edits were acknowledged before they were sent"),
            (sum(max(0, len(c.known_at) - len(c.sent_at)) for c in clients), "acknowledgements of no edit"),
            (sum(c.taken_back for c in clients), "acknowledgements were taken back"),
        )
        return [*faults, *(f"{count} {what}" for count, what in counts if count)]

    def _run(
        self, server: str, clients: list[AckClient], window: tuple[float, float], cost: Cost,
        schedule: Schedule[AckClient], faults: list[str],
    ) -> Run:  # fmt: skip
        start, end = window
        took = array("d", sorted(
            known_at - sent_at
            for client in clients
            for sent_at, known_at in zip(client.sent_at, client.known_at, strict=False)
            if start <= sent_at < end
        ))  # fmt: skip
        conditions = cost.conditions(schedule.late_s)
        figures = {
            "p50_ms": percentile(took, 0.50) * 1e3,
            "p99_ms": percentile(took, 0.99) * 1e3,
            "max_ms": percentile(took, 1) * 1e3,
            "cpu_us": cost.server_us_per(len(took)),
            "database_us": cost.database_us_per(len(took)),
            "edits_per_s": len(took) / cost.seconds,
        }
        parameters = {"writers": self.writers, "rate": self.rate, "seconds": self.seconds}
        return Run(
            self.scenario, self.label, server, parameters, known(figures) | conditions,
            {"latency": latency_curve(took, "Time until acknowledged")}, faults, remarks_on(conditions),
        )  # fmt: skip
