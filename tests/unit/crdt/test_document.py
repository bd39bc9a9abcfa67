"""The document of a room."""

import gc
import random
import weakref
from typing import Any

import pycrdt
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from pycrdt import Doc, Map

from crdt.document import MAX_PENDING_BYTES, Document
from crdt.merging import EMPTY_STATE_VECTOR, EMPTY_UPDATE, merge
from crdt.updates import read_state_vector, read_update
from tests.unit.crdt.peers import Editor, content, history
from tmi.domain.errors import BadFrame, BadUpdate

PANICS = bytes.fromhex("0101070028010563656c6c73086101760101787c3f80000000")
"""Found by a seeded search among mutated updates."""

COLLECTED_LATER = (
    (
        "010a848ca1b20a0027010563656c6c732435656564303030302d303030302d343030302d383030302d30303030303030"
        "3030303130012800848ca1b20a0002696401772435656564303030302d303030302d343030302d383030302d30303030"
        "30303030303031302800848ca1b20a0005736861706501770770726f636573732800848ca1b20a0008706f736974696f"
        "6e01760201787da80601797da80e2800848ca1b20a000473697a650176020577696474687daa01066865696768747d29"
        "2800848ca1b20a00067a496e646578017d072700848ca1b20a00056174747273012800848ca1b20a0604746578740176"
        "0104746578747704f09f94912700848ca1b20a000464617461012800848ca1b20a08046e6f746501770000"
    ),
    (
        "0102b9f1e0c9011188848ca1b20a0301760201787da40101797d9202c89595baf10400fdf9f4ba0c00017da90501b9f1"
        "e0c901011101"
    ),
    (
        "0103b9f1e0c9010721010563656c6c732435656564303030302d303030302d343030302d383030302d30303030303030"
        "303030303601000ac89595baf10400fdf9f4ba0c00017da90508f0eda48601010801b9f1e0c901020203070be39b99f4"
        "02010501f3cbdffd060205010a01848ca1b20a01001fcfacfdaa0c02010a0c0bfdf9f4ba0c010201d5a3e188fe9ed709"
        "04000809010d071e15"
    ),
)

TAKES_A_PART = bytes.fromhex("0102070028010563656c6c73016101" + "7d05" + "280007000178017d0500")
"""The second struct's parent is the first, which is a number and no container."""


def editor() -> Editor:
    edited = Editor(7)
    for n in range(4):
        edited.cells[f"k{n}"] = n
    return edited


def test_an_edit_adds_and_is_relayed_as_it_came() -> None:
    document = Document()
    update = editor().updates[0]
    applied = document.apply(update)
    assert (True, update, False, update) == applied
    assert 1 == document.version
    assert update == document.encode()


def test_an_edit_that_is_known_adds_nothing() -> None:
    document = Document()
    updates = editor().updates
    for update in updates:
        document.apply(update)
    version = document.version
    for update in (*updates, merge(updates), EMPTY_UPDATE):
        assert not document.would_add(update)
        assert not document.apply(update).adds
    assert version == document.version


def test_an_edit_with_a_value_of_many_keys_adds_though_its_keys_change_places() -> None:
    edited = Editor(7)
    edited.cells["k"] = {str(n): n for n in range(20)}
    document = Document()
    assert (True, edited.updates[0], False, edited.updates[0]) == document.apply(edited.updates[0])


def test_a_delete_alone_adds_once() -> None:
    edited = editor()
    del edited.cells["k1"]
    *before, delete = edited.updates
    assert 0 == delete[0]
    document = Document.load(None, before)
    assert document.would_add(delete)
    assert document.apply(delete).adds
    assert not document.would_add(delete)
    assert not document.apply(delete).adds


def test_an_edit_past_a_gap_waits_and_is_integrated_with_its_predecessor() -> None:
    first, second, third, _ = editor().updates
    document = Document()
    document.apply(first)
    assert (True, EMPTY_UPDATE, True, third) == document.apply(third)
    assert {7: 1} == read_state_vector(document.state_vector())
    applied = document.apply(second)
    assert (True, False) == (applied.adds, applied.gap)
    assert {"k0": 0, "k1": 1, "k2": 2} == content(document.doc)[0]
    assert not document.pending


