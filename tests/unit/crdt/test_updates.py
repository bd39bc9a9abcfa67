"""Reading updates without applying them."""

import re
from collections.abc import Callable
from typing import Any

import pycrdt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pycrdt import Array, Doc, Map, Text, XmlElement, XmlFragment, XmlText

from crdt.lib0 import write_var_uint
from crdt.ranges import union
from crdt.structs import check_update, read_structs
from crdt.updates import MAX_NESTING, encode_delete_set, read_state_vector, read_update
from tests.unit.crdt.peers import history
from tmi.domain.errors import BadFrame, BadUpdate

IN_ROOT = bytes.fromhex("010107002801016d016b")
"""One struct of client 7: an item in the root map `m` under the key `k`; its content's values follow."""

READERS = [read_update, read_structs]
"""The one that tells all, and the fast one."""


def everything() -> "Doc[Any]":
    doc: Doc[Any] = Doc(client_id=9)
    values: dict[str, Any] = {
        "none": None,
        "yes": True,
        "text": "žluť 🙂",
        "number": 1.5,
        "big": 2**60,
        "bytes": b"abc",
        "list": [{}],
    }
    doc["map"] = Map({**values, "map": Map(values)})
    doc["text"] = Text("žluť 🙂 abc")
    doc["text"].format(0, 3, {"bold": True})
    doc["text"].insert_embed(2, {"image": "x"})
    doc["list"] = Array([1, "two", Array([3])])
    doc["xml"] = XmlFragment([XmlElement("p", {"a": "1"}, [XmlText("hi")])])
    del doc["text"][1:4]
    del doc["map"]["text"]
    return doc


def test_every_kind_of_content_is_read_to_its_end() -> None:
    doc = everything()
    shape = read_update(doc.get_update())
    assert read_state_vector(doc.get_state()) == {
        client: ranges[-1][1] for client, ranges in shape.structs.items()
    }
    assert (0, []) == shape.heads[9]
    assert {9} == set(shape.deletes)


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 2**32))
def test_what_clients_write_is_read_as_pycrdt_reads_it(seed: int) -> None:
    updates, doc = history(seed)
    for update in (*updates, doc.get_update()):
        check_update(update)
        shape = read_update(update)
        whole = {client: ranges[0][1] for client, ranges in shape.structs.items() if ranges[0][0] == 0}
        assert read_state_vector(pycrdt.get_state(update)) == whole
        assert len(update) > shape.deletes_at


def test_a_head_names_what_it_is_placed_by() -> None:
    update = bytes.fromhex("01010705a80704017d0500")
    assert {7: (5, [(7, 4)])} == read_update(update).heads


def test_ranges_that_touch_are_united() -> None:
    assert [(0, 5), (6, 9)] == union([(6, 7), (0, 3), (1, 2), (3, 5), (6, 9)])
    assert [] == union([])


def test_a_delete_set_has_one_encoding() -> None:
    assert "0205010304" + "0702" + "01010503" == encode_delete_set({7: [(5, 8), (1, 2)], 5: [(3, 7)]}).hex()


@pytest.mark.parametrize("read", READERS)
@pytest.mark.parametrize("number", [2**24, 2**32 - 1, 2**53 - 1])
@pytest.mark.parametrize(
    "before",
    [b"", b"\1", b"\0", b"\0\1\7", IN_ROOT, IN_ROOT + b"\1\x75", IN_ROOT + b"\1\x76", IN_ROOT + b"\1\x77"],
    ids=["clients", "structs", "deleting clients", "ranges", "values", "list", "object", "text"],
)
def test_no_count_is_believed(before: bytes, number: int, read: Callable[[bytes], object]) -> None:
    with pytest.raises(BadUpdate):
        read(before + write_var_uint(number))


@pytest.mark.parametrize("read", READERS)
@pytest.mark.parametrize("opening", [b"\x75\x01", b"\x76\x01\x01a"])
def test_values_are_nested_only_so_deep(opening: bytes, read: Callable[[bytes], object]) -> None:
    def nested(levels: int) -> bytes:
        return IN_ROOT + b"\1" + opening * levels + b"\x7e\0"

    read(nested(MAX_NESTING))
    with pytest.raises(BadUpdate, match="nested"):
        read(nested(MAX_NESTING + 1))
    with pytest.raises(BadUpdate, match="nested"):
        check_update(nested(100_000))


def test_a_map_that_claims_many_keys_is_looked_into() -> None:
    with pytest.raises(BadUpdate, match="claimed"):
        check_update(IN_ROOT + b"\1\x76" + write_var_uint(128) + b"\1a\x7e\0")


@pytest.mark.parametrize(
    "update",
    [
        IN_ROOT.replace(b"\x28", b"\x2b") + b"\0\0",
        IN_ROOT + b"\1\x20\0",
        IN_ROOT + b"\1\x7b\0",
        IN_ROOT,
        IN_ROOT + b"\1\x7e",
    ],
    ids=["unknown content", "unknown value", "number cut off", "no content", "no delete set"],
)
@pytest.mark.parametrize("read", READERS)
def test_what_no_client_writes_is_refused(update: bytes, read: Callable[[bytes], object]) -> None:
    with pytest.raises(BadUpdate):
        read(update)


@pytest.mark.parametrize("state_vector", ["", "02070100", "ffffffff0f"])
def test_a_state_vector_holds_what_it_claims(state_vector: str) -> None:
    with pytest.raises(BadFrame):
        read_state_vector(bytes.fromhex(state_vector))


def test_deletes_that_touch_nothing_are_read() -> None:
    assert re.fullmatch(r"\{7: \[\(1, 1\)\]\}", str(read_update(bytes.fromhex("000107010100")).deletes))
