"""Ownership among several nodes: what only the coordinator on Redis has."""

import asyncio
import logging
import os
import signal
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from urllib.parse import urlsplit
from uuid import uuid4

import pytest
from redis.asyncio import Redis
from redis.exceptions import RedisError

from persistence.memory.ownership import MemoryOwnership
from persistence.memory.store import MemoryStore, RoomLog
from rooms.coordination.redis import LeaseLimits, RedisCoordinator
from tests.harness.fault_proxy import proxied
from tests.valkey import new_node, running_coordinator, valkeys
from tmi.domain.errors import DatabaseUnavailable, NotFound, OwnedElsewhere, Unavailable
from tmi.domain.ids import DiagramId, Fence, NodeId
from tmi.domain.model import Node
from tmi.embedded.valkey import embedded_valkey
from tmi.wiring.redis import connected

QUICK = LeaseLimits(beat_s=0.1, node_ttl_s=0.5)
RARE = LeaseLimits(beat_s=60, node_ttl_s=90)
"""No beat but the first."""
WAIT_S = 10.0
BACKGROUND = {"node-beat", "room-leases"}


@dataclass(frozen=True, slots=True)
class Running:
    """A node that runs here."""

    node: Node
    rooms: RedisCoordinator
    tasks: frozenset[asyncio.Task[object]]

    async def crash(self) -> None:
        """Do nothing any more, and say nothing of it."""
        for task in self.tasks:
            task.cancel()
        await asyncio.wait(self.tasks)


class Cluster:
    """Nodes that share an update log and a Redis, and end with the test."""

    def __init__(self, url: str, redis: Redis, stack: AsyncExitStack) -> None:
        self.url = url
        self._stack = stack
        self.redis = redis
        self.store = MemoryStore()
        self.ownership = MemoryOwnership(self.store)

    async def node(self, name: str, limits: LeaseLimits = QUICK) -> Running:
        """A node that has just started."""
        node = new_node(name)
        before = asyncio.all_tasks()
        coordinator = running_coordinator(self.url, self.ownership, node, limits)
        rooms = await self._stack.enter_async_context(coordinator)
        tasks = {task for task in asyncio.all_tasks() - before if task.get_name() in BACKGROUND}
        return Running(node, rooms, frozenset(tasks))

    def diagrams(self, count: int) -> Sequence[DiagramId]:
        """Diagrams that were never opened."""
        made = [DiagramId(uuid4()) for _ in range(count)]
        self.store.logs |= {diagram: RoomLog() for diagram in made}
        return made

    def diagram(self) -> DiagramId:
        """One of them."""
        return self.diagrams(1)[0]

    async def leases(self, diagrams: Sequence[DiagramId]) -> Sequence[str | None]:
        """Whom Redis names as the owners."""
        found = await self.redis.mget([f"tmi:room:{diagram}" for diagram in diagrams])
        return [owner.decode() if isinstance(owner, bytes) else owner for owner in found]

    async def lease(self, diagram: DiagramId) -> str | None:
        """Whom Redis names as the owner."""
        return (await self.leases([diagram]))[0]


@pytest.fixture
async def cluster(valkey_url: str) -> AsyncIterator[Cluster]:
    """A cluster without nodes."""
    async with AsyncExitStack() as stack:
        redis = await stack.enter_async_context(connected(valkey_url))
        yield Cluster(valkey_url, redis, stack)


async def outcome(claim: Awaitable[Fence]) -> Fence | NodeId:
    """The fence, or the node that has the room."""
    try:
        return await claim
    except OwnedElsewhere as refusal:
        return refusal.owner.id


async def eventually(condition: Callable[[], Awaitable[bool]], within_s: float = WAIT_S) -> float:
    """Wait for a condition; returns the seconds that took."""
    started = time.monotonic()
    async with asyncio.timeout(within_s):
        while not await condition():
            await asyncio.sleep(0.01)
    return time.monotonic() - started


async def come_and_go(cluster: Cluster, node: Running) -> None:
    """Open and close rooms."""
    while True:
        diagram = cluster.diagram()
        await node.rooms.release(diagram, await node.rooms.claim(diagram))


