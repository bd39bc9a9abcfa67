"""The room service: opening, durability, rights, idleness and draining, over the in-memory log."""

import asyncio
from dataclasses import replace
from uuid import uuid4

import pytest

from crdt import awareness, y_websocket
from crdt.awareness import Entry
from crdt.messages import Awareness, QueryAwareness, SyncStep1, Update
from persistence.memory.access import MemoryAccessControl
from rooms import closing
from rooms.coordination.local import LocalCoordinator
from rooms.service import Rooms
from tests.unit.rooms.conftest import LIMITS, Editor, World, runner_of, until
from tests.unit.rooms.test_room import UNDECODABLE
from tmi.domain.errors import DatabaseUnavailable, Draining, NotFound, Unavailable
from tmi.domain.ids import DiagramId
from tmi.domain.roles import Role


async def test_two_editors_see_each_other_and_both_are_acknowledged(world: World) -> None:
    one, two = await world.editor().join(), await world.editor(world.other).join()
    one.edit("a")
    two.edit("b")
    await until(lambda: one.acknowledged == 2 == two.acknowledged)
    assert {"a": 1, "b": 1} == one.cells.to_py() == two.cells.to_py()
    assert 2 == world.stored


async def test_a_room_is_opened_once_for_all_who_come_at_the_same_time(world: World) -> None:
    editors = [world.editor() for _ in range(20)]
    await asyncio.gather(*(editor.join() for editor in editors))
    assert 1 == world.store.logs[world.diagram].fence
    assert 1 == world.rooms.open_rooms


async def test_a_diagram_that_does_not_exist_is_not_found(world: World) -> None:
    editor = world.editor()
    with pytest.raises(NotFound):
        await world.rooms.join(DiagramId(uuid4()), editor.member, editor)


async def test_nothing_is_acknowledged_before_its_commit(world: World) -> None:
    editor = await world.editor().join()
    await until(lambda: editor.acknowledged == 1)
    world.log.gate = asyncio.Event()
    editor.edit("a")
    await asyncio.sleep(0.05)
    assert 1 == editor.acknowledged
    world.log.gate.set()
    await until(lambda: editor.acknowledged == 2)


async def test_a_lost_answer_is_asked_for_again_and_nothing_is_stored_twice(world: World) -> None:
    editor = await world.editor().join()
    world.log.lose_next_answer = True
    editor.edit("a")
    await until(lambda: editor.acknowledged == 2)
    assert 1 == world.stored


async def test_without_a_database_rooms_go_on_and_joins_are_refused(world: World) -> None:
    one, two = await world.editor().join(), await world.editor(world.other).join()
    world.store.unavailable = True
    one.edit("a")
    await until(lambda: two.cells.to_py() == {"a": 1})
    with pytest.raises(DatabaseUnavailable):
        await world.rooms.join(world.unopened, one.member, one)
    assert 1 == one.acknowledged
    world.store.unavailable = False
    await until(lambda: one.acknowledged == 2)


async def test_at_the_bound_writers_are_sent_away_and_nothing_applied_is_lost(world: World) -> None:
    limits = replace(LIMITS, journal=replace(LIMITS.journal, max_bytes=20_000))
    world.rooms = Rooms(
        world.log, LocalCoordinator(world.log, "other"), MemoryAccessControl(world.store), limits
    )
    async with world.rooms.running():
        writer = await world.editor().join()
        reader = await world.editor(world.other, Role.READER).join()
        world.store.unavailable = True
        edits = 0
        while writer.closed is None and edits < 100:
            writer.edit(f"k{edits}", "x" * 1000)
            edits += 1
            await asyncio.sleep(0)
        await until(lambda: writer.closed is not None)
        assert writer.closed is not None
        assert 1013 == writer.closed[0]
        assert reader.closed is None
        with pytest.raises(Unavailable):
            await world.editor().join()
        assert 1 == world.rooms.refusals["journal"]
        world.store.unavailable = False
        # Writers are let in again while the last of it may still be under way.
        await until(lambda: not world.rooms.journal.shedding and not world.rooms.journal.unsaved())
        kept = (await world.editor().join()).cells.to_py()
        assert edits == len(kept) == world.stored


