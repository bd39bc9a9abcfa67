"""Presence: whose awareness entry is whose, and which clocks are taken."""

from uuid import UUID

import pytest

from crdt import awareness
from crdt.awareness import Entry
from rooms.presence import Presence
from tmi.domain.errors import BadFrame
from tmi.domain.ids import UserId

ALICE, BOB = UserId(UUID(int=1)), UserId(UUID(int=2))


def entries(*items: tuple[int, int, bytes]) -> bytes:
    return awareness.encode([Entry(*item) for item in items])


def changes(presence: Presence) -> list[tuple[int, int, bytes]]:
    data, _ = presence.take_changes()
    return [(e.client, e.clock, e.state) for e in awareness.parse(data)]


def test_a_newer_clock_is_taken_and_an_older_one_is_not() -> None:
    presence = Presence()
    presence.receive(1, ALICE, entries((7, 2, b'{"a":1}')))
    presence.receive(1, ALICE, entries((7, 1, b'{"a":0}')))
    assert [(7, 2, b'{"a":1}')] == changes(presence)
    presence.receive(1, ALICE, entries((7, 2, b'{"a":2}')))
    assert not presence.dirty


def test_an_equal_clock_is_taken_when_it_means_gone() -> None:
    presence = Presence()
    presence.receive(1, ALICE, entries((7, 2, b"{}")))
    presence.receive(1, ALICE, entries((7, 2, b"null")))
    assert [(7, 2, b"null")] == changes(presence)


def test_only_the_last_state_of_a_tick_goes_out() -> None:
    presence = Presence()
    for clock in range(1, 9):
        presence.receive(1, ALICE, entries((7, clock, b'{"x":%d}' % clock)))
    assert [(7, 8, b'{"x":8}')] == changes(presence)


def test_another_user_cannot_speak_for_a_client_id() -> None:
    presence = Presence()
    presence.receive(1, ALICE, entries((7, 1, b'{"name":"alice"}')))
    presence.receive(2, BOB, entries((8, 1, b"{}"), (7, 5, b'{"name":"mallory"}')))
    presence.receive(2, BOB, entries((7, 6, b"null")))
    assert [(7, 1, b'{"name":"alice"}'), (8, 1, b"{}")] == changes(presence)


def test_who_only_repeats_what_it_heard_of_a_client_id_does_not_keep_it_from_its_user() -> None:
    """As clients of a follower do, whose seats at a new owner come in any order."""
    presence = Presence()
    presence.receive(1, ALICE, entries((7, 1, b"{}"), (8, 3, b'{"name":"bob"}')))
    presence.receive(2, BOB, entries((8, 3, b'{"name":"bob"}')))
    presence.receive(2, BOB, entries((8, 4, b'{"name":"bob","x":1}')))
    presence.receive(1, ALICE, entries((8, 5, b'{"name":"mallory"}')))
    assert [(7, 1, b"{}"), (8, 4, b'{"name":"bob","x":1}')] == changes(presence)
    presence.leave(1)
    assert [(7, 1, b"null")] == changes(presence)


def test_the_binding_outlives_the_departure() -> None:
    presence = Presence()
    presence.receive(1, ALICE, entries((7, 1, b"{}")))
    presence.leave(1)
    presence.receive(2, BOB, entries((7, 5, b'{"name":"mallory"}')))
    assert presence.everybody() is None


def test_a_departure_is_told_once_with_the_clock_the_client_had() -> None:
    presence = Presence()
    presence.receive(1, ALICE, entries((7, 4, b"{}")))
    presence.take_changes()
    assert presence.leave(1)
    assert [(7, 4, b"null")] == changes(presence)
    assert not presence.leave(1)


def test_who_returns_with_its_old_clock_is_sent_its_departure() -> None:
    presence = Presence()
    presence.receive(1, ALICE, entries((7, 4, b"{}")))
    presence.leave(1)
    back = presence.receive(2, ALICE, entries((7, 4, b"{}")))
    assert back is not None
    assert [Entry(7, 4, b"null")] == awareness.parse(back)
    presence.receive(2, ALICE, entries((7, 5, b"{}")))
    assert frozenset({ALICE}) == presence.users()


def test_a_new_connection_takes_over_from_a_half_open_one() -> None:
    presence = Presence()
    presence.receive(1, ALICE, entries((7, 4, b"{}")))
    presence.receive(2, ALICE, entries((7, 4, b"{}")))
    assert not presence.leave(1)
    assert presence.leave(2)


def test_a_tab_that_passes_on_another_tabs_state_does_not_own_it() -> None:
    presence = Presence()
    presence.receive(1, ALICE, entries((7, 1, b"{}")))
    presence.receive(2, ALICE, entries((8, 1, b"{}")))
    presence.receive(2, ALICE, entries((7, 2, b'{"x":1}')))
    presence.take_changes()
    presence.leave(2)
    assert [(8, 1, b"null")] == changes(presence)


def test_a_session_speaks_for_a_bounded_number_of_ids() -> None:
    presence = Presence(ids_per_session=3)
    presence.receive(1, ALICE, entries(*((n, 1, b"{}") for n in range(10))))
    assert 3 == len(changes(presence))


def test_departures_are_remembered_up_to_a_bound() -> None:
    presence = Presence(remembered=2)
    for session in range(1, 6):
        presence.receive(session, ALICE, entries((session, 1, b"{}")))
        presence.leave(session)
        presence.take_changes()
    back = presence.receive(9, ALICE, entries((5, 1, b"{}")))
    assert back is not None
    assert presence.receive(10, ALICE, entries((1, 1, b"{}"))) is None


def test_a_single_source_is_named_so_that_it_needs_no_echo() -> None:
    presence = Presence()
    presence.receive(1, ALICE, entries((7, 1, b"{}")))
    assert 1 == presence.take_changes()[1]
    presence.receive(1, ALICE, entries((7, 2, b"{}")))
    presence.receive(2, BOB, entries((8, 1, b"{}")))
    assert presence.take_changes()[1] is None


@pytest.mark.parametrize("state", [b"{", b"[1]", b'"x"', b"{\xff}", b""])
def test_a_state_that_is_no_json_object_is_a_bad_frame(state: bytes) -> None:
    with pytest.raises(BadFrame):
        Presence().receive(1, ALICE, entries((7, 1, state)))
