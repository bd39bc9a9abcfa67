"""Counts of requests in this process: for a node that is alone, and while Redis is away."""

import time
from collections import OrderedDict

KEYS_MAX = 100_000


class MemoryRateLimits:
    """Counts in fixed windows. Past `KEYS_MAX` keys those that were not seen for longest are forgotten."""

    def __init__(self) -> None:
        self._counts: dict[int, tuple[int, OrderedDict[str, int]]] = {}
        """By length of the window: its number, and what was counted in it."""

    async def hit(self, key: str, window_s: int) -> int:
        """See the port."""
        number = int(time.time()) // window_s
        known = self._counts.get(window_s)
        if known is None or known[0] != number:
            known = self._counts[window_s] = number, OrderedDict()
        counts = known[1]
        count = counts[key] = counts.get(key, 0) + 1
        counts.move_to_end(key)
        if len(counts) > KEYS_MAX:
            counts.popitem(last=False)
        return count
