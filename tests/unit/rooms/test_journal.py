"""When the journal commits: at once after a while, soon where somebody waits, and seldom otherwise."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace

import pytest

from persistence.memory.access import MemoryAccessControl
from rooms.coordination.local import LocalCoordinator
from rooms.service import Rooms
from tests.unit.rooms.conftest import LIMITS, Editor, World, until
from tmi.domain.ports import Origin

SELDOM_S = 30.0


@pytest.fixture
async def world() -> AsyncIterator[World]:
    """Where nobody waits for a word, commits are further apart than a test takes."""
    made = World()
    await made.prepare()
    limits = replace(LIMITS, journal=replace(LIMITS.journal, unawaited_interval_s=SELDOM_S))
    access = MemoryAccessControl(made.store)
    made.rooms = Rooms(made.log, LocalCoordinator(made.log, "node"), access, limits)
    async with made.rooms.running():
        yield made


async def silent(world: World) -> Editor:
    """Somebody who does not ask whether edits are saved; one is committed, so the next ones wait."""
    editor = world.editor()
    editor.wants_acknowledgements = False
    await editor.join()
    editor.edit("first")
    await until(lambda: world.stored == 1)
    return editor


async def test_an_edit_alone_is_committed_at_once_and_further_ones_wait(world: World) -> None:
    editor = await silent(world)
    editor.edit("a")
    await asyncio.sleep(0.08)
    editor.edit("b")
    await asyncio.sleep(0.08)
    assert 1 == world.stored
    assert await world.rooms.journal.flushed(1)
    assert (3, 2) == (world.stored, world.rooms.journal.commits)


async def test_the_edits_of_somebody_who_leaves_are_committed_soon(world: World) -> None:
    editor = await silent(world)
    editor.edit("a")
    await asyncio.sleep(0.05)
    assert 1 == world.stored
    editor.edit("held, since its tick has not ended")
    assert editor.session is not None
    editor.session.leave()
    await until(lambda: world.stored == 3)


async def test_once_that_is_done_nothing_is_hurried_any_more(world: World) -> None:
    editor, other = await silent(world), world.editor(world.other)
    other.wants_acknowledgements = False
    await other.join()
    editor.edit("a")
    assert editor.session is not None
    editor.session.leave()
    await until(lambda: world.stored == 2)
    other.edit("b")
    await asyncio.sleep(0.08)
    assert 2 == world.stored


async def test_who_waits_for_a_word_hurries_what_waits_already(world: World) -> None:
    editor = await silent(world)
    other = await world.editor(world.other).join()
    editor.edit("a")
    await asyncio.sleep(0.05)
    assert 1 == world.stored
    other.edit("b")
    await until(lambda: other.acknowledged == 2)
    assert 3 == world.stored


async def test_what_waits_for_the_commit_of_what_it_repeats_hurries_it(world: World) -> None:
    editor = await silent(world)
    editor.edit("a")
    other = await world.editor(world.other).join()  # its SyncStep2 brings nothing, and is acknowledged
    await until(lambda: other.acknowledged == 1)
    assert 2 == world.stored


async def test_an_edit_by_rest_is_not_kept_waiting(world: World) -> None:
    editor = await silent(world)
    editor.edit("a")
    runner = world.rooms.owned(world.diagram)
    assert runner is not None
    runner.edit(lambda document: document.transact(lambda doc: None), None, Origin.REST)
    async with asyncio.timeout(1):
        assert await runner.saved(runner.room.seq)
    assert 2 == world.stored


async def test_a_room_that_ends_is_committed_soon(world: World) -> None:
    editor = await silent(world)
    editor.edit("a")
    await asyncio.sleep(0.05)
    runner = world.rooms.owned(world.diagram)
    assert runner is not None
    runner.end(runner.room.drain)
    await until(lambda: world.stored == 2)


async def test_commits_of_those_who_wait_are_spaced(world: World) -> None:
    editor = await world.editor().join()
    await until(lambda: editor.acknowledged == 1)
    before = world.rooms.journal.commits
    for n in range(10):
        editor.edit(f"k{n}")
        await asyncio.sleep(0.004)
    await until(lambda: editor.acknowledged == 11)
    assert world.rooms.journal.commits - before < 8
