"""The one timer of all rooms."""

import asyncio
import time
from functools import partial
from itertools import pairwise

import pytest
import uvloop

from rooms.ticker import Ticker

MIB = 1 << 20


async def test_what_is_due_is_called_once_and_in_order() -> None:
    ticker, called = Ticker(asyncio.get_running_loop()), list[str]()
    ticker.at(ticker.now() + 0.02, lambda: called.append("later"))
    ticker.at(ticker.now() + 0.01, lambda: called.append("sooner"))
    ticker.at(0.0, lambda: called.append("at once"))
    await asyncio.sleep(0)
    assert ["at once"] == called
    await asyncio.sleep(0.05)
    assert ["at once", "sooner", "later"] == called


def test_what_is_called_at_once_comes_before_what_a_timer_has_due() -> None:
    """On uvloop, where timers come first."""

    async def order() -> list[str]:
        ticker, called = Ticker(asyncio.get_running_loop()), list[str]()

        def take_long() -> None:
            time.sleep(0.02)
            ticker.at(0.0, lambda: called.append("at once"))

        ticker.at(ticker.now() + 0.005, lambda: called.append("later"))
        asyncio.get_running_loop().call_soon(take_long)
        await asyncio.sleep(0.05)
        return called

    assert ["at once", "later"] == uvloop.run(order())


async def test_large_states_go_out_one_after_the_other_and_let_others_in_between() -> None:
    ticker, called = Ticker(asyncio.get_running_loop()), list[str]()

    def state(n: int) -> int:
        called.append(f"state {n}")
        return 16 * MIB

    for n in range(4):
        ticker.paced("room", partial(state, n))
    assert ["state 0"] == called
    ticker.at(0.0, lambda: called.append("edit"))
    await asyncio.sleep(0)
    assert ["state 0", "edit"] == called
    await asyncio.sleep(0.15)
    assert ["state 0", "edit", "state 1", "state 2", "state 3"] == called


async def test_what_is_due_within_the_loops_resolution_can_be_followed_by_more() -> None:
    ticker, called = Ticker(asyncio.get_running_loop()), list[int]()
    for n in range(1, 9):
        ticker.at(ticker.now() + n * 1e-4, lambda n=n: called.append(n))  # type: ignore[misc]
    await asyncio.sleep(0.05)
    assert [1, 2, 3, 4, 5, 6, 7, 8] == called


async def test_what_fails_keeps_nothing_else_from_being_called() -> None:
    ticker, called = Ticker(asyncio.get_running_loop()), list[str]()
    for when, what in ((0.0, "at once"), (ticker.now() + 0.01, "later")):
        ticker.at(when, lambda: called.remove("never added"))
        ticker.at(when, lambda what=what: called.append(what))  # type: ignore[misc]
    await asyncio.sleep(0.05)
    assert ["at once", "later"] == called


async def test_what_comes_afterwards_is_called_when_all_that_is_due_was_called(
    caplog: pytest.LogCaptureFixture,
) -> None:
    ticker, called = Ticker(asyncio.get_running_loop()), list[str]()

    def due(name: str) -> None:
        called.append(name)
        ticker.afterwards(lambda: called.remove("never added"))
        ticker.afterwards(lambda: called.append(f"after {name}"))

    for when in (0.0, ticker.now() + 0.01):
        for name in ("one", "two"):
            ticker.at(when, partial(due, name))
        await asyncio.sleep(0.03)
        assert ["one", "two", "after one", "after two"] == called
        called.clear()
    assert len(caplog.records) == 4


async def test_the_first_of_many_does_not_wait_for_all() -> None:
    ticker, called = Ticker(asyncio.get_running_loop()), list[str]()

    def due(name: str) -> None:
        called.append(name)
        ticker.afterwards(lambda: called.append(f"after {name}"))

    for n in range(100):
        ticker.at(0.0, partial(due, str(n)))
    await asyncio.sleep(0)
    assert len(called) == 200
    assert called.index("after 0") == 16
    assert called.index("after 99") == 199


async def test_what_is_slow_goes_one_by_one_in_turns_of_the_loop_as_far_apart_as_it_takes() -> None:
    ticker, spans = Ticker(asyncio.get_running_loop()), list[tuple[float, float]]()

    def slow() -> int:
        began = time.monotonic()
        while time.monotonic() < began + 0.02:
            pass
        spans.append((began, time.monotonic()))
        return 0

    for _ in range(4):
        ticker.paced("room", slow)
    turns = 0
    while len(spans) < 4:
        before = len(spans)
        await asyncio.sleep(0)
        turns += 1
        assert len(spans) <= before + 1
    assert turns > 4
    for (_, ended), (began, _) in pairwise(spans):
        assert 0.018 < began - ended


async def test_nobody_waits_long_for_what_one_took() -> None:
    ticker, called = Ticker(asyncio.get_running_loop()), asyncio.Event()

    def last() -> int:
        called.set()
        return 0

    ticker.paced("room", lambda: 1 << 33)
    ticker.paced("room", last)
    await asyncio.wait_for(called.wait(), 1)


async def test_what_is_quick_waits_for_a_turn_of_the_loop_and_no_longer() -> None:
    ticker, called = Ticker(asyncio.get_running_loop()), list[int]()

    def quick(n: int) -> int:
        called.append(n)
        return 0

    for n in range(5):
        ticker.paced("room", partial(quick, n))
    for turn in range(1, 6):
        assert list(range(turn)) == called
        await asyncio.sleep(0)


async def test_who_waits_for_turns_gets_them_in_turns_and_one_that_fails_stops_nobody() -> None:
    ticker, called = Ticker(asyncio.get_running_loop()), list[str]()

    def turn(whose: str) -> int:
        called.append(whose)
        if whose == "b":
            raise RuntimeError("a bug")
        return 0

    for whose in "aaaabbc":
        ticker.paced(whose, partial(turn, whose))
    await asyncio.sleep(0.05)
    assert list("aabcaba") == called
