"""The registry of live sockets and the frames it never sees."""

import asyncio
from uuid import UUID

import pytest

from api.live.socket import binary_frame
from api.live.sockets import Sockets, address_of
from tests.harness.raw_websocket import BINARY, frame
from tmi.domain.errors import TooManyRequests
from tmi.domain.ids import UserId

ADDRESSES = {
    ("192.0.2.7", 5000): "192.0.2.7",
    ("::ffff:192.0.2.7", 5000, 0, 0): "192.0.2.7",
    ("2001:db8:1:2:3:4:5:6", 5000, 0, 0): "2001:db8:1:2::",
    ("fe80::1%eth0", 5000, 0, 2): "fe80::",
    "": "local",
}
USER = UserId(UUID(int=1))


class Visited:
    """A socket that counts what the registry does to it."""

    messages_in = bytes_in = queued_bytes = 0
    user: UserId | None = None
    serial = 0

    def __init__(self) -> None:
        self.visits: list[float] = []
        self.closed: list[int] = []
        self.aborted = 0

    def visit(self, now: float) -> None:
        self.visits.append(now)

    def close(self, code: int, reason: str) -> None:
        self.closed.append(code)

    def abort(self) -> None:
        self.aborted += 1


class Connection(asyncio.BaseTransport):
    """A connection from somewhere."""

    def __init__(self, peer: object) -> None:
        super().__init__({"peername": peer})


@pytest.mark.parametrize(("peer", "address"), ADDRESSES.items())
def test_a_connection_counts_for_its_ipv4_address_or_its_ipv6_network(peer: object, address: str) -> None:
    assert address == address_of(Connection(peer))


@pytest.mark.parametrize("size", [0, 1, 125, 126, 127, 65535, 65536, 70000])
def test_a_binary_frame_has_the_shortest_length_encoding_and_no_mask(size: int) -> None:
    payload = bytes(size)
    unmasked = frame(BINARY, payload, masked=False)
    assert unmasked == binary_frame(payload)


async def test_each_socket_is_visited_once_in_a_sweep_and_not_all_at_once() -> None:
    sockets, visited = Sockets(0.2, 10), [Visited() for _ in range(60)]
    for socket in visited:
        sockets.add(socket)
    await asyncio.sleep(0.25)
    for socket in visited:
        sockets.discard(socket)
    assert all(1 <= len(socket.visits) <= 2 for socket in visited)
    assert len({socket.visits[0] for socket in visited}) > 10


async def test_the_sweep_rests_without_sockets_and_begins_again() -> None:
    sockets, first, second = Sockets(0.02, 10), Visited(), Visited()
    sockets.add(first)
    await asyncio.sleep(0.05)
    sockets.discard(first)
    await sockets.none_left()
    seen = len(first.visits)
    await asyncio.sleep(0.05)
    assert seen == len(first.visits)
    sockets.add(second)
    await asyncio.sleep(0.05)
    assert second.visits
    sockets.discard(second)


async def test_close_and_abort_reach_every_socket() -> None:
    sockets, visited = Sockets(3600, 10), [Visited() for _ in range(30)]
    for socket in visited:
        sockets.add(socket)
    sockets.close_all(1012, "bye")
    sockets.abort_all()
    assert [([1012], 1)] * 30 == [(socket.closed, socket.aborted) for socket in visited]
    for socket in visited:
        sockets.discard(socket)
        sockets.discard(socket)
    assert 0 == len(sockets)


async def test_seats_of_a_user_are_counted() -> None:
    sockets = Sockets(3600, 2)
    sockets.take_seat(USER)
    sockets.take_seat(USER)
    with pytest.raises(TooManyRequests):
        sockets.take_seat(USER)
    sockets.leave_seat(USER)
    sockets.take_seat(USER)
    assert 2 == sockets.documents_of(USER)
    sockets.leave_seat(USER)
    sockets.leave_seat(USER)
    assert 0 == sockets.documents_of(USER)
