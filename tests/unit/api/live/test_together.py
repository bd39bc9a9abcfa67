"""Several frames in one write."""

import pytest

from api.live.options import LiveOptions
from api.live.socket import LiveSocket
from api.live.sockets import Sockets


@pytest.fixture
async def socket() -> LiveSocket:
    return LiveSocket(LiveOptions(), Sockets(3600, 10))


async def test_what_is_written_meanwhile_leaves_in_one_write(socket: LiveSocket) -> None:
    written: list[bytes] = []
    socket.write = write = written.append

    def answer(message: bytes) -> None:
        socket.write(message)
        socket.write(b"2")
        assert not written

    socket.together(answer, b"1")
    assert written == [b"12"]
    assert socket.write is write
    socket.together(lambda _: None, b"1")
    assert written == [b"12"]


async def test_what_was_written_before_a_failure_leaves_before_its_close(socket: LiveSocket) -> None:
    written: list[bytes] = []
    socket.write = written.append

    def fail(message: bytes) -> None:
        socket.write(message)
        raise ValueError

    with pytest.raises(ValueError, match=r"^$"):
        socket.together(fail, b"1")
    assert written == [b"1"]


async def test_nothing_follows_a_close(socket: LiveSocket) -> None:
    written: list[bytes] = []
    discarded: list[bytes] = []
    socket.write = written.append

    def close(message: bytes) -> None:
        socket.write(message)
        socket.write = discarded.append

    socket.together(close, b"1")
    socket.write(b"2")
    assert (written, discarded) == ([], [b"2"])
