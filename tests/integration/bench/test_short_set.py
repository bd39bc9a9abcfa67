"""The other scenarios of the short set against a small relay: what they must not take for sound."""

import os
from collections.abc import AsyncIterator

import pycrdt
import pytest
from picows import WSFrame, WSMsgType, WSTransport

from bench.model import Place
from bench.scenarios.connect import ConnectLoad
from bench.scenarios.cursors import CursorsLoad
from bench.scenarios.join import JoinLoad
from bench.scenarios.rooms import RoomsLoad
from tests.integration.bench.test_fanout import Relay, RelaySocket

CORE = min(os.sched_getaffinity(0))
PLACE = Place(CORE, CORE)
ROOMS = RoomsLoad(rooms=1, clients=2, rate=20, seconds=0.5, warm_up_s=0.2, settle_s=0.6)
CURSORS = CursorsLoad(clients=4, rate=20, seconds=0.5, warm_up_s=0.2, settle_s=0.6)
JOIN = JoinLoad(joiners=4, kib=200)
CONNECT = ConnectLoad(at_once=2, rooms=1, seconds=0.5)
AWARENESS = b"\x01"


class Crowd(Relay):
    """A relay of awareness too. `dropped_from` loses states from that many on, `altered` changes one."""

    def __init__(self, dropped_from: int | None = None, altered: int | None = None) -> None:
        super().__init__(lambda _, payload: payload)
        self.dropped_from = dropped_from
        self.altered = altered
        self.states = 0

    def told(self, payload: bytes) -> bytes | None:
        self.states += 1
        if self.dropped_from is not None and self.states >= self.dropped_from:
            return None
        return payload.replace(b'"x":', b'"z":') if self.states == self.altered else payload


class CrowdSocket(RelaySocket):
    relay: Crowd

    def on_ws_frame(self, transport: WSTransport, frame: WSFrame) -> None:
        payload = frame.get_payload_as_bytes()
        if frame.msg_type is not WSMsgType.BINARY or not payload.startswith(AWARENESS):
            super().on_ws_frame(transport, frame)
            return
        told = self.relay.told(payload)
        for socket in self.relay.sockets if told is not None else ():
            socket.send(WSMsgType.BINARY, told)


class Miser(Relay):
    """Gives all but the last update to those who come after the author and the witnesses."""

    asked = 0

    def beyond(self, have: bytes) -> bytes:
        self.asked += 1
        given = self.updates if self.asked <= 3 else self.updates[:-1]
        return pycrdt.get_update(pycrdt.merge_updates(*given, pycrdt.Doc().get_update()), have)


class Hasty(Relay):
    """Loses every tenth edit."""

    def __init__(self) -> None:
        super().__init__(lambda _, payload: None if len(self.updates) % 10 == 0 else payload)


@pytest.fixture
async def relay(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Relay]:
    server: Relay = request.param()
    if isinstance(server, Crowd):
        monkeypatch.setattr("tests.integration.bench.test_fanout.RelaySocket", CrowdSocket)
    await server.start(0)
    yield server
    await server.stop()


def _honest() -> Relay:
    return Relay(lambda _, payload: payload)


@pytest.mark.parametrize("relay", [_honest], indirect=True)
@pytest.mark.parametrize("load", [ROOMS, JOIN, CONNECT], ids=lambda load: load.scenario)
async def test_an_honest_server_is_found_without_fault(
    relay: Relay, load: RoomsLoad | JoinLoad | ConnectLoad
) -> None:
    run = await load.measure(relay, PLACE)
    assert ([], []) == (run.faults, relay.sockets)
    assert run.figures.keys() <= {figure.key for figure in load.figures}


@pytest.mark.parametrize("relay", [Hasty], indirect=True)
async def test_rooms_notice_edits_that_never_arrive(relay: Relay) -> None:
    run = await ROOMS.measure(relay, PLACE)
    assert any("never" in fault for fault in run.faults), run.faults


@pytest.mark.parametrize("relay", [lambda: Miser(lambda _, payload: payload)], indirect=True)
async def test_joiners_who_lack_something_are_noticed(relay: Relay) -> None:
    run = await JOIN.measure(relay, PLACE)
    assert any("joiners lack up to" in fault for fault in run.faults), run.faults


@pytest.mark.parametrize("relay", [Crowd], indirect=True)
async def test_honest_cursors_are_found_without_fault(relay: Relay) -> None:
    assert [] == (await CURSORS.measure(relay, PLACE)).faults


@pytest.mark.parametrize("relay", [lambda: Crowd(dropped_from=20)], indirect=True)
async def test_cursors_that_stand_still_are_noticed(relay: Relay) -> None:
    run = await CURSORS.measure(relay, PLACE)
    assert ["12 of 12 last states never arrived"] == run.faults


@pytest.mark.parametrize("relay", [lambda: Crowd(altered=10)], indirect=True)
async def test_a_cursor_in_another_place_is_noticed(relay: Relay) -> None:
    run = await CURSORS.measure(relay, PLACE)
    assert any("altered" in fault for fault in run.faults), run.faults


