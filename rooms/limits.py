"""Bounds of all rooms of a process together."""

from dataclasses import dataclass, field

from rooms.database_watch import WatchLimits
from rooms.edits import RoomLimits
from rooms.handing_over import HandoverLimits
from rooms.journal import JournalLimits
from rooms.snapshots import SnapshotLimits


@dataclass(frozen=True, slots=True)
class RoomsLimits:
    """Bounds of all rooms together; times in seconds."""

    room: RoomLimits = field(default_factory=RoomLimits)
    journal: JournalLimits = field(default_factory=JournalLimits)
    snapshots: SnapshotLimits = field(default_factory=SnapshotLimits)
    handover: HandoverLimits = field(default_factory=HandoverLimits)
    watch: WatchLimits = field(default_factory=WatchLimits)
    idle_s: float = 30.0
    """A room without anybody is closed after this long."""
    memory_max_bytes: int = 1024 * 1024 * 1024
    """What the rooms may take together, by estimate, before those without anybody are closed early."""
    memory_hard_max_bytes: int = 2 * 1024 * 1024 * 1024
    """From here on no further room is opened, and open ones may grow by an eighth of it all together."""
    memory_sweep_s: float = 1.0
    """What the rooms take is looked at this often."""
    evict_after_s: float = 1.0
    """A room is not closed early before it has been without anybody for so long."""
    sweep_s: float = 0.25
    busy_sweep_s: float = 0.1
    """While documents wait to be freed, or the journal fills: what it holds is bounded by the sweep."""
    loads_at_once: int = 4
    load_timeout_s: float = 30.0
    early_bytes: int = 128 * 1024
    """Of what is stored: from here on whoever comes is let in before it is taken in (`rooms/arriving.py`). A
    smaller one is taken in within 4 ms.
    """
    read_timeout_s: float = 5.0
    """For reading a document from the node that owns it."""
    loads_waiting_max: int = 1000
    rights_retry_s: float = 0.5
    recent_change_s: float = 60.0
    """For this long after a change of rights, a newcomer's role is read once more after it joined."""
