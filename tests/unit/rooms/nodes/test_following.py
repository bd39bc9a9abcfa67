"""Clients of one node in a room that another node owns."""

import asyncio
from collections.abc import Callable, Generator
from dataclasses import replace
from functools import partial
from typing import Any, TypeVar

import pytest
from pycrdt import Doc, Map

from crdt import awareness, y_websocket
from crdt.awareness import Entry
from crdt.document import Document
from crdt.merging import merge
from crdt.messages import Awareness, SyncStep1, Update
from crdt.reading import count_cells
from persistence.memory.access import MemoryAccessControl
from rooms import closing
from rooms.coordination.local import LocalCoordinator
from rooms.effects import Effects
from rooms.memory import ROOM_BYTES, memory_of
from rooms.nodes.ends import FollowersEnd, OwnersEnd
from rooms.nodes.following import ReplicaRunner
from rooms.nodes.messages import REPLICA, Acknowledged, Answered, Channel, Message, Tell, decode, encode
from rooms.nodes.replica import Replica, ReplicaLimits
from rooms.service import Rooms
from rooms.slices import Slices
from rooms.ticker import Ticker
from tests.unit.rooms.conftest import LIMITS, Editor, World, until
from tmi.domain.ids import Seq
from tmi.domain.ports import LoggedUpdate, Origin, RoomBatch
from tmi.domain.roles import Role

T = TypeVar("T")


class Link:
    """Two ends, and between them the real encoding, in order and in another turn of the loop."""

    def __init__(self, rooms: Rooms) -> None:
        self.owner = OwnersEnd(rooms, self._to_follower)
        self.follower = FollowersEnd(self._to_owner)
        self.is_cut = False
        self.is_deaf = False
        """What the owner says is lost."""

    def _to_follower(self, channel: Channel, message: Message) -> None:
        if not self.is_deaf:
            self._carry(self.follower.receive, channel, message)

    def _to_owner(self, channel: Channel, message: Message) -> None:
        self._carry(self.owner.receive, channel, message)

    def _carry(self, receive: Callable[[Channel, Message], None], channel: Channel, message: Message) -> None:
        frame = encode(channel, message)

        def deliver() -> None:
            for one in decode(frame):
                if not self.is_cut:
                    receive(*one)

        asyncio.get_running_loop().call_soon(deliver)

    def cut(self) -> None:
        self.is_cut = True
        self.owner.close()
        self.follower.close()


class Outpost:
    """A node with clients of the world's diagram, which it does not own."""

    def __init__(self, world: World, limits: ReplicaLimits | None = None) -> None:
        self.world = world
        ticker = Ticker(asyncio.get_running_loop())
        self.runner = ReplicaRunner(Replica(world.diagram, limits or ReplicaLimits()), ticker, Slices())

    async def follow(self, rooms: Rooms | None = None) -> Link:
        link = Link(rooms or self.world.rooms)
        link.follower.open(self.runner)
        async with asyncio.timeout(5):
            await self.runner.synced.wait()
        return link

    def join(self, editor: Editor) -> Editor:
        editor.closed = None
        editor.session = self.runner.join(editor.member, editor)
        editor.session.receive(SyncStep1(editor.doc.get_state()))
        return editor


def cells(editor: Editor) -> dict[str, Any]:
    return dict(editor.cells.to_py() or {})


def says(editor: Editor, client: int, clock: int, state: bytes = b'{"x":1}') -> None:
    assert editor.session is not None
    editor.session.receive(Awareness(awareness.encode([Entry(client, clock, state)])))


def heard(editor: Editor) -> dict[int, bytes]:
    """The newest awareness of each client that an editor was sent."""
    found = {}
    for wire in editor.wires:
        for message in y_websocket.decode(wire):
            if isinstance(message, Awareness):
                found.update({entry.client: entry.state for entry in awareness.parse(message.data)})
    return found


async def test_edits_cross_both_ways_and_are_acknowledged_after_their_commit(world: World) -> None:
    here = await world.editor().join()
    here.edit("before", 1)
    outpost = Outpost(world)
    await outpost.follow()
    there = outpost.join(world.editor(world.other))
    assert {"before": 1.0} == cells(there)
    there.edit("there", 2)
    here.edit("here", 3)
    await until(lambda: cells(here) == cells(there) == {"before": 1.0, "there": 2.0, "here": 3.0})
    # One for the answer to the room's SyncStep1, one for the edit.
    await until(lambda: there.acknowledged == 2)
    assert world.stored >= 3
    assert world.other.id in {update.author for _, update in world.store.logs[world.diagram].rows}
    assert (0, 0) == (outpost.runner.room.unsaved, outpost.runner.room.unsaved_bytes)
    assert world.rooms.runners is not None
    assert next(world.rooms.runners).room.seq == outpost.runner.room.seq