async def cancelled(tasks: Sequence[asyncio.Task[None]]) -> None:
    """Cancel tasks and see them end."""
    for task in tasks:
        task.cancel()
    _, unmoved = await asyncio.wait(tasks, timeout=1)
    assert set() == unmoved


def said(caplog: pytest.LogCaptureFixture, words: str) -> int:
    """How many messages contain the words."""
    return sum(words in message for message in caplog.messages)


# --- one owner ----------------------------------------------------------------------------------


async def test_of_two_nodes_that_want_a_room_exactly_one_owns_it(cluster: Cluster) -> None:
    a, b = await cluster.node("a"), await cluster.node("b")
    diagrams = cluster.diagrams(50)

    found = await asyncio.gather(
        *(outcome(running.rooms.claim(diagram)) for diagram in diagrams for running in (a, b))
    )

    owners = {str(a.node.id): [1, a.node.id], str(b.node.id): [b.node.id, 1]}
    leases = await cluster.leases(diagrams)
    assert [owners[lease or ""] for lease in leases] == [found[i : i + 2] for i in range(0, 100, 2)]


async def test_of_a_hundred_claims_of_a_room_those_of_one_node_succeed(cluster: Cluster) -> None:
    a, b = await cluster.node("a"), await cluster.node("b")
    diagram = cluster.diagram()

    found = await asyncio.gather(*(outcome(node.rooms.claim(diagram)) for node in (a, b) * 50))

    owner = await cluster.lease(diagram)
    fences = [result for result in found if isinstance(result, int)]
    assert list(range(1, 51)) == fences
    assert {owner} == {str(result) for result in found if not isinstance(result, int)}


async def test_a_released_room_is_free_for_others(cluster: Cluster) -> None:
    a, b = await cluster.node("a"), await cluster.node("b")
    diagram = cluster.diagram()
    await a.rooms.release(diagram, await a.rooms.claim(diagram))

    assert 2 == await b.rooms.claim(diagram)


async def test_a_release_of_an_earlier_term_leaves_the_lease_of_the_next(cluster: Cluster) -> None:
    a = await cluster.node("a")
    diagram = cluster.diagram()
    first = await a.rooms.claim(diagram)
    await asyncio.gather(a.rooms.release(diagram, first), a.rooms.claim(diagram))

    assert str(a.node.id) == await cluster.lease(diagram)


async def test_a_claim_that_fails_in_the_log_gives_its_lease_back(cluster: Cluster) -> None:
    a = await cluster.node("a")
    diagram = cluster.diagram()
    cluster.store.fail_next = DatabaseUnavailable()
    with pytest.raises(DatabaseUnavailable):
        await a.rooms.claim(diagram)
    unknown = DiagramId(uuid4())
    with pytest.raises(NotFound):
        await a.rooms.claim(unknown)

    assert [None, None] == await cluster.leases([diagram, unknown])


async def test_claims_and_releases_can_be_cancelled_at_any_moment(cluster: Cluster) -> None:
    a = await cluster.node("a")
    for _ in range(20):
        load = [asyncio.create_task(come_and_go(cluster, a)) for _ in range(4)]
        await asyncio.sleep(0.02)
        await cancelled(load)


async def test_leases_are_renewed(cluster: Cluster) -> None:
    a = await cluster.node("a", LeaseLimits(beat_s=0.1, node_ttl_s=0.5, lease_s=0.6))
    diagrams = cluster.diagrams(1100)
    for diagram in diagrams:
        await a.rooms.claim(diagram)
    await asyncio.sleep(1.0)

    assert {str(a.node.id)} == set(await cluster.leases(diagrams))


# --- the end of a node --------------------------------------------------------------------------


async def test_rooms_of_a_dead_node_can_be_claimed_once_its_heartbeat_has_lapsed(cluster: Cluster) -> None:
    a, b = await cluster.node("a"), await cluster.node("b")
    diagram = cluster.diagram()
    await a.rooms.claim(diagram)
    await a.crash()

    async def is_claimed() -> bool:
        return await outcome(b.rooms.claim(diagram)) == 2

    assert QUICK.node_ttl_s - QUICK.beat_s - 0.05 < await eventually(is_claimed) < QUICK.node_ttl_s + 1.0
    assert str(b.node.id) == await cluster.lease(diagram)