def test_what_is_relayed_brings_those_along_who_never_got_what_was_pending() -> None:
    first, second, third, _ = editor().updates
    document, late = Document(), Document()
    document.apply(first)
    document.apply(third)
    late.apply(first)
    late.apply(document.apply(second).relay)
    assert content(document.doc) == content(late.doc)


def test_what_waits_adds_only_once() -> None:
    first, _, third, fourth = editor().updates
    document = Document.load(None, [first])
    assert document.would_add(third)
    assert document.apply(third).adds
    assert not document.would_add(third)
    assert not document.apply(third).adds
    assert document.would_add(merge([third, fourth]))
    assert document.apply(merge([third, fourth])).adds


def test_a_delete_of_what_is_not_there_waits() -> None:
    edited = editor()
    del edited.cells["k3"]
    delete = edited.updates.pop()
    document = Document()
    assert (True, EMPTY_UPDATE, True, delete) == document.apply(delete)
    assert not document.apply(delete).adds
    for update in edited.updates:
        document.apply(update)
    assert {"k0", "k1", "k2"} == set(content(document.doc)[0])  # type: ignore[call-overload]
    assert not document.pending


def test_a_delete_of_what_is_not_there_waits_though_as_much_else_was_deleted() -> None:
    first, second = Editor(10), Editor(11)
    first.cells["k0"], first.cells["k1"] = 1, 1
    second.cells["k0"] = 2
    second.receive(*first.updates)
    del second.cells["k1"]
    document = Document.load(None, first.updates[:1])
    # It replaces (10, 0), and says that (10, 1) is deleted: what goes in is as long as what came.
    applied = document.apply(merge(second.updates))
    assert applied.gap
    assert document.pending
    document.apply(first.updates[1])
    assert {"k0": 2} == content(document.doc)[0]
    assert not document.pending


def test_what_waits_is_in_the_encoded_document() -> None:
    edited = editor()
    del edited.cells["k3"]
    first, second, third, fourth, delete = edited.updates
    document = Document.load(None, [first, third, fourth, delete])
    assert document.pending
    for copy in (Document.load(document.encode(), []), Document.load(None, [first, document.encode()])):
        assert copy.pending
        copy.apply(second)
        assert {"k0", "k1", "k2"} == set(content(copy.doc)[0])  # type: ignore[call-overload]


