"""The ports: what the inside of TMI asks of the outside, in domain words.

Each has one contract test suite in `tests/contracts` that every adapter passes, the in-memory one included.
Any method may raise `DatabaseUnavailable` when the store does not answer; the caller may try again.
"""

from collections.abc import AsyncIterator, Callable, Collection, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import Enum
from typing import Literal, Protocol
from uuid import UUID

from tmi.domain.ids import (
    AuditId,
    CollaborationId,
    DiagramId,
    Fence,
    GroupId,
    NodeId,
    Seq,
    SignInId,
    ThreatModelId,
    UserId,
)
from tmi.domain.model import (
    Account,
    AuditEntry,
    AuthorizationCode,
    Collaboration,
    Diagram,
    Group,
    GroupMember,
    NewThreatModel,
    Node,
    SignIn,
    SigningKey,
    ThreatModel,
    ThreatModelSummary,
    Ticket,
    User,
)
from tmi.domain.roles import Grant, Role

# --- the update log -----------------------------------------------------------------------------


class Origin(Enum):
    """How an update reached the room; decides what its author may be said to have written."""

    UPDATE = "update"
    """An Update frame: its author made it."""
    SYNC = "sync"
    """A SyncStep2: its author brought it, and it may carry other users' edits."""
    REST = "rest"
    SERVER = "server"


@dataclass(frozen=True, slots=True)
class LoggedUpdate:
    """One accepted frame: one row of the log, never merged with another user's."""

    seq: Seq
    author: UserId | None
    origin: Origin
    data: bytes
    """A Yjs v1 update, as it arrived."""


@dataclass(frozen=True, slots=True)
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


# --- ownership ----------------------------------------------------------------------------------


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
    PEOPLE_CHANGED = "people_changed"
    """These users' roles may have changed anywhere: their groups did, or their accounts are gone."""


@dataclass(frozen=True, slots=True)
class Signal:
    """Something that every node has to know at once."""

    happened: Happened
    ids: tuple[UUID, ...]


class Signals(Protocol):
    """Reaches every service of this database."""

    async def publish(self, signal: Signal) -> None:
        """Tell all of them, this one included."""

    def hearing(self, handle: Callable[[Signal | None], None]) -> AbstractAsyncContextManager[None]:
        """While the body runs, `handle` is called with what is published; with None when some may have been
        missed.
        """


# --- who may do what ----------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Access:
    """What one user may do with one diagram, as the database has it now."""

    threat_model: ThreatModelId
    role: Role | None
    """None: the diagram exists, and the user has no role on its threat model."""


@dataclass(frozen=True, slots=True)
class Entrant:
    """Who asks to enter a diagram's room, and the sign-in session they speak for."""

    user: UserId
    sign_in: SignInId
    diagram: DiagramId


@dataclass(frozen=True, slots=True)
class Standing:
    """What the database says of an entrant."""

    signed_in: bool
    """The session stands, and is this user's."""
    exists: bool
    """There is such a diagram."""
    role: Role | None


class AccessControl(Protocol):
    """Looks roles up: the highest matching grant wins, `everyone` and the user's groups included."""

    async def to_diagram(self, user: UserId, diagram: DiagramId) -> Access:
        """The user's access to a diagram. Raises NotFound."""

    async def to_threat_model(self, user: UserId, model: ThreatModelId) -> Role | None:
        """The user's role on a threat model. Raises NotFound."""

    async def to_diagram_of_all(
        self, users: Sequence[UserId], diagram: DiagramId
    ) -> Mapping[UserId, Role | None]:
        """The roles of many users on one diagram, in one query. Raises NotFound."""

    async def standings(self, entrants: Sequence[Entrant]) -> Sequence[Standing]:
        """How each of many entrants stands, in their order and in one query."""


# --- threat models and diagrams -----------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Page:
    """A slice of a list: `limit` 1 to 100, `offset` from 0."""

    limit: int
    offset: int


