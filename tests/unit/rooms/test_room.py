"""The room core: what it answers to what happens."""

from collections.abc import Iterable
from typing import Any, TypeVar
from uuid import UUID

from pycrdt import Doc, Map

from crdt import awareness, y_websocket
from crdt.awareness import Entry
from crdt.document import MAX_PENDING_BYTES, Document
from crdt.messages import Awareness, Message, SyncStep1, SyncStep2, Update
from rooms.edits import RoomLimits
from rooms.effects import (
    Acknowledge,
    Broadcast,
    ChangeRole,
    Close,
    Effect,
    FlushAt,
    Journal,
    Refuse,
    Send,
    SendState,
    Subscribe,
    Unsubscribe,
)
from rooms.peer import Member
from rooms.room import Room
from tmi.domain.ids import DiagramId, Fence, Seq, SignInId, UserId
from tmi.domain.ports import Origin
from tmi.domain.roles import Role

E = TypeVar("E", bound=Effect)
EMPTY_UPDATE = b"\x00\x00"


def member(name: int = 1, role: Role = Role.WRITER) -> Member:
    return Member(UserId(UUID(int=name)), SignInId(UUID(int=name)), role)


def room(limits: RoomLimits | None = None) -> Room:
    return Room(DiagramId(UUID(int=9)), Fence(1), Document.load(None, []), Seq(0), limits or RoomLimits())


class Editor:
    """A Yjs document whose edits come out as updates."""

    def __init__(self, client: int = 7) -> None:
        self.doc: Doc[Any] = Doc(client_id=client)
        self.cells = self.doc.get("cells", type=Map)

    def edit(self, key: str, value: int = 1) -> bytes:
        before = self.doc.get_state()
        self.cells[key] = value
        return self.doc.get_update(before)

    def receive(self, bodies: Iterable[bytes]) -> "Editor":
        for body in bodies:
            for message in y_websocket.decode(body):
                if isinstance(message, SyncStep2 | Update):
                    self.doc.apply_update(message.update)
        return self


def only(kind: type[E], effects: Iterable[Effect]) -> list[E]:
    return [effect for effect in effects if isinstance(effect, kind)]


def greet(target: Room, who: Member) -> int:
    number = target.join(who)
    target.receive(number, SyncStep1(b"\x00"), 0.0)
    return number


def decoded(send: Send) -> Message:
    (message,) = y_websocket.decode(send.body)
    return message


def state_of(state: SendState) -> dict[str, int]:
    updates = [y_websocket.update(state.base), y_websocket.sync_step2(state.later)]
    cells: dict[str, int] = Editor(9).receive(updates).cells.to_py()
    return cells


def test_a_newcomer_is_synced_subscribed_and_asked_in_this_order() -> None:
    target = room()
    number = target.join(member())
    effects = list(target.receive(number, SyncStep1(b"\x00"), 0.0))
    assert [SendState, Subscribe, Send] == [type(effect) for effect in effects]
    (step1,) = only(Send, effects)
    assert isinstance(decoded(step1), SyncStep1)


def test_who_knows_something_is_sent_the_difference() -> None:
    target, editor = room(), Editor()
    number = greet(target, member(1))
    target.receive(number, Update(editor.edit("a")), 1.0)
    newcomer = target.join(member(2))
    step2, _ = only(Send, target.receive(newcomer, SyncStep1(editor.doc.get_state()), 1.0))
    assert isinstance(decoded(step2), SyncStep2)
    assert {} == Editor(9).receive([step2.body]).cells.to_py()


def test_an_edit_is_numbered_journaled_and_sent_to_the_others_only() -> None:
    target, editor = room(), Editor()
    author, other = greet(target, member(1)), greet(target, member(2))
    assert [FlushAt(1.0)] == list(target.receive(author, Update(editor.edit("a")), 1.0))
    effects = target.flush(1.0)
    assert 1 == target.seq
    assert [Journal()] == only(Journal, effects)
    (broadcast,) = only(Broadcast, effects)
    assert author == broadcast.but != other
    assert {"a": 1} == Editor(8).receive([broadcast.body]).cells.to_py()


