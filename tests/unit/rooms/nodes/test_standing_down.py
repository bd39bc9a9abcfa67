"""A room that another node owns now: its clients stay, with all that is theirs."""

import asyncio
from collections.abc import AsyncIterator, Sequence

import pytest

from crdt import awareness, y_websocket
from crdt.awareness import Entry
from crdt.messages import Awareness, QueryAwareness, SyncStep1
from rooms.nodes.following import ReplicaRunner
from rooms.nodes.replica import Replica, ReplicaLimits
from rooms.peer import Follower
from rooms.runner import RoomRunner
from rooms.service import Rooms
from rooms.ticker import Ticker
from tests.unit.rooms.conftest import Editor, World, until
from tests.unit.rooms.nodes.test_following import Link, Outpost, cells, heard, says
from tmi.domain.roles import Role


class Move:
    """The world's room, which stands down, and another service that owns it next."""

    def __init__(self, world: World, successor: Rooms) -> None:
        self.world = world
        self.successor = successor
        self.followers: Sequence[Follower] = ()
        self.replica: ReplicaRunner

    @property
    def runner(self) -> RoomRunner:
        return next(self.world.rooms.runners)

    def stand_down(self, replica: ReplicaRunner | None = None) -> None:
        runner = self.runner
        if replica is None:
            replica = ReplicaRunner(
                Replica(self.world.diagram, ReplicaLimits(), runner.room.document),
                Ticker(asyncio.get_running_loop()),
            )
        self.replica = replica
        self.followers = runner.stand_down(replica)
        runner.end(runner.room.fence_lost)

    async def arrive(self) -> Editor:
        """The successor claims the room for a client of its own, and the replica follows it."""
        there = self.world.editor()
        there.session = await self.successor.join(self.world.diagram, there.member, there)
        there.session.receive(SyncStep1(there.doc.get_state()))
        await until(lambda: self.successor.open_rooms)
        self.follow()
        return there

    def follow(self) -> None:
        Link(self.successor).follower.open(self.replica)


@pytest.fixture
async def move(world: World) -> AsyncIterator[Move]:
    successor = world.service()
    async with successor.running():
        yield Move(world, successor)


async def test_clients_stay_and_what_was_not_committed_is_acknowledged_by_the_next_owner(move: Move) -> None:
    world = move.world
    alice, bob = await world.editor().join(), await world.editor(world.other).join()
    await until(lambda: alice.acknowledged == bob.acknowledged == 1)
    world.store.unavailable = True
    alice.edit("committed by nobody", 1)
    bob.edit("nor this", 2)
    await until(lambda: cells(alice) == cells(bob) and len(cells(bob)) == 2)
    alice.edit("held", 3)  # it has not been applied yet
    move.stand_down()
    bob.edit("between owners", 4)
    await asyncio.sleep(0.02)
    assert (1, 1) == (alice.acknowledged, bob.acknowledged)
    world.store.unavailable = False
    there = await move.arrive()
    await until(lambda: (alice.acknowledged, bob.acknowledged) == (3, 3))
    await until(lambda: cells(there) == cells(alice) == cells(bob) and len(cells(bob)) == 4)
    alice.edit("after", 5)
    await until(lambda: cells(there).get("after") == cells(bob).get("after") == 5.0)
    await until(lambda: alice.acknowledged == 4)
    assert (None, None, 0) == (alice.closed, bob.closed, move.replica.room.unsaved)


async def test_the_log_says_whose_the_edits_are_that_the_next_owner_commits(move: Move) -> None:
    world = move.world
    alice, bob = await world.editor().join(), await world.editor(world.other).join()
    await until(lambda: alice.acknowledged == bob.acknowledged == 1)
    world.store.unavailable = True
    alice.edit("a", 1)
    await until(lambda: cells(bob) == {"a": 1.0})
    bob.edit("b", 2)
    await until(lambda: len(cells(alice)) == 2)
    assert bob.session is not None
    bob.session.leave()
    move.stand_down()
    world.store.unavailable = False
    await move.arrive()
    await until(lambda: alice.acknowledged == 2)
    authors = [update.author for _, update in world.store.logs[world.diagram].rows]
    assert [world.owner.id, world.other.id] == authors


async def test_nothing_is_acknowledged_before_the_next_owner_commits_it(move: Move) -> None:
    world = move.world
    alice = await world.editor().join()
    await until(lambda: alice.acknowledged == 1)
    world.store.unavailable = True
    alice.edit("a", 1)
    await asyncio.sleep(0.02)
    move.stand_down()
    world.store.unavailable = False
    there = await move.arrive()
    world.store.unavailable = True
    await until(lambda: cells(there) == {"a": 1.0})
    await asyncio.sleep(0.05)
    stored = world.stored
    assert (alice.acknowledged == 2) is (stored == 1)
    world.store.unavailable = False
    await until(lambda: alice.acknowledged == 2)
    assert 1 == world.stored


async def test_presence_stays_with_its_sessions(move: Move) -> None:
    world = move.world
    alice, bob = await world.editor().join(), await world.editor(world.other).join()
    says(alice, 11, 5)
    says(bob, 22, 7)
    move.stand_down()
    there = await move.arrive()
    await until(lambda: {11, 22} <= heard(there).keys())
    says(alice, 11, 6, b'{"y":2}')
    await until(lambda: heard(there)[11] == heard(bob)[11] == b'{"y":2}')
    assert bob.session is not None
    bob.session.leave()
    await until(lambda: heard(alice)[22] == heard(there)[22] == b"null")


