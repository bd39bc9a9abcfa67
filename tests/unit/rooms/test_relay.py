"""What waits to be sent to everybody, and who needs no echo of it."""

from crdt import y_websocket
from crdt.merging import EMPTY_UPDATE
from rooms.effects import Broadcast
from rooms.relay import Relay
from tests.unit.rooms.test_room import Editor


def test_only_the_first_of_a_flush_asks_for_it() -> None:
    relay, editor = Relay(), Editor()
    assert relay.add(editor.edit("a"), 1)
    assert not relay.add(editor.edit("b"), 1)
    relay.take()
    assert relay.add(editor.edit("c"), 1)


def test_what_is_of_one_author_alone_needs_no_echo() -> None:
    relay, editor = Relay(), Editor()
    relay.add(editor.edit("a"), 1)
    relay.add(editor.edit("b"), 1)
    sent = relay.take()
    assert 1 == sent.but
    assert {"a": 1, "b": 1} == Editor(9).receive([sent.body]).cells.to_py()
    assert [] == relay.updates


def test_what_is_of_several_or_of_nobody_goes_to_everybody() -> None:
    for sources in ([1, 2, 2], [1, None], [None, 1], [None]):
        relay, editor = Relay(), Editor()
        for key, source in enumerate(sources):
            relay.add(editor.edit(str(key)), source)
        assert relay.take().but is None, sources


def test_what_is_not_integrated_yet_is_not_sent() -> None:
    relay, update = Relay(), Editor().edit("a")
    assert not relay.add(EMPTY_UPDATE, 2)
    assert relay.add(update, 1)
    assert Broadcast(y_websocket.update(update), 1) == relay.take()
