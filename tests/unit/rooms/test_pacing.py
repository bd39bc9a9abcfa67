"""Pacing: at once while quiet, in ticks while busy."""

from rooms.pacing import Pacer


def test_a_quiet_room_sends_at_once() -> None:
    pacer = Pacer(0.010, 8000)
    now = 0.0
    for _ in range(100):
        now += 0.010  # 100 edits a second for 50 members: 5,000 copies
        pacer.count(now)
        assert now == pacer.due(now, 50)
        pacer.flushed_at = now


def test_a_busy_room_waits_for_its_tick() -> None:
    pacer = Pacer(0.010, 8000)
    now = 0.0
    for _ in range(400):
        now += 0.0025
        pacer.count(now)
    pacer.flushed_at = now
    assert now + 0.010 == pacer.due(now, 50)


def test_few_members_need_no_tick_at_the_same_rate() -> None:
    pacer = Pacer(0.010, 8000)
    now = 0.0
    for _ in range(400):
        now += 0.0025
        pacer.count(now)
    pacer.flushed_at = now
    assert now == pacer.due(now, 2)


def test_it_calms_down_again() -> None:
    pacer = Pacer(0.010, 8000)
    now = 0.0
    for _ in range(400):
        now += 0.0025
        pacer.count(now)
    pacer.flushed_at = now = now + 5.0
    pacer.count(now)
    assert now == pacer.due(now, 50)


def tick_of(copies_per_s: int, *, is_awaited: bool = False) -> float:
    pacer = Pacer(0.010, 8000)
    pacer.is_awaited = is_awaited
    now = 0.0
    for _ in range(copies_per_s):
        now += 50 / copies_per_s
        pacer.count(now)
    pacer.flushed_at = now
    return pacer.due(now, 50) - now


def test_a_crowded_room_waits_a_little_longer_and_one_whose_authors_wait_a_little_less() -> None:
    assert tick_of(20_000, is_awaited=True) < tick_of(20_000) < tick_of(90_000)
    assert tick_of(90_000, is_awaited=True) == tick_of(20_000, is_awaited=True)


def test_a_room_ticks_while_it_is_busy_and_a_little_longer() -> None:
    pacer = Pacer(0.010, 8000)
    now = 0.0
    for _ in range(400):
        now += 0.005  # 200 edits a second for 50 members: 10,000 copies
        pacer.count(now)
    assert 0.010 == pacer.tick_s(now, 50)
    now += 0.1  # as if there were 6,800
    assert pacer.tick_s(now, 50) is None
    assert 0.010 == pacer.tick_s(now, 50, 0.75)
    assert pacer.tick_s(now + 0.2, 50, 0.75) is None
