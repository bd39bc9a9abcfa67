"""Edits by REST of diagrams whose rooms other nodes own, over real links."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from typing import Any
from uuid import uuid4

import pytest
from pycrdt import Map

from api.diagram_changes import interpret, vet
from crdt.messages import Update
from crdt.reading import read_cells
from persistence.memory.access import MemoryAccessControl
from rooms.editing import Edit, Edited, Editing, EditingLimits, Shown, Wanted
from rooms.limits import RoomsLimits
from tests.integration.test_nodes import Cluster, Member
from tests.unit.rooms.conftest import LIMITS as ROOMS_LIMITS
from tests.unit.rooms.conftest import Editor, World, until
from tmi.domain.errors import (
    BadInput,
    Conflict,
    Forbidden,
    NotFound,
    OutcomeUnknown,
    TmiError,
    TooManyRequests,
    Unavailable,
    VersionMismatch,
)
from tmi.domain.events import Actor, ChangeType, Deed
from tmi.domain.ids import DiagramId
from tmi.domain.model import Diagram, User
from tmi.domain.ports import Origin
from tmi.domain.roles import Role

Json = Any
LIMITS = EditingLimits(find_s=3, save_s=1, turn_s=2, answer_s=4)


@dataclass
class Site:
    """A node that edits."""

    member: Member
    editing: Editing
    world: World

    async def patch(self, *operations: Json, **changes: Any) -> Edited:
        world = self.world
        edit = Edit(world.model, world.diagram, by(world.owner), {"patch": list(operations)})
        return await self.editing.edit(replace(edit, **changes))

    async def put(self, *cells: Json) -> Edited:
        return await self.patch({"op": "replace", "path": "/cells", "value": list(cells)})


class Sites(Cluster):
    """Nodes of which each may be asked to edit."""

    @contextlib.asynccontextmanager
    async def site(self, name: str, limits: RoomsLimits = ROOMS_LIMITS) -> AsyncIterator[Site]:
        async with self.node(name, limits) as member:
            access = MemoryAccessControl(self.world.store)
            diagrams, ask = self.world.diagrams, member.administration.ask
            editing = Editing(member.rooms, diagrams, access, interpret, ask, vet, LIMITS)
            member.administration.use_editing(editing.answer)
            yield Site(member, editing, self.world)


@pytest.fixture
async def sites() -> Sites:
    world = World()
    await world.prepare()
    return Sites(world)


def by(user: User) -> Deed:
    return Deed(Actor.of(user), ChangeType.PATCHED, "as asked")


def node(**fields: Json) -> dict[str, Json]:
    at = {"position": {"x": 10, "y": 20}, "size": {"width": 80, "height": 60}}
    return {"id": str(uuid4()), "shape": "process", **at, **fields}


def change(editor: Editor, cell: str, name: str, value: Json) -> None:
    before = editor.doc.get_state()
    editor.cells[cell][name] = value
    assert editor.session is not None
    editor.session.receive(Update(editor.doc.get_update(before)))


async def test_an_edit_on_any_node_is_made_by_the_owner_and_seen_on_all(sites: Sites) -> None:
    world = sites.world
    async with sites.site("a") as a, sites.site("b") as b, sites.site("c") as c:
        here = await a.member.join(world.editor())
        there = await b.member.join(world.editor(world.other))
        one, two = node(), node(shape="store")
        edited = await c.put(one, two)
        assert (1, 2, [one["id"], two["id"]]) == (
            edited.seq,
            edited.diagram.version,
            [cell["id"] for cell in edited.cells],
        )
        assert (1, 0, 0) == (a.member.owns, b.member.owns, c.member.owns)
        ((_, row),) = world.store.logs[world.diagram].rows
        assert (Origin.REST, world.owner.id) == (row.origin, row.author)
        await until(lambda: two["id"] in here.cells and two["id"] in there.cells)
        assert edited.diagram == await world.diagrams.get(world.model, world.diagram)
        event = world.store.events[world.store.last_event]
        assert (by(world.owner).actor, "as asked", 1) == (event.actor, event.summary, event.seq)


async def test_what_editors_drag_meanwhile_is_merged_property_by_property(sites: Sites) -> None:
    world = sites.world
    async with sites.site("a") as a, sites.site("b") as b:
        here, there = await a.member.join(world.editor()), await b.member.join(world.editor(world.other))
        cell = node()
        await b.put(cell)
        key = cell["id"]
        await until(lambda: key in here.cells and key in there.cells)
        for n in range(20):
            change(here, key, "position", {"x": n, "y": n})
            change(there, key, "zIndex", n)
            patched = b.patch({"op": "replace", "path": "/cells/0/size/width", "value": 100 + n})
            await asyncio.gather(patched, asyncio.sleep(0))
        await until(lambda: here.acknowledged >= 20 and there.acknowledged >= 20)
        (shown,) = (await a.patch()).cells
        assert ({"x": 19, "y": 19}, 19, 119) == (shown["position"], shown["zIndex"], shown["width"])
        await until(lambda: here.cells.to_py() == there.cells.to_py())


async def test_what_the_owner_refuses_is_told_where_it_was_asked(sites: Sites) -> None:
    world = sites.world
    cases: list[tuple[type[TmiError], tuple[Json, ...], dict[str, Any]]] = [
        (BadInput, ({"op": "remove", "path": "/cells/3"},), {}),
        (BadInput, ({"op": "add", "path": "/cells/-", "value": node(angle="x")},), {}),
        (Conflict, ({"op": "test", "path": "/name", "value": "other"},), {}),
        (VersionMismatch, (), {"expected": 7}),
        (Forbidden, (), {"deed": by(world.other)}),
        (NotFound, (), {"diagram": DiagramId(uuid4())}),
        (NotFound, (), {"model": uuid4()}),
    ]
    await world.grant(Role.READER)
    async with sites.site("a") as a, sites.site("b") as b:
        await a.member.join(world.editor())
        for site in (a, b):
            for expected, operations, changes in cases:
                with pytest.raises(expected) as raised:
                    await site.patch(*operations, **changes)
                assert expected is type(raised.value)
                if expected is BadInput and operations[0]["op"] == "add":
                    assert "angle" in str(raised.value)
        assert 0 == world.stored


async def test_fifty_writers_on_three_nodes_lose_nothing(sites: Sites) -> None:
    world = sites.world
    async with sites.site("a") as a, sites.site("b") as b, sites.site("c") as c:
        await a.member.join(world.editor())
        adds = [{"op": "add", "path": "/cells/-", "value": node()} for _ in range(48)]
        asked = (site.patch(add) for site, add in zip([a, b, c] * 16, adds, strict=True))
        edited = await asyncio.gather(*asked)
        assert {*range(1, 49)} == {one.seq for one in edited}
        assert {*range(2, 50)} == {one.diagram.version for one in edited}
        assert 48 == len((await a.patch()).cells)


async def test_a_room_that_nobody_has_is_opened_for_an_edit(sites: Sites) -> None:
    async with sites.site("a"), sites.site("b") as b:
        await b.put(node())
        assert 1 == b.member.owns


async def test_an_owner_that_died_before_the_edit_is_replaced(sites: Sites) -> None:
    world = sites.world
    async with sites.site("a") as a, sites.site("b") as b:
        editor = await b.member.join(world.editor())
        del editor
        other = await a.member.join(world.editor(world.other))
        await until(lambda: other.acknowledged == 1)
        owner, rest = (a, b) if a.member.owns else (b, a)
        await rest.put(node())
        owner.member.end()
        assert 2 == (await rest.put(node(), node())).seq
        assert 1 == rest.member.owns


async def test_of_an_owner_that_dies_with_the_edit_the_caller_is_told_that_nobody_knows(sites: Sites) -> None:
    world = sites.world
    async with sites.site("a") as a, sites.site("b") as b:
        await a.member.join(world.editor())
        there = await b.member.join(world.editor(world.other))
        await until(lambda: there.acknowledged == 1)
        world.log.gate = asyncio.Event()
        asked = asyncio.create_task(b.put(node()))
        # The edit is sent out before it is committed, so the other node has it.
        await until(lambda: len(there.cells) == 1)
        a.member.end()
        with pytest.raises(OutcomeUnknown):
            await asked
        world.log.gate.set()
        # It is offered to the next owner, and there once.
        await until(lambda: b.member.owns == 1)
        await until(lambda: world.stored >= 1)
        assert 1 == len((await b.patch()).cells)


async def test_an_edit_that_is_not_committed_in_time_is_in_the_room_and_said_to_wait(sites: Sites) -> None:
    world = sites.world
    async with sites.site("a") as a:
        editor = await a.member.join(world.editor())
        world.log.gate = asyncio.Event()
        with pytest.raises(OutcomeUnknown, match="waits for the database"):
            await a.put(node())
        await until(lambda: len(editor.cells) == 1)
        world.log.gate.set()
        await until(lambda: world.stored == 1)


async def test_an_owner_whose_fence_is_lost_with_the_edit_says_that_nobody_knows(sites: Sites) -> None:
    world = sites.world
    async with sites.site("a") as a:
        await a.member.join(world.editor())
        world.log.gate = asyncio.Event()
        asked = asyncio.create_task(a.put(node()))
        await asyncio.sleep(0.05)
        await world.log.claim(world.diagram, "another node")
        world.log.gate.set()
        with pytest.raises(OutcomeUnknown):
            await asked


async def test_a_node_that_cannot_be_reached_is_said_to_be_so(sites: Sites) -> None:
    world = sites.world
    async with sites.site("a") as a, sites.site("b") as b:
        await a.member.join(world.editor())
        node_ = a.member.node
        sites.leases.alive[node_.id] = replace(node_, url="ws://127.0.0.1:9")
        with pytest.raises(Unavailable, match="cannot be reached"):
            await b.put(node())
        assert 0 == world.stored


async def test_edits_that_wait_for_their_turn_are_bounded_and_counted_by_the_owner(sites: Sites) -> None:
    async with sites.site("a") as a, sites.site("b") as b:
        await a.put(node())
        world = sites.world
        for site in (a, b):
            site.editing._limits = replace(LIMITS, waiting_max=2)
        world.log.gate = asyncio.Event()
        waiting = [asyncio.create_task(a.put(node())) for _ in range(2)]
        await until(lambda: [turns.waiting for turns in a.editing._turns.values()] == [2])
        for site in (a, b):
            with pytest.raises(TooManyRequests, match="wait already"):
                await site.put(node())
        assert ({"edits_waiting": 2}, {}) == (a.member.rooms.refusals, b.member.rooms.refusals)
        world.log.gate.set()
        await asyncio.gather(*waiting)
        await b.put(node())


async def test_a_large_edit_is_worked_out_by_steps_and_merged_with_what_happens_meanwhile(
    sites: Sites,
) -> None:
    world = sites.world
    limits = replace(ROOMS_LIMITS, journal=replace(ROOMS_LIMITS.journal, max_bytes=10_000_000))
    async with sites.site("a", limits) as a:
        here = await a.member.join(world.editor())
        await until(lambda: here.acknowledged == 1)
        cells = [node() for _ in range(1500)]
        await a.put(*cells)
        await until(lambda: len(here.cells) == 1500)
        turns = 0

        async def count_turns() -> None:
            nonlocal turns
            while True:
                turns += 1
                if turns % 3 == 0:
                    change(here, cells[turns % 7]["id"], "angle", turns)
                await asyncio.sleep(0)

        assert here.closed is None
        counting = asyncio.create_task(count_turns())
        moved = [{**cell, "position": {"x": 11, "y": n}} for n, cell in enumerate(cells)]
        edited = await a.patch(
            {"op": "add", "path": "/cells/0", "value": node(angle=1)},
            {"op": "test", "path": "/cells/0/angle", "value": 1},
            {"op": "replace", "path": "/cells/0/angle", "value": 2},
            *({"op": "replace", "path": f"/cells/{n + 1}/position", "value": {"x": 11, "y": n}}
              for n in range(len(moved))),
        )  # fmt: skip
        counting.cancel()
        assert turns > 40, "reading, planning and reading again take 15 steps each"
        assert 1501 == len(edited.cells)
        assert 2 == edited.cells[0]["angle"]
        assert all((cell["x"], cell["y"]) == (11, n) for n, cell in enumerate(edited.cells[1:]))
        runner = a.member.rooms.owned(world.diagram)
        assert runner is not None
        runner.settle()
        shown = read_cells(runner.room.document)[1:8]
        assert [here.cells[cell["id"]].get("angle") for cell in cells[:7]] == [
            cell.get("angle") for cell in shown
        ]


async def test_a_large_edit_is_worked_out_anew_when_a_cell_goes_meanwhile(sites: Sites) -> None:
    world = sites.world
    limits = replace(ROOMS_LIMITS, journal=replace(ROOMS_LIMITS.journal, max_bytes=10_000_000))
    async with sites.site("a", limits) as a:
        here = await a.member.join(world.editor())
        cells = [node() for _ in range(500)]
        await a.put(*cells)
        await until(lambda: len(here.cells) == 500)
        shown: list[int] = []

        def delete() -> None:
            before = here.doc.get_state()
            del here.cells[cells[7]["id"]]
            assert here.session is not None
            here.session.receive(Update(here.doc.get_update(before)))

        def interpret_and_delete(diagram: Diagram, seen: Shown, asked: Json) -> Wanted:
            shown.append(len(seen.cells))
            if len(shown) == 1:
                asyncio.get_running_loop().call_soon(delete)
            return interpret(diagram, seen, asked)

        a.editing._interpret = interpret_and_delete
        edited = await a.put(*({**cell, "position": {"x": 11, "y": n}} for n, cell in enumerate(cells)))
        assert [500, 499] == shown
        assert [cell["id"] for cell in cells] == [cell["id"] for cell in edited.cells]
        assert {11} == {cell["x"] for cell in edited.cells}


async def test_a_role_that_is_lost_while_a_large_edit_is_worked_out_is_felt(sites: Sites) -> None:
    world = sites.world
    async with sites.site("a", replace(ROOMS_LIMITS, idle_s=60.0)) as a:
        await world.grant(Role.WRITER)
        losing: list[asyncio.Task[None]] = []

        def interpret_and_lose(*given: Any) -> Wanted:
            losing.append(asyncio.create_task(world.grant(None)))
            return interpret(*given)

        a.editing._interpret = interpret_and_lose
        operation = {"op": "replace", "path": "/cells", "value": [node() for _ in range(1500)]}
        with pytest.raises(Forbidden):
            await a.patch(operation, deed=by(world.other))
        await asyncio.gather(*losing)
        runner = a.member.rooms.owned(world.diagram)
        assert runner is not None
        assert [] == read_cells(runner.room.document)


async def test_edits_are_refused_while_too_much_waits_for_the_database(sites: Sites) -> None:
    async with sites.site("a") as a:
        await a.put(node())
        a.member.rooms.journal.shedding = True
        with pytest.raises(Unavailable, match="wait for the database"):
            await a.put(node())
        assert {"journal": 1} == a.member.rooms.refusals


async def test_edits_are_refused_while_the_room_is_held_back_for_its_memory(sites: Sites) -> None:
    async with sites.site("a") as a:
        await a.put(node())
        next(a.member.rooms.runners).is_held_back = True
        with pytest.raises(Unavailable, match="this one has grown"):
            await a.put(node())
        assert {"rooms_growth": 1} == a.member.rooms.refusals


async def test_edits_go_on_while_the_room_moves(sites: Sites) -> None:
    world = sites.world
    async with sites.site("a") as a, sites.site("b") as b:
        here = await a.member.join(world.editor())
        await b.member.join(world.editor(world.other))
        await until(lambda: here.acknowledged == 1)
        adds = [node() for _ in range(12)]

        async def write() -> None:
            for n, cell in enumerate(adds):
                await (a, b)[n % 2].patch({"op": "add", "path": "/cells/-", "value": cell})

        writing = asyncio.create_task(write())
        for successor in (b, a, b):
            await asyncio.sleep(0.05)
            await a.member.administration.move(world.diagram, successor.member.node.id)
        await writing
        assert {cell["id"] for cell in adds} == {cell["id"] for cell in (await b.patch()).cells}
        assert isinstance(here.cells, Map)