def test_edits_of_one_flush_are_merged_and_go_to_everybody() -> None:
    target, one, two = room(), Editor(7), Editor(8)
    first, second = greet(target, member(1)), greet(target, member(2))
    target.receive(first, Update(one.edit("a")), 1.0)
    target.receive(second, Update(two.edit("b")), 1.0)
    (broadcast,) = only(Broadcast, target.flush(1.0))
    assert broadcast.but is None
    assert {"a": 1, "b": 1} == Editor(9).receive([broadcast.body]).cells.to_py()


def test_an_acknowledgement_waits_for_the_commit() -> None:
    target, editor = room(), Editor()
    number = greet(target, member())
    effects = [*target.receive(number, Update(editor.edit("a")), 1.0), *target.flush(1.0)]
    assert [] == only(Acknowledge, effects)
    batch = target.take_batch()
    assert batch is not None
    assert [1] == [update.seq for update in batch.updates]
    assert [Acknowledge(number, 0, 1)] == list(target.committed())


def test_a_room_has_one_batch_in_flight() -> None:
    target, editor = room(), Editor()
    number = greet(target, member())
    target.receive(number, Update(editor.edit("a")), 1.0)
    target.flush(1.0)
    assert target.take_batch() is not None
    target.receive(number, Update(editor.edit("b")), 1.0)
    target.flush(1.0)
    assert target.take_batch() is None
    assert [Journal()] == only(Journal, target.committed())
    second = target.take_batch()
    assert second is not None
    assert [2] == [update.seq for update in second.updates]


def test_what_adds_nothing_is_acknowledged_once_everything_before_it_is_committed() -> None:
    target, editor = room(), Editor()
    writer, other = greet(target, member(1)), greet(target, member(2))
    target.receive(writer, Update(editor.edit("a")), 1.0)
    assert [] == only(Acknowledge, target.receive(other, SyncStep2(EMPTY_UPDATE), 1.0))
    target.take_batch()
    assert {Acknowledge(writer, 0, 1), Acknowledge(other, 1, 0)} == set(target.committed())
    assert [Acknowledge(other, 1, 0)] == list(target.receive(other, SyncStep2(EMPTY_UPDATE), 1.0))
    assert 1 == target.seq


def test_what_adds_nothing_takes_no_memory_while_commits_are_stalled() -> None:
    target, editor = room(), Editor()
    writer, other = greet(target, member(1)), greet(target, member(2))
    target.receive(writer, Update(editor.edit("a")), 1.0)
    target.settle(1.0)
    target.take_batch()
    for _ in range(500):
        target.receive(writer, Update(EMPTY_UPDATE), 1.0)
        target.receive(other, Update(EMPTY_UPDATE), 1.0)
    assert 1 == len(target._unsaved._waiting)
    assert {Acknowledge(writer, 0, 501), Acknowledge(other, 0, 500)} == set(target.committed())


def test_the_same_update_again_is_not_numbered_again() -> None:
    target, editor = room(), Editor()
    number = greet(target, member())
    update = editor.edit("a")
    for now in (1.0, 1.0, 2.0, 3.0):
        target.receive(number, Update(update), now)
        if now >= 2.0:
            target.flush(now)
    assert 1 == target.seq
    assert target.take_batch() is not None
    assert [Acknowledge(number, 0, 4)] == list(target.committed())


def test_an_update_with_a_gap_is_journaled_and_its_sender_is_asked() -> None:
    target, editor = room(), Editor()
    number = greet(target, member())
    target.receive(number, SyncStep2(EMPTY_UPDATE), 1.0)
    first, second = editor.edit("a"), editor.edit("b")
    effects = target.receive(number, Update(second), 1.0)
    assert 1 == target.seq
    (asked,) = only(Send, effects)
    assert isinstance(decoded(asked), SyncStep1)
    target.receive(number, SyncStep2(first), 1.0)
    assert {"a": 1, "b": 1} == Editor(9).receive([y_websocket.update(target.document.encode())]).cells.to_py()


