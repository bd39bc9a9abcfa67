"""The other scenarios of the short set against a small relay: what they must not take for sound."""

import asyncio
import math
import os
import sys
import time
from collections.abc import AsyncIterator
from dataclasses import replace
from itertools import count

import pycrdt
import pytest
from picows import WSCloseCode, WSFrame, WSMsgType, WSTransport

from bench.model import Place, Run
from bench.protocols import y_websocket
from bench.scenarios.cold_open import ColdOpenLoad
from bench.scenarios.connect import ConnectLoad, IdleLoad, forgery_let_in
from bench.scenarios.cursors import CursorsLoad
from bench.scenarios.join import ColdJoinLoad, JoinLoad
from bench.scenarios.rooms import RoomsLoad
from bench.servers import Room
from bench.yjs import MapWriter, Reader, any_position
from tests.integration.bench.test_fanout import LATE_S, Durable, Forger, Late, Relay, RelaySocket

CORE = min(os.sched_getaffinity(0))
PLACE = Place(CORE, CORE)
ROOMS = RoomsLoad(rooms=1, clients=2, rate=20, seconds=0.5, warm_up_s=0.2, settle_s=0.6)
CURSORS = CursorsLoad(clients=4, rate=20, seconds=0.5, warm_up_s=0.2, settle_s=0.6)
JOIN = JoinLoad(joiners=4, kib=200, warm_up_s=0)
CONNECT = ConnectLoad(at_once=2, rooms=1, seconds=0.3, warm_up_s=0.3)
IDLE = IdleLoad(sockets=4, rooms=1, at_once=1, hold_s=0.05)
EDITS = round(ROOMS.clients * ROOMS.rate * (ROOMS.warm_up_s + ROOMS.seconds))
AWARENESS = b"\x01"
ASKED = y_websocket().asked


class Crowd(Relay):
    """A relay of awareness too. `dropped_from` loses states from that many on, `altered` changes one, `late`
    comes late, and after `last` a connection is ended.
    """

    def __init__(
        self, dropped_from: int = -1, altered: int = -1, late: int = -1, last: int = -1
    ) -> None:
        super().__init__(lambda _, payload: payload)
        self.dropped_from, self.altered, self.late, self.last = dropped_from, altered, late, last
        self.states = 0

    def told(self, payload: bytes) -> bytes | None:
        self.states += 1
        if 0 < self.dropped_from <= self.states:
            return None
        return payload.replace(b'"x":', b'"z":') if self.states == self.altered else payload


class CrowdSocket(RelaySocket):
    relay: Crowd

    def on_ws_frame(self, transport: WSTransport, frame: WSFrame) -> None:
        payload = frame.get_payload_as_bytes()
        if frame.msg_type is not WSMsgType.BINARY or not payload.startswith(AWARENESS):
            super().on_ws_frame(transport, frame)
            return
        told, loop = self.relay.told(payload), asyncio.get_running_loop()
        for socket in self.relay.sockets if told is not None else ():
            if self.relay.states == self.relay.late:
                loop.call_later(LATE_S, socket.send, WSMsgType.BINARY, told)
            else:
                socket.send(WSMsgType.BINARY, told)
        if self.relay.states == self.relay.last:
            loop.call_soon(self.relay.sockets[-1].disconnect)


class Miser(Relay):
    """Gives all but the last update to those who come after the author and the witnesses."""

    asked = 0

    def beyond(self, have: bytes) -> bytes:
        self.asked += 1
        given = self.updates if self.asked <= 3 else self.updates[:-1]
        return pycrdt.get_update(pycrdt.merge_updates(*given, pycrdt.Doc().get_update()), have)


