"""When what is done again and again is done."""

import pytest

from tmi.domain.beats import to_next_beat

EVERY_S = 0.5


@pytest.mark.parametrize(
    ("now", "left_s"), [(10.0, 0.5), (10.1, 0.4), (10.25, 0.25), (10.3, 0.7), (10.499, 0.501)]
)
def test_the_next_beat_is_a_multiple_that_is_not_too_near(now: float, left_s: float) -> None:
    assert pytest.approx(left_s) == to_next_beat(now, EVERY_S)


def test_whatever_time_it_is_all_meet_at_the_same_beats() -> None:
    for start in range(100):
        now = start * 0.0137
        beat = now + to_next_beat(now, EVERY_S)
        assert pytest.approx(0, abs=1e-9) == (beat + EVERY_S / 2) % EVERY_S - EVERY_S / 2
