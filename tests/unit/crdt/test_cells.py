"""Cells as JSON."""

from typing import Any

import pytest

from crdt.cells import MAX_DEPTH, checked, same, storable, tidy, to_answer, to_stored
from tmi.domain.errors import BadInput


def test_an_answer_shows_the_geometry_in_both_forms_and_the_id_first() -> None:
    stored = {
        "shape": "process",
        "position": {"x": 1, "y": 2},
        "size": {"width": 80, "height": 40},
        "ord": "a0",
    }
    answer = to_answer("c", stored)
    assert {
        "id": "c",
        "shape": "process",
        "position": {"x": 1, "y": 2},
        "size": {"width": 80, "height": 40},
        "x": 1,
        "y": 2,
        "width": 80,
        "height": 40,
    } == answer
    assert "id" == next(iter(answer))


@pytest.mark.parametrize("position", [None, 5, "left", [], {}, {"x": "1", "y": True}])
def test_a_position_that_is_none_is_shown_as_it_is(position: Any) -> None:
    assert {"id": "c", "shape": "s", "position": position} == to_answer(
        "c", {"shape": "s", "position": position}
    )


@pytest.mark.parametrize(
    ("cell", "stored"),
    [
        ({"x": 1, "y": 2}, {"position": {"x": 1, "y": 2}}),
        ({"width": 80, "height": 40}, {"size": {"width": 80, "height": 40}}),
        ({"x": 1}, {}),
        ({"x": "1", "y": 2}, {}),
        ({"id": "c", "ord": "a0", "parent": None}, {"parent": None}),
        ({"x": 3, "y": 4, "position": {"x": 1, "y": 2}}, {"position": {"x": 1, "y": 2}}),
    ],
)
def test_the_document_holds_the_nested_form(cell: dict[str, Any], stored: dict[str, Any]) -> None:
    assert stored == to_stored(cell)


@pytest.mark.parametrize(
    ("cell", "position"),
    [
        ({"x": 9, "y": 2, "position": {"x": 1, "y": 2}}, {"x": 9, "y": 2}),
        ({"x": 1, "y": 2, "position": {"x": 9, "y": 2}}, {"x": 9, "y": 2}),
        ({"x": 8, "y": 2, "position": {"x": 9, "y": 2}}, {"x": 9, "y": 2}),
        ({"x": 1, "y": 2, "position": {"x": 1, "y": 2}}, {"x": 1, "y": 2}),
    ],
    ids=["flat changed", "nested changed", "both changed", "neither changed"],
)
def test_of_two_forms_the_one_that_changed_is_meant(cell: dict[str, Any], position: dict[str, Any]) -> None:
    assert position == to_stored(cell, {"position": {"x": 1, "y": 2}})["position"]


@pytest.mark.parametrize(
    "cells",
    [
        [5],
        [{}],
        [{"id": "a"}],
        [{"id": "", "shape": "s"}],
        [{"id": 5, "shape": "s"}],
        [{"id": "x" * 257, "shape": "s"}],
        [{"id": "a", "shape": 5}],
        [{"id": "a", "shape": "s"}, {"id": "a", "shape": "s"}],
        [{"id": "\ud800", "shape": "s"}],
        [{"id": str(n), "shape": "s"} for n in range(10_001)],
    ],
)
def test_what_are_no_cells_is_refused(cells: list[Any]) -> None:
    with pytest.raises(BadInput):
        checked(cells)


@pytest.mark.parametrize(
    "value", [float("nan"), float("inf"), 10**400, "\ud800", {"\ud800": 1}, {5: 1}, b"bytes"]
)
def test_what_is_no_json_is_refused(value: Any) -> None:
    with pytest.raises(BadInput):
        tidy({"data": [value]})


def test_nesting_is_bounded() -> None:
    value: Any = 1
    for _ in range(MAX_DEPTH):
        value = [value]
    assert value == tidy(value)
    with pytest.raises(BadInput):
        tidy([value])


@pytest.mark.parametrize(
    ("number", "shown", "kept"),
    [
        (5.0, "5", "5"),
        (-0.0, "0", "0"),
        (2.5, "2.5", "2.5"),
        (2**53, "9007199254740992", "9007199254740992.0"),
        (2**53 + 1, "9007199254740992", "9007199254740992.0"),
        (2**63, "9223372036854775807", "9.223372036854776e+18"),
        (10**20, "1e+20", "1e+20"),
        (True, "True", "True"),
    ],
)
def test_equal_numbers_look_equal_and_are_kept_as_javascript_can(
    number: float, shown: str, kept: str
) -> None:
    assert shown == str(tidy(number))
    assert kept == str(storable(tidy(number)))


def test_true_is_not_one() -> None:
    assert same({"a": [1, "x"]}, {"a": [1, "x"]})
    assert not same({"a": [1]}, {"a": [True]})
    assert not same(0, False)
