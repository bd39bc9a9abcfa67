"""One timer for all rooms of a process: who is due, and when."""

import asyncio
import logging
from collections.abc import Callable, Iterable
from heapq import heappop, heappush

log = logging.getLogger(__name__)

_TICKING_S = 0.05
_PACED_BYTES_PER_S = 1 << 30


class Ticker:
    """Calls back at a time, or at the end of this turn of the loop; never earlier, each call once."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._soon: list[Callable[[], None]] = []
        self._later: list[tuple[float, int, Callable[[], None]]] = []
        self._order = 0
        self._timer: asyncio.Handle | None = None
        self._timer_at = 0.0
        self._paced_until = 0.0

    def now(self) -> float:
        """The rooms' clock: the loop's, in seconds."""
        return self._loop.time()

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

    def paced(self, size: int, callback: Callable[[], None]) -> None:
        """Call back when it is the turn of so many bytes: states that many newcomers ask for go out at the
        pace at which a core copies them, so that everybody else is served in between.
        """
        now = self._loop.time()
        turn = max(now, self._paced_until)
        self._paced_until = turn + size / _PACED_BYTES_PER_S
        if turn <= now:
            callback()
        else:
            self.at(turn, callback)

    def _set_timer(self, when: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        # uvloop gives a handle without `when()` where less than its resolution is left.
        self._timer = self._loop.call_at(when, self._run_later)
        self._timer_at = when

    def _run_soon(self) -> None:
        due, self._soon = self._soon, []
        _run(due)

    def _run_later(self) -> None:
        self._timer = None
        # The loop's clock has a resolution of a millisecond (uvloop): what is due within it runs now.
        horizon = self._loop.time() + 0.001
        due: list[Callable[[], None]] = []
        while self._later and self._later[0][0] <= horizon:
            due.append(heappop(self._later)[2])
        if self._later:
            self._set_timer(self._later[0][0])
        _run(due)

    def close(self) -> None:
        """Forget everything that is not due yet."""
        if self._timer is not None:
            self._timer.cancel()
        self._timer = None
        self._later.clear()
        self._soon.clear()


def _run(due: Iterable[Callable[[], None]]) -> None:
    for callback in due:
        try:
            callback()
        except Exception:
            log.exception("what was due in a room failed; the other rooms go on")
