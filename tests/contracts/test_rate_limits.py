"""What every count of requests keeps, in memory and by Redis; and what the others do not need to."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from persistence import redis as shared
from persistence.memory import rate_limits
from persistence.memory.rate_limits import MemoryRateLimits
from tmi.domain.errors import Unavailable
from tmi.domain.ports import RateLimits
from tmi.wiring.redis import shared_client

WINDOW_S = 10_000
NOBODY = "redis://127.0.0.1:9/0"


@pytest.fixture(params=["memory", "redis", "redis-away"])
async def limits(request: pytest.FixtureRequest, valkey_url: str) -> AsyncIterator[RateLimits]:
    if request.param == "memory":
        yield MemoryRateLimits()
        return
    async with shared_client(valkey_url if request.param == "redis" else NOBODY) as redis:
        yield shared.RedisRateLimits(redis)


async def test_each_key_has_its_own_count(limits: RateLimits) -> None:
    assert [1, 2, 3] == [await limits.hit("a", WINDOW_S) for _ in range(3)]
    assert 1 == await limits.hit("b", WINDOW_S)


async def test_a_new_window_begins_at_nothing(limits: RateLimits) -> None:
    counts = []
    for _ in range(12):
        counts.append(await limits.hit("a", 1))
        await asyncio.sleep(0.1)
    assert 2 <= counts.count(1) <= 3


async def test_hits_at_once_are_all_counted(limits: RateLimits) -> None:
    counts = await asyncio.gather(*(limits.hit("a", WINDOW_S) for _ in range(200)))
    assert set(range(1, 201)) == set(counts)


async def test_in_memory_those_who_asked_longest_ago_are_forgotten_past_a_bound(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(rate_limits, "KEYS_MAX", 2)
    limits = MemoryRateLimits()
    assert [1, 1, 2, 1, 3, 1] == [await limits.hit(key, WINDOW_S) for key in "abacab"]


@asynccontextmanager
async def two(url: str) -> AsyncIterator[tuple[shared.RedisTallies, shared.RedisTallies]]:
    async with shared_client(url) as a, shared_client(url) as b:
        yield shared.RedisTallies(a), shared.RedisTallies(b)


async def test_two_nodes_count_together(valkey_url: str) -> None:
    async with shared_client(valkey_url) as a, shared_client(valkey_url) as b:
        one, other = shared.RedisRateLimits(a), shared.RedisRateLimits(b)
        assert [1, 2, 3] == [await node.hit("x", WINDOW_S) for node in (one, other, one)]


async def test_a_node_hears_what_the_others_told_and_forgets_those_that_died(
    valkey_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shared, "TALLY_TTL_S", 1)
    async with two(valkey_url) as (a, b):
        assert {} == await a.exchange({"user:x": 2, "user:y": 1})
        assert {"user:x": 2, "user:y": 1} == await b.exchange({"user:x": 5})
        assert {"user:x": 5} == await a.exchange({})
        await asyncio.sleep(1.1)
        assert {} == await a.exchange({})


async def test_nothing_is_exchanged_while_redis_is_away() -> None:
    async with two(NOBODY) as (a, _):
        with pytest.raises(Unavailable):
            await a.exchange({})
