"""The shell around one room: what `rooms/hosting.py` does for any document, and the journal's side of it."""

import asyncio
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import ClassVar

from crdt.document import Document
from rooms.effects import Effect, Effects, Journal, SessionNumber
from rooms.hosting import Runner
from rooms.nodes.following import ReplicaRunner
from rooms.pacing import Fading
from rooms.peer import Follower, Peer
from rooms.room import Room
from rooms.session import Session
from rooms.ticker import Ticker
from tmi.domain.ids import NodeId, Seq, UserId
from tmi.domain.ports import Origin

_RATE_S = 10.0
UPDATE_WEIGHT = 64
"""What replaying one more update costs, in bytes of state that cost the same."""


class RoomRunner(Runner[Room]):
    """Performs what `room` decides. `on_journal` is told when there is something to commit."""

    def __init__(self, room: Room, ticker: Ticker, on_journal: Callable[["RoomRunner"], None]) -> None:
        super().__init__(room, ticker)
        self.snapshot_bytes = 0
        """Size of the newest snapshot."""
        self.tail_weight = 0
        """What loading would have to replay after it, in bytes, with a share for each update."""
        self.on_fence_lost: Callable[[RoomRunner], None] | None = None
        """Called when another node owns the room; None: its clients are closed."""
        self.committed_at: float | None = None
        """When its last commit was (the rooms' clock); None: there was none since it was opened."""
        self.edits = Fading(_RATE_S)
        """Updates committed."""
        self._on_journal = on_journal
        self._nodes: dict[SessionNumber, Follower] = {}
        self._saving: deque[tuple[Seq, asyncio.Future[bool]]] = deque()
        """Who waits for the commit of which update, in order."""

    def follow(self, follower: Follower) -> Session:
        """Let a node in that follows the room; the room's phase must be OPEN."""
        session = self._enter(self.room.follow(), follower)
        self._nodes[session.number] = follower
        return session

    @property
    def nodes(self) -> int:
        """How many other nodes follow the room."""
        return sum(follower.node is not None for follower in self._nodes.values())

    def is_followed_by(self, node: NodeId) -> bool:
        """Whether that node does."""
        return any(follower.node == node for follower in self._nodes.values())

    def stand_down(self, replica: ReplicaRunner | None) -> Sequence[Follower]:
        """Let the clients of this node go on with a replica, if one is given; nobody is here afterwards.

        Returns the nodes that followed, which wait for `Follower.let_go`.
        """
        self.large_edits.finish()
        self.perform(self.room.flush_all(self._ticker.now()))
        nodes, self._nodes = self._nodes, {}
        numbers = self.clients
        bequest = self.room.bequeath(numbers)
        if replica is not None:
            replica.catch_up(bequest)
            self.hand_to(replica, numbers)
            replica.inherit(bequest)
        for follower in nodes.values():
            follower.freeze()
        return list(nodes.values())

    def _forget(self, number: SessionNumber) -> Peer | None:
        self._nodes.pop(number, None)
        return super()._forget(number)

    def edit(
        self,
        change: Callable[[Document], bytes | None],
        author: UserId | None,
        origin: Origin,
        at_most_bytes: int = 0,
    ) -> None:
        """Change the document from the server's side. Raises TooLarge."""
        self.settle()
        self.perform(self.room.edit(change, author, origin, self._ticker.now(), at_most_bytes))

    def saved(self, seq: Seq) -> "asyncio.Future[bool]":
        """Whether this room has committed the update of this number, once that is known. False: it ended
        before, and whoever owns the room next may commit it, or nobody.
        """
        answer: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self._saving.append((seq, answer))
        self._tell_saved()
        self.hurry()
        return answer

    @property
    def is_awaited(self) -> bool:
        """Somebody waits for its next commit."""
        return bool(self._saving) or self.room.is_awaited

    def hurry(self) -> None:
        """Somebody waits for the next commit by now: tell the journal."""
        if self.room.is_to_be_taken:
            self._on_journal(self)

    def _tell_saved(self) -> None:
        room = self.room
        while self._saving and (self._saving[0][0] <= room.committed_seq or room.is_over):
            seq, answer = self._saving.popleft()
            if not answer.done():
                answer.set_result(seq <= room.committed_seq)

    def end(self, how: Callable[[float], Effects]) -> None:
        """See `Runner.end`."""
        super().end(how)
        self._tell_saved()
        self.hurry()

    def bring(
        self, number: SessionNumber, update: bytes, author: UserId | None, origin: Origin
    ) -> None:
        """A node brings what a former owner accepted."""
        self.perform(self.room.bring(number, update, author, origin, self._ticker.now()))

    def committed(self) -> None:
        """The batch in flight is committed."""
        room = self.room
        updates, size = (0, 0) if room.is_over else (room.in_flight, room.bytes_in_flight)
        effects = room.committed()
        self.committed_at = self._ticker.now()
        self.edits.count(self.committed_at, updates)
        self.tail_weight += size + updates * UPDATE_WEIGHT
        if effects:
            self.perform(effects)
        if self._saving:
            self._tell_saved()

    def fence_lost(self) -> None:
        """Another node owns the room, says the log."""
        if self.on_fence_lost is None or not self.room.is_open:
            self.end(self.room.fence_lost)
        else:
            self.on_fence_lost(self)

    def _journal(self, _effect: Journal) -> None:
        self._on_journal(self)

    PERFORMERS: ClassVar[Mapping[type[Effect], Callable[..., None]]] = {
        **Runner.PERFORMERS,
        Journal: _journal,
    }
