"""The shell around one room: what `rooms/hosting.py` does for any document, and the journal's side of it."""

from collections.abc import Callable

from crdt.document import Document
from rooms.effects import Journal
from rooms.hosting import Runner, Session
from rooms.peer import Follower
from rooms.room import Room
from rooms.ticker import Ticker
from tmi.domain.ids import UserId
from tmi.domain.ports import Origin

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
        self._on_journal = on_journal
        self._perform_one[Journal] = self._journal

    def follow(self, follower: Follower) -> Session:
        """Let a node in that follows the room; the room's phase must be OPEN."""
        return self._enter(self.room.follow(), follower)

    def edit(self, change: Callable[[Document], bytes | None], author: UserId | None, origin: Origin) -> None:
        """Change the document from the server's side."""
        self.settle()
        self.perform(self.room.edit(change, author, origin, self._ticker.now()))

    def committed(self) -> None:
        """The batch in flight is committed."""
        room = self.room
        unsaved, unsaved_bytes = room.unsaved, room.unsaved_bytes
        effects = room.committed()
        self.tail_weight += unsaved_bytes - room.unsaved_bytes + (unsaved - room.unsaved) * UPDATE_WEIGHT
        self.perform(effects)

    def _journal(self, _effect: Journal) -> None:
        self._on_journal(self)
