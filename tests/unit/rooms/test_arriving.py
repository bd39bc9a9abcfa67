"""Whoever comes while a diagram is being read: given what is stored at once, in the room when it is open."""

import asyncio
import gc
import weakref
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import pytest

from crdt import y_websocket
from crdt.merging import EMPTY_STATE_VECTOR, EMPTY_UPDATE
from crdt.messages import SyncStep1, SyncStep2, Update
from persistence.memory.access import MemoryAccessControl
from rooms import arriving, slices
from rooms.coordination.local import LocalCoordinator
from rooms.limits import RoomsLimits
from rooms.peer import Member
from rooms.runner import RoomRunner
from rooms.service import Rooms
from rooms.session import Session
from tests.unit.crdt.peers import Editor as Author
from tests.unit.rooms.conftest import LIMITS, Editor, World, until
from tmi.domain.errors import TooManyRequests
from tmi.domain.ids import Seq
from tmi.domain.model import User
from tmi.domain.roles import Role

EARLY = replace(LIMITS, early_bytes=1)


class Reader(Editor):
    """Remembers when it was read no more, and read again."""

    def __init__(self, world: World, user: User, role: Role) -> None:
        super().__init__(world, user, role)
        self.held_back: list[bool] = []

    async def join(self) -> "Reader":
        """As a socket that is for this diagram alone."""
        await self.come()
        assert self.session is not None
        self.session.receive(SyncStep1(self.doc.get_state()))
        return self

    async def come(self) -> None:
        """Without asking for anything."""
        self.closed = None
        rooms, diagram = self.world.rooms, self.world.diagram
        self.session = await rooms.join(diagram, self.member, self, may_come_early=True)

    def close(self, code: int, reason: str) -> None:
        super().close(code, reason)
        assert self.session is not None
        self.session.leave()

    def hold_back(self) -> None:
        self.held_back.append(True)

    def go_on(self) -> None:
        self.held_back.append(False)


def reader(world: World, role: Role = Role.WRITER) -> Reader:
    return Reader(world, world.owner, role)


@asynccontextmanager
async def rooms(world: World, limits: RoomsLimits = EARLY) -> AsyncIterator[Rooms]:
    world.rooms = Rooms(
        world.log, LocalCoordinator(world.log, "other"), MemoryAccessControl(world.store), limits
    )
    async with world.rooms.running() as running:
        yield running


@pytest.fixture
async def drawn(world: World, monkeypatch: pytest.MonkeyPatch) -> World:
    """A diagram with a snapshot and an edit after it, that nobody has open."""
    monkeypatch.setattr(slices, "_QUIET_BYTES", 0)  # or it would be read in one go
    editor = await world.editor().join()
    editor.edit("large", "x" * 6_000)
    await until(lambda: world.store.logs[world.diagram].snapshots)
    editor.edit("after", 1)
    await until(lambda: editor.acknowledged == 3)
    assert editor.session is not None
    editor.session.leave()
    await until(lambda: world.rooms.open_rooms == 0)
    return world


@asynccontextmanager
async def being_opened(world: World) -> AsyncIterator[None]:
    """The room does not get further than to what is stored."""
    async with world.rooms.slices._turn:
        yield


async def come(editor: Editor) -> Editor:
    """It has joined before the room is open, and asks for all there is."""
    async with asyncio.timeout(1):
        await editor.join()
    return editor


async def opened(world: World) -> None:
    """Everybody who came early is in the room."""
    await until(lambda: world.rooms.open_rooms == 1)


def append(world: World, update: bytes) -> None:
    """As a row of the log."""
    rows = world.store.logs[world.diagram].rows
    fence, last = rows[-1]
    rows.append((fence, replace(last, seq=Seq(last.seq + 1), data=update)))


def said(editor: Editor) -> list[Any]:
    """What it was told."""
    return [message for wire in editor.wires for message in y_websocket.decode(wire)]