@pytest.mark.parametrize("is_here", [False, True], ids=["newcomer", "who has spoken"])
async def test_a_state_of_presence_over_the_limit_ends_its_session(world: World, is_here: bool) -> None:
    limits = replace(LIMITS, room=replace(LIMITS.room, awareness_max_bytes=100))
    world.rooms = Rooms(
        world.log, LocalCoordinator(world.log, "other"), MemoryAccessControl(world.store), limits
    )

    def state(size: int) -> bytes:
        return b'{"x":"%s"}' % (b"x" * (size - len(b'{"x":""}')))

    async with world.rooms.running():
        for size, code in ((100, None), (101, 4400)):
            editor = await world.editor().join()
            assert editor.session is not None
            if is_here:
                editor.session.receive(Awareness(awareness.encode([Entry(size, 1, b"{}")])))
            editor.session.receive(Awareness(awareness.encode([Entry(size, 2, state(size))])))
            runner_of(editor.session).settle()
            assert code == (None if editor.closed is None else editor.closed[0])
        assert {"presence_state": 1} == world.rooms.refusals


async def test_a_stale_owner_stands_down_and_its_edit_is_offered_to_the_next(world: World) -> None:
    editor = await world.editor().join()
    await until(lambda: editor.acknowledged == 1)
    await world.log.claim(world.diagram, "another node")
    editor.edit("a")
    await until(lambda: editor.closed is not None)
    assert editor.closed is not None
    assert (1012, 0, 1) == (editor.closed[0], world.stored, editor.acknowledged)
    await editor.join()
    await until(lambda: world.stored == 1)


async def test_rows_that_the_store_refuses_end_their_room_and_no_other(world: World) -> None:
    editor = await world.editor().join()
    world.log.refused[world.diagram] = "no room on disk"
    editor.edit("a")
    await until(lambda: editor.closed is not None)
    assert editor.closed is not None
    assert 1011 == editor.closed[0]
    assert await world.rooms.journal.flushed(1)


async def test_a_malformed_update_ends_its_sender_only(world: World) -> None:
    one, two = await world.editor().join(), await world.editor(world.other).join()
    assert one.session is not None
    one.session.receive(Update(b"\x01\x02\x03"))
    assert one.closed is not None
    assert 4400 == one.closed[0]
    two.edit("a")
    await until(lambda: two.acknowledged == 2)


@pytest.mark.parametrize(("role", "code"), [(Role.READER, None), (None, 4403)])
async def test_open_sessions_follow_their_users_role(
    world: World, role: Role | None, code: int | None
) -> None:
    editor = await world.editor(world.other).join()
    await world.grant(role)
    await world.rooms.rights.access_changed([world.diagram])
    if code is None:
        assert [Role.READER] == editor.roles
        editor.edit("a")
        assert 1 == editor.refused
    else:
        assert editor.closed is not None
        assert code == editor.closed[0]


async def test_rights_are_reread_once_the_database_answers_again(world: World) -> None:
    editor = await world.editor(world.other).join()
    await world.grant(None)
    world.store.unavailable = True
    change = asyncio.create_task(world.rooms.rights.access_changed([world.diagram]))
    await asyncio.sleep(0.03)
    assert editor.closed is None
    world.store.unavailable = False
    await change
    assert editor.closed is not None


async def test_who_joined_with_a_role_read_before_the_change_is_corrected(world: World) -> None:
    await world.grant(None)
    await world.rooms.rights.access_changed([world.diagram])
    editor = await world.editor(world.other).join()
    await until(lambda: editor.closed is not None)