def test_who_fills_a_gap_is_sent_what_waited_behind_it() -> None:
    target, editor = room(), Editor()
    author, other = greet(target, member(1)), greet(target, member(2))
    first, second = editor.edit("a"), editor.edit("b")
    target.receive(author, Update(second), 1.0)
    assert [] == only(Broadcast, target.flush(1.0))
    target.receive(other, SyncStep2(first), 2.0)
    (broadcast,) = only(Broadcast, target.flush(2.0))
    assert broadcast.but is None
    assert {"a": 1, "b": 1} == Editor(9).receive([broadcast.body]).cells.to_py()


def test_a_readers_edit_is_refused_and_the_room_stays_open() -> None:
    target, editor = room(), Editor()
    number = greet(target, member(role=Role.READER))
    assert [Refuse] == [type(e) for e in target.receive(number, Update(editor.edit("a")), 1.0)]
    assert 0 == target.seq
    assert target.is_open
    assert 1 == target.session_count


def test_a_readers_sync_that_adds_nothing_is_acknowledged() -> None:
    target = room()
    number = greet(target, member(role=Role.READER))
    assert [Acknowledge(number, 1, 0)] == list(target.receive(number, SyncStep2(EMPTY_UPDATE), 1.0))


def test_a_promoted_reader_is_asked_for_what_was_refused() -> None:
    target, editor = room(), Editor()
    number = greet(target, member(role=Role.READER))
    target.receive(number, Update(editor.edit("a")), 1.0)
    change, asked = target.change_role(number, Role.WRITER, 1.0)
    assert ChangeRole(number, Role.WRITER) == change
    assert isinstance(asked, Send)
    assert isinstance(decoded(asked), SyncStep1)


def test_what_was_refused_is_acknowledged_when_a_promoted_reader_has_brought_it() -> None:
    target, editor = room(), Editor()
    number = greet(target, member(role=Role.READER))
    target.receive(number, SyncStep2(EMPTY_UPDATE), 1.0)
    target.receive(number, Update(editor.edit("a")), 1.0)
    target.receive(number, Update(editor.edit("b")), 1.0)
    target.change_role(number, Role.WRITER, 1.0)
    target.receive(number, SyncStep2(editor.doc.get_update()), 1.0)
    target.take_batch()
    (acknowledged,) = only(Acknowledge, target.committed())
    assert 2 == acknowledged.syncs + acknowledged.updates


def test_a_refused_first_sync_is_accepted_with_what_followed_it() -> None:
    target, editor = room(), Editor()
    number = greet(target, member(role=Role.READER))
    target.receive(number, SyncStep2(editor.edit("a")), 1.0)
    target.receive(number, Update(editor.edit("b")), 1.0)
    target.change_role(number, Role.WRITER, 1.0)
    target.receive(number, SyncStep2(editor.doc.get_update()), 1.0)
    target.take_batch()
    assert [Acknowledge(number, 1, 1)] == only(Acknowledge, target.committed())


def test_a_gap_is_not_asked_for_while_an_answer_is_under_way() -> None:
    target, editor = room(), Editor()
    number = greet(target, member())
    editor.edit("a")
    assert [] == only(Send, target.receive(number, Update(editor.edit("b")), 1.0))
    target.receive(number, SyncStep2(editor.doc.get_update()), 1.0)
    target.take_batch()
    assert [Acknowledge(number, 1, 1)] == only(Acknowledge, target.committed())


def test_a_client_that_syncs_again_is_asked_again() -> None:
    target = room()
    number = greet(target, member())
    state, asked = target.receive(number, SyncStep1(b"\x00"), 1.0)
    assert isinstance(state, SendState)
    assert isinstance(asked, Send)
    assert isinstance(decoded(asked), SyncStep1)


def test_of_who_never_answers_no_more_is_kept_however_often_it_syncs() -> None:
    target = room()
    number = greet(target, member())
    asked = [len(only(Send, target.receive(number, SyncStep1(b"\x00"), 1.0))) for _ in range(40)]
    assert [1] * 15 + [0] * 25 == asked
    target.receive(number, SyncStep2(EMPTY_UPDATE), 2.0)
    assert 1 == len(only(Send, target.receive(number, SyncStep1(b"\x00"), 2.0)))


