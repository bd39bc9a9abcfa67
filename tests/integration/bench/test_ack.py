"""Acknowledgements: what is told of edits that are kept, and what a server may not say of them."""

import asyncio
import os
from array import array
from collections.abc import AsyncIterator

import pytest
from picows import WSFrame, WSMsgType, WSTransport

from bench.model import Place
from bench.protocols import hocuspocus, y_websocket
from bench.scenarios.ack import AckClient, AckLoad
from bench.yjs import var_uint
from tests.integration.bench.test_fanout import LATE_S, UPDATE, Durable, RelaySocket

CORE = min(os.sched_getaffinity(0))
LOAD = AckLoad(writers=2, rate=20, seconds=0.5, warm_up_s=0.2, settle_s=1)
EDITS = round(LOAD.writers * LOAD.rate * (LOAD.warm_up_s + LOAD.seconds))


class Register(Durable):
    """Tells each author how many of its edits are kept, and `ahead` more; at first so late that nobody could
    overlook it.
    """

    def __init__(self, offers: frozenset[str], ahead: int = 0) -> None:
        super().__init__()
        self.offers = offers
        self.ahead = ahead


class RegisterSocket(RelaySocket):
    relay: Register
    count = 0
    has_told = False

    def on_ws_frame(self, transport: WSTransport, frame: WSFrame) -> None:
        super().on_ws_frame(transport, frame)
        if frame.get_payload_as_bytes().startswith(UPDATE):
            self.count += 1
            if self.count == 1:
                asyncio.get_running_loop().call_later(LATE_S, self.tell, transport)
            elif self.has_told:
                self.tell(transport)

    def tell(self, transport: WSTransport) -> None:
        self.has_told = True
        transport.send(WSMsgType.BINARY, b"\x64" + var_uint(self.count + self.relay.ahead))


@pytest.fixture
async def register(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Register]:
    monkeypatch.setattr("tests.integration.bench.test_fanout.RelaySocket", RegisterSocket)
    server = Register(*request.param)
    await server.start(0)
    yield server
    await server.stop()


@pytest.mark.parametrize("register", [(frozenset({"acknowledgements"}),)], indirect=True)
async def test_an_honest_server_is_found_without_fault_and_the_warm_up_is_no_figure(
    register: Register, all_remarks: set[str]
) -> None:
    run = await LOAD.measure(register, Place(CORE, CORE))
    assert ([], []) == (run.faults, register.sockets)
    figures = run.figures
    assert 0 < figures["p50_ms"] <= figures["p99_ms"] <= figures["max_ms"] < LATE_S * 1e3
    assert 10 < figures["edits_per_s"] < 1.2 * LOAD.writers * LOAD.rate
    assert figures.keys() <= {figure.key for figure in LOAD.figures}
    assert all_remarks <= set(run.remarks)
    assert "slip_p99_ms" in figures


@pytest.mark.usefixtures("soon_evicted")
@pytest.mark.parametrize("register", [(Durable.offers, 1)], indirect=True)
async def test_what_is_acknowledged_has_to_have_been_sent_and_to_be_kept(register: Register) -> None:
    run = await LOAD.measure(register, Place(CORE, CORE))
    early, surplus, lost = run.faults
    assert early.endswith("edits were acknowledged before they were sent")
    assert surplus.endswith("acknowledgements of no edit")
    assert "1 edits were not given to a newcomer" == lost


def _client(sent_at: list[float], known_at: list[float]) -> AckClient:
    client = AckClient(0, 1, y_websocket())
    client.sent_at, client.known_at = array("d", sent_at), array("d", known_at)
    return client


@pytest.mark.parametrize(
    ("known_at", "faults"),
    [
        ([1.5, 3.5, 3.5], []),
        ([1.5, 3.5], ["1 edits were never acknowledged"]),
        ([1.5, 1.9, 2.9], ["2 edits were acknowledged before they were sent"]),
        ([1.5, 3.5, 3.5, 3.5], ["1 acknowledgements of no edit"]),
    ],
)
async def test_acknowledgements_are_held_against_edits_one_by_one(
    known_at: list[float], faults: list[str]
) -> None:
    assert faults == AckLoad._faults([_client([1, 2, 3], known_at)])


async def test_what_one_client_lacks_another_s_surplus_does_not_make_up_for() -> None:
    clients = [_client([1, 2], [1.5]), _client([1, 2], [1.5, 2.5, 2.5])]
    clients[1].lost = "gone"
    assert [
        "client 0: gone", "1 edits were never acknowledged", "1 acknowledgements of no edit",
    ] == AckLoad._faults(clients)  # fmt: skip


class _Frame:
    """What a client uses of a frame of picows."""

    msg_type, last_in_buffer = WSMsgType.BINARY, True

    def __init__(self, payload: bytes) -> None:
        self._payload = payload

    def get_payload_as_bytes(self) -> bytes:
        return self._payload


def _read(client: AckClient, *payloads: bytes) -> AckClient:
    for payload in payloads:
        client.on_ws_frame(None, _Frame(payload))  # type: ignore[arg-type]
    return client


async def test_a_count_of_edits_that_are_kept_only_grows() -> None:
    client = _read(_client([1, 2, 3], []), b"\x64\x00", b"\x64\x02", b"\x64\x02", b"\x64\x01", b"\x64\x03")
    assert (3, 1) == (len(client.known_at), client.taken_back)
    assert ["1 acknowledgements were taken back"] == AckLoad._faults([client])


async def test_hocuspocus_acknowledges_the_sync_and_then_each_edit_or_refuses_it() -> None:
    dialect = hocuspocus("d", "token")
    yes, no = (dialect.prefix + b"\x08" + answer for answer in (b"\x01", b"\x00"))
    client = _read(AckClient(0, 1, dialect), yes, yes, no, yes)
    assert (2, 1) == (len(client.known_at), client.refused)
    client.sent_at = array("d", [1, 2, 3])
    assert ["1 edits were never acknowledged", "1 edits were refused"] == AckLoad._faults([client])
