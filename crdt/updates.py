"""Reading Yjs v1 updates without applying them: what is checked before pycrdt sees an update.

Layout (Yjs `encodeStateAsUpdate`, v1): varUint clients; per client varUint structs, varUint client, varUint
clock of the first struct, and the structs; then the delete set: varUint clients, per client varUint client,
varUint ranges, and per range varUint clock and varUint length.

What can go wrong (yrs 0.28, in pycrdt 0.14.13)
- A count that is believed allocates memory: hash maps are cleared when they are made; vectors are not
  touched, so those are harmless.
- Values nested deeply enough overflow the stack of its recursive decoder, which ends the process.
- Clocks are added up in 32 bits. A struct that claims clocks without holding anything (GC, Deleted, Skip)
  can go past the end, and a GC of no clock at all at 0 does, too: then pycrdt panics, finds another struct
  than was meant, or reads memory that is none of its own, and what it encodes lacks that client's structs.
- Two sections of one client in an update make it read memory that is none of its own, or run for ever.
- It reads what no Yjs client of today writes otherwise than Yjs: one string too many in ContentJSON, no name
  for Y.XmlHook, and a kind without its fifth bit. What follows would be taken for something else here.

Reading every struct in Python costs more than applying it. So `is_suspect` looks only at what is cheap, and
says where an update could hold one of the first two: a map claiming 128 keys or more, or more opening
brackets than may be nested. For the others, everyday edits are known at a glance (`crdt/plain.py`), and the
rest is read.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from crdt.lib0 import Decoder, write_var_uint
from crdt.ranges import Ranges
from tmi.domain.errors import BadFrame, BadUpdate

MAX_NESTING = 1024
"""Levels of lists and objects inside one JSON value. pycrdt takes half a kilobyte of stack for each: so many
fit into 0.75 MiB, 4,090 do not into 2. Who reads an update later may refuse none that was let in unread:
there is one limit.
"""

MAX_CLOCK = 2**31
"""No client ever gets there: with 100 edits a second it would take eight months without a pause."""

_SMALLEST_SECTION_BYTES = 4
_SMALLEST_RANGE_BYTES = 2

_MAP_OF_128_KEYS = re.compile(rb"v[\x80-\xff]").search

Id = tuple[int, int]
"""A client and a clock: the name of one struct's first element."""


@dataclass(frozen=True, slots=True)
class Shape:
    """What an update claims to hold."""

    structs: Ranges
    """Without Skips; ranges that touch are one."""
    heads: Mapping[int, tuple[int, Sequence[Id]]]
    """Per client the clock of its first struct that is no Skip, and the structs this one is placed by."""
    deletes_at: int
    """Where the delete set begins."""
    deletes: Ranges


def is_suspect(update: bytes) -> bool:
    """Whether an update might harm pycrdt, and has to be read in full. Raises BadUpdate where it would.

    A hot path: 0.4 us for a 60-byte edit.
    """
    size = len(update)
    if size < 2:
        raise BadUpdate("an update has at least two bytes")
    clients = update[0]
    if clients >= 0x80:
        clients = Decoder(update).read_var_uint()
    if clients * _SMALLEST_SECTION_BYTES >= size:
        raise BadUpdate("more clients claimed than sent")
    return _MAP_OF_128_KEYS(update) is not None or (
        size > 2 * MAX_NESTING and update.count(b"u") + update.count(b"v") > MAX_NESTING
    )


def check_state_vector(state_vector: bytes) -> None:
    """Refuse a state vector that claims more than it holds. Raises BadFrame."""
    decoder = Decoder(state_vector)
    if decoder.read_var_uint() * _SMALLEST_RANGE_BYTES > decoder.remaining():
        raise BadFrame("more clients claimed than sent")


def read_state_vector(state_vector: bytes) -> dict[int, int]:
    """Client to next clock. Raises BadFrame."""
    decoder = Decoder(state_vector)
    count = decoder.read_var_uint()
    if count * _SMALLEST_RANGE_BYTES > decoder.remaining():
        raise BadFrame("more clients claimed than sent")
    return {decoder.read_var_uint(): decoder.read_var_uint() for _ in range(count)}


def read_update(update: bytes) -> Shape:
    """Read an update to its end. Raises BadUpdate."""
    decoder = Decoder(update)
    try:
        structs: Ranges = {}
        heads: dict[int, tuple[int, Sequence[Id]]] = {}
        clients: set[int] = set()
        for _ in range(read_count(decoder, _SMALLEST_SECTION_BYTES)):
            _read_section(decoder, clients, structs, heads)
        deletes_at = decoder.position
        deletes = read_delete_set(decoder)
    except BadUpdate:
        raise
    except BadFrame as error:
        raise BadUpdate(error.detail) from None
    return Shape(structs, heads, deletes_at, deletes)


