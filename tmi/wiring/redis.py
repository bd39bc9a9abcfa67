"""The way to Redis (or Valkey), for leases and for what nodes share besides."""

import contextlib
from collections.abc import AsyncIterator
from typing import Any, cast

from redis.asyncio import BlockingConnectionPool, Redis, RedisCluster
from redis.asyncio.cluster import ClusterNode
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError as ConnectionFailed

from persistence import redis as shared
from rooms.coordination import redis as leases
from tmi.domain.hosts import split_hosts

DEFAULT_PORT = 6379


@contextlib.asynccontextmanager
async def connected(
    url: str,
    *,
    is_cluster: bool = False,
    connections: int = leases.CONNECTIONS,
    answer_s: float = leases.ANSWER_S,
) -> AsyncIterator[Redis]:
    """A client of the server at `url` (`redis:`, `rediss:`, `unix:`), or of the Redis Cluster that it, or one
    of several (`redis://a:6379,b:6379`), belongs to. It connects when it is used, up to so many times, and
    waits so long for that.

    A connection that broke is replaced once without a word. The bound on an answer is the caller's: the
    client's own, `socket_timeout`, swallows cancellation now and then on Python 3.11 (asyncio.wait_for).
    """
    client = _cluster(url, connections, answer_s) if is_cluster else _server(url, connections, answer_s)
    try:
        # The commands in use are the same; each has one key, by which its server in a cluster is found.
        yield cast(Redis, client)
    finally:
        await client.aclose()


def shared_client(url: str, *, is_cluster: bool = False) -> contextlib.AbstractAsyncContextManager[Redis]:
    """The same for counts, which are worth less waiting."""
    return connected(
        url, is_cluster=is_cluster, connections=shared.CONNECTIONS, answer_s=shared.ANSWER_S
    )


def _server(url: str, connections: int, answer_s: float) -> Redis:
    pool = BlockingConnectionPool.from_url(
        url,
        max_connections=connections,
        timeout=answer_s,
        socket_timeout=None,
        socket_connect_timeout=answer_s,
        # uvloop raises RuntimeError to who writes to what the other side has closed. (The types know of
        # the client's own errors only.)
        retry=Retry(NoBackoff(), 1, (ConnectionFailed, RuntimeError)),  # type: ignore[arg-type]
    )
    return Redis.from_pool(pool)


class _Cluster(RedisCluster):
    # uvloop raises RuntimeError to who writes to what the other side has closed.
    ERRORS_ALLOW_RETRY = (*RedisCluster.ERRORS_ALLOW_RETRY, RuntimeError)  # type: ignore[assignment]

    async def execute_command(self, *args: Any, **kwargs: Any) -> Any:
        """As of `RedisCluster`, which (8.1) asks anybody before it knows who has which slot."""
        await self.initialize()
        return await super().execute_command(*args, **kwargs)


def _cluster(url: str, connections: int, answer_s: float) -> RedisCluster:
    first, others = split_hosts(url)
    return _Cluster.from_url(
        first,
        startup_nodes=[ClusterNode(host, port or DEFAULT_PORT) for host, port in others],
        reinitialize_steps=0,  # a slot that has moved is noted; it is no reason to close all connections
        require_full_coverage=False,  # the servers decide what goes on while some of them are away
        max_connections=connections,
        socket_timeout=None,
        socket_connect_timeout=answer_s,
        retry=Retry(NoBackoff(), 1),
    )