async def test_of_many_that_want_a_dead_nodes_room_one_gets_it(cluster: Cluster) -> None:
    dead, *others = [await cluster.node(name) for name in "abcdef"]
    diagram = cluster.diagram()
    await dead.rooms.claim(diagram)
    await dead.crash()
    await cluster.redis.delete(f"tmi:node:{dead.node.id}")

    found = await asyncio.gather(*(outcome(node.rooms.claim(diagram)) for node in others))

    owner = await cluster.lease(diagram)
    assert [2 if owner == str(node.node.id) else owner for node in others] == [
        result if isinstance(result, int) else str(result) for result in found
    ]


async def test_rooms_of_a_node_that_ended_properly_can_be_claimed_at_once(cluster: Cluster) -> None:
    diagram = cluster.diagram()
    async with running_coordinator(cluster.url, cluster.ownership) as a:
        await a.claim(diagram)
    b = await cluster.node("b")

    assert 2 == await b.rooms.claim(diagram)


async def test_a_room_that_its_owner_disowns_is_claimed_at_once(cluster: Cluster) -> None:
    a, b = await cluster.node("a"), await cluster.node("b")
    diagram = cluster.diagram()
    await a.rooms.claim(diagram)

    assert a.node.id == await outcome(b.rooms.claim(diagram, disowned=NodeId(uuid4())))
    assert 2 == await b.rooms.claim(diagram, disowned=a.node.id)
    assert b.node.id == await outcome(a.rooms.claim(diagram))


async def test_a_release_by_a_node_that_lost_the_room_leaves_the_new_owners_lease_alone(
    cluster: Cluster,
) -> None:
    a, b = await cluster.node("a"), await cluster.node("b")
    diagram = cluster.diagram()
    fence = await a.rooms.claim(diagram)
    await b.rooms.claim(diagram, disowned=a.node.id)
    await a.rooms.release(diagram, fence)

    assert str(b.node.id) == await cluster.lease(diagram)


async def test_peers_are_listed_and_forgotten(cluster: Cluster) -> None:
    a, b, c = [await cluster.node(name) for name in "abc"]

    async def are_complete() -> bool:
        return [{b.node, c.node}, {a.node, c.node}] == [set(node.rooms.peers()) for node in (a, b)]

    async def are_without_c() -> bool:
        return [[b.node], [a.node]] == [list(node.rooms.peers()) for node in (a, b)]

    await eventually(are_complete)
    await c.crash()
    await eventually(are_without_c, QUICK.node_ttl_s + 1.0)


# --- Redis in trouble ---------------------------------------------------------------------------


async def test_leases_are_asserted_again_within_a_second_after_redis_was_emptied_under_load(
    cluster: Cluster,
) -> None:
    a, b = await cluster.node("a", LeaseLimits()), await cluster.node("b", LeaseLimits())
    diagrams = cluster.diagrams(1000)
    for diagram in diagrams:
        await a.rooms.claim(diagram)

    async def are_back() -> bool:
        return {str(a.node.id)} == set(await cluster.leases(diagrams))

    load = [asyncio.create_task(come_and_go(cluster, b)) for _ in range(4)]
    await cluster.redis.flushall()
    took_s = await eventually(are_back)
    await cancelled(load)

    assert took_s < 1.0


async def test_nothing_is_claimed_from_those_who_have_not_noticed_yet_that_redis_was_emptied(
    cluster: Cluster, caplog: pytest.LogCaptureFixture
) -> None:
    slow = await cluster.node("slow", LeaseLimits(beat_s=1.0, node_ttl_s=1.5))
    quick = await cluster.node("quick", LeaseLimits(beat_s=0.05, node_ttl_s=1.5))
    diagram = cluster.diagram()
    await slow.rooms.claim(diagram)
    await cluster.redis.flushall()

    async def was_noticed() -> bool:
        return said(caplog, "did not know this node") == 1

    await eventually(was_noticed)
    assert slow.node.id == await outcome(quick.rooms.claim(diagram))


