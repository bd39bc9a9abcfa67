"""A quiet room beside a large edit: what the other room sees, and what becomes of what is lost."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from picows import WSListener, WSMsgType

from bench.model import Place
from bench.scenarios.large_edit import EditStallLoad
from tests.integration.bench.test_neighbours import CORE, Apart, ApartSocket

LOAD = EditStallLoad(cells=300, rate=50, seconds=0.3, warm_up_s=0.1, settle_s=5)
LARGE_BYTES = 50_000
PAUSE_S = 1.0


class Heavy(Apart):
    """Has nothing for anybody for a while once a large edit has come, which it may alter."""

    def __init__(self) -> None:
        super().__init__(lambda _number, payload: payload)
        self.alters = False
        self.until = 0.0

    def listener(self, path: str) -> WSListener:
        return HeavySocket(self, path)


class HeavySocket(ApartSocket):
    relay: Heavy

    def _relay(self, payload: bytes) -> None:
        relay, loop = self.relay, asyncio.get_running_loop()
        if len(payload) > LARGE_BYTES:
            relay.until = loop.time() + PAUSE_S
            if relay.alters:
                payload = payload.replace(b"Process 7w", b"Process 8w", 1).replace(b"a000007", b"a000008", 1)
        others = [socket for socket in relay.sockets if relay.paths[socket] == self.path]
        for socket in others:
            if relay.until > loop.time():
                loop.call_at(relay.until, socket.send, WSMsgType.BINARY, payload)
            else:
                socket.send(WSMsgType.BINARY, payload)


@pytest.fixture
async def server() -> AsyncIterator[Heavy]:
    heavy = Heavy()
    await heavy.start(0)
    yield heavy
    await heavy.stop()


async def test_a_pause_while_an_edit_goes_in_is_seen(server: Heavy) -> None:
    run = await LOAD.measure(server, Place(CORE, CORE))
    assert ([], "stall-edit") == (run.faults, run.scenario)
    assert run.figures["p50_alone_ms"] < PAUSE_S * 1e3 / 2 < run.figures["max_beside_ms"]
    assert run.figures["seen_ms"] > PAUSE_S * 1e3 / 2
    assert 30 < run.figures["kib"] < 200
    assert run.figures.keys() <= {figure.key for figure in LOAD.figures}
    assert [] == server.sockets


async def test_an_edit_that_arrives_altered_is_a_fault(server: Heavy) -> None:
    server.alters = True
    run = await LOAD.measure(server, Place(CORE, CORE))
    assert ["the other editor lacks 1 of 2100 properties"] == run.faults


@pytest.mark.parametrize(
    "bad", [{"cells": 0}, {"cells": 50_001}, {"rate": 0.0}, {"seconds": 0.0}, {"settle_s": -1.0}]
)
def test_what_makes_no_sense_is_refused(bad: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"cells|positive"):
        EditStallLoad(**bad)
