"""Large edits go in by pieces: what others see and write meanwhile, and what their author is told."""

import asyncio
from collections.abc import Generator
from typing import Any

import pytest
from pycrdt import Doc, Map, Text

from crdt.document import Document
from crdt.messages import SyncStep2, Update
from crdt.structs import read_structs
from rooms import closing, large_edits
from rooms.effects import Effects
from tests.unit.crdt.test_document import TAKES_A_PART
from tests.unit.rooms.conftest import Editor, World, until
from tmi.domain.roles import Role

CELLS = 3000


def drawn(cells: int = CELLS, client: int | None = None) -> bytes:
    """Many structs, and some deletes: 300 KB."""
    doc: Doc[Any] = Doc() if client is None else Doc(client_id=client)
    root = doc.get("cells", type=Map)
    with doc.transaction():
        for n in range(cells):
            root[f"cell {n}"] = Map({"shape": "process", "x": n, "label": "x" * 30})
        for n in range(0, cells, 100):
            root[f"cell {n}"]["x"] = -1
    return doc.get_update()


async def stored(world: World) -> Document:
    """What a restart would find."""
    found = await world.log.load(world.diagram)
    return Document.load(found.snapshot, found.tail)


async def turns(number: int) -> None:
    for _ in range(number):
        await asyncio.sleep(0)


class Slow(Editor):
    """Notes when it is not to be read."""

    def __init__(self, world: World, role: Role = Role.WRITER) -> None:
        super().__init__(world, world.owner, role)
        self.held_back: list[bool] = []

    def hold_back(self) -> None:
        self.held_back.append(True)

    def go_on(self) -> None:
        self.held_back.append(False)


async def joined(world: World, role: Role = Role.WRITER) -> Slow:
    editor = Slow(world, role)
    await editor.join()
    if role is Role.WRITER:
        await until(lambda: editor.acknowledged == 1)
    return editor


async def test_others_edit_and_see_while_a_large_edit_goes_in(world: World) -> None:
    author, other = await joined(world), await joined(world)
    assert author.session is not None
    author.session.receive(Update(drawn()))
    seen: list[int] = []
    async with asyncio.timeout(5):
        while author.held_back != [True, False]:
            if len(seen) < 5:
                other.edit(f"mine {len(seen)}")
            seen.append(len(other.cells))
            await asyncio.sleep(0.001)
    await until(lambda: len(other.cells) == CELLS + 5)
    await until(lambda: (author.acknowledged, other.acknowledged) == (2, 6))
    document = await stored(world)
    assert CELLS + 5 == len(document.doc.get("cells", type=Map))
    assert not document.pending
    assert len({*seen}) > 6, "others have seen it come"


async def test_nothing_is_acknowledged_before_all_of_it_and_in_the_order_sent(world: World) -> None:
    author = await joined(world)
    session = author.session
    assert session is not None
    world.log.gate = asyncio.Event()
    session.receive(SyncStep2(drawn()))
    small: Doc[Any] = Doc()
    small.get("cells", type=Map)["small"] = 1
    session.receive_update(small.get_update())
    session.receive(Update(drawn(2000)))
    await turns(5)
    world.log.gate.set()
    told: list[int] = []
    async with asyncio.timeout(5):
        while author.acknowledged < 4:
            if not told or told[-1] != author.acknowledged:
                told.append(author.acknowledged)
            acknowledged = author.acknowledged
            cells = (await stored(world)).doc.get("cells", type=Map)
            assert acknowledged < 2 or len(cells) >= CELLS
            assert acknowledged < 3 or "small" in cells
            await asyncio.sleep(0.001)
    assert 1 == told[0]
    await until(lambda: author.held_back == [True, True, False, False])


async def test_who_has_sent_a_large_edit_and_left_has_left_all_of_it(world: World) -> None:
    author, other = await joined(world), await joined(world)
    assert author.session is not None
    author.session.receive(Update(drawn()))
    author.edit("last words")
    author.session.leave()
    runner = world.rooms.owned(world.diagram)
    assert runner is not None
    assert 2 == runner.peers_here
    await until(lambda: len(other.cells) == CELLS + 1)
    assert 1 == runner.peers_here
    author.session.leave()


async def test_a_room_that_ends_has_taken_in_what_it_was_sent(world: World) -> None:
    author = await joined(world)
    assert author.session is not None
    author.session.receive(Update(drawn()))
    author.edit("last words")
    await turns(3)
    runner = world.rooms.owned(world.diagram)
    assert runner is not None
    runner.end(runner.room.drain)
    assert author.closed is not None
    await until(lambda: world.rooms.journal.unsaved() == {})
    assert CELLS + 1 == len((await stored(world)).doc.get("cells", type=Map))