def test_too_much_waiting_is_refused_and_other_edits_go_on() -> None:
    waiting = Editor(8)
    waiting.cells["first"] = 1
    for n in range(5):
        waiting.cells[f"big{n}"] = "x" * (MAX_PENDING_BYTES // 4)
    document = Document()
    fit, too_much = waiting.updates[1:4], waiting.updates[4]
    assert all(document.apply(update).gap for update in fit)
    with pytest.raises(BadUpdate, match="waits"):
        document.apply(too_much)
    assert document.pending
    assert document.apply(editor().updates[0]).adds
    assert document.apply(waiting.updates[0]).adds
    assert not document.pending


@pytest.mark.parametrize(
    "update", ["", "00", "01", "0101", "010107", "01010700", "ff", "0002", "05000000", "0101070028"]
)
def test_a_malformed_update_is_refused_and_changes_nothing(update: str) -> None:
    document = Document.load(None, editor().updates)
    before = document.encode(), document.version
    for harm in (document.apply, document.would_add):
        with pytest.raises(BadUpdate):
            harm(bytes.fromhex(update))
    assert before == (document.encode(), document.version)
    edited = Editor(8)
    edited.cells["after"] = 1
    assert document.apply(edited.updates[0]).adds


def test_what_came_behind_a_gap_and_again_as_collected_is_integrated_once() -> None:
    # Yjs clients made these: a node, an edit of it behind a gap, and the same edit inside a collected range.
    node, behind, collected = (bytes.fromhex(update) for update in COLLECTED_LATER)
    document = Document()
    for update in (node, behind, collected):
        document.apply(update)
    for encoded in (document.encode(), document.difference(EMPTY_STATE_VECTOR)):
        assert all(end < 2**31 for ranges in read_update(encoded).structs.values() for _, end in ranges)


def test_clients_are_not_sent_what_waits() -> None:
    first, second, third, _ = editor().updates
    document = Document.load(None, [first, third])
    client: Doc[Any] = Doc()
    client.apply_update(document.difference(EMPTY_STATE_VECTOR))
    assert client.get_state() == document.state_vector()
    client.apply_update(document.apply(second).relay)
    assert {"k0", "k1", "k2"} == set(client.get("cells", type=Map))


def test_a_panic_of_pycrdt_is_a_bad_update_and_the_document_lives_on() -> None:
    edited = Editor(7)
    edited.cells["a"] = {"x": 1}
    edited.cells["a"] = {"x": 2}
    document = Document.load(None, edited.updates[:1])
    with pytest.raises(BadUpdate, match="unwrap"):
        document.apply(PANICS)
    assert document.apply(edited.updates[1]).adds
    assert {"a": {"x": 2}} == content(document.doc)[0]
    assert content(Document.load(document.encode(), []).doc) == content(document.doc)


def test_of_an_update_that_fails_half_way_the_part_that_went_in_is_journaled_and_relayed() -> None:
    document = Document()
    applied = document.apply(TAKES_A_PART)
    assert applied.adds
    assert applied.journal == applied.relay != TAKES_A_PART
    assert {"a": 5} == content(document.doc)[0]
    assert content(document.doc) == content(Document.load(None, [applied.journal]).doc)
    assert not document.would_add(applied.journal)
    assert document.apply(editor().updates[0]).gap is False


def test_what_waits_and_can_never_go_in_does_not_stop_the_edit_that_it_waited_for() -> None:
    edited = Editor(7)
    edited.cells["a"] = 5
    poison = bytes.fromhex("01010900" + "28000700" + "0178017d0500")  # a child of the number 5
    document = Document()
    assert document.apply(poison).gap
    applied = document.apply(edited.updates[0])
    assert applied.adds
    assert edited.updates[0] == applied.journal
    assert {"a": 5} == content(document.doc)[0]
    assert content(document.doc) == content(Document.load(None, [poison, applied.journal]).doc)


def test_a_document_that_is_stuck_though_nothing_is_missing_is_built_anew() -> None:
    """Found by fuzzing: six honest edits and a mutated copy of the last."""
    log = [
        "01010a05040104746578740568656c6c6f00",
        "01020b000701046c6973740128000b000171017c3f80000000",
        "01010b02c40a080a090568656c6c6f00",
        (
            "01040c0027010563656c6c73026b320128000c0008706f736974696f6e01760201787c3f80000001797c40000000"
            "27000c0004646174610128000c02017a0175037c3f800000770374776f7e00"
        ),
        "01010c04c40b050b060568656c6c6f00",
        "01020c09870b000128000c090171017c3f80000000",
        "01020c0901870b0001280128000c090171017c3f80",
    ]
    updates = [bytes.fromhex(update) for update in log]
    document = Document()
    for update in updates[:-1]:
        document.apply(update)
    before = document.doc
    document.apply(updates[-1])
    assert before is not document.doc
    assert content(Document.load(None, updates).doc) == content(document.doc)


def test_a_struct_of_no_length_waits_for_nothing() -> None:
    document = Document.load(None, editor().updates)
    for clock in (b"\x04", b"\x09"):
        nothing = b"\1\1\7" + clock + bytes.fromhex("28010563656c6c73016b") + b"\0\0"
        try:
            document.apply(nothing)
        except BadUpdate:
            continue
    assert not document.pending
    assert {"k0", "k1", "k2", "k3"} == set(content(document.doc)[0])  # type: ignore[call-overload]


def test_an_edit_of_our_own_that_panics_is_a_bad_update() -> None:
    document = Document.load(None, editor().updates)
    before = document.encode()
    with pytest.raises(BadUpdate):
        document.transact(lambda doc: doc.get("cells", type=Map).__setitem__("k", 2**63))
    assert before == document.encode()


def test_a_bad_row_of_the_log_does_not_hide_the_others() -> None:
    updates = editor().updates
    document = Document.load(None, [updates[0], b"\x05", *updates[1:]])
    assert {"k0", "k1", "k2", "k3"} == set(content(document.doc)[0])  # type: ignore[call-overload]
    assert 1 == document.rejected


def test_an_empty_document_encodes_as_the_empty_update() -> None:
    assert EMPTY_UPDATE == Document().encode() == Document.load(None, []).encode() == merge([])
    assert EMPTY_STATE_VECTOR == Document().state_vector()


def test_the_encoded_document_is_made_once_per_version() -> None:
    document = Document.load(None, editor().updates)
    assert document.difference(EMPTY_STATE_VECTOR) is document.difference(EMPTY_STATE_VECTOR)
    assert document.state_vector() is document.state_vector()


def test_a_difference_leaves_out_what_is_known() -> None:
    updates = editor().updates
    document = Document.load(None, updates)
    known = Document.load(None, updates[:2])
    difference = document.difference(known.state_vector())
    assert len(difference) < len(document.encode())
    known.apply(difference)
    assert content(document.doc) == content(known.doc)


@pytest.mark.parametrize(
    "state_vector", ["", "01", "0107", "ffffffff0f", "80808008", "8094ebdc03", "02070100", "01ff"]
)
def test_a_malformed_state_vector_is_a_bad_frame(state_vector: str) -> None:
    with pytest.raises(BadFrame):
        Document.load(None, editor().updates).difference(bytes.fromhex(state_vector))


def test_an_edit_of_our_own_is_one_update() -> None:
    document = Document.load(None, editor().updates)
    version = document.version

    def edit(doc: "Doc[Any]") -> None:
        cells = doc.get("cells", type=Map)
        cells["k0"] = 10
        del cells["k1"]

    update = document.transact(edit)
    assert update is not None
    assert version + 1 == document.version
    copy = Document.load(None, [*editor().updates, update])
    assert {"k0": 10, "k2": 2, "k3": 3} == content(copy.doc)[0]


def test_an_edit_of_our_own_that_changes_nothing_is_no_update() -> None:
    document = Document()
    assert document.transact(lambda doc: None) is None
    assert 0 == document.version


def test_an_edit_of_our_own_that_fails_leaves_no_trace() -> None:
    document = Document.load(None, editor().updates)
    before = document.encode()

    def edit(doc: "Doc[Any]") -> None:
        doc.get("cells", type=Map)["k0"] = 10
        raise KeyError("k9")

    with pytest.raises(KeyError):
        document.transact(edit)
    assert before == document.encode()
    assert 0 == document.version


def test_documents_edit_under_names_of_their_own() -> None:
    assert Document().doc.client_id != Document().doc.client_id
    assert Document().doc.client_id < 2**32


def test_a_document_that_is_let_go_is_freed() -> None:
    document = Document.load(None, editor().updates)
    inner = weakref.ref(document.doc)
    del document
    gc.collect()
    assert inner() is None


def in_groups(updates: list[bytes], choice: random.Random) -> list[bytes]:
    """Some neighbours merged, as after a time offline."""
    grouped = []
    while updates:
        size = choice.randrange(1, 12)
        grouped.append(pycrdt.merge_updates(*updates[:size], EMPTY_UPDATE, EMPTY_UPDATE))
        updates = updates[size:]
    return grouped


@settings(max_examples=300, deadline=None)
@given(st.integers(0, 2**32))
@example(46296)
@example(42338)
def test_updates_in_any_order_end_where_their_authors_are(seed: int) -> None:
    choice = random.Random(seed)
    updates, truth = history(seed, choice.randrange(5, 40))
    shuffled = choice.sample(updates, len(updates))
    shuffled += choice.choices(updates, k=3) if updates else []
    if choice.random() < 0.5:
        shuffled = in_groups(shuffled, choice)
    document, relayed = Document(), Document()
    journal = []
    joined: Document | None = None
    for position, update in enumerate(shuffled):
        foretold = document.would_add(update)
        applied = document.apply(update)
        assert foretold == applied.adds
        if applied.adds:
            relayed.apply(applied.relay)
            journal.append(applied.journal)
            if joined is not None:
                joined.apply(applied.relay)
        if position == len(shuffled) // 2:
            joined = Document.load(document.encode(), [])
    for end in (document, relayed, joined or document, Document.load(None, journal)):
        assert not end.pending
        assert content(truth) == content(end.doc)
        assert read_state_vector(truth.get_state()) == read_state_vector(end.state_vector())
        assert not end.would_add(truth.get_update())


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32), st.integers(1, 40))
def test_a_snapshot_and_its_tail_are_the_whole_log(seed: int, cut: int) -> None:
    updates, truth = history(seed)
    snapshot = Document.load(None, updates[:cut]).encode()
    document = Document.load(snapshot, updates[cut:])
    assert 0 == document.version
    assert content(truth) == content(document.doc)
    assert not document.would_add(pycrdt.merge_updates(*updates, EMPTY_UPDATE, EMPTY_UPDATE))