class Slow(Relay):
    """Makes those who ask as number `first` to `last` wait, or all who ask within that many seconds after the
    first of them.
    """

    def __init__(self, first: int, last: int = sys.maxsize, for_s: float = 60) -> None:
        super().__init__(lambda _, payload: payload)
        self.first, self.last, self.for_s = first, last, for_s
        self.asked, self.waited, self.since = 0, 0, math.inf

    def is_slow(self) -> bool:
        self.asked += 1
        if self.asked == self.first:
            self.since = time.perf_counter()
        is_slow = self.first <= self.asked <= self.last and time.perf_counter() < self.since + self.for_s
        self.waited += is_slow
        return is_slow


class SlowSocket(RelaySocket):
    relay: Slow

    def on_ws_frame(self, transport: WSTransport, frame: WSFrame) -> None:
        payload = frame.get_payload_as_bytes()
        if frame.msg_type is WSMsgType.BINARY and payload.startswith(ASKED) and self.relay.is_slow():
            answer = y_websocket().answer(self.relay.beyond(Reader(payload[len(ASKED) :]).chunk()))
            asyncio.get_running_loop().call_later(LATE_S, transport.send, WSMsgType.BINARY, answer)
        else:
            super().on_ws_frame(transport, frame)


class Hasty(Relay):
    """Loses every tenth edit, alters one, and makes one up."""

    def __init__(self) -> None:
        super().__init__(self._hastily)

    def _hastily(self, number: int, payload: bytes) -> bytes | None:
        if len(self.updates) == 8:
            made_up = MapWriter(4711, "meta").set(b"0.0", any_position(1, 2))
            self.sockets[number].send(WSMsgType.BINARY, y_websocket().tell(made_up))
        if len(self.updates) == 7:
            return payload[:-2] + bytes((payload[-2] ^ 1, 0))
        return None if len(self.updates) % 10 == 0 else payload


@pytest.fixture
async def relay(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Relay]:
    server: Relay = request.param()
    if isinstance(server, Crowd):
        monkeypatch.setattr("tests.integration.bench.test_fanout.RelaySocket", CrowdSocket)
    if isinstance(server, Slow):
        monkeypatch.setattr("tests.integration.bench.test_fanout.RelaySocket", SlowSocket)
    await server.start(0)
    yield server
    await server.stop()


def _deaf(number: int, payload: bytes) -> bytes | None:
    return None if number == 2 else payload


def _honest() -> Relay:
    return Relay(lambda _, payload: payload)


@pytest.mark.parametrize("relay", [_honest], indirect=True)
@pytest.mark.parametrize("load", [JOIN, CONNECT, IDLE], ids=lambda load: load.scenario)
async def test_an_honest_server_is_found_without_fault(
    relay: Relay, load: JoinLoad | ConnectLoad | IdleLoad, all_remarks: set[str]
) -> None:
    run = await load.measure(relay, PLACE)
    assert ([], []) == (run.faults, relay.sockets)
    assert run.figures.keys() <= {figure.key for figure in load.figures}
    assert all_remarks <= set(run.remarks)
    assert relay.most <= load.clients_at_once + 1


@pytest.mark.parametrize("relay", [Late], indirect=True)
async def test_what_happens_in_the_warm_up_is_no_figure_of_rooms(relay: Relay, all_remarks: set[str]) -> None:
    run = await ROOMS.measure(relay, PLACE)
    assert ([], []) == (run.faults, relay.sockets)
    figures = run.figures
    assert 0 < figures["p50_ms"] <= figures["p99_ms"] <= figures["max_ms"] < LATE_S * 1e3
    assert 10 < figures["edits_per_s"] < 1.2 * ROOMS.clients * ROOMS.rate
    assert figures.keys() <= {figure.key for figure in ROOMS.figures}
    assert all_remarks <= set(run.remarks)
    assert "slip_p99_ms" in figures
    assert relay.most <= ROOMS.clients_at_once


@pytest.mark.parametrize("relay", [lambda: Forger(EDITS, ROOMS.clients)], indirect=True)
async def test_newcomers_to_rooms_are_given_what_was_sent_or_it_is_a_fault(relay: Relay) -> None:
    run = await ROOMS.measure(relay, PLACE)
    assert [
        "client 1: the connection was lost", f"2 of {EDITS} edits were not given to newcomers",
    ] == run.faults  # fmt: skip