async def test_a_newcomer_is_given_all_that_is_stored(drawn: World) -> None:
    async with rooms(drawn):
        one, two = reader(drawn), reader(drawn)
        async with being_opened(drawn):
            await asyncio.gather(come(one), come(two))
            await until(lambda: {"large", "after"} == set(one.cells.keys()) == set(two.cells.keys()))
            assert 0 == drawn.rooms.open_rooms
            assert [Update, SyncStep2] == [type(message) for message in said(one)]
            assert {one, two} == {peer for _, peer in drawn.rooms.here(drawn.diagram)}
            one.edit("meanwhile")
            assert "meanwhile" not in two.cells
        keys = {"large", "after", "meanwhile"}
        await until(lambda: keys == set(one.cells.keys()) == set(two.cells.keys()))
        # What the room had was sent once: the second answer has the edit after the snapshot, and no more.
        given = [wire for wire in one.wires if b"x" * 6_000 in wire]
        assert 1 == len(given)
        assert [Update, SyncStep2, SyncStep2, SyncStep1] == [type(message) for message in said(one)][:4]
        # Its answer to the room's question, and its edit.
        await until(lambda: one.acknowledged == 2)
        assert {one, two} == {peer for _, peer in drawn.rooms.here(drawn.diagram)}
        two.edit("later")
        await until(lambda: "later" in one.cells)


@pytest.mark.parametrize(
    ("limits", "is_damaged"),
    [({"TAIL_MAX_UPDATES": 0}, False), ({"TAIL_MAX_BYTES": 8}, False), ({}, True)],
    ids=["too many", "too large", "damaged"],
)
async def test_what_cannot_be_merged_in_passing_follows_when_the_room_is_open(
    drawn: World, monkeypatch: pytest.MonkeyPatch, limits: dict[str, int], is_damaged: bool
) -> None:
    for name, value in limits.items():
        monkeypatch.setattr(arriving, name, value)
    if is_damaged:
        append(drawn, b"\x01\x01\x07\x00\xff")
    async with rooms(drawn):
        editor = reader(drawn)
        async with being_opened(drawn):
            await come(editor)
            await until(lambda: "large" in editor.cells)
            # Not a SyncStep2: it would take itself for synchronised without the edit after the snapshot.
            assert [Update] == [type(message) for message in said(editor)]
            assert "after" not in editor.cells
        await until(lambda: "after" in editor.cells)
        assert [Update, SyncStep2, SyncStep1] == [type(message) for message in said(editor)][:3]


async def test_what_waits_for_something_is_given_and_all_is_there_when_that_comes(drawn: World) -> None:
    author = Author(7)
    author.cells["first"], author.cells["second"] = 1, 2
    append(drawn, author.updates[1])
    async with rooms(drawn):
        one, two = reader(drawn), reader(drawn)
        async with being_opened(drawn):
            await asyncio.gather(come(one), come(two))
            await until(lambda: "after" in one.cells and "after" in two.cells)
            assert any(b"second" in wire for wire in one.wires)
        await opened(drawn)
        one.doc.apply_update(author.updates[0])
        assert one.session is not None
        one.session.receive(Update(author.updates[0]))
        keys = {"large", "after", "first", "second"}
        await until(lambda: keys == set(one.cells.keys()) == set(two.cells.keys()))
        other = await reader(drawn).join()
        await until(lambda: keys == set(other.cells.keys()))


