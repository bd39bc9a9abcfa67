"""Edits between the two UTF-16 halves of a character, which pycrdt cannot cut as Yjs does.

The updates are Yjs 13's: client 7 types "a😀b", then does one thing to a half, then types "end" at the end.
`tests/interop/test_pairs.py` has real clients do it.
"""

import random

import pytest
from pycrdt import Map, Text

from crdt.document import Document
from crdt.merging import merge
from crdt.pairs import Pairs, read_texts, tear
from crdt.updates import read_state_vector
from tests.unit.crdt.peers import Editor
from tmi.domain.errors import BadUpdate

TORN = {
    "inserts": (
        (
            "01010700040104746578740661f09f98806200",
            "01010704c407010702017800",
            "0101070584070303656e6400",
        ),
        "a\ufffdx\ufffdbend",
        8,
    ),
    "deletes the second half": (
        (
            "01010700040104746578740661f09f98806200",
            "000107010201",
            "0101070484070303656e6400",
        ),
        "a\ufffdbend",
        7,
    ),
    "deletes the first half": (
        (
            "01010700040104746578740661f09f98806200",
            "000107010101",
            "0101070484070303656e6400",
        ),
        "a\ufffdbend",
        7,
    ),
    "formats": (
        (
            "01010700040104746578740661f09f98806200",
            "01020704c60701070204626f6c640474727565c60702070304626f6c64046e756c6c00",
            "0101070684070303656e6400",
        ),
        "a\ufffd\ufffdbend",
        9,
    ),
}


def shown(document: Document) -> tuple[str, dict[int, int]]:
    return str(document.doc.get("text", type=Text)), read_state_vector(document.state_vector())


@pytest.mark.parametrize("how", TORN)
def test_an_edit_between_two_halves_is_taken_as_yjs_does(how: str) -> None:
    encoded, text, clock = TORN[how]
    updates = [bytes.fromhex(update) for update in encoded]
    live = Document()
    assert [(True, False)] * 3 == [(applied.adds, applied.gap) for applied in map(live.apply, updates)]
    snapshot = Document()
    snapshot.apply(merge(updates[:2]))
    loaded = [
        Document.load(None, updates),
        Document.load(updates[0], updates[1:], is_whole=True),
        Document.load(merge(updates), (), is_whole=True),
        Document.load(snapshot.encode(), updates[2:], is_whole=True),
        Document.load(live.encode(), (), is_whole=True),
        Document.load(live.encode(), updates),
    ]
    for document in (live, *loaded):
        assert (text, {7: clock}) == shown(document)
        assert (False, 0) == (document.pending, document.rejected)


@pytest.mark.parametrize("how", TORN)
def test_only_what_comes_between_halves_that_are_there_makes_the_document_be_built_anew(how: str) -> None:
    typed, tearing, later = (bytes.fromhex(update) for update in TORN[how][0])
    document = Document()
    assert [False, False] == [document.tears(typed), document.tears(tearing)]
    document.apply(typed)
    assert (False, True) == (document.tears(later), document.tears(tearing))
    assert not document.follows(tearing, {})
    assert not document.tears(tearing[:-1])
    document.apply(tearing)
    assert not document.tears(tearing)
    together = Document()
    built = together.doc
    together.apply(merge([typed, tearing]))
    assert (built, shown(document)) == (together.doc, shown(together))


def test_a_later_edit_is_there_after_a_reload_from_a_snapshot() -> None:
    encoded, text, _ = TORN["deletes the first half"]
    first, tearing, later = (bytes.fromhex(update) for update in encoded)
    document = Document.load(first, (), is_whole=True)
    document.apply(tearing)
    reloaded = Document.load(document.encode(), [later], is_whole=True)
    assert text == shown(reloaded)[0]