def test_who_may_no_longer_read_is_closed_4403() -> None:
    target = room()
    number = greet(target, member())
    (close,) = only(Close, target.change_role(number, None, 1.0))
    assert (number, 4403) == (close.session, close.code)
    assert target.is_empty


MALFORMED = b"\x01\x02\x03"
UNDECODABLE = b"\x01\x01\x63\x00\x28\x01\x01m\x01k\x01\x3f\x00"
"""It begins as an update of client 99 does, and only pycrdt finds out."""


def test_a_malformed_update_leaves_the_room_as_it_was() -> None:
    target, editor = room(), Editor()
    number = greet(target, member())
    target.receive(number, Update(editor.edit("a")), 1.0)
    target.flush(1.0)
    before = target.document.encode()
    effects = target.receive(number, Update(MALFORMED), 1.0)
    assert [(number, 4400)] == [(close.session, close.code) for close in only(Close, effects)]
    assert before == target.document.encode()
    assert 1 == target.seq


def test_a_malformed_update_ends_its_sender_alone_and_the_edits_beside_it_count() -> None:
    target, one, two = room(), Editor(7), Editor(8)
    first, second, bad = (greet(target, member(n)) for n in (1, 2, 3))
    target.receive(first, Update(one.edit("a")), 1.0)
    assert target.hold(bad, UNDECODABLE)
    assert target.hold(second, two.edit("b"))
    effects = target.flush(1.0)
    assert [(bad, 4400)] == [(close.session, close.code) for close in only(Close, effects)]
    (broadcast,) = only(Broadcast, effects)
    assert {"a": 1, "b": 1} == Editor(9).receive([broadcast.body]).cells.to_py()
    assert target.take_batch() is not None
    assert {Acknowledge(first, 0, 1), Acknowledge(second, 0, 1)} == set(target.committed())


def test_edits_of_one_tick_are_logged_by_author() -> None:
    target, one, two = room(), Editor(7), Editor(8)
    first, second = member(1), member(2)
    numbers = greet(target, first), greet(target, second)
    target.receive(numbers[0], Update(one.edit("a")), 1.0)
    assert target.hold(numbers[1], two.edit("b"))
    assert target.hold(numbers[0], one.edit("c"))
    target.flush(1.0)
    batch = target.take_batch()
    assert batch is not None
    by = {update.author: Editor(9).receive([y_websocket.update(update.data)]) for update in batch.updates}
    assert {"a": 1, "c": 1} == by[first.user].cells.to_py()
    assert {"b": 1} == by[second.user].cells.to_py()


def test_what_is_held_is_bounded_and_applied_before_anybody_is_synced() -> None:
    target, editor = room(RoomLimits(held_max_bytes=100)), Editor()
    number = greet(target, member(1))
    target.receive(number, Update(editor.edit("a")), 1.0)
    newcomer = target.join(member(2))
    (state,) = only(SendState, target.receive(newcomer, SyncStep1(b"\x00"), 1.0))
    assert {"a": 1} == state_of(state)
    second = editor.edit("b")
    assert not target.hold(number, second)
    target.receive(number, Update(second), 1.0)
    while target.hold(number, editor.edit("c")):
        assert target._held.size < 200
    assert target._held.size >= 100


def moves(*cursors: tuple[int, int, bytes]) -> bytes:
    return awareness.encode([Entry(*cursor) for cursor in cursors])


def shown(effects: Iterable[Effect]) -> list[Entry]:
    (broadcast,) = only(Broadcast, effects)
    (message,) = y_websocket.decode(broadcast.body)
    assert isinstance(message, Awareness)
    return awareness.parse(message.data)