@dataclass(frozen=True, slots=True)
class ThreatModelChange:
    """The new values of a PATCH; None leaves a field as it is, `clear_description` empties it."""

    name: str | None = None
    description: str | None = None
    clear_description: bool = False
    grants: tuple[Grant, ...] | None = None


class ThreatModels(Protocol):
    """Threat models with their authorization lists."""

    async def create(self, creator: User, new: NewThreatModel) -> ThreatModel:
        """Store a new threat model; `creator` gets the owner role besides `new.grants`."""

    async def visible_to(self, user: UserId, page: Page) -> tuple[Sequence[ThreatModelSummary], int]:
        """A page of the threat models on which the user has a role, newest first, and their total."""

    async def get(self, model: ThreatModelId) -> ThreatModel:
        """Raises NotFound."""

    async def update(
        self,
        model: ThreatModelId,
        expected_version: int,
        change: ThreatModelChange,
        entry: AuditEntry | None = None,
    ) -> ThreatModel:
        """Apply a change, together with its entry of the system audit if it has one.

        Raises NotFound, Conflict (another write came first) and LastOwner.
        """

    async def delete(self, model: ThreatModelId) -> Sequence[DiagramId]:
        """Delete with everything in it; returns the diagrams that went with it. Raises NotFound."""


class Diagrams(Protocol):
    """Metadata of diagrams."""

    async def create(self, model: ThreatModelId, name: str, type_: str, description: str | None) -> Diagram:
        """Raises NotFound when the threat model does not exist."""

    async def of_threat_model(self, model: ThreatModelId, page: Page) -> tuple[Sequence[Diagram], int]:
        """A page of a threat model's diagrams, oldest first, and their total. Raises NotFound."""

    async def get(self, model: ThreatModelId, diagram: DiagramId) -> Diagram:
        """Raises NotFound, also when the diagram belongs to another threat model."""

    async def delete(self, model: ThreatModelId, diagram: DiagramId) -> None:
        """Delete a diagram with its log and snapshots. Raises NotFound."""

    async def ids_of(self, model: ThreatModelId) -> Sequence[DiagramId]:
        """Every diagram of a threat model (at most 10,000)."""


# --- collaboration ------------------------------------------------------------------------------


class Collaborations(Protocol):
    """Collaboration sessions, at most one of each diagram."""

    async def begin(
        self, model: ThreatModelId, diagram: DiagramId, host: UserId
    ) -> tuple[Collaboration, bool]:
        """The session of a diagram, and whether it was begun just now. One without a host gets this one.

        Raises NotFound, also when the diagram belongs to another threat model.
        """

    async def of_diagram(self, model: ThreatModelId, diagram: DiagramId) -> Collaboration | None:
        """The session of a diagram, if there is one. Raises NotFound, also when the diagram belongs to
        another threat model.
        """

    async def get(self, collaboration: CollaborationId) -> Collaboration:
        """Raises NotFound."""

    async def end(self, collaboration: CollaborationId) -> bool:
        """End a session and forget its tickets. False if there was none."""


class Tickets(Protocol):
    """Tickets for live sockets: each is good once and for a moment. Stored as SHA-256 only."""

    async def issue(self, ticket: str, grant: Ticket, ttl: timedelta) -> None:
        """Remember a ticket. Raises NotFound when its collaboration session has ended."""

    async def redeem(self, ticket: str) -> Ticket | None:
        """Take a ticket out, once: None if unknown, used before, past its time, or its session has ended."""


# --- sign-in ------------------------------------------------------------------------------------


class Users(Protocol):
    """People who have signed in."""

    async def sign_in(self, provider: str, provider_id: str, email: str, name: str) -> User:
        """Find or create the user that a provider vouches for, and keep e-mail and name current."""

    async def get(self, user: UserId) -> User:
        """Raises NotFound."""

    async def get_all(self, users: Sequence[UserId]) -> Mapping[UserId, User]:
        """Those of `users` (at most 5,000) that there are, in one query."""


