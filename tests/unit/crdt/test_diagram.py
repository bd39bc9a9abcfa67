"""A diagram's document as JSON and back."""

import contextlib
import copy
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pycrdt import Array, Doc, Map, Text, XmlFragment

from crdt.diagram import Made, carry_out, plan_by_steps, planned, reconcile, reconcile_meta
from crdt.document import Document
from crdt.merging import EMPTY_UPDATE
from crdt.reading import Watch, read, read_cells, read_comments, read_meta
from crdt.updates import read_update
from tmi.domain.errors import BadInput

NODE: dict[str, Any] = {
    "id": "n",
    "shape": "process",
    "position": {"x": 10, "y": 20.5},
    "size": {"width": 80, "height": 40},
    "attrs": {"body": {"fill": "#fff", "strokeWidth": 2}, "text": {"text": "Shop"}},
    "data": {"_metadata": [{"key": "k", "value": "v"}], "security_boundary": False},
    "parent": None,
    "angle": 0,
}
EDGE: dict[str, Any] = {
    "id": "e",
    "shape": "flow",
    "source": {"cell": "n", "port": "p"},
    "target": {"cell": "n"},
    "vertices": [{"x": 1, "y": 2}],
    "labels": [{"attrs": {"text": {"text": "pays"}}, "position": 0.5}],
    "router": "orth",
}


def shown(cell: dict[str, Any]) -> dict[str, Any]:
    """The cell as an answer shows it."""
    return {**cell, **cell.get("position", {}), **cell.get("size", {})}


def written(*cells: dict[str, Any]) -> Document:
    document = Document()
    reconcile(document, cells)
    return document


def operations(update: bytes | None) -> int:
    """How many structs an update adds."""
    assert update is not None
    return sum(end - start for ranges in read_update(update).structs.values() for start, end in ranges)


def write(document: Document, edit: Callable[["Doc[Any]"], None]) -> None:
    """Write as a Yjs client does."""
    client: Doc[Any] = Doc()
    client.apply_update(document.encode())
    state = client.get_state()
    with client.transaction():
        edit(client)
    document.apply(client.get_update(state))


def cells_of(doc: "Doc[Any]") -> "Map[Any]":
    cells: Map[Any] = doc.get("cells", type=Map)
    return cells


def test_cells_are_read_as_they_were_written_in_their_order() -> None:
    document = written(NODE, EDGE)
    assert [shown(NODE), EDGE] == read_cells(document)
    assert [shown(NODE), EDGE] == read_cells(Document.load(document.encode(), []))


def test_what_is_read_can_be_written_without_a_change() -> None:
    document = written(NODE, EDGE)
    assert reconcile(document, read_cells(document)) is None
    assert reconcile(document, [NODE, EDGE]) is None


def test_the_flat_form_is_the_same_cell() -> None:
    flat = {name: value for name, value in shown(NODE).items() if name not in ("position", "size")}
    assert [shown(NODE)] == read_cells(written(flat))
    assert reconcile(written(NODE), [flat]) is None


def test_whole_numbers_come_back_as_integers() -> None:
    (cell,) = read_cells(written({**NODE, "position": {"x": 10.0, "y": -0.0}, "angle": 90.0}))
    assert "[10, 0, 90]" == str([cell["x"], cell["y"], cell["angle"]])


@pytest.mark.parametrize(
    "changed",
    [
        {**NODE, "position": {"x": 11, "y": 20.5}},
        {**NODE, "angle": 45},
        {**NODE, "new": {"a": {"b": 1}}},
        {**NODE, "attrs": {**NODE["attrs"], "text": {"text": "Bank"}}},
        {**NODE, "data": {**NODE["data"], "security_boundary": True}},
        {**NODE, "data": {**NODE["data"], "security_boundary": 0}},
        {**NODE, "attrs": 5},
    ],
)
def test_one_changed_property_is_one_operation(changed: dict[str, Any]) -> None:
    document = written(NODE, EDGE)
    assert 1 == operations(reconcile(document, [changed, EDGE]))
    assert [shown(changed), EDGE] == read_cells(document)


