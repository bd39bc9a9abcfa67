"""The whole scenario against a small relay, honest or not: its account must tell the difference."""

import asyncio
import os
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import replace

import picows
import pycrdt
import pytest
from picows import WSFrame, WSListener, WSMsgType, WSTransport, WSUpgradeRequest

from bench.model import Place
from bench.protocols import y_websocket
from bench.scenarios.fanout import FanoutLoad
from bench.servers import Room, Server
from bench.servers.base import HOST
from bench.yjs import Reader

LOAD = FanoutLoad(clients=4, writers=2, rate=50, seconds=0.5, warm_up_s=0.2, settle_s=0.6)
CORE = min(os.sched_getaffinity(0))
UPDATE = b"\x00\x02"
EDITS = round(LOAD.writers * LOAD.rate * (LOAD.warm_up_s + LOAD.seconds))
LATE_S = 0.4


class Relay(Server):
    """A y-websocket server of one room, in this process. `spoil` may change or drop what goes to a socket."""

    name = "relay"
    persistence = "none"

    def __init__(self, spoil: Callable[[int, bytes], bytes | None]) -> None:
        super().__init__()
        self.spoil = spoil
        self.updates: list[bytes] = []
        self.sockets: list[WSTransport] = []
        self.most = 0
        """Of the sockets, at any moment."""

    async def start(self, core: int) -> None:
        def accept(request: WSUpgradeRequest) -> WSListener | None:
            return self.listener(request.path.decode())

        self._listening = await picows.ws_create_server(accept, HOST, 0)
        self.port = self._listening.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        self._listening.close()
        await self._listening.wait_closed()

    async def room(self) -> Room:
        return Room(f"ws://{HOST}:{self.port}/room", y_websocket())

    def beyond(self, have: bytes) -> bytes:
        """What it gives to a client whose state vector is `have`."""
        return beyond(self.updates, have)

    def listener(self, path: str) -> WSListener | None:
        """For one who comes; None to send them away."""
        return RelaySocket(self)

    def left(self) -> None:
        """Somebody has gone."""

    def version(self) -> str:
        return "0"

    @property
    def pid(self) -> int:
        return os.getpid()


class RelaySocket(WSListener):
    def __init__(self, relay: Relay) -> None:
        self.relay = relay

    def on_ws_connected(self, transport: WSTransport) -> None:
        self.relay.sockets.append(transport)
        self.relay.most = max(self.relay.most, len(self.relay.sockets))
        transport.send(WSMsgType.BINARY, y_websocket().ask())

    def on_ws_disconnected(self, transport: WSTransport) -> None:
        self.relay.sockets.remove(transport)
        self.relay.left()

    def on_ws_frame(self, transport: WSTransport, frame: WSFrame) -> None:
        if frame.msg_type is not WSMsgType.BINARY:
            transport.disconnect()
            return
        payload = frame.get_payload_as_bytes()
        if payload.startswith(y_websocket().asked):
            self.answer(transport, Reader(payload[len(y_websocket().asked) :]).chunk())
        elif payload.startswith(UPDATE):
            self._relay(payload)

    def answer(self, transport: WSTransport, have: bytes) -> None:
        transport.send(WSMsgType.BINARY, y_websocket().answer(self.beyond(have)))

    def beyond(self, have: bytes) -> bytes:
        return self.relay.beyond(have)

    def _relay(self, payload: bytes) -> None:
        self.relay.updates.append(Reader(payload[len(UPDATE) :]).chunk())
        for number, socket in enumerate(self.relay.sockets):
            spoilt = self.relay.spoil(number, payload)
            if spoilt is not None:
                socket.send(WSMsgType.BINARY, spoilt)


def beyond(updates: Sequence[bytes], have: bytes) -> bytes:
    return pycrdt.get_update(pycrdt.merge_updates(*updates, pycrdt.Doc().get_update()), have)


class Late(Relay):
    """Gives every socket the first edit, one of the warm-up, so much later that nobody could overlook it."""

    def __init__(self) -> None:
        super().__init__(self._late)

    def _late(self, number: int, payload: bytes) -> bytes | None:
        if len(self.updates) > 1:
            return payload
        socket = self.sockets[number]
        asyncio.get_running_loop().call_later(LATE_S, socket.send, WSMsgType.BINARY, payload)
        return None


