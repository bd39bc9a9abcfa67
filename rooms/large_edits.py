"""Large edits go in by pieces, so that nobody else is kept waiting meanwhile.

To read an edit of 3 MB and have it integrated takes 0.2 s. So it is read by steps, and what is in it goes in
as many small edits would, by turns with whatever else is costly (`Ticker.paced`); what others write in
between is in nobody's way. What its author sends meanwhile waits for its end, also that the author has left:
all of it is acknowledged in the order sent. Where the edit cannot be parted (`crdt/pieces.py`), it goes in at
once when it has been read. A replica passes the pieces on to the owner, one by one.
"""

import logging
from collections import deque
from collections.abc import Generator, Mapping
from time import perf_counter

from crdt.messages import SyncStep2, Update
from rooms.audience import Audience
from rooms.effects import Effects, SessionNumber
from rooms.session import Session
from rooms.ticker import Ticker

log = logging.getLogger(__name__)

LARGE_BYTES = 32 * 1024
"""From this size on an edit goes in by pieces. In one go that takes up to 13 ms, and usually 2."""
WAITING_MAX_BYTES = 8 * 1024 * 1024
"""Of one session. When more waits, the large edit is brought to its end at once."""
KEPT_MAX_BYTES = 64 * 1024 * 1024
"""Of all sessions of the process. Beyond, large edits go in at once."""
MESSAGE_BYTES = 128
"""What it takes to keep a message besides its bytes, about."""

Edit = SyncStep2 | Update


class Kept:
    """What is kept of edits until it is in, in bytes."""

    __slots__ = ("size",)

    def __init__(self) -> None:
        self.size = 0


class _Work:
    """One session's large edit, and what it sent after that."""

    __slots__ = ("has_left", "session", "size", "steps", "took_s", "waiting", "waiting_bytes")

    def __init__(self, session: Session, size: int, steps: Generator[Effects | None, float, None]) -> None:
        self.session = session
        self.size = size
        self.steps = steps
        next(steps)  # to where it takes the time
        self.took_s = 0.0
        self.waiting: deque[Edit] = deque()
        self.waiting_bytes = 0
        self.has_left = False


class LargeEdits:
    """Those of one room: at most one of each session at a time."""

    __slots__ = ("_room", "_sessions", "_ticker", "_works", "kept")

    def __init__(
        self, room: Audience, sessions: Mapping[SessionNumber, Session], ticker: Ticker
    ) -> None:
        self._room = room
        self._sessions = sessions
        self._ticker = ticker
        self._works: dict[SessionNumber, _Work] = {}
        self.kept = Kept()
        """The service gives all its rooms the same one."""

    def take(self, number: SessionNumber, message: Edit) -> bool:
        """Take an edit that is large, or has to wait for one; False if it is for the room at once."""
        work, size = self._works.get(number), len(message.update) + MESSAGE_BYTES
        if work is not None:
            work.waiting.append(message)
            work.waiting_bytes += size
            self.kept.size += size
            if work.waiting_bytes > WAITING_MAX_BYTES or self.kept.size > KEPT_MAX_BYTES:
                self._finish(work)
            return True
        session = self._sessions.get(number) if size > LARGE_BYTES else None
        # What a node says for itself and for its clients is one sequence, acknowledged as such.
        if session is None or session.peer.framing is None or self.kept.size + size > KEPT_MAX_BYTES:
            return False
        steps = self._room.edit_by_steps(number, message)
        if steps is None:
            return False
        work = self._works[number] = _Work(session, size, steps)
        self.kept.size += size
        session.peer.hold_back()
        self._wait_for_turn(work)
        return True

    def leave(self, number: SessionNumber) -> bool:
        """A session has left. True: it leaves the room when all that it has sent is in."""
        work = self._works.get(number)
        if work is not None:
            work.has_left = True
        return work is not None

    def finish(self) -> None:
        """Bring all of them to their end at once: the room is about to be given up."""
        while self._works:  # what waited for one may be another
            self._finish(next(iter(self._works.values())))

    def _wait_for_turn(self, work: _Work) -> None:
        self._ticker.paced(self._room.diagram, lambda: self._take_turn(work))

    def _take_turn(self, work: _Work) -> int:
        if self._is_current(work) and not self._step(work):
            self._wait_for_turn(work)
        return 0

    def _is_current(self, work: _Work) -> bool:
        """It is not at its end, and its session was not closed."""
        number = work.session.number
        if self._works.get(number) is not work:
            return False
        if number not in self._sessions:
            self._forget(work)
            return False
        return True

    def _forget(self, work: _Work) -> None:
        del self._works[work.session.number]
        self.kept.size -= work.size + work.waiting_bytes

    def _finish(self, work: _Work) -> None:
        while self._is_current(work) and not self._step(work):
            pass

    def _step(self, work: _Work) -> bool:
        """Whether that was the last one."""
        began = perf_counter()
        runner = work.session.runner
        try:
            effects = work.steps.send(self._ticker.now())
            if effects:
                runner.perform(effects)
        except StopIteration:
            if self._is_current(work):
                self._end(work)
            return True
        except Exception:
            log.exception("room %s: a large edit could not be handled", self._room.diagram)
            if self._is_current(work):
                self._forget(work)
            runner.failed(work.session.number)
            return True
        work.took_s += perf_counter() - began
        return False

    def _end(self, work: _Work) -> None:
        session = work.session
        self._forget(work)
        session.runner.worked(session, work.took_s)
        while work.waiting and session.number in self._sessions:
            # Should that be a large one, too, the others wait for it.
            session.runner.receive(session.number, work.waiting.popleft())
        session.peer.go_on()
        if work.has_left:
            session.leave()