async def test_while_redis_is_away_rooms_are_claimed_by_their_rows_and_leases_follow(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO, "rooms.coordination")
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="tmi-valkey-")))
        first = await stack.enter_async_context(AsyncExitStack())
        url = await first.enter_async_context(embedded_valkey(folder))
        redis = await stack.enter_async_context(connected(url))
        cluster = Cluster(url, redis, stack)
        a, b = await cluster.node("a"), await cluster.node("b")
        diagram, other, free = diagrams = cluster.diagrams(3)
        await a.rooms.claim(diagram)
        await b.rooms.claim(other)

        async def are_acquainted() -> bool:
            return [[b.node], [a.node]] == [list(node.rooms.peers()) for node in (a, b)]

        await eventually(are_acquainted)
        await first.aclose()
        assert [1, a.node.id, a.node.id] == [
            await outcome(a.rooms.claim(free)),
            await outcome(b.rooms.claim(free)),
            await outcome(b.rooms.claim(diagram)),
        ]
        assert [None, a.node] == [await a.rooms.owner(free), await b.rooms.owner(free)]
        await b.rooms.release(other, Fence(1))
        assert 2 == await a.rooms.claim(other)
        assert await are_acquainted()

        async with embedded_valkey(folder):

            async def are_asserted() -> bool:
                try:
                    return {str(a.node.id)} == set(await cluster.leases(diagrams))
                except (RedisError, OSError):
                    return False

            async def are_back() -> bool:
                return said(caplog, "Redis is back") == 2

            await eventually(are_asserted)
            await eventually(are_back)
            assert 2 == said(caplog, "Redis is away")
            assert [a.node.id] * 3 == [await outcome(b.rooms.claim(room)) for room in diagrams]


AWAY = "unix:///nowhere/valkey.sock"
"""Where no Redis is."""
BRIEF = LeaseLimits(beat_s=0.1, node_ttl_s=0.5, lease_s=0.4)


async def apart(stack: AsyncExitStack, count: int) -> tuple[Cluster, Sequence[Running]]:
    """Nodes whose Redis is away, and a dead node's rooms are free after 0.8 s."""
    cluster = Cluster(AWAY, await stack.enter_async_context(connected(AWAY)), stack)
    return cluster, [await cluster.node(f"n{n}", BRIEF) for n in range(count)]


async def says(is_there: bool, asked: list[Node], node: Node) -> bool:
    """An answer to whether a node can be reached."""
    asked.append(node)
    return is_there


@pytest.mark.parametrize("does_answer", [True, False])
async def test_without_redis_a_room_is_taken_from_an_owner_that_was_not_seen_and_does_not_answer(
    does_answer: bool,
) -> None:
    async with AsyncExitStack() as stack:
        cluster, (a, b) = await apart(stack, 2)
        asked: list[Node] = []
        b.rooms.answers = partial(says, does_answer, asked)
        diagram = cluster.diagram()
        await a.rooms.claim(diagram)
        await asyncio.sleep(1.2)
        assert a.node.id == await outcome(b.rooms.claim(diagram))
        assert [] == asked  # its row is renewed

        await a.crash()
        await asyncio.sleep(1.2)
        assert (a.node.id if does_answer else 2) == await outcome(b.rooms.claim(diagram))
        assert [a.node] == asked


async def test_without_redis_exactly_one_of_many_gets_a_dead_nodes_room() -> None:
    async with AsyncExitStack() as stack:
        cluster, (dead, *others) = await apart(stack, 6)
        for node in others:
            node.rooms.answers = partial(says, False, [])
        diagrams = cluster.diagrams(20)
        for diagram in diagrams:
            await dead.rooms.claim(diagram)
        await dead.crash()
        await asyncio.sleep(1.2)

        for diagram in diagrams:
            found = await asyncio.gather(*(outcome(node.rooms.claim(diagram)) for node in others))
            [winner] = [node for node, result in zip(others, found, strict=True) if result == 2]
            assert {2, winner.node.id} == set(found)
            assert winner.node == (await cluster.ownership.find(diagram)).owner


async def test_an_owner_that_was_cut_off_is_told_once_its_fence_has_risen(cluster: Cluster) -> None:
    a, b = await cluster.node("a"), await cluster.node("b")
    diagram, kept = cluster.diagrams(2)
    fence = await a.rooms.claim(diagram)
    await a.rooms.claim(kept)
    lost: list[tuple[DiagramId, Fence]] = []
    a.rooms.on_lost = lambda room, at: lost.append((room, at))
    await b.rooms.claim(diagram, disowned=a.node.id)
    await cluster.redis.delete(f"tmi:node:{a.node.id}")  # as after a pause

    async def is_told() -> bool:
        return bool(lost)

    await eventually(is_told, 1.0)
    assert [(diagram, fence)] == lost
    assert [str(b.node.id), str(a.node.id)] == await cluster.leases([diagram, kept])


