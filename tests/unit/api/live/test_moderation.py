"""A busy process reads in groups; a quiet one reads at once, and so does one that is behind."""

import asyncio
import time

from api.live.moderation import ReadModeration

WAIT_MAX_S = 0.010


def waits(per_turn: int, gap_s: float, seconds: float = 1.0) -> list[float]:
    moderation = ReadModeration(WAIT_MAX_S)
    return [moderation.wait_s(per_turn, 100 + turn * gap_s) for turn in range(round(seconds / gap_s))]


def test_few_messages_are_read_at_once() -> None:
    assert not any(waits(1, 0.01))
    assert not any(waits(50, 1.0, 20))


def test_many_messages_are_waited_for_within_the_bound() -> None:
    busy = waits(1, 0.0005)[-100:]
    assert min(busy) > 0
    assert max(busy) <= WAIT_MAX_S
    assert max(waits(1, 0.00005)[-100:]) < WAIT_MAX_S / 2, "the more come, the less it waits"


def test_whoever_is_behind_does_not_wait() -> None:
    assert not any(waits(70, 0.007))


def test_it_is_quiet_again_soon_after_a_burst() -> None:
    moderation = ReadModeration(WAIT_MAX_S)
    for turn in range(2000):
        moderation.wait_s(1, 100 + turn * 0.0005)
    assert moderation.wait_s(1, 101.0) > 0
    assert moderation.wait_s(1, 102.0) == 0


def test_zero_turns_it_off() -> None:
    moderation = ReadModeration(0)

    async def read() -> float:
        start = time.perf_counter()
        for _ in range(500):
            moderation.count()
            await asyncio.sleep(0)
        return time.perf_counter() - start

    assert asyncio.run(read()) < 0.4


def test_reads_of_one_turn_are_one_wait() -> None:
    async def read(together: int) -> float:
        moderation = ReadModeration(0.01)
        moderation.wait_s(2000, time.monotonic())
        start = time.perf_counter()
        for _ in range(together):
            moderation.count()
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        return time.perf_counter() - start

    assert asyncio.run(read(1)) > 0.0003
    assert asyncio.run(read(70)) < 0.005


def test_nobody_is_made_to_wait_who_waits_for_the_process_already() -> None:
    async def turns(is_hurried: bool) -> float:
        moderation = ReadModeration(0.05, lambda: is_hurried)
        moderation.wait_s(2000, time.monotonic())
        start = time.perf_counter()
        for _ in range(50):
            moderation.count()
            await asyncio.sleep(0)
            await asyncio.sleep(0)
        return time.perf_counter() - start

    assert asyncio.run(turns(False)) > 4 * asyncio.run(turns(True))
