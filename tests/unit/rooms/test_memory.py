"""Rooms are closed early when they take too much memory: only those that nobody would miss."""

import asyncio
import gc
import resource
import threading
import weakref
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from pycrdt import Doc, Map

from crdt import awareness
from crdt.awareness import Entry
from crdt.messages import Awareness, Update
from persistence.memory.access import MemoryAccessControl
from persistence.memory.update_log import MemoryUpdateLog
from rooms import closing
from rooms.coordination.local import LocalCoordinator
from rooms.growth import HELD_BACK
from rooms.memory import ROOM_BYTES, memory_of
from rooms.service import Rooms
from rooms.trimming import TRIM_BYTES, Trimming, trim_of_libc
from tests.unit.rooms.conftest import LIMITS, Editor, World, runner_of, until
from tmi.domain.errors import TooManyRequests, Unavailable
from tmi.domain.ids import DiagramId, Fence, NodeId
from tmi.domain.ports import StoredDocument
from tmi.domain.roles import Role

KIB = 1024
TEXT_BYTES = 50 * KIB
ROOM_WITH_TEXT = 20 * TEXT_BYTES
THREE_FIT = replace(
    LIMITS,
    journal=replace(LIMITS.journal, max_bytes=1_000_000),
    idle_s=60,
    memory_max_bytes=3 * ROOM_WITH_TEXT + 10 * ROOM_BYTES,
    memory_hard_max_bytes=5 * ROOM_WITH_TEXT + 10 * ROOM_BYTES,
    memory_sweep_s=0.01,
    evict_after_s=0.0,
)


