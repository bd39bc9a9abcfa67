"""What is held for clients that do not read, all sockets together, and whom to close when that is too much.

A socket is counted from the moment its write buffer passes the high mark until that has drained, so sockets
whose clients keep up are never looked at. The state that newcomers to a room have in common is one object,
and counts once; under TLS each has its own copy. What a buffer has lost since is found out only when the
total seems to be too much, so until then it is counted too high, never too low.
"""

import asyncio
from collections.abc import Callable
from typing import Protocol

from rooms import closing

_TOO_MUCH = "too much waits for clients that do not read; come back"
_GRACE_S = 1.0
"""Who has been stalled for less may not have had the time to read."""


class Stalled(Protocol):
    """A socket whose write buffer is full. No method raises."""

    @property
    def queued_bytes(self) -> int:
        """What waits in its write buffer."""

    def fail(self, code: int, reason: str) -> None:
        """Close it, and give its `Held` back."""


class Held:
    """What one socket holds."""

    __slots__ = ("own", "queued", "shared", "since", "socket")

    def __init__(self, socket: Stalled, queued: int) -> None:
        self.socket = socket
        self.since = asyncio.get_running_loop().time()
        self.queued = queued
        """What waited when it was last looked at, and what was written since."""
        self.own = queued
        """What would be free without this socket alone, in bytes."""
        self.shared: bytes | None = None
        """A frame in the buffer that others may have, too."""


class Outboxes:
    """The sum, and its bound."""

    def __init__(self, max_bytes: int, on_closing: Callable[[], None]) -> None:
        """`on_closing`: told of each socket that is closed for the bound."""
        self.total_bytes = 0
        self._max_bytes = max_bytes
        self._on_closing = on_closing
        self._held: dict[Held, None] = {}
        """Who has been stalled longest comes first."""
        self._sharing: dict[int, int] = {}
        """How many have a frame, by the `id` of it: they keep it alive."""
        self._is_due = False

    def __len__(self) -> int:
        return len(self._held)

    def add(self, socket: Stalled) -> Held:
        """A socket's write buffer is full."""
        held = Held(socket, socket.queued_bytes)
        self._held[held] = None
        self._count(held.queued)
        return held

    def grew(self, held: Held, size: int) -> None:
        """So many bytes more were written to it."""
        held.queued += size
        held.own += size
        self._count(size)

    def shares(self, held: Held, wire: bytes) -> None:
        """What was just written to it is the same object for others. Of several the first alone counts so."""
        if held.shared is None:
            held.shared = wire
            own = max(held.own - len(wire), 0)
            sharing = self._sharing.get(id(wire), 0)
            self._sharing[id(wire)] = sharing + 1
            self._count(own - held.own + (0 if sharing else len(wire)))
            held.own = own

    def discard(self, held: Held) -> None:
        """It has drained, or will be gone."""
        if held not in self._held:
            return
        del self._held[held]
        self.total_bytes -= held.own
        wire = held.shared
        if wire is not None:
            self._sharing[id(wire)] -= 1
            if not self._sharing[id(wire)]:
                del self._sharing[id(wire)]
                self.total_bytes -= len(wire)

    def _count(self, size: int) -> None:
        self.total_bytes += size
        if self.total_bytes > self._max_bytes and not self._is_due:
            # Not at once: whoever writes may be in the middle of writing to everybody in the room.
            self._is_due = True
            asyncio.get_running_loop().call_soon(self._relieve)

    def _relieve(self) -> None:
        """Close who has read nothing since the last look, then who reads slowly, until it is enough."""
        self._is_due = False
        latest = asyncio.get_running_loop().time() - _GRACE_S
        order = sorted(
            (self._has_read(held) or held.since > latest, self._frees_nothing(held), number, held)
            for number, held in enumerate(self._held)
        )
        for *_, held in order:
            if self.total_bytes <= self._max_bytes:
                return
            self._on_closing()
            self.discard(held)
            held.socket.fail(closing.TRY_AGAIN_LATER, _TOO_MUCH)

    def _has_read(self, held: Held) -> bool:
        """Look at the buffer; whether something has left it since."""
        queued = held.socket.queued_bytes
        has_read = queued < held.queued
        held.queued = queued
        if queued < held.own:
            self.total_bytes -= held.own - queued
            held.own = queued
        return has_read

    def _frees_nothing(self, held: Held) -> bool:
        return not held.own and held.shared is not None and self._sharing[id(held.shared)] > 1