def split_at_gaps(update: bytes, clocks: Mapping[int, int]) -> tuple[bytes, bytes]:
    """What of an update follows on `clocks` without a gap, with its deletes; and the structs behind gaps.

    Raises BadUpdate.
    """
    decoder = Decoder(update)
    following: list[bytes] = []
    behind: list[bytes] = []
    clients: set[int] = set()
    try:
        for _ in range(read_count(decoder, _SMALLEST_SECTION_BYTES)):
            _split_section(update, decoder, clients, clocks, following, behind)
        deletes = update[decoder.position :]
        read_delete_set(decoder)
    except BadUpdate:
        raise
    except BadFrame as error:
        raise BadUpdate(error.detail) from None
    return (
        write_var_uint(len(following)) + b"".join(following) + deletes,
        write_var_uint(len(behind)) + b"".join(behind) + b"\x00",
    )


def _split_section(
    update: bytes,
    decoder: Decoder,
    clients: set[int],
    clocks: Mapping[int, int],
    following: list[bytes],
    behind: list[bytes],
) -> None:
    """Cut one client's structs at the first gap; Skips inside the rear part stay what they are."""
    count = read_count(decoder, 2)
    client = read_client(decoder, clients)
    clock = first = decoder.read_var_uint()
    begin = decoder.position
    taken, is_behind = 0, first > clocks.get(client, 0)
    for _ in range(count):
        position = decoder.position
        kind = decoder.read_byte() & 0x1F
        if kind == SKIP and not is_behind:
            _add_section(following, taken, client, first, update[begin:position])
            clock = first = read_clocks(decoder, kind, clock)
            begin, taken, is_behind = decoder.position, 0, True
            continue
        clock = _pass_struct(decoder, update[position], kind, clock)
        taken += 1
    _add_section(behind if is_behind else following, taken, client, first, update[begin : decoder.position])


def _add_section(sections: list[bytes], structs: int, client: int, clock: int, encoded: bytes) -> None:
    if structs:
        head = write_var_uint(structs) + write_var_uint(client) + write_var_uint(clock)
        sections.append(head + encoded)


def _pass_struct(decoder: Decoder, info: int, kind: int, clock: int) -> int:
    """Pass over a struct behind its first byte; the clock after it."""
    if kind not in (GC, SKIP):
        _read_places(decoder, info)
    return read_clocks(decoder, kind, clock)


def encode_delete_set(deletes: Ranges) -> bytes:
    """The delete set in one order, whatever order it came in."""
    parts = [write_var_uint(len(deletes))]
    for client in sorted(deletes):
        ranges = sorted(deletes[client])
        parts.append(write_var_uint(client) + write_var_uint(len(ranges)))
        parts.extend(write_var_uint(start) + write_var_uint(end - start) for start, end in ranges)
    return b"".join(parts)


def read_count(decoder: Decoder, smallest: int) -> int:
    count = decoder.read_var_uint()
    if count * smallest > decoder.remaining():
        raise BadUpdate("more entries claimed than sent")
    return count


def read_delete_set(decoder: Decoder) -> Ranges:
    """Read a delete set as it is. Raises BadFrame, and BadUpdate where more is claimed than sent."""
    deletes: Ranges = {}
    for _ in range(read_count(decoder, _SMALLEST_RANGE_BYTES)):
        ranges = deletes.setdefault(decoder.read_var_uint(), [])
        for _ in range(read_count(decoder, _SMALLEST_RANGE_BYTES)):
            clock = decoder.read_var_uint()
            ranges.append((clock, clock + decoder.read_var_uint()))
    return deletes


def read_client(decoder: Decoder, clients: set[int]) -> int:
    """The client of a section, which is added to those before. Raises BadUpdate where it is among them."""
    client = decoder.read_var_uint()
    if client in clients:
        raise BadUpdate("two sections of one client")
    clients.add(client)
    return client


def _read_section(
    decoder: Decoder, clients: set[int], structs: Ranges, heads: dict[int, tuple[int, Sequence[Id]]]
) -> None:
    """Read the structs of one client."""
    count = read_count(decoder, 2)
    client = read_client(decoder, clients)
    clock = decoder.read_var_uint()
    ranges = structs[client] = []
    for _ in range(count):
        info = decoder.read_byte()
        kind = info & 0x1F
        places: Sequence[Id] = ()
        if kind not in (GC, SKIP):
            places = _read_places(decoder, info)
        end = read_clocks(decoder, kind, clock)
        if kind == SKIP:
            clock = end
            continue
        if end == clock:
            continue  # nothing: pycrdt drops it too
        if not ranges:
            heads[client] = (clock, places)
        if ranges and ranges[-1][1] == clock:
            ranges[-1] = (ranges[-1][0], end)
        else:
            ranges.append((clock, end))
        clock = end
    if not ranges:
        del structs[client]


