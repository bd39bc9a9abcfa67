"""Ownership among several nodes by way of Redis (or Valkey): who is alive, and who has which room.

Redis advises and PostgreSQL decides. Whoever opens a room takes its lease here first and then raises the
fence in the update log; only the fence keeps a former owner from writing. So everything here may be lost or
wrong for a while, and costs no more than a detour.

What it holds true:

- **A node is alive while its key is there.** Every beat sets the key again, for `node_ttl_s`.
- **A lease is taken from nobody who is alive**, except a node that disowns the room, or that most others
  miss (`claim`). Looking and taking is one script on one key, so of many that try at once one succeeds. No
  script or command has two keys, so that a Redis Cluster takes them all.
- **The lease comes before the fence**, and goes back if the fence can't be raised.
- **One thing at a time per room** on this node: a release never deletes the lease of a claim after it.

What can go wrong:

- Redis is away: open rooms go on, since their fences stand. Who owns another room is read from the row of its
  fence, which owners renew three times in `lease_s`. A room is claimed there if nobody owns it, or if its
  owner does not answer *and* was not seen for two lease times. Of many that try, the one that raises the
  fence it has read succeeds; the others find its name there after a moment.
- Only some nodes reach Redis: who takes a free lease finds the name of a living node in the row, and leaves
  the room to it.
- Redis was emptied, or back after a while: the next beat does not find this node's key. It asserts the leases
  of all rooms again, and claims nothing for `node_ttl_s`, in which the other nodes do the same.
- A node is taken for dead, since it stood still or was cut off: its rooms may be claimed by others. Its next
  beat finds that out, or that it comes late; then the fences of all its rooms are looked at in one statement,
  and it stands down where they have risen. Where they stand, it takes its leases back from whoever has them.
- A release is lost, with its node or on the way: the lease names a node that does not have the room. A dead
  one's key expires; one that is alive says so to whoever asks it, who then claims with `disowned`.

What may never happen is that two nodes write to one log. No lease could promise that, and none has to.
"""

import asyncio
import contextlib
import logging
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import cast
from uuid import UUID
from weakref import WeakValueDictionary

import orjson
from redis.asyncio import Redis
from redis.asyncio.client import Pipeline
from redis.exceptions import ConnectionError as ConnectionFailed
from redis.exceptions import MovedError, RedisClusterException, RedisError

from rooms.nodes.addresses import are_siblings
from tmi.domain.errors import Conflict, NotFound, OwnedElsewhere, Unavailable
from tmi.domain.ids import DiagramId, Fence, NodeId
from tmi.domain.model import Node
from tmi.domain.ports import Ownership, Tenure

log = logging.getLogger(__name__)

ANSWER_S = 0.5
"""For an answer, the way to it included."""
CONNECTIONS = 8
ROOMS_AT_ONCE = CONNECTIONS - 2
"""Of however many are claimed and released: beats and renewals find a connection."""
TRIES = 4
LEASES_AT_ONCE = 500
"""In one pipeline; the loop serves others between two of them."""

AWAY = (RedisError, RedisClusterException, OSError)
NOT_SEEN_LEASES = 2
"""While Redis is away, an owner that does not answer counts as dead when it was not seen for so many times
`lease_s`."""
AFTER_RACE_S = 0.02, 0.2
"""The pause after another node was quicker, at random."""

NODES = "tmi:nodes"
"""A sorted set: the ids of nodes by when they expire, in milliseconds of the server's clock."""

TAKE = """
local holder = redis.call('GET', KEYS[1])
if holder and holder ~= ARGV[1] and holder ~= ARGV[3] then return holder end
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
return ARGV[1]
"""
"""Take a lease that is free, our own, or that of ARGV[3]. Returns the holder. To be repeated safely."""

GIVE_BACK = "if redis.call('GET', KEYS[1]) == ARGV[1] then redis.call('DEL', KEYS[1]) end"

