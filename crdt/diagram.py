"""A diagram's document as JSON, and JSON as edits of the document.

Roots: `cells`, a Y.Map from cell id to a Y.Map of the cell's properties; `meta`, a Y.Map with
`color_palette` and what editors add; `comments`, a Y.Map of threads. A cell's properties merge one by one,
so each is one atomic JSON value (a half-moved node cannot exist), except `attrs` and `data`, which are
Y.Maps of atomic values.

Reading never fails on what a Yjs client wrote. A cell is an object with a shape; what is none is left out,
counted, and left alone when the cells are written.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import orjson
from pycrdt import Doc, Map

from crdt.cells import (
    GEOMETRY,
    ORDER,
    Cell,
    Json,
    checked,
    is_shown,
    same,
    storable,
    tidy,
    to_answer,
    to_stored,
)
from crdt.document import Document
from crdt.order import new_indices, place
from tmi.domain.errors import BadInput

CELLS = "cells"
META = "meta"
COMMENTS = "comments"

NESTED = ("attrs", "data")
"""The properties that are Y.Maps, so that their keys merge one by one."""


UNREADABLE = object()


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
    held, left_out = _read_held(document.doc)
    order = sorted(held, key=lambda cell_id: place(cell_id, held[cell_id].raw.get(ORDER)))
    return Reading([to_answer(cell_id, held[cell_id].stored) for cell_id in order], left_out)


def read_cells(document: Document) -> list[Cell]:
    """The diagram's cells as the contract shows them, in their order."""
    return read(document).cells


def read_meta(document: Document) -> dict[str, Json]:
    """What the document says of the diagram as a whole: `color_palette`, and what editors add."""
    return _read_root(document.doc, META)


def read_comments(document: Document) -> dict[str, Json]:
    """The comment threads by id."""
    return _read_root(document.doc, COMMENTS)


def reconcile(
    document: Document, cells: Sequence[Json], meta: Mapping[str, Json] | None = None
) -> bytes | None:
    """Make the document's cells look like these, in this order, with the fewest operations; and set these
    entries of `meta`, leaving its others.

    Returns the update, made in one transaction, or None if nothing changed. Raises BadInput, before
    anything is changed, for what a document cannot hold. What merges one by one is compared one by one, so
    that other people's edits of other properties stay.
    """
    edits = _edits_of_cells(document, cells)
    entries = _edits_of_meta(document, meta) if meta else []
    if not edits and not entries:
        return None

    def perform(doc: Doc[Any]) -> None:
        _perform(doc.get(CELLS, type=Map), edits)
        if entries:
            _perform(doc.get(META, type=Map), entries)

    return document.transact(perform)


def _edits_of_cells(document: Document, cells: Sequence[Json]) -> "list[Edit]":
    wanted = checked(cells)
    held, _ = _read_held(document.doc)
    edits = [edit for cell_id, cell in wanted.items() for edit in _edits_of(cell_id, cell, held.get(cell_id))]
    edits += [Remove((cell_id,)) for cell_id in held if cell_id not in wanted]
    indices = new_indices(list(wanted), {cell_id: cell.raw.get(ORDER) for cell_id, cell in held.items()})
    return edits + [Put((cell_id, ORDER), index) for cell_id, index in indices.items()]


def reconcile_meta(document: Document, entries: Mapping[str, Json]) -> bytes | None:
    """Set these entries of `meta`, take out those that are None here, and leave the others; returns the
    update or None. Raises BadInput.
    """
    edits = _edits_of_meta(document, entries)
    return document.transact(lambda doc: _perform(doc.get(META, type=Map), edits)) if edits else None


def _edits_of_meta(document: Document, entries: Mapping[str, Json]) -> "list[Edit]":
    held = read_meta(document)
    edits: list[Edit] = []
    for key, value in tidy(dict(entries)).items():
        if value is None:
            edits += [Remove((key,))] if key in held else []
        elif key not in held or not same(held[key], value):
            edits.append(Put((key,), storable(value)))
    return edits


# --- edits ----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Put:
    """Set what the path of keys leads to; a dict under a cell's id or a nested property becomes a Y.Map."""

    path: tuple[str, ...]
    value: Json


@dataclass(frozen=True, slots=True)
class Remove:
    """Delete what the path of keys leads to."""

    path: tuple[str, ...]


Edit = Put | Remove


def _edits_of(cell_id: str, cell: Cell, held: Held | None) -> list[Edit]:
    """What makes a held cell look like this one."""
    if held is None:
        return [Put((cell_id,), _shared(to_stored(tidy(cell))))]
    if is_shown(cell, to_answer(cell_id, held.stored)):
        return []
    stored = to_stored(tidy(cell), held.stored)
    if same(stored, held.stored):
        return []
    if not held.is_map:
        return [Put((cell_id,), _shared(stored | _order_of(held)))]
    edits: list[Edit] = []
    for name, value in stored.items():
        if name not in held.stored or not same(value, held.stored[name]):
            edits.extend(_edits_of_property(cell_id, name, value, held))
    for name in held.stored:
        if name not in stored:
            edits.extend(Remove((cell_id, known)) for known in _names_of(name) if known in held.raw)
    return edits


def _edits_of_property(cell_id: str, name: str, value: Json, held: Held) -> list[Edit]:
    if name not in held.nested or not isinstance(value, dict):
        return [Put((cell_id, name), _shared_property(name, value))]
    before = held.raw[name]
    edits: list[Edit] = [
        Put((cell_id, name, key), storable(item))
        for key, item in value.items()
        if key not in before or not same(item, before[key])
    ]
    return edits + [Remove((cell_id, name, key)) for key in before if key not in value]


def _names_of(name: str) -> tuple[str, ...]:
    """The property and, of geometry, its flat form, which a client may have written into the document."""
    return (name, *GEOMETRY.get(name, ()))


def _order_of(held: Held) -> Cell:
    return {ORDER: held.raw[ORDER]} if isinstance(held.raw.get(ORDER), str) else {}


def _shared(stored: Cell) -> Map[Any]:
    return Map({name: _shared_property(name, value) for name, value in stored.items()})


def _shared_property(name: str, value: Json) -> Json:
    if name in NESTED and isinstance(value, dict):
        return Map(storable(value))
    return storable(value)


def _perform(root: Map[Any], edits: Sequence[Edit]) -> None:
    for edit in edits:
        *path, key = edit.path
        target = root
        for step in path:
            target = target[step]
        if isinstance(edit, Put):
            target[key] = edit.value
        else:
            del target[key]


# --- reading --------------------------------------------------------------------------------------


def _read_held(doc: Doc[Any]) -> tuple[dict[str, Held], int]:
    """The cells by id, and how many values are none."""
    held: dict[str, Held] = {}
    left_out = 0
    with doc.transaction() as transaction:
        at = transaction._txn  # noqa: SLF001 - the public wrapper takes six times as long
        root = doc.get(CELLS, type=Map).integrated
        for cell_id in root.keys(at):
            value = root.get(at, cell_id)
            raw = _json(value, at)
            if isinstance(raw, dict) and isinstance(raw.get("shape"), str):
                is_map = isinstance(value, type(root))
                nested = [name for name in NESTED if is_map and isinstance(raw.get(name), dict)]
                shared = frozenset(name for name in nested if isinstance(value.get(at, name), type(root)))
                held[cell_id] = Held(raw, to_stored(raw), is_map, shared)
            else:
                left_out += 1
    return held, left_out


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
