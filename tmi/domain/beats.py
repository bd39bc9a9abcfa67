"""When what is done again and again is done: at beats that all of a process share.

To wake up costs a process more than most of what it wakes up for. So whatever runs every so many seconds
runs at whole multiples of that, and does not wake the process up by itself.
"""


def to_next_beat(now: float, every_s: float) -> float:
    """Seconds from `now` (of the loop's clock) to the next multiple of `every_s` that is half of it away.

    Or further: so two beats are never less than half of `every_s` apart, nor more than one and a half.
    """
    left_s = every_s - now % every_s
    return left_s if left_s >= every_s / 2 else left_s + every_s