@pytest.mark.parametrize("lost", ["position", "attrs", "parent"])
def test_a_lost_property_is_a_delete_alone(lost: str) -> None:
    document = written(NODE)
    changed = {name: value for name, value in NODE.items() if name != lost}
    assert 0 == operations(reconcile(document, [changed]))
    assert [shown(changed)] == read_cells(document)


def test_a_lost_key_of_attrs_is_a_delete_alone() -> None:
    document = written(NODE)
    changed = {**NODE, "attrs": {"text": NODE["attrs"]["text"]}}
    assert 0 == operations(reconcile(document, [changed]))
    assert [shown(changed)] == read_cells(document)


def test_a_lost_cell_is_a_delete_alone() -> None:
    document = written(NODE, EDGE)
    assert 0 == operations(reconcile(document, [EDGE]))
    assert [EDGE] == read_cells(document)


def test_a_moved_cell_is_one_operation() -> None:
    cells = [{"id": str(n), "shape": "s"} for n in range(10)]
    document = written(*cells)
    moved = [*cells[:3], cells[8], *cells[3:8], cells[9]]
    assert 1 == operations(reconcile(document, moved))
    assert moved == read_cells(document)


def test_a_new_cell_goes_where_it_was_put() -> None:
    document = written(NODE, EDGE)
    new = {"id": "0", "shape": "actor"}
    reconcile(document, [NODE, new, EDGE])
    assert ["n", "0", "e"] == [cell["id"] for cell in read_cells(document)]


def test_a_change_is_one_update_that_brings_others_along() -> None:
    document = written(NODE)
    copy = Document.load(document.encode(), [])
    update = reconcile(document, [EDGE, {**NODE, "angle": 1}])
    assert update is not None
    copy.apply(update)
    assert read_cells(document) == read_cells(copy)


def test_writers_of_different_properties_both_win() -> None:
    one = written(NODE)
    other = Document.load(one.encode(), [])
    first = reconcile(one, [{**NODE, "angle": 45, "data": {**NODE["data"], "a": 1}}])
    second = reconcile(other, [{**NODE, "position": {"x": 0, "y": 0}, "data": {**NODE["data"], "b": 2}}])
    assert first is not None
    assert second is not None
    one.apply(second)
    other.apply(first)
    (cell,) = read_cells(one)
    assert [cell] == read_cells(other)
    assert (45, {"x": 0, "y": 0}) == (cell["angle"], cell["position"])
    assert {**NODE["data"], "a": 1, "b": 2} == cell["data"]


@pytest.mark.parametrize(
    "bad", [{"id": "x"}, {"id": "x", "shape": "s", "n": float("nan")}, {**EDGE, "data": {"n": "\ud800"}}]
)
def test_what_no_document_can_hold_changes_nothing(bad: dict[str, Any]) -> None:
    document = written(NODE, EDGE)
    before = document.encode()
    with pytest.raises(BadInput):
        reconcile(document, [{**NODE, "angle": 5}, bad])
    assert before == document.encode()


def odd_cells(doc: "Doc[Any]") -> None:
    cells = cells_of(doc)
    cells["a number"] = 5
    cells["nothing"] = None
    cells["bytes"] = b"abc"
    cells["a text"] = Text("hello")
    cells["a list"] = Array([1])
    cells["xml"] = XmlFragment()
    cells["no shape"] = Map({"x": 1})
    cells["shape is no text"] = Map({"shape": 5})
    cells["not a number"] = {"shape": "s", "n": float("nan")}


def test_what_is_no_cell_is_left_out_counted_and_left_alone() -> None:
    document = written(NODE)
    write(document, odd_cells)
    reading = read(document)
    assert ([shown(NODE)], 9) == (reading.cells, reading.left_out)
    assert reconcile(document, reading.cells) is None
    reconcile(document, [])
    assert ([], 9) == (read(document).cells, read(document).left_out)