@pytest.mark.parametrize("how", TORN)
def test_pairs_of_texts_are_found_in_a_large_update_with_others_in_labels(how: str) -> None:
    encoded, text, clock = TORN[how]
    typed, *later = (bytes.fromhex(update) for update in encoded)
    labelled = Editor(9)
    for number in range(50):
        labelled.cells[f"label {number}"] = "a😀b" * 10
    large = merge([typed, *labelled.updates])
    live = Document()
    for update in (large, *later):
        live.apply(update)
    for document in (live, Document.load(large, later, is_whole=True)):
        shows, clocks = shown(document)
        assert (text, clock, 50) == (shows, clocks[7], clocks[9])
        assert "a😀b" * 10 == document.doc.get("cells", type=Map)["label 7"]


@pytest.mark.parametrize("how", TORN)
@pytest.mark.parametrize("size", [1, 2000])
def test_a_value_that_is_nested_deeply_keeps_nothing_from_being_taken(how: str, size: int) -> None:
    """It is taken without pairs, too; deeper than what is read elsewhere."""
    encoded, text, clock = TORN[how]
    typed, *later = (bytes.fromhex(update) for update in encoded)
    nested: object = "😀" * size
    for _ in range(300):
        nested = [nested]
    deep = Editor(9)
    deep.cells["deep"] = nested
    live = Document()
    for update in (typed, *deep.updates, *later):
        live.apply(update)
    snapshot = Document()
    for update in (typed, *deep.updates):
        snapshot.apply(update)
    reloaded = Document.load(snapshot.encode(), later, is_whole=True)
    for document in (live, reloaded, Document.load(live.encode(), (), is_whole=True)):
        shows, clocks = shown(document)
        assert (text, clock, 1, 0) == (shows, clocks[7], clocks[9], document.rejected)
        assert ["deep"] == list(document.doc.get("cells", type=Map).keys())


def test_a_refused_edit_tears_nothing() -> None:
    document = Document()
    edited = Editor(7)
    edited.text.insert(0, "a😀b")
    document.apply(edited.updates[0])
    # placed between the halves, and no JSON in its format: pycrdt fails
    bad = bytes.fromhex("01010800c6070107020162" + "0178" + "00")
    with pytest.raises(BadUpdate):
        document.apply(bad)
    assert "a😀b" == shown(document)[0]
    document.apply(bytes.fromhex(TORN["inserts"][0][1]))
    assert "a\ufffdx\ufffdb" == shown(document)[0]


def test_whole_characters_stay() -> None:
    document = Document()
    edited = Editor(7)
    for at, text in ((0, "a😀b"), (5, "x"), (1, "🔑🔑"), (5, "y")):
        edited.text.insert(at, text)
    for update in edited.updates:
        document.apply(update)
    assert str(edited.text) == shown(document)[0]
    assert "\ufffd" not in shown(document)[0]


def test_pairs_are_found_whatever_order_they_came_in() -> None:
    choice = random.Random(3)
    edited = Editor(7)
    for _ in range(30):
        edited.text.insert(0, choice.choice(("a", "😀", "é🔑😀b")))
    spans = [span for update in edited.updates for span in read_texts(update)[1]]
    choice.shuffle(spans)
    pairs = Pairs()
    pairs.add((*spans, *spans))
    expected = {
        (7, span.clock + len(span.text[:at].encode("utf-16-le")) // 2 + 1)
        for span in spans
        for at, character in enumerate(span.text)
        if character in "😀🔑"
    }
    assert expected == {(7, clock) for clock in range(500) if (7, clock) in pairs}
    pairs.remove(expected)
    assert not any((7, clock) in pairs for clock in range(500))


def test_every_clock_stays_where_pairs_are_torn() -> None:
    edited = Editor(7)
    edited.text.insert(0, "😀" * 60)  # the length takes two bytes, and then three
    update = edited.updates[0]
    _, spans = read_texts(update)
    assert update == tear(update, spans, ())
    document = Document()
    document.apply(tear(update, spans, {(7, clock) for clock in range(1, 120, 2)}))
    assert ("\ufffd" * 120, {7: 120}) == shown(document)