async def test_nothing_is_acknowledged_before_the_commit(world: World) -> None:
    await world.editor().join()
    outpost = Outpost(world)
    await outpost.follow()
    there = outpost.join(world.editor())
    await until(lambda: there.acknowledged == 1)
    world.store.unavailable = True
    there.edit("a")
    await asyncio.sleep(0.1)
    assert (1, 1) == (there.acknowledged, outpost.runner.room.unsaved)
    world.store.unavailable = False
    await until(lambda: there.acknowledged == 2)


async def test_an_edit_reaches_the_other_clients_there_once_and_not_its_author(world: World) -> None:
    await world.editor().join()
    outpost = Outpost(world)
    await outpost.follow()
    author, other = outpost.join(world.editor()), outpost.join(world.editor())
    await until(lambda: author.acknowledged == other.acknowledged == 1)
    author.wires.clear()
    other.wires.clear()
    author.edit("a")
    await until(lambda: cells(other) == {"a": 1.0})
    assert ([], 1) == (author.wires, len(other.wires))


async def test_presence_crosses_and_ends_with_its_session(world: World) -> None:
    here = await world.editor().join()
    outpost = Outpost(world)
    await outpost.follow()
    there = outpost.join(world.editor(world.other))
    says(here, 11, 1)
    says(there, 22, 1)
    await until(lambda: 22 in heard(here) and 11 in heard(there))
    newcomer = outpost.join(world.editor())
    await until(lambda: {11, 22} <= heard(newcomer).keys())
    assert there.session is not None
    there.session.leave()
    await until(lambda: heard(here)[22] == heard(newcomer)[22] == b"null")


async def test_what_is_known_of_presence_already_does_not_travel(world: World) -> None:
    here = await world.editor().join()
    outpost = Outpost(world)
    await outpost.follow()
    there = outpost.join(world.editor(world.other))
    says(here, 11, 5)
    await until(lambda: 11 in heard(there))
    sent: list[Message] = []
    outpost.runner._upstream = sent.append
    says(there, 22, 1)
    assert 1 == len(sent)
    says(there, 11, 5)
    says(there, 11, 4)
    says(there, 22, 1)
    assert 1 == len(sent)


async def test_a_reader_there_is_refused_and_promotion_brings_the_edit(world: World) -> None:
    here = await world.editor().join()
    await world.grant(Role.READER)
    outpost = Outpost(world)
    await outpost.follow()
    there = outpost.join(world.editor(world.other, Role.READER))
    there.edit("drawn", 1)
    await until(lambda: there.refused == 1)
    assert {} == cells(here)
    await world.grant(Role.WRITER)
    await world.rooms.rights.access_changed([world.diagram])
    await until(lambda: cells(here) == {"drawn": 1.0})
    assert [Role.WRITER] == there.roles


@pytest.mark.parametrize("happening", ["removed", "deleted"])
async def test_who_may_no_longer_read_is_closed_there(world: World, happening: str) -> None:
    here = await world.editor().join()
    outpost = Outpost(world)
    await outpost.follow()
    there = outpost.join(world.editor(world.other))
    await until(lambda: there.acknowledged == 1)
    if happening == "removed":
        await world.grant(None)
        await world.rooms.rights.access_changed([world.diagram])
        code = closing.NO_LONGER_ALLOWED
    else:
        world.rooms.rights.deleted([world.diagram])
        code = closing.DIAGRAM_DELETED
    await until(lambda: there.closed is not None)
    assert there.closed is not None
    assert code == there.closed[0]
    assert (here.closed is None) is (happening == "removed")
    assert outpost.runner.room.is_over is (happening == "deleted")


async def test_a_bad_update_closes_its_sender_alone(world: World) -> None:
    here = await world.editor().join()
    outpost = Outpost(world)
    await outpost.follow()
    there, bad = outpost.join(world.editor()), outpost.join(world.editor(world.other))
    assert bad.session is not None
    bad.session.receive(Update(b"\x01\x01\x07\x00\x04\x01\x01a\xff\x00"))
    await until(lambda: bad.closed is not None)
    there.edit("a")
    await until(lambda: cells(here) == {"a": 1.0})
    assert bad.closed is not None
    assert (closing.BAD_FRAME, None) == (bad.closed[0], there.closed)