def test_cursors_that_wait_for_their_flush_are_read_when_it_comes() -> None:
    target = room()
    first, second, bad = (greet(target, member(n)) for n in (1, 2, 3))
    for number, client, now in ((first, 7, 1.0), (second, 8, 1.1)):
        assert not target.hold_awareness(number, moves((client, 1, b"{}"))), "no flush is due"
        target.receive(number, Awareness(moves((client, 1, b"{}"))), now)
        target.flush(now)
    (flush,) = only(FlushAt, target.receive(first, Awareness(moves((7, 2, b"{}"))), 2.0))
    assert target.hold_awareness(bad, moves((9, 1, b"[]")))
    assert target.hold_awareness(second, moves((8, 2, b"{}")))
    assert target.hold_awareness(first, moves((7, 3, b'{"x":1}')))
    assert target.hold_awareness(first, moves((7, 1, b"{}"))), "which is overtaken"
    effects = target.flush(flush.at)
    assert [Entry(7, 3, b'{"x":1}'), Entry(8, 2, b"{}")] == shown(effects)
    assert [(bad, 4400)] == [(close.session, close.code) for close in only(Close, effects)]
    assert [] == target.flush(3.0), "all of it is read"


def test_those_who_come_and_go_share_a_flush_and_those_who_move_wait_for_nobody() -> None:
    target = room(RoomLimits(awareness_tick_s=0.037))
    first, second, third = (greet(target, member(n)) for n in (1, 2, 3))
    (flush,) = only(FlushAt, target.receive(first, Awareness(moves((7, 1, b"{}"))), 1.0))
    assert 1.0 == flush.at, "nobody has come or gone of late"
    target.flush(1.0)
    (flush,) = only(FlushAt, target.receive(second, Awareness(moves((8, 1, b"{}"))), 1.01))
    assert 1.037 == round(flush.at, 6)
    assert [flush] == target.flush(1.02), "it is not due yet"
    assert target.hold_awareness(third, moves((9, 1, b"{}")))
    target.leave(third, 1.02)
    assert not target.hold_awareness(first, moves((7, 2, b"{}")))
    (at_once,) = only(FlushAt, target.receive(first, Awareness(moves((7, 2, b"{}"))), 1.02))
    assert 1.02 == at_once.at
    shown_at_once = shown(target.flush(1.02))
    assert [Entry(8, 1, b"{}"), Entry(7, 2, b"{}")] == shown_at_once, "the third came and went unseen"
    (flush,) = only(FlushAt, target.leave(second, 1.03))
    assert 1.057 == round(flush.at, 6)
    assert [Entry(8, 1, b"null")] == shown(target.flush(flush.at))


def test_a_cursor_that_waits_goes_with_its_session() -> None:
    target = room()
    first, second = (greet(target, member(n)) for n in (1, 2))
    target.receive(first, Awareness(moves((7, 1, b"{}"))), 1.0)
    assert target.hold_awareness(second, moves((8, 1, b"{}")))
    target.leave(second, 1.0)
    assert not target.hold_awareness(second, moves((8, 2, b"{}")))
    assert [Entry(7, 1, b"{}")] == shown(target.flush(1.0))


def test_cursors_that_wait_are_bounded_and_read_before_those_that_do_not() -> None:
    target = room(RoomLimits(awareness_max_bytes=200))
    first, second = (greet(target, member(n)) for n in (1, 2))
    target.receive(first, Awareness(moves((7, 1, b"{}"))), 1.0)
    clock = 0
    while target.hold_awareness(second, moves((8, clock := clock + 1, b"{}"))):
        assert clock < 10
    target.receive(second, Awareness(moves((9, 1, b"{}"), (8, clock, b"{}"))), 1.0)
    assert [Entry(7, 1, b"{}"), Entry(8, clock, b"{}"), Entry(9, 1, b"{}")] == shown(target.flush(1.0))


def test_cursors_that_wait_count_as_what_a_room_keeps_of_presence() -> None:
    target = room()
    first, second = (greet(target, member(n)) for n in (1, 2))
    target.receive(first, Awareness(moves((7, 1, b"{}"))), 1.0)
    before = target.presence_bytes
    of_another = moves((7, 2, b'{"x":"%s"}' % (b"x" * 1000)))
    assert target.hold_awareness(second, of_another)
    assert len(of_another) <= target.presence_bytes - before <= len(of_another) + 100
    target.flush_all(1.0)
    assert before == target.presence_bytes, "it was read, and not believed"


