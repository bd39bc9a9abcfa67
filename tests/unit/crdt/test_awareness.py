"""Awareness entries."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crdt import awareness
from crdt.awareness import Entry
from tmi.domain.errors import BadFrame

entries = st.builds(Entry, st.integers(0, 2**53 - 1), st.integers(0, 2**32), st.binary(max_size=40))


@given(st.lists(entries, max_size=20))
def test_what_is_encoded_is_parsed_again(given_entries: list[Entry]) -> None:
    assert given_entries == awareness.parse(awareness.encode(given_entries))


def test_the_encoding_is_that_of_y_protocols() -> None:
    assert "010100027b7d" == awareness.encode([Entry(1, 0, b"{}")]).hex()


@pytest.mark.parametrize(
    "data", ["", "01", "0101", "010100", "01010002", "010100027b7d00", "ffff7f", "05010000"]
)
def test_malformed_data_is_refused(data: str) -> None:
    with pytest.raises(BadFrame):
        awareness.parse(bytes.fromhex(data))


def test_entries_and_states_are_bounded() -> None:
    with pytest.raises(BadFrame):
        awareness.parse(awareness.encode([Entry(n, 1, b"{}") for n in range(5)]), max_entries=4)
    with pytest.raises(BadFrame):
        awareness.parse(awareness.encode([Entry(1, 1, b'{"a":1}')]), max_state_bytes=6)


@pytest.mark.parametrize(
    ("state", "fine"),
    [
        (b"null", True),
        (b"{}", True),
        (b' {"cursor":[1,2]}', True),
        (b"[]", False),
        (b"1", False),
        (b"", False),
        (b"{", False),
        (b'{"a":"\xff"}', False),
        (b'{"a":' * 5000 + b"1" + b"}" * 5000, False),
        (b'{"a":NaN}', False),
    ],
)
def test_a_state_is_an_object_or_null(state: bytes, fine: bool) -> None:
    assert fine == awareness.is_json_object_or_null(state)
