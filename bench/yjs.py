"""Yjs updates (v1) as the load generator writes and reads them.

An update is a list of structs per client, then a delete set. Here one update sets one key of a root map:

    varUint(1)            clients in this update
    varUint(1)            structs of that client
    varUint(client) varUint(clock)
    0x28                  info: content 8 (any) | 0x20 (has a key); no left or right origin
    varUint(1) str(root)  the parent is a root type
    str(key)
    varUint(1) any        one value
    varUint(0)            nothing deleted

The key is new each time, so no edit replaces another and no struct can be merged into its neighbour: whatever
a server does (relay, merge, answer from its document), an edit that arrives arrives as the same struct. That
is what makes a check by content possible.

Reading skips over every struct a Yjs server may send and reports keyed ones. It never guesses: bytes that it
does not understand raise `ValueError`, since a load test that misreads its input proves nothing.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

EMPTY_UPDATE = b"\x00\x00"
EMPTY_STATE_VECTOR = b"\x00"

_GC, _DELETED, _JSON, _BINARY, _STRING, _EMBED, _FORMAT, _TYPE, _ANY, _DOC, _SKIP = range(11)
_HAS_KEY, _HAS_RIGHT, _HAS_LEFT = 0x20, 0x40, 0x80
_TYPES_WITH_A_NAME = (3, 5)
_KNOWN_TYPES = 6
_ANY_FIXED = {127: 0, 126: 0, 124: 4, 123: 8, 122: 8, 121: 0, 120: 0}


class Struct(NamedTuple):
    """So many clock ticks of one client; `key` is None where the struct itself names none."""

    client: int
    clock: int
    length: int
    key: bytes | None
    content: bytes


class KeyedStruct(NamedTuple):
    """One key set on one map: who, when, and the bytes of the value."""

    client: int
    clock: int
    key: bytes
    content: bytes


def var_uint(n: int) -> bytes:
    out = bytearray()
    while n > 0x7F:
        out.append(n & 0x7F | 0x80)
        n >>= 7
    out.append(n)
    return bytes(out)


def var_bytes(data: bytes) -> bytes:
    return var_uint(len(data)) + data


def any_int(n: int) -> bytes:
    """lib0 `any` of an integer: 6 bits and the sign first, then 7 bits a byte."""
    sign = 0x40 if n < 0 else 0
    n = abs(n)
    head = (0x80 if n > 0x3F else 0) | sign | n & 0x3F
    return bytes((125, head)) + (var_uint(n >> 6) if n > 0x3F else b"")


def any_position(x: int, y: int) -> bytes:
    """lib0 `any` of `[x, y]`: as much as an editor writes when a node is dropped.

    No object, since Yjs in Rust does not keep the order of its keys and could not return the same bytes.
    """
    return b"\x75\x02" + any_int(x) + any_int(y)


class MapWriter:
    """One Yjs client that sets ever new keys of a root map, and remembers what it wrote."""

    def __init__(self, client: int, root: str) -> None:
        self.client = client
        self._id = var_uint(client)
        self._parent = b"\x28\x01" + var_bytes(root.encode())
        self.written: list[tuple[bytes, bytes]] = []
        self._structs: list[bytes] = []

    def set(self, key: bytes, value: bytes) -> bytes:
        """The update that sets `key` to `value` (a lib0 `any`); its clock is its index in `written`."""
        clock = len(self.written)
        content = b"\x01" + value
        struct = self._parent + var_bytes(key) + content
        self.written.append((key, content))
        self._structs.append(struct)
        return b"\x01\x01" + self._id + var_uint(clock) + struct + b"\x00"

    def since(self, clock: int) -> bytes:
        """Everything written from `clock` on: the answer to a SyncStep1."""
        missing = self._structs[clock:]
        if not missing:
            return EMPTY_UPDATE
        return b"\x01" + var_uint(len(missing)) + self._id + var_uint(clock) + b"".join(missing) + b"\x00"


class Overwriter:
    """One Yjs client that sets one key of a root map again and again.

    What was replaced is deleted, and Yjs keeps deleted neighbours as one struct. So a document has two
    structs of such a client: one that is ever longer, and the value.

        0x28 parent key value        the first value
        0xa8 left-origin value       a later one, to the right of the one before
        0x21 parent key length       all that was replaced; 0xa1 left-origin length from a later one on
    """

    def __init__(self, client: int, root: str, key: bytes) -> None:
        self.client = client
        self.key = key
        self.count = 0
        """How often it was set, and the clock of what comes next."""
        self.content = b""
        """What was set last."""
        self._id = var_uint(client)
        self._place = b"\x01" + var_bytes(root.encode()) + var_bytes(key)

    def set(self, value: bytes) -> bytes:
        """The update that sets the key to `value` (a lib0 `any`)."""
        clock = self.count
        self.content = b"\x01" + value
        self.count += 1
        return self._update(clock, [self._head(clock, _ANY) + self.content], max(0, clock - 1))

    def since(self, clock: int) -> bytes:
        """Everything from `clock` on: the answer to a SyncStep1."""
        last = self.count - 1
        if clock > last:
            return EMPTY_UPDATE
        gone = [self._head(clock, _DELETED) + var_uint(last - clock)] if clock < last else []
        return self._update(clock, [*gone, self._head(last, _ANY) + self.content], 0)

    def _head(self, clock: int, kind: int) -> bytes:
        if clock == 0:
            return bytes((kind | _HAS_KEY,)) + self._place
        return bytes((kind | _HAS_KEY | _HAS_LEFT,)) + self._id + var_uint(clock - 1)

    def _update(self, clock: int, parts: Sequence[bytes], deleted_from: int) -> bytes:
        """With everything deleted from that clock on, up to the last one."""
        head = b"\x01" + var_uint(len(parts)) + self._id + var_uint(clock)
        count = self.count - 1 - deleted_from
        gone = b"\x01" + self._id + b"\x01" + var_uint(deleted_from) + var_uint(count) if count else b"\x00"
        return head + b"".join(parts) + gone


class Reader:
    """A cursor over lib0-encoded bytes. Every method raises `ValueError` past the end."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.at = 0

    def var_uint(self) -> int:
        data, at, shift, value = self.data, self.at, 0, 0
        while at < len(data) and shift < 64:
            byte = data[at]
            at += 1
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                self.at = at
                return value
            shift += 7
        raise ValueError("truncated varUint")

    def chunk(self) -> bytes:
        size = self.var_uint()
        return self.take(size)

    def take(self, size: int) -> bytes:
        start = self.at
        self.at = start + size
        if self.at > len(self.data):
            raise ValueError("truncated bytes")
        return self.data[start : self.at]

    def skip_any(self, depth: int = 0) -> None:
        tag = self.take(1)[0]
        if tag in _ANY_FIXED:
            self.take(_ANY_FIXED[tag])
        elif tag == 125:
            self.var_uint()
        elif tag in (119, 116):
            self.chunk()
        elif tag in (118, 117) and depth < 64:
            for _ in range(self.var_uint()):
                if tag == 118:
                    self.chunk()
                self.skip_any(depth + 1)
        else:
            raise ValueError(f"unknown value {tag}")

    def skip_content(self, kind: int) -> int:
        """Skips one struct's content; returns its length in clock ticks."""
        if kind == _DELETED:
            return self.var_uint()
        if kind in (_JSON, _ANY):
            count = self.var_uint()
            for _ in range(count):
                self.skip_any() if kind == _ANY else self.chunk()
            return count
        if kind == _STRING:
            return len(self.chunk().decode().encode("utf-16-le")) // 2
        if kind in (_BINARY, _EMBED):
            self.chunk()
        elif kind == _FORMAT:
            self.chunk()
            self.chunk()
        elif kind == _TYPE:
            self._skip_type()
        elif kind == _DOC:
            self.chunk()
            self.skip_any()
        else:
            raise ValueError(f"unknown content {kind}")
        return 1

    def _skip_type(self) -> None:
        kind = self.var_uint()
        if kind > _KNOWN_TYPES:
            raise ValueError(f"unknown type {kind}")
        if kind in _TYPES_WITH_A_NAME:
            self.chunk()

    def skip_id(self) -> None:
        self.var_uint()
        self.var_uint()


