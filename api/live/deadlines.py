"""One timer for all that have the same time to be done: starting and cancelling one for each is dear."""

import asyncio
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

ThingT = TypeVar("ThingT", bound=Hashable)

_RESOLUTION_S = 0.001
"""Of uvloop's clock."""


class Deadlines(Generic[ThingT]):
    """Tells of whatever is not taken out within `after_s` seconds; up to a millisecond early."""

    __slots__ = ("_after_s", "_late", "_loop", "_since", "_timer")

    def __init__(self, after_s: float, late: Callable[[ThingT], None]) -> None:
        """`late` is called once, when the thing is out already. It may not raise."""
        self._after_s = after_s
        self._late = late
        self._loop: asyncio.AbstractEventLoop | None = None
        """To ask for it each time is a system call."""
        self._since: dict[ThingT, float] = {}
        self._timer: asyncio.TimerHandle | None = None

    def add(self, thing: ThingT) -> None:
        """Its time begins."""
        loop = self._loop
        if loop is None:
            loop = self._loop = asyncio.get_running_loop()
        self._since[thing] = loop.time()
        if self._timer is None:
            self._timer = loop.call_later(self._after_s, self._look)

    def discard(self, thing: ThingT) -> None:
        """It is done; also where it is out already."""
        self._since.pop(thing, None)

    def _look(self) -> None:
        self._timer = None
        loop = asyncio.get_running_loop()
        latest = loop.time() - self._after_s + _RESOLUTION_S
        while self._since:
            thing, since = next(iter(self._since.items()))
            if since > latest:
                self._timer = loop.call_later(since - latest + _RESOLUTION_S, self._look)
                return
            del self._since[thing]
            self._late(thing)
