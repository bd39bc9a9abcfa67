"""Large edits by clients of a node that follows: they cross the link in pieces."""

import pytest

from crdt.messages import Update
from rooms.nodes.replica import _Whole
from tests.unit.rooms.conftest import Editor, World, until
from tests.unit.rooms.nodes.test_following import Outpost, cells
from tests.unit.rooms.test_large_edits import CELLS, drawn, stored, turns
from tmi.domain.roles import Role


async def met(world: World) -> tuple[Editor, Outpost, Editor]:
    """Somebody on the owner, and somebody on a node that follows."""
    here = await world.editor().join()
    outpost = Outpost(world)
    await outpost.follow()
    there = outpost.join(world.editor(world.other))
    await until(lambda: there.acknowledged == 1)
    return here, outpost, there


def wholes(outpost: Outpost) -> "list[_Whole]":
    """The large edits of which pieces are not acknowledged."""
    waiting = outpost.runner.room._waiting.values()
    return [edit.whole for session in waiting for edit in session.edits if edit.whole is not None]


def draw(editor: Editor) -> None:
    update = drawn()
    editor.doc.apply_update(update)
    assert editor.session is not None
    editor.session.receive(Update(update))


async def test_it_arrives_piece_by_piece_and_is_acknowledged_as_one(world: World) -> None:
    here, outpost, there = await met(world)
    draw(there)
    there.edit("last", 1)
    assert 1 == there.acknowledged
    await until(lambda: len(here.cells))
    assert len(here.cells) < CELLS
    await until(lambda: there.acknowledged > 1)
    assert len((await stored(world)).doc.get("cells", type=type(here.cells))) >= CELLS
    await until(lambda: there.acknowledged == 3)
    assert CELLS + 1 == len(here.cells)
    assert (0, 0) == (outpost.runner.room.unsaved, outpost.runner.room.unsaved_bytes)
    _, *rows = world.store.logs[world.diagram].rows
    assert max(len(update.data) for _, update in rows) < 64 * 1024


async def test_a_link_that_breaks_meanwhile_loses_nothing(world: World) -> None:
    here = await world.editor().join()
    outpost = Outpost(world)
    link = await outpost.follow()
    there = outpost.join(world.editor(world.other))
    await until(lambda: there.acknowledged == 1)
    draw(there)
    await until(lambda: len(here.cells))
    link.cut()
    there.edit("last", 1)
    assert len(here.cells) < CELLS
    await until(lambda: outpost.runner.room.unsaved > 2)
    await outpost.follow()
    await until(lambda: len(here.cells) == CELLS + 1)
    await until(lambda: there.acknowledged == 3 and not outpost.runner.room.unsaved)


async def test_who_leaves_right_behind_it_has_left_it(world: World) -> None:
    here, outpost, there = await met(world)
    draw(there)
    there.edit("last", 1)
    assert there.session is not None
    there.session.leave()
    await until(lambda: len(here.cells) == CELLS + 1)
    await until(lambda: outpost.runner.room.is_empty and not outpost.runner.room.unsaved)


@pytest.mark.parametrize("regains", ["never", "before its end"])
async def test_an_owner_that_refuses_a_piece_has_refused_all_of_it_once(world: World, regains: str) -> None:
    here, outpost, there = await met(world)
    owner = next(world.rooms.runners)
    (seat,) = [s for s in owner.room._sessions.values() if s.member and s.member.user == world.other.id]
    draw(there)
    await until(lambda: len(here.cells))
    seat.may_edit = False  # before the follower has heard of it
    await until(lambda: any(whole.is_lacking for whole in wholes(outpost)))
    assert 0 == there.refused
    if regains != "never":
        seat.may_edit = True
    await until(lambda: not outpost.runner.room.unsaved and there.refused)
    await turns(5)
    if regains == "never":
        assert len(here.cells) < CELLS
        assert (1, 1) == (there.refused, there.acknowledged)
    else:
        # What came after the refused piece waits for it, so the owner asks; the answer makes good.
        await until(lambda: len(here.cells) == CELLS)
        await until(lambda: (there.refused, there.acknowledged) == (1, 2))
    assert None is there.closed is here.closed


async def test_after_a_demotion_meanwhile_an_edit_counts_again_once_the_role_is_back(world: World) -> None:
    here, outpost, there = await met(world)
    owner = next(world.rooms.runners)
    draw(there)
    await until(lambda: len(here.cells))
    owner.change_roles({world.other.id: Role.READER})
    await until(lambda: there.refused == 1 and not outpost.runner.room.unsaved)
    assert ([Role.READER], 1) == (there.roles, there.acknowledged)
    owner.change_roles({world.other.id: Role.WRITER})
    # It is asked for what was refused, and its answer makes that good.
    await until(lambda: len(here.cells) == CELLS and there.acknowledged == 2)
    there.edit("later", 1)
    await until(lambda: there.acknowledged == 3)
    assert (1, CELLS + 1) == (there.refused, len(here.cells))


async def test_what_a_reader_there_says_is_refused_unless_it_is_nothing_new(world: World) -> None:
    here, outpost, _ = await met(world)
    state = drawn()
    assert here.session is not None
    reader = outpost.join(world.editor(world.other, Role.READER))
    assert reader.session is not None
    reader.session.receive(Update(state))
    assert 0 == reader.refused
    await until(lambda: reader.refused == 1)
    here.session.receive(Update(state))
    await until(lambda: len(reader.cells) == CELLS)
    before = reader.acknowledged
    reader.session.receive(Update(state))
    await until(lambda: reader.acknowledged == before + 1)
    assert (1, CELLS) == (reader.refused, len(cells(here)))
