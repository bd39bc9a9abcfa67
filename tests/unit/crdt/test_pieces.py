"""Large updates in pieces."""

import contextlib
import random
from collections.abc import Generator
from typing import Any

import pycrdt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pycrdt import Array, Doc, Map, Text

from crdt.document import Document
from crdt.lib0 import write_var_uint
from crdt.pieces import NotWhole, pieces, pieces_of
from crdt.ranges import Ranges
from crdt.structs import read_structs
from crdt.updates import read_state_vector, read_update
from tests.unit.crdt.peers import Editor, content, history
from tests.unit.crdt.test_updates import everything
from tmi.domain.errors import BadUpdate


def taken(update: bytes, max_bytes: int = 100) -> tuple[list[bytes], dict[int, int]]:
    """The pieces, and what the reader says of their clocks."""
    told: list[dict[int, int]] = []

    def take() -> Generator[bytes | None, None, None]:
        told.append((yield from pieces(update, max_bytes)))

    parts = [piece for piece in take() if piece is not None]
    return parts, told[0]


def ids(update: bytes) -> tuple[Ranges, Ranges]:
    """All structs and all deletes: how structs are joined to one may differ."""
    shape = read_update(update)
    return shape.structs, shape.deletes


def waits(doc: "Doc[Any]", update: bytes) -> bool:
    """Whether any struct of an update that was applied is pending."""
    return pycrdt.get_update(update, doc.get_state())[0] != 0


@settings(max_examples=150, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 400))
def test_pieces_make_the_same_document_and_none_waits_for_a_later_one(seed: int, max_bytes: int) -> None:
    _, whole = history(seed, 60)
    update = whole.get_update()
    parts, clocks = taken(update, max_bytes)
    doc: Doc[Any] = Doc(client_id=99)
    for part in parts:
        doc.apply_update(part)
        assert not waits(doc, part)
    assert content(doc) == content(whole)
    assert read_state_vector(doc.get_state()) == read_state_vector(whole.get_state()) == clocks
    assert ids(doc.get_update()) == ids(update)


@settings(max_examples=150, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 400), st.integers(0, 60))
def test_pieces_bring_a_document_as_far_as_all_of_it_at_once(seed: int, max_bytes: int, first: int) -> None:
    """The document has some of the update, and others write between the pieces."""
    before, whole = history(seed, first)[1].get_update(), history(seed, 60)[1]
    some, other = Document(), Editor(77)
    some.apply(before)
    update = whole.get_update()
    read = read_structs(update)
    known = read_state_vector(some.state_vector())
    news = set(ids(pycrdt.get_update(update, some.state_vector()))[0])
    told = []
    for piece in pieces_of(update, read, known, max_bytes):
        if piece is None:
            continue
        told.append(piece)
        applied, is_whole = some.apply_piece(piece)
        assert (is_whole, applied.gap, some.pending) == (True, False, False)
        other.cells[f"{len(told)}"] = seed
        assert some.apply(other.updates[-1]).adds
    assert news <= {client for piece in told for client in ids(piece)[0]}
    at_once = Document()
    for one in (before, update, *other.updates):
        at_once.apply(one)
    assert content(some.doc) == content(at_once.doc)
    assert ids(some.encode()) == ids(at_once.encode())


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 10_000), st.integers(0, 60), st.integers(0, 60), st.booleans())
def test_what_is_new_is_seen_without_applying_it(seed: int, first: int, until: int, waits: bool) -> None:
    updates, _ = history(seed, 60)
    document, asked = Document(), Document()
    for update in updates[:first]:
        document.apply(update)
    if waits:
        document.apply(updates[-1])
    for update in updates[:until]:
        asked.apply(update)
    update = asked.encode()
    assert document.would_add(update) == document.apply(update).adds


