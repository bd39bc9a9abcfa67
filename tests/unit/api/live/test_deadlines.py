"""Many deadlines on one timer."""

import asyncio
import time

from api.live.deadlines import Deadlines

AFTER_S = 0.03


async def test_each_is_late_at_its_time_and_once() -> None:
    late: list[tuple[str, float]] = []
    began: dict[str, float] = {}
    deadlines = Deadlines[str](AFTER_S, lambda thing: late.append((thing, time.monotonic())))
    for thing in ("a", "done", "b"):
        began[thing] = time.monotonic()
        deadlines.add(thing)
        await asyncio.sleep(AFTER_S / 3)
    deadlines.discard("done")
    deadlines.discard("never added")
    async with asyncio.timeout(5):
        while len(late) < 2:
            await asyncio.sleep(0.001)
    await asyncio.sleep(2 * AFTER_S)
    assert [thing for thing, _ in late] == ["a", "b"]
    assert all(at - began[thing] > AFTER_S - 0.004 for thing, at in late)


async def test_it_goes_on_after_it_was_empty() -> None:
    late: list[str] = []
    deadlines = Deadlines[str](AFTER_S, late.append)
    for thing in ("a", "b"):
        deadlines.add(thing)
        async with asyncio.timeout(5):
            while thing not in late:
                await asyncio.sleep(0.001)
    assert late == ["a", "b"]
