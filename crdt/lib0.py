"""The primitive encodings of lib0: LEB128 integers and length-prefixed bytes and strings.

Every length is compared with the bytes that remain before it is believed.
"""

from tmi.domain.errors import BadFrame

MAX_SAFE_INTEGER = 2**53 - 1
"""lib0 numbers are JavaScript numbers; nothing larger is ever written (lib0 `decoding.readVarUint`)."""


class Decoder:
    """Reads lib0 values from the front of some bytes; every method raises BadFrame on malformed input."""

    __slots__ = ("_data", "_end", "_position")

    def __init__(self, data: bytes | memoryview) -> None:
        self._data = bytes(data)
        self._position = 0
        self._end = len(self._data)

    @property
    def position(self) -> int:
        """How many bytes have been read."""
        return self._position

    def seek(self, position: int) -> None:
        """Go on at a position."""
        if position > self._end:
            raise BadFrame("the frame ends too early")
        self._position = position

    def remaining(self) -> int:
        """How many bytes have not been read."""
        return self._end - self._position

    def read_byte(self) -> int:
        position = self._position
        if position >= self._end:
            raise BadFrame("the frame ends too early")
        self._position = position + 1
        return self._data[position]

    def skip(self, count: int) -> None:
        """Pass over `count` bytes."""
        if count > self._end - self._position:
            raise BadFrame("the frame ends too early")
        self._position += count

    def read_var_uint(self) -> int:
        position = self._position
        data = self._data
        if position < self._end and data[position] < 0x80:
            self._position = position + 1
            return data[position]
        number, self._position = read_var_uint(data, position, self._end)
        return number

    def read_var_bytes(self) -> bytes:
        length = self.read_var_uint()
        start = self._position
        if length > self._end - start:
            raise BadFrame("a length reaches past the end of the frame")
        self._position = start + length
        return self._data[start : start + length]

    def read_var_string(self) -> str:
        try:
            return self.read_var_bytes().decode()
        except UnicodeDecodeError:
            raise BadFrame("a string is not UTF-8") from None


def read_var_uint(data: bytes, position: int, end: int) -> tuple[int, int]:
    """The number at a position, and where the next value begins. Raises BadFrame."""
    number = shift = 0
    # 8 bytes hold 56 bits: a ninth byte could only be larger than lib0 allows.
    for index in range(position, min(position + 8, end)):
        byte = data[index]
        number |= (byte & 0x7F) << shift
        if byte < 0x80:
            if number > MAX_SAFE_INTEGER:
                break
            return number, index + 1
        shift += 7
    else:
        if end - position < 8:
            raise BadFrame("the frame ends too early")
    raise BadFrame("a number is larger than 2^53 - 1")


_SMALL = tuple(bytes((number,)) for number in range(0x80))


def write_var_uint(number: int) -> bytes:
    """LEB128 of a number from 0 to 2^53 - 1."""
    if 0 <= number < 0x80:
        return _SMALL[number]
    if not 0 <= number <= MAX_SAFE_INTEGER:
        raise ValueError(f"not a lib0 unsigned integer: {number}")
    encoded = bytearray()
    while number >= 0x80:
        encoded.append(number & 0x7F | 0x80)
        number >>= 7
    encoded.append(number)
    return bytes(encoded)


def var_bytes(content: bytes) -> bytes:
    """The bytes behind their length."""
    size = len(content)
    return (_SMALL[size] if size < 0x80 else write_var_uint(size)) + content


def var_string(text: str) -> bytes:
    """The string's UTF-8 behind its length in bytes."""
    return var_bytes(text.encode())
