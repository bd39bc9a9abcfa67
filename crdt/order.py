"""The order of cells: each carries a fractional index, a string that sorts between its neighbours'.

A cell without one (stock editors write none) sorts last, by id; so do ties. Placing a cell among such cells
gives those before it an index too.
"""

from bisect import bisect_left
from collections.abc import Mapping, Sequence

from fractional_indexing import (  # type: ignore[import-untyped]
    FIError,
    generate_n_keys_between,
    validate_order_key,
)

MAX_INDEX_LENGTH = 256
"""A longer one is replaced when its cell's neighbourhood changes."""

Place = tuple[bool, str, str]


def place(cell_id: str, index: object) -> Place:
    """What cells are sorted by."""
    if isinstance(index, str) and index:
        return (False, index, cell_id)
    return (True, "", cell_id)


def new_indices(wanted: Sequence[str], held: Mapping[str, object]) -> dict[str, str]:
    """The fewest new indices that bring cells into the wanted order; `held` are those of the cells that
    exist.
    """
    known = [cell for cell in wanted if cell in held]
    if len(known) == len(wanted) and known == sorted(known, key=lambda cell: place(cell, held[cell])):
        return {}
    staying = _staying(wanted, held)
    indices: dict[str, str] = {}
    low: str | None = None
    moving: list[str] = []
    for cell in wanted:
        if cell not in staying:
            moving.append(cell)
            continue
        index = staying[cell]
        if index is None:
            break  # from here on nothing moves: `_staying` lets such cells stay only at the end
        indices.update(zip(moving, _between(low, index, len(moving)), strict=True))
        moving = []
        low = index
    indices.update(zip(moving, _between(low, None, len(moving)), strict=True))
    return indices


def _staying(wanted: Sequence[str], held: Mapping[str, object]) -> dict[str, str | None]:
    """The cells that keep their index; None is the lack of one, which is kept only behind all that move."""
    end = len(wanted)
    while end and wanted[end - 1] in held and not held[wanted[end - 1]]:
        if end < len(wanted) and wanted[end - 1] > wanted[end]:
            break
        end -= 1
    staying: dict[str, str | None] = dict.fromkeys(wanted[end:])
    usable = [(cell, index) for cell in wanted[:end] if (index := _usable(held.get(cell))) is not None]
    staying.update(usable[at] for at in _longest_increasing([index for _, index in usable]))
    return staying


def _usable(index: object) -> str | None:
    """The index if it is one that others can be made from."""
    if not isinstance(index, str) or not 0 < len(index) <= MAX_INDEX_LENGTH or not index.isalnum():
        return None
    try:
        validate_order_key(index)
    except (FIError, ValueError, IndexError):
        return None
    return index


def _between(low: str | None, high: str | None, count: int) -> list[str]:
    indices: list[str] = generate_n_keys_between(low, high, count)
    return indices


def _longest_increasing(values: Sequence[str]) -> list[int]:
    """The positions of a longest strictly increasing subsequence (patience sorting)."""
    tails: list[int] = []
    before: list[int] = []
    for position, value in enumerate(values):
        at = bisect_left(tails, value, key=lambda tail: values[tail])
        before.append(tails[at - 1] if at else -1)
        tails[at : at + 1] = [position]
    chosen: list[int] = []
    position = tails[-1] if tails else -1
    while position >= 0:
        chosen.append(position)
        position = before[position]
    return chosen[::-1]
