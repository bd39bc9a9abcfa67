"""Updates that no Yjs client writes, though every struct of them can be read: pycrdt trusts who wrote them.

`TMI_FUZZ_FRAMES` says how many are tried. One that ends the process ends the tests with it.
"""

import random
import time
from collections.abc import Callable

import pytest

from crdt.document import Document
from crdt.lib0 import write_var_uint
from crdt.pieces import NotWhole, pieces_of
from crdt.structs import read_structs
from crdt.updates import read_state_vector
from tests.security.test_frames_fuzz import FRAMES, SEED
from tests.unit.crdt.peers import history
from tmi.domain.errors import BadUpdate, TooMuchPending

PER_DOCUMENT = 60
WORST_STALL_S = 0.25
FORGER = 50
Take = Callable[[Document, bytes, list[bytes]], None]
EDGES = (0, 1, 2**31 - 1, 2**31, 2**32 - 1)

ROOTS = (b"\1\5cells", b"\1\4text", b"\1\4list")
KEYS = (b"\2k1", b"\2k0", b"\1q", b"\3pk1")
DELETED, STRING, TYPE, ANY = 1, 4, 7, 8
CONTENTS = {
    DELETED: (b"\1", b"\3", b"\x80\x80\x80\x80\x08"),
    3: (b"\2ab",),
    STRING: (b"\1a", b"\5hello", "\4😀".encode()),
    5: (b"\2{}",),
    6: (b"\4bold\4true", b"\4bold\4null"),
    TYPE: (b"\0", b"\1", b"\2", b"\3\1p", b"\4", b"\6"),
    ANY: (b"\1\x7d\1", b"\2\x7d\1\x7d\2", b"\1\x76\1\1a\x7d\2"),
    9: (b"\1g\x76\0",),
}


class Forger:
    """Names what is there, what is not and what is its own as neighbours and parents, whatever they are."""

    def __init__(self, choice: random.Random) -> None:
        self._choice = choice

    def update(self, clocks: dict[int, int]) -> bytes:
        """One update, of one client or several, perhaps with two sections of one."""
        sections = [self._section(clocks) for _ in range(self._choice.choice((1, 1, 1, 2, 3)))]
        return write_var_uint(len(sections)) + b"".join(sections) + self._deletes(clocks)

    def _section(self, clocks: dict[int, int]) -> bytes:
        client = self._choice.choice((*clocks, FORGER))
        there = clocks.get(client, 0)
        first = self._choice.choice((there, there, there, max(there - 2, 0), there + 1))
        known = {**clocks, client: there + 4}
        structs = [self._struct(known) for _ in range(self._choice.randrange(1, 5))]
        head = write_var_uint(len(structs)) + write_var_uint(client) + write_var_uint(first)
        return head + b"".join(structs)

    def _struct(self, clocks: dict[int, int]) -> bytes:
        kind = self._choice.choice(tuple(CONTENTS))
        info = kind | self._choice.choice((0, 0x20, 0x80, 0x80, 0x40, 0xC0, 0xA0))
        parts = [bytes([info])]
        parts += [self._name(clocks) for bit in (0x80, 0x40) if info & bit]
        if not info & 0xC0:
            parent = b"\0" + self._name(clocks)
            parts.append(self._choice.choice((*ROOTS, parent)))
            if info & 0x20:
                parts.append(self._choice.choice(KEYS))
        return b"".join((*parts, self._choice.choice(CONTENTS[kind])))

    def _name(self, clocks: dict[int, int]) -> bytes:
        client = self._choice.choice((*clocks, FORGER))
        there = clocks.get(client, 0)
        clock = self._choice.randrange(there + 3)
        if self._choice.random() < 0.05:
            clock = self._choice.choice(EDGES)
        return write_var_uint(client) + write_var_uint(clock)

    def _deletes(self, clocks: dict[int, int]) -> bytes:
        if self._choice.random() < 0.6:
            return b"\0"
        client = self._choice.choice(tuple(clocks))
        first, size = self._choice.randrange(clocks[client] + 2), self._choice.randrange(1, 5)
        return b"\1" + write_var_uint(client) + b"\1" + write_var_uint(first) + write_var_uint(size)


def at_once(document: Document, update: bytes, journal: list[bytes]) -> None:
    """As a room takes an edit."""
    applied = document.apply(update)
    if applied.adds:
        journal.append(applied.journal)


def by_pieces(document: Document, update: bytes, journal: list[bytes]) -> None:
    """As it takes a large one, though every struct is a piece."""
    try:
        known = read_state_vector(document.state_vector())
        for piece in pieces_of(update, read_structs(update), known, 1):
            if piece is not None:
                applied, is_whole = document.apply_piece(piece)
                if applied.adds:
                    journal.append(applied.journal)
                if not is_whole:
                    raise NotWhole
    except NotWhole:
        at_once(document, update, journal)


@pytest.mark.parametrize("take", [at_once, by_pieces])
@pytest.mark.parametrize("part", range(2))
def test_forged_updates_are_refused_or_taken_and_end_nothing(part: int, take: Take) -> None:
    choice = random.Random(SEED + part)
    forger = Forger(choice)
    taken = refused = 0
    worst = 0.0
    while taken + refused < FRAMES // 20:
        log, _ = history(choice.randrange(50), 20)
        document = Document.load(None, log)
        kept = list(log)
        for _ in range(PER_DOCUMENT):
            update = forger.update(read_state_vector(document.state_vector()))
            began = time.thread_time()
            try:
                take(document, update, kept)
            except (BadUpdate, TooMuchPending):
                refused += 1
                continue
            finally:
                worst = max(worst, time.thread_time() - began)
            taken += 1
        for loaded in (Document.load(document.encode(), ()), Document.load(None, kept)):
            assert 0 == loaded.rejected
            loaded.encode()
    assert taken > 0 < refused
    assert worst < WORST_STALL_S
