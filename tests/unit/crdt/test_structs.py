"""Reading updates struct by struct: as `read_update` does, and faster."""

import contextlib
from typing import Any

import pycrdt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pycrdt import Doc, Map

from crdt.document import MAX_PENDING_BYTES, Document
from crdt.ranges import Ranges, union
from crdt.structs import Sections, check_update, read_structs
from crdt.updates import read_state_vector, read_update
from tests.unit.crdt.peers import content, history
from tests.unit.crdt.test_updates import everything
from tmi.domain.errors import BadUpdate, TooMuchPending


def ranges_of(read: Sections) -> Ranges:
    """The clocks of each client, for updates without gaps in a section."""
    found: Ranges = {}
    for section in read.sections:
        if section.clocks[0] != section.clocks[-1]:
            found.setdefault(section.client, []).append((section.clocks[0], section.clocks[-1]))
    return found


def assert_read_alike(update: bytes) -> None:
    read, shape = read_structs(update), read_update(update)
    assert (shape.deletes_at, shape.deletes) == (read.deletes_at, read.deletes)
    if not any(section.has_skips for section in read.sections):
        assert shape.structs == ranges_of(read)
    for section in read.sections:
        assert len(section.begins) == len(section.clocks)
        assert sorted(section.begins) == list(section.begins)
        if section.client in shape.heads and not section.has_nothing:
            _, places = shape.heads[section.client]
            waits = [(by, at) for struct, by, at in section.waits if struct == 0]
            assert waits == [place for place in places if place[0] != section.client] or section.has_skips


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 10_000), st.integers(0, 40))
def test_all_that_clients_write_is_read_as_by_the_slow_reader(seed: int, missing: int) -> None:
    updates, doc = history(seed)
    kept = [update for number, update in enumerate(updates) if number != missing]
    for update in (*updates, doc.get_update(), pycrdt.merge_updates(*kept, b"\0\0")):
        assert_read_alike(update)


def test_every_kind_of_content_is_read_alike() -> None:
    assert_read_alike(everything().get_update())


@settings(max_examples=500, deadline=None)
@given(st.integers(0, 19), st.data())
def test_bytes_at_random_are_refused_by_both_or_read_alike(seed: int, data: st.DataObject) -> None:
    update = bytearray(history(seed)[1].get_update())
    for _ in range(data.draw(st.integers(1, 3))):
        update[data.draw(st.integers(0, len(update) - 1))] = data.draw(st.integers(0, 255))
    broken = bytes(update[: data.draw(st.integers(0, len(update)))])
    with contextlib.suppress(BadUpdate):
        read_structs(broken)
        read_update(broken)


def test_only_what_might_do_harm_is_looked_into() -> None:
    doc: Doc[Any] = Doc()
    for n in range(200):
        doc.get("cells", type=Map)[f"{n}"] = n
    assert check_update(doc.get_update()) is None
    doc.get("cells", type=Map)["list"] = [[]] * 5000
    assert isinstance(check_update(doc.get_update()), Sections)


# --- what documents make of it --------------------------------------------------------------------


def pasted(cells: int, size: int) -> tuple["Doc[Any]", bytes]:
    """A document, and the update of many cells pasted into it at once."""
    doc: Doc[Any] = Doc()
    root = doc.get("cells", type=Map)
    root["first"] = 1
    before = doc.get_state()
    with doc.transaction():
        for n in range(cells):
            root[f"cell-{n}"] = Map({"shape": "process", "position": {"x": n, "y": n}, "text": "x" * size})
    return doc, doc.get_update(before)


@pytest.mark.parametrize("size", [1, 400], ids=["small", "more than may wait"])
def test_what_is_pasted_at_once_is_integrated_as_it_came(
    size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    doc, update = pasted(3000, size)
    assert size == 1 or len(update) > MAX_PENDING_BYTES
    (client,) = read_state_vector(doc.get_state())
    head: Doc[Any] = Doc(client_id=client)
    head.get("cells", type=Map)["first"] = 1
    document = Document()
    document.apply(head.get_update())

    def slow(*_: object) -> None:
        raise AssertionError("the slow way")

    monkeypatch.setattr("crdt.document.split_at_gaps", slow)
    monkeypatch.setattr("crdt.document.read_update", slow)
    monkeypatch.setattr("crdt.pending.read_update", slow)
    applied = document.apply(update)
    assert (True, False) == (applied.adds, applied.gap)
    assert update is applied.relay is applied.journal
    assert content(doc) == content(document.doc)


def test_a_large_update_that_comes_too_early_waits_or_is_refused() -> None:
    _, update = pasted(500, 1)
    document = Document()
    applied = document.apply(update)
    assert (True, True, b"\0\0") == (applied.adds, applied.gap, applied.relay)
    assert document.pending
    _, update = pasted(3000, 400)
    with pytest.raises(TooMuchPending):
        Document().apply(update)


def test_what_is_placed_by_something_missing_does_not_begin() -> None:
    update = bytes([1, 1, 7, 0, 0x88, 9, 3, 1, 0x7E, 0])
    read = read_structs(update)
    assert read.follow({})
    assert not read.begin({})
    assert not read.begin({9: 3})
    assert read.begin({9: 4})
    assert not read.begin({9: 4, 7: 1})


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 10_000), st.data())
def test_large_updates_in_any_order_make_the_same_document(seed: int, data: st.DataObject) -> None:
    updates, doc = history(seed, 60)
    cuts = sorted(data.draw(st.sets(st.integers(1, len(updates) - 1), max_size=4)))
    bounds = list(zip([0, *cuts], [*cuts, len(updates)], strict=True))
    merged = [pycrdt.merge_updates(*updates[first:last], b"\0\0") for first, last in bounds]
    document = Document()
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("crdt.document.READ_FAST_BYTES", 0)
        patched.setattr("crdt.integrated.READ_FAST_BYTES", 0)
        for update in data.draw(st.permutations(merged)):
            document.apply(update)
    assert content(doc) == content(document.doc)
    assert not document.pending
    assert {client: union(ranges) for client, ranges in read_update(doc.get_update()).structs.items()} == (
        read_update(document.encode()).structs
    )
