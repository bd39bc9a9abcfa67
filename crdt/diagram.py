"""JSON as edits of a diagram's document (`crdt/reading.py` says how a document holds a diagram)."""

import contextlib
from collections.abc import Generator, Mapping, Sequence
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
from crdt.order import new_indices
from crdt.reading import AT_ONCE, CELLS, META, NESTED, Held, Watch, read_meta


@dataclass(frozen=True, slots=True)
class Plan:
    """What makes a document look as wanted, with the fewest operations."""

    cells: "Sequence[Edit]"
    meta: "Sequence[Edit]"
    at_most_bytes: int
    """No update that it makes is larger."""

    @property
    def changed(self) -> set[str]:
        """The ids of all cells that it changes."""
        return {edit.path[0] for edit in self.cells}


Made = dict[str, tuple[bytes, Held | None, "list[Edit]"]]
"""The edits of cells, by id, with what is wanted and what was held then."""


def planned(watch: Watch, cells: Sequence[Json], meta: Mapping[str, Json], made: Made | None = None) -> Plan:
    """As `reconcile` says, for a document that is watched and was caught up with. Raises BadInput.

    Cells that are as `Watch.cells` shows them, to the letter, are passed over. `made`: edits that were worked
    out before; those that are still right are taken.
    """
    steps = plan_by_steps(watch, cells, meta, {} if made is None else made)
    while True:
        try:
            next(steps)
        except StopIteration as end:
            plan: Plan = end.value
            return plan


def plan_by_steps(
    watch: Watch, cells: Sequence[Json], meta: Mapping[str, Json], made: Made
) -> Generator[None, None, Plan]:
    """As `planned`, with something else to be done at each `yield`. A step takes some milliseconds. If the
    document has changed meanwhile the plan is not to be carried out; `made` gets what a new one can take.
    """
    yield
    wanted = checked(cells)
    yield
    wires = {cell_id: _wire_of(cell) for cell_id, cell in wanted.items()}
    yield
    differing = [cell_id for cell_id, wire in wires.items() if wire != watch.wires.get(cell_id)]
    yield
    watch.doubt_changed(wanted)
    edits: list[Edit] = []
    for at, cell_id in enumerate(differing):
        if at % AT_ONCE == 0:
            yield
        held = watch.held(cell_id)
        known = made.get(cell_id)
        if known is None or known[0] != wires[cell_id] or known[1] is not held:
            known = made[cell_id] = wires[cell_id], held, _edits_of(cell_id, wanted[cell_id], held)
        edits += known[2]
    yield
    orders = watch.orders()
    edits += [Remove((cell_id,)) for cell_id in orders if cell_id not in wanted]
    indices = new_indices(list(wanted), orders)
    edits += [Put((cell_id, ORDER), index) for cell_id, index in indices.items()]
    yield
    entries = _edits_of_meta(watch.document, meta) if meta else []
    # An edit of a cell or a property takes its JSON and some 20 bytes for each struct, twice at worst.
    size = sum(len(wires[cell_id]) + len(_wire_of(orders.get(cell_id))) for cell_id in differing)
    size += sum(map(len, indices.values())) + (len(_wire_of(dict(meta))) if entries else 0)
    return Plan(edits, entries, 3 * size + 64 * (len(edits) + 1) if edits or entries else 0)


def _wire_of(value: Json) -> bytes:
    try:
        return orjson.dumps(value)
    except orjson.JSONEncodeError:  # `tidy` knows better: it may be a large number
        return repr(value).encode(errors="replace")


def carry_out(document: Document, plan: Plan) -> bytes | None:
    """Make the edits in one transaction; the update, or None if there are none."""
    if not plan.cells and not plan.meta:
        return None

    def perform(doc: Doc[Any]) -> None:
        _perform(doc, CELLS, plan.cells)
        if plan.meta:
            _perform(doc, META, plan.meta)

    return document.transact(perform)


def reconcile(
    document: Document, cells: Sequence[Json], meta: Mapping[str, Json] | None = None
) -> bytes | None:
    """Make the document's cells look like these, in this order, with the fewest operations; and set these
    entries of `meta`, leaving its others.

    Returns the update, made in one transaction, or None if nothing changed. Raises BadInput, before
    anything is changed, for what a document cannot hold. What merges one by one is compared one by one, so
    that other people's edits of other properties stay.
    """
    with contextlib.closing(Watch(document)) as watch:
        watch.catch_up()
        plan = planned(watch, cells, meta or {})
    return carry_out(document, plan)


def reconcile_meta(document: Document, entries: Mapping[str, Json]) -> bytes | None:
    """Set these entries of `meta`, take out those that are None here, and leave the others; returns the
    update or None. Raises BadInput.
    """
    edits = _edits_of_meta(document, entries)
    return document.transact(lambda doc: _perform(doc, META, edits)) if edits else None


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
class Shared:
    """A value that becomes a Y.Map; other objects are plain JSON."""

    entries: Mapping[str, Json]


@dataclass(frozen=True, slots=True)
class Put:
    """Set what the path of keys leads to."""

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


def _shared(stored: Cell) -> "Shared":
    return Shared({name: _shared_property(name, value) for name, value in stored.items()})


def _shared_property(name: str, value: Json) -> Json:
    if name in NESTED and isinstance(value, dict):
        return Shared(storable(value))
    return storable(value)


def _perform(doc: Doc[Any], name: str, edits: Sequence[Edit]) -> None:
    """In the transaction that is open. What pycrdt wraps is used bare: that takes a third of the time."""
    root = doc.get(name, type=Map).integrated
    with doc.transaction() as transaction:
        at = transaction._txn  # noqa: SLF001
        for edit in edits:
            *path, key = edit.path
            target = root
            for step in path:
                target = target.get(at, step)
            if isinstance(edit, Put):
                _put(target, at, key, edit.value)
            else:
                target.remove(at, key)


def _put(target: Any, at: Any, key: str, value: Json) -> None:
    if not isinstance(value, Shared):
        target.insert(at, key, value)
        return
    made = target.insert_map_prelim(at, key)
    for name, entry in value.entries.items():
        _put(made, at, name, entry)
