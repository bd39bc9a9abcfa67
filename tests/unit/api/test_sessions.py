"""What a node remembers of sign-in sessions."""

import asyncio
import math
import time
from collections.abc import Sequence
from datetime import timedelta
from uuid import uuid4

import pytest

from api.sessions import KEPT_S, TRUSTED_S, SessionCache
from persistence.memory.sign_ins import MemorySignIns
from persistence.memory.store import MemoryStore
from persistence.memory.users import MemoryUsers
from tmi.domain.errors import DatabaseUnavailable
from tmi.domain.ids import SignInId, UserId
from tmi.domain.model import SignIn
from tmi.domain.ports import Happened, Page, Signal
from tmi.domain.sign_ins import Begun, StandingSignIn

HOUR = timedelta(hours=1)


class SlowSignIns:
    """Sign-ins in memory, whose lookups take as long as the test wants: they read before they wait."""

    def __init__(self, store: MemoryStore) -> None:
        self._real = MemorySignIns(store)
        self.gate: asyncio.Event | None = None

    async def get(self, sign_in: SignInId) -> SignIn | None:
        found = await self._real.get(sign_in)
        if self.gate is not None:
            await self.gate.wait()
        return found

    async def start(
        self, user: UserId, refresh_token: str | None, ttl: timedelta, begun: Begun | None = None
    ) -> SignIn:
        return await self._real.start(user, refresh_token, ttl, begun)

    async def of_user(self, user: UserId, page: Page) -> tuple[Sequence[StandingSignIn], int]:
        return await self._real.of_user(user, page)

    async def end(self, user: UserId, sign_in: SignInId) -> bool:
        return await self._real.end(user, sign_in)

    async def end_all(self, user: UserId, besides: SignInId | None = None) -> Sequence[SignInId]:
        return await self._real.end_all(user, besides)


class Ear:
    """How sure it is that nothing was missed."""

    def __init__(self) -> None:
        self.unsure = 0.0

    def unsure_s(self) -> float:
        return self.unsure


class World:
    """A cache over a store, with a session of alice."""

    def __init__(self) -> None:
        self.store = MemoryStore()
        self.sign_ins = SlowSignIns(self.store)
        self.ear = Ear()
        self.cache = SessionCache(self.sign_ins)
        self.cache.hearing = self.ear
        self.alice: SignIn

    async def sign_in(self, ttl: timedelta = HOUR) -> SignIn:
        user = await MemoryUsers(self.store).sign_in("tmi", "a", "a@tmi.local", "Alice")
        return await self.sign_ins.start(user.id, str(uuid4()), ttl)

    def end(self, sign_in: SignIn) -> None:
        self.store.sign_ins[sign_in.id].ended = True

    async def queries_of(self, *keys: SignInId) -> int:
        before = self.cache.queries
        for key in keys:
            await self.cache.get(key)
        return self.cache.queries - before


