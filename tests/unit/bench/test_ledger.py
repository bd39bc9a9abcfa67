"""The account of a run: what counts as delivered, and what does not."""

import asyncio
from collections.abc import Sequence

import pycrdt
import pytest

from bench.client import Client
from bench.ledger import Ledger, Window
from bench.protocols import Dialect, hocuspocus, y_websocket
from bench.yjs import any_position

EVERYTHING = Window(0, 1_000)


def _client(number: int, dialect: Dialect | None = None) -> Client:
    return Client(number, 1_000 + number, dialect or y_websocket())


def _edit(author: Client, sent_at: float) -> bytes:
    update = author.writer.set(b"%d.%d" % (author.number, len(author.sent_at)), any_position(1, 2))
    author.sent_at.append(sent_at)
    return update


def _deliver(update: bytes, readers: Sequence[Client], read_at: float) -> None:
    for reader in readers:
        reader.frames.append(reader.dialect.tell(update))
        reader.read_at.append(read_at)


@pytest.fixture
async def clients() -> list[Client]:
    return [_client(number) for number in range(3)]


async def test_an_edit_at_all_others_is_delivered_and_its_latency_known(clients: list[Client]) -> None:
    _deliver(_edit(clients[0], sent_at=10), clients, read_at=10.5)
    delivery = Ledger(clients).delivery(EVERYTHING)
    assert (1, 2, 0, 2) == (
        delivery.edits, delivery.copies_due, delivery.copies_missing, delivery.copies_in_window,
    )  # fmt: skip
    assert [0.5, 0.5] == list(delivery.latencies_s)


async def test_an_edit_that_one_client_never_got_is_missing(clients: list[Client]) -> None:
    _deliver(_edit(clients[0], sent_at=10), clients[:2], read_at=11)
    assert 1 == Ledger(clients).delivery(EVERYTHING).copies_missing


async def test_frames_of_presence_and_repeated_updates_do_not_stand_in_for_a_missing_edit(
    clients: list[Client],
) -> None:
    update = _edit(clients[0], sent_at=10)
    _edit(clients[0], sent_at=11)
    for _ in range(5):
        _deliver(update, clients, read_at=12)
    clients[1].frames.append(y_websocket().presence(1_000, 4))
    clients[1].read_at.append(13)
    delivery = Ledger(clients).delivery(EVERYTHING)
    assert (2, 2) == (delivery.copies_missing, delivery.copies_in_window)


async def test_one_merged_frame_delivers_all_its_edits(clients: list[Client]) -> None:
    updates = [_edit(author, sent_at=10) for author in clients for _ in range(3)]
    _deliver(pycrdt.merge_updates(*updates), clients, read_at=11)
    delivery = Ledger(clients).delivery(EVERYTHING)
    assert (0, 18, 3) == (delivery.copies_missing, delivery.copies_in_window, delivery.update_frames)


async def test_an_edit_that_arrives_with_another_value_is_altered_and_missing(clients: list[Client]) -> None:
    _edit(clients[0], sent_at=10)
    forged = Client(0, 1_000, y_websocket()).writer.set(b"0.0", any_position(9, 9))
    _deliver(forged, clients, read_at=11)
    delivery = Ledger(clients).delivery(EVERYTHING)
    assert (1, 2) == (delivery.altered, delivery.copies_missing)


async def test_edits_that_nobody_sent_are_counted_once_and_stand_in_for_none(clients: list[Client]) -> None:
    update = _edit(clients[0], sent_at=10)
    stranger = Client(7, 4_711, y_websocket()).writer.set(b"0.0", any_position(1, 2))
    in_her_name = Client(0, 1_000, y_websocket()).writer
    for number in range(3):
        forged = in_her_name.set(b"0.%d" % number, any_position(1, 2))
    for _ in range(2):
        _deliver(stranger, clients, read_at=11)
        _deliver(forged, clients[:2], read_at=11)
    delivery = Ledger(clients).delivery(EVERYTHING)
    assert (2, 0, 2) == (delivery.invented, delivery.altered, delivery.copies_missing)
    _deliver(update, clients, read_at=11)
    assert 0 == Ledger(clients).delivery(EVERYTHING).copies_missing


async def test_the_right_number_of_edits_with_another_key_or_author_is_not_what_was_sent(
    clients: list[Client],
) -> None:
    """As many structs of each author as were sent, but not those."""
    for number in range(2):
        _edit(clients[number], sent_at=10)
    with_another_key = Client(0, 1_000, y_websocket()).writer.set(b"0.1", any_position(1, 2))
    of_another = Client(1, 1_001, y_websocket()).writer.set(b"0.0", any_position(1, 2))
    _deliver(pycrdt.merge_updates(with_another_key, of_another), clients, read_at=11)
    delivery = Ledger(clients).delivery(EVERYTHING)
    assert (2, 4, 0) == (delivery.altered, delivery.copies_missing, delivery.copies_in_window)


async def test_a_frame_that_cannot_be_read_is_counted(clients: list[Client]) -> None:
    clients[0].frames.append(b"\x00\x02\x05\x01")
    clients[0].read_at.append(1)
    assert 1 == Ledger(clients).delivery(EVERYTHING).undecodable


async def test_only_edits_of_the_window_have_latencies_and_only_its_arrivals_are_its_copies(
    clients: list[Client],
) -> None:
    _deliver(_edit(clients[0], sent_at=1), clients, read_at=6)
    _deliver(_edit(clients[0], sent_at=7), clients, read_at=8)
    _deliver(_edit(clients[0], sent_at=9), clients, read_at=20)
    delivery = Ledger(clients).delivery(Window(5, 10))
    assert (4, 2) == (delivery.copies_in_window, delivery.sent_in_window)
    assert [1, 1, 11, 11] == list(delivery.latencies_s)


async def test_a_newcomer_s_first_sync_is_held_against_all_edits(clients: list[Client]) -> None:
    updates = [_edit(clients[0], sent_at=1), _edit(clients[1], sent_at=1)]
    newcomer = _client(9)
    newcomer.frames.append(newcomer.dialect.answer(updates[0]))
    assert 1 == Ledger(clients).missing(newcomer)
    newcomer.frames.append(newcomer.dialect.answer(updates[1]))
    assert 0 == Ledger(clients).missing(newcomer)


async def test_hocuspocus_frames_carry_the_document_s_name_before_the_update() -> None:
    clients = [_client(number, hocuspocus("d", "tok")) for number in range(2)]
    _deliver(_edit(clients[0], sent_at=1), clients, read_at=2)
    assert clients[0].frames[0].startswith(b"\x01d\x00\x02")
    assert 0 == Ledger(clients).delivery(EVERYTHING).copies_missing
    await asyncio.sleep(0)
