"""What nodes share by way of Redis (or Valkey) besides leases: counts of requests, and of what is open.

Limits are about load, so nothing here is worth waiting or failing for. While Redis is away requests are
counted by each node alone, and nodes know nothing of what is open elsewhere; what a node that died had
counted is forgotten with its key.
"""

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Mapping
from uuid import uuid4

import orjson
from limits.aio.storage import RedisClusterStorage, RedisStorage
from redis.asyncio import Redis, RedisCluster
from redis.exceptions import RedisClusterException, RedisError

from persistence.memory.rate_limits import MemoryRateLimits
from tmi.domain.errors import Unavailable

log = logging.getLogger(__name__)

ANSWER_S = 0.25
"""For an answer: a request waits for it."""
AWAY_S = 1.0
"""So long Redis is not asked again when it did not answer."""
CONNECTIONS = 16
TALLY_TTL_S = 3
TALLIES = "tmi:tallies"
"""A set: the names by which nodes tell."""
AWAY = (RedisError, RedisClusterException, OSError)
PREFIX = "tmi:rate"


class _ClusterStorage(RedisClusterStorage):
    """Counts by way of a client that is there already."""

    def __init__(self, client: RedisCluster) -> None:
        self._client = client
        super().__init__("async+redis+cluster://any:6379", implementation="redispy", key_prefix=PREFIX)

    def configure_bridge(self) -> None:
        """As of `RedisClusterStorage`, which makes a client."""
        self.bridge.connection_getter = lambda _: self._client  # type: ignore[attr-defined]


def _storage(redis: Redis) -> RedisStorage:
    client: object = redis  # see tmi/wiring/redis.py
    if isinstance(client, RedisCluster):
        return _ClusterStorage(client)
    return RedisStorage(
        "async+redis://",
        implementation="redispy",
        key_prefix=PREFIX,
        connection_pool=redis.connection_pool,  # type: ignore[arg-type]  # it is passed on to redis-py
    )


class RedisRateLimits:
    """Counts of all nodes together, in windows of the nodes' clocks; of this node while Redis is away."""

    def __init__(self, redis: Redis) -> None:
        self._storage = _storage(redis)
        self._slots = asyncio.Semaphore(CONNECTIONS - 1)  # one is left for the tallies
        self._alone = MemoryRateLimits()
        self._ask_again_at = 0.0

    async def hit(self, key: str, window_s: int) -> int:
        """See the port."""
        alone = await self._alone.hit(key, window_s)
        if time.monotonic() < self._ask_again_at:
            return alone
        try:
            async with asyncio.timeout(ANSWER_S), self._slots:
                count = await self._storage.incr(f"{key}:{int(time.time()) // window_s}", window_s)
        except AWAY as error:
            if self._ask_again_at == 0:
                log.warning("Redis is away: each node limits requests alone: %s", str(error) or "no answer")
            self._ask_again_at = time.monotonic() + AWAY_S
            return alone
        self._ask_again_at = 0.0
        return count


class RedisTallies:
    """What is open on each node, in a key of its own that ends soon after its node."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis
        self._me = uuid4().hex.encode()

    async def exchange(self, counts: Mapping[str, int]) -> Mapping[str, int]:
        """See the port."""
        try:
            async with asyncio.timeout(ANSWER_S):
                return await self._exchange(counts)
        except (*AWAY, RuntimeError) as error:  # uvloop's: see tmi/wiring/redis.py
            raise Unavailable("Redis does not answer") from error

    async def _exchange(self, counts: Mapping[str, int]) -> Mapping[str, int]:
        """Each command has one key, so that Redis Cluster takes it."""
        async with self._redis.pipeline(transaction=False) as pipe:
            pipe.set(_tally_key(self._me), orjson.dumps(dict(counts)), ex=TALLY_TTL_S)
            pipe.sadd(TALLIES, self._me)
            pipe.smembers(TALLIES)
            others = sorted((await pipe.execute())[2] - {self._me})
            for other in others:
                pipe.get(_tally_key(other))
            found = await pipe.execute()
            total: Counter[str] = Counter()
            for other, told in zip(others, found, strict=True):
                if told is None:
                    pipe.srem(TALLIES, other)  # one that lives adds itself again
                else:
                    total.update(orjson.loads(told))
            await pipe.execute()
        return total


def _tally_key(node: bytes) -> str:
    return f"{TALLIES}:{node.decode()}"