def test_clients_that_edit_by_turns_are_brought_into_one_order() -> None:
    """Each takes away what another has set, so each struct is placed by another client's."""
    editors = [Editor(client) for client in (1, 2**31, 77)]
    for turn in range(300):
        editor = editors[turn % 3]
        editor.receive(*(update for other in editors for update in other.updates[-2:]))
        editor.cells["one"] = turn
        editor.text.insert(len(editor.text) // 2, f"<{turn}>")
    last = editors[299 % 3].doc
    parts, _ = taken(last.get_update(), 200)
    assert len(parts) > 10
    doc: Doc[Any] = Doc(client_id=99)
    for part in parts:
        doc.apply_update(part)
        assert not waits(doc, part)
    assert content(doc) == content(last)
    assert doc["cells"]["one"] == 299


def test_every_kind_of_content_is_passed_over() -> None:
    whole = everything()
    text = str(whole["text"]).replace("🙂", "*")
    del whole["text"][:]
    whole["plain"] = Text(text)
    whole["plain"].insert_embed(2, {"image": "x"})
    whole["plain"].insert(5, "more", {"bold": True})
    update = whole.get_update()
    parts, _ = taken(update, 1)
    assert len(parts) > 20
    doc: Doc[Any] = Doc(client_id=99)
    for part in parts:
        doc.apply_update(part)
    assert ids(doc.get_update()) == ids(update)
    assert sorted(doc.get_update()) == sorted(Document.load(update, (), is_whole=True).doc.get_update())


def test_a_struct_of_nothing_has_no_pieces() -> None:
    """pycrdt writes an empty string here and there, and panics where it comes alone."""
    with pytest.raises(NotWhole, match="nothing"):
        taken(everything().get_update())


def test_a_text_with_characters_of_two_units_has_no_pieces() -> None:
    """Others may have torn one apart; pycrdt counts what is joined again wrongly."""
    doc: Doc[Any] = Doc()
    doc["text"] = Text("a 🙂")
    with pytest.raises(NotWhole, match="torn apart"):
        taken(doc.get_update())


def chain(clients: int) -> bytes:
    """Each client's only struct is placed by the next one's."""
    sections = [
        write_var_uint(1) + write_var_uint(n) + b"\x00\x88" + write_var_uint(n + 1) + b"\x00\x01\x7e"
        for n in range(1, clients)
    ]
    last = write_var_uint(1) + write_var_uint(clients) + b"\x00\x28\x01\x01m\x01k\x01\x7e"
    return write_var_uint(clients) + b"".join(sections) + last + b"\x00"


def test_a_long_chain_of_waits_is_brought_into_order_by_steps() -> None:
    update = chain(20_000)
    doc: Doc[Any] = Doc(client_id=1 << 31)
    steps = 0
    parts = []
    for piece in pieces(update):
        if piece:
            parts.append(piece)
        elif not parts:
            steps += 1
    assert steps > 2 * 20_000 // 2048, "for reading, and for the order"
    for part in parts:
        doc.apply_update(part)
    assert len(read_state_vector(doc.get_state())) == 20_000


def test_many_clients_with_little_take_few_steps() -> None:
    sections = b"".join(
        b"\x01" + write_var_uint(n + 1) + b"\x00\x28\x01\x01m\x01k\x01\x7e" for n in range(20_000)
    )
    update = write_var_uint(20_000) + sections + b"\x00"
    assert sum(1 for _ in pieces(update)) < 100


@pytest.mark.parametrize("values", [[0] * 10_000, {"k": [[0] * 10_000]}])
def test_a_list_of_very_many_values_has_no_pieces(values: object) -> None:
    doc: Doc[Any] = Doc()
    if isinstance(values, list):
        doc["list"] = Array(values)
    else:
        doc.get("cells", type=Map)["k"] = values
    with pytest.raises(NotWhole, match="too many values"):
        taken(doc.get_update())


def test_clocks_that_no_client_reaches_have_no_pieces() -> None:
    largest = write_var_uint(2**53 - 1)
    update = b"\x01" + write_var_uint(2100) + b"\x07\x00" + (b"\x00" + largest) * 2100 + b"\x00"
    with pytest.raises(NotWhole, match="clock"):
        taken(update)
    with pytest.raises(BadUpdate, match="clock"):
        Document().apply(update)


def test_many_deletes_come_in_parts() -> None:
    doc: Doc[Any] = Doc(client_id=1)
    cells = doc.get("cells", type=Map)
    with doc.transaction():
        for n in range(12_000):
            cells[f"c{n}"] = n
    with doc.transaction():
        for n in range(0, 12_000, 2):  # no two of them neighbours
            del cells[f"c{n}"]
    parts, _ = taken(doc.get_update(), 100_000)
    assert 3 == sum(part[0] == 0 for part in parts)
    other: Doc[Any] = Doc(client_id=2)
    for part in parts:
        other.apply_update(part)
    assert cells.to_py() == other.get("cells", type=Map).to_py()


def test_a_piece_is_as_large_as_asked_or_one_struct() -> None:
    doc: Doc[Any] = Doc(client_id=1)
    cells = doc.get("cells", type=Map)
    for n in range(500):
        cells[f"cell-{n}"] = "x" * 50
    cells["large"] = "x" * 10_000
    parts, _ = taken(doc.get_update(), 1000)
    sizes = sorted(map(len, parts))
    assert sizes[-1] > 10_000
    assert 900 < sizes[len(sizes) // 2] <= sizes[-2] <= 1100


def test_reading_a_large_update_has_many_steps() -> None:
    doc: Doc[Any] = Doc(client_id=1)
    cells = doc.get("cells", type=Map)
    with doc.transaction():
        for n in range(30_000):
            cells[f"{n}"] = n
    before_the_first = 0
    for piece in pieces(doc.get_update()):
        if piece:
            break
        before_the_first += 1
    assert before_the_first >= 10


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 10_000))
def test_what_builds_on_something_that_is_missing_has_no_pieces(seed: int) -> None:
    updates, _ = history(seed)
    choice = random.Random(seed)
    missing = choice.randrange(len(updates) - 1)
    rest = pycrdt.merge_updates(*updates[:missing], *updates[missing + 1 :], b"\0\0")
    document = Document.load(rest, ())
    if document.pending:
        with pytest.raises(NotWhole):
            taken(rest)
    else:
        parts, _ = taken(rest)
        assert content(Document.load(parts[0], parts[1:]).doc) == content(document.doc)