@dataclass(frozen=True, slots=True)
class AccountFilter:
    """Which accounts to list, and in which order. Texts are parts of what is looked for, in any case."""

    provider: str | None = None
    email: str | None = None
    name: str | None = None
    created_after: datetime | None = None
    created_before: datetime | None = None
    last_login_after: datetime | None = None
    last_login_before: datetime | None = None
    sort_by: Literal["created_at", "last_login", "email", "name"] = "created_at"
    descending: bool = True


@dataclass(frozen=True, slots=True)
class AccountChange:
    """New values of an account; None leaves a field as it is."""

    email: str | None = None
    name: str | None = None
    email_verified: bool | None = None


class Accounts(Protocol):
    """Users as administrators see them. What is written is written together with its audit entry."""

    async def matching(self, wanted: AccountFilter, page: Page) -> tuple[Sequence[Account], int]:
        """A page (here `limit` may be 0 to 1,000) of the accounts, and their total."""

    async def get(self, user: UserId) -> Account:
        """Raises NotFound."""

    async def change(self, user: UserId, change: AccountChange, entry: AuditEntry) -> Account:
        """Raises NotFound."""

    async def delete(self, user: UserId, entry: AuditEntry) -> Sequence[DiagramId]:
        """Delete an account with its sign-ins and its place in every authorization list. Threat models that
        have no owner left go with it; returns their diagrams. Raises NotFound.
        """

    async def transfer(self, source: UserId, target: UserId, entry: AuditEntry) -> Sequence[ThreatModelId]:
        """Make `target` an owner of all that `source` owns by name, and `source` a writer there; returns
        these threat models, at most 10,000 at a time. Raises NotFound, and BadInput when both are the same.
        """


class Challenges(Protocol):
    """Texts by which people confirm that their account shall be deleted; one at a time for each."""

    async def issue(self, user: UserId, challenge: str, ttl: timedelta) -> None:
        """Remember a challenge in place of an earlier one."""

    async def redeem(self, user: UserId, challenge: str) -> bool:
        """Take it out, once: False if it is another one, or past its time."""


@dataclass(frozen=True, slots=True)
class GroupFilter:
    """Which groups to list, and in which order."""

    provider: str | None = None
    name: str | None = None
    """A part of it, in any case."""
    is_used: bool | None = None
    """In authorization lists."""
    is_builtin: bool | None = None
    by_name: bool = False
    """Otherwise by age."""
    descending: bool = True


class Groups(Protocol):
    """Groups of users. What is written is written together with its audit entry."""

    async def matching(self, wanted: GroupFilter, page: Page) -> tuple[Sequence[Group], int]:
        """A page (here `limit` may be 0 to 1,000) of the groups, and their total."""

    async def get(self, group: GroupId) -> Group:
        """Raises NotFound."""

    async def create(self, name: str, title: str, description: str | None, entry: AuditEntry) -> Group:
        """Create a group of this service. Raises Conflict when there is one of that name."""

    async def change(
        self, group: GroupId, title: str | None, description: str | None, entry: AuditEntry
    ) -> Group:
        """Change what is not None. Raises NotFound."""

    async def delete(self, group: GroupId, entry: AuditEntry) -> Sequence[UserId]:
        """Delete a group, also from authorization lists; returns who was a member (at most 10,000). Raises
        NotFound, Forbidden for a built-in group, and LastOwner where a threat model has no other owner.
        """


class Memberships(Protocol):
    """Who is in which group. What is written is written together with its audit entry."""

    async def of_group(self, group: GroupId, page: Page) -> tuple[Sequence[GroupMember], int]:
        """A page (here `limit` may be 0 to 1,000), oldest first, and the total. Raises NotFound."""

    async def of_user(self, user: UserId) -> Sequence[tuple[GroupId, str, str]]:
        """Id, name and title of the groups (at most 100) that a user is a member of, without `everyone`."""

    async def add(
        self, group: GroupId, user: UserId, by: UserId, notes: str | None, entry: AuditEntry
    ) -> GroupMember:
        """Raises NotFound, Conflict for a member, and Forbidden for `everyone`."""

    async def remove(self, group: GroupId, user: UserId, entry: AuditEntry) -> None:
        """Raises NotFound, and Forbidden for `everyone`."""


