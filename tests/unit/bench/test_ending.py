"""Signals and the clock end the measuring, and nothing else."""

import asyncio
import os
import signal
from contextlib import suppress

import pytest

from bench.ending import EndedEarly, Ending, may_end_early


def _signal(number: signal.Signals) -> None:
    asyncio.get_running_loop().call_later(0.02, os.kill, os.getpid(), number)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
async def test_a_signal_cuts_the_measuring_short(number: signal.Signals) -> None:
    _signal(number)
    told = pytest.raises(EndedEarly, match=f"ended by {number.name}")
    with may_end_early(None) as ending, told, ending.measuring():
        await asyncio.sleep(5)
    assert 128 + number == ending.status


async def test_the_clock_cuts_it_short() -> None:
    told = pytest.raises(EndedEarly, match=r"ended after 0\.02 s")
    with may_end_early(0.02) as ending, told, ending.measuring():
        await asyncio.sleep(5)
    assert 1 == ending.status


async def test_a_second_signal_does_not_disturb_what_comes_after() -> None:
    tidied_up = False
    _signal(signal.SIGINT)
    with may_end_early(None) as ending:
        with suppress(EndedEarly), ending.measuring():
            await asyncio.sleep(5)
        _signal(signal.SIGINT)
        _signal(signal.SIGTERM)
        await asyncio.sleep(0.1)
        tidied_up = True
    assert (True, 130) == (tidied_up, ending.status)


async def test_a_signal_between_two_parts_keeps_the_second_from_beginning() -> None:
    _signal(signal.SIGINT)
    with may_end_early(None) as ending:
        with ending.measuring():
            pass
        await asyncio.sleep(0.1)
        with pytest.raises(EndedEarly), ending.measuring():
            pytest.fail("it began")


async def test_an_end_that_a_wait_swallowed_is_found_at_the_next_run() -> None:
    ending = Ending()
    with ending.measuring():
        asyncio.get_running_loop().call_soon(ending.end, "ended", 1)
        with suppress(asyncio.CancelledError):
            await asyncio.sleep(1)
        with pytest.raises(EndedEarly):
            ending.check()


async def test_a_cancellation_of_another_kind_is_left_as_it_is() -> None:
    async def measure() -> None:
        with Ending().measuring():
            await asyncio.sleep(5)

    task = asyncio.create_task(measure())
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
