"""The generator against itself: the sender gives out all it was given, and what is lost is a fault."""

import asyncio
import os
from collections.abc import AsyncIterator

import pytest
from picows import ws_create_server

from bench import sending
from bench.ledger import Delivery
from bench.model import Place
from bench.scenarios.fanout import delivery_faults
from bench.scenarios.itself import SelfLoad, faults_of
from bench.sending import Tap
from bench.servers import Sender, ServerError
from bench.servers.base import HOST
from tests.integration.bench.test_fanout import Relay

CORE = min(os.sched_getaffinity(0))
LOAD = SelfLoad(clients=3, edits=1000, at_once=7)


class TapThatEnds(Tap):
    """Gives its first reader everything, ends its connection, and only then turns to the others."""

    async def pour(self, at_once: int) -> None:
        frames, (first, *others) = self.frames[:], self.readers
        self.readers = [first]
        await super().pour(at_once)
        first.disconnect()
        while self.readers:
            await asyncio.sleep(0)
        for _ in range(10):  # it may read that it is alone
            await asyncio.sleep(0)
        self.frames, self.readers = frames, others
        await super().pour(at_once)


class HereSender(Sender):
    """In this process."""

    async def start(self, core: int) -> None:
        accept, most = TapThatEnds().accept, sending.MAX_FRAME_BYTES
        self._listening = await ws_create_server(accept, HOST, 0, max_frame_size=most)
        self.port = self._listening.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        self._listening.close()
        await self._listening.wait_closed()

    @property
    def pid(self) -> int:
        return os.getpid()


@pytest.fixture
async def sender() -> AsyncIterator[Sender]:
    server = Sender()
    await server.start(CORE)
    yield server
    await server.stop()


async def test_every_copy_is_counted_and_the_sender_can_be_used_again(sender: Sender) -> None:
    for _ in range(2):
        run = await LOAD.measure(sender, Place(CORE, CORE))
        assert [] == run.faults
        assert run.figures["copies_per_s"] > 0
        assert run.figures["copies_per_read"] >= 1
        assert run.figures.keys() <= {figure.key for figure in LOAD.figures}


async def test_a_connection_that_is_lost_is_a_fault() -> None:
    server = HereSender()
    await server.start(CORE)
    try:
        run = await LOAD.measure(server, Place(CORE, CORE))
        assert ["client 0: the connection was lost"] == run.faults
    finally:
        await server.stop()


async def test_no_other_server_will_do() -> None:
    with pytest.raises(ServerError, match="relay gives nobody prepared frames"):
        await LOAD.measure(Relay(lambda _number, payload: payload), Place(CORE, CORE))


def test_lost_and_altered_copies_are_faults() -> None:
    delivery = Delivery(copies_due=9, copies_missing=2, altered=1, invented=4, undecodable=3)
    assert [
        "2 of 9 copies never arrived", "1 edits arrived altered", "4 edits arrived that nobody sent",
        "3 frames could not be read",
    ] == faults_of(delivery) == delivery_faults(delivery)  # fmt: skip


@pytest.mark.parametrize(("size", "head"), [(125, "827d"), (126, "827e007e"), (65535, "827effff")])
def test_a_frame_on_the_wire_says_its_size(size: int, head: str) -> None:
    payload = b"x" * size
    assert bytes.fromhex(head) + payload == sending.on_the_wire(payload)


@pytest.mark.parametrize("parameters", [(0, 1000, 8), (50, 10, 8), (1000, 1_000_000, 8), (50, 1000, 0)])
def test_an_impossible_load_is_refused(parameters: tuple[int, int, int]) -> None:
    with pytest.raises(ValueError, match=r"clients|edits"):
        SelfLoad(*parameters)