def test_what_is_no_cell_gives_way_to_a_cell_of_its_name() -> None:
    document = Document()
    write(document, odd_cells)
    cell = {"id": "a text", "shape": "s"}
    reconcile(document, [cell])
    assert [cell] == read_cells(document)


@pytest.mark.parametrize("cell_id", ["", "x" * 1000, "🙂", "a\0b", "../..", "__proto__"])
def test_a_cell_with_an_odd_id_is_shown(cell_id: str) -> None:
    document = Document()
    write(document, lambda doc: cells_of(doc).__setitem__(cell_id, Map({"shape": "s", "id": "other"})))
    assert [{"id": cell_id, "shape": "s"}] == read_cells(document)


def test_a_cell_that_a_client_wrote_as_a_plain_object_is_shown_and_can_be_changed() -> None:
    document = Document()
    plain = {"shape": "s", "position": {"x": 1, "y": 2}, "ord": "a5"}
    write(document, lambda doc: cells_of(doc).__setitem__("c", plain))
    cell = {"id": "c", "shape": "s", "position": {"x": 1, "y": 2}, "x": 1, "y": 2}
    assert [cell] == read_cells(document)
    assert reconcile(document, [cell]) is None
    reconcile(document, [{**cell, "angle": 5}])
    assert [{**cell, "angle": 5}] == read_cells(document)


def test_flat_geometry_that_a_client_wrote_is_shown_and_can_be_changed_and_lost() -> None:
    document = Document()
    write(document, lambda doc: cells_of(doc).__setitem__("c", Map({"shape": "s", "x": 1, "y": 2})))
    (cell,) = read_cells(document)
    assert {"x": 1, "y": 2} == cell["position"]
    assert reconcile(document, [cell]) is None
    reconcile(document, [{**cell, "x": 5}])
    assert {"x": 5, "y": 2} == read_cells(document)[0]["position"]
    reconcile(document, [{"id": "c", "shape": "s"}])
    assert [{"id": "c", "shape": "s"}] == read_cells(document)


def test_nested_types_of_a_client_are_shown_as_json_and_can_be_changed() -> None:
    document = Document()
    nested = {
        "shape": "s",
        "position": Map({"x": 1, "y": 2}),
        "vertices": Array([{"x": 1, "y": 2}]),
        "label": Text("hello"),
        "attrs": {"text": {"text": "plain"}},
        "data": Map({"deep": Map({"n": 1})}),
    }
    write(document, lambda doc: cells_of(doc).__setitem__("c", Map(nested)))
    (cell,) = read_cells(document)
    assert {"x": 1, "y": 2} == cell["position"]
    assert ("hello", [{"x": 1, "y": 2}]) == (cell["label"], cell["vertices"])
    assert {"deep": {"n": 1}} == cell["data"]
    changed = {**cell, "x": 5, "attrs": {"text": {"text": "rich"}}, "data": {"deep": {"n": 2}}}
    reconcile(document, [changed])
    assert [{**changed, "position": {"x": 5, "y": 2}}] == read_cells(document)


def test_a_root_of_another_type_reads_as_no_cells() -> None:
    document = Document()
    write(document, lambda doc: doc.get("cells", type=Array).append(1))
    assert [] == read_cells(document)


def test_a_cell_nested_too_deeply_to_be_json_is_left_out() -> None:
    document = written(NODE)

    def nest(doc: "Doc[Any]") -> None:
        cells_of(doc)["deep"] = Map({"shape": "s"})
        target = cells_of(doc)["deep"]
        for _ in range(1500):
            target["k"] = Map()
            target = target["k"]

    write(document, nest)
    assert 1 == read(document).left_out
    assert [shown(NODE)] == read_cells(document)


