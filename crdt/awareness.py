"""Awareness entries: who is here and what they point at. `varUint n`, then n times client, clock, `str JSON`.

The JSON stays raw: most entries of a busy room are re-broadcasts with a stale clock, dropped before anybody
parses them.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import orjson

from crdt.lib0 import Decoder, var_bytes, write_var_uint
from tmi.domain.errors import BadFrame

GONE = b"null"
"""The state of a client that left."""

_SMALLEST_ENTRY_BYTES = 3


@dataclass(frozen=True, slots=True)
class Entry:
    """What one client last said of itself."""

    client: int
    clock: int
    state: bytes
    """UTF-8 JSON, not checked: an object, or `null` for gone."""


def parse(data: bytes, max_entries: int = 1024, max_state_bytes: int = 64 * 1024) -> list[Entry]:
    """The entries of an awareness message. Raises BadFrame, also where a bound is passed."""
    decoder = Decoder(data)
    count = decoder.read_var_uint()
    if count > max_entries:
        raise BadFrame(f"more than {max_entries} awareness entries in one message")
    if count * _SMALLEST_ENTRY_BYTES > decoder.remaining():
        raise BadFrame("more awareness entries claimed than sent")
    entries = []
    for _ in range(count):
        client = decoder.read_var_uint()
        clock = decoder.read_var_uint()
        state = decoder.read_var_bytes()
        if len(state) > max_state_bytes:
            raise BadFrame(f"an awareness state is larger than {max_state_bytes} bytes")
        entries.append(Entry(client, clock, state))
    if decoder.remaining():
        raise BadFrame("bytes follow the awareness entries")
    return entries


def encode(entries: Iterable[Entry]) -> bytes:
    """The data of an awareness message (what `y_websocket.awareness` takes)."""
    parts = [
        write_var_uint(entry.client) + write_var_uint(entry.clock) + var_bytes(entry.state)
        for entry in entries
    ]
    return write_var_uint(len(parts)) + b"".join(parts)


def is_json_object_or_null(state: bytes) -> bool:
    """Whether this is a state that every client can read."""
    if state == GONE:
        return True
    if not state.lstrip().startswith(b"{"):
        return False
    try:
        orjson.loads(state)
    except orjson.JSONDecodeError:
        return False
    return True
