"""Documents and who owns them: the update log, ownership of rooms, signals between nodes."""

from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from enum import Enum
from typing import Protocol
from uuid import UUID

from tmi.domain.ids import DiagramId, Fence, NodeId, Seq, UserId
from tmi.domain.model import Node
from tmi.domain.values import value


class Origin(Enum):
    """How an update reached the room; decides what its author may be said to have written."""

    UPDATE = "update"
    """An Update frame: its author made it."""
    SYNC = "sync"
    """A SyncStep2: its author brought it, and it may carry other users' edits."""
    REST = "rest"
    SERVER = "server"


@value
class LoggedUpdate:
    """One accepted frame: one row of the log, never merged with another user's."""

    seq: Seq
    author: UserId | None
    origin: Origin
    data: bytes
    """A Yjs v1 update, as it arrived."""


@value
class RoomBatch:
    """What one room adds to the log in one group commit: consecutive `seq`, in order."""

    diagram: DiagramId
    fence: Fence
    updates: tuple[LoggedUpdate, ...]


@dataclass(frozen=True, slots=True)
class AppendResult:
    """What a group commit did, room by room; every room of the call is in exactly one of the three."""

    committed: frozenset[DiagramId]
    stale: frozenset[DiagramId]
    """The fence had risen, or the diagram is gone: nothing of this room was inserted."""
    failed: Mapping[DiagramId, str]
    """The room's own rows were refused by the store, and why. Others are not affected."""


@dataclass(frozen=True, slots=True)
class StoredDocument:
    """What the log holds of a document: the newest snapshot and every update after it, in order."""

    snapshot: bytes | None
    snapshot_seq: Seq
    """0 without a snapshot."""
    tail: tuple[bytes, ...]
    seq: Seq
    """The last committed number; `snapshot_seq` where the tail is empty."""
    is_whole: bool = False
    """Nothing in the snapshot waits for a predecessor that is missing."""


class UpdateLog(Protocol):
    """The append-only log of all documents, with snapshots that bound loading and delete nothing."""

    async def claim(self, diagram: DiagramId, owner: str) -> Fence:
        """Raise the diagram's fence and return it. Raises NotFound when the diagram does not exist.

        Read the log only after this has returned: what a former owner committed until then is in it, and
        what it tries later is refused.
        """

    async def load(self, diagram: DiagramId) -> StoredDocument:
        """Read the committed document. Raises NotFound when the diagram does not exist."""

    async def append(self, batches: Sequence[RoomBatch]) -> AppendResult:
        """Commit all batches in one transaction, each only if its fence still stands.

        Idempotent: the same batch again, after an answer that was lost, counts as committed.
        Raises DatabaseUnavailable when it is not known whether anything was committed.
        """

    async def save_snapshot(
        self, diagram: DiagramId, fence: Fence, seq: Seq, state: bytes, *, is_whole: bool = False
    ) -> bool:
        """Store the document's state after the committed update `seq`. False if the fence had risen."""


@dataclass(frozen=True, slots=True)
class Tenure:
    """What the log's fence says of a room's owner."""

    fence: Fence
    owner: Node | None
    """None where nobody owns the room, and where the owner did not say how it is reached."""
    is_free: bool
    """Nobody owns it: it was never claimed, or given up."""
    unseen_s: float
    """Seconds since the owner was last heard of, by the store's clock."""


class Ownership(Protocol):
    """The rows of the fences: who may write, where that node is reached, and when it was last seen."""

    async def claim(
        self, diagram: DiagramId, owner: Node, spared: Collection[NodeId] = (), after: Fence | None = None
    ) -> Fence:
        """Raise the diagram's fence and return it; as `UpdateLog.claim`, and says who the owner is.

        Raises NotFound, OwnedElsewhere if a spared node owns it, and Conflict if the fence is not `after`.
        """

    async def find(self, diagram: DiagramId) -> Tenure:
        """Who owns a room. Raises NotFound."""

    async def renew(self, held: Mapping[DiagramId, Fence]) -> frozenset[DiagramId]:
        """Say that the owner of these rooms lives. Returns those whose fence still stands."""

    async def release(self, diagram: DiagramId, owner: NodeId, fence: Fence) -> None:
        """Let nobody own the room. Its fence stands, for appends too, until the next claim. Does nothing if
        it was claimed again.
        """


class Coordinator(Protocol):
    """Says which node owns which room. It advises: the fence in the update log decides."""

    async def claim(self, diagram: DiagramId, disowned: NodeId | None = None) -> Fence:
        """Become the owner: the fence is raised. `disowned` is a node that says the room is not its own,
        whatever is recorded.

        Raises NotFound (no such diagram), OwnedElsewhere (by a node that is alive) or Unavailable.
        """

    async def release(self, diagram: DiagramId, fence: Fence) -> None:
        """Give a room up after its last commit. Does nothing for one that is no longer ours; never raises."""

    async def owner(self, diagram: DiagramId) -> Node | None:
        """The other node that owns a room and is alive; None where there is none, or nobody knows."""

    def peers(self) -> Sequence[Node]:
        """The other nodes that are alive, as last heard."""

    async def withdraw(self) -> None:
        """Let the others know that this node is draining. It keeps what it has. Never raises."""


class Happened(Enum):
    """What nodes tell each other, so that open sockets follow."""

    ACCESS_CHANGED = "access_changed"
    """Roles on these diagrams may have changed."""
    DELETED = "deleted"
    """These diagrams are gone."""
    SIGN_IN_ENDED = "sign_in_ended"
    """These sign-in sessions are over."""
    COLLABORATION_ENDED = "collaboration_ended"
    """These collaboration sessions are over."""
    SETTINGS_CHANGED = "settings_changed"
    """Quotas of these users, or settings (see tmi/domain/configuration.py)."""
    PEOPLE_CHANGED = "people_changed"
    """These users' roles may have changed anywhere: their groups did, or their accounts are gone."""
    KEYS_CHANGED = "keys_changed"
    """There are other keys to sign tokens with; the ids are those of the keys."""


@dataclass(frozen=True, slots=True)
class Signal:
    """Something that every node has to know at once."""

    happened: Happened
    ids: tuple[UUID, ...]


class Hearing(Protocol):
    """An ear to the signals."""

    def unsure_s(self) -> float:
        """Every signal that was published more than so many seconds ago has been handed over. Infinite while
        nothing is heard.
        """


class Signals(Protocol):
    """Reaches every service of this database."""

    @property
    def told_at_commit(self) -> frozenset[Happened]:
        """What the store tells by itself as a change is committed, so that nobody has to publish it."""

    async def publish(self, signal: Signal) -> None:
        """Tell all of them, this one included."""

    def hearing(self, handle: Callable[[Signal | None], None]) -> AbstractAsyncContextManager[Hearing]:
        """While the body runs, `handle` is called with what is published; with None when some may have been
        missed.
        """