async def test_a_slow_reader_gets_one_difference_from_the_replica(move: Move) -> None:
    world = move.world
    alice, slow = await world.editor().join(), await world.editor().join()
    await until(lambda: slow.acknowledged == 1)
    assert slow.session is not None
    slow.session.pause()
    await asyncio.sleep(0)
    alice.edit("before", 1)
    await until(lambda: alice.acknowledged == 2)
    move.stand_down()
    there = await move.arrive()
    there.edit("after", 2)
    await until(lambda: len(cells(alice)) == 2)
    assert {} == cells(slow)
    slow.session.resume()
    await until(lambda: cells(slow) == {"before": 1.0, "after": 2.0})


async def test_a_slow_reader_that_moves_is_told_of_everybody(move: Move) -> None:
    world = move.world
    alice, slow = await world.editor().join(), await world.editor(world.other).join()
    for clock in range(5, 9):
        says(alice, 11, clock)
        await asyncio.sleep(0.05)
    assert {11} == heard(slow).keys()
    assert slow.session is not None
    slow.session.pause()
    await asyncio.sleep(0)
    says(alice, 11, 9, b'{"y":2}')
    move.stand_down()
    there = await move.arrive()
    await until(lambda: heard(there).get(11) == b'{"y":2}')
    slow.session.resume()
    await until(lambda: heard(slow)[11] == b'{"y":2}')


async def test_what_a_reader_drew_is_asked_for_when_the_next_owner_promotes_it(move: Move) -> None:
    world = move.world
    await world.grant(Role.READER)
    await world.editor().join()
    bob = await world.editor(world.other, Role.READER).join()
    bob.edit("drawn", 1)
    await until(lambda: bob.refused == 1)
    move.stand_down()
    there = await move.arrive()
    await world.grant(Role.WRITER)
    await until(lambda: move.replica.room.is_attached)
    await asyncio.sleep(0.02)
    await move.successor.rights.access_changed([world.diagram])
    await until(lambda: cells(there) == {"drawn": 1.0})
    await until(lambda: move.replica.room.unsaved == 0)
    assert [Role.WRITER] == bob.roles


async def test_nodes_that_follow_look_for_the_next_owner(move: Move) -> None:
    world = move.world
    here = await world.editor().join()
    outpost = Outpost(world)
    link = await outpost.follow()
    elsewhere = outpost.join(world.editor(world.other))
    await until(lambda: elsewhere.acknowledged == 1)
    world.store.unavailable = True
    elsewhere.edit("elsewhere", 1)
    await until(lambda: cells(here) == {"elsewhere": 1.0})
    move.stand_down()
    elsewhere.edit("in the gap", 2)
    await asyncio.sleep(0.02)
    assert not outpost.runner.lost.is_set()
    for follower in move.followers:
        follower.let_go(None, is_disowned=True)
    await until(outpost.runner.lost.is_set)
    assert (True, 0) == (outpost.runner.is_disowned, link.owner.followed)
    world.store.unavailable = False
    there = await move.arrive()
    await outpost.follow(move.successor)
    await until(lambda: cells(there) == cells(here) == cells(elsewhere) and len(cells(here)) == 2)
    await until(lambda: elsewhere.acknowledged == 3)
    assert (None, None) == (here.closed, elsewhere.closed)


async def test_clients_join_a_replica_that_is_there_already_and_both_sides_get_everything(move: Move) -> None:
    world = move.world
    here = await world.editor().join()
    outpost = Outpost(world)  # a replica of this node, which follows itself
    link = await outpost.follow()
    old = outpost.join(world.editor(world.other))
    await until(lambda: old.acknowledged == here.acknowledged == 1)
    says(here, 11, 1)
    link.is_deaf = True
    here.edit("unheard", 1)
    await asyncio.sleep(0.02)
    assert {} == cells(old)
    # A former owner sent out what this one has not got yet.
    other = world.editor()
    other.cells["only there"] = 2
    outpost.runner.room.document.apply(other.doc.get_update())
    old.doc.apply_update(other.doc.get_update())
    move.stand_down(outpost.runner)
    await until(lambda: cells(here) == cells(old) == {"unheard": 1.0, "only there": 2.0})
    link.cut()
    there = await move.arrive()
    await until(lambda: cells(there) == cells(here))
    here.edit("last", 3)
    old.edit("of all", 4)
    await until(lambda: cells(there) == cells(here) == cells(old) and len(cells(old)) == 4)
    await until(lambda: move.replica.room.unsaved == 0)
    assert 11 in heard(there)
    assert 1 == sum(y_websocket.decode(wire) != [] and b"last" in wire for wire in old.wires)


async def test_who_waits_for_a_large_document_gets_it_from_the_replica(move: Move) -> None:
    world = move.world
    first = await world.editor().join()
    for n in range(8):
        first.edit(f"text {n}", "x" * 50_000)
    await until(lambda: first.acknowledged == 9)
    runner = move.runner
    runner._ticker.paced("others", lambda: 1 << 27)  # a tenth of a second of others' states
    late = world.editor()
    late.session = await world.rooms.join(world.diagram, late.member, late)
    late.session.receive(SyncStep1(late.doc.get_state()))
    move.stand_down()
    assert {} == cells(late)
    await until(lambda: len(cells(late)) == 8)
    await move.arrive()
    late.edit("mine", 1)
    await until(lambda: cells(first).get("mine") == 1.0)


async def test_who_has_asked_again_who_is_here_is_told_by_the_replica(move: Move) -> None:
    asker = await move.world.editor().join()
    assert asker.session is not None
    said = y_websocket.awareness(awareness.encode([Entry(7, 1, b"{}")]))
    asker.session.receive(Awareness(said[2:]))
    for _ in range(3):
        asker.session.receive(QueryAwareness())
    assert [said] == asker.wires[-1:]
    asker.wires.clear()
    move.stand_down()
    await until(lambda: said in asker.wires)
