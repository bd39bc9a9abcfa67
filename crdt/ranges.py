"""Ranges of clocks: what structs and deletes take of each client's."""

from bisect import bisect_right
from collections.abc import Iterable, Mapping, Sequence

_ANY_END = 2**64

Ranges = dict[int, list[tuple[int, int]]]
"""Per client ranges [start, end) of clocks."""


def union(ranges: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
    """The same clocks in sorted ranges of which no two touch."""
    united: list[tuple[int, int]] = []
    for start, end in sorted(ranges):
        if united and start <= united[-1][1]:
            united[-1] = (united[-1][0], max(end, united[-1][1]))
        else:
            united.append((start, end))
    return united


def from_clocks(ranges_of: Ranges, clocks: Mapping[int, int]) -> Ranges:
    """What is not there yet; `clocks` are each client's next ones."""
    waiting: Ranges = {}
    for client, ranges in ranges_of.items():
        clock = clocks.get(client, 0)
        beyond = [(max(start, clock), end) for start, end in ranges if end > clock and end > start]
        if beyond:
            waiting[client] = union(beyond)
    return waiting


def until_clocks(ranges_of: Ranges, clocks: Mapping[int, int]) -> Ranges:
    """What is there; `clocks` as above."""
    reached: Ranges = {}
    for client, ranges in ranges_of.items():
        clock = clocks.get(client, 0)
        before = [(start, min(end, clock)) for start, end in ranges if start < min(end, clock)]
        if before:
            reached[client] = union(before)
    return reached


def covers(known: Ranges, asked: Ranges, clocks: Mapping[int, int]) -> bool:
    """Whether all that is asked for is known, as far as it is there; `clocks` as above."""
    for client, ranges in asked.items():
        clock = clocks.get(client, 0)
        of_client = union(known.get(client, ()))
        for start, end in ranges:
            if not _is_within(start, min(end, clock), of_client):
                return False
    return True


def _is_within(start: int, end: int, ranges: Sequence[tuple[int, int]]) -> bool:
    """Whether sorted ranges leave no part of [start, end) out."""
    for low, high in ranges[max(bisect_right(ranges, (start, _ANY_END)) - 1, 0) :]:
        if start >= end or low > start:
            break
        start = max(start, high)
    return start >= end
