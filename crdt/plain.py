"""Everyday edits, known at a glance: structs of one client, each of which holds as many clocks as it takes.

All else is read before pycrdt sees it, which costs more than to integrate it (see `crdt/updates.py`).
"""

from crdt.lib0 import Decoder, read_var_uint
from crdt.updates import (
    ANY,
    BINARY,
    DELETED,
    EMBED,
    FORMAT,
    GC,
    MAX_CLOCK,
    SKIP,
    STRING,
    TYPE,
    VALUE_BYTES,
    XML_ELEMENT,
    read_content,
)
from tmi.domain.errors import BadFrame

_CLAIMING = frozenset((GC, DELETED, SKIP))
"""They hold nothing but how many clocks they take."""

_HOLDING = frozenset(info for info in range(256) if info & 0x1F in (BINARY, STRING, EMBED, FORMAT, ANY))
"""First bytes of what always holds as many clocks as it takes, whatever is in it."""

_PLACING = tuple(4 if info >= 0xC0 else 2 if info & 0xC0 else 0 for info in range(256))
"""By the first byte: how many numbers name the neighbours."""

_TEXT = 0x77
"""A text as a value (lib0 `writeAny`)."""


def begins_plainly(update: bytes) -> tuple[bytes, int, int, int] | None:
    """The encoded client, first clock and number of structs of an update with one client's structs.

    The last is where the first clock is, in bytes. None for any other update, and where a struct could take
    more clocks than it holds. A hot path: written out, 1 us.
    """
    end = len(update) - 1
    if update[0] != 1 or update[1] > 0x7F:
        return None
    at = 2
    while at < end and update[at] > 0x7F:
        at += 1
    clock_at = at = at + 1
    clock = shift = 0
    while at < end and shift < 49:
        byte = update[at]
        clock |= (byte & 0x7F) << shift
        at += 1
        if byte < 0x80:
            structs = update[1]
            if clock + end > MAX_CLOCK or not (
                (structs == 1 and update[at] in _HOLDING) or _all_hold(update, at, structs)
            ):
                return None
            return update[2:clock_at], clock, structs, clock_at
        shift += 7
    return None


def _all_hold(update: bytes, at: int, structs: int) -> bool:
    """Whether so many structs can be read, and none takes clocks without holding as much.

    1 us a struct for what editors write all the time.
    """
    try:
        for _ in range(structs):
            info = update[at]
            kind = info & 0x1F
            if kind in _CLAIMING:
                return False
            at = _past_places(update, at + 1, info)
            if kind == ANY and update[at] == 1 and update[at + 1] in VALUE_BYTES:
                at += 2 + VALUE_BYTES[update[at + 1]]
            else:
                at = _past_content(update, at, kind)
    except (BadFrame, IndexError):
        return False
    return True


def _past_places(update: bytes, at: int, info: int) -> int:
    numbers = _PLACING[info]
    if not numbers:
        parent = update[at]
        at += 1
        if parent == 1:
            at = _past_text(update, at)
        elif parent:
            raise BadFrame("neither the name nor the id of a parent")
        else:
            numbers = 2
    while numbers:
        numbers -= update[at] < 0x80
        at += 1
    return _past_text(update, at) if info & 0xE0 == 0x20 else at


def _past_content(update: bytes, at: int, kind: int) -> int:
    if kind == STRING:
        return _past_text(update, at)
    if kind == TYPE and update[at] < XML_ELEMENT:
        return at + 1
    if kind == ANY and update[at] == 1 and update[at + 1] == _TEXT:
        return _past_text(update, at + 2)
    decoder = Decoder(update)
    decoder.seek(at)
    read_content(decoder, kind)
    return decoder.position


def _past_text(update: bytes, at: int) -> int:
    """Where a text behind its length ends."""
    size = update[at]
    if size < 0x80:
        return at + 1 + size
    size, at = read_var_uint(update, at, len(update))
    return at + size


def placeholder(update: bytes, clock_at: int) -> bytes:
    """For an update of one client: one struct that claims all clocks before it. Never to be applied."""
    clock_end = clock_at
    while update[clock_end] > 0x7F:
        clock_end += 1
    return b"\x01\x01" + update[2:clock_at] + b"\x00\x00" + update[clock_at : clock_end + 1] + b"\x00"