COUNT_IN = """
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
redis.call('ZADD', KEYS[1], now + ARGV[2], ARGV[1])
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', now)
redis.call('PEXPIRE', KEYS[1], ARGV[2])
return redis.call('ZRANGE', KEYS[1], 0, -1)
"""
"""Note that a node lives on. Returns the ids of all that do."""


@dataclass(frozen=True, slots=True)
class LeaseLimits:
    """Times in seconds."""

    beat_s: float = 0.4
    node_ttl_s: float = 1.5
    """So long after its last beat a node counts as dead."""
    lease_s: float = 30.0
    """Leases are renewed every third of it."""


async def living_nodes(redis: Redis) -> Sequence[Node]:
    """All nodes that are alive, for a tool that is none. Raises Unavailable."""
    try:
        async with _in_time():
            ids = cast(Sequence[bytes], await redis.zrange(NODES, 0, -1))
        found = []
        for node in ids:
            async with _in_time():
                found.append(cast(bytes | None, await redis.get(_node_key(node))))
    except AWAY as error:
        raise Unavailable("Redis, which knows the nodes, does not answer; try again shortly") from error
    return [_decoded(node) for node in found if node is not None]


class RedisCoordinator:
    """The coordinator of one of several nodes. Use it inside `running()`.

    `answers`: whether a node can be reached; asked while Redis is away. `on_lost` is told of rooms whose
    fence has risen, with the fence that they had.
    """

    def __init__(
        self, ownership: Ownership, redis: Redis, node: Node, limits: LeaseLimits | None = None
    ) -> None:
        self.answers: Callable[[Node], Awaitable[bool]] | None = None
        self.on_lost: Callable[[DiagramId, Fence], None] = lambda _diagram, _fence: None
        self._ownership = ownership
        self._redis = redis
        self._node = node
        self._me = str(node.id).encode()
        self._limits = limits or LeaseLimits()
        self._held: dict[DiagramId, Fence] = {}
        self._slots = asyncio.Semaphore(ROOMS_AT_ONCE)
        self._busy: WeakValueDictionary[DiagramId, asyncio.Lock] = WeakValueDictionary()
        self._peers: tuple[Node, ...] = ()
        self._siblings_end = False
        self._has_beaten = False
        self._is_away = False
        self._settled_at = 0.0
        self._assert_now = asyncio.Event()

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator["RedisCoordinator"]:
        """Be alive for the other nodes, and hold on to leases."""
        await self._beat()
        tasks = [
            asyncio.create_task(self._keep_beating(), name="node-beat"),
            asyncio.create_task(self._keep_leases(), name="room-leases"),
        ]
        try:
            yield self
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await self._leave()

    def peers(self) -> Sequence[Node]:
        """The other nodes that are alive; those last heard of while Redis is away."""
        if self._siblings_end:
            return [self._as_ending(peer) for peer in self._peers]
        return self._peers

    def end_with_siblings(self) -> None:
        """From now on, the other workers of this node's parent count as draining."""
        self._siblings_end = True

    def _as_ending(self, peer: Node) -> Node:
        is_sibling = are_siblings(self._node.url, peer.url)
        return replace(peer, is_draining=True) if is_sibling else peer

    async def withdraw(self) -> None:
        """Say so with this beat and all others that follow."""
        self._node = replace(self._node, is_draining=True)
        with contextlib.suppress(*AWAY):
            await self._say_alive()

    # --- rooms ----------------------------------------------------------------------------------

    async def claim(self, diagram: DiagramId, disowned: NodeId | None = None) -> Fence:
        """Take the lease and raise the fence. Raises NotFound, OwnedElsewhere and Unavailable."""
        async with self._alone_with(diagram):
            try:
                dead = await self._take(diagram, disowned)
            except AWAY:
                fence = await self._claim_by_row(diagram, disowned)
            else:
                fence = await self._raise(diagram, dead)
            self._held[diagram] = fence
            return fence

    async def _raise(self, diagram: DiagramId, dead: frozenset[NodeId]) -> Fence:
        """Raise the fence of a room whose lease is ours."""
        spared = {peer.id for peer in self._peers} - dead
        try:
            return await self._ownership.claim(diagram, self._node, spared)
        except BaseException as error:
            if diagram not in self._held:
                await self._give_back(diagram)
            if isinstance(error, Conflict):  # the row has changed meanwhile
                raise Unavailable(str(error)) from error
            raise

    async def release(self, diagram: DiagramId, fence: Fence) -> None:
        """Give row and lease back, unless the room was claimed again since."""
        if self._held.get(diagram) != fence:
            return
        del self._held[diagram]
        async with self._alone_with(diagram):
            if diagram in self._held:
                return
            try:
                await self._ownership.release(diagram, self._node.id, fence)
            except Unavailable as error:
                log.info("room %s: its row still names this node: %s", diagram, error)
            await self._give_back(diagram)

    async def owner(self, diagram: DiagramId) -> Node | None:
        """Who owns the room, if that is another node and alive. None, too, where nobody can tell."""
        if diagram in self._held:
            return None
        try:
            if not self._is_away:
                holder = await self._get(_room_key(diagram))
                return None if holder is None or holder == self._me else await self._living(holder)
        except AWAY:
            pass
        try:
            return await self._living_by_row(await self._ownership.find(diagram))
        except (Unavailable, NotFound):
            return None

    # --- by the row, while Redis is away --------------------------------------------------------

    async def _claim_by_row(self, diagram: DiagramId, disowned: NodeId | None) -> Fence:
        """Raises NotFound, OwnedElsewhere and Unavailable."""
        for _ in range(TRIES):
            tenure = await self._ownership.find(diagram)
            if tenure.owner is None or tenure.owner.id != disowned:
                owner = await self._living_by_row(tenure)
                if owner is not None:
                    raise OwnedElsewhere(owner)
            try:
                return await self._ownership.claim(diagram, self._node, after=tenure.fence)
            except Conflict:
                await asyncio.sleep(random.uniform(*AFTER_RACE_S))  # noqa: S311  (only spreads the nodes)
        raise Unavailable("several nodes want the diagram's room; try again shortly")

    async def _living_by_row(self, tenure: Tenure) -> Node | None:
        """The other node that owns the room and may be alive. Raises Unavailable if it is not known where."""
        owner = tenure.owner
        if tenure.is_free or (owner is not None and owner.id == self._node.id):
            return None
        if tenure.unseen_s < NOT_SEEN_LEASES * self._limits.lease_s:
            if owner is None:
                raise Unavailable("a node that cannot be asked may own the diagram's room; try again shortly")
            return owner
        return owner if owner is not None and await self._does_answer(owner) else None

    async def _does_answer(self, owner: Node) -> bool:
        return self.answers is None or await self.answers(owner)

    # --- by the lease ---------------------------------------------------------------------------

    async def _take(self, diagram: DiagramId, disowned: NodeId | None) -> frozenset[NodeId]:
        """Take the lease; returns the nodes that have no right to the room. Raises OwnedElsewhere,
        Unavailable, and one of AWAY.
        """
        if self._is_away:
            raise ConnectionFailed("Redis was away a moment ago")
        await self._settled()
        rightless = b"" if disowned is None else str(disowned).encode()
        dead = set() if disowned is None else {disowned}
        for _ in range(TRIES):
            holder = await self._ask_for(diagram, rightless)
            if holder == self._me:
                return frozenset(dead)
            owner = await self._living(holder)
            if owner is not None:
                raise OwnedElsewhere(owner)
            rightless = holder
            dead.add(NodeId(UUID(holder.decode())))
        raise Unavailable("several nodes want the diagram's room; try again shortly")

    async def _settled(self) -> None:
        """Wait until the other nodes have had the time to assert their leases on an emptied Redis."""
        wait_s = self._settled_at - asyncio.get_running_loop().time()
        if wait_s > 0:
            await asyncio.sleep(wait_s)

    async def _ask_for(self, diagram: DiagramId, rightless: bytes) -> bytes:
        """Take the lease if it is free, ours or the rightless node's; returns who has it now."""
        async with self._slots, _in_time():
            holder: bytes = await self._redis.eval(TAKE, 1, _room_key(diagram), *self._lease, rightless)
        return holder

    @property
    def _lease(self) -> tuple[bytes, int]:
        return self._me, _ms(self._limits.lease_s)

    async def _living(self, holder: bytes) -> Node | None:
        node = await self._get(_node_key(holder))
        return None if node is None else _decoded(node)

    async def _get(self, key: str) -> bytes | None:
        async with self._slots, _in_time():
            found = await self._redis.get(key)
        assert not isinstance(found, str)  # the client decodes nothing
        return found

    async def _give_back_unless_held(self, diagram: DiagramId) -> None:
        async with self._alone_with(diagram):
            if diagram not in self._held:
                await self._give_back(diagram)

    async def _give_back(self, diagram: DiagramId) -> None:
        """Delete the lease if it is ours. Never raises."""
        try:
            async with self._slots, _in_time():
                if not self._is_away:
                    await self._redis.eval(GIVE_BACK, 1, _room_key(diagram), self._me)
        except AWAY as error:
            log.info("room %s: its lease could not be given back, and expires: %s", diagram, _why(error))

    @contextlib.asynccontextmanager
    async def _alone_with(self, diagram: DiagramId) -> AsyncIterator[None]:
        lock = self._busy.setdefault(diagram, asyncio.Lock())
        async with lock:
            yield

    @contextlib.asynccontextmanager
    async def _pipeline(self) -> AsyncIterator[Pipeline]:
        """For commands that go out together, to the server of each one's key."""
        try:
            async with _in_time(), self._redis.pipeline(transaction=False) as pipe:
                yield pipe
        except RuntimeError as error:  # uvloop's: see tmi/wiring/redis.py
            raise ConnectionFailed(str(error)) from error

    # --- being alive ----------------------------------------------------------------------------

    async def _keep_beating(self) -> None:
        clock = asyncio.get_running_loop().time
        pause_s, begun_at = self._limits.beat_s, clock()
        while True:
            await asyncio.sleep(pause_s)
            late_s = clock() - begun_at
            begun_at = clock()
            if late_s > self._limits.node_ttl_s:  # paused: others may have taken us for dead
                self._assert_now.set()
            try:
                await self._beat()
            except Exception:
                log.exception("a beat failed; the next one follows")
            every_s = self._limits.beat_s * random.uniform(0.9, 1.0)  # noqa: S311  (only spreads the nodes)
            pause_s = max(0.0, begun_at + every_s - clock())

    async def _beat(self) -> None:
        """Say that we are alive, and hear who else is."""
        try:
            was_known, ids = await self._say_alive()
            if self._has_beaten and not was_known:
                self._settle()
            self._peers = await self._nodes(sorted(set(ids) - {self._me}))
        except AWAY as error:
            if not self._is_away:
                log.warning("Redis is away: rooms go on, and are found by their fences: %s", _why(error))
            self._is_away = True
        else:
            if self._is_away:
                log.info("Redis is back")
                self._assert_now.set()
            self._is_away = False
        finally:
            self._has_beaten = True

    async def _say_alive(self) -> tuple[bool, Sequence[bytes]]:
        """Whether Redis still knew this node, and the ids of all that are alive."""
        ttl_ms = _ms(self._limits.node_ttl_s)
        async with self._pipeline() as pipe:
            pipe.set(_node_key(self._me), orjson.dumps(self._node), px=ttl_ms, get=True)
            pipe.eval(COUNT_IN, 1, NODES, self._me, ttl_ms)
            before, ids = await pipe.execute()
        return before is not None, ids

    def _settle(self) -> None:
        """Redis has forgotten this node, so perhaps the leases too."""
        log.warning("Redis did not know this node any more: asserting %d leases again", len(self._held))
        self._settled_at = asyncio.get_running_loop().time() + self._limits.node_ttl_s
        self._assert_now.set()

    async def _nodes(self, ids: Iterable[bytes]) -> tuple[Node, ...]:
        """Those of the nodes that are alive."""
        async with self._pipeline() as pipe:
            for node in ids:
                pipe.get(_node_key(node))
            found = await pipe.execute()
        return tuple(_decoded(node) for node in found if node is not None)

    async def _leave(self) -> None:
        """Say that this node ends; without that, its key expires."""
        with contextlib.suppress(*AWAY):
            async with self._pipeline() as pipe:
                pipe.delete(_node_key(self._me))
                pipe.zrem(NODES, self._me)
                await pipe.execute()

    # --- holding on to leases -------------------------------------------------------------------

    async def _keep_leases(self) -> None:
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._limits.lease_s / 3):
                    await self._assert_now.wait()
            self._assert_now.clear()
            try:
                await self._renew_rows()
            except Unavailable as error:
                log.debug("the rows of rooms could not be renewed: %s", error)
                self._assert_now.set()
            except Exception:
                log.exception("the rows of rooms could not be renewed; they are tried again")
            try:
                await self._assert_leases()
            except (*AWAY, Unavailable) as error:
                log.debug("leases could not be renewed: %s", _why(error))
                if not self._is_away:  # else the next beat that succeeds asks for it
                    self._assert_now.set()
            except Exception:
                log.exception("leases could not be renewed; they are tried again")
            await asyncio.sleep(self._limits.beat_s)

    async def _renew_rows(self) -> None:
        """Say in the database that this node lives, and give up the rooms whose fence has risen."""
        held = list(self._held.items())
        for begin in range(0, len(held), LEASES_AT_ONCE):
            await self._checked(dict(held[begin : begin + LEASES_AT_ONCE]))

    async def _checked(self, some: dict[DiagramId, Fence]) -> frozenset[DiagramId]:
        """Which of these rooms are still ours. The others are told."""
        standing = await self._ownership.renew(some)
        for diagram, fence in some.items():
            if diagram not in standing and self._held.get(diagram) == fence:
                del self._held[diagram]
                log.warning("room %s: another node has claimed it", diagram)
                self.on_lost(diagram, fence)
        return standing

    async def _assert_leases(self) -> None:
        """Renew all leases, and take those again that are gone."""
        held = list(self._held.items())
        for begin in range(0, len(held), LEASES_AT_ONCE):
            some = held[begin : begin + LEASES_AT_ONCE]
            async with self._pipeline() as pipe:
                for diagram, _ in some:
                    pipe.eval(TAKE, 1, _room_key(diagram), *self._lease, b"")
                holders = await pipe.execute()
            others: dict[DiagramId, bytes] = {}
            for (diagram, fence), holder in zip(some, holders, strict=True):
                if holder == self._me:
                    if diagram not in self._held:  # released while this was under way
                        await self._give_back_unless_held(diagram)
                elif self._held.get(diagram) == fence:
                    others[diagram] = holder
            if others:
                await self._dispute(others)

    async def _dispute(self, others: dict[DiagramId, bytes]) -> None:
        """Other nodes have these leases: take back those of rooms whose fence is still ours."""
        standing = await self._checked({d: self._held[d] for d in others if d in self._held})
        for diagram in standing:
            async with self._alone_with(diagram):
                if diagram in self._held:
                    log.warning("room %s: node %s had its lease", diagram, others[diagram].decode())
                    await self._ask_for(diagram, others[diagram])


def _room_key(diagram: DiagramId) -> str:
    return f"tmi:room:{diagram}"


def _node_key(node: bytes) -> str:
    return f"tmi:node:{node.decode()}"


def _ms(seconds: float) -> int:
    return round(seconds * 1000)


def _decoded(node: bytes) -> Node:
    found = orjson.loads(node)
    return Node(NodeId(UUID(found["id"])), found["name"], found["url"], found.get("is_draining", False))


def _in_time() -> asyncio.Timeout:
    return asyncio.timeout(ANSWER_S)


def _why(error: Exception) -> str:
    if isinstance(error, MovedError):
        return "it is one server of a cluster: set TMI_REDIS_CLUSTER"
    return str(error) or f"no answer within {ANSWER_S:g} s"
