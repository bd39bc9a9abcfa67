"""Cells as JSON: the contract's form and the form that a document holds.

The document holds `position` and `size`; the contract also knows them flat, as `x y width height`, and
answers carry both. A client that reads a cell, changes one of the two and sends it back has said which one
it means: the one that differs from what the document holds.
"""

from collections.abc import Mapping, Sequence
from math import isfinite
from typing import Any

import orjson

from tmi.domain.errors import BadInput

Json = Any
Cell = dict[str, Json]

ORDER = "ord"
"""The property that keeps a cell's place among the others; a fractional index, never shown."""

GEOMETRY = {"position": ("x", "y"), "size": ("width", "height")}

MAX_CELLS = 10_000
MAX_ID_LENGTH = 256
MAX_DEPTH = 64
"""Levels of lists and objects in a property that comes in as JSON."""

_MAX_SAFE = 2**53 - 1
_MAX_WHOLE = 2**63
"""Up to here pycrdt writes a whole number without an exponent, and this one itself as one less."""
_HIDDEN = frozenset(("id", ORDER))
_FLAT = frozenset(name for names in GEOMETRY.values() for name in names)


def to_stored(cell: Mapping[str, Json], held: Mapping[str, Json] | None = None) -> Cell:
    """The cell's properties as a document holds them; `held` is what it holds now. Shares values with
    `cell`.
    """
    stored = {name: value for name, value in cell.items() if name not in _HIDDEN and name not in _FLAT}
    for name, parts in GEOMETRY.items():
        flat = _from_flat(cell, parts)
        if flat is None:
            continue
        nested = stored.get(name)
        if nested is None or (held is not None and nested == held.get(name)):
            stored[name] = flat
    return stored


def _from_flat(cell: Mapping[str, Json], parts: tuple[str, str]) -> dict[str, Json] | None:
    first, second = (cell.get(part) for part in parts)
    if not _is_number(first) or not _is_number(second):
        return None
    return {parts[0]: first, parts[1]: second}


def _is_number(value: Json) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def to_answer(cell_id: str, stored: Mapping[str, Json]) -> Cell:
    """The cell as the contract shows it: `id` first, the geometry in both forms, no place among the
    others.
    """
    answer: Cell = {"id": cell_id}
    answer.update((name, stored[name]) for name in sorted(stored) if name not in _HIDDEN)
    for name, parts in GEOMETRY.items():
        nested = stored.get(name)
        if isinstance(nested, dict):
            answer.update((part, nested[part]) for part in parts if _is_number(nested.get(part)))
    return answer


def checked(cells: Sequence[Json]) -> dict[str, Cell]:
    """The cells by id, in their order, with numbers in one form. Raises BadInput for what no document can
    hold.

    Only what the document itself needs is checked; the contract's schemas are the caller's business.
    """
    if len(cells) > MAX_CELLS:
        raise BadInput(f"more than {MAX_CELLS} cells")
    by_id: dict[str, Cell] = {}
    for at, cell in enumerate(cells):
        if not isinstance(cell, dict):
            raise BadInput(f"cells.{at}: a cell is an object")
        cell_id = cell.get("id")
        if not isinstance(cell_id, str) or not 0 < len(cell_id) <= MAX_ID_LENGTH or not _is_utf8(cell_id):
            raise BadInput(f"cells.{at}: a cell's id is a string of 1 to {MAX_ID_LENGTH} characters")
        if not isinstance(cell.get("shape"), str):
            raise BadInput(f"cells.{at}: a cell has a shape")
        if cell_id in by_id:
            raise BadInput(f"cells.{at}: another cell has the same id")
        by_id[cell_id] = cell
    return by_id


def tidy(value: Json, depth: int = MAX_DEPTH) -> Json:
    """A copy in which equal numbers look equal: whole ones are integers. Raises BadInput for what is no
    JSON.
    """
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, str):
        if not value.isascii() and not _is_utf8(value):
            raise BadInput("a text is not Unicode")
        return value
    if isinstance(value, int | float):
        return _tidy_number(value)
    if depth == 0:
        raise BadInput(f"a value is nested more than {MAX_DEPTH} levels deep")
    if isinstance(value, dict):
        return {tidy(_key(key)): tidy(item, depth - 1) for key, item in value.items()}
    if isinstance(value, list):
        return [tidy(item, depth - 1) for item in value]
    raise BadInput(f"JSON has no {type(value).__name__}")


def _key(key: Json) -> str:
    if not isinstance(key, str):
        raise BadInput("a key of an object is not a string")
    return key


def _is_utf8(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _tidy_number(number: float) -> float:
    try:
        real = float(number)
    except OverflowError:
        real = float("inf")
    if not isfinite(real):
        raise BadInput("a number is too large")
    if -_MAX_SAFE <= number <= _MAX_SAFE and number == int(number):
        return int(number)
    return min(int(real), _MAX_WHOLE - 1) if real.is_integer() and abs(real) <= _MAX_WHOLE else real


def storable(value: Json) -> Json:
    """A tidy value as pycrdt must get it: integers that JavaScript cannot hold become floats, not BigInts."""
    if isinstance(value, bool):
        return value
    if isinstance(value, int) and not -_MAX_SAFE <= value <= _MAX_SAFE:
        return float(value)
    if isinstance(value, dict):
        return {key: storable(item) for key, item in value.items()}
    if isinstance(value, list):
        return [storable(item) for item in value]
    return value


def same(one: Json, other: Json) -> bool:
    """Whether two tidy values are the same JSON; unlike Python, `true` is not 1."""
    return one == other and canonical(one) == canonical(other)


def is_shown(cell: Mapping[str, Json], answer: Mapping[str, Json]) -> bool:
    """Whether the cell is the answer to the letter; the cheap way to skip `tidy`. False says nothing."""
    try:
        return cell == answer and canonical(cell) == canonical(answer)
    except orjson.JSONEncodeError:
        return False


def canonical(value: Json) -> bytes:
    """The value's JSON with the keys in order."""
    return orjson.dumps(value, option=orjson.OPT_SORT_KEYS)
