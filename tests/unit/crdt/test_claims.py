"""Structs that claim what no client has: pycrdt adds clocks up in 32 bits, and reads some kinds wrongly."""

import random
from collections.abc import Callable
from typing import Any

import pytest
from pycrdt import Doc, Map, Text

from crdt.document import Document
from crdt.lib0 import write_var_uint
from crdt.merging import merge
from crdt.pairs import read_texts
from crdt.plain import begins_plainly
from crdt.structs import read_structs
from crdt.updates import MAX_CLOCK, MAX_NESTING, read_update, split_at_gaps
from tests.unit.crdt.peers import Editor, content
from tmi.domain.errors import BadUpdate

ITEM = b"\x28\x01\x05cells\x01q\x01\x7d\x01"
"""An item in the root map `cells` under the key `q`: the number 1."""

IN_A_TEXT = b"\x01\x04text"
AFTER_ANOTHER = b"\x07\x02"

GC, SKIP = b"\x00", b"\x0a"
DELETED = [b"\x01" + IN_A_TEXT, b"\x81" + AFTER_ANOTHER, b"\x41" + AFTER_ANOTHER, b"\x21\x01\x05cells\x01a"]

EDGES = [2**31 - 1, 2**31, 2**32 - 8, 2**32 - 7, 2**32 - 6, 2**32 - 5, 2**32 - 1, 2**32, 2**53 - 1]

READERS: list[Callable[[bytes], object]] = [
    read_update,
    read_structs,
    read_texts,
    lambda update: split_at_gaps(update, {7: 7}),
]


def edited() -> list[bytes]:
    """Seven clocks of client 7."""
    editor = Editor(7)
    editor.cells["a"] = 1
    editor.text.insert(0, "hello")
    editor.cells["b"] = 2
    return editor.updates


def update_of(*structs: bytes, client: int = 7, clock: int = 7) -> bytes:
    head = b"\1" + write_var_uint(len(structs)) + write_var_uint(client) + write_var_uint(clock)
    return head + b"".join(structs) + b"\0"


def taken(document: Document, update: bytes) -> bytes | None:
    """What to keep in the log, by the way that edits usually go."""
    reached: dict[bytes, int] = {}
    if document.follows(update, reached):
        applied, alone = document.apply_together([update], reached)
        return applied.journal if applied is not None and not alone else None
    try:
        return document.apply(update).journal
    except BadUpdate:
        return None


HARMFUL = {
    "nothing at the beginning": update_of(GC + b"\0", clock=0),
    "nothing at the end": update_of(GC + b"\0"),
    "nothing, and then something": update_of(GC + b"\0", ITEM, clock=0),
    "nothing behind something": update_of(ITEM, GC + b"\0"),
    "late": update_of(ITEM, clock=MAX_CLOCK),
    "late, two of them": update_of(ITEM, ITEM, clock=MAX_CLOCK - 1),
    "later than 32 bits": update_of(GC + b"\1", clock=2**32),
    "Y.XmlHook": update_of(b"\x07" + IN_A_TEXT + b"\x05", b"\0\1"),
    "a sub-document": update_of(b"\x09" + IN_A_TEXT + b"\x01g\x76\x00"),
    "ContentJSON": update_of(b"\x02" + IN_A_TEXT + b"\x01\x011"),
    "a fifth bit": update_of(b"\x18" + IN_A_TEXT + b"\x01\x7d\x01"),
    "two clients": bytes.fromhex("02 01 08 00 28010563656c6c730171017d01 01 07 00 0000 00"),
    "two sections of a client": bytes.fromhex("02 01 07 07 8407060161 01 07 07 8407060162 00"),
    **{
        f"{kind.hex()} of {claimed} {where}": update_of(*before, kind + write_var_uint(claimed), *after)
        for kind in (GC, SKIP, *DELETED)
        for claimed in (MAX_CLOCK, *EDGES)
        for where, before, after in (("alone", [], []), ("first", [], [ITEM]), ("last", [ITEM], []))
        if kind != SKIP or where == "first"  # no clocks left out at the end: nothing, as Yjs has it
        if claimed + 7 + len(before) > MAX_CLOCK
    },
}


@pytest.mark.parametrize("update", HARMFUL.values(), ids=HARMFUL)
def test_what_would_bring_pycrdt_out_of_step_is_refused(update: bytes) -> None:
    document = Document.load(None, edited())
    before, shown = document.encode(), content(document.doc)
    assert begins_plainly(update) is None
    with pytest.raises(BadUpdate):
        document.apply(update)
    assert (before, shown) == (document.encode(), content(document.doc))
    assert not document.pending


@pytest.mark.parametrize("read", READERS)
@pytest.mark.parametrize("kind", [GC, *DELETED], ids=bytes.hex)
def test_every_reader_has_the_same_bound(read: Callable[[bytes], object], kind: bytes) -> None:
    read(update_of(kind + write_var_uint(MAX_CLOCK - 7)))
    with pytest.raises(BadUpdate, match="clock"):
        read(update_of(kind + write_var_uint(MAX_CLOCK - 6)))


@pytest.mark.parametrize("read", READERS)
@pytest.mark.parametrize("structs", [1, 200])
def test_what_holds_its_clocks_has_the_same_bound(read: Callable[[bytes], object], structs: int) -> None:
    """200 take two bytes, and are read always."""
    at_the_end = update_of(*[ITEM] * structs, clock=MAX_CLOCK - structs)
    read(at_the_end)
    assert begins_plainly(at_the_end) is None
    past = update_of(*[ITEM] * structs, clock=MAX_CLOCK - structs + 1)
    assert begins_plainly(past) is None
    with pytest.raises(BadUpdate, match="clock"):
        read(past)