def test_updates_that_follow_are_applied_together_and_relayed_as_one() -> None:
    first, second = Editor(7), Editor(8)
    for n in range(3):
        first.cells[f"a{n}"] = n
        second.cells[f"b{n}"] = n
    updates = [*first.updates, *second.updates]
    document, reached = Document(), dict[bytes, int]()
    assert all(document.follows(update, reached) for update in updates)
    applied, alone = document.apply_together(updates, reached)
    assert applied is not None
    assert (True, False, ()) == (applied.adds, applied.gap, alone)
    assert applied.relay == applied.journal
    assert content(Document.load(None, updates).doc) == content(Document.load(None, [applied.journal]).doc)
    assert content(document.doc) == content(Document.load(None, updates).doc)
    assert 1 == document.version


def test_what_has_a_gap_before_it_does_not_follow() -> None:
    updates = editor().updates
    document, reached = Document(), dict[bytes, int]()
    assert document.follows(updates[0], reached)
    assert not document.follows(updates[2], reached)
    assert document.follows(updates[1], reached)
    assert document.follows(updates[2], reached)


def test_a_refused_update_makes_all_of_them_go_one_by_one() -> None:
    updates = [*editor().updates, bytes.fromhex("0101630028010163016b01" + "3f00")]
    document, reached = Document(), dict[bytes, int]()
    assert all(document.follows(update, reached) for update in updates)
    assert (None, updates) == document.apply_together(updates, reached)
    assert EMPTY_UPDATE == document.encode()


