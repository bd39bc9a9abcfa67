"""Awareness between its arrival and its flush."""

from uuid import UUID

from crdt import awareness, y_websocket
from crdt.awareness import Entry
from crdt.messages import Awareness
from rooms.audience import Seat
from rooms.cursors import Cursors
from rooms.effects import NOTHING, Broadcast, Close, Effects, FlushAt
from rooms.pacing import Pacer
from rooms.peer import Member
from rooms.presence import Presence
from tmi.domain.errors import BadFrame
from tmi.domain.ids import SignInId, UserId
from tmi.domain.roles import Role

HERE = {1, 2}
TICK_S = 0.04


def cursors(unread_max_bytes: int = 1000) -> Cursors:
    return Cursors(Presence(), Pacer(TICK_S, 100.0), unread_max_bytes)


def seat(number: int) -> Seat:
    name = UUID(int=number)
    return Seat(number, Member(UserId(name), SignInId(name), Role.READER), False, False)


def node() -> Seat:
    return Seat(9, None, True, True)


def said(client: int, clock: int, state: bytes = b"{}") -> bytes:
    return awareness.encode([Entry(client, clock, state)])


def clocks(sent: Broadcast) -> dict[int, int]:
    (message,) = y_websocket.decode(sent.body)
    assert isinstance(message, Awareness)
    entries = awareness.parse(message.data, max_entries=10, max_state_bytes=10_000)
    return {entry.client: entry.clock for entry in entries}


def blame(number: int, fault: BadFrame, _now: float) -> Effects:
    return [Close(number, 4400, str(fault))]


def test_what_comes_while_no_flush_is_due_is_read_at_once() -> None:
    target = cursors()
    assert not target.hold(seat(1), said(7, 1))
    assert [FlushAt(1.0)] == target.receive(seat(1), said(7, 1), 1.0, members=2)
    assert {7: 1} == clocks(target.take(1.0))


def test_what_comes_for_a_flush_is_read_when_that_is_due() -> None:
    target = cursors()
    target.receive(seat(1), said(7, 1), 1.0, members=2)
    assert target.hold(seat(2), said(8, 1))
    assert target.unread_bytes > 0
    assert [] == target.read(1.0, HERE, blame)
    assert 0 == target.unread_bytes
    assert {7: 1, 8: 1} == clocks(target.take(1.0))


def test_who_moves_does_not_wait_for_those_who_come() -> None:
    target = cursors()
    target.receive(seat(1), said(7, 1), 1.0, members=1)
    target.take(1.0)
    target.receive(seat(2), said(8, 1), 1.01, members=2)
    assert 1.0 + TICK_S == target.due(1.01, members=2)
    assert not target.hold(seat(1), said(7, 2))
    assert [FlushAt(1.01)] == target.receive(seat(1), said(7, 2), 1.01, members=1)


def test_no_more_is_kept_than_may_be() -> None:
    target = cursors(unread_max_bytes=100)
    target.receive(seat(1), said(7, 1), 1.0, members=2)
    kept = [target.hold(seat(2), said(8, clock)) for clock in range(1, 5)]
    assert [True, True, False, False] == kept


def test_what_somebody_said_who_is_gone_is_not_read() -> None:
    target = cursors()
    target.receive(seat(1), said(7, 1), 1.0, members=2)
    target.hold(seat(3), said(9, 1))
    assert [] == target.read(1.0, HERE, blame)
    assert {7: 1} == clocks(target.take(1.0))


def test_who_is_at_fault_is_blamed_and_others_are_read() -> None:
    target = cursors()
    target.receive(seat(1), said(7, 1), 1.0, members=2)
    assert target.hold(seat(2), said(8, 1, b"[]"))
    assert target.hold(seat(3), said(9, 1))
    (closed,) = target.read(1.0, HERE | {3}, blame)
    assert isinstance(closed, Close)
    assert 2 == closed.session
    assert {7: 1, 9: 1} == clocks(target.take(1.0))


def test_a_node_has_no_presence_of_its_own() -> None:
    assert NOTHING == cursors().receive(node(), said(7, 1), 1.0, members=2)


def test_a_large_flush_puts_the_next_one_off() -> None:
    target, large = cursors(), b'{"a":"%s"}' % (b"x" * 50_000)
    target.receive(seat(1), said(7, 1, large), 1.0, members=1)
    target.take(1.0)
    assert target.due(1.0, members=1) > 1.047