@pytest.mark.parametrize("relay", [Hasty], indirect=True)
async def test_rooms_notice_edits_that_never_arrive(relay: Relay) -> None:
    run = await ROOMS.measure(relay, PLACE)
    assert [
        f"3 of {EDITS} copies never arrived", "1 edits arrived altered", "1 edits arrived that nobody sent",
    ] == run.faults  # fmt: skip


@pytest.mark.usefixtures("soon_evicted")
@pytest.mark.parametrize("relay", [Durable], indirect=True)
async def test_an_edit_that_was_not_kept_is_noticed_when_the_rooms_are_evicted(relay: Relay) -> None:
    assert [f"1 of {EDITS} edits were not given to newcomers"] == (await ROOMS.measure(relay, PLACE)).faults


@pytest.mark.parametrize("relay", [lambda: Miser(lambda _, payload: payload)], indirect=True)
async def test_joiners_who_lack_something_are_noticed(relay: Relay) -> None:
    run = await JOIN.measure(relay, PLACE)
    assert any("joiners lack up to" in fault for fault in run.faults), run.faults


@pytest.mark.usefixtures("soon_evicted")
@pytest.mark.parametrize("relay", [Durable], indirect=True)
async def test_joiners_of_a_cold_room_are_given_what_was_kept(relay: Relay) -> None:
    run = await ColdJoinLoad(joiners=2, kib=1, warm_up_s=0).measure(relay, PLACE)
    (fault,) = run.faults
    assert fault.startswith("2 of 2 joiners lack up to ")


@pytest.mark.usefixtures("soon_evicted")
@pytest.mark.parametrize("relay", [Durable], indirect=True)
async def test_a_cold_diagram_is_held_against_what_was_drawn(
    relay: Relay, monkeypatch: pytest.MonkeyPatch, all_remarks: set[str]
) -> None:
    """One cell is drawn at a time, so that the last one alone is lost."""
    monkeypatch.setattr("bench.scenarios.cold_open.CELLS_A_FRAME", 1)
    load = ColdOpenLoad(cells=3, opens=1)
    run = await load.measure(relay, PLACE)
    assert ["1 of 1 diagrams lacked properties"] == run.faults
    assert all_remarks - {"generator late"} <= set(run.remarks)
    assert isinstance(relay, Durable)
    relay.loses = 0
    again = await load.measure(relay, PLACE)
    assert ([], True) == (again.faults, again.figures["kib"] > run.figures["kib"])


def _slowest_ms(run: Run) -> float:
    return max(ms for _, ms in run.curves["latency"].points)


@pytest.mark.parametrize("relay", [lambda: Slow(3, 2 + JOIN.joiners)], indirect=True)
async def test_the_storm_before_the_measured_one_is_no_figure(relay: Slow) -> None:
    """Seeder and witness ask first. The first storm lasts longer than the warm-up, so it is the only one."""
    run = await replace(JOIN, kib=4, warm_up_s=LATE_S / 2).measure(relay, PLACE)
    assert ([], [], JOIN.joiners) == (run.faults, relay.sockets, relay.waited)
    assert 2 * (2 + JOIN.joiners) == relay.asked
    assert 0 < run.figures["p99_ms"] <= _slowest_ms(run) < LATE_S * 1e3


@pytest.mark.parametrize("relay", [lambda: Slow(2, for_s=CONNECT.warm_up_s)], indirect=True)
async def test_connections_of_the_warm_up_are_no_figure(relay: Slow) -> None:
    """Who comes within the warm-up waits for longer than it lasts: those at once, and none of them twice."""
    run = await CONNECT.measure(relay, PLACE)
    assert ([], [], CONNECT.at_once) == (run.faults, relay.sockets, relay.waited)
    assert 0 < run.figures["p99_ms"] <= _slowest_ms(run) < LATE_S * 1e3
    assert run.figures["accepted_per_s"] * CONNECT.seconds <= relay.asked - CONNECT.rooms - CONNECT.at_once


