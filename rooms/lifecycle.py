"""The life of a room, as a table.

A room exists in memory from the claim of its fence to its last commit. It never returns from the right side
of the table to OPEN: a diagram that is wanted again gets a new room, with a new fence.
"""

from enum import Enum, auto


class Phase(Enum):
    """Where a room is in its life."""

    OPEN = auto()
    """Sessions come and go, edits are applied."""
    CLOSING = auto()
    """No sessions any more; waits for its last commit."""
    CLOSED = auto()
    """Everything it accepted is committed, or another owner took over; it may be forgotten."""


class Happening(Enum):
    """What moves a room on."""

    IDLE = auto()
    """Nobody has been here for a while."""
    DRAIN = auto()
    """The node shuts down or hands the room over."""
    SAVED = auto()
    """The last accepted update is committed."""
    FENCE_LOST = auto()
    """Another owner has claimed the room."""
    LOG_REFUSED = auto()
    """The store refuses this room's rows for good."""
    DELETED = auto()
    """The diagram is gone."""


NEXT: dict[tuple[Phase, Happening], Phase] = {
    (Phase.OPEN, Happening.IDLE): Phase.CLOSING,
    (Phase.OPEN, Happening.DRAIN): Phase.CLOSING,
    (Phase.OPEN, Happening.SAVED): Phase.OPEN,
    (Phase.OPEN, Happening.FENCE_LOST): Phase.CLOSED,
    (Phase.OPEN, Happening.LOG_REFUSED): Phase.CLOSED,
    (Phase.OPEN, Happening.DELETED): Phase.CLOSED,
    (Phase.CLOSING, Happening.IDLE): Phase.CLOSING,
    (Phase.CLOSING, Happening.DRAIN): Phase.CLOSING,
    (Phase.CLOSING, Happening.SAVED): Phase.CLOSED,
    (Phase.CLOSING, Happening.FENCE_LOST): Phase.CLOSED,
    (Phase.CLOSING, Happening.LOG_REFUSED): Phase.CLOSED,
    (Phase.CLOSING, Happening.DELETED): Phase.CLOSED,
} | {(Phase.CLOSED, happening): Phase.CLOSED for happening in Happening}
