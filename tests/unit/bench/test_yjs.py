"""The generator's handmade updates, held against Yjs in Rust."""

import contextlib
from typing import Any

import pycrdt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.yjs import (
    EMPTY_UPDATE,
    MapWriter,
    Reader,
    any_int,
    any_position,
    clock_in_state_vector,
    keyed_structs,
    var_bytes,
    var_uint,
)


def _document_of(*updates: bytes) -> pycrdt.Doc[pycrdt.Map[object]]:
    document: pycrdt.Doc[pycrdt.Map[object]] = pycrdt.Doc()
    for update in updates:
        document.apply_update(update)
    return document


def _content(document: pycrdt.Doc[pycrdt.Map[object]]) -> object:
    return document.get("meta", type=pycrdt.Map).to_py()


def test_a_written_edit_is_what_yjs_reads() -> None:
    writer = MapWriter(4_294_967_295, "meta")
    updates = [writer.set(b"0.0", any_position(3, -70)), writer.set(b"0.1", any_position(1900, 0))]
    document = _document_of(*updates)
    assert {"0.0": [3, -70], "0.1": [1900, 0]} == _content(document)


@given(st.integers(min_value=-(2**40), max_value=2**40))
def test_every_integer_survives(number: int) -> None:
    writer = MapWriter(7, "meta")
    assert {"k": number} == _content(_document_of(writer.set(b"k", any_int(number))))


@given(st.integers(min_value=0, max_value=2**53))
def test_a_var_uint_reads_back(number: int) -> None:
    assert number == Reader(var_uint(number)).var_uint()


def test_merged_updates_still_show_every_edit_with_its_author_and_bytes() -> None:
    writers = [MapWriter(client, "meta") for client in (11, 2**31, 5)]
    updates = [writer.set(b"%d" % n, any_position(n, n)) for n in range(4) for writer in writers]
    found = {(s.client, s.clock): (s.key, s.content) for s in keyed_structs(pycrdt.merge_updates(*updates))}
    assert {(w.client, clock): pair for w in writers for clock, pair in enumerate(w.written)} == found


def test_a_document_s_state_still_shows_every_edit() -> None:
    writer = MapWriter(11, "meta")
    state = _document_of(*(writer.set(b"%d" % n, any_position(n, n)) for n in range(50))).get_update()
    assert writer.written == [(s.key, s.content) for s in sorted(keyed_structs(state), key=lambda s: s.clock)]


def test_structs_of_every_kind_are_skipped() -> None:
    document: pycrdt.Doc[Any] = pycrdt.Doc(client_id=9)
    text = document.get("text", type=pycrdt.Text)
    text += "häß😀lich"
    text.format(0, 3, {"bold": True})
    text.insert_embed(2, {"image": "x"})
    del text[1:2]
    cells = document.get("cells", type=pycrdt.Map)
    cells["a"] = pycrdt.Map({"list": pycrdt.Array([1, 2.5, None, True, "s", b"raw", {"k": [1]}])})
    cells["b"] = pycrdt.Doc()
    cells["xml"] = pycrdt.XmlFragment()
    writer = MapWriter(77, "meta")
    document.apply_update(writer.set(b"mine", any_position(1, 2)))
    mine = [struct for struct in keyed_structs(document.get_update()) if struct.client == 77]
    assert [(b"mine", writer.written[0][1])] == [(struct.key, struct.content) for struct in mine]


def test_the_rest_of_what_was_written_completes_a_document() -> None:
    writer = MapWriter(300, "meta")
    updates = [writer.set(b"%d" % n, any_position(n, n)) for n in range(5)]
    behind = _document_of(*updates[:2])
    have = clock_in_state_vector(behind.get_state(), 300)
    assert 2 == have
    behind.apply_update(writer.since(have))
    assert _content(_document_of(*updates)) == _content(behind)


def test_with_nothing_missing_the_answer_is_the_empty_update() -> None:
    assert EMPTY_UPDATE == MapWriter(1, "meta").since(0)


@given(st.binary(max_size=64))
def test_bytes_that_are_no_update_raise_value_error_or_yield_structs(data: bytes) -> None:
    with contextlib.suppress(ValueError):
        assert all(0 <= struct.clock for struct in keyed_structs(data))


@pytest.mark.parametrize("cut", range(1, 12))
def test_a_truncated_update_raises(cut: int) -> None:
    update = MapWriter(5, "meta").set(b"key", any_position(1, 2))
    with pytest.raises(ValueError, match=r"truncated|unknown"):
        list(keyed_structs(update[: -cut - 1]))


def test_bytes_carry_their_length() -> None:
    assert b"\x03abc" == var_bytes(b"abc")
