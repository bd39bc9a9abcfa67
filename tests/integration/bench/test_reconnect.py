"""A client that comes back with what it has, and the storm of many that do."""

import asyncio
import os
from collections.abc import AsyncIterator
from typing import Any

import pycrdt
import pytest
from picows import WSListener

from bench.client import Client
from bench.ledger import Ledger
from bench.model import Place
from bench.protocols import y_websocket
from bench.scenarios.join import KIB
from bench.scenarios.reconnect import ReconnectLoad
from bench.yjs import EMPTY_STATE_VECTOR, EMPTY_UPDATE, any_position, clock_in_state_vector
from tests.integration.bench.test_fanout import Relay

LOAD = ReconnectLoad(clients=4, rooms=1, rate=50, kib=8, together_s=0.2, away_s=0.3, settle_s=0.6)
CORE = min(os.sched_getaffinity(0))


def _edits(author: Client, count: int) -> list[bytes]:
    numbers = range(len(author.sent_at), len(author.sent_at) + count)
    author.sent_at.extend(map(float, numbers))
    return [author.writer.set(b"%d.%d" % (author.number, n), any_position(n, n)) for n in numbers]


def _read(reader: Client, update: bytes, at: float = 0) -> None:
    reader.frames.append(reader.dialect.tell(update))
    reader.read_at.append(at)


async def test_the_state_vector_is_that_of_the_document_that_the_frames_make() -> None:
    authors = [Client(number, 1_000 + number, y_websocket()) for number in range(2)]
    updates = [*_edits(authors[0], 3), *_edits(authors[1], 5)]
    reader = Client(2, 2_000, y_websocket())
    _read(reader, updates[0])
    assert 1 == clock_in_state_vector(reader.state_vector(), 1_000)
    _read(reader, pycrdt.merge_updates(*updates))
    reader.frames.append(y_websocket().presence(2_000, 1))
    document: pycrdt.Doc[Any] = pycrdt.Doc()
    for update in [*updates, *_edits(reader, 4)]:
        document.apply_update(update)
    for author in (*authors, reader):
        have = clock_in_state_vector(reader.state_vector(), author.writer.client)
        assert len(author.sent_at) == have
    assert EMPTY_UPDATE == pycrdt.get_update(document.get_update(), reader.state_vector())


async def test_nothing_behind_a_gap_or_in_a_frame_that_cannot_be_read_counts_as_known() -> None:
    author, reader = Client(0, 1_000, y_websocket()), Client(1, 2_000, y_websocket())
    first, _, third = _edits(author, 3)
    reader.frames.extend((reader.dialect.tell(third), b"\x00\x02\x05\x01"))
    assert EMPTY_STATE_VECTOR == reader.state_vector()
    reader.frames.append(reader.dialect.tell(first))
    assert 1 == clock_in_state_vector(reader.state_vector(), 1_000)


async def test_a_client_is_current_with_the_frame_that_completes_what_was_sent_before() -> None:
    author, reader = Client(0, 1_000, y_websocket()), Client(1, 2_000, y_websocket())
    updates = _edits(author, 3)
    ledger = Ledger([author, reader])
    for number in (1, 0, 0, 2):
        _read(reader, updates[number], at=10 + len(reader.frames))
    assert 11 == ledger.current_at(reader, moment=2)
    assert 13 == ledger.current_at(reader, moment=3)
    _edits(author, 1)
    assert ledger.current_at(reader, moment=4) is None


class Generous(Relay):
    """Gives everybody everything, whatever they have."""

    def beyond(self, have: bytes) -> bytes:
        return super().beyond(EMPTY_STATE_VECTOR)


class Forgetful(Relay):
    """Gives nothing to who has something, and ends the connection of the writer when all are back."""

    came = 0

    def listener(self, path: str) -> WSListener | None:
        self.came += 1
        if self.came == 1 + 2 * LOAD.clients:
            asyncio.get_running_loop().call_later(0.1, self.sockets[0].disconnect)
        return super().listener(path)

    def beyond(self, have: bytes) -> bytes:
        return super().beyond(have) if have == EMPTY_STATE_VECTOR else EMPTY_UPDATE


@pytest.fixture
async def relay(request: pytest.FixtureRequest) -> AsyncIterator[Relay]:
    kind: type[Relay] = request.param
    server = kind(lambda _number, payload: payload)
    await server.start(0)
    yield server
    await server.stop()


@pytest.mark.parametrize("relay", [Relay], indirect=True)
async def test_who_comes_back_is_given_the_difference_and_nothing_is_missing(relay: Relay) -> None:
    run = await LOAD.measure(relay, Place(CORE, CORE))
    assert [] == run.faults
    figures = run.figures
    assert 0.3 * 50 * 20 / KIB < figures["missed_kib"] < LOAD.kib / 4
    assert figures["missed_kib"] / 2 < figures["given_kib"] < LOAD.kib / 2
    assert 0 < figures["p50_ms"] <= figures["p99_ms"] <= figures["max_ms"]
    assert figures.keys() <= {figure.key for figure in LOAD.figures}
    assert [] == relay.sockets


@pytest.mark.parametrize("relay", [Generous], indirect=True)
async def test_a_server_that_gives_everything_again_is_told_from_one_that_does_not(relay: Relay) -> None:
    run = await LOAD.measure(relay, Place(CORE, CORE))
    assert [] == run.faults
    assert run.figures["given_kib"] > 0.8 * LOAD.kib


@pytest.mark.parametrize("relay", [Forgetful], indirect=True)
async def test_what_was_missed_and_is_never_given_is_a_fault(relay: Relay) -> None:
    run = await LOAD.measure(relay, Place(CORE, CORE))
    lost, missing = run.faults
    assert "client 0: the connection was lost" == lost
    assert "copies never arrived" in missing
    assert "max_ms" not in run.figures


@pytest.mark.parametrize(
    ("load", "why"),
    [
        ({"clients": 3, "rooms": 4}, "one or more in each"),
        ({"clients": 5001}, "up to 5,000"),
        ({"rate": 0}, "positive"),
        ({"clients": 5000, "kib": 1024}, "4 GiB"),
    ],
)  # fmt: skip
def test_a_storm_that_cannot_be_held_is_refused(load: dict[str, int], why: str) -> None:
    with pytest.raises(ValueError, match=why):
        ReconnectLoad(**load)