@pytest.mark.parametrize("read", READERS[:2])
def test_what_is_only_asked_about_is_read_as_closely(read: Callable[[bytes], object]) -> None:
    document = Document.load(None, edited())
    for harmful in (HARMFUL["two sections of a client"], HARMFUL["nothing at the beginning"]):
        for ask in (read, document.would_add, document.would_grow):
            with pytest.raises(BadUpdate):
                ask(harmful)


@pytest.mark.parametrize("level", [3, 200, MAX_NESTING])
@pytest.mark.parametrize("others", [0, 1, 60])
def test_a_deep_value_is_there_again_whatever_it_is_merged_with(level: int, others: int) -> None:
    """An edit that went in unread was refused with all its row when the room was opened again."""
    value: object = 1
    for _ in range(level):
        value = [value]
    edits = [edited()]
    for client in (9, 0x0A0A0A0A, *range(100, 100 + others)):
        editor = Editor(client)
        editor.cells[f"k{client}"] = value if client in (9, 0x0A0A0A0A) else client
        editor.cells["last"] = client
        edits.append(editor.updates)
    live = Document()
    kept = [live.apply(update).journal for updates in edits for update in updates]
    for rows, is_whole in (
        (kept, False),
        ([merge(kept)], False),
        ([merge(kept[:4]), merge(kept[4:])], False),
        ([live.encode()], False),
        ([live.encode()], True),
    ):
        loaded = Document.load(rows[0] if is_whole else None, rows[is_whole:], is_whole=is_whole)
        assert (0, False) == (loaded.rejected, loaded.pending)
        assert not live.would_add(loaded.encode())
        assert not loaded.would_add(live.encode())


def test_the_log_says_nothing_about_clocks_that_were_there_already() -> None:
    """A merged row would be believed where it says otherwise than what is there."""
    updates = edited()
    document = Document.load(None, updates)
    forged = update_of(GC + b"\7", ITEM, clock=0)
    kept = document.apply(forged).journal
    assert {7: [(7, 8)]} == read_update(kept).structs
    for rows in ([*updates, kept], [kept, *updates], [merge([kept, *updates])]):
        assert content(document.doc) == content(Document.load(None, rows).doc)


@pytest.mark.parametrize("before", [0, 1, 600])
def test_what_waits_for_ever_hides_nothing_that_came_for_the_same_clocks(before: int) -> None:
    """Nor what others built on it, however the log is read."""
    forger = Editor(9)
    forger.text.insert(0, "forged")
    waits = update_of(b"\x84\xe7\x07\x00\x06never!", client=9, clock=0)
    other = Editor(7)
    for number in range(before):
        other.cells["a"] = number
    other.receive(*forger.updates)
    other.text.insert(3, "built on it")
    updates = [waits, *forger.updates, *other.updates]
    live = Document()
    kept = [live.apply(update).journal for update in updates]
    assert "forbuilt on itged" == str(live.doc.get("text", type=Text))
    assert not live.pending
    stepped = Document.load_by_steps(None, kept)
    while True:
        try:
            next(stepped)
        except StopIteration as end:
            by_steps = end.value
            break
    for loaded in (by_steps, Document.load(None, kept), Document.load(kept[0], kept[1:])):
        assert (content(live.doc), False) == (content(loaded.doc), loaded.pending)
        assert 0 == loaded.rejected


def test_the_log_keeps_what_waits_and_what_went_in_of_one_update() -> None:
    behind = Doc[Any](client_id=9)
    told: list[bytes] = []
    behind.observe(lambda event: told.append(event.update))
    cells = behind.get("cells", type=Map)
    for number in range(3):
        cells[f"k{number}"] = number
    both = merge([edited()[0], told[2]])
    document = Document()
    applied = document.apply(both)
    assert applied.gap
    again = Document.load(None, [applied.journal])
    for one in (document, again):
        waited = one.pending
        for update in told[:2]:
            one.apply(update)
        assert (True, False) == (waited, one.pending)
        assert {"a", "k0", "k1", "k2"} == set(one.doc.get("cells", type=Map).keys())


def test_whatever_is_taken_is_there_again_when_the_log_is_read() -> None:
    """Structs that take clocks of others, leave some out or claim what no client has, of all kinds."""
    choice = random.Random(4)
    updates = edited()
    for _ in range(1500):
        structs = []
        for _ in range(choice.randrange(1, 4)):
            kind = choice.choice([GC, SKIP, *DELETED])
            claimed = choice.choice([0, 1, 2, 7, 8, *EDGES])
            structs.append(choice.choice([ITEM, kind + write_var_uint(claimed)]))
        clock = choice.choice([0, 1, 5, 6, 7, 8, *EDGES])
        update = update_of(*structs, client=choice.choice([7, 8]), clock=clock)
        live = Document.load(None, updates)
        before = live.encode()
        kept = taken(live, update)
        if kept is None:
            assert before == live.encode()
            continue
        for again in (
            Document.load(None, [*updates, kept]),
            Document.load(None, [merge([*updates, kept])]),
            Document.load(live.encode(), (), is_whole=not live.pending),
        ):
            assert content(live.doc) == content(again.doc), update.hex()
            assert 0 == again.rejected
