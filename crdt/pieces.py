"""A large update in pieces that can be integrated one after the other, with other work between them.

pycrdt keeps the interpreter while it integrates: a state of 8 MiB would stop a process for 0.2 s. A piece
holds some structs of each client, and none that is placed by a struct of a later piece: so a document that
has taken the first pieces lacks what follows, and has nothing pending.

An update is read once, to learn where its structs begin and which of them are placed by another client's;
that takes 1.1 us a struct, as long as integrating them. Then the structs are brought into an order: as far
into one client's as they go, and where one is placed by another client's that is not there yet, first as far
into that one's as needed (as in Yjs' `integrateStructs`).
"""

from array import array
from bisect import bisect_right
from collections.abc import Generator, Iterable
from dataclasses import dataclass, field

from crdt.lib0 import Decoder, write_var_uint
from crdt.updates import ANY, GC, Ranges, read_content, read_count, read_delete_set
from tmi.domain.errors import BadFrame

PIECE_BYTES = 32 * 1024
"""Takes pycrdt 1 to 3 ms."""

_READ_AT_ONCE = 2048
"""Structs. Takes 2 to 3 ms."""

_NO_DELETES = b"\x00"

_HAS_PLACES, _HAS_KEY = 0xC0, 0x20

_TEXT, _INTEGER, _OBJECT, _LIST, _BINARY = 0x77, 0x7D, 0x76, 0x75, 0x74
_SIZES = {0x7F: 0, 0x7E: 0, 0x79: 0, 0x78: 0, 0x7C: 4, 0x7B: 8, 0x7A: 8}
"""lib0 `writeAny`: undefined, null, false, true, float32, float64, bigint64."""


class NotWhole(Exception):
    """The update is malformed, or something of it builds on what is not in it."""


@dataclass(slots=True)
class _Section:
    """One client's structs."""

    client: int
    begins: "array[int]" = field(default_factory=lambda: array("Q"))
    """Where each struct begins in the update, in bytes; in the end also where the last one ends."""
    clocks: "array[int]" = field(default_factory=lambda: array("Q"))
    """The first clock of each; in the end also the next one."""
    waits: list[tuple[int, int, int]] = field(default_factory=list)
    """Which struct, as an index, is placed by which client's which clock."""
    wait: int = 0
    """How many of these are over."""
    taken: int = 0
    """How many structs have been brought into the order."""


Run = tuple[_Section, int, int]
"""Structs [from, to) of a section, which may follow on all runs before."""


def pieces(update: bytes, max_bytes: int = PIECE_BYTES) -> Generator[bytes, None, dict[int, int]]:
    """Updates that together do what this one does to an empty document, in their order.

    Now and then an empty one comes, which is none: the next step of reading is done, and others may have
    their turn. The last one holds all that is deleted. Returns each client's next clock. Raises NotWhole,
    before the first piece.
    """
    sections, deletes_at = yield from _read(update)
    yield b""
    runs = yield from _order(sections)
    taken: dict[int, tuple[_Section, int, int]] = {}
    size = 0
    for section, first, last in runs:
        at = first
        while at < last:
            begins = section.begins
            room = begins[at] + max_bytes - size
            to = last if begins[last] <= room else max(bisect_right(begins, room, at, last) - 1, at + 1)
            begun = taken.get(section.client)
            taken[section.client] = (section, at if begun is None else begun[1], to)
            size += begins[to] - begins[at]
            at = to
            if size >= max_bytes or at < last:
                yield _encode(update, taken.values())
                taken, size = {}, 0
    if taken:
        yield _encode(update, taken.values())
    if update[deletes_at:] != _NO_DELETES:
        yield b"\x00" + update[deletes_at:]
    return {client: section.clocks[-1] for client, section in sections.items() if section.clocks[-1]}


