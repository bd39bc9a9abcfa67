"""Ownership among several nodes by way of Redis (or Valkey): who is alive, and who has which room.

Redis advises and PostgreSQL decides. Whoever opens a room takes its lease here first and then raises the
fence in the update log; only the fence keeps a former owner from writing. So everything here may be lost or
wrong for a while, and costs no more than a detour.

What it holds true:

- **A node is alive while its key is there.** Every beat sets the key again, for `node_ttl_s`.
- **A lease is taken from nobody who is alive**, except a node that disowns the room (`claim`). Looking and
  taking is one script on one key, so of many that try at once one succeeds, on a Redis Cluster too.
- **The lease comes before the fence**, and goes back if the fence can't be raised.
- **One thing at a time per room** on this node: a release never deletes the lease of a claim after it.

What can go wrong:

- Redis is away: open rooms go on, since their fences stand, and nothing is claimed (Unavailable). Claiming by
  the fence's row alone, while Redis is away, is not there yet.
- Redis was emptied, or back after a while: the next beat does not find this node's key. It asserts the leases
  of all rooms again, and claims nothing for `node_ttl_s`, in which the other nodes do the same.
- A node is taken for dead, since it stood still or was cut off: its rooms may be claimed by others. It learns
  of that by its next append, and stands down. That its lease is lost is only noted here.
- A release is lost, with its node or on the way: the lease names a node that does not have the room. A dead
  one's key expires; one that is alive says so to whoever asks it, who then claims with `disowned`.

What may never happen is that two nodes write to one log. No lease could promise that, and none has to.
"""

import asyncio
import contextlib
import logging
import random
from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import cast
from uuid import UUID
from weakref import WeakValueDictionary

import orjson
from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError as ConnectionFailed
from redis.exceptions import RedisError

from tmi.domain.errors import OwnedElsewhere, Unavailable
from tmi.domain.ids import DiagramId, Fence, NodeId
from tmi.domain.model import Node
from tmi.domain.ports import UpdateLog

log = logging.getLogger(__name__)

ANSWER_S = 0.5
"""For an answer, the way to it included."""
CONNECTIONS = 8
ROOMS_AT_ONCE = CONNECTIONS - 2
"""Of however many are claimed and released: beats and renewals find a connection."""
TRIES = 4
LEASES_AT_ONCE = 500
"""In one pipeline; the loop serves others between two of them."""

AWAY = (RedisError, OSError)
AWAY_TEXT = "Redis, which knows who has which diagram, does not answer; try again shortly"

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


@contextlib.asynccontextmanager
async def connected(url: str) -> AsyncIterator[Redis]:
    """A client of the server at `url` (`redis:`, `rediss:`, `unix:`). It connects when it is used.

    A connection that broke is replaced once without a word. The bound on an answer is the caller's: the
    client's own, `socket_timeout`, swallows cancellation now and then on Python 3.11 (asyncio.wait_for).
    """
    pool = BlockingConnectionPool.from_url(
        url,
        max_connections=CONNECTIONS,
        timeout=ANSWER_S,
        socket_timeout=None,
        socket_connect_timeout=ANSWER_S,
        # uvloop raises RuntimeError to who writes to what the other side has closed. (The types know of
        # the client's own errors only.)
        retry=Retry(NoBackoff(), 1, (ConnectionFailed, RuntimeError)),  # type: ignore[arg-type]
    )
    client = Redis.from_pool(pool)
    try:
        yield client
    finally:
        await client.aclose()


async def living_nodes(redis: Redis) -> Sequence[Node]:
    """All nodes that are alive, for a tool that is none. Raises Unavailable."""
    with _translated():
        async with _in_time():
            ids = cast(Sequence[bytes], await redis.zrange(NODES, 0, -1))
        found = []
        for node in ids:
            async with _in_time():
                found.append(cast(bytes | None, await redis.get(_node_key(node))))
    return [_decoded(node) for node in found if node is not None]


