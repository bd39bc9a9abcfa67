"""Long work in short steps: rooms go on meanwhile, and what is half loaded is accounted for."""

import asyncio
from collections.abc import Generator
from dataclasses import replace
from typing import Any

import pytest
from pycrdt import Doc, Map

from crdt.diagram import reconcile
from crdt.document import Document
from crdt.messages import Update
from crdt.reading import Watch, read_cells
from persistence.memory.access import MemoryAccessControl
from rooms.coordination.local import LocalCoordinator
from rooms.memory import MEMORY_FACTOR
from rooms.service import Rooms
from rooms.slices import Slices
from tests.unit.rooms.conftest import LIMITS, World, until
from tmi.domain.errors import Draining, Unavailable
from tmi.domain.ids import Seq
from tmi.domain.ports import LoggedUpdate, Origin, RoomBatch, StoredDocument


def large_state() -> bytes:
    """A diagram of a megabyte."""
    doc: Doc[Any] = Doc()
    cells = doc.get("cells", type=Map)
    with doc.transaction():
        for n in range(10_000):
            cells[f"cell-{n}"] = "x" * 100
    return doc.get_update()


def count_to(number: int, told: "list[str]", name: str = "") -> Generator[None, None, int]:
    for n in range(number):
        told.append(f"{name}{n}")
        yield
    return number


async def test_others_have_a_turn_between_two_steps() -> None:
    told: list[str] = []

    async def others() -> None:
        while len(told) < 9:
            told.append("other")
            await asyncio.sleep(0)

    beside = asyncio.create_task(others())
    assert 5 == await Slices().run(count_to(5, told))
    await beside
    assert all("other" in told[at : at + 2] for at in range(len(told) - 1))


async def test_works_take_turns_and_no_two_steps_are_in_one_turn_of_the_loop() -> None:
    slices, turns = Slices(), 0
    told: list[tuple[str, int]] = []

    async def turn() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    def work(name: str) -> Generator[None, None, str]:
        for _ in range(4):
            told.append((name, turns))
            yield
        return name

    beside = asyncio.create_task(turn())
    await asyncio.sleep(0)
    await asyncio.gather(slices.run(work("a")), slices.run(work("b")))
    beside.cancel()
    assert list("abababab") == [name for name, _ in told]
    assert len({at for _, at in told}) == len(told)


async def test_a_work_that_fails_does_not_stop_others() -> None:
    slices = Slices()

    def fails() -> Generator[None, None, None]:
        yield
        raise ValueError("no")

    failing = asyncio.create_task(slices.run(fails()))
    assert 3 == await slices.run(count_to(3, []))
    with pytest.raises(ValueError, match="no"):
        await failing


async def test_a_work_that_is_given_up_is_closed() -> None:
    told: list[str] = []

    def endless() -> Generator[None, None, None]:
        try:
            while True:
                yield
        finally:
            told.append("closed")

    working = asyncio.create_task(Slices().run(endless()))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    working.cancel()
    await asyncio.gather(working, return_exceptions=True)
    assert ["closed"] == told


async def stored(world: World) -> bytes:
    """A large diagram in the log, whose room is not open."""
    state = large_state()
    fence = await world.log.claim(world.diagram, "somebody")
    update = LoggedUpdate(Seq(1), world.owner.id, Origin.SYNC, state)
    await world.log.append([RoomBatch(world.diagram, fence, (update,))])
    return state


async def test_a_large_room_is_opened_while_others_go_on_and_counts_from_the_beginning(world: World) -> None:
    state = await stored(world)
    editor = world.editor()
    joining = asyncio.create_task(editor.join())
    turns = 0
    while not joining.done():
        turns += world.rooms.memory_bytes >= MEMORY_FACTOR * len(state) and world.rooms.open_rooms == 0
        await asyncio.sleep(0)
    await joining
    assert turns > 20, "the loop went on while the document was being loaded, and it was counted"
    await until(lambda: len(editor.cells) == 10_000)
    assert world.rooms.memory_bytes < 1.1 * MEMORY_FACTOR * len(state), "it is not counted twice"