async def test_who_owns_the_fence_takes_its_lease_back(cluster: Cluster) -> None:
    a, b = await cluster.node("a"), await cluster.node("b")
    diagram = cluster.diagram()
    await a.rooms.claim(diagram)
    await cluster.redis.set(f"tmi:room:{diagram}", str(b.node.id))
    await cluster.redis.delete(f"tmi:node:{a.node.id}")

    async def is_ours() -> bool:
        return str(a.node.id) == await cluster.lease(diagram)

    await eventually(is_ours, 1.0)
    assert 1 == cluster.store.log(diagram).fence


async def test_a_free_lease_is_no_right_to_a_room_whose_row_names_a_living_node(cluster: Cluster) -> None:
    a, b = await cluster.node("a"), await cluster.node("b")

    async def is_known() -> bool:
        return [a.node] == list(b.rooms.peers())

    await eventually(is_known)
    diagram = cluster.diagram()
    await a.rooms.claim(diagram)
    await cluster.redis.delete(f"tmi:room:{diagram}")

    assert a.node.id == await outcome(b.rooms.claim(diagram))
    assert 2 == await b.rooms.claim(diagram, disowned=a.node.id)


async def test_a_redis_that_was_killed_is_filled_again(
    cluster: Cluster, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "tmi.embedded")
    a, b = await cluster.node("a"), await cluster.node("b")
    diagrams = cluster.diagrams(100)
    for diagram in diagrams:
        await a.rooms.claim(diagram)
    [server] = valkeys()
    os.kill(server, signal.SIGKILL)

    async def runs_again() -> bool:
        return said(caplog, "Valkey runs again") == 1

    async def are_back() -> bool:
        return {str(a.node.id)} == set(await cluster.leases(diagrams))

    async def knows_the_owner() -> bool:
        try:
            return a.node.id == await outcome(b.rooms.claim(diagrams[0]))
        except Unavailable:  # it has not noticed yet that Redis is back
            return False

    await eventually(runs_again)
    await eventually(are_back, 1.0)
    await eventually(knows_the_owner)
    assert {1} == {cluster.store.log(diagram).fence for diagram in diagrams}


@pytest.mark.parametrize("reset", [False, True])
async def test_connections_that_broke_while_nobody_used_them_are_replaced_without_a_word(
    cluster: Cluster, reset: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """uvloop raises RuntimeError to who writes to a connection that its other side has closed.

    A beat of its own accord could be under way at a cut, so the node has none; `withdraw` says the same.
    """
    async with proxied("redis", urlsplit(cluster.url).path) as (edge, port):
        cluster.url = f"redis://127.0.0.1:{port}/0"
        node = await cluster.node("a", RARE)
        me = str(node.node.id)
        for _ in range(10):
            diagrams = cluster.diagrams(5)
            await asyncio.gather(*(node.rooms.claim(diagram) for diagram in diagrams))
            assert [me] * 5 == await cluster.leases(diagrams)
            await cluster.redis.delete(f"tmi:node:{me}")
            edge.cut(reset=reset)
            await asyncio.sleep(0.05)
            await node.rooms.withdraw()
            assert await cluster.redis.exists(f"tmi:node:{me}")
            edge.cut(reset=reset)
            await asyncio.sleep(0.05)
        assert [] == [record.message for record in caplog.records if record.levelno >= logging.WARNING]


async def test_a_redis_that_does_not_answer_is_given_up_soon(cluster: Cluster) -> None:
    a = await cluster.node("a", RARE)
    diagram = cluster.diagram()
    [server] = valkeys()
    os.kill(server, signal.SIGSTOP)
    started = time.monotonic()
    try:
        assert 1 == await a.rooms.claim(diagram)  # by its row
        took_s = time.monotonic() - started
    finally:
        os.kill(server, signal.SIGCONT)

    assert took_s < 1.5
    assert 2 == await a.rooms.claim(diagram)
