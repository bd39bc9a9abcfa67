"""What a socket holds on to: one member's presence in one room, whoever hosts the room."""

from collections.abc import Callable
from typing import Protocol

from crdt.messages import Awareness, Message, QueryAwareness, SyncStep1, Update
from rooms.effects import Effects, SessionNumber
from rooms.gathering import Source
from rooms.peer import Peer


class Holding(Protocol):
    """What may hold edits and presence until its next tick (`rooms/audience.py`)."""

    def hold(self, number: SessionNumber, update: bytes, /) -> bool:
        """Whether the edit is held; else it is to be received at once."""

    def hold_awareness(self, number: SessionNumber, data: bytes, /) -> bool:
        """The same for presence."""


class Host(Protocol):
    """Who has the room's sessions and does what the room asks for (`rooms/hosting.py`), or has them while the
    room is being opened (`rooms/arriving.py`).
    """

    @property
    def room(self) -> Holding:
        """The room, or a replica of one."""

    def receive(self, number: SessionNumber, message: Message) -> None:
        """Hand a message of a session to the room."""

    def receive_update(self, number: SessionNumber, update: bytes) -> None:
        """As `receive`, for what an Update message carries."""

    def answer(self, session: "Session", message: SyncStep1 | QueryAwareness, /) -> Effects:
        """Have the room answer a question; returns what was done for it."""

    def perform(self, effects: Effects) -> None:
        """Do what the room asks for, in order."""

    def failed(self, number: SessionNumber) -> None:
        """What a session sent could not be handled, and that is our fault: end it."""

    def worked(self, session: "Session", took_s: float) -> None:
        """A session pays for so many seconds of work."""

    def take_turn(self, session: "Session", /) -> int:
        """Answer a session whose turn has come; how much that was, in bytes."""

    def gather(self, source: Source) -> None:
        """Read this source when a tick is due, if the room is busy."""

    def pause(self, number: SessionNumber) -> None:
        """Stop broadcasts to a slow reader."""

    def resume(self, number: SessionNumber) -> None:
        """Bring a slow reader up to date."""

    def end_session(self, number: SessionNumber, code: int, reason: str) -> None:
        """Close one session."""

    def leave(self, number: SessionNumber) -> None:
        """A session's connection is gone."""

    def later(self, callback: Callable[[], None]) -> None:
        """Call back at the end of this turn of the loop."""


class Session:
    """See the module's text."""

    __slots__ = ("has_edited", "is_served", "number", "peer", "runner", "source")

    def __init__(self, runner: Host, number: SessionNumber, peer: Peer) -> None:
        self.runner = runner
        """Who hosts it at present."""
        self.number = number
        """The room's number for it."""
        self.peer = peer
        self.has_edited = False
        """Since that was gathered last (`Runner.edited`)."""
        self.is_served = False
        """It was sent the document, as everybody is once; what it asks for again counts as its own."""
        self.source: Source | None = None
        """The socket, where nothing but this session depends on when it is read."""

    def receive(self, message: Message) -> None:
        """Hand a message to the room. A client's fault closes its peer with 4400; nothing is raised."""
        if isinstance(message, Update):
            self.has_edited = True
        self.runner.receive(self.number, message)

    def receive_update(self, update: bytes) -> None:
        """Hand over what an Update message carries; as `receive`, and cheaper."""
        self.has_edited = True
        if not self.runner.room.hold(self.number, update):
            self.runner.receive_update(self.number, update)
        elif self.source is not None and self.source.gathering is None:
            self.runner.gather(self.source)

    def receive_awareness(self, data: bytes) -> None:
        """Hand over what an Awareness message carries; as `receive`, and cheaper."""
        if not self.runner.room.hold_awareness(self.number, data):
            self.runner.receive(self.number, Awareness(data))
        elif self.source is not None and self.source.gathering is None:
            self.runner.gather(self.source)

    def pause(self) -> None:
        """The socket's write buffer has passed its high mark: no more broadcasts until `resume`."""
        # The buffer may fill up in the middle of a broadcast, and `pause` flushes: wait for this turn's end.
        self.runner.later(lambda: self.runner.pause(self.number))

    def resume(self) -> None:
        """The write buffer has drained: bring the peer up to date."""
        self.runner.later(lambda: self.runner.resume(self.number))

    def leave(self) -> None:
        """The connection is gone. Calling it again does nothing."""
        self.runner.leave(self.number)