def _encode(update: bytes, runs: Iterable[Run]) -> bytes:
    parts = [b""]
    for section, first, last in runs:
        head = write_var_uint(last - first) + write_var_uint(section.client)
        head += write_var_uint(section.clocks[first])
        parts += (head, update[section.begins[first] : section.begins[last]])
    parts[0] = write_var_uint(len(parts) // 2)
    parts.append(_NO_DELETES)
    return b"".join(parts)


# --- the order ------------------------------------------------------------------------------------


def _order(sections: dict[int, _Section]) -> Generator[bytes, None, list[Run]]:
    """All structs in runs."""
    runs: list[Run] = []
    for section in sections.values():
        waiting = [(section, len(section.begins) - 1)]
        while waiting:
            one, upto = waiting[-1]
            if len(runs) % _READ_AT_ONCE == _READ_AT_ONCE - 1:
                yield b""
            needed = _advance(one, upto, sections, runs)
            if needed is None:
                waiting.pop()
            elif any(needed[0] is other for other, _ in waiting):
                raise NotWhole("two structs are placed by one another")
            else:
                waiting.append(needed)
    return runs


def _advance(
    section: _Section, upto: int, sections: dict[int, _Section], runs: list[Run]
) -> tuple[_Section, int] | None:
    """Take structs as far as possible; what is needed before the next, if it is placed by something that is
    not taken yet.
    """
    first = section.taken
    if first >= upto:
        return None
    needed = None
    while section.wait < len(section.waits):
        at, client, clock = section.waits[section.wait]
        if at >= upto:
            break
        other = sections.get(client)
        if other is None or clock >= other.clocks[-1]:
            raise NotWhole("a struct is placed by one that is not there")
        if clock >= other.clocks[other.taken] and other is not section:
            upto, needed = at, (other, bisect_right(other.clocks, clock))
            break
        section.wait += 1
    section.taken = upto
    if upto > first:
        runs.append((section, first, upto))
    return needed


# --- reading --------------------------------------------------------------------------------------


def _read(update: bytes) -> Generator[bytes, None, tuple[dict[int, _Section], int]]:
    """Every client's structs, and where the deletes begin."""
    try:
        decoder = Decoder(update)
        sections: dict[int, _Section] = {}
        for _ in range(read_count(decoder, 4)):
            count = read_count(decoder, 2)
            section = _Section(decoder.read_var_uint())
            clock = decoder.read_var_uint()
            if clock or section.client in sections:
                raise NotWhole("a client's first structs are not there")
            sections[section.client] = section
            yield from _read_section(update, decoder, section, count)
        deletes_at = decoder.position
        deletes = read_delete_set(decoder)
    except (BadFrame, IndexError):
        raise NotWhole("the update is malformed") from None
    _check_deletes(deletes, sections)
    return sections, deletes_at


def _check_deletes(deletes: Ranges, sections: dict[int, _Section]) -> None:
    for client, ranges in deletes.items():
        section = sections.get(client)
        if section is None or any(end > section.clocks[-1] for _, end in ranges):
            raise NotWhole("something that is not there is deleted")


def _read_section(
    update: bytes, decoder: Decoder, section: _Section, count: int
) -> Generator[bytes, None, None]:
    """Read one client's structs. Written out, since it takes as long as all the rest: 1 us a struct."""
    own = write_var_uint(section.client)
    own_size = len(own)
    begins, clocks = section.begins, section.clocks
    at, clock = decoder.position, 0
    for index in range(count):
        if not index % _READ_AT_ONCE:
            yield b""
        begins.append(at)
        clocks.append(clock)
        info = update[at]
        at += 1
        kind = info & 0x1F
        has_key = False
        if kind == GC:
            places = 0
        elif info & _HAS_PLACES:
            places = (info >> 7) + (info >> 6 & 1)
        else:
            is_in_root = update[at] == 1
            at = _pass_bytes(update, at + 1, decoder) if is_in_root else at + 1
            places = 1 - is_in_root
            has_key = info & _HAS_KEY != 0
        for _ in range(places):
            if update.startswith(own, at):
                at += own_size
                while update[at] > 0x7F:
                    at += 1
                at += 1
            else:
                decoder.seek(at)
                section.waits.append((index, decoder.read_var_uint(), decoder.read_var_uint()))
                at = decoder.position
        if has_key:
            at = _pass_bytes(update, at, decoder)
        if kind == ANY and update[at] == 1:
            clock += 1
            at += 1
            if update[at] == _TEXT:
                at = _pass_bytes(update, at + 1, decoder)
            else:
                at = _pass_value(update, at, decoder)
        else:
            decoder.seek(at)
            clock += decoder.read_var_uint() if kind == GC else read_content(decoder, kind)
            at = decoder.position
        if clock == clocks[-1]:
            raise NotWhole("a struct of nothing")  # pycrdt writes empty strings, and panics at a lone one
    begins.append(at)
    clocks.append(clock)
    decoder.seek(at)


def _pass_value(update: bytes, at: int, decoder: Decoder) -> int:
    """Where a value ends, with all that is nested in it (lib0 `writeAny`)."""
    lacking, is_keyed = 1, False
    outer: list[tuple[int, bool]] = []
    while lacking or outer:
        if not lacking:
            lacking, is_keyed = outer.pop()
            continue
        lacking -= 1
        if is_keyed:
            at = _pass_bytes(update, at, decoder)
        tag = update[at]
        at += 1
        if tag in _SIZES:
            at += _SIZES[tag]
        elif tag in (_TEXT, _BINARY):
            at = _pass_bytes(update, at, decoder)
        elif tag == _INTEGER:
            while update[at] > 0x7F:
                at += 1
            at += 1
        elif tag in (_OBJECT, _LIST):
            outer.append((lacking, is_keyed))
            decoder.seek(at)
            lacking, is_keyed = decoder.read_var_uint(), tag == _OBJECT
            at = decoder.position
        else:
            raise NotWhole(f"there is no value of type {tag}")
    return at


def _pass_bytes(update: bytes, at: int, decoder: Decoder) -> int:
    """Where bytes behind their length end."""
    size = update[at]
    if size < 0x80:
        return at + 1 + size
    decoder.seek(at)
    size = decoder.read_var_uint()
    return decoder.position + size
