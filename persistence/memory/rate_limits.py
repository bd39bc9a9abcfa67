"""Counts of requests in this process: for a node that is alone, and while Redis is away."""

import time

from cachetools import TTLCache

KEYS_MAX = 100_000


class MemoryRateLimits:
    """Counts in fixed windows. Past `KEYS_MAX` keys those that were not seen for longest are forgotten."""

    def __init__(self) -> None:
        self._counts: dict[int, TTLCache[str, int]] = {}

    async def hit(self, key: str, window_s: int) -> int:
        """See the port."""
        counts = self._counts.get(window_s)
        if counts is None:
            counts = self._counts[window_s] = TTLCache(KEYS_MAX, window_s)
        numbered = f"{key}:{int(time.time()) // window_s}"
        count = counts.get(numbered, 0) + 1
        counts[numbered] = count
        return count