async def test_clients_stay_while_the_link_is_away_and_nothing_is_lost(world: World) -> None:
    here = await world.editor().join()
    outpost = Outpost(world)
    link = await outpost.follow()
    there = outpost.join(world.editor())
    await until(lambda: there.acknowledged == 1)
    link.cut()
    there.edit("there", 1)
    here.edit("here", 2)
    newcomer = outpost.join(world.editor(world.other))
    assert ({}, {"there": 1.0}) == (cells(newcomer), cells(there))
    await asyncio.sleep(0.05)
    assert (1, None) == (there.acknowledged, there.closed)
    await outpost.follow()
    both = {"there": 1.0, "here": 2.0}
    await until(lambda: cells(here) == cells(there) == cells(newcomer) == both)
    await until(lambda: there.acknowledged == 2)
    assert 0 == outpost.runner.room.unsaved


async def test_what_was_sent_and_never_acknowledged_is_said_again_to_the_next_owner(world: World) -> None:
    here = await world.editor().join()
    outpost = Outpost(world)
    link = await outpost.follow()
    there, leaver = outpost.join(world.editor()), outpost.join(world.editor(world.other))
    await until(lambda: there.acknowledged == leaver.acknowledged == 1)
    world.store.unavailable = True
    there.edit("there", 1)
    leaver.edit("leaver", 2)
    here.edit("here", 3)
    await until(lambda: cells(there) == {"there": 1.0, "leaver": 2.0, "here": 3.0})
    # The owner dies with everything uncommitted; one of the clients goes as well.
    link.is_deaf = True
    link.cut()
    assert leaver.session is not None
    leaver.session.leave()
    world.store.unavailable = False
    successor = world.service()
    async with successor.running():
        elsewhere = world.editor()
        elsewhere.session = await successor.join(world.diagram, elsewhere.member, elsewhere)
        elsewhere.session.receive(SyncStep1(elsewhere.doc.get_state()))
        await outpost.follow(successor)
        await until(lambda: cells(elsewhere) == {"there": 1.0, "leaver": 2.0, "here": 3.0})
        await until(lambda: there.acknowledged == 2 and outpost.runner.room.unsaved == 0)
        assert await successor.journal.flushed(5)
        assert (None, None) == (there.closed, elsewhere.closed)


async def test_an_owner_that_moves_the_room_keeps_the_clients_there_connected(world: World) -> None:
    here = await world.editor().join()
    outpost = Outpost(world)
    await outpost.follow()
    there = outpost.join(world.editor())
    await until(lambda: there.acknowledged == 1)
    await world.rooms.drain(1)
    await until(outpost.runner.lost.is_set)
    assert not outpost.runner.is_disowned
    assert here.closed is not None
    assert (closing.SERVICE_RESTART, None) == (here.closed[0], there.closed)


async def test_more_than_may_wait_for_an_owner_closes_the_writer(world: World) -> None:
    await world.editor().join()
    outpost = Outpost(world, ReplicaLimits(pending_max_bytes=1000))
    link = await outpost.follow()
    there, quiet = outpost.join(world.editor()), outpost.join(world.editor())
    await until(lambda: there.acknowledged == quiet.acknowledged == 1)
    link.cut()
    for n in range(50):
        if there.closed is None:
            there.edit(f"key {n}", "x" * 50)
    assert there.closed is not None
    assert (closing.TRY_AGAIN_LATER, None) == (there.closed[0], quiet.closed)
    assert {"replica_pending": 1} == outpost.runner.room.refusals


async def test_a_client_there_is_refused_by_a_full_room_and_counted_by_its_owner(world: World) -> None:
    limits = replace(LIMITS, room=replace(LIMITS.room, sessions_max=2))
    rooms = Rooms(world.log, LocalCoordinator(world.log, "n"), MemoryAccessControl(world.store), limits)
    async with rooms.running():
        world.rooms = rooms
        await world.editor().join()
        outpost = Outpost(world)
        await outpost.follow()
        await Outpost(world).follow()  # nodes take nobody's place
        first = outpost.join(world.editor())
        await until(lambda: first.acknowledged == 1)
        second = outpost.join(world.editor())
        await until(lambda: second.closed)
        assert (closing.TRY_AGAIN_LATER, "this diagram has as many clients as it may") == second.closed
        assert 1 == rooms.refusals["sessions_per_room"]
        assert (first.closed, 1) == (None, outpost.runner.room.session_count)
        assert first.session is not None
        first.session.leave()
        third = outpost.join(world.editor())
        await until(lambda: third.acknowledged == 1)