@dataclass(frozen=True, slots=True)
class AuditFilter:
    """Which entries to list."""

    email: str | None = None
    provider: str | None = None
    after: datetime | None = None
    before: datetime | None = None
    method: str | None = None
    path_prefix: str | None = None
    what: str | None = None


@dataclass(frozen=True, slots=True)
class AuditPage:
    """A page of the audit, newest first."""

    entries: Sequence[AuditEntry]
    total: int
    older: int | None
    """Where the next page begins; None at the end."""
    newer: int | None
    """Where the page before begins; None at the newest end."""


class Audit(Protocol):
    """The system audit. Entries are never changed."""

    async def record(self, entry: AuditEntry) -> None:
        """Add an entry of its own."""

    async def page(self, wanted: AuditFilter, limit: int, cursor: int | None, *, newer: bool) -> AuditPage:
        """The entries after (`newer`: before) a place in the list, from its newest end without one."""

    async def place_of(self, entry: AuditId) -> int:
        """The cursor from which on a page begins with this entry. Raises NotFound."""

    async def get(self, entry: AuditId) -> AuditEntry:
        """Raises NotFound."""

    async def purge(self, before: datetime, rows: int) -> int:
        """Delete up to `rows` entries that are older; returns how many went."""


class SignIns(Protocol):
    """Sign-in sessions, authorization codes and refresh tokens. Secrets are stored as SHA-256 only."""

    async def issue_code(self, code: str, grant: AuthorizationCode, ttl: timedelta) -> None:
        """Remember an authorization code."""

    async def redeem_code(self, code: str) -> AuthorizationCode | None:
        """Take a code out, once: None if unknown, used before or past its time."""

    async def start(self, user: UserId, refresh_token: str, ttl: timedelta) -> SignIn:
        """Begin a session whose first refresh token is given."""

    async def rotate(self, refresh_token: str, successor: str, ttl: timedelta) -> SignIn | None:
        """Exchange a refresh token. None if unknown or expired; one used before ends its whole session."""

    async def get(self, sign_in: SignInId) -> SignIn | None:
        """The session if it still stands: None once it ended, was revoked or expired."""


class SigningKeys(Protocol):
    """Keys for signing tokens, shared by all nodes."""

    async def current(self) -> Sequence[SigningKey]:
        """All usable keys, newest first."""

    async def add_first(self, key: SigningKey) -> Sequence[SigningKey]:
        """Store `key` unless another node was first; returns what `current` would."""


# --- limits -------------------------------------------------------------------------------------


class RateLimits(Protocol):
    """Counts of requests, of all nodes together where they can reach each other."""

    async def hit(self, key: str, window_s: int) -> int:
        """Count a request in the window that is now; returns how many it has had, this one included.

        Windows of `window_s` seconds begin at multiples of it of Unix time. Never raises.
        """


class Tallies(Protocol):
    """What is open on the other nodes."""

    async def exchange(self, counts: Mapping[str, int]) -> Mapping[str, int]:
        """Tell the others what is open here; returns what they told last, summed up. Raises Unavailable."""


# --- health -------------------------------------------------------------------------------------


class Database(Protocol):
    """The database as the program's life cycle sees it."""

    async def migrate(self) -> Sequence[str]:
        """Apply missing migrations under an advisory lock; returns the names of those applied."""

    async def ping(self, timeout_s: float) -> bool:
        """Whether a query is answered in time. Never raises."""

    def hold_single_writer_lock(
        self, *, among_nodes: bool = False
    ) -> AbstractAsyncContextManager[AsyncIterator[bool]]:
        """Hold the lock that keeps a second service without Redis off this database.

        `among_nodes`: this service has Redis, and shares the lock with others that have it. Raises Conflict
        if another service holds it. The iterator yields False when the connection behind the lock was lost,
        True when it was won back; it ends when another service has taken it.
        """
