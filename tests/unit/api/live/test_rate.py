"""How much one connection may send: what is granted, and how long pauses may last."""

import asyncio

import pytest

from api.live.options import LiveOptions
from api.live.rate import WINDOW_S, Rate

OPTIONS = LiveOptions(
    edits_per_s=10, edits_burst=100, bytes_per_s=1000, bytes_burst=5000, rate_patience_s=10.0
)


@pytest.fixture
async def rate() -> Rate:
    return Rate(OPTIONS, 1000.0)


async def test_time_brings_new_allowance(rate: Rate) -> None:
    assert (100, 5000) == (rate.edits_granted, rate.bytes_granted)
    assert (20, 2000) == rate.grant(1002.0, 0, 0)
    assert (10, 1000) == rate.grant(1003.0, 20, 2000)
    assert (130, 8000) == (rate.edits_granted, rate.bytes_granted)


async def test_however_long_nothing_came_no_more_than_the_bursts_is_granted(rate: Rate) -> None:
    assert (100 + 5, 5000 - 400) == rate.grant(2000.0, -5, 400)
    assert (0, 0) == rate.grant(3000.0, 100, 5000)


async def test_a_pause_lasts_until_both_allowances_are_back(rate: Rate) -> None:
    assert 0 == rate.pause_s(0, 0)
    assert 1 < rate.pause_s(-10, 5000) < 1.2
    assert 3 < rate.pause_s(-10, -3000) < 3.2


async def test_patience_is_used_up_by_pauses_and_renewed_after_the_window(rate: Rate) -> None:
    for _ in range(2):
        rate.pause(4.0, lambda: None)
        assert rate.stop()
    assert 2 == rate.patience_left_s(1000.0 + WINDOW_S)
    rate.pause(4.0, lambda: None)
    rate.stop()
    assert 0 == rate.patience_left_s(1000.0 + WINDOW_S)
    assert 10 == rate.patience_left_s(1001.0 + WINDOW_S)
    rate.pause(3.0, lambda: None)
    rate.stop()
    assert 7 == rate.patience_left_s(1001.0 + 2 * WINDOW_S)


async def test_a_pause_ends_with_a_call_unless_it_is_stopped(rate: Rate) -> None:
    over = asyncio.Event()
    rate.pause(0.001, over.set)
    assert rate.is_pausing
    async with asyncio.timeout(5):
        await over.wait()
    assert (False, False) == (rate.is_pausing, rate.stop())