def test_a_slow_reader_misses_broadcasts_and_gets_one_difference() -> None:
    target, editor = room(), Editor()
    writer, slow = greet(target, member(1)), greet(target, member(2))
    reader = Editor(8)
    target.receive(writer, Update(editor.edit("a")), 1.0)
    paused = list(target.pause(slow, 1.0))
    assert [Journal, Broadcast, Unsubscribe] == [type(effect) for effect in paused]
    reader.receive(b.body for b in only(Broadcast, paused))
    for n in range(5):
        target.receive(writer, Update(editor.edit(f"b{n}")), 2.0)
        target.flush(2.0)
    difference, subscribed = target.resume(slow, 2.0)
    assert Subscribe(slow) == subscribed
    assert isinstance(difference, Send)
    assert editor.cells.to_py() == reader.receive([difference.body]).cells.to_py()


def test_a_reader_that_reads_again_is_told_of_those_who_moved_or_left_meanwhile() -> None:
    target = room()
    first, second, third, slow = (greet(target, member(n)) for n in (1, 2, 3, 4))
    for number, client in ((first, 7), (second, 8), (third, 9)):
        target.receive(number, Awareness(moves((client, 1, b"{}"))), 1.0)
    target.flush_all(1.0)
    target.receive(first, Awareness(moves((7, 2, b"{}"))), 2.0)
    target.pause(slow, 2.0)  # of the move it was not told yet
    target.flush_all(2.0)
    target.receive(third, Awareness(moves((9, 2, b'{"x":1}'))), 2.1)
    target.leave(second, 2.1)
    target.flush_all(2.1)
    subscribed, news = target.resume(slow, 2.2)
    assert Subscribe(slow) == subscribed
    assert isinstance(news, Send)
    message = decoded(news)
    assert isinstance(message, Awareness)
    told = [Entry(7, 2, b"{}"), Entry(8, 1, b"null"), Entry(9, 2, b'{"x":1}')]
    assert told == sorted(awareness.parse(message.data))
    target.pause(slow, 2.3)
    assert [Subscribe(slow)] == list(target.resume(slow, 2.4)), "what is sent again could stop it again"


def test_after_many_bytes_of_cursors_the_next_wait_for_as_long_as_those_took() -> None:
    target = room()
    first, _ = (greet(target, member(n)) for n in (1, 2))
    big = b'{"x":"' + b"x" * 60_000 + b'"}'
    states = [(client, 1, big) for client in range(10)]
    (flush,) = only(FlushAt, target.receive(first, Awareness(moves(*states)), 1.0))
    assert 1.0 == flush.at
    assert 10 == len(shown(target.flush(1.0)))
    (flush,) = only(FlushAt, target.receive(first, Awareness(moves((1, 2, b"{}"))), 1.1))
    assert 1.5 < flush.at < 1.6, "600,000 bytes at 1 MiB/s"
    assert [] == only(Broadcast, target.flush(1.5))
    assert [Entry(1, 2, b"{}")] == shown(target.flush(flush.at))
    (flush,) = only(FlushAt, target.receive(first, Awareness(moves((1, 3, b"{}"))), 2.0))
    assert 2.0 == flush.at


def test_drain_sends_everybody_away_and_ends_after_the_last_commit() -> None:
    target, editor = room(), Editor()
    writer, other = greet(target, member(1)), greet(target, member(2))
    target.receive(writer, Update(editor.edit("a")), 1.0)
    effects = target.drain(1.0)
    assert {(writer, 1012), (other, 1012)} == {(c.session, c.code) for c in only(Close, effects)}
    assert not target.is_over
    target.take_batch()
    target.committed()
    assert target.is_over


def test_a_lost_fence_closes_everybody_and_acknowledges_nothing() -> None:
    target, editor = room(), Editor()
    number = greet(target, member())
    target.receive(number, Update(editor.edit("a")), 1.0)
    target.take_batch()
    effects = target.fence_lost(1.0)
    assert [1012] == [close.code for close in only(Close, effects)]
    assert [] == only(Acknowledge, effects)
    assert [] == list(target.committed())
    assert target.is_over