async def test_once_a_full_room_has_refused_a_client_there_that_node_refuses_others_by_itself_for_a_while(
    world: World,
) -> None:
    limits = replace(LIMITS, room=replace(LIMITS.room, sessions_max=2))
    rooms = Rooms(world.log, LocalCoordinator(world.log, "n"), MemoryAccessControl(world.store), limits)
    async with rooms.running():
        world.rooms = rooms
        await world.editor().join()
        outpost = Outpost(world, ReplicaLimits(full_s=0.1))
        await outpost.follow()
        here = outpost.join(world.editor())

        def is_full() -> bool:
            return outpost.runner.room.is_full

        await until(lambda: here.acknowledged == 1)
        assert not is_full()
        for is_full_again in (True, False):
            refused = outpost.join(world.editor())
            await until(partial(getattr, refused, "closed"))
            assert is_full()
            if is_full_again:
                await until(lambda: not is_full())
        assert here.session is not None
        here.session.leave()
        assert not is_full(), "somebody who was here has left"
        assert 2 == rooms.refusals["sessions_per_room"]


async def test_a_full_link_gets_one_difference_later(world: World) -> None:
    here = await world.editor().join()
    outpost = Outpost(world)
    link = await outpost.follow()
    there = outpost.join(world.editor())
    await until(lambda: there.acknowledged == 1)
    link.owner.pause()
    await asyncio.sleep(0)
    there.wires.clear()
    for n in range(20):
        here.edit(f"key {n}", n)
    await asyncio.sleep(0.1)
    assert [] == there.wires
    link.owner.resume()
    await until(lambda: len(cells(there)) == 20)
    assert 1 == len(there.wires)


async def test_a_room_is_not_followed_where_it_is_not_open(world: World) -> None:
    outpost = Outpost(world)
    link = Link(world.rooms)
    link.follower.open(outpost.runner)
    await until(outpost.runner.lost.is_set)
    assert outpost.runner.is_disowned
    assert not link.follower.following


async def test_a_replica_that_nobody_uses_ends_and_the_owner_forgets_it(world: World) -> None:
    here = await world.editor().join()
    outpost = Outpost(world)
    link = await outpost.follow()
    there = outpost.join(world.editor())
    there.edit("a")
    await until(lambda: there.acknowledged == 2)
    assert there.session is not None
    there.session.leave()
    await until(lambda: not outpost.runner.room.unsaved)
    outpost.runner.perform(outpost.runner.room.close_if_idle())
    await until(lambda: link.owner.followed == 0)
    assert outpost.runner.room.is_over
    assert 1 == next(world.rooms.runners).room.session_count
    assert here.closed is None