@pytest.mark.parametrize(("silent_s", "steps"), [(1.0, False), (0.9, True)])
async def test_a_snapshot_of_a_megabyte_is_loaded_in_one_go_where_nobody_edits(
    silent_s: float, steps: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken = []

    def in_one_go(*_: object, **__: object) -> Document:
        taken.append("at once")
        return Document()

    monkeypatch.setattr(Document, "load", in_one_go)
    stored = StoredDocument(large_state(), Seq(1), (), Seq(1), is_whole=True)
    slices = Slices(lambda: silent_s)
    await slices.load(stored)
    assert ([] if steps else ["at once"]) == taken
    taken.clear()
    await slices.load(replace(stored, is_whole=False))
    await slices.load(replace(stored, snapshot=large_state() * 3))
    await slices.load(replace(stored, tail=(large_state(),)))
    assert [] == taken


async def test_who_edits_is_noticed(world: World) -> None:
    assert world.rooms.journal.silent_s > 1e6
    editor = await world.editor().join()
    editor.edit("a")
    await until(lambda: world.rooms.journal.in_flight == 0 and world.stored == 1)
    assert 0 <= world.rooms.journal.silent_s < 5
    world.store.unavailable = True
    editor.edit("b")
    await until(lambda: world.rooms.journal.unsaved() != {})
    assert 0.0 == world.rooms.journal.silent_s


async def test_a_drain_that_begins_while_a_room_is_loaded_takes_nobody_in(world: World) -> None:
    await stored(world)
    joining = asyncio.create_task(world.editor().join())
    await until(lambda: world.rooms.memory_bytes > 0)
    assert {} == await world.rooms.drain(1)
    with pytest.raises(Draining):
        await joining
    assert (0, 0) == (world.rooms.open_rooms, world.rooms.memory_bytes)


async def test_a_room_is_refused_for_the_memory_of_one_that_is_being_loaded(world: World) -> None:
    state = await stored(world)
    limits = replace(LIMITS, memory_max_bytes=1, memory_hard_max_bytes=MEMORY_FACTOR * len(state))
    access, coordinator = MemoryAccessControl(world.store), LocalCoordinator(world.log, "node")
    rooms = Rooms(world.log, coordinator, access, limits)
    async with rooms.running():
        first, second = world.editor(), world.editor(world.other)
        joining = asyncio.create_task(rooms.join(world.diagram, first.member, first))
        await until(lambda: rooms.memory_bytes > 0)
        with pytest.raises(Unavailable, match="memory"):
            await rooms.join(world.unopened, second.member, second)
        await joining


# --- reading --------------------------------------------------------------------------------------


def drawn(cells: int) -> bytes:
    document = Document()
    reconcile(document, [{"id": f"cell-{n}", "shape": "process", "x": n, "y": 0} for n in range(cells)])
    return document.encode()


async def test_a_large_diagram_is_shown_as_at_one_moment_while_people_edit(world: World) -> None:
    editor = world.editor()
    editor.doc.apply_update(drawn(1000))
    await editor.join()
    await until(lambda: world.rooms.journal.unsaved() == {} and editor.acknowledged)
    showing = asyncio.create_task(world.rooms.show(world.diagram))
    edits = 0
    while not showing.done():
        before = editor.doc.get_state()
        editor.cells["cell-7"]["n"] = edits
        assert editor.session is not None
        editor.session.receive(Update(editor.doc.get_update(before)))
        await asyncio.sleep(0)
        edits += 1
    seen = await showing
    assert edits > 3
    assert 1 < seen.seq
    await until(lambda: world.rooms.journal.unsaved() == {})
    rows = world.store.logs[world.diagram].rows
    then = Document.load(None, [update.data for _, update in rows[: seen.seq]])
    assert read_cells(then) == seen.cells


async def test_a_large_diagram_that_nobody_has_open_is_shown(world: World) -> None:
    fence = await world.log.claim(world.diagram, "somebody")
    update = LoggedUpdate(Seq(1), world.owner.id, Origin.SYNC, drawn(1000))
    await world.log.append([RoomBatch(world.diagram, fence, (update,))])
    seen = await world.rooms.show(world.diagram)
    assert (1000, 1, {}) == (len(seen.cells), seen.seq, seen.meta)
    assert 0 == world.rooms.open_rooms


async def test_a_diagram_whose_room_ends_while_it_is_read_is_read_again(world: World) -> None:
    editor = world.editor()
    editor.doc.apply_update(drawn(1000))
    await editor.join()
    await until(lambda: world.rooms.journal.unsaved() == {} and editor.acknowledged)
    showing = asyncio.create_task(world.rooms.show(world.diagram))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    runner = world.rooms.owned(world.diagram)
    assert runner is not None
    seq = runner.room.committed_seq
    runner.end(runner.room.log_refused)
    assert runner.room.is_over
    seen = await showing
    assert (1000, seq) == (len(seen.cells), seen.seq)


async def test_only_few_large_diagrams_are_read_at_a_time(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    await stored_cells(world)
    open_now = most = 0

    class Counted(Watch):
        def __init__(self, document: Document) -> None:
            nonlocal open_now, most
            open_now += 1
            most = max(most, open_now)
            super().__init__(document)

        def close(self) -> None:
            nonlocal open_now
            open_now -= 1
            super().close()

    monkeypatch.setattr("crdt.reading.Watch", Counted)
    seen = await asyncio.gather(*(world.rooms.show(world.diagram) for _ in range(20)))
    assert [500] * 20 == [len(shown.cells) for shown in seen]
    assert (0, 4) == (open_now, most)


async def test_who_waits_too_long_to_read_a_large_diagram_is_told(world: World) -> None:
    await stored_cells(world)
    reading = asyncio.Event()

    async def never(_: object) -> object:
        reading.set()
        return await asyncio.Event().wait()

    access, coordinator = MemoryAccessControl(world.store), LocalCoordinator(world.log, "node")
    rooms = Rooms(world.log, coordinator, access, replace(LIMITS, read_timeout_s=0.05))
    async with rooms.running():
        rooms.slices.run = never  # type: ignore[method-assign, assignment]
        stuck = [asyncio.create_task(rooms.show(world.diagram)) for _ in range(4)]
        await reading.wait()
        with pytest.raises(Unavailable, match="being read"):
            await rooms.show(world.diagram)
        for task in stuck:
            task.cancel()
        await asyncio.gather(*stuck, return_exceptions=True)


async def stored_cells(world: World) -> None:
    """Five hundred cells in the log, whose room is not open."""
    fence = await world.log.claim(world.diagram, "somebody")
    update = LoggedUpdate(Seq(1), world.owner.id, Origin.SYNC, drawn(500))
    await world.log.append([RoomBatch(world.diagram, fence, (update,))])
