"""Whoever comes while a diagram is being read: given what is stored at once, in the room when it is open."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace

import pytest

from crdt.messages import SyncStep1
from persistence.memory.access import MemoryAccessControl
from rooms import arriving, slices
from rooms.coordination.local import LocalCoordinator
from rooms.limits import RoomsLimits
from rooms.service import Rooms
from tests.unit.rooms.conftest import LIMITS, Editor, World, until
from tmi.domain.model import User
from tmi.domain.roles import Role

EARLY = replace(LIMITS, early_bytes=1)


class Reader(Editor):
    """Remembers when it was read no more, and read again."""

    def __init__(self, world: World, user: User, role: Role) -> None:
        super().__init__(world, user, role)
        self.held_back: list[bool] = []

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


async def test_a_newcomer_is_given_what_is_stored_and_what_came_after_it_when_the_room_is_open(
    drawn: World,
) -> None:
    async with rooms(drawn):
        one, two = reader(drawn), reader(drawn)
        async with being_opened(drawn):
            await asyncio.gather(come(one), come(two))
            await until(lambda: {"large"} == set(one.cells.keys()) == set(two.cells.keys()))
            assert 0 == drawn.rooms.open_rooms
            assert {one, two} == {peer for _, peer in drawn.rooms.here(drawn.diagram)}
            one.edit("meanwhile")
            assert "meanwhile" not in two.cells
        keys = {"large", "after", "meanwhile"}
        await until(lambda: keys == set(one.cells.keys()) == set(two.cells.keys()))
        # What the room had was sent once: the second answer has the edit after the snapshot, and no more.
        given = [wire for wire in one.wires if b"x" * 6_000 in wire]
        assert 1 == len(given)
        # Its answer to the room's question, and its edit.
        await until(lambda: one.acknowledged == 2)
        assert {one, two} == {peer for _, peer in drawn.rooms.here(drawn.diagram)}
        two.edit("later")
        await until(lambda: "later" in one.cells)


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
            editor.session = await drawn.rooms.join(drawn.diagram, editor.member, editor)
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
        await until(lambda: "after" in editor.cells)
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
        await until(lambda: "after" in slow.cells)
        editor.edit("new")
        await until(lambda: editor.acknowledged == 2)
        assert "new" not in slow.cells
        slow.session.resume()
        await until(lambda: "new" in slow.cells)


async def test_if_it_is_not_opened_after_all_they_are_sent_away_and_may_come_back(drawn: World) -> None:
    async with rooms(drawn, replace(EARLY, load_timeout_s=0.3)):
        editor = reader(drawn)
        async with being_opened(drawn):
            await come(editor)
            await until(lambda: editor.closed)
            assert (1013, "opening the diagram took too long; try again shortly") == editor.closed
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
            await come(second)
        await until(lambda: second.closed)
        assert second.closed is not None
        assert 1013 == second.closed[0]
        assert first.closed is None
        assert 1 == drawn.rooms.refusals["sessions_per_room"]


async def test_who_loses_the_role_meanwhile_is_sent_away(drawn: World) -> None:
    async with rooms(drawn):
        editor = drawn.editor(drawn.other)
        async with being_opened(drawn):
            await come(editor)
            await drawn.grant(None)
            await drawn.rooms.rights.access_changed([drawn.diagram])
        await until(lambda: editor.closed)
        assert editor.closed is not None
        assert 4403 == editor.closed[0]


async def test_what_is_small_is_taken_in_before_anybody_is_let_in(drawn: World) -> None:
    async with rooms(drawn, replace(EARLY, early_bytes=1_000_000)):
        editor = reader(drawn)
        async with being_opened(drawn):
            joining = asyncio.create_task(editor.join())
            await asyncio.sleep(0.05)
            assert not joining.done()
        await joining
        await until(lambda: "after" in editor.cells)
