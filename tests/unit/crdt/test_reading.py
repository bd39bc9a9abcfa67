"""Reading a diagram by steps while it changes."""

import random
from collections.abc import Callable, Generator
from typing import Any, TypeVar

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pycrdt import Doc, Map

from crdt.cells import Cell
from crdt.diagram import reconcile
from crdt.document import Document
from crdt.reading import CELLS, count_cells, read_by_steps, read_cells

T = TypeVar("T")


def cell(number: int, **more: object) -> Cell:
    attrs = {"text": f"{number}", "color": "#fff"}
    return {"id": f"cell-{number:03d}", "shape": "process", "x": number, "y": 2, "attrs": attrs, **more}


def diagram(cells: int) -> Document:
    document = Document()
    reconcile(document, [cell(number) for number in range(cells)])
    return document


def finish(steps: Generator[None, None, T], between: Callable[[int], None] = lambda _: None) -> tuple[T, int]:
    count = 0
    while True:
        try:
            next(steps)
        except StopIteration as end:
            result: T = end.value
            return result, count
        between(count)
        count += 1


def test_a_diagram_that_nobody_changes_is_read_as_in_one_go() -> None:
    document = diagram(100)
    (cells, told), steps = finish(read_by_steps(document, lambda: "now", 10))
    assert (read_cells(document), "now") == (cells, told)
    assert steps >= 10
    assert 100 == count_cells(document)


class Tinkerer:
    """Changes a document between two steps, in every way."""

    def __init__(self, document: Document, seed: int) -> None:
        self.document = document
        self.choice = random.Random(seed)
        self.client: Doc[Any] = Doc()
        self.client.apply_update(document.encode())

    def change(self, _step: int) -> None:
        for _ in range(self.choice.randrange(3)):
            self._change()

    def _change(self) -> None:
        known = self.client.get_state()
        cells = self.client.get(CELLS, type=Map)
        cell_id = f"cell-{self.choice.randrange(60):03d}"
        match self.choice.randrange(7):
            case 0 if cell_id in cells:
                del cells[cell_id]
            case 1 if cell_id in cells and isinstance(cells[cell_id], Map):
                cells[cell_id]["x"] = self.choice.random()
            case 2 if cell_id in cells and isinstance(cells[cell_id], Map):
                cells[cell_id]["attrs"] = Map({"text": "other"})
            case 3 if cell_id in cells and isinstance(cells[cell_id], Map):
                attrs = cells[cell_id].get("attrs")
                if isinstance(attrs, Map):
                    attrs["text"] = f"{self.choice.random()}"
            case 4:
                cells[cell_id] = Map({"shape": "store", "ord": "a1"})
            case 5:
                cells[cell_id] = {"shape": "plain"}
            case 6:
                cells[cell_id] = "none"
        self.document.apply(self.client.get_update(known))


@settings(max_examples=150, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 30))
def test_what_is_read_is_what_it_was_at_the_moment(seed: int, at_once: int) -> None:
    document = diagram(40)
    tinkerer = Tinkerer(document, seed)
    steps = read_by_steps(document, lambda: (read_cells(document), document.version), at_once)
    (cells, (then, version)), _ = finish(steps, tinkerer.change)
    assert then == cells
    assert version <= document.version


def test_what_changes_after_the_moment_is_not_shown() -> None:
    document = diagram(40)
    told: list[int] = []
    before = read_cells(document)

    def after(_step: int) -> None:
        if told:
            reconcile(document, [])

    (cells, _), _ = finish(read_by_steps(document, lambda: told.append(1), 10), after)
    assert (before, []) == (cells, read_cells(document))


def test_a_document_that_is_built_anew_again_and_again_is_read_in_one_go() -> None:
    document = diagram(40)

    def rebuild(step: int) -> None:
        with pytest.raises(ZeroDivisionError):
            document.transact(lambda _: 1 // 0)  # type: ignore[arg-type]
        if step < 20:
            reconcile(document, [cell(number, label=f"{step}") for number in range(40)])

    steps = read_by_steps(document, lambda: read_cells(document), 5)
    (cells, then), _ = finish(steps, rebuild)
    assert then == cells


def test_a_diagram_that_changes_faster_than_it_is_read_is_read_in_the_end() -> None:
    document = diagram(40)

    def change(step: int) -> None:
        reconcile(document, [cell(number, label=f"{step}") for number in range(40)])

    (cells, then), steps = finish(read_by_steps(document, lambda: read_cells(document), 5), change)
    assert then == cells
    assert steps < 300


def test_nobody_watches_when_a_reading_is_over_or_given_up() -> None:
    document = diagram(40)
    subscriptions: list[object] = []
    original = Map.unobserve

    def unobserve(self: "Map[Any]", subscription: Any) -> None:
        subscriptions.append(subscription)
        original(self, subscription)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(Map, "unobserve", unobserve)
        finish(read_by_steps(document, lambda: None, 5))
        given_up = read_by_steps(document, lambda: None, 5)
        next(given_up)
        given_up.close()
    assert 2 == len(subscriptions)