def _read_places(decoder: Decoder, info: int) -> Sequence[Id]:
    """The ids an item is placed by: its neighbours, or else its parent."""
    places: list[Id] = []
    if info & 0x80:
        places.append((decoder.read_var_uint(), decoder.read_var_uint()))
    if info & 0x40:
        places.append((decoder.read_var_uint(), decoder.read_var_uint()))
    if not info & 0xC0:
        if decoder.read_var_uint() == 1:
            decoder.read_var_bytes()  # the name of a root type
        else:
            places.append((decoder.read_var_uint(), decoder.read_var_uint()))
        if info & 0x20:
            decoder.read_var_bytes()  # the key in a map
    return places


GC, DELETED, _JSON, BINARY, STRING, EMBED, FORMAT, TYPE, ANY, _DOC, SKIP = range(11)
XML_ELEMENT, _XML_HOOK = 3, 5
"""Kinds of types."""


def read_clocks(decoder: Decoder, kind: int, clock: int) -> int:
    """Read a struct behind its places; the clock after it. Raises BadUpdate where that is past all bounds."""
    if kind in (GC, SKIP):
        clocks = decoder.read_var_uint()
        if kind == GC and not clocks:
            raise BadUpdate("a struct of no clock at all")
    else:
        clocks = read_content(decoder, kind)
    return checked_clock(clock + clocks)


def checked_clock(clock: int) -> int:
    """The clock itself. Raises BadUpdate where no client can have got."""
    if clock > MAX_CLOCK:
        raise BadUpdate("a clock is larger than any client's")
    return clock


def read_content(decoder: Decoder, kind: int) -> int:
    """Read an item's content; how many clocks it takes. Raises BadUpdate, also for what pycrdt misreads."""
    if kind == ANY:
        length = read_count(decoder, 1)
        for _ in range(length):
            _read_any(decoder)
        return length
    if kind == DELETED:
        return decoder.read_var_uint()
    if kind == STRING:
        return _utf16_length(decoder.read_var_bytes())
    if kind == TYPE:
        of_type = decoder.read_var_uint()
        if of_type == XML_ELEMENT:
            decoder.read_var_bytes()  # its name
        elif of_type == _XML_HOOK:
            raise BadUpdate("Y.XmlHook cannot be kept")
        return 1
    if kind == _JSON:
        raise BadUpdate("ContentJSON of early versions of Yjs cannot be kept: write the values anew")
    if kind in (BINARY, EMBED):
        decoder.read_var_bytes()
        return 1
    if kind == FORMAT:
        decoder.read_var_bytes()
        decoder.read_var_bytes()
        return 1
    if kind == _DOC:
        # pycrdt 0.14.13 ends the process where one was pending, by way of what it has freed.
        raise BadUpdate("sub-documents cannot be kept: make a diagram of each")
    raise BadUpdate(f"there is no content of kind {kind}")


def _utf16_length(text: bytes) -> int:
    """How many UTF-16 units, which is what Yjs counts strings in."""
    if text.isascii():
        return len(text)
    continuation = sum(1 for byte in text if 0x80 <= byte < 0xC0)
    return len(text) - continuation + sum(1 for byte in text if byte >= 0xF0)


VALUE_BYTES = {0x7F: 0, 0x7E: 0, 0x79: 0, 0x78: 0, 0x7C: 4, 0x7B: 8, 0x7A: 8}
"""lib0 `writeAny`: undefined, null, false, true, float32, float64, bigint64."""


def _read_any(decoder: Decoder) -> None:
    """Read one value, without recursion: `open_lists` holds how many values each open list or object
    lacks.
    """
    open_lists = [(1, False)]
    while open_lists:
        lacking, keyed = open_lists.pop()
        if not lacking:
            continue
        open_lists.append((lacking - 1, keyed))
        if keyed:
            decoder.read_var_bytes()
        tag = decoder.read_byte()
        if tag in (0x75, 0x76):
            if len(open_lists) > MAX_NESTING:
                raise BadUpdate(f"a value is nested more than {MAX_NESTING} levels deep")
            open_lists.append((read_count(decoder, tag - 0x74), tag == 0x76))
        elif tag in (0x77, 0x74):
            decoder.read_var_bytes()
        elif tag == 0x7D:
            while decoder.read_byte() >= 0x80:
                pass
        elif tag in VALUE_BYTES:
            decoder.skip(VALUE_BYTES[tag])
        else:
            raise BadUpdate(f"there is no value of type {tag}")