def test_meta_merges_entry_by_entry() -> None:
    document = Document()
    write(document, lambda doc: doc.get("meta", type=Map).__setitem__("zoom", 1.5))
    palette = [{"position": 1, "color": "#aabbcc"}]
    assert 1 == operations(reconcile_meta(document, {"color_palette": palette}))
    assert reconcile_meta(document, {"color_palette": palette}) is None
    assert {"zoom": 1.5, "color_palette": palette} == read_meta(document)
    assert {} == read_comments(document)


# --- properties -----------------------------------------------------------------------------------

numbers = st.one_of(
    st.integers(-(2**70), 2**70),
    st.floats(allow_nan=False, allow_infinity=False),
    st.integers(-5, 5).map(float),
)
json_values = st.recursive(
    st.one_of(st.none(), st.booleans(), numbers, st.text(max_size=6)),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=3), inner, max_size=3)
    ),
    max_leaves=6,
)
geometry = st.fixed_dictionaries({"x": numbers, "y": numbers})
a_cell = st.fixed_dictionaries(
    {"id": st.sampled_from("abcdefgh"), "shape": st.sampled_from(["process", "flow"])},
    optional={
        "position": geometry,
        "attrs": st.one_of(st.dictionaries(st.text(max_size=3), json_values, max_size=3), json_values),
        "data": st.dictionaries(st.text(max_size=3), json_values, max_size=3),
        "labels": st.lists(json_values, max_size=2),
        "p": json_values,
    },
)
diagrams = st.lists(a_cell, max_size=6, unique_by=lambda cell: str(cell["id"]))


@settings(max_examples=150, deadline=None)
@given(diagrams, diagrams)
def test_whatever_was_there_the_document_then_looks_like_this(
    before: list[dict[str, Any]], after: list[dict[str, Any]]
) -> None:
    expected = read_cells(written(*after))
    document = written(*before)
    update = reconcile(document, after)
    assert expected == read_cells(document)
    assert reconcile(document, after) is None
    assert reconcile(document, read_cells(document)) is None
    replica = Document.load(document.encode(), [update or EMPTY_UPDATE])
    assert len(after) == len(read_cells(replica))
    assert expected == read_cells(replica)


@settings(max_examples=60, deadline=None)
@given(diagrams, st.data())
def test_two_writers_of_disjoint_cells_both_win(cells: list[dict[str, Any]], data: st.DataObject) -> None:
    base = written(*cells).encode()
    one, other = Document.load(base, []), Document.load(base, [])
    mine = {cell["id"] for cell in cells if data.draw(st.booleans())}
    values = [data.draw(json_values) for _ in cells]
    changed = [{**cell, "q": value} for cell, value in zip(cells, values, strict=True)]
    first = [new if new["id"] in mine else old for new, old in zip(changed, cells, strict=True)]
    second = [old if new["id"] in mine else new for new, old in zip(changed, cells, strict=True)]
    updates = [update for update in (reconcile(one, first), reconcile(other, second)) if update is not None]
    for update in updates:
        one.apply(update)
        other.apply(update)
    assert read_cells(written(*changed)) == read_cells(one) == read_cells(other)


@settings(max_examples=200, deadline=None)
@given(diagrams, diagrams, st.dictionaries(st.text(max_size=3), json_values, max_size=3))
def test_no_update_is_larger_than_its_plan_says(
    first: list[dict[str, Any]], second: list[dict[str, Any]], meta: dict[str, Any]
) -> None:
    document = written(*first)
    with contextlib.closing(Watch(document)) as watch:
        watch.catch_up()
        plan = planned(watch, second, meta)
        update = carry_out(document, plan)
        assert len(update or b"") <= plan.at_most_bytes
        watch.catch_up()
        assert read_cells(document) == watch.cells()


