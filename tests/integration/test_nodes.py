"""Several nodes in one process: real links between them, and rooms that change hands."""

import asyncio
import contextlib
import os
import random
import socket
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import pytest
from picows import WSError, WSListener, ws_connect
from pycrdt import Map

from api.tokens import Tokens, new_signing_key
from crdt import awareness
from crdt.awareness import Entry
from crdt.document import Document
from crdt.messages import Awareness, SyncStep1
from persistence.memory.access import MemoryAccessControl
from persistence.memory.signals import MemorySignals
from persistence.memory.store import Session
from rooms import closing
from rooms.administration import Administration, Desk
from rooms.coordination.memory import Leases, MemoryCoordinator
from rooms.database_watch import WatchLimits
from rooms.edits import RoomLimits
from rooms.limits import RoomsLimits
from rooms.memory import MEMORY_FACTOR
from rooms.nodes.following import ReplicaRunner
from rooms.nodes.links import LinkLimits, Links
from rooms.nodes.replica import Replica, ReplicaLimits
from rooms.nodes.witnesses import Witnesses
from rooms.service import Rooms
from rooms.ticker import Ticker
from tests.unit.rooms.conftest import LIMITS, Editor, World, until
from tmi.domain.errors import Conflict, DatabaseUnavailable, Draining, NotFound, TooManyRequests, Unavailable
from tmi.domain.ids import DiagramId, Fence, NodeId, Seq
from tmi.domain.model import Node
from tmi.domain.ports import AppendResult, RoomBatch, StoredDocument, UpdateLog
from tmi.domain.roles import Role

HOST = "127.0.0.1"
SEEDS = int(os.environ.get("TMI_HANDS_SEEDS", "6"))
"""Of rooms that change hands at random; `make hands-500` tries more."""
WATCH = WatchLimits(look_s=0.02, suspect_s=0.1, ask_every_s=0.1, again_s=0.05)
RENEWED_S = 0.2
LINK_LIMITS = LinkLimits(dial_timeout_s=0.5, ping_after_s=0.2, ping_timeout_s=0.2)


class CutOff(UpdateLog):
    """The log, as a node sees it that may be cut off from it."""

    def __init__(self, log: UpdateLog) -> None:
        self.log = log
        self.is_cut = False

    async def answers(self, timeout_s: float) -> bool:
        return await self.has_database()

    async def has_database(self) -> bool:
        return not self.is_cut

    def _way(self) -> UpdateLog:
        if self.is_cut:
            raise DatabaseUnavailable
        return self.log

    async def claim(self, diagram: DiagramId, owner: str) -> Fence:
        return await self._way().claim(diagram, owner)

    async def load(self, diagram: DiagramId) -> StoredDocument:
        return await self._way().load(diagram)

    async def append(self, batches: Sequence[RoomBatch]) -> AppendResult:
        return await self._way().append(batches)

    async def save_snapshot(
        self, diagram: DiagramId, fence: Fence, seq: Seq, state: bytes, *, is_whole: bool = False
    ) -> bool:
        return await self._way().save_snapshot(diagram, fence, seq, state, is_whole=is_whole)


class Member:
    """One node."""

    def __init__(
        self,
        node: Node,
        rooms: Rooms,
        links: Links,
        administration: Administration,
        end: Callable[[], None],
        log: CutOff,
    ) -> None:
        self.node = node
        self.log = log
        self.administration = administration
        self.rooms = rooms
        self.links = links
        self.end = end
        """Dies at once, without a word."""
        self.editors: list[Editor] = []

    async def join(self, editor: Editor) -> Editor:
        editor.closed = None
        self.editors.append(editor)
        editor.session = await self.rooms.join(editor.world.diagram, editor.member, editor)
        editor.session.receive(SyncStep1(editor.doc.get_state()))
        return editor

    @property
    def owns(self) -> int:
        return len(self.rooms._hosted.open)