class Crowd:
    """Many diagrams, and somebody who visits them."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.editors: list[Editor] = []

    async def visit(self, *, stay: bool = False, save: bool = True) -> DiagramId:
        """Open a new diagram and write a long text into it."""
        world = self.world
        world.diagram = (await world.diagrams.create(world.model, "d", "DFD-1.0.0", None)).id
        editor = await world.editor().join()
        self.editors.append(editor)
        editor.edit("text", "x" * TEXT_BYTES)
        if save:
            await until(lambda: editor.acknowledged == 2)
        assert editor.session is not None
        if not stay:
            editor.session.leave()
        return world.diagram

    def open_diagrams(self) -> list[DiagramId]:
        return [runner.room.diagram for runner in self.world.rooms.runners]


class SlowToRead(MemoryUpdateLog):
    """So that several rooms are being read at a time."""

    async def load(self, diagram: DiagramId) -> StoredDocument:
        await asyncio.sleep(0.002)
        return await super().load(diagram)


class CountedReads(MemoryUpdateLog):
    """Knows how many documents were being read at a time, at most."""

    reads = at_once = most_at_once = 0

    async def load(self, diagram: DiagramId) -> StoredDocument:
        self.reads += 1
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        for _ in range(100):  # turns of the loop, for others to begin in
            await asyncio.sleep(0)
        self.at_once -= 1
        return await super().load(diagram)


class Claims(LocalCoordinator):
    """Counts what is claimed and given back."""

    claimed = released = 0

    async def claim(self, diagram: DiagramId, disowned: NodeId | None = None) -> Fence:
        self.claimed += 1
        return await super().claim(diagram, disowned)

    async def release(self, diagram: DiagramId, fence: Fence) -> None:
        self.released += 1
        await super().release(diagram, fence)


@pytest.fixture
def no_collector() -> Iterator[None]:
    gc.collect()
    gc.disable()
    yield
    gc.enable()


@pytest.fixture
async def crowd() -> AsyncIterator[Crowd]:
    """At most three rooms with a text fit, and none is closed for being idle."""
    world = World()
    await world.prepare()
    world.rooms = Rooms(
        world.log, LocalCoordinator(world.log, "node"), MemoryAccessControl(world.store), THREE_FIT
    )
    async with world.rooms.running():
        yield Crowd(world)


async def test_what_a_room_takes_follows_its_document(crowd: Crowd) -> None:
    await crowd.visit(stay=True)
    (runner,) = crowd.world.rooms.runners
    assert ROOM_WITH_TEXT <= memory_of(runner) <= ROOM_WITH_TEXT + ROOM_BYTES + 20 * KIB


async def test_what_is_unsaved_counts_as_memory_of_its_room(crowd: Crowd) -> None:
    crowd.world.log.gate = asyncio.Event()
    await crowd.visit(stay=True, save=False)
    (runner,) = crowd.world.rooms.runners
    runner.settle()
    unsaved = memory_of(runner)
    assert TEXT_BYTES <= runner.room.unsaved_bytes
    crowd.world.log.gate.set()
    await until(lambda: not runner.room.unsaved)
    assert TEXT_BYTES <= unsaved - memory_of(runner)


async def test_the_rooms_least_recently_used_are_closed_first(crowd: Crowd) -> None:
    visited = [await crowd.visit() for _ in range(5)]
    await until(lambda: crowd.world.rooms.open_rooms == 3)
    assert visited[2:] == crowd.open_diagrams()
    assert 2 == crowd.world.rooms.evictions


async def test_a_room_with_clients_is_never_closed_for_its_memory(crowd: Crowd) -> None:
    visited = [await crowd.visit(stay=True) for _ in range(4)]
    await crowd.visit()
    await until(lambda: crowd.world.rooms.evictions == 1)
    await until(lambda: crowd.world.rooms.open_rooms == 4)
    assert visited == crowd.open_diagrams()


async def test_a_room_with_unsaved_edits_is_never_closed_for_its_memory(crowd: Crowd) -> None:
    world = crowd.world
    # Swept by the test alone: one that comes between two commits closes one room more.
    limits = replace(THREE_FIT, sweep_s=3600.0, memory_sweep_s=0.0)
    world.rooms = rooms = Rooms(
        world.log, LocalCoordinator(world.log, "other"), MemoryAccessControl(world.store), limits
    )
    async with rooms.running():
        world.log.gate = asyncio.Event()
        visited = [await crowd.visit(save=False) for _ in range(4)]
        rooms._budget.look()
        rooms._retiring.close_idle()
        assert (0, visited) == (rooms.evictions, crowd.open_diagrams())
        assert set(visited) == set(rooms.journal.unsaved())
        world.log.gate.set()
        await until(lambda: not rooms.journal.unsaved())
        rooms._budget.look()
        rooms._retiring.close_idle()
        assert 1 == rooms.evictions
        assert {1} == {len(world.store.logs[diagram].rows) for diagram in visited}


async def filled(crowd: Crowd) -> list[DiagramId]:
    """Rooms with somebody in each, as many as may be opened."""
    visited: list[DiagramId] = []
    while len(visited) < 20:
        try:
            visited.append(await crowd.visit(stay=True))
        except Unavailable:
            return visited
    raise AssertionError("every room was opened")


async def test_past_the_hard_limit_no_further_room_is_opened_and_open_ones_may_be_joined(
    crowd: Crowd,
) -> None:
    visited = await filled(crowd)
    assert 1 == crowd.world.rooms.refusals["rooms_memory"]
    crowd.world.diagram = visited[0]
    assert "text" in (await crowd.world.editor().join()).cells
    for editor in crowd.editors:
        assert editor.session is not None
        editor.session.leave()
    await crowd.visit()


async def test_past_the_hard_limit_open_rooms_grow_by_an_eighth_of_it_and_those_that_grew_most_are_held_back(
    crowd: Crowd,
) -> None:
    world, rooms = crowd.world, crowd.world.rooms
    visited = await filled(crowd)
    greedy, modest = crowd.editors[:2]
    world.diagram = visited[0]
    reader = await world.editor(role=Role.READER).join()
    before = rooms.memory_bytes
    for n in range(100):
        greedy.edit(f"more {n}", "x" * 5 * KIB)
        modest.edit(f"few {n % 3}", n)
        if greedy.closed is not None:
            break
        await asyncio.sleep(0.02)
    assert (closing.TRY_AGAIN_LATER, HELD_BACK) == greedy.closed
    assert rooms.memory_bytes - before <= THREE_FIT.memory_hard_max_bytes // 8
    assert (None, None) == (modest.closed, reader.closed)
    for _ in range(2):
        with pytest.raises(Unavailable, match="this one has grown"):
            await world.editor().join()
    assert 2 == rooms.refusals["rooms_growth"]
    assert (await world.editor(role=Role.READER).join()).closed is None

    # There is room again: what the writer has made meanwhile comes with it.
    greedy.session, greedy.closed = None, None
    greedy.cells["meanwhile"] = "drawn"
    for editor in crowd.editors[1:]:
        assert editor.session is not None
        editor.session.leave()
    await until(lambda: rooms.memory_bytes < THREE_FIT.memory_hard_max_bytes)
    await until(lambda: not next(rooms.runners).is_held_back)
    await greedy.join()
    await until(lambda: "meanwhile" in reader.cells)
    assert {f"more {n}" for n in range(5)} <= set(reader.cells.keys())


async def test_past_the_hard_limit_rooms_grow_by_no_more_than_an_eighth_however_many_do(
    crowd: Crowd,
) -> None:
    world, rooms = crowd.world, crowd.world.rooms
    await filled(crowd)
    before = rooms.memory_bytes
    step, tries = 2 * KIB, 0
    while (writers := [editor for editor in crowd.editors if editor.closed is None]) and tries < 200:
        tries += 1
        for editor in writers:
            editor.edit(f"more {tries}", "x" * step)
        await asyncio.sleep(0.02)
    assert not writers, "all grow, so all are held back in the end"
    late = 2 * len(crowd.editors) * 20 * 2 * step
    assert rooms.memory_bytes - before <= THREE_FIT.memory_hard_max_bytes // 8 + late
    assert not world.rooms.journal.shedding


async def test_clients_of_a_room_are_bounded(world: World) -> None:
    limits = replace(LIMITS, room=replace(LIMITS.room, sessions_max=2))
    rooms = Rooms(world.log, LocalCoordinator(world.log, "n"), MemoryAccessControl(world.store), limits)
    async with rooms.running():
        world.rooms = rooms
        one, _ = await world.editor().join(), await world.editor().join()
        with pytest.raises(TooManyRequests):
            await world.editor().join()
        assert 1 == rooms.refusals["sessions_per_room"]
        assert one.session is not None
        one.session.leave()
        await world.editor().join()


@pytest.mark.usefixtures("no_collector")
async def test_a_closed_room_is_gone_at_once_without_the_collector(crowd: Crowd) -> None:
    first = await crowd.visit()
    (room,) = [weakref.ref(runner) for runner in crowd.world.rooms.runners]
    for _ in range(4):
        await crowd.visit()
    await until(lambda: first not in crowd.open_diagrams())
    for editor in crowd.editors:  # who has left forgets the session, as sockets do
        editor.session = None
    await until(lambda: room() is None)


async def test_opening_many_rooms_at_once_passes_the_hard_limit_by_one_room_at_most(crowd: Crowd) -> None:
    world = crowd.world
    diagrams = [await crowd.visit() for _ in range(12)]
    limits = replace(LIMITS, memory_max_bytes=ROOM_WITH_TEXT, memory_hard_max_bytes=2 * ROOM_WITH_TEXT)
    log, coordinator = SlowToRead(world.store), Claims(world.log, "other")
    rooms = Rooms(log, coordinator, MemoryAccessControl(world.store), limits)
    async with rooms.running():
        answers = await asyncio.gather(
            *(rooms.join(diagram, world.editor().member, world.editor()) for diagram in diagrams),
            return_exceptions=True,
        )
        refused = [answer for answer in answers if isinstance(answer, Unavailable)]
        assert 12 - rooms.open_rooms == len(refused) == rooms.refusals["rooms_memory"]
        assert limits.memory_hard_max_bytes <= rooms.memory_bytes <= 3 * (ROOM_WITH_TEXT + 2 * ROOM_BYTES)
        # Some were refused only after they had been read: they are given back.
        assert coordinator.claimed > rooms.open_rooms
        await until(lambda: coordinator.claimed - coordinator.released == rooms.open_rooms)
        for answer in answers:
            if not isinstance(answer, BaseException):
                answer.leave()
        await until(lambda: rooms.open_rooms == 0)
        for diagram in diagrams:
            (await rooms.join(diagram, world.editor().member, world.editor())).leave()
            await until(lambda: rooms.open_rooms == 0)


async def test_rooms_that_wait_to_be_opened_are_bounded(crowd: Crowd) -> None:
    world = crowd.world
    diagrams = [await crowd.visit() for _ in range(5)]
    limits = replace(LIMITS, loads_at_once=1, loads_waiting_max=2)
    coordinator = LocalCoordinator(world.log, "other")
    rooms = Rooms(world.log, coordinator, MemoryAccessControl(world.store), limits)
    async with rooms.running():
        answers = await asyncio.gather(
            *(rooms.join(diagram, world.editor().member, world.editor()) for diagram in diagrams),
            return_exceptions=True,
        )
        assert [False, False, True, True, True] == [isinstance(answer, Unavailable) for answer in answers]
        assert 3 == rooms.refusals["loads_waiting"]
        session = await rooms.join(diagrams[-1], world.editor().member, world.editor())
        assert runner_of(session).room.is_open


async def test_documents_that_are_read_at_once_are_bounded(crowd: Crowd) -> None:
    world = crowd.world
    diagrams = [await crowd.visit() for _ in range(5)]
    log = CountedReads(world.store)
    limits = replace(LIMITS, loads_at_once=2)
    rooms = Rooms(log, LocalCoordinator(log, "other"), MemoryAccessControl(world.store), limits)
    async with rooms.running():
        await asyncio.gather(
            *(rooms.join(diagram, world.editor().member, world.editor()) for diagram in diagrams[:3]),
            *(rooms.read(diagram) for diagram in diagrams[3:]),
        )
    assert (5, 2) == (log.reads, log.most_at_once)


async def test_rooms_are_closed_in_the_order_in_which_they_were_used_and_not_opened(crowd: Crowd) -> None:
    first, second = await crowd.visit(), await crowd.visit()
    crowd.world.diagram = first
    session = (await crowd.world.editor().join()).session
    assert session is not None
    await asyncio.sleep(0.01)
    session.leave()
    third, fourth = await crowd.visit(), await crowd.visit()
    await until(lambda: crowd.world.rooms.open_rooms == 3)
    assert {first, third, fourth} == set(crowd.open_diagrams())
    assert second not in crowd.open_diagrams()


async def test_presence_counts_as_memory_of_its_room_and_what_is_refused_of_it_is_counted(
    crowd: Crowd,
) -> None:
    await crowd.visit(stay=True)
    (editor,), rooms = crowd.editors, crowd.world.rooms
    (runner,) = rooms.runners
    assert editor.session is not None
    before = memory_of(runner)
    state = b'{"x":"%s"}' % (b"x" * 60_000)
    editor.session.receive(Awareness(awareness.encode([Entry(n, 1, state) for n in range(1, 18)])))
    assert 16 * 60_000 < memory_of(runner) - before < 17 * 2 * 61_000
    assert 1 == rooms.refusals["presence_ids"]
    runner.settle()
    assert memory_of(runner) == rooms.memory_bytes
    editor.session.leave()
    assert memory_of(runner) - before < 20 * 1024


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


@pytest.mark.skipif(trim_of_libc() is None, reason="the C library has no malloc_trim")
async def test_memory_of_evicted_rooms_goes_back_to_the_system() -> None:
    world = World()
    await world.prepare()
    doc: Doc[Map[int]] = Doc()
    doc["cells"] = Map({str(n): n for n in range(45_000)})
    large = Update(doc.get_update())
    limits = replace(LIMITS, memory_sweep_s=0.01, evict_after_s=0.0)
    world.rooms = rooms = Rooms(
        world.log, LocalCoordinator(world.log, "node"), MemoryAccessControl(world.store), limits
    )
    async with rooms.running():
        editors = []
        for _ in range(8):
            world.diagram = (await world.diagrams.create(world.model, "d", "DFD-1.0.0", None)).id
            editor = await world.editor().join()
            assert editor.session is not None
            editor.session.receive(large)
            await until(lambda editor=editor: editor.acknowledged == 2)  # type: ignore[misc]
            editors.append(editor)
        # The last one stays: what lies on top of the heap keeps glibc from giving back what is below.
        rooms._budget._limits = replace(limits, memory_max_bytes=0)
        before = resident_bytes()
        for editor in editors[:-1]:
            assert editor.session is not None
            editor.session.leave()
            editor.session = None
        await until(lambda: rooms.open_rooms == 1)
        await until(lambda: resident_bytes() < before - TRIM_BYTES // 2)


async def test_memory_is_given_back_seldom_and_beside_the_loop() -> None:
    ran_in: list[int] = []
    may_end = threading.Event()

    def trim() -> None:
        ran_in.append(threading.get_ident())
        may_end.wait(5)

    trimming = Trimming(trim, again_s=0.01)

    def is_due() -> bool:
        return trimming.is_due

    trimming.freed(TRIM_BYTES - 1)
    assert not is_due()
    trimming.freed(1)
    assert is_due()
    task = asyncio.create_task(trimming.run())
    await until(lambda: ran_in)
    trimming.freed(TRIM_BYTES)
    assert not is_due(), "once at a time"
    may_end.set()
    await task
    assert is_due()
    assert 2 == len(ran_in), "once more for what was freed late"
    assert threading.get_ident() not in ran_in
    trimming = Trimming(None)
    trimming.freed(TRIM_BYTES)
    assert not is_due()
