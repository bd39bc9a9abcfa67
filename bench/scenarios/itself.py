"""The load generator against itself: how many copies a second its clients can take.

In place of a server, a process on the other core gives prepared frames to all clients as fast as they read.
Each holds one edit, as with a server that merges nothing. The clients are those of every other scenario, and
what they read is held against what was prepared, as everywhere.
"""

import asyncio
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from time import perf_counter
from typing import ClassVar

from picows import WSListener, WSMsgType, WSTransport, ws_connect

from bench.client import JOIN_TIMEOUT_S, Client
from bench.ledger import Delivery, Ledger, Window
from bench.measuring import (
    CONDITIONS,
    Cost,
    collector_at_rest,
    join_all,
    known,
    leave_all,
    lost_connections,
    new_client,
    probe_of,
    remarks_on,
)
from bench.model import Figure, Goal, Place, Run, option
from bench.scenarios.fanout import BYTES_A_COPY, MEMORY_LIMIT_BYTES
from bench.servers import Sender, Server, ServerError
from bench.yjs import any_position

AT_ONCE = 8
BUSY_ENOUGH = 0.9
TIMEOUT_S = 60.0
LOOK_EVERY_S = 0.01


class Prompter(WSListener):
    """Hands the frames over and opens the tap."""

    def __init__(self) -> None:
        self._connected: asyncio.Future[WSTransport] = asyncio.get_running_loop().create_future()

    def on_ws_connected(self, transport: WSTransport) -> None:
        self._connected.set_result(transport)

    async def connect(self, url: str) -> WSTransport:
        """Raises `OSError`, `TimeoutError` or `WSError`."""
        await ws_connect(lambda: self, url, websocket_handshake_timeout=JOIN_TIMEOUT_S)
        return await asyncio.wait_for(self._connected, JOIN_TIMEOUT_S)


@dataclass(frozen=True)
class SelfLoad:
    """The load generator without a server: how many copies a second its clients can take."""

    scenario: ClassVar[str] = "self"
    title: ClassVar[str] = "The generator itself"
    cost: ClassVar[str] = "generator_us"
    needs: ClassVar[frozenset[str]] = frozenset()
    figures: ClassVar[tuple[Figure, ...]] = (
        Figure("copies_per_s", "copies", "a second", "higher", ",.0f"),
        Figure("generator_us", "CPU of the generator", "us/copy", "lower", ".2f"),
        Figure("copies_per_read", "copies", "a read"),
        *CONDITIONS,
    )

    clients: int = option(50, "That read.")
    edits: int = option(30_000, "That each of them is given.")
    at_once: int = option(AT_ONCE, "Edits that are written to a client at once, each a frame of its own.")

    def __post_init__(self) -> None:
        if not 1 <= self.clients <= 1000 or not 1000 <= self.edits <= 1_000_000:
            raise ValueError("1 to 1,000 clients, 1,000 to 1,000,000 edits")
        if not 1 <= self.at_once <= 1000:
            raise ValueError("1 to 1,000 edits are written at once")
        if self.clients * self.edits * BYTES_A_COPY > MEMORY_LIMIT_BYTES:
            raise ValueError("the generator would keep over 4 GiB of frames: fewer clients or edits")

    @property
    def label(self) -> str:
        return f"{self.clients} clients x {self.edits:,} edits, {self.at_once} at once"

    @property
    def goals(self) -> tuple[Goal, ...]:
        return (Goal("copies_per_s", limit=300_000),) if self.at_once == AT_ONCE else ()

    @property
    def clients_at_once(self) -> int:
        return self.clients

    async def measure(self, server: Server, place: Place) -> Run:
        """Raises `ServerError`, `OSError`, `TimeoutError` or `WSError`."""
        if not isinstance(server, Sender):
            raise ServerError(f"{server.name} gives nobody prepared frames")
        room = await server.room()
        author = new_client(self.clients, room)
        clients = [new_client(number, room) for number in range(self.clients)]
        tap = await Prompter().connect(server.prompt_url)
        try:
            await join_all(clients, room)
            for frame in prepared(author, self.edits):
                tap.send(WSMsgType.BINARY, frame)
            with collector_at_rest():
                before = probe_of(server, place).read()
                tap.send(WSMsgType.TEXT, b"%d" % self.at_once)
                await until_given(clients, self.edits)
                after = probe_of(server, place).read()
        finally:
            tap.disconnect()
            await leave_all(clients)
        cost, window = Cost.between(before, after), Window(before.at, after.at)
        delivery = Ledger([author, *clients]).delivery(window)
        faults = [*lost_connections(clients), *faults_of(delivery)]
        return self._run(server.name, clients, delivery, window, cost, faults)

    def _run(
        self, server: str, clients: Sequence[Client], delivery: Delivery, window: Window, cost: Cost,
        faults: list[str],
    ) -> Run:  # fmt: skip
        copies = delivery.copies_in_window
        reads = [set(client.read_at) for client in clients]
        last_read = max(max(moments) for moments in reads)
        conditions = cost.conditions()
        remarks = [remark for remark in remarks_on(conditions) if remark != "generator busy"]
        if conditions["generator_busy"] < BUSY_ENOUGH:
            remarks.append("the sender was slower")
        figures = {
            "copies_per_s": copies / (last_read - window.start),
            "generator_us": cost.generator_s / max(1, copies) * 1e6,
            "copies_per_read": copies / sum(map(len, reads)),
        }
        parameters: dict[str, float] = {
            "clients": self.clients, "edits": self.edits, "at_once": self.at_once
        }  # fmt: skip
        return Run(
            self.scenario, self.label, server, parameters, known(figures) | conditions, {}, faults, remarks
        )


def prepared(author: Client, edits: int) -> Iterator[bytes]:
    """A frame for each edit, which count as sent."""
    for number in range(edits):
        author.sent_at.append(perf_counter())
        key = b"%d.%d" % (author.number, number)
        yield author.dialect.tell(author.writer.set(key, any_position(number % 1900, number % 1070)))


async def until_given(clients: Sequence[Client], edits: int) -> None:
    """Until every client has read its first sync and so many frames more, or for long enough."""
    deadline = perf_counter() + TIMEOUT_S
    while perf_counter() < deadline and any(len(client.frames) <= edits for client in clients):
        await asyncio.sleep(LOOK_EVERY_S)


def faults_of(delivery: Delivery) -> list[str]:
    """Copies that were lost or altered."""
    counts = (
        (delivery.copies_missing, f"of {delivery.copies_due} copies never arrived"),
        (delivery.altered, "edits arrived altered"),
        (delivery.invented, "edits arrived that nobody sent"),
        (delivery.undecodable, "frames could not be read"),
    )
    return [f"{count} {what}" for count, what in counts if count]
