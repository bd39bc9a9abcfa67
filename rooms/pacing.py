"""When to send: at once while a room is quiet, in ticks while it is busy.

Sending costs by copy (flushes x members). A quiet room gains nothing from waiting; a busy one saves a copy
for each member by every edit that shares a flush. So the pace is chosen by the copies per second that sending
at once would take: below `quiet_copies_per_s` there is no wait, above it flushes are at least `interval_s`
apart: a little further where far more copies are due, as a tenth less of them counts there, and a little
less far while authors wait for a word on their edits, which are committed when the tick has ended.
"""

from math import exp

_MEMORY_S = 0.25
_CROWDED_COPIES_PER_S = 40_000
_CROWDED = 1.13
_AWAITED = 0.8


class Fading:
    """A rate over the last seconds."""

    __slots__ = ("_level", "_memory_s", "_seen_at")

    def __init__(self, memory_s: float) -> None:
        self._memory_s = memory_s
        self._level = 0.0
        self._seen_at = 0.0

    def count(self, now: float, events: int) -> None:
        """So many events came."""
        self._level = self._faded(now) + events
        self._seen_at = now

    def per_s(self, now: float) -> float:
        """Events a second."""
        return self._faded(now) / self._memory_s

    def _faded(self, now: float) -> float:
        return self._level * exp((self._seen_at - now) / self._memory_s)


class Pacer:
    """Estimates the rate of one kind of event and says when the next flush is due."""

    __slots__ = (
        "_interval_s",
        "_level",
        "_quiet_copies_per_s",
        "_seen_at",
        "flushed_at",
        "is_awaited",
        "not_before",
    )

    def __init__(self, interval_s: float, quiet_copies_per_s: float) -> None:
        self._interval_s = interval_s
        self._quiet_copies_per_s = quiet_copies_per_s
        self._level = 0.0
        self._seen_at = 0.0
        self.flushed_at = float("-inf")
        self.is_awaited = False
        """Authors wait for the acknowledgement of what comes in."""
        self.not_before = float("-inf")
        """Nothing is due earlier: what went out last was large."""

    def count(self, now: float, events: int = 1) -> None:
        """So many events came in."""
        # An exponentially fading count: `_level / _MEMORY_S` is events per second.
        self._level = self._level * exp((self._seen_at - now) / _MEMORY_S) + events
        self._seen_at = now

    def due(self, now: float, members: int) -> float:
        """When what has come in should go out."""
        copies_per_s = self._level / _MEMORY_S * members
        if copies_per_s <= self._quiet_copies_per_s:
            return max(now, self.not_before)
        return max(now, self.not_before, self.flushed_at + self._interval(copies_per_s))

    def due_patiently(self, now: float, members: int) -> float:
        """As `due`, for what nobody waits for: flushes are the interval apart also in a quiet room."""
        return max(self.due(now, members), self.flushed_at + self._interval_s)

    def tick_s(self, now: float, members: int, share: float = 1.0) -> float | None:
        """How far apart flushes are now; None while this share of what counts as busy is not reached."""
        copies_per_s = self._level * exp((self._seen_at - now) / _MEMORY_S) / _MEMORY_S * members
        return None if copies_per_s <= self._quiet_copies_per_s * share else self._interval(copies_per_s)

    def silent_s(self, now: float) -> float:
        """For how long nothing has come in."""
        return now - self._seen_at

    def _interval(self, copies_per_s: float) -> float:
        if self.is_awaited:
            return self._interval_s * _AWAITED
        return self._interval_s * (_CROWDED if copies_per_s > _CROWDED_COPIES_PER_S else 1.0)