@pytest.mark.parametrize(("asked_after_s", "is_read_again"), [(-1.0, True), (0.0, True), (1.0, False)])
async def test_only_who_was_looked_up_before_the_change_was_heard_is_looked_up_again(
    world: World, asked_after_s: float, is_read_again: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    loop = asyncio.get_running_loop()
    heard_at = loop.time()
    monkeypatch.setattr(loop, "time", lambda: heard_at)
    await world.grant(None)
    await world.rooms.rights.access_changed([world.diagram])
    monkeypatch.undo()
    editor = world.editor(world.other)
    editor.member = replace(editor.member, as_of=heard_at + asked_after_s)
    await editor.join()
    for _ in range(20):
        await asyncio.sleep(0)
    assert (editor.closed is not None) is is_read_again


async def test_sessions_behind_an_ended_sign_in_are_closed_4401(world: World) -> None:
    one, two = await world.editor().join(), await world.editor().join()
    await world.rooms.rights.sign_ins_ended([one.member.sign_in])
    assert one.closed is not None
    assert (4401, None) == (one.closed[0], two.closed)


async def test_who_joins_when_the_sign_in_has_ended_meanwhile_is_closed_4401(world: World) -> None:
    late = world.editor()
    await world.rooms.rights.sign_ins_ended([late.member.sign_in])
    await late.join()
    await until(lambda: late.closed is not None)
    assert late.closed is not None
    assert 4401 == late.closed[0]


async def test_a_deleted_diagram_closes_its_sessions_4404(world: World) -> None:
    editor = await world.editor().join()
    editor.edit("a")
    await world.diagrams.delete(world.model, world.diagram)
    world.rooms.rights.deleted([world.diagram])
    assert editor.closed is not None
    assert 4404 == editor.closed[0]
    assert await world.rooms.journal.flushed(1)


async def test_an_idle_room_is_given_up_and_opens_again_with_everything(world: World) -> None:
    editor = await world.editor().join()
    editor.edit("a")
    assert editor.session is not None
    editor.session.leave()
    await until(lambda: world.rooms.open_rooms == 0)
    assert {"a": 1} == (await world.editor().join()).cells.to_py()


async def test_drain_commits_everything_and_takes_nobody_in(world: World) -> None:
    editor = await world.editor().join()
    editor.edit("a")
    assert {} == await world.rooms.drain(1)
    assert editor.closed is not None
    assert (1012, 1) == (editor.closed[0], world.stored)
    with pytest.raises(Draining):
        await world.editor().join()


async def test_drain_tells_what_it_could_not_save(world: World) -> None:
    editor = await world.editor().join()
    world.store.unavailable = True
    editor.edit("a")
    await asyncio.sleep(0)
    editor.edit("b")
    assert {world.diagram: 2} == await world.rooms.drain(0.05)


async def test_a_snapshot_is_taken_and_bounds_the_tail(world: World) -> None:
    editor = await world.editor().join()
    for n in range(100):
        editor.edit(f"k{n}", "x" * 50)
        await asyncio.sleep(0)
    await until(lambda: world.store.logs[world.diagram].snapshots)
    await until(lambda: world.rooms.journal.unsaved() == {})
    stored = await world.log.load(world.diagram)
    assert len(stored.tail) < 100 == world.stored
    other = world.service()
    async with other.running():
        seq, document = await other.read(world.diagram)
        assert 100 == seq
        assert editor.doc.get_state() == document.state_vector()


async def test_reading_shows_what_the_room_shows_and_does_not_claim(world: World) -> None:
    editor = await world.editor().join()
    world.store.unavailable = True
    editor.edit("a")
    seq, document = await world.rooms.read(world.diagram)
    assert (1, editor.doc.get_state()) == (seq, document.state_vector())
    world.store.unavailable = False
    await world.rooms.read(world.unopened)
    assert 0 == world.store.logs[world.unopened].fence


async def test_a_slow_reader_is_brought_up_to_date_when_it_reads_again(world: World) -> None:
    writer, slow = await world.editor().join(), await world.editor(world.other).join()
    assert slow.session is not None
    slow.session.pause()
    await asyncio.sleep(0.01)
    for n in range(20):
        writer.edit(f"k{n}")
    await asyncio.sleep(0.05)
    assert {} == slow.cells.to_py()
    slow.session.resume()
    await until(lambda: len(slow.cells.to_py() or {}) == 20)


async def test_what_pauses_in_the_turn_of_a_flush_was_sent_what_was_flushed(world: World) -> None:
    """Rooms write when all that are due are worked out. What one is asked for in between is not the first."""
    one, two = await world.editor().join(), await world.editor(world.other).join()
    assert one.session is not None
    assert two.session is not None
    one.edit("a")
    two.session.pause()
    await asyncio.sleep(0)
    assert {"a": 1.0} == two.cells.to_py()
    one.edit("b")
    await asyncio.sleep(0.02)
    assert {"a": 1.0} == two.cells.to_py()


async def test_who_reads_again_in_the_turn_of_a_flush_is_sent_what_was_flushed_once(world: World) -> None:
    one, two = await world.editor().join(), await world.editor(world.other).join()
    assert two.session is not None
    two.session.pause()
    await asyncio.sleep(0.01)
    sent = len(two.wires)
    one.edit("a")
    two.session.resume()
    await asyncio.sleep(0.02)
    assert {"a": 1.0} == two.cells.to_py()
    assert len(two.wires) == sent + 1


async def test_rooms_that_are_due_together_are_all_worked_out_before_one_writes(world: World) -> None:
    there = world.editor()
    there.session = await world.rooms.join(world.unopened, there.member, there)
    there.session.receive(SyncStep1(there.doc.get_state()))
    owned = world.rooms.owned(world.unopened)
    assert owned is not None
    room, seen = owned.room, list[int]()

    class Watching(Editor):
        """Sees how far the other room is when it is written to."""

        def write(self, wire: bytes) -> None:
            seen.append(room.seq)
            super().write(wire)

    one, _ = await world.editor().join(), await Watching(world, world.other, Role.WRITER).join()
    seen.clear()
    one.edit("a")
    there.edit("b")
    await asyncio.sleep(0)
    assert [1] == seen


async def test_newcomers_to_a_large_diagram_are_sent_the_same_bytes_and_all_of_it(world: World) -> None:
    editor = await world.editor().join()
    for n in range(6):
        editor.edit(f"k{n}", "x" * 60_000)
    await until(lambda: world.rooms.journal.unsaved() == {})
    first, second = [await world.editor(world.other).join() for _ in range(2)]
    await until(lambda: len(first.cells) == len(second.cells) == 6)
    shared = [max(newcomer.wires, key=len) for newcomer in (first, second)]
    assert len(shared[0]) > 300_000
    assert shared[0] is shared[1]
    editor.edit("one more", 1)
    third = await world.editor(world.other).join()
    await until(lambda: len(third.cells) == 7)
    assert max(third.wires, key=len)[3:] == shared[0][3:]


async def test_who_asks_for_a_large_diagram_again_and_again_is_sent_away(world: World) -> None:
    editor = await world.editor().join()
    for n in range(6):
        editor.edit(f"k{n}", "x" * 60_000)
    assert editor.session is not None
    for _ in range(100):
        editor.session.receive(SyncStep1(b"\x00"))
    assert editor.closed is not None
    assert 1013 == editor.closed[0]


async def test_who_asks_again_and_again_who_is_here_is_told_once_in_a_while_and_of_the_newest(
    world: World,
) -> None:
    one, two = await world.editor().join(), await world.editor(world.other).join()
    assert one.session is not None
    assert two.session is not None

    def say(clock: int) -> bytes:
        assert one.session is not None
        data = awareness.encode([Entry(7, clock, b'{"clock":%d}' % clock)])
        one.session.receive(Awareness(data))
        return y_websocket.awareness(data)

    first = say(1)
    await until(lambda: first in two.wires)
    two.wires.clear()
    for _ in range(100):
        two.session.receive(QueryAwareness())
    assert [first] == two.wires
    second = say(2)
    await until(lambda: two.wires[1:])
    await asyncio.sleep(0.1)
    # One that was broadcast, and one that answers all questions but the first.
    assert [first, second, second] == two.wires
    assert [len(first), len(second)] == two.charged
    two.session.receive(QueryAwareness())
    assert [second] == two.wires[3:]


async def test_what_many_lack_of_a_document_is_found_out_one_by_one_and_asking_again_is_paid_for(
    world: World,
) -> None:
    author = await world.editor().join()
    author.edit("text", "x" * 20_000)
    await until(lambda: author.acknowledged == 2)
    late = [world.editor() for _ in range(3)]
    for editor in late:
        editor.cells[f"mine {id(editor)}"] = 1  # so its state vector is not empty
        await editor.join()
    assert ["text" in editor.cells for editor in late] == [True, False, False]
    await until(lambda: all("text" in editor.cells for editor in late))
    one = late[0]
    assert one.session is not None
    assert [] == one.charged
    for _ in range(16):
        one.session.receive(SyncStep1(b"\x01\x07\x01"))
    await until(lambda: len(one.charged) == 16)
    assert min(one.charged) > 20_000
    assert one.closed is None


class Together(Editor):
    """Knows which frames it was given as one."""

    def __init__(self, world: World) -> None:
        super().__init__(world, world.owner, Role.WRITER)
        self.states: list[list[str]] = []

    def write_state(self, *wires: bytes) -> None:
        self.states.append([type(part).__name__ for wire in wires for part in y_websocket.decode(wire)])
        super().write_state(*wires)


async def test_what_a_newcomer_or_a_slow_reader_lacks_is_one_state_with_who_is_here(world: World) -> None:
    """A socket that it fills is not held against who reads it (`Peer.write_state`)."""
    author = await world.editor().join()
    assert author.session is not None
    author.edit("text", "x" * 20_000)
    author.session.receive(Awareness(awareness.encode([Entry(7, 1, b"{}")])))
    await until(lambda: author.acknowledged == 2)
    late = [Together(world) for _ in range(3)]
    for editor in late:
        editor.cells[f"mine {id(editor)}"] = 1  # so that what it lacks is found out in turn
        await editor.join()
    await until(lambda: all(editor.states for editor in late))
    assert [[["SyncStep2", "SyncStep1", "Awareness"]]] * 3 == [editor.states for editor in late]
    slow = late[0]
    assert slow.session is not None
    await until(lambda: slow.acknowledged == 1)
    slow.session.pause()
    await asyncio.sleep(0)
    author.edit("more", "x")
    author.session.receive(Awareness(awareness.encode([Entry(7, 2, b'{"x":1}')])))
    await until(lambda: author.acknowledged == 3)
    slow.session.resume()
    await until(lambda: slow.states[1:])
    assert [["Update", "Awareness"]] == slow.states[1:]
    assert "more" in slow.cells


async def test_a_slow_reader_that_is_ended_for_what_it_sent_is_not_brought_up_to_date(world: World) -> None:
    author, slow = await world.editor().join(), Together(world)
    session = (await slow.join()).session
    assert session is not None
    session.runner.pause(session.number)
    author.edit("more", "x")
    await until(lambda: author.acknowledged == 2)
    slow.states.clear()
    session.receive_update(UNDECODABLE)
    assert session.number in runner_of(session).room.members, "it waits for the end of its tick"
    session.runner.resume(session.number)
    assert slow.closed is not None
    assert (closing.BAD_FRAME, []) == (slow.closed[0], slow.states)


async def test_what_one_session_may_have_asked_of_a_large_document_is_bounded(world: World) -> None:
    one, other = await world.editor().join(), await world.editor(world.other).join()
    one.edit("text", "x" * 20_000)
    await until(lambda: one.acknowledged == 2)
    assert one.session is not None
    one.charged.clear()  # for the edit
    for _ in range(17):
        one.session.receive(SyncStep1(b"\x01\x07\x01"))
    # One was answered at once, and 16 wait.
    assert ([], 1) == ([editor.closed for editor in (one, other) if editor.closed], len(one.charged))
    one.session.receive(SyncStep1(b"\x01\x07\x01"))
    assert (closing.TRY_AGAIN_LATER, "too many requests for a large document") == one.closed
    assert ({"questions": 1}, None) == (world.rooms.refusals, other.closed)


async def test_a_room_that_closes_leaves_a_snapshot_to_the_next(world: World) -> None:
    editor = await world.editor().join()
    for n in range(4):
        editor.edit(f"k{n}", "x" * 6_000)
        await asyncio.sleep(0)
    assert editor.session is not None
    editor.session.leave()
    log = world.store.logs[world.diagram]
    await until(lambda: log.snapshots and max(log.snapshots) == world.stored)
    stored = await world.log.load(world.diagram)
    assert ((), True) == (stored.tail, stored.is_whole)