class RedisCoordinator:
    """The coordinator of one of several nodes. Use it inside `running()`.

    A lease that another node has taken is only noted: the room learns of it by its next append.
    """

    def __init__(self, log: UpdateLog, redis: Redis, node: Node, limits: LeaseLimits | None = None) -> None:
        self._log = log
        self._redis = redis
        self._node = node
        self._me = str(node.id).encode()
        self._limits = limits or LeaseLimits()
        self._held: dict[DiagramId, Fence] = {}
        self._slots = asyncio.Semaphore(ROOMS_AT_ONCE)
        self._busy: WeakValueDictionary[DiagramId, asyncio.Lock] = WeakValueDictionary()
        self._peers: tuple[Node, ...] = ()
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
        return self._peers

    async def withdraw(self) -> None:
        """Say so with this beat and all others that follow."""
        self._node = replace(self._node, is_draining=True)
        with contextlib.suppress(*AWAY):
            await self._say_alive()

    # --- rooms ----------------------------------------------------------------------------------

    async def claim(self, diagram: DiagramId, disowned: NodeId | None = None) -> Fence:
        """Take the lease and raise the fence. Raises NotFound, OwnedElsewhere and Unavailable."""
        async with self._alone_with(diagram):
            await self._take(diagram, disowned)
            try:
                fence = await self._log.claim(diagram, str(self._node.id))
            except BaseException:
                if diagram not in self._held:
                    await self._give_back(diagram)
                raise
            self._held[diagram] = fence
            return fence

    async def release(self, diagram: DiagramId, fence: Fence) -> None:
        """Give the lease back, unless the room was claimed again since."""
        if self._held.get(diagram) == fence:
            del self._held[diagram]
            await self._give_back_unless_held(diagram)

    async def owner(self, diagram: DiagramId) -> Node | None:
        """Who holds the lease, if that is another node and alive. None, too, while Redis is away."""
        if self._is_away or diagram in self._held:
            return None
        try:
            holder = await self._get(_room_key(diagram))
            return None if holder is None or holder == self._me else await self._living(holder)
        except AWAY:
            return None

    async def _take(self, diagram: DiagramId, disowned: NodeId | None) -> None:
        """Raises OwnedElsewhere and Unavailable."""
        if self._is_away:
            raise Unavailable(AWAY_TEXT)
        await self._settled()
        rightless = b"" if disowned is None else str(disowned).encode()
        with _translated():
            for _ in range(TRIES):
                holder = await self._ask_for(diagram, rightless)
                if holder == self._me:
                    return
                owner = await self._living(holder)
                if owner is not None:
                    raise OwnedElsewhere(owner)
                rightless = holder
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

    # --- being alive ----------------------------------------------------------------------------

    async def _keep_beating(self) -> None:
        clock = asyncio.get_running_loop().time
        pause_s = self._limits.beat_s
        while True:
            await asyncio.sleep(pause_s)
            begun_at = clock()
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
                log.warning("Redis is away: open rooms go on, and none is claimed: %s", _why(error))
            self._is_away = True
        else:
            if self._is_away:
                log.info("Redis is back")
            self._is_away = False
        finally:
            self._has_beaten = True

    async def _say_alive(self) -> tuple[bool, Sequence[bytes]]:
        """Whether Redis still knew this node, and the ids of all that are alive."""
        ttl_ms = _ms(self._limits.node_ttl_s)
        async with _in_time(), self._redis.pipeline(transaction=False) as pipe:
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
        async with _in_time(), self._redis.pipeline(transaction=False) as pipe:
            for node in ids:
                pipe.get(_node_key(node))
            found = await pipe.execute()
        return tuple(_decoded(node) for node in found if node is not None)

    async def _leave(self) -> None:
        """Say that this node ends; without that, its key expires."""
        with contextlib.suppress(*AWAY):
            async with _in_time(), self._redis.pipeline(transaction=False) as pipe:
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
                await self._assert_leases()
            except AWAY:  # the beat tells
                await asyncio.sleep(self._limits.beat_s)
                self._assert_now.set()
            except Exception:
                log.exception("leases could not be renewed; they are tried again")

    async def _assert_leases(self) -> None:
        """Renew all leases, and take those again that are gone."""
        held = list(self._held.items())
        for begin in range(0, len(held), LEASES_AT_ONCE):
            some = held[begin : begin + LEASES_AT_ONCE]
            async with _in_time(), self._redis.pipeline(transaction=False) as pipe:
                for diagram, _ in some:
                    pipe.eval(TAKE, 1, _room_key(diagram), *self._lease, b"")
                holders = await pipe.execute()
            for (diagram, fence), holder in zip(some, holders, strict=True):
                if holder == self._me:
                    if diagram not in self._held:  # released while this was under way
                        await self._give_back_unless_held(diagram)
                elif self._held.get(diagram) == fence:
                    del self._held[diagram]
                    log.warning("room %s: node %s has its lease now", diagram, holder.decode())


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
    return str(error) or f"no answer within {ANSWER_S:g} s"


@contextlib.contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except AWAY as error:
        raise Unavailable(AWAY_TEXT) from error
