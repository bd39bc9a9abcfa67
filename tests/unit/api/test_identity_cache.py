"""What is asked of a provider once an hour."""

import asyncio

import pytest

from api.identity.openid import FRESH_S, RETRY_S, STALE_S, Cached
from api.identity.web import Unreachable


class Source:
    """Gives numbers, or fails."""

    def __init__(self) -> None:
        self.now = 1_000_000.0
        self.asked = 0
        self.fails = False
        self.cached = Cached(self.ask, lambda: self.now)

    async def ask(self) -> int:
        self.asked += 1
        await asyncio.sleep(0)
        if self.fails:
            raise Unreachable("it is away")
        return self.asked

    async def value(self) -> int:
        return (await self.cached.get())[0]


async def test_many_who_want_it_at_once_ask_once() -> None:
    source = Source()
    assert [1] * 20 == await asyncio.gather(*(source.value() for _ in range(20)))


async def test_it_is_asked_for_again_after_an_hour_and_not_before() -> None:
    source = Source()
    assert 1 == await source.value()
    source.now += FRESH_S - 1
    assert 1 == await source.value()
    source.now += 1
    assert 2 == await source.value()


async def test_while_it_fails_the_old_one_is_good_for_a_day() -> None:
    source = Source()
    await source.value()
    source.fails = True
    source.now += FRESH_S
    assert 1 == await source.value()
    source.now += STALE_S
    with pytest.raises(Unreachable, match="away"):
        await source.value()


async def test_after_a_failure_it_is_left_alone_for_a_moment() -> None:
    source = Source()
    source.fails = True
    for _ in range(5):
        with pytest.raises(Unreachable, match="away"):
            await source.value()
    assert 1 == source.asked
    source.fails, source.now = False, source.now + RETRY_S
    assert 2 == await source.value()


async def test_one_that_is_too_old_for_somebody_is_asked_for_anew() -> None:
    source = Source()
    _, asked_at = await source.cached.get()
    source.now += 1
    assert 2 == (await source.cached.get(newer_than=asked_at))[0]
    assert 2 == (await source.cached.get(newer_than=asked_at))[0]
