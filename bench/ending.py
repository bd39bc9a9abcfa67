"""What ends a measurement before it is through: SIGINT, SIGTERM, SIGHUP, or its time is over.

Only the measuring is cut short. Stopping the servers and tidying up is bounded by itself, and no second
Ctrl-C disturbs it, so that nothing is left running.
"""

import asyncio
import signal
from collections.abc import Iterator
from contextlib import contextmanager

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class EndedEarly(Exception):
    """The measurement ends here; the text says why."""


class Ending:
    """Whether the measurement of the current task is to end, and with which exit status."""

    def __init__(self) -> None:
        self.reason: str | None = None
        self.status = 0
        self._task = asyncio.current_task()
        self._is_measuring = False

    def end(self, reason: str, status: int) -> None:
        """The first call counts."""
        if self.reason is None:
            self.reason, self.status = reason, status
            if self._is_measuring and self._task is not None:
                self._task.cancel()

    def check(self) -> None:
        """Raises `EndedEarly` if so. For between runs: a wait that is just over swallows a cancellation."""
        if self.reason is not None:
            raise EndedEarly(self.reason)

    @contextmanager
    def measuring(self) -> Iterator[None]:
        """The part that is cut short. Raises `EndedEarly`."""
        self.check()
        self._is_measuring = True
        try:
            yield
        except asyncio.CancelledError:
            if self.reason is None or self._task is None:
                raise
            self._task.uncancel()
            raise EndedEarly(self.reason) from None
        finally:
            self._is_measuring = False


@contextmanager
def may_end_early(at_most_s: float | None) -> Iterator[Ending]:
    """Listens to the signals and, if there is a limit, to the clock."""
    loop, ending = asyncio.get_running_loop(), Ending()
    for number in SIGNALS:
        loop.add_signal_handler(number, ending.end, f"ended by {number.name}", 128 + number)
    timer = None
    if at_most_s is not None:
        timer = loop.call_later(at_most_s, ending.end, f"ended after {at_most_s:g} s, as --at-most-s says", 1)
    try:
        yield ending
    finally:
        if timer is not None:
            timer.cancel()
        for number in SIGNALS:
            loop.remove_signal_handler(number)
