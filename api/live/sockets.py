"""All live sockets of the process: how many, whose, and the one timer that visits them."""

import asyncio
from collections import Counter
from typing import Protocol

from tmi.domain.errors import TooManyRequests
from tmi.domain.ids import UserId

_SLICES = 20
"""A sweep visits the sockets in this many parts, so that none of them stalls the loop."""


class Swept(Protocol):
    """A socket as the registry sees it. Neither method raises."""

    def visit(self, now: float) -> None:
        """Called once in each sweep; `now` is the loop's time in seconds."""

    def close(self, code: int, reason: str) -> None:
        """Begin the closing handshake."""

    def abort(self) -> None:
        """Drop the connection."""


class Sockets:
    """The registry. `faults` counts exceptions in handlers, that is, bugs of ours."""

    def __init__(self, sweep_s: float, documents_per_user_max: int) -> None:
        self.faults = 0
        self._sweep_s = sweep_s
        self._documents_per_user_max = documents_per_user_max
        self._slices: list[set[Swept]] = [set() for _ in range(_SLICES)]
        self._slice_of: dict[Swept, int] = {}
        self._next = 0
        self._documents: Counter[UserId] = Counter()
        self._timer: asyncio.TimerHandle | None = None
        self._empty = asyncio.Event()
        self._empty.set()

    def __len__(self) -> int:
        return len(self._slice_of)

    def add(self, socket: Swept) -> None:
        """Take in a socket whose upgrade is done."""
        self._next = (self._next + 1) % _SLICES
        self._slices[self._next].add(socket)
        self._slice_of[socket] = self._next
        self._empty.clear()
        if self._timer is None:
            self._sweep(0)

    def discard(self, socket: Swept) -> None:
        """The socket's connection is gone."""
        place = self._slice_of.pop(socket, None)
        if place is not None:
            self._slices[place].discard(socket)
            if not self._slice_of:
                self._empty.set()

    async def none_left(self) -> None:
        """Wait until there is no socket."""
        await self._empty.wait()

    def take_seat(self, user: UserId) -> None:
        """Count one more open document of a user. Raises TooManyRequests."""
        if self._documents[user] >= self._documents_per_user_max:
            raise TooManyRequests("this user has too many open documents")
        self._documents[user] += 1

    def leave_seat(self, user: UserId) -> None:
        """Undo one `take_seat`."""
        self._documents[user] -= 1
        if not self._documents[user]:
            del self._documents[user]

    def documents_of(self, user: UserId) -> int:
        """How many open documents a user has."""
        return self._documents[user]

    def close_all(self, code: int, reason: str) -> None:
        """Begin the closing handshake everywhere."""
        for socket in list(self._slice_of):
            socket.close(code, reason)

    def abort_all(self) -> None:
        """Drop every connection."""
        for socket in list(self._slice_of):
            socket.abort()

    def _sweep(self, place: int) -> None:
        """Visit one slice; runs as long as there are sockets."""
        self._timer = None
        loop = asyncio.get_running_loop()
        now = loop.time()
        for socket in list(self._slices[place]):
            socket.visit(now)
        if self._slice_of:
            self._timer = loop.call_later(self._sweep_s / _SLICES, self._sweep, (place + 1) % _SLICES)