def test_writers_are_sent_away_and_readers_stay() -> None:
    target = room()
    writer, reader = greet(target, member(1)), greet(target, member(2, Role.READER))
    closes = only(Close, target.close_writers(1013, "full", 1.0))
    assert [writer] == [close.session for close in closes]
    assert {reader} == set(target.members)


def test_a_server_edit_is_numbered_and_goes_to_everybody() -> None:
    target, editor = room(), Editor()
    greet(target, member())
    update = editor.edit("a")

    def change(document: Document) -> bytes:
        document.apply(update)
        return update

    target.edit(change, None, Origin.SERVER, 1.0)
    assert 1 == target.seq
    (broadcast,) = only(Broadcast, target.flush(1.0))
    assert broadcast.but is None


def test_an_idle_room_closes_and_one_with_members_does_not() -> None:
    target = room()
    number = greet(target, member())
    target.close_if_idle()
    assert target.is_open
    target.leave(number, 1.0)
    target.close_if_idle()
    assert target.is_over


def test_messages_are_looked_for_in_ticks_while_a_room_is_busy() -> None:
    """More often where somebody edits than where people only point at things."""
    busy = room(RoomLimits(quiet_copies_per_s=200, tick_s=0.015, awareness_tick_s=0.040))
    numbers = [greet(busy, member(n)) for n in range(1, 21)]
    assert busy.tick_s(10.0, is_ticking=False) is None
    for clock in range(1, 4):
        for number in numbers:
            busy.receive(number, Awareness(awareness.encode([Entry(number, clock, b"{}")])), 10.0)
            busy.flush(10.0)
    assert 0.040 == busy.tick_s(10.0, is_ticking=True)
    busy.receive(numbers[0], Update(Editor(1).edit("a")), 10.0)
    busy.flush(10.0)
    assert 0.020 == busy.tick_s(10.0, is_ticking=True)
    for client in range(2, 40):
        busy.receive(numbers[0], Update(Editor(client).edit("a")), 10.0)
    busy.flush_all(10.0)
    assert 0.012 == busy.tick_s(10.0, is_ticking=True), "authors wait for a word on their edits"
    assert busy.tick_s(14.0, is_ticking=True) is None


def test_what_a_room_keeps_of_presence_is_bounded_by_its_limits() -> None:
    target = room(RoomLimits(presence_max_bytes=1000))
    number = greet(target, member())
    small, large = (Entry(id_, 1, b'{"x":"%s"}' % (b"x" * size)) for id_, size in ((1, 10), (2, 1000)))
    target.receive(number, Awareness(awareness.encode([small, large])), 1.0)
    assert ({"presence_bytes": 1}, True) == (target.refusals, 0 < target.presence_bytes < 1000)


def test_edits_that_wait_for_their_tick_count_for_the_size_limit() -> None:
    target, editor = room(RoomLimits(document_max_bytes=1000, quiet_copies_per_s=0.0)), Editor()
    number = greet(target, member())
    closed: list[Close] = []
    for n in range(20):
        update = editor.edit(f"{n}" + "x" * 100)
        if not target.hold(number, update):
            closed += only(Close, target.receive(number, Update(update), 1.0))
    target.flush(2.0)
    assert [4413] == [close.code for close in closed]
    assert 700 < target.document.measure() <= 1000
    assert 1 == target.refusals["document_size"]


def test_more_than_may_wait_for_what_never_came_ends_its_sender_and_is_counted() -> None:
    target, editor = room(), Editor()
    number = greet(target, member())
    editor.edit("never sent")
    closed: list[Close] = []
    for n in range(5):
        update = editor.edit(f"{n}" + "x" * (MAX_PENDING_BYTES // 4))
        closed += only(Close, target.receive(number, Update(update), 1.0))
    assert [4400] == [close.code for close in closed]
    assert 1 == target.refusals["updates_pending"]
    assert not only(Close, target.receive(greet(target, member()), Update(Editor(8).edit("a")), 1.0))
