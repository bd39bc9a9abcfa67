"""The shell around a replica: effects on real peers, and a way to the owner that may be lost."""

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, Literal

from rooms.bequest import Bequest
from rooms.effects import Effect, Forward
from rooms.hosting import Runner
from rooms.nodes.messages import Answered, Asked, Census, Counted, Hear, Lost, Tell
from rooms.nodes.replica import Replica
from rooms.peer import Member, Peer
from rooms.session import Session
from rooms.slices import Slices
from rooms.ticker import Ticker
from tmi.domain.errors import Unavailable
from tmi.domain.model import Node

log = logging.getLogger(__name__)

_WAITING_MAX_BYTES = 16 * 1024 * 1024
_WAITING_BYTES = 128
"""What it takes to keep a message besides its body, about."""


class ReplicaRunner(Runner[Replica]):
    """Performs what `room`, a replica, decides."""

    def __init__(self, replica: Replica, ticker: Ticker, slices: Slices | None = None) -> None:
        """`slices`: a large state is taken by steps."""
        super().__init__(replica, ticker)
        self._slices = slices
        self._beginning: asyncio.Task[None] | None = None
        """Takes the first state, while what the owner says waits."""
        self._unheard: list[Answered] = []
        self._unheard_bytes = 0
        self.synced = asyncio.Event()
        """The document is one that an owner had: newcomers may be answered."""
        self.lost = asyncio.Event()
        """There is no way to an owner."""
        self.lost.set()
        self.attached = asyncio.Event()
        """The opposite of `lost`."""
        self.is_counted = False
        """What it takes of memory is looked at."""
        self.is_disowned = False
        """The last owner said that it is none."""
        self.successor: Node | None = None
        """Where the last owner said to look."""
        self._upstream: Callable[[Asked], None] | None = None
        self._questions: deque[tuple[int, asyncio.Future[Literal[True] | None]]] = deque()
        self._censuses: deque[asyncio.Future[Sequence[Member] | None]] = deque()

    def join(self, member: Member, peer: Peer) -> Session:
        """Let a peer in, and tell the owner."""
        session = super().join(member, peer)
        self.perform(self.room.entered(session.number))
        return session

    def attach(self, upstream: Callable[[Asked], None]) -> None:
        """There is a way to an owner. `upstream` may not answer before it returns."""
        self._upstream = upstream
        self.is_disowned, self.successor = False, None
        self.lost.clear()
        self.attached.set()
        self.perform(self.room.attach(self._ticker.now()))

    def detach(self) -> None:
        """The way to the owner is gone. Calling it again does nothing."""
        self.room.detach()
        self._upstream = None
        if self._beginning is not None:
            self._beginning.cancel()
            self._beginning = None
        self._unheard, self._unheard_bytes = [], 0
        self.attached.clear()
        self.lost.set()
        unanswered: list[asyncio.Future[Any]] = [*(answer for _, answer in self._questions), *self._censuses]
        self._questions.clear()
        self._censuses.clear()
        for answer in unanswered:
            if not answer.done():
                answer.set_result(None)
        if self.room.is_over:
            self.attached.set()  # nobody waits for an owner any more

    async def up_to_date(self) -> None:
        """Wait until the document holds all that its owner has now, whoever that becomes meanwhile.

        Takes no longer than the caller lets it. Raises Unavailable where the room has ended.
        """
        while True:
            await self.attached.wait()
            if self.room.is_over:
                raise Unavailable("the diagram's room has ended")
            answer: asyncio.Future[Literal[True] | None] = asyncio.get_running_loop().create_future()
            self._questions.append((self.room.asked + 1, answer))
            self.perform(self.room.ask())
            if await answer:
                return

    def catch_up(self, left: Bequest) -> None:
        """See `Replica.catch_up`."""
        self.perform(self.room.catch_up(left))
        self.synced.set()

    def inherit(self, left: Bequest) -> None:
        """See `Replica.inherit`; the peers are here already."""
        self.perform(self.room.inherit(left))

    async def census(self) -> Sequence[Member]:
        """Who is in the room, on all nodes, as its owner says, whoever that becomes meanwhile.

        Takes no longer than the caller lets it. Raises Unavailable where the room has ended.
        """
        while True:
            await self.attached.wait()
            if self.room.is_over or self._upstream is None:
                raise Unavailable("the diagram's room has ended")
            answer: asyncio.Future[Sequence[Member] | None] = asyncio.get_running_loop().create_future()
            self._censuses.append(answer)
            self._upstream(Census())
            members = await answer
            if members is not None:
                return members

    def hear(self, message: Answered) -> None:
        """Handle what the owner says. What cannot be handled ends this way to it, and nothing else."""
        if self._upstream is None:
            return
        if isinstance(message, Lost):
            self.is_disowned, self.successor = message.is_disowned, message.successor
            self.detach()
            return
        if isinstance(message, Counted):
            counted = self._censuses.popleft() if self._censuses else None
            if counted is not None and not counted.done():
                counted.set_result(message.members)
            return
        if self._beginning is not None:
            self._wait(message)
        elif not self._begins_with(message):
            self._heard(message)

    def _begins_with(self, message: Answered) -> bool:
        """Whether it brings the first state, and that is being taken now."""
        state = None if self._slices is None else self.room.large_state_in(message)
        if self._slices is None or state is None:
            return False
        self._beginning = asyncio.get_running_loop().create_task(self._begin(self._slices, state, message))
        return True

    async def _begin(self, slices: Slices, state: bytes, message: Answered) -> None:
        try:
            if await slices.run(self.room.document.begin_by_steps(state)):
                message = self.room.without_state(message)
            unheard, self._unheard, self._unheard_bytes = self._unheard, [], 0
            self._beginning = None
            self._heard(message)
            for one in unheard:
                self.hear(one)
        except Exception:
            self._beginning = None
            self.faults += 1
            log.exception("room %s: the state that its owner sent could not be taken", self.room.diagram)
            self.detach()

    def _wait(self, message: Answered) -> None:
        """Until the first state is taken. Where too much waits, the owner is asked anew."""
        self._unheard.append(message)
        body = message.body if isinstance(message, Tell | Hear) else b""
        self._unheard_bytes += _WAITING_BYTES + len(body)
        if self._unheard_bytes > _WAITING_MAX_BYTES:
            log.warning("room %s: its owner said too much at once", self.room.diagram)
            self.detach()

    def _heard(self, message: Answered) -> None:
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
                answer.set_result(True)
        if self.room.is_over:
            self.detach()

    def _forward(self, effect: Forward) -> None:
        if self._upstream is not None:
            self._upstream(effect.message)  # type: ignore[arg-type]  # see Forward

    PERFORMERS: ClassVar[Mapping[type[Effect], Callable[..., None]]] = {
        **Runner.PERFORMERS,
        Forward: _forward,
    }