def test_cells_that_are_as_they_are_shown_are_passed_over() -> None:
    document = written(NODE, EDGE)
    with contextlib.closing(Watch(document)) as watch:
        watch.catch_up()
        plan = planned(watch, watch.cells(), {})
        assert ([], [], 0) == (plan.cells, plan.meta, plan.at_most_bytes)
        changed = watch.cells()
        changed[0]["position"]["x"] = 11  # in place, in what the watch itself gave
        changed[0]["x"] = 11
        plan = planned(watch, changed, {})
    assert [("n", "position")] == [edit.path for edit in plan.cells]
    carry_out(document, plan)
    assert {"x": 11, "y": 20.5} == read_cells(document)[0]["position"]


def test_a_cell_that_was_changed_in_place_and_is_not_wanted_is_read_again() -> None:
    """As by a JSON Patch that copies a cell, and makes another one of the first."""
    document = written(NODE, EDGE)
    with contextlib.closing(Watch(document)) as watch:
        watch.catch_up()
        cells = watch.cells()
        as_it_was = copy.deepcopy(cells[0])
        cells[0]["id"], cells[0]["angle"] = "new", 90
        plan = planned(watch, [cells[0], as_it_was, cells[1]], {})
        carry_out(document, plan)
        watch.catch_up()
        assert read_cells(document) == watch.cells()
    assert ["new", "n", "e"] == [cell["id"] for cell in read_cells(document)]


def test_a_cell_that_is_nested_too_deeply_for_json_can_be_removed() -> None:
    document = written(NODE)
    deep: Any = 1
    for _ in range(300):
        deep = [deep]
    write(document, lambda doc: cells_of(doc).update({"deep": Map({"shape": "x", "data": Map({"k": deep})})}))
    reconcile(document, [NODE])
    assert ["n"] == [cell["id"] for cell in read_cells(document)]


def test_new_places_count_for_the_size_of_an_edit() -> None:
    document = written(NODE)
    write(document, lambda doc: cells_of(doc)["n"].update({"ord": "Z" + "0" * 300}))
    plain = [{"id": f"c{n}", "shape": "process"} for n in range(200)]
    with contextlib.closing(Watch(document)) as watch:
        watch.catch_up()
        plan = planned(watch, [*plain, *watch.cells()], {})
    assert len(carry_out(document, plan) or b"") <= plan.at_most_bytes


@settings(max_examples=200, deadline=None)
@given(diagrams, diagrams, diagrams, st.booleans())
def test_what_was_planned_by_steps_serves_a_new_plan_when_others_have_changed_the_document_meanwhile(
    first: list[dict[str, Any]], meanwhile: list[dict[str, Any]], second: list[dict[str, Any]], is_first: bool
) -> None:
    document = written(*first)
    made: Made = {}
    with contextlib.closing(Watch(document)) as watch:
        watch.catch_up()
        steps = plan_by_steps(watch, second, {}, made)
        if is_first:
            next(steps)
        else:
            list(steps)
        reconcile(document, meanwhile)
        list(steps)
        watch.catch_up()
        fresh = planned(watch, second, {})
        plan = planned(watch, second, {}, made)
        assert fresh == plan
        with watch.told(plan.changed):
            carry_out(document, plan)
        watch.catch_up()
        assert read_cells(document) == watch.cells()
    other = written(*meanwhile)
    reconcile(other, second)
    assert read_cells(other) == read_cells(document)


def test_one_who_watches_and_is_told_what_changes_hears_of_everything_else() -> None:
    document = written(NODE, EDGE)
    with contextlib.closing(Watch(document)) as watch:
        watch.catch_up()
        with watch.told(["n"]):
            reconcile(document, [{**NODE, "angle": 1}, EDGE])
            reconcile(document, [{**NODE, "angle": 1}, {**EDGE, "zIndex": 7}])
        watch.catch_up()
        assert read_cells(document) == watch.cells()
        reconcile(document, [{**NODE, "angle": 2}])
        watch.catch_up()
        assert read_cells(document) == watch.cells()