async def test_an_answer_that_makes_refused_edits_good_is_one_message_of_the_follower(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    await world.editor().join()
    outpost = Outpost(world)
    await outpost.follow()
    there = outpost.join(world.editor(world.other))
    await until(lambda: there.acknowledged == 1)
    # The owner demotes before the follower has heard of it.
    owner = next(world.rooms.runners)
    (seat,) = [s for s in owner.room._sessions.values() if s.member and s.member.user == world.other.id]
    seat.may_edit = False
    for n in range(3):
        there.edit(f"refused {n}", n)
    await until(lambda: there.refused == 3)
    acknowledged = []
    hear = outpost.runner.room.hear

    def recorded(message: Answered, now: float) -> Effects:
        if isinstance(message, Acknowledged) and message.session != REPLICA:
            acknowledged.append(message.count)
        return hear(message, now)

    monkeypatch.setattr(outpost.runner.room, "hear", recorded)
    seat.may_edit = True
    owner.perform(owner.room._ask(seat))
    await until(lambda: world.stored > 0 and not outpost.runner.room.unsaved)
    assert [1] == acknowledged
    assert 1 + 3 == there.acknowledged  # what was refused, and the first answer


async def test_what_a_replica_keeps_of_presence_is_counted_and_bounded_by_its_limits(world: World) -> None:
    outpost = Outpost(world, ReplicaLimits(presence_max_bytes=1000))
    for client in range(1, 4):
        says(outpost.join(world.editor()), client, 1, b'{"x":"%s"}' % (b"x" * 500))
    assert 500 < outpost.runner.room.presence_bytes <= 1000
    assert outpost.runner.room.presence_bytes < memory_of(outpost.runner) - ROOM_BYTES <= 1050


# --- a large state at first ---------------------------------------------------------------------


async def large(world: World) -> Editor:
    """Somebody in a room of a megabyte."""
    doc: Doc[Any] = Doc()
    with doc.transaction():
        for key in range(8000):
            doc.get("cells", type=Map)[f"large-{key}"] = "x" * 100
    update = LoggedUpdate(Seq(1), world.owner.id, Origin.SYNC, doc.get_update())
    fence = await world.log.claim(world.diagram, "somebody")
    await world.log.append([RoomBatch(world.diagram, fence, (update,))])
    return await world.editor().join()


class Steps(Slices):
    """Counts how often others had their turn, and tells of each."""

    def __init__(self, at_each: Callable[[int], object] = lambda _: None) -> None:
        super().__init__()
        self.count = 0
        self._at_each = at_each

    async def run(self, steps: Generator[None, None, T]) -> T:
        return await super().run(self._counted(steps))

    def _counted(self, steps: Generator[None, None, T]) -> Generator[None, None, T]:
        while True:
            try:
                next(steps)
            except StopIteration as end:
                result: T = end.value
                return result
            self.count += 1
            self._at_each(self.count)
            yield


def outpost_with(world: World, slices: Slices) -> Outpost:
    outpost = Outpost(world)
    outpost.runner = ReplicaRunner(
        Replica(world.diagram, ReplicaLimits()), Ticker(asyncio.get_running_loop()), slices
    )
    return outpost


async def test_a_large_first_state_is_taken_by_steps_and_what_is_edited_meanwhile_comes_after_it(
    world: World,
) -> None:
    here = await large(world)
    steps = Steps(lambda count: here.edit(f"meanwhile-{count}"))
    outpost = outpost_with(world, steps)
    await outpost.follow()
    assert steps.count > 5
    there = outpost.join(world.editor(world.other))
    await until(lambda: cells(there) == cells(here))
    assert f"meanwhile-{steps.count}" in cells(there)
    assert memory_of(outpost.runner) > 20 * 800_000
    there.edit("there")
    await until(lambda: cells(here).get("there") == 1)
    assert 0 == outpost.runner.faults


async def test_a_link_that_breaks_while_the_first_state_is_taken_leaves_nothing_of_it(world: World) -> None:
    here = await large(world)
    links: list[Link] = []
    outpost = outpost_with(world, Steps(lambda count: links[0].cut() if count == 3 else None))
    links.append(Link(world.rooms))
    links[0].follower.open(outpost.runner)
    async with asyncio.timeout(5):
        await outpost.runner.attached.wait()
        await outpost.runner.lost.wait()
    await asyncio.sleep(0.01)
    assert outpost.runner.room.document.is_empty
    assert not outpost.runner.synced.is_set()
    here.edit("later")
    await outpost.follow()
    there = outpost.join(world.editor(world.other))
    await until(lambda: cells(there) == cells(here))


async def test_a_first_state_in_which_something_waits_is_taken_in_one_go(world: World) -> None:
    doc: Doc[Any] = Doc()
    cells = doc.get("cells", type=Map)
    updates: list[bytes] = []
    doc.observe(lambda event: updates.append(event.update))
    with doc.transaction():
        for key in range(8000):
            cells[f"large-{key}"] = "x" * 100
    cells["lost"], cells["waiting"] = 1, 2
    outpost = Outpost(world)
    outpost.runner.attach(lambda _: None)
    state = merge([updates[0], updates[2]])
    outpost.runner.hear(Tell(REPLICA, y_websocket.sync_step2(state), Seq(3)))
    async with asyncio.timeout(5):
        await outpost.runner.synced.wait()
    room = outpost.runner.room
    assert (8000, True, 3) == (count_cells(room.document), room.document.pending, room.seq)
    outpost.runner.hear(Tell(REPLICA, y_websocket.update(updates[1]), Seq(4)))
    assert (8002, False) == (count_cells(room.document), room.document.pending)


async def test_an_owner_that_says_too_much_before_the_first_state_is_taken_is_left(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = await large(world)
    monkeypatch.setattr("rooms.nodes.following._WAITING_MAX_BYTES", 1000)
    outpost = outpost_with(world, Steps(lambda count: here.edit(f"meanwhile-{count}", "x" * 500)))
    link = Link(world.rooms)
    link.follower.open(outpost.runner)
    async with asyncio.timeout(5):
        await outpost.runner.attached.wait()
        await outpost.runner.lost.wait()
    assert outpost.runner.room.document.is_empty


async def test_what_the_document_gets_while_a_first_state_is_taken_is_not_lost() -> None:
    doc: Doc[Any] = Doc()
    with doc.transaction():
        for key in range(8000):
            doc.get("cells", type=Map)[f"large-{key}"] = "x" * 100
    mine: Doc[Any] = Doc()
    mine.get("cells", type=Map)["mine"] = 1
    document = Document()
    steps = Steps(lambda count: count == 3 and document.apply(mine.get_update()))
    assert not await steps.run(document.begin_by_steps(doc.get_update()))
    assert 1 == count_cells(document)
