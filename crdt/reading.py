"""A diagram's document as JSON.

Roots: `cells`, a Y.Map from cell id to a Y.Map of the cell's properties; `meta`, a Y.Map with
`color_palette` and what editors add; `comments`, a Y.Map of threads. A cell's properties merge one by one,
so each is one atomic JSON value (a half-moved node cannot exist), except `attrs` and `data`, which are
Y.Maps of atomic values.

Reading never fails on what a Yjs client wrote. A cell is an object with a shape; what is none is left out,
counted, and left alone when the cells are written (`crdt/diagram.py`).
"""

from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import orjson
from pycrdt import Doc, Map

from crdt.cells import ORDER, Cell, Json, tidy, to_answer, to_stored
from crdt.document import Document
from crdt.order import place
from tmi.domain.errors import BadInput

CELLS = "cells"
META = "meta"
COMMENTS = "comments"

NESTED = ("attrs", "data")
"""The properties that are Y.Maps, so that their keys merge one by one."""

UNREADABLE = object()

AT_ONCE = 250
"""Cells that are read in one step, in 4 ms."""
_ROUNDS, _TRIES = 10, 2

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Held:
    """A cell as the document holds it."""

    raw: Cell
    stored: Cell
    """`raw` with the geometry in the one form; what cells are compared by."""
    is_map: bool
    """Whether its properties merge one by one: a client may have written a plain object."""
    nested: frozenset[str]
    """Its properties whose keys merge one by one."""


@dataclass(frozen=True, slots=True)
class Reading:
    """The cells of a document in the contract's form and in their order."""

    cells: list[Cell]
    left_out: int
    """How many values under `cells` are no cells."""


def read(document: Document) -> Reading:
    """The diagram's cells as the contract shows them."""
    held, left_out = read_held(document.doc)
    return Reading([to_answer(cell_id, held[cell_id].stored) for cell_id in _ordered(held)], left_out)


def read_cells(document: Document) -> list[Cell]:
    """The diagram's cells as the contract shows them, in their order."""
    return read(document).cells


def read_meta(document: Document) -> dict[str, Json]:
    """What the document says of the diagram as a whole: `color_palette`, and what editors add."""
    return _read_root(document.doc, META)


def read_comments(document: Document) -> dict[str, Json]:
    """The comment threads by id."""
    return _read_root(document.doc, COMMENTS)


def read_by_steps(
    document: Document, moment: Callable[[], T], at_once: int = AT_ONCE
) -> Generator[None, None, tuple[list[Cell], T]]:
    """The diagram's cells as at one moment, with something else to be done at each `yield`, and what `moment`
    told at that moment. A step takes some milliseconds.

    The document may change meanwhile: the cells that do so are read again. A document that is built anew, or
    changes faster than it can be read, is read in one go in the end.
    """
    for _ in range(_TRIES):
        held = yield from _read_watching(document, at_once)
        if held is not None:
            break
    else:
        held, _ = read_held(document.doc)
    told = moment()
    yield
    order = _ordered(held)
    yield
    cells: list[Cell] = []
    for first in range(0, len(order), at_once):
        cells += [to_answer(cell_id, held[cell_id].stored) for cell_id in order[first : first + at_once]]
        yield
    return cells, told


def count_cells(document: Document) -> int:
    """How many values there are under `cells`."""
    return len(document.doc.get(CELLS, type=Map))


def _read_watching(document: Document, at_once: int) -> Generator[None, None, dict[str, Held] | None]:
    """The cells as they are when this returns; None if that could not be found out."""
    doc = document.doc
    root = doc.get(CELLS, type=Map)
    changed: set[str] = set()

    def note(events: Sequence[Any]) -> None:
        for event in events:
            path = event.path
            changed.update(path[:1] or event.keys)

    subscription = root.observe_deep(note)
    try:
        held: dict[str, Held] = {}
        pending = list(root.keys())
        for _ in range(_ROUNDS):
            for first in range(0, len(pending), at_once):
                _read_again(doc, held, pending[first : first + at_once])
                if first + at_once < len(pending):
                    yield
            if document.doc is not doc:
                return None
            if not changed:
                return held
            pending = list(changed)
            changed.clear()
            if len(pending) > at_once:
                yield
        return None
    finally:
        root.unobserve(subscription)


def _read_again(doc: Doc[Any], held: dict[str, Held], cell_ids: Iterable[str]) -> None:
    with doc.transaction() as transaction:
        at = transaction._txn  # noqa: SLF001 - the public wrapper takes six times as long
        root = doc.get(CELLS, type=Map).integrated
        for cell_id in cell_ids:
            cell = _read_cell(root, cell_id, at) if root.has(at, cell_id) else None
            if cell is not None:
                held[cell_id] = cell
            else:
                held.pop(cell_id, None)


def _ordered(held: Mapping[str, Held]) -> list[str]:
    return sorted(held, key=lambda cell_id: place(cell_id, held[cell_id].raw.get(ORDER)))


def read_held(doc: Doc[Any]) -> tuple[dict[str, Held], int]:
    """The cells by id, and how many values are none."""
    held: dict[str, Held] = {}
    left_out = 0
    with doc.transaction() as transaction:
        at = transaction._txn  # noqa: SLF001
        root = doc.get(CELLS, type=Map).integrated
        for cell_id in root.keys(at):
            cell = _read_cell(root, cell_id, at)
            if cell is not None:
                held[cell_id] = cell
            else:
                left_out += 1
    return held, left_out


def _read_cell(root: Any, cell_id: str, at: Any) -> Held | None:
    """What is under an id, if it is a cell."""
    value = root.get(at, cell_id)
    raw = _json(value, at)
    if not isinstance(raw, dict) or not isinstance(raw.get("shape"), str):
        return None
    is_map = isinstance(value, type(root))
    nested = [name for name in NESTED if is_map and isinstance(raw.get(name), dict)]
    shared = frozenset(name for name in nested if isinstance(value.get(at, name), type(root)))
    return Held(raw, to_stored(raw), is_map, shared)


def _read_root(doc: Doc[Any], root_name: str) -> dict[str, Json]:
    """A root map as JSON, key by key: one that cannot be read does not hide the others."""
    entries: dict[str, Json] = {}
    with doc.transaction() as transaction:
        at = transaction._txn  # noqa: SLF001
        root = doc.get(root_name, type=Map).integrated
        for key in root.keys(at):
            value = _json(root.get(at, key), at)
            if value is not UNREADABLE:
                entries[key] = value
    return entries


def _json(value: Any, transaction: Any) -> Json:
    """A value of pycrdt as tidy JSON, or UNREADABLE: bytes, sub-documents, XML, and what is nested too
    deeply.
    """
    try:
        if hasattr(value, "to_json"):
            return orjson.loads(value.to_json(transaction))
        return tidy(value)
    except (orjson.JSONDecodeError, BadInput):
        return UNREADABLE
