"""The order of cells."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crdt.order import MAX_INDEX_LENGTH, new_indices, place

ids = st.text(alphabet="abcdef", min_size=1, max_size=3)
odd = st.one_of(
    st.none(),
    st.sampled_from(
        ["a0", "a1", "a1V", "a2", "Zz", "b00", "", "!", "zzz", "a00", "é", "a1" + "V" * MAX_INDEX_LENGTH]
    ),
    st.integers(),
)


@given(st.lists(ids, unique=True, max_size=12), st.dictionaries(ids, odd, max_size=12))
def test_new_indices_bring_cells_into_the_wanted_order(wanted: list[str], held: dict[str, object]) -> None:
    indices = new_indices(wanted, held)
    after = {**held, **indices}
    assert wanted == sorted(wanted, key=lambda cell: place(cell, after.get(cell)))
    assert set(indices) <= set(wanted)


@given(st.lists(ids, unique=True, max_size=12), st.data())
def test_the_fewest_cells_move(wanted: list[str], data: st.DataObject) -> None:
    held: dict[str, object] = dict(new_indices(wanted, {}))
    moved = data.draw(st.permutations(wanted))
    indices = new_indices(moved, held)
    at = {cell: position for position, cell in enumerate(wanted)}
    lengths: list[int] = []
    for end, cell in enumerate(moved):
        lengths.append(1 + max((lengths[n] for n in range(end) if at[moved[n]] < at[cell]), default=0))
    assert len(moved) - max(lengths, default=0) == len(indices)


def test_indices_grow_slowly() -> None:
    held: dict[str, object] = {}
    order: list[str] = []
    for n in range(500):
        order.insert(len(order) // 2, str(n))
        held.update(new_indices(order, held))
    assert max(len(str(index)) for index in held.values()) < 100
    assert all(str(held[one]) < str(held[other]) for one, other in pairwise(order))


def test_cells_without_an_index_sort_last_by_id() -> None:
    held = {"b": None, "a": None, "z": "a0"}
    assert ["z", "a", "b"] == sorted(held, key=lambda cell: place(cell, held[cell]))
    assert {} == new_indices(["z", "a", "b"], held)
    assert {"new"} == set(new_indices(["z", "new", "a", "b"], held))


@pytest.mark.parametrize("wanted", [["a", "b", "c"], ["c", "b", "a"]])
def test_new_cells_get_indices_in_their_order(wanted: list[str]) -> None:
    assert ["a0", "a1", "a2"] == list(new_indices(wanted, {}).values())