async def test_what_is_stored_is_an_answer_where_nothing_came_after_it(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(slices, "_QUIET_BYTES", 0)
    first = await world.editor().join()
    first.edit("large", "x" * 6_000)
    await until(lambda: world.store.logs[world.diagram].snapshots)
    async with rooms(world):
        editor = reader(world)
        async with being_opened(world):
            await come(editor)
            await until(lambda: "large" in editor.cells)
            assert [SyncStep2] == [type(message) for message in said(editor)]
        await until(lambda: editor.acknowledged == 1)
        # Nothing is left to say, and the room asks as always.
        assert [SyncStep2, SyncStep2, SyncStep1] == [type(message) for message in said(editor)]
        assert EMPTY_UPDATE == said(editor)[1].update


@pytest.mark.parametrize("is_opened", [True, False])
async def test_who_came_early_keeps_nothing_of_that(drawn: World, is_opened: bool) -> None:
    gc.disable()
    try:
        async with rooms(drawn, replace(EARLY, load_timeout_s=0.3)):
            freed: list[bool] = []
            editor = reader(drawn)
            async with being_opened(drawn):
                await come(editor)
                arrivals = drawn.rooms._opening._under_way[drawn.diagram].arrived
                assert arrivals is not None
                weakref.finalize(arrivals, freed.append, True)
                del arrivals
                editor.edit("meanwhile")
                if not is_opened:
                    await until(lambda: editor.closed)
                    editor.session = None
            await until(lambda: freed)
    finally:
        gc.enable()


async def test_of_a_crowd_the_first_are_given_what_is_stored(drawn: World) -> None:
    async with rooms(drawn):
        editors = [reader(drawn) for _ in range(arriving.GIVEN_MAX + 2)]
        first, others = editors[: arriving.GIVEN_MAX], editors[arriving.GIVEN_MAX :]
        async with being_opened(drawn):
            for one in editors:
                await come(one)
            await until(lambda: all("large" in one.cells for one in first))
            await asyncio.sleep(0.02)
            assert not any(one.wires for one in others)
        await until(lambda: all({"large", "after"} == set(one.cells.keys()) for one in editors))
        others[0].edit("new")
        await until(lambda: all("new" in one.cells for one in editors))


async def test_who_has_something_already_waits_for_what_it_lacks(drawn: World) -> None:
    async with rooms(drawn):
        editor = reader(drawn)
        editor.cells["mine"] = 1
        async with being_opened(drawn):
            await come(editor)
            await asyncio.sleep(0.02)
            assert [] == editor.wires
        await until(lambda: {"large", "after", "mine"} == set(editor.cells.keys()))
        other = await reader(drawn).join()
        await until(lambda: "mine" in other.cells)


async def test_who_comes_when_the_room_is_about_to_open_is_answered_there(drawn: World) -> None:
    async with rooms(drawn):
        first, editor = reader(drawn), reader(drawn)
        async with being_opened(drawn):
            await come(first)
            await editor.come()
            assert editor.session is not None
        await until(lambda: drawn.rooms.open_rooms == 1)
        assert [] == editor.wires
        editor.session.receive(SyncStep1(editor.doc.get_state()))
        await until(lambda: {"large", "after"} == set(editor.cells.keys()))
        assert {"large", "after"} == set(first.cells.keys())


async def test_of_who_sends_much_meanwhile_no_more_is_read_until_the_room_is_open(drawn: World) -> None:
    async with rooms(drawn):
        editor = reader(drawn)
        async with being_opened(drawn):
            await come(editor)
            await until(lambda: "large" in editor.cells)
            editor.edit("some", "x" * (arriving.WAITING_MAX_BYTES // 2))
            assert [] == editor.held_back
            editor.edit("much", "x" * 100_000)
            assert [True] == editor.held_back
        await until(lambda: editor.held_back == [True, False])
        other = await reader(drawn).join()
        await until(lambda: {"large", "after", "some", "much"} == set(other.cells.keys()))
        await until(lambda: editor.acknowledged == 3)


async def test_many_small_messages_count_too(drawn: World) -> None:
    async with rooms(drawn):
        editor = reader(drawn)
        async with being_opened(drawn):
            await come(editor)
            assert editor.session is not None
            for _ in range(arriving.WAITING_MAX_BYTES // 128):
                editor.session.receive_awareness(b"\x00")
            assert [True] == editor.held_back
        await until(lambda: editor.held_back == [True, False])


async def test_whoever_leaves_before_it_is_open_is_not_in_it(drawn: World) -> None:
    async with rooms(drawn):
        gone, editor = reader(drawn), reader(drawn)
        async with being_opened(drawn):
            await asyncio.gather(come(gone), come(editor))
            assert gone.session is not None
            gone.session.leave()
            gone.edit("after it left")
            gone.session.leave()
        await opened(drawn)
        assert {editor} == {peer for _, peer in drawn.rooms.here(drawn.diagram)}
        assert "after it left" not in editor.cells


async def test_what_somebody_sent_who_has_left_goes_in(drawn: World) -> None:
    async with rooms(drawn) as running:
        gone, editor = reader(drawn), reader(drawn)
        async with being_opened(drawn):
            await asyncio.gather(come(gone), come(editor))
            await until(lambda: "large" in gone.cells)
            gone.edit("last")
            assert gone.session is not None
            gone.session.leave()
            assert {editor} == {peer for _, peer in drawn.rooms.here(drawn.diagram)}
        await until(lambda: "last" in editor.cells)
        assert {editor} == {peer for _, peer in drawn.rooms.here(drawn.diagram)}
        assert 0 == running._hosted.kept.size


async def test_what_all_have_sent_together_is_bounded(drawn: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(arriving, "KEPT_MAX_BYTES", 10_000)
    async with rooms(drawn) as running:
        one, two, gone = reader(drawn), reader(drawn), reader(drawn)
        async with being_opened(drawn):
            await asyncio.gather(come(one), come(two), come(gone))
            await until(lambda: "large" in one.cells and "large" in two.cells)
            one.edit("one", "x" * 4_000)
            assert one.session is not None
            two.edit("two", "x" * 9_000)
            assert two.closed is not None
            assert 1013 == two.closed[0]
            assert one.closed is None
        await until(lambda: "one" in gone.cells)
        assert "two" not in gone.cells
        assert 0 == running._hosted.kept.size


async def test_a_slow_reader_is_one_in_the_room_as_well(drawn: World) -> None:
    async with rooms(drawn):
        slow, editor = reader(drawn), reader(drawn)
        async with being_opened(drawn):
            await asyncio.gather(come(slow), come(editor))
            assert slow.session is not None
            slow.session.pause()
            await until(lambda: "large" in slow.cells)
        await opened(drawn)
        editor.edit("new")
        await until(lambda: editor.acknowledged == 2)
        assert "new" not in slow.cells
        slow.session.resume()
        await until(lambda: "new" in slow.cells)


async def test_so_is_one_of_a_document_so_large_that_it_is_greeted_in_its_turn(drawn: World) -> None:
    async with rooms(drawn):
        editor = await reader(drawn).join()
        for n in range(8):
            editor.edit(f"text {n}", "x" * 50_000)
        await until(lambda: editor.acknowledged == 9)
        assert editor.session is not None
        editor.session.leave()
        await until(lambda: drawn.rooms.open_rooms == 0)

        editors = [reader(drawn) for _ in range(5)]
        async with being_opened(drawn):
            for one in editors:
                await come(one)
                assert one.session is not None
                one.session.pause()
            await until(lambda: all("text 0" in one.cells for one in editors[: arriving.GIVEN_MAX]))
        await until(lambda: all("text 7" in one.cells for one in editors))
        other = await reader(drawn).join()
        await until(lambda: other.acknowledged == 1)
        other.edit("new")
        await until(lambda: other.acknowledged == 2)
        await asyncio.sleep(0.05)
        assert not any("new" in one.cells for one in editors)
        for one in editors:
            assert one.session is not None
            one.session.resume()
        await until(lambda: all("new" in one.cells for one in editors))


async def test_who_reads_again_just_when_the_room_opens_is_no_slow_reader(
    drawn: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with rooms(drawn):
        editor, other = reader(drawn), reader(drawn)
        async with being_opened(drawn):
            await asyncio.gather(come(editor), come(other))
            assert editor.session is not None
            editor.session.pause()
            await until(lambda: "large" in editor.cells)
            opening = drawn.rooms._opening._under_way[drawn.diagram].arrived
            assert opening is not None
            enter = opening.enter

            def resumed(runner: RoomRunner) -> None:
                assert editor.session is not None
                editor.session.resume()
                enter(runner)

            monkeypatch.setattr(opening, "enter", resumed)
        await opened(drawn)
        other.edit("new")
        await until(lambda: "new" in editor.cells)


async def test_if_it_is_not_opened_after_all_they_are_sent_away_and_may_come_back(drawn: World) -> None:
    async with rooms(drawn, replace(EARLY, load_timeout_s=0.3)):
        editor = reader(drawn)
        async with being_opened(drawn):
            await come(editor)
            await until(lambda: editor.closed)
            assert (1013, "opening the diagram took too long; try again shortly") == editor.closed
            assert 0 == drawn.rooms._hosted.kept.size
        assert [] == list(drawn.rooms.here(drawn.diagram))
        editor.edit("nobody hears that")
        await until(lambda: not drawn.rooms.is_between(drawn.diagram))
        await editor.join()
        await until(lambda: "after" in editor.cells)
        assert editor.closed is None


async def test_a_node_that_is_drained_sends_them_elsewhere(drawn: World) -> None:
    async with rooms(drawn):
        editor = reader(drawn)
        async with being_opened(drawn):
            await come(editor)
            draining = asyncio.create_task(drawn.rooms.drain(1.0))
            await asyncio.sleep(0)
        await until(lambda: editor.closed)
        assert editor.closed is not None
        assert 1012 == editor.closed[0]
        await draining


async def test_the_limits_of_the_room_are_kept(drawn: World) -> None:
    async with rooms(drawn, replace(EARLY, room=replace(LIMITS.room, sessions_max=1))):
        first, second = reader(drawn), reader(drawn)
        async with being_opened(drawn):
            await come(first)
            with pytest.raises(TooManyRequests):
                await come(second)
        await opened(drawn)
        assert 1 == drawn.rooms.refusals["sessions_per_room"]


async def test_who_loses_the_role_meanwhile_is_sent_away(drawn: World) -> None:
    async with rooms(drawn):
        editor = Reader(drawn, drawn.other, Role.WRITER)
        editor.member = replace(editor.member, as_of=asyncio.get_running_loop().time())
        async with being_opened(drawn):
            await come(editor)
            await until(lambda: "large" in editor.cells)
            await drawn.grant(None)
            await drawn.rooms.rights.access_changed([drawn.diagram])
            editor.edit("no longer allowed")
        await until(lambda: editor.closed)
        # To come back, and be refused.
        assert (1013, "what you may do here may have changed; try again shortly") == editor.closed
        other = await reader(drawn).join()
        await until(lambda: other.acknowledged == 1)
        assert {"large", "after"} == set(other.cells.keys())


async def test_who_is_signed_out_meanwhile_is_not_given_what_is_stored(drawn: World) -> None:
    async with rooms(drawn):
        other, editor = reader(drawn), reader(drawn)
        async with being_opened(drawn):
            await come(other)
            await editor.come()
            await drawn.rooms.rights.sign_ins_ended([editor.member.sign_in])
            assert editor.session is not None
            editor.session.receive(SyncStep1(EMPTY_STATE_VECTOR))
            await until(lambda: editor.closed)
            assert [] == editor.wires
        await until(lambda: "after" in other.cells)


class WithOthers(Reader):
    """Its connection breaks, and takes others with it."""

    others: Sequence[Reader] = ()

    def close(self, code: int, reason: str) -> None:
        super().close(code, reason)
        for other in self.others:
            assert other.session is not None
            other.session.leave()


async def test_one_who_cannot_go_on_keeps_nobody_else(
    drawn: World, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    let_in = Rooms.let_in

    def broken_for(
        self: Rooms, runner: RoomRunner, member: Member, session: Session, given: bytes | None
    ) -> None:
        if isinstance(session.peer, WithOthers):
            raise ZeroDivisionError
        let_in(self, runner, member, session, given)

    monkeypatch.setattr(Rooms, "let_in", broken_for)
    async with rooms(drawn):
        broken, leaving, editor = WithOthers(drawn, drawn.owner, Role.WRITER), reader(drawn), reader(drawn)
        broken.others = [leaving]
        async with being_opened(drawn):
            for one in (broken, leaving, editor):
                await come(one)
        await opened(drawn)
        assert (1011, "internal error") == broken.closed
        assert [editor] == [peer for _, peer in drawn.rooms.here(drawn.diagram)]
        assert "could not go on" in caplog.text
        assert 0 == drawn.rooms._hosted.kept.size


async def test_what_is_small_is_taken_in_before_anybody_is_let_in(drawn: World) -> None:
    async with rooms(drawn, replace(EARLY, early_bytes=1_000_000)):
        editor = reader(drawn)
        async with being_opened(drawn):
            joining = asyncio.create_task(editor.join())
            await asyncio.sleep(0.05)
            assert not joining.done()
        await joining
        await until(lambda: "after" in editor.cells)
