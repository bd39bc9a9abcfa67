"""The one timer of all rooms."""

import asyncio

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


async def test_large_states_go_out_one_after_the_other_and_let_others_in_between() -> None:
    ticker, called = Ticker(asyncio.get_running_loop()), list[str]()
    for n in range(4):
        ticker.paced(16 * MIB, lambda n=n: called.append(f"state {n}"))  # type: ignore[misc]
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
