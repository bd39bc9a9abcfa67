"""Who is here, as a replica knows it: what of its clients' awareness owners have to hear."""

import pytest

from crdt import awareness
from crdt.awareness import Entry
from rooms.nodes.presence import HeardPresence
from tmi.domain.errors import StateTooLarge

VISITOR = Entry(9, 3, b'{"name":"visitor"}')
GONE = Entry(9, 3, b"null")
OWN = Entry(7, 1, b"{}")


def heard(*entries: Entry) -> HeardPresence:
    presence = HeardPresence(ids_per_session=16, state_max_bytes=1024)
    presence.say(1, awareness.encode([OWN]))
    for entry in entries:
        presence.hear(awareness.encode([entry]))
    return presence


def said(presence: HeardPresence, session: int) -> list[Entry]:
    data = presence.said_by(session)
    return [] if data is None else awareness.parse(data)


def test_who_repeats_what_it_heard_of_somebody_who_has_gone_does_not_speak_for_them() -> None:
    """y-websocket 3.x repeats all it hears; the next owner would take them for one of its clients."""
    presence = heard(VISITOR, GONE)
    assert None is presence.say(1, awareness.encode([VISITOR]))
    assert [OWN] == said(presence, 1)


def test_a_client_that_comes_back_with_the_clock_it_had_is_passed_on() -> None:
    presence = heard(VISITOR, GONE)
    assert [VISITOR] == awareness.parse(presence.say(2, awareness.encode([VISITOR])) or b"\0")
    assert [VISITOR] == said(presence, 2)


def test_another_tab_of_which_nobody_has_heard_is_passed_on() -> None:
    presence = heard()
    assert [VISITOR] == awareness.parse(presence.say(1, awareness.encode([VISITOR])) or b"\0")
    assert [OWN, VISITOR] == said(presence, 1)


def test_a_tab_that_has_gone_and_comes_back_with_a_newer_clock_is_passed_on() -> None:
    presence = heard(VISITOR, GONE)
    back = Entry(9, 4, b"{}")
    assert [back] == awareness.parse(presence.say(1, awareness.encode([back])) or b"\0")


def test_who_comes_again_beside_a_half_open_connection_is_passed_on_before_whom_they_repeat() -> None:
    """The owner takes the first for the session's own: another's would be kept from its user."""
    presence = heard(VISITOR, Entry(8, 5, b"{}"))
    assert [VISITOR] == awareness.parse(presence.say(2, awareness.encode([VISITOR])) or b"\0")
    presence.say(2, awareness.encode([Entry(8, 6, b"{}")]))
    assert [VISITOR, Entry(8, 6, b"{}")] == said(presence, 2)
    assert None is presence.say(2, awareness.encode([VISITOR]))


def test_what_sessions_said_is_bounded_in_all_and_forgotten_with_them() -> None:
    presence = HeardPresence(ids_per_session=16, state_max_bytes=1024, max_bytes=2000)
    state = b'{"name":"%s"}' % (b"x" * 900)
    for session in range(1, 5):
        # The owner hears of it all the same, and decides.
        assert presence.say(session, awareness.encode([Entry(session, 1, state)])) is not None
    assert [1, 0, 0, 0] == [len(said(presence, session)) for session in range(1, 5)]
    assert 900 < presence.size <= 2000
    presence.leave(1)
    assert 0 == presence.size
    presence.say(2, awareness.encode([Entry(2, 2, state)]))
    assert [Entry(2, 2, state)] == said(presence, 2)


def test_what_it_takes_is_counted() -> None:
    presence = heard(VISITOR, GONE, Entry(9, 4, b"{}"))
    assert 2 * 256 + len(OWN.state) + 2 == presence.size
    presence.inherit([Entry(8, 1, b'{"a":1}')], {1: [OWN], 2: [VISITOR]})
    sizes = [len(state) for state in (OWN.state, b"{}", b'{"a":1}', VISITOR.state)]
    assert 4 * 256 + sum(sizes) == presence.size
    presence = HeardPresence(ids_per_session=16, state_max_bytes=1024, remembered=1)
    for client in range(3):
        presence.hear(awareness.encode([Entry(client, 1, b"null")]))
    assert 256 + 4 == presence.size


def test_what_an_owner_lets_somebody_say_is_taken_however_large() -> None:
    """Its bound may be another one than ours, as while a setting is changed node by node."""
    presence = HeardPresence(ids_per_session=16, state_max_bytes=10)
    presence.hear(awareness.encode([VISITOR]))
    assert awareness.encode([VISITOR]) == presence.everybody()
    with pytest.raises(StateTooLarge):
        presence.say(1, awareness.encode([VISITOR]))
