"""The shell around a replica: effects on real peers, and a way to the owner that may be lost."""

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

from rooms.effects import Forward
from rooms.hosting import Runner, Session
from rooms.nodes.messages import Answered, Asked, Census, Counted, Lost
from rooms.nodes.replica import Replica
from rooms.peer import Member, Peer
from rooms.ticker import Ticker
from tmi.domain.errors import Unavailable

log = logging.getLogger(__name__)


class ReplicaRunner(Runner[Replica]):
    """Performs what `room`, a replica, decides."""

    def __init__(self, replica: Replica, ticker: Ticker) -> None:
        super().__init__(replica, ticker)
        self.synced = asyncio.Event()
        """The document is one that an owner had: newcomers may be answered."""
        self.lost = asyncio.Event()
        """There is no way to an owner."""
        self.lost.set()
        self.is_disowned = False
        """The last owner said that it is none."""
        self._upstream: Callable[[Asked], None] | None = None
        self._questions: deque[tuple[int, asyncio.Future[None]]] = deque()
        self._censuses: deque[asyncio.Future[Sequence[Member]]] = deque()
        self._perform_one[Forward] = self._forward

    def join(self, member: Member, peer: Peer) -> Session:
        """Let a peer in, and tell the owner."""
        session = super().join(member, peer)
        self.perform(self.room.entered(session.number))
        return session

    def attach(self, upstream: Callable[[Asked], None]) -> None:
        """There is a way to an owner. `upstream` may not answer before it returns."""
        self._upstream = upstream
        self.is_disowned = False
        self.lost.clear()
        self.perform(self.room.attach(self._ticker.now()))

    def detach(self) -> None:
        """The way to the owner is gone. Calling it again does nothing."""
        self.room.detach()
        self._upstream = None
        self.lost.set()
        answers: list[asyncio.Future[Any]] = [*(answer for _, answer in self._questions), *self._censuses]
        self._questions.clear()
        self._censuses.clear()
        for answer in answers:
            if not answer.done():
                answer.set_exception(Unavailable("the way to the node that owns this diagram was lost"))

    async def up_to_date(self) -> None:
        """Wait until the document holds all that its owner has now. Raises Unavailable; takes no longer than
        the caller lets it.
        """
        await self.synced.wait()
        if self._upstream is None:
            raise Unavailable("there is no way to the node that owns this diagram")
        answer = asyncio.get_running_loop().create_future()
        self._questions.append((self.room.asked + 1, answer))
        self.perform(self.room.ask())
        await answer

    async def census(self) -> Sequence[Member]:
        """Who is in the room, on all nodes. Raises Unavailable; takes no longer than the caller lets it."""
        await self.synced.wait()
        if self._upstream is None:
            raise Unavailable("there is no way to the node that owns this diagram")
        answer: asyncio.Future[Sequence[Member]] = asyncio.get_running_loop().create_future()
        self._censuses.append(answer)
        self._upstream(Census())
        return await answer

    def hear(self, message: Answered) -> None:
        """Handle what the owner says. What cannot be handled ends this way to it, and nothing else."""
        if self._upstream is None:
            return
        if isinstance(message, Lost):
            self.is_disowned = message.is_disowned
            self.detach()
            return
        if isinstance(message, Counted):
            counted = self._censuses.popleft() if self._censuses else None
            if counted is not None and not counted.done():
                counted.set_result(message.members)
            return
        try:
            effects = self.room.hear(message, self._ticker.now())
        except Exception:
            self.faults += 1
            log.exception("room %s: what its owner said could not be handled", self.room.diagram)
            self.detach()
            return
        self.perform(effects)
        if self.room.is_synced and not self.synced.is_set():
            self.idle_since = self._ticker.now()
            self.synced.set()
        while self._questions and self._questions[0][0] <= self.room.answered:
            _, answer = self._questions.popleft()
            if not answer.done():
                answer.set_result(None)
        if self.room.is_over:
            self.detach()

    def _forward(self, effect: Forward) -> None:
        if self._upstream is not None:
            self._upstream(effect.message)  # type: ignore[arg-type]  # see Forward
