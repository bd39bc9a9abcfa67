"""What a room asks to be done, as frozen data. The room decides; the runner in `rooms/hosting.py` acts.

Bodies are y-protocols bytes without any framing (see `crdt/messages.py`); sessions are named by number.
"""

from tmi.domain.roles import Role
from tmi.domain.values import value

SessionNumber = int


@value
class Send:
    """Send a body to one session."""

    session: SessionNumber
    body: bytes


@value
class SendState:
    """Complete the session's sync with the whole document: `base`, which many are sent, and what came later.

    The SyncStep2 goes last, so that a client is synced when it has everything.
    """

    session: SessionNumber
    base: bytes
    later: bytes


@value
class Broadcast:
    """Send a body to every subscribed session but `but` (the only one that needs no echo)."""

    body: bytes
    but: SessionNumber | None = None


@value
class Subscribe:
    """From now on the session receives broadcasts."""

    session: SessionNumber


@value
class Unsubscribe:
    """The session receives no more broadcasts: it left, or reads too slowly and will be brought up later."""

    session: SessionNumber


@value
class Acknowledge:
    """The session's next messages, in the order it sent them, are committed."""

    session: SessionNumber
    syncs: int
    updates: int


@value
class Refuse:
    """One edit of the session was not accepted."""

    session: SessionNumber
    reason: str


@value
class ChangeRole:
    """The session's role is another one now."""

    session: SessionNumber
    role: Role


@value
class Close:
    """End the session; the room has forgotten it already."""

    session: SessionNumber
    code: int
    reason: str


@value
class FlushAt:
    """Call `Room.flush` at this time (the room's clock, seconds); a time that has passed means at once."""

    at: float


@value
class Journal:
    """The room has updates to commit: ask `Room.take_batch` when its last batch is done."""


@value
class Forward:
    """A replica has something to say to the room's owner: one of `rooms.nodes.messages.Asked`."""

    message: object


Effect = (
    Send
    | SendState
    | Broadcast
    | Subscribe
    | Unsubscribe
    | Acknowledge
    | Refuse
    | ChangeRole
    | Close
    | FlushAt
    | Journal
    | Forward
)
Effects = tuple[Effect, ...] | list[Effect]
NOTHING: Effects = ()
