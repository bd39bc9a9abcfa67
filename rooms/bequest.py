"""What a room that stands down leaves to the replica with which its clients stay."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from crdt.awareness import Entry
from crdt.document import Document
from rooms.audience import Seat
from rooms.effects import SessionNumber
from tmi.domain.ids import Seq
from tmi.domain.ports import LoggedUpdate


@dataclass(frozen=True, slots=True)
class Bequest:
    """See the module's text."""

    document: Document
    seq: Seq
    seats: Mapping[SessionNumber, Seat]
    unsaved: Sequence[LoggedUpdate]
    """What it has applied and sent out, and does not know to be committed."""
    owed: Mapping[SessionNumber, Sequence[int]]
    """How many SyncStep2 and Update messages of whom wait for its commit."""
    present: Sequence[Entry]
    """Everybody's awareness."""
    said: Mapping[SessionNumber, Sequence[Entry]]
    """Who said what of it, of those who move."""
