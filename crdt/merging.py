"""Updates merged and compared as they are encoded, by pycrdt and without a document."""

from collections.abc import Sequence

import pycrdt

from crdt.panics import refusal

EMPTY_UPDATE = b"\x00\x00"
EMPTY_STATE_VECTOR = b"\x00"

_SPAN = 32
"""Merging costs 0.7 us an update by ten and 20 us an update by 5,000."""


def merge(updates: Sequence[bytes]) -> bytes:
    """One update that does what all do, pending parts included. Raises BadUpdate."""
    if not updates:
        return EMPTY_UPDATE
    while len(updates) > _SPAN:
        updates = [_merge_span(updates[at : at + _SPAN]) for at in range(0, len(updates), _SPAN)]
    return _merge_span(updates)


def merge_two(first: bytes, second: bytes) -> bytes:
    """As `merge`, for two of which one is often empty. Raises BadUpdate."""
    if first == EMPTY_UPDATE:
        return second
    return first if second == EMPTY_UPDATE else _merge_span((first, second))


def _merge_span(updates: Sequence[bytes]) -> bytes:
    if len(updates) == 1:
        return updates[0]
    try:
        return pycrdt.merge_updates(*updates)
    except BaseException as error:  # noqa: BLE001 - panics
        raise refusal(error) from None


def difference(update: bytes, state_vector: bytes) -> bytes:
    """The structs of the update that the state vector does not know, and all of its delete set. Raises
    BadUpdate.
    """
    try:
        return pycrdt.get_update(update, state_vector)
    except BaseException as error:  # noqa: BLE001 - panics
        raise refusal(error) from None
