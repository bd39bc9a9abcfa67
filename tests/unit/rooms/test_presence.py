"""Presence: whose awareness entry is whose, and which clocks are taken."""

import random
from uuid import UUID

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

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


class LongWay(Presence):
    """What reads every message in full."""

    def _take_newer(self, session: int, user: UserId, data: bytes) -> bool:
        return False


def a_state(size: int) -> bytes:
    return b'{"x":"%s"}' % (b"x" * (size - 8))


STATES = [b"{}", b"null", b"{", b" {}", b"7", *(a_state(size) for size in (9, 127, 128, 150, 151))]
MESSAGES = st.lists(
    st.tuples(
        st.sampled_from([(1, ALICE), (2, ALICE), (3, BOB)]),
        st.lists(
            st.tuples(
                st.sampled_from([5, 7, 8, 300, 2**31]),
                st.one_of(st.integers(0, 6), st.sampled_from([127, 128, 16_383, 16_384, 2_097_152, 2**40])),
                st.sampled_from(STATES),
            ),
            min_size=1,
            max_size=2,
        ),
        st.sampled_from([b"", b"\x00"]),
    ),
    max_size=12,
)  # fmt: skip


def outcome(presence: Presence, session: int, user: UserId, data: bytes) -> object:
    try:
        return presence.receive(session, user, data)
    except BadFrame as fault:
        return str(fault)


@settings(max_examples=300, deadline=None)
@given(MESSAGES, st.integers(0, 12))
def test_the_short_way_of_a_move_comes_to_the_same_as_the_long_one(
    messages: list[tuple[tuple[int, UserId], list[tuple[int, int, bytes]], bytes]], leaves_after: int
) -> None:
    short, long = Presence(state_max_bytes=150), LongWay(state_max_bytes=150)
    for number, ((session, user), said, behind) in enumerate(messages):
        data = entries(*said) + behind
        assert outcome(short, session, user, data) == outcome(long, session, user, data)
        if number == leaves_after:
            assert short.leave(session) == long.leave(session)
        if number % 3 == 0:
            assert short.take_changes() == long.take_changes()
        assert short.known() == long.known()
    assert short.everybody() == long.everybody()


def test_a_move_with_a_number_written_too_long_is_read_all_the_same() -> None:
    presence = Presence()
    presence.receive(1, ALICE, entries((7, 1, b"{}")))
    presence.receive(1, ALICE, b"\x01\x07\x83\x00\x07" + b'{"x":1}')
    assert [(7, 3, b'{"x":1}')] == changes(presence)


def test_a_move_of_a_client_is_taken_the_short_way() -> None:
    class NoLongWay(Presence):
        def _take(self, session: int, user: UserId, entry: Entry) -> bool:
            assert entry.clock == 1, "only who comes takes the long way"
            return super()._take(session, user, entry)

    presence = NoLongWay()
    for clock in (1, 2, 200, 20_000, 2_000_000):
        presence.receive(1, ALICE, entries((7, clock, b"{}")))
        assert [(7, clock, b"{}")] == changes(presence)


def test_ids_beyond_those_of_a_session_are_not_taken_and_counted() -> None:
    presence = Presence(ids_per_session=2)
    presence.receive(1, ALICE, entries(*((id_, 1, b"{}") for id_ in range(1, 5))))
    assert ([1, 2], 2) == ([id_ for id_, _, _ in changes(presence)], presence.refusals["presence_ids"])
    presence.receive(2, ALICE, entries((3, 1, b"{}")))
    assert [3] == [id_ for id_, _, _ in changes(presence)]


def test_all_of_it_is_bounded_and_who_is_here_moves_on() -> None:
    state, larger = b'{"x":"%s"}' % (b"x" * 1000), b'{"x":"%s"}' % (b"x" * 9000)
    presence = Presence(max_bytes=10_000)
    for session in range(1, 10):
        presence.receive(session, ALICE, entries((session, 1, state)))
    assert [1, 2, 3] == [id_ for id_, _, _ in changes(presence)]
    assert (6, 0) == (presence.refusals["presence_bytes"], presence.refusals["presence_ids"])
    assert 3 * 2 * 1000 < presence.size <= 10_000
    # Neither alone nor with others does an id that is here grow beyond it; as small a state is taken.
    presence.receive(1, ALICE, entries((1, 2, larger)))
    presence.receive(2, ALICE, entries((2, 2, larger), (99, 1, state)))
    assert (9, False) == (presence.refusals["presence_bytes"], presence.dirty)
    presence.receive(1, ALICE, entries((1, 3, state)))
    assert [(1, 3, state)] == changes(presence)
    # Once somebody is gone others find room.
    presence.leave(1)
    presence.receive(9, ALICE, entries((9, 1, state)))
    assert [(1, 3, b"null"), (9, 1, state)] == changes(presence)


def test_what_it_takes_is_counted_through_whatever_happens() -> None:
    chance = random.Random(7)
    presence = Presence(ids_per_session=3, max_bytes=20_000, remembered=4)
    for round_ in range(3000):
        session, client = chance.randrange(8), chance.randrange(30)
        if chance.random() < 0.1:
            presence.leave(session)
        else:
            state = chance.choice([b"null", b"{}", b'{"x":"%s"}' % (b"x" * chance.randrange(1500))])
            user = chance.choice([ALICE, BOB])
            presence.receive(session, user, entries((client, round_ // 3, state)))
        if chance.random() < 0.3:
            presence.take_changes()
        known = presence.known()
        assert presence.size == sum(512 + 2 * len(entry.state) for entry in known) <= 20_000 + 1100