async def test_who_loses_the_right_to_edit_meanwhile_is_refused_the_rest(world: World) -> None:
    author, other = await joined(world), await joined(world)
    assert author.session is not None
    author.session.receive(Update(drawn()))
    author.edit("more")
    await until(lambda: len(other.cells))
    runner = world.rooms.owned(world.diagram)
    assert runner is not None
    runner.change_roles({author.member.user: Role.READER})
    await until(lambda: author.refused == 2)
    await until(lambda: author.held_back[-1] is False)
    assert 0 < len(other.cells) < CELLS
    assert "more" not in other.cells
    assert 1 == author.acknowledged


async def test_who_has_the_right_to_edit_back_before_the_end_has_all_of_it_taken(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    author, other = await joined(world), await joined(world)
    assert author.session is not None
    author.session.receive(Update(drawn()))
    runner = world.rooms.owned(world.diagram)
    assert runner is not None
    (seat,) = [seat for number, seat in runner.room._sessions.items() if number == author.session.number]
    take_pieces = runner.room._take_pieces

    def without_it(*given: Any) -> Generator[Effects | None, float, bool]:
        runner.change_roles({author.member.user: Role.READER})
        is_taken = yield from take_pieces(*given)
        runner.change_roles({author.member.user: Role.WRITER})
        return is_taken

    monkeypatch.setattr(runner.room, "_take_pieces", without_it)
    await until(lambda: len(other.cells) == CELLS)
    await until(lambda: (author.refused, author.acknowledged, seat.is_occupied) == (0, 2, False))


@pytest.mark.parametrize("is_known", [False, True])
async def test_a_large_edit_of_who_may_only_read_is_refused_unless_it_says_nothing_new(
    world: World, is_known: bool
) -> None:
    state = drawn()
    if is_known:
        writer = await joined(world)
        assert writer.session is not None
        writer.session.receive(Update(state))
        await until(lambda: writer.acknowledged == 2)
    reader = await joined(world, Role.READER)
    assert reader.session is not None
    before = reader.acknowledged
    reader.session.receive(Update(state))
    await turns(2)
    assert (0, before) == (reader.refused, reader.acknowledged), "it is read by steps"
    await until(lambda: reader.refused + reader.acknowledged > before)
    assert ((0, before + 1) if is_known else (1, before)) == (reader.refused, reader.acknowledged)
    assert (CELLS if is_known else 0) == len(reader.cells)


async def test_its_author_pays_for_the_time(world: World) -> None:
    author = await joined(world)
    assert author.session is not None
    author.session.receive(Update(drawn()))
    await until(lambda: author.acknowledged == 2)
    assert 1 == len(author.charged)
    assert author.charged[0] > 64 * 1024, "more than a millisecond"


async def test_what_cannot_be_parted_goes_in_at_once(world: World) -> None:
    """It builds on something that comes later."""
    author, other = await joined(world), await joined(world)
    session = author.session
    assert session is not None
    doc: Doc[Any] = Doc()
    root = doc.get("cells", type=Map)
    root["first"] = 1
    before = doc.get_state()
    first = doc.get_update()
    with doc.transaction():
        for n in range(CELLS):
            root[f"cell {n}"] = Map({"x": n})
    session.receive(Update(doc.get_update(before)))
    await until(lambda: author.held_back == [True, False])
    assert not other.cells.to_py()
    session.receive(Update(first))
    await until(lambda: len(other.cells) == CELLS + 1)


async def test_a_large_edit_that_is_malformed_ends_its_session_and_changes_nothing(world: World) -> None:
    author, other = await joined(world), await joined(world)
    assert author.session is not None
    author.session.receive(Update(drawn()[:-20]))
    await until(lambda: author.closed is not None)
    assert author.closed is not None
    assert closing.BAD_FRAME == author.closed[0]
    await turns(3)
    assert (0, None) == (len(other.cells), other.closed)
    other.edit("more")
    await until(lambda: other.acknowledged == 2)


async def test_what_pycrdt_refuses_of_a_large_edit_ends_its_session_and_what_went_in_is_kept(
    world: World,
) -> None:
    author, other = await joined(world), await joined(world)
    assert author.session is not None
    large = drawn(client=5)
    deletes_at = read_structs(large).deletes_at
    large = b"\x02" + large[1:deletes_at] + TAKES_A_PART[1:-1] + large[deletes_at:]
    author.session.receive(Update(large))
    await until(lambda: author.closed is not None)
    assert author.closed is not None
    assert closing.BAD_FRAME == author.closed[0]
    await until(lambda: world.rooms.journal.unsaved() == {})
    document = await stored(world)
    assert not document.pending
    kept = document.doc.get("cells", type=Map).to_py()
    assert kept is not None
    assert 0.8 * CELLS < len(kept), "all pieces before it"
    await until(lambda: other.cells.to_py() == kept)


async def test_what_waits_for_a_large_edit_is_bounded(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(large_edits, "WAITING_MAX_BYTES", 1000)
    author = await joined(world)
    session = author.session
    assert session is not None
    session.receive(Update(drawn()))
    doc: Doc[Any] = Doc()
    doc.get("text", type=Text).insert(0, "x" * 1001)
    session.receive_update(doc.get_update())
    runner = world.rooms.owned(world.diagram)
    assert runner is not None
    assert CELLS == len(runner.room.document.doc.get("cells", type=Map)), "brought to its end at once"
    assert [True, False] == author.held_back
    await until(lambda: author.acknowledged == 3)


async def test_what_is_kept_of_all_large_edits_is_bounded(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, other = await joined(world), await joined(world)
    assert one.session is not None
    assert other.session is not None
    kept = world.rooms._hosted.kept
    update = drawn()
    monkeypatch.setattr(large_edits, "KEPT_MAX_BYTES", len(update) + 1200)
    one.session.receive(Update(update))
    size = kept.size
    assert len(update) < size < len(update) + 200
    other.session.receive(Update(drawn()))
    assert [] == other.held_back, "it goes in at once"
    one.edit("more", "x" * 500)
    assert size + 500 < kept.size < len(update) + 1200
    one.edit("even more", "x" * 500)
    assert ([True, False], 0) == (one.held_back, kept.size)
    await until(lambda: (one.acknowledged, other.acknowledged) == (4, 2))


async def test_nothing_is_kept_of_who_was_closed_meanwhile(world: World) -> None:
    author = await joined(world)
    assert author.session is not None
    author.session.receive(Update(drawn()))
    author.edit("more")
    runner = world.rooms.owned(world.diagram)
    assert runner is not None
    runner.end_session(author.session.number, closing.NO_LONGER_ALLOWED, "gone")
    await until(lambda: world.rooms._hosted.kept.size == 0)
    assert not runner.large_edits._works


async def test_a_room_handed_over_meanwhile_loses_nothing(world: World) -> None:
    author = await joined(world)
    assert author.session is not None
    author.session.receive(Update(drawn()))
    author.edit("more")
    await turns(2)
    runner = world.rooms.owned(world.diagram)
    assert runner is not None
    runner.stand_down(None)
    assert CELLS + 1 == len(runner.room.document.doc.get("cells", type=Map))


@pytest.mark.parametrize("where", ["while it is parted", "while it is sent out"])
async def test_a_fault_of_ours_ends_the_session_and_nothing_else(
    world: World, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    author, other = await joined(world), await joined(world)
    assert author.session is not None
    runner = world.rooms.owned(world.diagram)
    assert runner is not None

    def fail(*_: object) -> object:
        monkeypatch.undo()
        raise RuntimeError("ours")

    if where == "while it is parted":
        monkeypatch.setattr(Document, "pieces_of", fail)
    author.session.receive(Update(drawn()))
    if where == "while it is sent out":
        monkeypatch.setattr(runner, "perform", fail)
    await until(lambda: author.closed is not None)
    assert author.closed is not None
    assert (closing.INTERNAL_ERROR, None) == (author.closed[0], other.closed)
    assert (1, 0) == (runner.faults, world.rooms._hosted.kept.size)
    other.edit("more")
    await until(lambda: other.acknowledged == 2)


async def test_small_edits_that_wait_count_with_what_they_take_here(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(large_edits, "WAITING_MAX_BYTES", 1000)
    author = await joined(world)
    assert author.session is not None
    author.session.receive(Update(drawn()))
    for _ in range(10):
        author.session.receive(Update(b"\0\0"))
    assert [True, False] == author.held_back
    await until(lambda: author.acknowledged == 12)


async def test_few_structs_go_in_at_once_however_large_they_are(world: World) -> None:
    author = await joined(world)
    author.edit("text", "x" * 200_000)
    assert [] == author.held_back
    await until(lambda: author.acknowledged == 2)