@pytest.mark.parametrize("relay", [lambda: Relay(lambda _, payload: payload)], indirect=True)
async def test_a_joiner_who_is_sent_away_again_is_noticed(
    relay: Relay, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The witness is the second to ask; which joiner is the third is chance."""
    answers = count(1)

    class Rude(RelaySocket):
        def on_ws_frame(self, transport: WSTransport, frame: WSFrame) -> None:
            super().on_ws_frame(transport, frame)
            if frame.get_payload_as_bytes().startswith(y_websocket().asked) and next(answers) == 3:
                transport.send_close(WSCloseCode.TRY_AGAIN_LATER, b"full")

    monkeypatch.setattr("tests.integration.bench.test_fanout.RelaySocket", Rude)
    run = await replace(JOIN, kib=1).measure(relay, PLACE)
    (fault,) = run.faults
    assert fault.endswith(": closed with 1013: full")


@pytest.mark.parametrize("relay", [lambda: Crowd(late=CURSORS.clients + 1)], indirect=True)
async def test_honest_cursors_are_found_without_fault(relay: Relay, all_remarks: set[str]) -> None:
    """The first moves of the warm-up come late."""
    run = await CURSORS.measure(relay, PLACE)
    assert [] == run.faults
    assert 50 < run.figures["copies_per_s"] < 1.2 * CURSORS.clients * (CURSORS.clients - 1) * CURSORS.rate
    assert run.figures["max_ms"] < LATE_S * 1e3
    assert all_remarks <= set(run.remarks)
    assert "slip_p99_ms" in run.figures
    assert relay.most <= CURSORS.clients_at_once


MOVES = round(CURSORS.clients * CURSORS.rate * (CURSORS.warm_up_s + CURSORS.seconds))


@pytest.mark.parametrize("relay", [lambda: Crowd(last=CURSORS.clients + MOVES)], indirect=True)
async def test_a_cursor_whose_connection_was_lost_is_noticed(relay: Relay) -> None:
    assert ["client 3: the connection was lost"] == (await CURSORS.measure(relay, PLACE)).faults


@pytest.mark.parametrize("relay", [lambda: Crowd(dropped_from=20)], indirect=True)
async def test_cursors_that_stand_still_are_noticed(relay: Relay) -> None:
    run = await CURSORS.measure(relay, PLACE)
    assert ["12 of 12 last states never arrived"] == run.faults


@pytest.mark.parametrize("relay", [lambda: Crowd(altered=10)], indirect=True)
async def test_a_cursor_in_another_place_is_noticed(relay: Relay) -> None:
    run = await CURSORS.measure(relay, PLACE)
    assert any("altered" in fault for fault in run.faults), run.faults


@pytest.mark.parametrize("relay", [lambda: Relay(_deaf)], indirect=True)
async def test_an_idle_client_that_is_deaf_is_noticed(relay: Relay) -> None:
    assert ["1 of 4 idle clients did not get an edit"] == (await IDLE.measure(relay, PLACE)).faults


@pytest.mark.parametrize("relay", [_honest], indirect=True)
async def test_a_token_that_nobody_looks_at_is_noticed(
    relay: Relay, monkeypatch: pytest.MonkeyPatch
) -> None:
    room = await relay.room()
    with_token = replace(room, url=f"{room.url}?token=header.payload.signature")

    async def room_with_token() -> Room:
        return with_token

    monkeypatch.setattr(relay, "room", room_with_token)
    run = await replace(CONNECT, seconds=0.01, warm_up_s=0).measure(relay, PLACE)
    assert ["a connection with a forged token was let in"] == run.faults
    assert [] == await forgery_let_in(room), "it has none"
    nobody = Room(f"ws://127.0.0.1:9/room?token={'x' * 20}", room.dialect)
    assert [] == await forgery_let_in(nobody), "it was refused"
