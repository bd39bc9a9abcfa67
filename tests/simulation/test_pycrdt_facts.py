"""What pycrdt does, as far as our document is built around it. One that fails after an upgrade is news."""

import random
import subprocess
import sys
from typing import Any

import pycrdt
import pytest
from pycrdt import Doc, Map

from crdt.updates import read_update
from tests.unit.crdt.peers import Editor, content, history
from tests.unit.crdt.test_document import PANICS, TAKES_A_PART


def three_edits() -> list[bytes]:
    edited = Editor(7)
    for n in range(3):
        edited.cells[f"k{n}"] = n
    return edited.updates


def test_numbers_come_back_as_floats_and_as_json_whole() -> None:
    doc: Doc[Any] = Doc()
    doc["m"] = Map({"n": 5})
    assert isinstance(doc["m"]["n"], float)
    assert '{"n":5}' == str(doc["m"])


def test_a_map_keeps_no_order() -> None:
    orders = set()
    for _ in range(20):
        doc: Doc[Any] = Doc()
        doc["m"] = Map({str(n): n for n in range(8)})
        orders.add(tuple(doc["m"]))
    assert len(orders) > 1


def test_an_object_inside_a_value_comes_back_with_its_keys_in_any_order() -> None:
    value = {str(n): n for n in range(8)}
    encodings = set()
    for _ in range(20):
        doc: Doc[Any] = Doc(client_id=1)
        doc["m"] = Map({"k": value})
        encodings.add(doc.get_update())
    assert len(encodings) > 1


def test_what_is_past_a_gap_of_its_own_client_is_integrated_and_not_in_the_state_vector() -> None:
    first, _, third = three_edits()
    doc: Doc[Any] = Doc()
    doc.apply_update(first)
    doc.apply_update(third)
    assert {"k0", "k2"} == set(doc.get("cells", type=Map))
    assert bytes.fromhex("010701") == doc.get_state()
    assert 0 != pycrdt.get_update(third, doc.get_state())[0]


def test_what_waits_for_another_client_is_not_in_the_encoded_document() -> None:
    maker, follower = Editor(7), Editor(8)
    maker.cells["a"] = Map({"x": 1})
    follower.receive(*maker.updates)
    follower.cells["a"]["y"] = 2
    doc: Doc[Any] = Doc()
    doc.apply_update(follower.updates[0])
    assert b"\0\0" == doc.get_update()
    assert 0 != pycrdt.get_update(follower.updates[0], doc.get_state())[0]
    doc.apply_update(maker.updates[0])
    assert {"x": 1, "y": 2} == doc.get("cells", type=Map)["a"].to_py()


def test_merging_keeps_what_is_past_a_gap() -> None:
    first, _, third = three_edits()
    assert {7: [(0, 1), (2, 3)]} == read_update(pycrdt.merge_updates(first, third)).structs


def test_a_gap_inside_an_update_is_integrated_past_without_a_word() -> None:
    first, _, third = three_edits()
    merged = pycrdt.merge_updates(first, third)
    told: list[bytes] = []
    doc: Doc[Any] = Doc()
    doc.observe(lambda event: told.append(event.update))
    doc.apply_update(merged)
    assert [merged] == told
    assert bytes.fromhex("010701") == doc.get_state()


def test_a_delete_of_what_is_not_there_is_not_in_the_encoded_document() -> None:
    doc: Doc[Any] = Doc()
    doc.apply_update(bytes.fromhex("00010701" + "0201"))
    assert b"\0\0" == doc.get_update()


def test_some_orders_leave_a_document_stuck_and_the_merged_log_heals_it() -> None:
    stuck = 0
    for seed in range(40):
        updates, truth = history(seed)
        doc: Doc[Any] = Doc()
        for update in random.Random(seed).sample(updates, len(updates)):
            doc.apply_update(update)
        stuck += content(doc) != content(truth)
        doc.apply_update(pycrdt.merge_updates(*updates))
        assert content(truth) == content(doc)
    assert stuck > 0


def test_a_transaction_that_changes_nothing_tells_nothing() -> None:
    told: list[bytes] = []
    doc: Doc[Any] = Doc()
    doc.observe(lambda event: told.append(event.update))
    for update in three_edits() * 2:
        doc.apply_update(update)
    assert three_edits() == told


def test_a_panic_is_no_exception_and_leaves_the_document_as_it_was() -> None:
    edited = Editor(7)
    edited.cells["a"] = {"x": 1}
    doc: Doc[Any] = Doc()
    doc.apply_update(edited.updates[0])
    with pytest.raises(BaseException, match="unwrap") as caught:
        doc.apply_update(PANICS)
    assert not isinstance(caught.value, Exception)
    assert edited.updates[0] == doc.get_update()


def test_a_child_of_what_is_no_container_is_an_error_after_a_part_went_in() -> None:
    doc: Doc[Any] = Doc()
    with pytest.raises(RuntimeError, match="parent"):
        doc.apply_update(TAKES_A_PART)
    assert b"\0\0" != doc.get_update()


@pytest.mark.parametrize("value", [2**63, "\ud800"])
def test_what_no_json_holds_panics(value: object) -> None:
    doc: Doc[Any] = Doc()
    doc["m"] = Map()
    with pytest.raises(BaseException, match="unwrap") as caught:
        doc["m"]["k"] = value
    assert not isinstance(caught.value, Exception)


NESTED_VALUES = """
import pycrdt
head = bytes.fromhex("010107002801016d016b01")
pycrdt.Doc().apply_update(head + bytes.fromhex("7501") * 100_000 + bytes.fromhex("7e00"))
"""


def test_deeply_nested_values_end_the_process() -> None:
    ended = subprocess.run(
        [sys.executable, "-c", NESTED_VALUES], capture_output=True, check=False, timeout=60
    )
    assert ended.returncode < 0
