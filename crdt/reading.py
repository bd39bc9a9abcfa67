"""A diagram's document as JSON.

Roots: `cells`, a Y.Map from cell id to a Y.Map of the cell's properties; `meta`, a Y.Map with
`color_palette` and what editors add; `comments`, a Y.Map of threads. A cell's properties merge one by one,
so each is one atomic JSON value (a half-moved node cannot exist), except `attrs` and `data`, which are
Y.Maps of atomic values.

Reading never fails on what a Yjs client wrote. A cell is an object with a shape; what is none is left out,
counted, and left alone when the cells are written (`crdt/diagram.py`).
"""

import contextlib
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
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

AT_ONCE = 100
"""Cells that are read in one step, in 2 to 3 ms."""
_ROUNDS = 10

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
    told at that moment. A step takes some milliseconds; the document may change meanwhile.
    """
    with contextlib.closing(Watch(document)) as watch:
        yield from watch.steps(at_once)
        watch.catch_up()
        told = moment()
    yield
    return watch.cells(), told


def count_cells(document: Document) -> int:
    """How many values there are under `cells`."""
    return len(document.doc.get(CELLS, type=Map))


class Watch:
    """The cells of a document as they are: all are read once, and from then on those that have changed.

    Close it, or the document goes on to tell it of its changes.
    """

    def __init__(self, document: Document) -> None:
        self.document = document
        self.wires: dict[str, bytes] = {}
        """Each cell in the contract's form, as JSON; by id."""
        self._held: dict[str, Held] = {}
        self._answers: dict[str, Cell] = {}
        self._stale: set[str] = set()
        self._begin()

    def _begin(self) -> None:
        doc = self._doc = self.document.doc
        root = self._root = doc.get(CELLS, type=Map)
        self._stale = set(root.keys())
        self._held, self._answers, self.wires = {}, {}, {}
        self._observe()

    def _observe(self) -> None:
        stale = self._stale

        def note(events: Sequence[Any]) -> None:
            for event in events:
                stale.update(event.path[:1] or event.keys)

        self._subscription = self._root.observe_deep(note)

    def close(self) -> None:
        """Hear of no more changes."""
        self._root.unobserve(self._subscription)

    @contextlib.contextmanager
    def told(self, cell_ids: Iterable[str]) -> Iterator[None]:
        """For one transaction that changes these cells and no others: to hear of each takes as long as to
        change it.
        """
        version = self.document.version
        self.close()
        try:
            yield
        finally:
            self._observe()
            self._stale.update(cell_ids)
            if self.document.version > version + 1:
                self._stale.update(self._root.keys(), self._held)

    @property
    def is_far_behind(self) -> bool:
        """It takes more than a moment to catch up."""
        return self.document.doc is not self._doc or len(self._stale) > AT_ONCE

    def steps(self, at_once: int = AT_ONCE) -> Generator[None, None, None]:
        """Read nearly all, with something else to be done at each `yield`. What changes meanwhile, or again
        and again, is left to `catch_up`.
        """
        for _ in range(_ROUNDS):
            stale = list(self._stale)
            for first in range(0, len(stale), at_once):
                if self.document.doc is not self._doc:
                    break
                self._read(stale[first : first + at_once])
                yield
            if len(self._stale) <= at_once:
                return

    def catch_up(self) -> None:
        """Read what has changed, or everything if the document was built anew."""
        if self.document.doc is not self._doc:
            self.close()
            self._begin()
        self._read(list(self._stale))

    def held(self, cell_id: str) -> Held | None:
        """A cell as the document holds it now; the same object for as long as that is so."""
        wire = self.wires.get(cell_id)
        is_known = wire is None or (wire != b"" and _wire_of(self._answers[cell_id]) == wire)
        if cell_id in self._stale or not is_known:
            self._read([cell_id])
        return self._held.get(cell_id)

    def doubt_changed(self, wanted: Mapping[str, Cell]) -> None:
        """Have those read again that somebody has changed in what `cells` gave. What of that is `wanted` is
        looked at by whoever asks.
        """
        self._stale.update(
            cell_id
            for cell_id, answer in self._answers.items()
            if wanted.get(cell_id) is not answer and _wire_of(answer) != self.wires[cell_id]
        )

    def cells(self) -> list[Cell]:
        """The cells in the contract's form and in their order, as of the last `catch_up`."""
        return [self._answers[cell_id] for cell_id in _ordered(self._held)]

    def orders(self) -> dict[str, Json]:
        """What keeps each cell's place among the others, by id."""
        return {cell_id: held.raw.get(ORDER) for cell_id, held in self._held.items()}

    def _read(self, cell_ids: Sequence[str]) -> None:
        with self._doc.transaction() as transaction:
            at = transaction._txn  # noqa: SLF001 - the public wrapper takes six times as long
            root = self._root.integrated
            for cell_id in cell_ids:
                held = _read_cell(root, cell_id, at) if root.has(at, cell_id) else None
                if held is None:
                    for known in (self._held, self._answers, self.wires):
                        known.pop(cell_id, None)
                else:
                    answer = to_answer(cell_id, held.stored)
                    self._held[cell_id], self._answers[cell_id] = held, answer
                    self.wires[cell_id] = _wire_of(answer)
        self._stale.difference_update(cell_ids)


def _wire_of(cell: Cell) -> bytes:
    """A cell's JSON; nothing for one that is nested too deeply to have any."""
    try:
        return orjson.dumps(cell)
    except orjson.JSONEncodeError:
        return b""


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
    """A value of pycrdt as tidy JSON, or UNREADABLE: bytes, XML, and what is nested too deeply."""
    try:
        if hasattr(value, "to_json"):
            return orjson.loads(value.to_json(transaction))
        return tidy(value)
    except (orjson.JSONDecodeError, BadInput):
        return UNREADABLE