def keyed_structs(update: bytes) -> Iterator[KeyedStruct]:
    """The structs of an update that set a key. Raises `ValueError` for bytes that are no update."""
    for client, clock, _, key, content in structs(update):
        if key is not None:
            yield KeyedStruct(client, clock, key, content)


def structs(update: bytes) -> Iterator[Struct]:
    """Everything that an update holds, without its gaps. Raises `ValueError` for bytes that are no update."""
    reader = Reader(update)
    for _ in range(reader.var_uint()):
        count, client, clock = reader.var_uint(), reader.var_uint(), reader.var_uint()
        for _ in range(count):
            info = reader.take(1)[0]
            kind = info & 0x1F
            key = None if kind in (_GC, _SKIP) else _parent_key(reader, info)
            start = reader.at
            length = reader.var_uint() if kind in (_GC, _SKIP) else reader.skip_content(kind)
            if kind != _SKIP:
                yield Struct(client, clock, length, key, update[start : reader.at])
            clock += length


def _parent_key(reader: Reader, info: int) -> bytes | None:
    """Reads origins and parent of a struct; the key, if the struct itself names one."""
    if info & _HAS_LEFT:
        reader.skip_id()
    if info & _HAS_RIGHT:
        reader.skip_id()
    if info & (_HAS_LEFT | _HAS_RIGHT):
        return None
    if reader.var_uint() == 1:
        reader.chunk()
    else:
        reader.skip_id()
    return reader.chunk() if info & _HAS_KEY else None


def state_vector(clocks: Mapping[int, int]) -> bytes:
    """What says that one has so much of each client."""
    entries = [(client, clock) for client, clock in clocks.items() if clock]
    return var_uint(len(entries)) + b"".join(var_uint(client) + var_uint(clock) for client, clock in entries)


def clock_in_state_vector(state_vector: bytes, client: int) -> int:
    """How much of `client` the sender of this state vector has."""
    reader = Reader(state_vector)
    for _ in range(reader.var_uint()):
        known, clock = reader.var_uint(), reader.var_uint()
        if known == client:
            return clock
    return 0