def test_deletes_of_what_is_missing_have_no_pieces() -> None:
    one = Editor(1)
    one.cells["k"] = 1
    del one.cells["k"]
    with pytest.raises(NotWhole, match="deleted"):
        taken(one.updates[-1])


def test_structs_that_are_placed_by_one_another_have_no_pieces() -> None:
    def section(client: int, by: int) -> bytes:
        return bytes([1, client, 0, 0x88, by, 0, 1, 0x7E])

    with pytest.raises(NotWhole, match="one another"):
        taken(b"\x02" + section(1, 2) + section(2, 1) + b"\x00")


@settings(max_examples=300, deadline=None)
@given(st.integers(0, 1000), st.data())
def test_bytes_at_random_are_refused_or_read(seed: int, data: st.DataObject) -> None:
    update = bytearray(history(seed % 20)[1].get_update())
    for _ in range(data.draw(st.integers(1, 3))):
        update[data.draw(st.integers(0, len(update) - 1))] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(0, len(update)))
    for broken in (bytes(update), bytes(update[:cut])):
        with contextlib.suppress(NotWhole):
            taken(broken)


# --- documents ------------------------------------------------------------------------------------


def by_steps(snapshot: bytes | None, tail: list[bytes], *, is_whole: bool) -> tuple[Document, int]:
    loading = Document.load_by_steps(snapshot, tail, is_whole=is_whole)
    steps = 0
    while True:
        try:
            next(loading)
        except StopIteration as end:
            document: Document = end.value
            return document, steps
        steps += 1


@settings(max_examples=150, deadline=None)
@given(st.integers(0, 10_000), st.data())
def test_a_document_loaded_by_steps_is_the_same(seed: int, data: st.DataObject) -> None:
    updates, _ = history(seed)
    # Some are missing, so that others wait for them.
    updates = [update for update in updates if data.draw(st.integers(0, 9))]
    cut = data.draw(st.integers(0, len(updates)))
    before = Document.load(None, updates[:cut])
    snapshot = before.encode() if data.draw(st.booleans()) else None
    tail = updates[cut:] if snapshot is not None else updates
    is_whole = snapshot is not None and not before.pending
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("crdt.document.TAKEN_AT_ONCE_BYTES", 0)
        document, _ = by_steps(snapshot, tail, is_whole=is_whole)
    expected = Document.load(snapshot, tail, is_whole=is_whole)
    assert ids(document.encode()) == ids(expected.encode())
    assert content(document.doc) == content(expected.doc)
    assert (document.version, document.pending) == (0, expected.pending)
    assert document.bytes_estimate == expected.bytes_estimate
    assert document.rejected == expected.rejected


def test_a_large_state_is_loaded_in_pieces_and_shared_as_it_was_stored() -> None:
    doc: Doc[Any] = Doc(client_id=1)
    cells = doc.get("cells", type=Map)
    with doc.transaction():
        for n in range(20_000):
            cells[f"{n}"] = "x" * 40
    state = doc.get_update()
    document, steps = by_steps(state, [], is_whole=True)
    assert steps > 20
    assert document.parts()[0] is state
    assert document.doc.get_state() == doc.get_state()
    document, steps = by_steps(state[:-1] + b"\x01", [], is_whole=True)
    assert (document.rejected, document.encode()) == (1, b"\0\0")
