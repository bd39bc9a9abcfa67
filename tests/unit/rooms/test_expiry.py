"""Sockets do not outlive the sign-in behind them."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from datetime import UTC, datetime, timedelta
from uuid import uuid4

import pytest

from persistence.memory.sign_ins import MemorySignInTerms
from persistence.memory.store import MemoryStore, Session
from rooms.expiry import Expiry
from tmi.domain.ids import SignInId, UserId

LOOK_S = 0.01


class World:
    """A watch over sessions in memory."""

    def __init__(self) -> None:
        self.store = MemoryStore()
        self.here: set[SignInId] = set()
        self.over: list[SignInId] = []
        self.asked = 0
        self.expiry = Expiry(self, lambda: self.here, self.over.append, LOOK_S)

    async def ends(self, sign_ins: Sequence[SignInId]) -> dict[SignInId, datetime]:
        self.asked += 1
        return dict(await MemorySignInTerms(self.store).ends(sign_ins))

    def session(self, lives_s: float) -> SignInId:
        key = SignInId(uuid4())
        self.store.sign_ins[key] = Session(UserId(uuid4()), datetime.now(UTC) + timedelta(seconds=lives_s))
        self.here.add(key)
        self.expiry.watch(key)
        return key


@pytest.fixture
async def world() -> AsyncIterator[World]:
    made = World()
    async with made.expiry.running():
        yield made


async def test_a_session_whose_time_is_over_is_and_no_other(world: World) -> None:
    short, _ = world.session(0.1), world.session(3600)
    await asyncio.sleep(0.05)
    assert [] == world.over
    await asyncio.sleep(0.15)
    assert [short] == world.over


async def test_a_session_that_was_prolonged_goes_on(world: World) -> None:
    key = world.session(0.1)
    await asyncio.sleep(0.05)
    world.store.sign_ins[key].expires_at += timedelta(seconds=0.2)
    await asyncio.sleep(0.15)
    assert [] == world.over
    await asyncio.sleep(0.2)
    assert [key] == world.over


async def test_a_session_that_stands_is_asked_for_once_however_many_sockets_it_has(world: World) -> None:
    key = world.session(3600)
    for _ in range(10):
        world.expiry.watch(key)
        await asyncio.sleep(LOOK_S)
    assert 1 == world.asked


async def test_a_session_that_nobody_here_has_any_more_is_forgotten(world: World) -> None:
    key = world.session(0.05)
    await asyncio.sleep(0.03)
    world.here.clear()
    await asyncio.sleep(0.1)
    assert ([], 1) == (world.over, world.asked)
    world.here.add(key)
    world.expiry.watch(key)
    await asyncio.sleep(0.05)
    assert [key] == world.over


async def test_while_the_database_is_away_nobody_is_closed(world: World) -> None:
    world.store.unavailable = True
    key = world.session(0.02)
    await asyncio.sleep(0.1)
    assert [] == world.over
    world.store.unavailable = False
    await asyncio.sleep(0.05)
    assert [key] == world.over