@pytest.fixture
async def world() -> World:
    made = World()
    made.alice = await made.sign_in()
    return made


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Seconds to add to the monotonic clock."""
    ahead, real = [0.0], time.monotonic
    monkeypatch.setattr("api.sessions.time.monotonic", lambda: real() + ahead[0])
    return ahead


async def test_a_session_is_looked_up_once_while_signals_are_heard(world: World, clock: list[float]) -> None:
    assert 1 == await world.queries_of(*[world.alice.id] * 1000)
    clock[0] = KEPT_S - 1
    assert 0 == await world.queries_of(world.alice.id)
    clock[0] = KEPT_S + 1
    assert 1 == await world.queries_of(world.alice.id)


async def test_an_ended_session_is_gone_with_its_signal_and_no_other(world: World) -> None:
    other = await world.sign_in()
    await world.queries_of(world.alice.id, other.id)
    world.end(world.alice)

    world.cache.hear(Signal(Happened.SIGN_IN_ENDED, (world.alice.id,)))

    assert None is await world.cache.get(world.alice.id)
    assert 0 == await world.queries_of(other.id)


async def test_a_user_who_changed_is_read_again(world: World) -> None:
    await world.cache.get(world.alice.id)
    renamed = await MemoryUsers(world.store).sign_in("tmi", "a", "new@tmi.local", "Alice B.")

    world.cache.hear(Signal(Happened.PEOPLE_CHANGED, (uuid4(),)))
    assert 0 == await world.queries_of(world.alice.id)
    world.cache.hear(Signal(Happened.PEOPLE_CHANGED, (renamed.id,)))

    found = await world.cache.get(world.alice.id)
    assert found is not None
    assert renamed == found.user


async def test_after_missed_signals_everything_is_read_again(world: World) -> None:
    await world.cache.get(world.alice.id)
    world.end(world.alice)
    world.cache.hear(None)
    assert None is await world.cache.get(world.alice.id)


@pytest.mark.parametrize("unsure", [TRUSTED_S + 0.1, math.inf])
async def test_while_signals_may_be_missed_an_entry_is_trusted_for_less_than_a_second(
    world: World, clock: list[float], unsure: float
) -> None:
    await world.cache.get(world.alice.id)
    world.ear.unsure = unsure
    assert TRUSTED_S < 1
    assert 0 == await world.queries_of(world.alice.id)
    clock[0] = TRUSTED_S + 0.05
    assert 1 == await world.queries_of(world.alice.id)


async def test_without_an_ear_an_entry_is_trusted_for_less_than_a_second(
    world: World, clock: list[float]
) -> None:
    world.cache.hearing = None
    await world.cache.get(world.alice.id)
    world.end(world.alice)
    clock[0] = TRUSTED_S + 0.05
    assert None is await world.cache.get(world.alice.id)


async def test_an_entry_does_not_outlive_its_session(world: World) -> None:
    short = await world.sign_in(timedelta(seconds=0.05))
    assert short == await world.cache.get(short.id)
    await asyncio.sleep(0.1)
    assert None is await world.cache.get(short.id)


async def test_requests_at_once_share_a_query(world: World) -> None:
    world.sign_ins.gate = asyncio.Event()
    asked = [asyncio.create_task(world.cache.get(world.alice.id)) for _ in range(20)]
    await asyncio.sleep(0)
    world.sign_ins.gate.set()
    assert [world.alice] * 20 == await asyncio.gather(*asked)
    assert 1 == world.cache.queries


@pytest.mark.parametrize("how", ["signal", "forget", "missed", "user"])
async def test_what_was_read_before_a_revocation_is_not_kept_and_not_shared(world: World, how: str) -> None:
    world.sign_ins.gate = gate = asyncio.Event()
    early = asyncio.create_task(world.cache.get(world.alice.id))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    world.end(world.alice)
    if how == "signal":
        world.cache.hear(Signal(Happened.SIGN_IN_ENDED, (world.alice.id,)))
    elif how == "forget":
        world.cache.forget([world.alice.id])
    elif how == "user":
        world.cache.hear(Signal(Happened.PEOPLE_CHANGED, (world.alice.user.id,)))
    else:
        world.cache.hear(None)
    late = asyncio.create_task(world.cache.get(world.alice.id))
    await asyncio.sleep(0)
    gate.set()

    assert (world.alice, None) == (await early, await late)
    assert None is await world.cache.get(world.alice.id)


async def test_a_failed_lookup_fails_its_askers_alone(world: World) -> None:
    world.store.unavailable = True
    for _ in range(2):
        with pytest.raises(DatabaseUnavailable):
            await world.cache.get(world.alice.id)
    world.store.unavailable = False
    assert world.alice == await world.cache.get(world.alice.id)


async def test_a_client_that_hangs_up_does_not_fail_who_waits_for_the_same(world: World) -> None:
    world.sign_ins.gate = asyncio.Event()
    first, second = [asyncio.create_task(world.cache.get(world.alice.id)) for _ in range(2)]
    await asyncio.sleep(0)
    first.cancel()
    await asyncio.gather(first, return_exceptions=True)
    world.sign_ins.gate.set()
    assert world.alice == await second


async def test_what_is_unknown_is_asked_for_each_time(world: World) -> None:
    assert 3 == await world.queries_of(*[SignInId(uuid4())] * 3)
