"""What a document was given and cannot integrate yet, since what it builds on is missing."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from crdt.merging import EMPTY_UPDATE, difference
from crdt.ranges import Ranges, from_clocks
from crdt.updates import Id, encode_delete_set, read_state_vector, read_update


class Pending(NamedTuple):
    """What waits for its predecessors."""

    update: bytes
    ids: tuple[Ranges, Ranges]
    """Its structs and its deletes. Bytes say less: the keys of an object inside a value come in any order."""
    heads: Mapping[int, tuple[int, Sequence[Id]]]
    """Each client's first struct, and what it is placed by."""

    def is_ready(self, clocks: Mapping[int, int]) -> bool:
        """Whether any of it waits no longer, or something else came for its clocks, as no Yjs client has it:
        encoded with the document, what waits could win.
        """
        _, deletes = self.ids
        return any(
            head[0] < clocks.get(client, 0) or is_ready(client, head, clocks)
            for client, head in self.heads.items()
        ) or any(
            start < clocks.get(client, 0) for client, ranges in deletes.items() for start, _ in ranges
        )


NOTHING_PENDING = Pending(EMPTY_UPDATE, ({}, {}), {})


def not_integrated(update: bytes, state_vector: bytes) -> Pending:
    """What of an update is not in a document with this state vector. Raises BadUpdate."""
    rest = difference(update, state_vector)
    if rest == EMPTY_UPDATE:
        return NOTHING_PENDING
    shape = read_update(rest)
    clocks = read_state_vector(state_vector)
    deletes = from_clocks(shape.deletes, clocks)
    if not shape.structs and not deletes:
        return NOTHING_PENDING
    left = rest[: shape.deletes_at] + encode_delete_set(deletes)
    return Pending(left, (shape.structs, deletes), shape.heads)


def is_ready(client: int, head: tuple[int, Sequence[Id]], clocks: Mapping[int, int]) -> bool:
    """Whether a client's first struct could be integrated: all that it is placed by is there."""
    clock, places = head
    return clock <= clocks.get(client, 0) and all(at < clocks.get(by, 0) for by, at in places)
