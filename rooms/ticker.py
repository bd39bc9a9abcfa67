"""One timer for all rooms of a process: who is due, and when."""

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable, Hashable, Iterable, Sequence
from heapq import heappop, heappush

log = logging.getLogger(__name__)

_TICKING_S = 0.05
_PACED_BYTES_PER_S = 1 << 30
_PACED_WAIT_MAX_S = 0.1
_TOGETHER = 16
"""So many are called at most before what comes afterwards is: the first of many would wait for all."""
_NO_WAIT_S = 0.0005
"""Timers have a resolution of a millisecond (uvloop)."""


class Ticker:
    """Calls back at a time, or at the end of this turn of the loop; never earlier, each call once."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self.now: Callable[[], float] = loop.time
        """The rooms' clock: the loop's, in seconds."""
        self._soon: list[Callable[[], None]] = []
        self._afterwards: list[Callable[[], None]] = []
        self._later: list[tuple[float, int, Callable[[], None]]] = []
        self._order = 0
        self._timer: asyncio.Handle | None = None
        self._timer_at = 0.0
        self._turns: dict[Hashable, deque[Callable[[], int]]] = {}
        """What waits for its turn, by for whom: they take turns."""
        self._turn: asyncio.Handle | None = None
        self._is_turning = False

    @property
    def is_ticking(self) -> bool:
        """Something will be due within a tick or so."""
        return bool(self._later) and self._later[0][0] < self._loop.time() + _TICKING_S

    def at(self, when: float, callback: Callable[[], None]) -> None:
        """Call back at `when`; if that is now or past, once this turn's input has been read."""
        if when <= self._loop.time():
            if not self._soon:
                self._loop.call_soon(self._run_soon)
            self._soon.append(callback)
            return
        self._order += 1
        heappush(self._later, (when, self._order, callback))
        if self._timer is None or when < self._timer_at:
            self._set_timer(when)

    def afterwards(self, callback: Callable[[], None]) -> None:
        """From what is called back here: call back when what else is due now has been called, or some of it.
        """
        self._afterwards.append(callback)

    def paced(self, whose: Hashable, callback: Callable[[], int]) -> None:
        """Call back when it is their turn; `callback` returns how many bytes it has written.

        What is costly goes out one after the other, one in a turn of the loop at most, and as far apart as it
        took: as long as it ran, or as a core needs to copy so many bytes. So everybody else is served in
        between. Of those who wait, nobody gets a second turn before the others had one.
        """
        self._turns.setdefault(whose, deque()).append(callback)
        if self._turn is None and not self._is_turning:
            self._take_turn()

    def _take_turn(self) -> None:
        self._turn = None
        if not self._turns:
            return
        whose = next(iter(self._turns))
        waiting = self._turns.pop(whose)
        callback = waiting.popleft()
        if waiting:
            self._turns[whose] = waiting
        self._is_turning = True
        began, size = time.monotonic(), 0
        try:
            size = callback()
        except Exception:
            log.exception("what had its turn in a room failed; the other rooms go on")
        self._is_turning = False
        took_s = max(time.monotonic() - began, size / _PACED_BYTES_PER_S)
        if took_s > _NO_WAIT_S:
            self._turn = self._loop.call_later(min(took_s, _PACED_WAIT_MAX_S), self._take_turn)
        else:
            self._turn = self._loop.call_soon(self._take_turn)

    def _set_timer(self, when: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        # uvloop gives a handle without `when()` where less than its resolution is left.
        self._timer = self._loop.call_at(when, self._run_later)
        self._timer_at = when

    def _run_soon(self) -> None:
        due, self._soon = self._soon, []
        self._run(due)

    def _run_later(self) -> None:
        self._timer = None
        # The loop's clock has a resolution of a millisecond (uvloop): what is due within it runs now.
        horizon = self._loop.time() + 0.001
        # What was to be called at once is called first, as a timer may come before it (uvloop): else a room
        # would send to who has just been found to be slow, and is about to be paused.
        due, self._soon = self._soon, []
        while self._later and self._later[0][0] <= horizon:
            due.append(heappop(self._later)[2])
        if self._later:
            self._set_timer(self._later[0][0])
        self._run(due)

    def _run(self, due: Sequence[Callable[[], None]]) -> None:
        for begin in range(0, len(due), _TOGETHER):
            _call(due[begin : begin + _TOGETHER])
            last, self._afterwards = self._afterwards, []
            _call(last)

    def close(self) -> None:
        """Forget everything that is not due yet."""
        if self._timer is not None:
            self._timer.cancel()
        self._timer = None
        if self._turn is not None:
            self._turn.cancel()
        self._turn = None
        self._turns.clear()
        self._later.clear()
        self._soon.clear()


def _call(due: Iterable[Callable[[], None]]) -> None:
    for callback in due:
        try:
            callback()
        except Exception:
            log.exception("what was due in a room failed; the other rooms go on")