def test_what_pycrdt_took_before_it_failed_is_reported() -> None:
    good = editor().updates[0]
    document, reached = Document(), dict[bytes, int]()
    assert all(document.follows(update, reached) for update in (good, TAKES_A_PART))
    applied, alone = document.apply_together([good, TAKES_A_PART], reached)
    if applied is not None:
        assert content(document.doc) == content(Document.load(None, [applied.journal]).doc)
    assert [good, TAKES_A_PART] == list(alone)


@pytest.mark.parametrize("seed", range(20))
def test_a_whole_snapshot_and_a_tail_load_as_all_updates_do(seed: int) -> None:
    updates, end = history(seed)
    cut = random.Random(seed).randrange(len(updates) + 1)
    before = Document.load(None, updates[:cut])
    loaded = Document.load(before.encode(), updates[cut:], is_whole=not before.pending)
    assert content(end) == content(loaded.doc)
    base, later = loaded.parts()
    assert content(loaded.doc) == content(Document.load(None, [base, later]).doc)


def test_a_snapshot_that_cannot_be_read_is_counted_and_the_tail_is_kept() -> None:
    loaded = Document.load(b"\x01\x02\x03", editor().updates, is_whole=True)
    assert 1 == loaded.rejected
    assert content(Document.load(None, editor().updates).doc) == content(loaded.doc)


def test_the_parts_are_all_of_the_document_at_every_moment() -> None:
    edited, document = Editor(7), Document()
    shared = None
    for n in range(300):
        edited.cells[f"k{n % 7}"] = "x" * 400
        document.apply(edited.updates[-1])
        base, later = document.parts()
        assert content(document.doc) == content(Document.load(None, [base, later]).doc)
        shared = base if n == 5 else shared
        assert n <= 5 or n >= 150 or base is shared
    assert base is not shared, "a long tail is encoded anew"