class Forger(Relay):
    """Gives everybody everything, and then ends the connection of one; a newcomer gets it with one edit left
    out and with the value of another one altered.
    """

    def __init__(self, edits: int, members: int) -> None:
        super().__init__(self._and_then_end)
        self.edits, self.members, self.asked = edits, members, 0

    def _and_then_end(self, number: int, payload: bytes) -> bytes:
        if len(self.updates) == self.edits and number == self.members - 1:
            asyncio.get_running_loop().call_soon(self.sockets[number].disconnect)
        return payload

    def beyond(self, have: bytes) -> bytes:
        self.asked += 1
        if self.asked <= self.members:
            return super().beyond(have)
        *most, altered, _left_out = self.updates
        assert altered.endswith(b"\x00")
        return beyond([*most, altered[:-2] + bytes((altered[-2] ^ 1, 0))], have)


class Durable(Relay):
    """Evicts its room when everybody has left, and has not kept the last edit."""

    offers = frozenset({"durable", "acknowledgements"})

    def __init__(self) -> None:
        super().__init__(lambda _, payload: payload)
        self.kept: list[bytes] = []
        self.loses = 1

    def left(self) -> None:
        if not self.sockets:
            self.kept = self.updates[: len(self.updates) - self.loses]
            asyncio.get_running_loop().call_later(0.1, self._evict)

    def _evict(self) -> None:
        if not self.sockets:
            self.updates = self.kept


def _faithfully(_number: int, payload: bytes) -> bytes:
    return payload


def _not_all_to_the_last(number: int, payload: bytes) -> bytes | None:
    return None if number == 3 and b"0.5" in payload else payload


def _with_another_value(number: int, payload: bytes) -> bytes:
    return payload[:-2] + b"\x3f\x00" if number == 3 and b"0.5" in payload else payload


@pytest.fixture
async def relay(request: pytest.FixtureRequest) -> AsyncIterator[Relay]:
    server = request.param if isinstance(request.param, Relay) else Relay(request.param)
    await server.start(0)
    yield server
    await server.stop()


@pytest.mark.parametrize("relay", [Late()], indirect=True)
async def test_an_honest_server_is_found_without_fault(relay: Relay, all_remarks: set[str]) -> None:
    run = await LOAD.measure(relay, Place(CORE, CORE))
    assert [] == run.faults
    figures = run.figures
    assert 0 < figures["p50_ms"] <= figures["p99_ms"] <= figures["max_ms"] < LATE_S * 1e3, "warm-up counts"
    assert 100 < figures["copies_per_s"] < 1.2 * LOAD.writers * LOAD.rate * (LOAD.clients - 1)
    assert all_remarks <= set(run.remarks)
    assert "slip_p99_ms" in figures
    assert relay.most <= LOAD.clients_at_once + 1
    assert figures.keys() <= {figure.key for figure in LOAD.figures}
    assert [] == relay.sockets


@pytest.mark.parametrize("relay", [_not_all_to_the_last], indirect=True)
async def test_one_copy_that_never_arrives_is_a_fault(relay: Relay) -> None:
    run = await LOAD.measure(relay, Place(CORE, CORE))
    assert ["1 of 210 copies never arrived"] == run.faults


@pytest.mark.parametrize("relay", [_with_another_value], indirect=True)
async def test_one_altered_copy_is_a_fault(relay: Relay) -> None:
    run = await LOAD.measure(relay, Place(CORE, CORE))
    assert ["1 of 210 copies never arrived", "1 edits arrived altered"] == run.faults


@pytest.mark.parametrize("relay", [Forger(EDITS, LOAD.clients)], indirect=True)
async def test_a_newcomer_s_document_is_held_against_what_was_sent_by_content(relay: Relay) -> None:
    run = await LOAD.measure(relay, Place(CORE, CORE))
    assert [
        "client 3: the connection was lost",
        f"a newcomer was not given 2 of {EDITS} edits",
    ] == run.faults


@pytest.mark.parametrize("relay", [lambda number, payload: None if number else payload], indirect=True)
async def test_a_server_that_delivers_next_to_nothing_fell_behind(relay: Relay) -> None:
    run = await replace(LOAD, settle_s=0).measure(relay, Place(CORE, CORE))
    assert "fell behind" in run.remarks
