"""Awareness on its way: from the sessions into `rooms/presence.py`, and from there to everybody.

It goes out in flushes, and the last state wins. Those who come and go wait for each other, and share a flush
in any room; who moves does so only in a busy one. What comes for a flush that is due anyhow is not read
before that. A message alone meets cold caches, so those of one flush are read together: measured with 50
cursors at 10 moves a second, a tenth of the process's time less.
"""

from collections.abc import Callable, Container

from crdt import y_websocket
from rooms.audience import Seat
from rooms.effects import NOTHING, Broadcast, Effect, Effects, FlushAt, Send, SessionNumber
from rooms.pacing import Pacer
from rooms.presence import Presence
from tmi.domain.errors import BadFrame

_BYTES_PER_S = 1024 * 1024
"""To each client. States replace one another, so nothing is lost by waiting; 300 cursors at 10 moves a second
take a third of it. Who sends more loads everybody: each byte goes to all of them.
"""

_UNREAD_BYTES = 64
"""What it takes to keep a message besides its bytes, about."""


class Cursors:
    """What sessions say of themselves, before it is read, and when it goes out."""

    __slots__ = ("_pacer", "_presence", "_unread", "_unread_max_bytes", "unread_bytes")

    def __init__(self, presence: Presence, pacer: Pacer, unread_max_bytes: int) -> None:
        self.unread_bytes = 0
        """What is kept and not read, about."""
        self._presence = presence
        self._pacer = pacer
        self._unread: list[tuple[Seat, bytes]] = []
        """Only while a flush is due."""
        self._unread_max_bytes = unread_max_bytes

    def hold(self, seat: Seat, data: bytes) -> bool:
        """Keep a message to be read for the next flush; False if it is for `receive`."""
        if self.unread_bytes > self._unread_max_bytes:
            return False
        presence = self._presence
        # Who moves does not wait for as long as those who come and go.
        if not presence.has_moved and (not presence.dirty or presence.has_heard_of(seat.number)):
            return False
        self._unread.append((seat, data))
        self.unread_bytes += len(data) + _UNREAD_BYTES
        return True

    def receive(self, seat: Seat, data: bytes, now: float, members: int) -> Effects:
        """Read a message, after `read`. Raises BadFrame."""
        if seat.author is None:
            return NOTHING
        presence = self._presence
        was_dirty, had_moved = presence.dirty, presence.has_moved
        back = presence.receive(seat.number, seat.author, data)
        effects: list[Effect] = []
        if back is not None:
            effects.append(Send(seat.number, y_websocket.awareness(back)))
        if presence.dirty:
            self._pacer.count(now)
            if not was_dirty or presence.has_moved is not had_moved:
                effects.append(FlushAt(self.due(now, members)))
        return effects

    def read(
        self,
        now: float,
        here: Container[SessionNumber],
        blame: Callable[[SessionNumber, BadFrame, float], Effects],
    ) -> list[Effect]:
        """Read what is kept of those who are `here`: what others said goes with them. `blame` ends a session
        at fault.
        """
        if not self._unread:
            return []
        unread, self._unread, self.unread_bytes = self._unread, [], 0
        self._pacer.count(now, len(unread))
        effects: list[Effect] = []
        for seat, data in unread:
            if seat.number not in here or seat.author is None:
                continue
            try:
                back = self._presence.receive(seat.number, seat.author, data)
            except BadFrame as fault:
                effects.extend(blame(seat.number, fault, now))
                continue
            if back is not None:
                effects.append(Send(seat.number, y_websocket.awareness(back)))
        return effects

    def due(self, now: float, members: int) -> float:
        """When what is new of presence should go out."""
        if self._presence.has_moved:
            return self._pacer.due(now, members)
        return self._pacer.due_patiently(now, members)

    def tick_s(self, now: float, members: int, share: float) -> float | None:
        """See `Pacer.tick_s`."""
        return self._pacer.tick_s(now, members, share)

    def take(self, now: float) -> Broadcast:
        """What is new of presence, after `read`."""
        pacer = self._pacer
        pacer.flushed_at = now
        data, source = self._presence.take_changes()
        pacer.not_before = now + len(data) / _BYTES_PER_S
        return Broadcast(y_websocket.awareness(data), source)
