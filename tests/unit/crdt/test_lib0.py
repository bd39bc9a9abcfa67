"""The primitive encodings of lib0."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crdt.lib0 import MAX_SAFE_INTEGER, Decoder, var_bytes, var_string, write_var_uint
from tmi.domain.errors import BadFrame


@pytest.mark.parametrize(
    ("number", "encoded"),
    [
        (0, "00"),
        (127, "7f"),
        (128, "8001"),
        (300, "ac02"),
        (2**32 - 1, "ffffffff0f"),
        (MAX_SAFE_INTEGER, "ffffffffffffff0f"),
    ],
)
def test_a_number_is_encoded_as_lib0_does(number: int, encoded: str) -> None:
    assert encoded == write_var_uint(number).hex()
    assert number == Decoder(bytes.fromhex(encoded)).read_var_uint()


@given(st.lists(st.integers(0, MAX_SAFE_INTEGER)), st.binary(max_size=300), st.text(max_size=100))
def test_what_is_written_is_read_again(numbers: list[int], content: bytes, text: str) -> None:
    encoded = b"".join(map(write_var_uint, numbers)) + var_bytes(content) + var_string(text)
    decoder = Decoder(memoryview(encoded))
    assert numbers == [decoder.read_var_uint() for _ in numbers]
    assert content == decoder.read_var_bytes()
    assert text == decoder.read_var_string()
    assert 0 == decoder.remaining()


@pytest.mark.parametrize(
    "encoded",
    ["", "80", "ffffffffffffff1f", "ffffffffffffffffff01", "8080808080808080", "808080808080808000"],
)
def test_a_number_that_is_cut_off_or_too_large_is_refused(encoded: str) -> None:
    with pytest.raises(BadFrame):
        Decoder(bytes.fromhex(encoded)).read_var_uint()


@pytest.mark.parametrize("encoded", ["01", "0561", "ffffffffffffff0f61"])
def test_a_length_past_the_end_is_refused(encoded: str) -> None:
    with pytest.raises(BadFrame):
        Decoder(bytes.fromhex(encoded)).read_var_bytes()


@pytest.mark.parametrize("encoded", ["01ff", "03eda080", "02c080"])
def test_a_string_that_is_not_utf8_is_refused(encoded: str) -> None:
    with pytest.raises(BadFrame):
        Decoder(bytes.fromhex(encoded)).read_var_string()


def test_bytes_past_the_end_can_neither_be_read_nor_skipped() -> None:
    decoder = Decoder(b"\x01")
    assert 1 == decoder.read_byte()
    with pytest.raises(BadFrame):
        decoder.read_byte()
    with pytest.raises(BadFrame):
        decoder.skip(1)


@pytest.mark.parametrize("number", [-1, 2**53])
def test_a_number_that_lib0_does_not_have_is_not_written(number: int) -> None:
    with pytest.raises(ValueError, match="not a lib0"):
        write_var_uint(number)