class Cluster:
    """Nodes over one log, and who is alive."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.leases = Leases()
        self.tokens = Tokens([new_signing_key()], "tmi")
        self.asked_to_drain: list[str] = []

    @contextlib.asynccontextmanager
    async def node(self, name: str, limits: RoomsLimits = LIMITS) -> AsyncIterator[Member]:
        key = NodeId(uuid4())
        log = CutOff(self.world.log)
        coordinator = MemoryCoordinator(self.leases, log, Node(key, name, ""))
        rooms = Rooms(log, coordinator, MemoryAccessControl(self.world.store), replace(limits, watch=WATCH))
        links = Links(key, rooms, self.tokens, LINK_LIMITS)
        signals = MemorySignals(self.world.store)
        async with contextlib.AsyncExitStack() as stack:
            await stack.enter_async_context(rooms.running())
            await stack.enter_async_context(signals.hearing(rooms.rights.hear))
            listening = socket.create_server((HOST, 0))
            await stack.enter_async_context(links.listening(listening))
            node = Node(key, name, f"ws://{HOST}:{listening.getsockname()[1]}")
            self.leases.alive[key] = node
            desk = Desk(node, rooms, lambda: self.asked_to_drain.append(name), "1")
            stack.push_async_callback(desk.close)
            administration = Administration(coordinator.peers, links.ask, desk)
            links.answer = desk.answer
            witnesses = Witnesses(coordinator.peers, links.ask)
            desk.reaches, desk.has_database = links.reaches, log.has_database
            rooms.use(links, signals, administration, witnesses)
            await stack.enter_async_context(rooms.watching_database(log.answers, witnesses.with_database))

            async def renew() -> None:
                """As the coordinator of a deployment does: owners look at their fences now and then."""
                while True:
                    await asyncio.sleep(RENEWED_S)
                    for diagram, runner in list(rooms._hosted.open.items()):
                        if self.world.store.logs[diagram].fence > runner.room.fence:
                            rooms.fence_risen(diagram, runner.room.fence)

            renewing = asyncio.create_task(renew())
            stack.callback(renewing.cancel)

            def end() -> None:
                del self.leases.alive[key]
                links.close()
                rooms._opening.is_draining = True  # it does nothing any more
                rooms._hosted.open.clear()

            yield Member(node, rooms, links, administration, end, log)


@pytest.fixture
async def world() -> World:
    made = World()
    await made.prepare()
    return made


@pytest.fixture
async def cluster(world: World) -> Cluster:
    return Cluster(world)


def cells(editor: Editor) -> dict[str, Any]:
    return dict(editor.cells.to_py() or {})


async def test_clients_of_two_nodes_edit_one_diagram(cluster: Cluster) -> None:
    async with cluster.node("a") as a, cluster.node("b") as b:
        here, there = await a.join(cluster.world.editor()), await b.join(cluster.world.editor())
        here.edit("here", 1)
        there.edit("there", 2)
        await until(lambda: cells(here) == cells(there) == {"here": 1.0, "there": 2.0})
        await until(lambda: there.acknowledged == here.acknowledged == 2)
        assert (1, 0) == (a.owns, b.owns)
        assert (1, 1) == (a.rooms.sessions, b.rooms.sessions)


async def test_a_large_document_crosses_the_link(cluster: Cluster) -> None:
    async with cluster.node("a") as a, cluster.node("b") as b:
        here = await a.join(cluster.world.editor())
        for n in range(40):
            here.edit(f"text {n}", "x" * 50_000)
        there = await b.join(cluster.world.editor())
        await until(lambda: len(cells(there)) == 40)


async def test_replicas_count_as_memory_and_idle_ones_are_closed_for_it(cluster: Cluster) -> None:
    world, size = cluster.world, 100_000
    room = MEMORY_FACTOR * size
    journal = replace(LIMITS.journal, max_bytes=1_000_000)
    limits = replace(LIMITS, journal=journal, idle_s=60.0, memory_sweep_s=0.01, evict_after_s=0.0)
    small = replace(limits, memory_max_bytes=room * 3 // 2, memory_hard_max_bytes=room * 5 // 2)
    async with cluster.node("a", limits) as a, cluster.node("b", small) as b:
        diagrams = []
        for _ in range(4):
            world.diagram = (await world.diagrams.create(world.model, "d", "DFD-1.0.0", None)).id
            diagrams.append(world.diagram)
            (await a.join(world.editor())).edit("text", "x" * size)
        world.diagram = diagrams[0]
        idle = await b.join(world.editor())
        assert room <= b.rooms.memory_bytes <= room * 1.2
        assert idle.session is not None
        idle.session.leave()
        world.diagram = diagrams[1]
        await b.join(world.editor())
        await until(lambda: b.rooms.followed_rooms == 1)
        assert (1, 0) == (b.rooms.evictions, a.rooms.evictions)
        # People are in those that are left: they stay, and what comes beyond the hard limit is refused.
        answers: list[object] = []
        for world.diagram in diagrams[2:] + diagrams[:1]:
            answers += await asyncio.gather(b.join(world.editor()), return_exceptions=True)
        assert [False, False, True] == [isinstance(answer, Unavailable) for answer in answers]
        assert (3, 1) == (b.rooms.followed_rooms, b.rooms.refusals["rooms_memory"])


async def test_a_replica_that_grows_past_its_nodes_memory_is_closed_and_nothing_is_lost(
    cluster: Cluster,
) -> None:
    world, size = cluster.world, 10_000
    room = MEMORY_FACTOR * size
    limits = replace(LIMITS, journal=replace(LIMITS.journal, max_bytes=1_000_000), idle_s=60.0)
    small = replace(
        limits,
        memory_max_bytes=room,
        memory_hard_max_bytes=4 * room,
        memory_sweep_s=0.01,
        evict_after_s=0.0,
    )
    async with cluster.node("a", limits) as a, cluster.node("b", small) as b:
        here = await a.join(world.editor())
        there = await b.join(world.editor())
        reader = await b.join(world.editor(role=Role.READER))
        for n in range(20):
            (here if n % 2 else there).edit(f"text {n}", "x" * size)
            await asyncio.sleep(0.03)
            if there.closed is not None:
                break
        assert (closing.TRY_AGAIN_LATER, None) == (there.closed and there.closed[0], here.closed)
        assert reader.closed == there.closed
        await until(lambda: (b.rooms.followed_rooms, b.rooms.memory_bytes) == (0, 0))
        await until(lambda: set(there.cells.keys()) <= set(here.cells.keys()))
        with contextlib.suppress(Unavailable):  # it takes more than fits
            there.cells["meanwhile"] = "drawn"
            await b.join(there)
        await a.join(there)
        await until(lambda: "meanwhile" in here.cells)


async def test_a_node_that_follows_a_room_bounds_its_clients_as_well_and_counts_who_is_refused(
    cluster: Cluster,
) -> None:
    few = replace(LIMITS, room=replace(LIMITS.room, sessions_max=2))
    async with cluster.node("a") as a, cluster.node("b", few) as b:
        await a.join(cluster.world.editor())
        for _ in range(2):
            await b.join(cluster.world.editor())
        with pytest.raises(TooManyRequests, match="as many clients as it may"):
            await b.join(cluster.world.editor())
        (replica,) = b.rooms._hosted.following.values()
        replica.room.refusals["as the room says"] += 1
        assert {"sessions_per_room": 1, "as the room says": 1} == b.rooms.refusals
        assert not a.rooms.refusals


async def test_a_node_that_follows_a_room_bounds_its_clients_presence_as_its_own_rooms(
    cluster: Cluster,
) -> None:
    few = RoomLimits(awareness_max_bytes=100, presence_max_bytes=1100, ids_per_session=2)
    async with cluster.node("a") as a, cluster.node("b", replace(LIMITS, room=few)) as b:
        await a.join(cluster.world.editor())
        one, other = await b.join(cluster.world.editor()), await b.join(cluster.world.editor())
        (replica,) = b.rooms._hosted.following.values()
        presence = replica.room._presence

        def kept(editor: Editor, *clients: int, size: int = 80) -> int:
            """How many are kept of those for whom it speaks."""
            assert editor.session is not None
            state = b'{"x":"%s"}' % (b"x" * (size - 8))
            data = awareness.encode([Entry(client, 1, state) for client in clients])
            editor.session.receive(Awareness(data))
            return len(awareness.parse(presence.said_by(editor.session.number) or b"\0"))

        # Each takes 256 bytes besides its state, so that three fit.
        assert (2, 1) == (kept(one, 1, 2, 3), kept(other, 4, 5))
        assert 0 == kept(other, 6, size=101)
        assert other.closed is not None
        assert (closing.BAD_FRAME, None) == (other.closed[0], one.closed)
        assert ({"presence_state": 1}, {}) == (b.rooms.refusals, a.rooms.refusals)


async def test_when_the_owner_dies_clients_elsewhere_stay_and_nothing_acknowledged_is_lost(
    cluster: Cluster,
) -> None:
    async with cluster.node("a") as a, cluster.node("b") as b, cluster.node("c") as c:
        doomed = await a.join(cluster.world.editor())
        first, second = await b.join(cluster.world.editor()), await c.join(cluster.world.editor())
        doomed.edit("before", 0)
        await until(lambda: len(cells(first)) == len(cells(second)) == 1)
        cluster.world.store.unavailable = True
        first.edit("first", 1)
        second.edit("second", 2)
        await until(lambda: len(cells(first)) == len(cells(second)) == 3)
        a.end()
        cluster.world.store.unavailable = False
        first.edit("meanwhile", 3)
        await until(lambda: cells(first) == cells(second) and len(cells(first)) == 4)
        await until(lambda: (first.acknowledged, second.acknowledged) == (3, 2))
        assert (None, None) == (first.closed, second.closed)
        assert 1 == b.owns + c.owns
        late = await (c if b.owns else b).join(cluster.world.editor())
        await until(lambda: cells(late) == cells(first))


async def test_clients_of_an_owner_whose_fence_is_lost_stay_and_nothing_is_lost(cluster: Cluster) -> None:
    diagram = cluster.world.diagram
    async with cluster.node("a") as a, cluster.node("b") as b, cluster.node("c") as c:
        here, second = await a.join(cluster.world.editor()), await a.join(cluster.world.editor())
        there = await c.join(cluster.world.editor())
        here.edit("before", 0)
        await until(lambda: len(cells(there)) == len(cells(second)) == 1)
        await until(lambda: (here.acknowledged, there.acknowledged) == (2, 1))
        # a is taken for dead: b claims the room, and a learns of it by its next append.
        cluster.leases.holders[diagram] = b.node.id
        newcomer = await b.join(cluster.world.editor())
        here.edit("here", 1)
        there.edit("there", 2)
        newcomer.edit("newcomer", 3)
        everybody = (here, second, there, newcomer)
        await until(lambda: all(len(cells(editor)) == 4 for editor in everybody))
        await until(lambda: (here.acknowledged, there.acknowledged, newcomer.acknowledged) == (3, 2, 2))
        assert [None] * 4 == [editor.closed for editor in everybody]
        assert (0, 1, 0) == (a.owns, b.owns, c.owns)
        second.edit("after", 4)
        await until(lambda: all(len(cells(editor)) == 5 for editor in everybody))


async def test_a_room_is_moved_while_everybody_edits_and_comes_back(cluster: Cluster) -> None:
    diagram = cluster.world.diagram
    async with cluster.node("a") as a, cluster.node("b") as b, cluster.node("c") as c:
        editors = [await node.join(cluster.world.editor()) for node in (a, a, b, c)]
        is_over = False

        async def edit() -> int:
            made = 0
            while not is_over:
                for editor in editors:
                    editor.edit(f"{made}", made)
                    made += 1
                await asyncio.sleep(0.002)
            return made

        editing = asyncio.create_task(edit())
        for to in (b, c, a, b, a, None):
            await asyncio.sleep(0.05)
            owner = await c.administration.move(diagram, None if to is None else to.node.id)
            assert to is None or to.node == owner
            assert 1 == a.owns + b.owns + c.owns
            late = await a.join(cluster.world.editor())
            editors.append(late)
        await asyncio.sleep(0.05)
        is_over = True
        made = await editing
        await until(lambda: all(len(cells(editor)) == made for editor in editors))
        await until(lambda: all(editor.acknowledged >= 1 for editor in editors))
        await until(lambda: sum(editor.acknowledged for editor in editors) == made + len(editors))
        assert [None] * len(editors) == [editor.closed for editor in editors]
        assert made == len((await b.rooms.read(diagram))[1].doc.get("cells", type=Map))


@pytest.mark.parametrize("seed", range(SEEDS))
async def test_nobody_is_closed_and_nothing_lost_however_rooms_change_hands(
    cluster: Cluster, seed: int
) -> None:
    chance = random.Random(seed)
    world = cluster.world
    made: Counter[int] = Counter()
    async with contextlib.AsyncExitStack() as stack:
        nodes = [await stack.enter_async_context(cluster.node(name)) for name in "abc"]
        editors = [await chance.choice(nodes).join(world.editor()) for _ in range(4)]
        for step in range(120):
            what = chance.random()
            if what < 0.05:
                with contextlib.suppress(Conflict, NotFound, Unavailable):
                    await nodes[0].administration.move(world.diagram)
            elif what < 0.08:
                # The owner is taken for dead, and learns of it by its next append or renewal.
                cluster.leases.holders[world.diagram] = (thief := chance.choice(nodes)).node.id
                with contextlib.suppress(Unavailable):
                    await thief.rooms.take(world.diagram, thief.node.id)
            elif what < 0.12:
                world.store.unavailable = not world.store.unavailable
            elif what < 0.2 and len(editors) < 12 and not world.store.unavailable:
                editors.append(await chance.choice(nodes).join(world.editor()))
            else:
                index = chance.randrange(len(editors))
                editors[index].edit(f"{step}", step)
                made[index] += 1
            await asyncio.sleep(chance.random() * 0.01)
        world.store.unavailable = False
        for index, editor in enumerate(editors):
            editor.edit(f"{120 + index}", 0)
            made[index] += 1
        steps = {str(step) for step in range(120 + len(editors))}
        everything = steps & {key for e in editors for key in cells(e)}
        assert made.total() == len(everything)
        await until(lambda: all(cells(editor).keys() == everything for editor in editors))
        await until(lambda: all(e.acknowledged >= 1 + made[n] for n, e in enumerate(editors)))
        assert {None} == {editor.closed for editor in editors}
        stored = Document.load(None, [update.data for _, update in world.store.logs[world.diagram].rows])
        assert everything == set(stored.doc.get("cells", type=Map).keys())


async def test_a_move_tells_why_it_is_refused(cluster: Cluster) -> None:
    world = cluster.world
    async with cluster.node("a") as a:
        await a.join(world.editor())
        with pytest.raises(Conflict, match="no other node"):
            await a.administration.move(world.diagram)
        async with cluster.node("b") as b:
            with pytest.raises(NotFound):
                await b.administration.move(world.unopened)
            with pytest.raises(NotFound):
                await b.administration.move(world.diagram, NodeId(uuid4()))
            with pytest.raises(Conflict):
                await b.administration.move(world.diagram, a.node.id)
            world.store.unavailable = True
            here = a.editors[0]
            here.edit("unsaved", 1)
            await until(lambda: a.rooms.journal.database_away)
            with pytest.raises(DatabaseUnavailable):
                await b.administration.move(world.diagram)
            world.store.unavailable = False
            await until(lambda: here.acknowledged == 2)
            assert (1, 0, None) == (a.owns, b.owns, here.closed)


async def test_rooms_leave_an_owner_that_alone_has_lost_the_database(cluster: Cluster) -> None:
    world = cluster.world
    async with cluster.node("a") as a, cluster.node("b") as b, cluster.node("c") as c:
        here, there = await a.join(world.editor()), await c.join(world.editor())
        await until(lambda: (here.acknowledged, there.acknowledged) == (1, 1))
        a.log.is_cut = True
        here.edit("here", 1)
        there.edit("there", 2)
        await until(lambda: (here.acknowledged, there.acknowledged) == (2, 2))
        assert (0, 0, 1) == (a.owns, b.owns, c.owns)  # c has clients there
        with pytest.raises(DatabaseUnavailable):
            await a.rooms.join(world.unopened, here.member, world.editor())
        assert world.unopened not in cluster.leases.holders
        a.log.is_cut = False
        here.edit("after", 3)
        await until(lambda: cells(here) == cells(there) and len(cells(here)) == 3)
        await until(lambda: here.acknowledged == 3)
        assert (None, None) == (here.closed, there.closed)
        # Once it has the database again it opens rooms as others do.
        watch = a.rooms._opening.watch
        await until(lambda: watch is not None and not watch.is_cut_off)
        await a.rooms.join(world.unopened, here.member, world.editor())


def refusing(member: Member, what: str | None = None) -> None:
    """From now on a node refuses to do this, or anything, to whoever asks over a new link."""
    answer = member.links.answer

    async def refuse(question: Any) -> Any:
        if what in (None, question.get("do")):
            raise Unavailable("too much at once")
        return await answer(question)

    member.links.answer = refuse


async def test_a_room_that_one_node_does_not_take_is_offered_to_others(cluster: Cluster) -> None:
    world = cluster.world
    async with cluster.node("a") as a, cluster.node("b") as b, cluster.node("c") as c:
        refusing(b, "take")
        here = await a.join(world.editor())
        await until(lambda: here.acknowledged == 1)
        a.log.is_cut = True
        here.edit("here", 1)
        await until(lambda: here.acknowledged == 2)
        assert (0, 0, 1) == (a.owns, b.owns, c.owns)
        assert here.closed is None


async def test_a_room_that_is_caught_while_it_moves_goes_on_elsewhere(cluster: Cluster) -> None:
    world = cluster.world
    async with cluster.node("a") as a, cluster.node("b") as b, cluster.node("c") as c:
        here, there = await a.join(world.editor()), await c.join(world.editor())
        await until(lambda: (here.acknowledged, there.acknowledged) == (1, 1))
        a.log.is_cut = True
        here.edit("here", 1)
        moving = asyncio.create_task(a.rooms.move(world.diagram, b.node))
        there.edit("there", 2)
        await until(lambda: (here.acknowledged, there.acknowledged) == (2, 2))
        with contextlib.suppress(Unavailable):
            await moving
        assert 0 == a.owns
        # Nothing is left that only this node could commit.
        assert await a.rooms.journal.flushed(0.1)
        assert {} == a.rooms.journal.unsaved()
        assert (None, None) == (here.closed, there.closed)


async def test_a_quiet_room_leaves_an_owner_without_the_database_too(cluster: Cluster) -> None:
    async with cluster.node("a") as a, cluster.node("b") as b:
        here = await a.join(cluster.world.editor())
        await until(lambda: here.acknowledged == 1)
        a.log.is_cut = True
        await until(lambda: (0, 1) == (a.owns, b.owns))


async def test_a_node_that_refuses_is_there(cluster: Cluster) -> None:
    async with cluster.node("a") as a, cluster.node("b") as b:
        refusing(b)
        assert await a.links.reaches(b.node)
        assert not await a.links.reaches(replace(b.node, id=NodeId(uuid4())))


async def test_rooms_stay_while_nobody_has_the_database(cluster: Cluster) -> None:
    world = cluster.world
    async with cluster.node("a") as a, cluster.node("b") as b:
        here, there = await a.join(world.editor()), await b.join(world.editor())
        await until(lambda: (here.acknowledged, there.acknowledged) == (1, 1))
        a.log.is_cut = b.log.is_cut = True
        here.edit("here", 1)
        await until(lambda: a.rooms.journal.waiting_s > 5 * WATCH.suspect_s)
        assert (1, 0) == (a.owns, b.owns)
        a.log.is_cut = b.log.is_cut = False
        await until(lambda: here.acknowledged == 2 and cells(there) == cells(here))


async def test_rooms_stay_with_an_owner_whose_commits_are_slow_while_the_database_answers(
    cluster: Cluster,
) -> None:
    async with cluster.node("a") as a, cluster.node("b") as b:
        here = await a.join(cluster.world.editor())
        await until(lambda: here.acknowledged == 1)
        cluster.world.store.unavailable = True  # appends fail, and everybody is told that it answers
        here.edit("here", 1)
        await until(lambda: a.rooms.journal.waiting_s > 5 * WATCH.suspect_s)
        assert (1, 0) == (a.owns, b.owns)
        cluster.world.store.unavailable = False
        await until(lambda: here.acknowledged == 2)


def unreachable(cluster: Cluster, node: Member) -> None:
    """From now on nobody reaches a node, which is alive."""
    cluster.leases.alive[node.node.id] = replace(node.node, url=f"ws://{HOST}:9")
    node.links.close()


async def test_rooms_leave_an_owner_that_most_nodes_cannot_reach(cluster: Cluster) -> None:
    world = cluster.world
    async with cluster.node("a") as a, cluster.node("b") as b, cluster.node("c") as c:
        here, there = await a.join(world.editor()), await b.join(world.editor())
        await until(lambda: (here.acknowledged, there.acknowledged) == (1, 1))
        unreachable(cluster, a)
        there.edit("there", 1)
        await until(lambda: there.acknowledged == 2)
        here.edit("here", 2)
        await until(lambda: cells(here) == cells(there) and here.acknowledged == 2)
        assert (0, 1, 0) == (a.owns, b.owns, c.owns)
        assert (None, None) == (here.closed, there.closed)


async def test_of_two_nodes_neither_outvotes_the_other(cluster: Cluster) -> None:
    world = cluster.world
    async with cluster.node("a") as a, cluster.node("b") as b:
        here, there = await a.join(world.editor()), await b.join(world.editor())
        await until(lambda: (here.acknowledged, there.acknowledged) == (1, 1))
        unreachable(cluster, a)
        there.edit("there", 1)
        await asyncio.sleep(1.5)
        assert (1, 0, 1) == (a.owns, b.owns, there.acknowledged)
        cluster.leases.alive[a.node.id] = a.node
        await until(lambda: there.acknowledged == 2 and cells(here) == cells(there))


async def test_an_owner_that_another_node_reaches_keeps_its_rooms(cluster: Cluster) -> None:
    world = cluster.world
    async with cluster.node("a") as a, cluster.node("b") as b, cluster.node("c") as c:
        here, there = await a.join(world.editor()), await b.join(world.editor())
        third = await c.join(world.editor())
        await until(lambda: (here.acknowledged, there.acknowledged, third.acknowledged) == (1, 1, 1))
        b.links._dialled[a.node.id].disconnect()
        wrong = replace(a.node, url=f"ws://{HOST}:9")
        witnesses = Witnesses(lambda: [a.node, c.node], b.links.ask)
        assert not await witnesses.missed_by_most(wrong)
        unreachable(cluster, a)
        await until(lambda: a.node.id not in c.links._dialled)
        await c.links.reaches(wrong)
        assert await Witnesses(lambda: [a.node, c.node], b.links.ask).missed_by_most(wrong)


async def test_a_room_whose_successor_is_silent_stays_with_whoever_is_first(cluster: Cluster) -> None:
    async with cluster.node("a") as a, cluster.node("b") as b:
        here, there = await a.join(cluster.world.editor()), await b.join(cluster.world.editor())
        await until(lambda: there.acknowledged == 1)
        nobody = Node(NodeId(uuid4()), "nobody", f"ws://{HOST}:9")
        with pytest.raises(Unavailable):
            await a.rooms.move(cluster.world.diagram, nobody)
        here.edit("here", 1)
        there.edit("there", 2)
        await until(lambda: cells(here) == cells(there) and len(cells(here)) == 2)
        await until(lambda: (here.acknowledged, there.acknowledged) == (2, 2))
        assert (None, None, 1) == (here.closed, there.closed, a.owns + b.owns)


async def test_a_draining_nodes_clients_stay_until_they_are_closed(cluster: Cluster) -> None:
    world = cluster.world
    async with cluster.node("a") as a, cluster.node("b") as b, cluster.node("c") as c:
        here, there = await a.join(world.editor()), await c.join(world.editor())
        await until(lambda: there.acknowledged == 1)
        await a.rooms.hand_over_all(5)
        assert (0, 0, 1) == (a.owns, b.owns, c.owns)  # c has clients there
        with pytest.raises(Draining):
            await a.join(world.editor())
        here.edit("here", 1)
        there.edit("there", 2)
        await until(lambda: cells(here) == cells(there) and len(cells(here)) == 2)
        await until(lambda: (here.acknowledged, there.acknowledged) == (2, 2))
        assert (None, None) == (here.closed, there.closed)
        statuses, _ = await b.administration.nodes()
        assert [True, False, False] == [status.is_draining for status in statuses]
        with pytest.raises(Conflict):
            await b.administration.move(world.diagram, a.node.id)
        assert {} == await a.rooms.drain(5)
        assert here.closed is not None
        assert closing.SERVICE_RESTART == here.closed[0]


async def test_operators_see_nodes_and_rooms_from_any_node(cluster: Cluster) -> None:
    world = cluster.world
    async with cluster.node("a") as a, cluster.node("b") as b:
        here, there = await a.join(world.editor()), await b.join(world.editor())
        here.edit("here", 1)
        there.edit("there", "x" * 1000)
        await until(lambda: (here.acknowledged, there.acknowledged) == (2, 2))
        nodes, silent = await b.administration.nodes()
        assert [("a", 1, 0, 1), ("b", 0, 1, 1)] == [
            (node.name, node.rooms_owned, node.rooms_followed, node.sessions) for node in nodes
        ]
        total, rooms, silent = await b.administration.rooms("edits_per_s", 10)
        (room,) = rooms
        assert (1, [], "a", 2, 1, 2, 0) == (
            total, silent, room.node_name, room.sessions, room.followers, room.seq, room.unsaved
        )  # fmt: skip
        assert room.document_bytes > 1000
        assert room.since_commit_s is not None
        assert 0 < room.edits_per_s < 2 > room.since_commit_s
        assert room.id == (await b.administration.room(world.diagram)).id
        await b.administration.drain(a.node.id)
        assert ["a"] == cluster.asked_to_drain
        a.links.close()
        cluster.leases.alive[a.node.id] = Node(a.node.id, "a", f"ws://{HOST}:9")
        nodes, silent = await b.administration.nodes()
        assert (["b"], ["a"]) == ([node.name for node in nodes], [node.name for node in silent])


async def test_a_node_that_drains_hands_its_rooms_over(cluster: Cluster) -> None:
    async with cluster.node("a") as a, cluster.node("b") as b:
        here, there = await a.join(cluster.world.editor()), await b.join(cluster.world.editor())
        there.edit("there", 1)
        await until(lambda: len(cells(here)) == 1)
        assert {} == await a.rooms.drain(5)
        assert here.closed is not None
        assert closing.SERVICE_RESTART == here.closed[0]
        there.edit("after", 2)
        await until(lambda: there.acknowledged == 3)
        await b.join(here)
        await until(lambda: cells(here) == {"there": 1.0, "after": 2.0})
        assert there.closed is None
        assert 1 == b.owns


@pytest.mark.parametrize("seed", range(10))
async def test_everything_converges_while_owners_come_and_go(cluster: Cluster, seed: int) -> None:
    chance = random.Random(seed)
    async with contextlib.AsyncExitStack() as stack:
        nodes = [await stack.enter_async_context(cluster.node(name)) for name in "abc"]
        editors = [await nodes[n % 3].join(cluster.world.editor()) for n in range(6)]
        expected = set()
        for round_ in range(3):
            for n in range(30):
                editor = chance.choice(editors)
                if editor.closed is None:
                    editor.edit(f"{round_} {n}", n)
                    expected.add(f"{round_} {n}")
                await asyncio.sleep(chance.random() * 0.01)
            (dying,) = (node for node in nodes if node.owns)
            nodes.remove(dying)
            dying.end()
            nodes.append(await stack.enter_async_context(cluster.node(f"new {round_}")))
            for editor in dying.editors:
                await chance.choice(nodes).join(editor)
        await until(lambda: all(cells(editor).keys() == expected for editor in editors))
        await until(lambda: sum(node.owns for node in nodes) == 1)
        fresh = await nodes[-1].join(cluster.world.editor())
        await until(lambda: cells(fresh).keys() == expected)


@pytest.mark.parametrize("who", ["owner", "follower"])
async def test_a_change_of_rights_reaches_clients_of_every_node(cluster: Cluster, who: str) -> None:
    world = cluster.world
    async with cluster.node("a") as a, cluster.node("b") as b:
        here, there = await a.join(world.editor(world.other)), await b.join(world.editor(world.other))
        await until(lambda: there.acknowledged == 1)
        told = a if who == "owner" else b
        await world.grant(Role.READER)
        await told.rooms.rights.access_changed([world.diagram])
        await until(lambda: here.roles == there.roles == [Role.READER])
        await world.grant(None)
        await told.rooms.rights.access_changed([world.diagram])
        await until(lambda: here.closed and there.closed)
        assert here.closed is not None
        assert there.closed is not None
        assert closing.NO_LONGER_ALLOWED == here.closed[0] == there.closed[0]


@pytest.mark.parametrize("who", ["owner", "follower"])
async def test_the_end_of_a_sign_in_and_of_a_diagram_reaches_every_node(cluster: Cluster, who: str) -> None:
    world = cluster.world
    async with cluster.node("a") as a, cluster.node("b") as b:
        here, there, other = [await node.join(world.editor()) for node in (a, b, b)]
        await until(lambda: there.acknowledged == other.acknowledged == 1)
        told = a if who == "owner" else b
        for editor in (here, there):
            await told.rooms.rights.sign_ins_ended([editor.member.sign_in])
        await until(lambda: here.closed and there.closed)
        assert closing.SIGN_IN_ENDED == here.closed[0] == there.closed[0]  # type: ignore[index]
        assert other.closed is None
        told.rooms.rights.deleted([world.diagram])
        await until(lambda: other.closed)
        assert closing.DIAGRAM_DELETED == other.closed[0]  # type: ignore[index]


async def test_what_one_node_reads_is_what_the_owner_has_now(cluster: Cluster) -> None:
    diagram = cluster.world.diagram
    async with cluster.node("a") as a, cluster.node("b") as b:
        here = await a.join(cluster.world.editor())
        for n in range(20):
            here.edit(f"key {n}", n)
            seq, document = await b.rooms.read(diagram)
            assert n + 1 == len(document.doc.get("cells", type=Map)) == seq
        assert (1, 0) == (a.owns, b.owns)


async def test_every_node_knows_who_is_in_the_room(cluster: Cluster) -> None:
    world = cluster.world
    async with cluster.node("a") as a, cluster.node("b") as b, cluster.node("c") as c:
        assert () == await c.rooms.members(world.diagram)
        here, there = await a.join(world.editor()), await b.join(world.editor(world.other))
        await until(lambda: there.acknowledged == 1)
        expected = [here.member, there.member]
        for node in (a, b, c):
            assert expected == list(await node.rooms.members(world.diagram))
        assert here.session is not None
        here.session.leave()
        assert [there.member] == list(await c.rooms.members(world.diagram))


@pytest.mark.parametrize("who", ["owner", "follower"])
async def test_changed_groups_reach_clients_of_every_node(cluster: Cluster, who: str) -> None:
    world = cluster.world
    async with cluster.node("a") as a, cluster.node("b") as b:
        here, there = await a.join(world.editor(world.other)), await b.join(world.editor(world.other))
        owner = await b.join(world.editor())
        await until(lambda: there.acknowledged == owner.acknowledged == 1)
        await world.grant(None)
        await (a if who == "owner" else b).rooms.rights.people_changed([world.other.id])
        await until(lambda: here.closed and there.closed)
        assert closing.NO_LONGER_ALLOWED == here.closed[0] == there.closed[0]  # type: ignore[index]
        assert owner.closed is None


async def test_a_node_that_may_have_missed_something_looks_at_sign_ins_again(cluster: Cluster) -> None:
    world = cluster.world
    async with cluster.node("a") as a, cluster.node("b") as b:
        here, there = await a.join(world.editor()), await b.join(world.editor(world.other))
        await until(lambda: there.acknowledged == here.acknowledged == 1)
        later = datetime.now(UTC) + timedelta(hours=1)
        for editor in (here, there):
            world.store.sign_ins[editor.member.sign_in] = Session(editor.member.user, later)
        world.store.sign_ins[there.member.sign_in].ended = True
        world.store.unavailable = True
        a.rooms.rights.hear(None)
        await asyncio.sleep(0.05)
        assert (None, None) == (here.closed, there.closed)
        world.store.unavailable = False
        await until(lambda: there.closed)
        assert closing.SIGN_IN_ENDED == there.closed[0]  # type: ignore[index]
        assert here.closed is None


async def test_a_diagram_that_nobody_has_open_is_read_from_the_log(cluster: Cluster) -> None:
    async with cluster.node("a") as a, cluster.node("b") as b:
        assert 0 == (await b.rooms.read(cluster.world.unopened))[0]
        assert (0, 0) == (a.owns, b.owns)


async def test_the_lease_of_a_deleted_diagram_is_given_back(cluster: Cluster) -> None:
    async with cluster.node("a") as a:
        await a.join(cluster.world.editor())
        assert [a.node.id] == [*cluster.leases.holders.values()]
        a.rooms.rights.deleted([cluster.world.diagram])
        await until(lambda: not cluster.leases.holders)


async def test_the_lease_of_a_room_that_could_not_be_loaded_is_given_back(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def load(_diagram: DiagramId) -> StoredDocument:
        assert cluster.leases.holders
        raise DatabaseUnavailable

    async with cluster.node("a") as a:
        with monkeypatch.context() as broken:
            broken.setattr(cluster.world.log, "load", load)
            with pytest.raises(DatabaseUnavailable):
                await a.join(cluster.world.editor())
        await until(lambda: not cluster.leases.holders)
        await a.join(cluster.world.editor())


# --- links --------------------------------------------------------------------------------------


@pytest.mark.parametrize("proof", ["", "Bearer ", "Bearer x.y.z", "Basic abc", "for another", "of others"])
async def test_a_link_without_proof_is_refused(cluster: Cluster, proof: str) -> None:
    async with cluster.node("a") as a:
        if proof == "for another":
            proof = "Bearer " + cluster.tokens.issue(NodeId(uuid4()), NodeId(uuid4()), "n")
        elif proof == "of others":
            others = Tokens([new_signing_key()], "tmi")
            proof = "Bearer " + others.issue(NodeId(uuid4()), a.node.id, "n")
        with pytest.raises(WSError, match="401"):
            await ws_connect(
                WSListener, a.node.url + "/link", extra_headers={"Authorization": proof} if proof else None
            )


async def test_a_node_that_is_not_the_one_dialled_is_told_nothing(cluster: Cluster) -> None:
    async with cluster.node("a") as a, cluster.node("b") as b:
        impostor = Node(NodeId(uuid4()), "c", b.node.url)
        runner = ReplicaRunner(
            Replica(cluster.world.diagram, ReplicaLimits()), Ticker(asyncio.get_running_loop())
        )
        with pytest.raises(Unavailable):
            await a.links.follow(impostor, runner)
        assert runner.lost.is_set()


async def test_a_node_that_cannot_be_reached_is_said_to_be_so(cluster: Cluster) -> None:
    async with cluster.node("a") as a:
        nobody = Node(NodeId(uuid4()), "nobody", f"ws://{HOST}:9")
        runner = ReplicaRunner(
            Replica(cluster.world.diagram, ReplicaLimits()), Ticker(asyncio.get_running_loop())
        )
        with pytest.raises(Unavailable, match="nobody"):
            await a.links.follow(nobody, runner)


async def test_a_place_that_hangs_up_is_given_up_at_once(cluster: Cluster) -> None:
    """As a proxy does before a node that is dead; the time to dial is for those that say nothing."""

    async def hang_up(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.close()

    async with cluster.node("a") as a, await asyncio.start_server(hang_up, HOST, 0) as server:
        rude = Node(NodeId(uuid4()), "rude", f"ws://{HOST}:{server.sockets[0].getsockname()[1]}")
        runner = ReplicaRunner(
            Replica(cluster.world.diagram, ReplicaLimits()), Ticker(asyncio.get_running_loop())
        )
        async with asyncio.timeout(LINK_LIMITS.dial_timeout_s / 2):
            with pytest.raises(Unavailable, match="rude"):
                await a.links.follow(rude, runner)
