"""A large update in pieces that can be integrated one after the other, with other work between them.

pycrdt keeps the interpreter while it integrates: a state of 8 MiB would stop a process for 0.2 s. A piece
holds some structs of each client, and none that is placed by a struct of a later piece: so a document that
has taken the first pieces lacks what follows, and has nothing pending. What others write between two pieces
is in nobody's way.

An update is read once (`crdt/structs.py`), which takes as long as integrating it. Then its structs are
brought into an order: as far into one client's as they go, and where one is placed by another client's that
is not there yet, first as far into that one's as needed (as in Yjs' `integrateStructs`).
"""

from bisect import bisect_right
from collections.abc import Generator, Iterable, Iterator, Mapping
from dataclasses import dataclass

from crdt.lib0 import write_var_uint
from crdt.ranges import Ranges
from crdt.structs import Section, Sections, read_by_steps
from crdt.updates import encode_delete_set
from tmi.domain.errors import BadUpdate

PIECE_BYTES = 32 * 1024
"""Takes pycrdt 1 to 3 ms."""

_ORDERED_AT_ONCE = 2048
"""Tries to take structs."""
_DELETED_AT_ONCE = 2048
"""Ranges of clocks."""
_VALUES_MAX = 8192
"""In one list; what has more is read faster by pycrdt, all at once."""

_NO_DELETES = b"\x00"


class NotWhole(Exception):
    """The update is malformed, or something of it builds on what is neither in it nor in the document."""


@dataclass(slots=True)
class _Line:
    """One client's structs, and how far they are in the order."""

    section: Section
    taken: int = 0
    """So many structs are."""
    wait: int = 0
    """So many of `section.waits` are over."""
    is_waiting: bool = False


Run = tuple[Section, int, int]
"""Structs [from, to) of a section, which may follow on all runs before."""


def pieces(update: bytes, max_bytes: int = PIECE_BYTES) -> Generator[bytes | None, None, dict[int, int]]:
    """Updates that together do what this one does to an empty document, in their order.

    Now and then there is none: a step of reading is done, and others may have their turn. The last ones hold
    what is deleted. Returns each client's next clock. Raises NotWhole, before the first piece.
    """
    try:
        read = yield from read_by_steps(update, _VALUES_MAX)
    except BadUpdate as error:
        raise NotWhole(error.detail) from None
    yield from pieces_of(update, read, {}, max_bytes)
    return {section.client: section.clocks[-1] for section in read.sections if section.clocks[-1]}


def pieces_of(
    update: bytes, read: Sections, known: Mapping[int, int], max_bytes: int = PIECE_BYTES
) -> Generator[bytes | None, None, None]:
    """As `pieces`, for an update that is read, and a document that has all before these clocks.

    Structs that are there already are left out. Raises NotWhole, before the first piece.
    """
    lines = {section.client: _line(section, known.get(section.client, 0)) for section in read.sections}
    _check(read, lines, known)
    runs = yield from _in_order(lines, known)
    taken: dict[int, Run] = {}
    size = 0
    for section, first, last in runs:
        at, begins = first, section.begins
        while at < last:
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
    for deletes in _in_parts(read.deletes):
        yield b"\x00" + encode_delete_set(deletes)


def _line(section: Section, clock: int) -> _Line:
    """What is before this clock counts as taken."""
    return _Line(section, max(bisect_right(section.clocks, clock) - 1, 0))


def _in_parts(deletes: Ranges) -> Iterator[Ranges]:
    part: Ranges = {}
    number = 0
    for client, ranges in deletes.items():
        for first in range(0, len(ranges), _DELETED_AT_ONCE):
            some = ranges[first : first + _DELETED_AT_ONCE]
            part[client] = some
            number += len(some)
            if number >= _DELETED_AT_ONCE:
                yield part
                part, number = {}, 0
    if part:
        yield part


def _check(read: Sections, lines: Mapping[int, _Line], known: Mapping[int, int]) -> None:
    if not read.follow(known):
        raise NotWhole("some structs are left out")
    if any(section.has_nothing for section in read.sections):
        raise NotWhole("a struct of nothing")
    if any(section.names_later for section in read.sections):
        raise NotWhole("a struct is placed by a later one")
    if read.has_pairs:
        raise NotWhole("a text whose characters may be torn apart")
    for client, ranges in read.deletes.items():
        line = lines.get(client)
        there = max(known.get(client, 0), 0 if line is None else line.section.clocks[-1])
        if any(end > there for _, end in ranges):
            raise NotWhole("something that is not there is deleted")


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


def _in_order(lines: Mapping[int, _Line], known: Mapping[int, int]) -> Generator[None, None, list[Run]]:
    """All structs in runs."""
    runs: list[Run] = []
    tries = 0
    for first in lines.values():
        waiting = [(first, len(first.section.begins) - 1)]
        while waiting:
            line, upto = waiting[-1]
            tries += 1
            if not tries % _ORDERED_AT_ONCE:
                yield
            line.is_waiting = True
            needed = _advance(line, upto, lines, known, runs)
            if needed is None:
                line.is_waiting = False
                waiting.pop()
            elif needed[0].is_waiting:
                raise NotWhole("two structs are placed by one another")
            else:
                waiting.append(needed)
    return runs


def _advance(
    line: _Line, upto: int, lines: Mapping[int, _Line], known: Mapping[int, int], runs: list[Run]
) -> tuple[_Line, int] | None:
    """Take structs as far as possible; what is needed before the next, if it is placed by something that is
    not taken yet.
    """
    first, waits = line.taken, line.section.waits
    if first >= upto:
        return None
    needed = None
    while line.wait < len(waits) and (wait := waits[line.wait])[0] < upto:
        at, client, clock = wait
        if at >= first and clock >= known.get(client, 0):
            other = lines.get(client)
            if other is None or clock >= other.section.clocks[-1]:
                raise NotWhole("a struct is placed by one that is not there")
            clocks = other.section.clocks
            if clock >= clocks[other.taken]:
                upto, needed = at, (other, bisect_right(clocks, clock))
                break
        line.wait += 1
    line.taken = upto
    if upto > first:
        runs.append((line.section, first, upto))
    return needed
