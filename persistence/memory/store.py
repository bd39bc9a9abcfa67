"""What the in-memory adapters share: the tables, a clock, and a switch that takes the database away."""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta

from persistence.memory.webhook_tables import WebhookTables
from tmi.domain.children import Child
from tmi.domain.configuration import StoredSetting
from tmi.domain.errors import DatabaseUnavailable, NotFound
from tmi.domain.events import Event
from tmi.domain.ids import (
    ChildId,
    CredentialId,
    DiagramId,
    Fence,
    GroupId,
    Seq,
    SignInId,
    ThreatModelId,
    UserId,
)
from tmi.domain.model import (
    ADMINISTRATORS_GROUP,
    EVERYONE_GROUP,
    AuditEntry,
    AuthorizationCode,
    Collaboration,
    Diagram,
    Group,
    GroupMember,
    Node,
    SigningKey,
    ThreatModel,
    Ticket,
    User,
)
from tmi.domain.ports import LoggedUpdate, Signal
from tmi.domain.quotas import Quota
from tmi.domain.sign_in import PendingAuthorization
from tmi.domain.webhooks import notice_of_audit


def _now() -> datetime:
    return datetime.now(UTC)


NEVER_CLAIMED = Fence(0)


@dataclass(slots=True)
class RoomLog:
    """The log of one diagram: its fence, and its rows with the fence under which each was written."""

    fence: Fence = NEVER_CLAIMED
    owner: str | None = None
    named: tuple[Fence, Node] | None = None
    """Who claimed it last and said where it is reached, and with which fence."""
    seen_at: float = float("-inf")
    """When that one was last heard of (time.monotonic)."""
    rows: list[tuple[Fence, LoggedUpdate]] = field(default_factory=list)
    times: list[datetime] = field(default_factory=list)
    """When each row was written."""
    told: int = 0
    """Up to which row the trail tells of its edits."""
    snapshots: dict[Seq, tuple[bytes, bool]] = field(default_factory=dict)
    """Their state, and whether it is whole."""


@dataclass(slots=True)
class AccountRow:
    """What is kept of a user besides the user."""

    modified_at: datetime | None = None
    last_login: datetime | None = None


def _built_in() -> dict[GroupId, Group]:
    now = _now()
    names = (
        (EVERYONE_GROUP, "everyone", "Everyone"),
        (ADMINISTRATORS_GROUP, "administrators", "Administrators"),
    )
    return {key: Group(key, "tmi", name, title, None, True, now, now, 0, 0) for key, name, title in names}


@dataclass(slots=True)
class Session:
    """A row of sign_ins."""

    user: UserId
    expires_at: datetime
    ended: bool = False
    started_at: datetime = field(default_factory=_now)
    refreshed_at: datetime | None = None
    client: str | None = None
    credential: CredentialId | None = None


@dataclass(slots=True)
class StoredCredential:
    """A row of client_credentials."""

    user: UserId
    client_id: str
    secret_hash: bytes
    name: str
    description: str | None
    created_at: datetime
    modified_at: datetime
    expires_at: datetime | None
    is_active: bool = True
    last_used_at: datetime | None = None

    def is_good(self, now: datetime) -> bool:
        """Whether it is active and has not expired."""
        return self.is_active and (self.expires_at is None or self.expires_at > now)


@dataclass(slots=True)
class StoredRefreshToken:
    """A row of refresh_tokens; its key is the token's SHA-256."""

    sign_in: SignInId
    expires_at: datetime
    used: bool = False


@dataclass(slots=True)
class MemoryStore:
    """The tables. Every adapter calls `visit` first, so that failures can be injected at one place."""

    clock: Callable[[], datetime] = _now
    unavailable: bool = False
    """True: every call raises DatabaseUnavailable."""
    fail_next: Exception | None = None
    """The next call raises it, once, before it does anything."""

    users: dict[UserId, User] = field(default_factory=dict)
    groups: dict[tuple[str, str], set[UserId]] = field(default_factory=dict)
    """The members of groups by (provider, provider_id)."""
    group_rows: dict[GroupId, Group] = field(default_factory=_built_in)
    memberships: dict[tuple[GroupId, UserId], GroupMember] = field(default_factory=dict)
    accounts: dict[UserId, AccountRow] = field(default_factory=dict)
    challenges: dict[UserId, tuple[bytes, datetime]] = field(default_factory=dict)
    audit: dict[int, AuditEntry] = field(default_factory=dict)
    """Entries by their number, which rises."""
    last_audit: int = 0
    events: dict[int, Event] = field(default_factory=dict)
    """The trail of threat models by number, which rises."""
    last_event: int = 0
    event_listeners: list[Callable[[ThreatModelId | None], None]] = field(default_factory=list)
    threat_models: dict[ThreatModelId, ThreatModel] = field(default_factory=dict)
    deleted_models: dict[ThreatModelId, ThreatModel] = field(default_factory=dict)
    """Those that can be restored."""
    last_alias: int = 0
    last_diagram_alias: dict[ThreatModelId, int] = field(default_factory=dict)
    diagrams: dict[DiagramId, Diagram] = field(default_factory=dict)
    logs: dict[DiagramId, RoomLog] = field(default_factory=dict)
    deleted_diagrams: dict[DiagramId, tuple[Diagram, RoomLog]] = field(default_factory=dict)
    """Those that can be restored, with what their rooms had."""
    children: dict[ChildId, Child] = field(default_factory=dict)
    last_alias_of: dict[tuple[ThreatModelId, str], int] = field(default_factory=dict)
    codes: dict[bytes, tuple[AuthorizationCode, datetime]] = field(default_factory=dict)
    pending_authorizations: dict[tuple[bytes, bytes], tuple[PendingAuthorization, datetime]] = field(
        default_factory=dict
    )
    """By the digests of the state and of the browser's secret."""
    sign_ins: dict[SignInId, Session] = field(default_factory=dict)
    refresh_tokens: dict[bytes, StoredRefreshToken] = field(default_factory=dict)
    used_codes: dict[bytes, SignInId | None] = field(default_factory=dict)
    """Codes that were redeemed, and the sign-in that each began."""
    replayed_codes: set[bytes] = field(default_factory=set)
    credentials: dict[CredentialId, StoredCredential] = field(default_factory=dict)
    browser_sessions: dict[bytes, tuple[SignInId, datetime]] = field(default_factory=dict)
    """By the SHA-256 of their secret: the sign-in, and until when it may go unused."""
    collaborations: dict[DiagramId, Collaboration] = field(default_factory=dict)
    tickets: dict[bytes, tuple[Ticket, datetime]] = field(default_factory=dict)
    signing_keys: dict[str, SigningKey] = field(default_factory=dict)
    token_ttl: timedelta = timedelta(0)
    """The longest that any node lets tokens live."""
    charged_to: dict[ThreatModelId, UserId] = field(default_factory=dict)
    """Who is charged for threat models; also of those that are gone."""
    quotas: dict[UserId, Quota] = field(default_factory=dict)
    hooks: WebhookTables = field(default_factory=WebhookTables)
    settings: dict[str, StoredSetting] = field(default_factory=dict)
    preferences: dict[UserId, str] = field(default_factory=dict)
    single_writer: bool = False
    sharing_writers: int = 0
    """Services that hold the single-writer lock among nodes."""
    listeners: list[Callable[[Signal | None], None]] = field(default_factory=list)

    def standing(self, sign_in: SignInId) -> Session | None:
        """The session if it has neither ended nor expired."""
        session = self.sign_ins.get(sign_in)
        stands = session is not None and not session.ended and session.expires_at > self.clock()
        return session if stands else None

    def end_sessions(self, of: Callable[[SignInId, Session], bool]) -> list[SignInId]:
        """End the sessions that stand and that `of` picks; returns them."""
        ended = [key for key, session in self.sign_ins.items() if self.standing(key) and of(key, session)]
        for key in ended:
            self.sign_ins[key].ended = True
        return ended

    def account(self, user: UserId) -> AccountRow:
        """What is kept of a user besides the user."""
        return self.accounts.setdefault(user, AccountRow())

    def write_audit(self, entry: AuditEntry, *, is_change: bool = True) -> None:
        """Add an entry to the system audit. `is_change`: it tells of something that was done."""
        self.last_audit += 1
        self.audit[self.last_audit] = entry
        notice = notice_of_audit(entry) if is_change else None
        if notice is not None:
            self.hooks.tell([notice], None, self.clock())

    def remove_user(self, user: UserId) -> None:
        """Delete a user with all that refers to it."""
        for key in [key for key in self.memberships if key[1] == user]:
            del self.memberships[key]
        for members in self.groups.values():
            members.discard(user)
        for sign_in in [key for key, session in self.sign_ins.items() if session.user == user]:
            del self.sign_ins[sign_in]
            for token in [key for key, t in self.refresh_tokens.items() if t.sign_in == sign_in]:
                del self.refresh_tokens[token]
        for credential in [key for key, stored in self.credentials.items() if stored.user == user]:
            del self.credentials[credential]
        for code in [key for key, (grant, _) in self.codes.items() if grant.user.id == user]:
            del self.codes[code]
        for ticket in [key for key, (grant, _) in self.tickets.items() if grant.user == user]:
            del self.tickets[ticket]
        for diagram, session in self.collaborations.items():
            if session.host == user:
                self.collaborations[diagram] = replace(session, host=None)
        for model in [key for key, payer in self.charged_to.items() if payer == user]:
            del self.charged_to[model]
        self.hooks.remove_user(user)
        self.quotas.pop(user, None)
        self.preferences.pop(user, None)
        self.challenges.pop(user, None)
        self.accounts.pop(user, None)
        del self.users[user]

    def visit(self) -> None:
        """Raise what was injected, if anything was."""
        if self.unavailable:
            raise DatabaseUnavailable
        if self.fail_next is not None:
            error, self.fail_next = self.fail_next, None
            raise error

    def add_diagram(self, diagram: Diagram) -> None:
        """Store a diagram together with its empty log."""
        self.diagrams[diagram.id] = diagram
        self.logs[diagram.id] = RoomLog()

    def log(self, diagram: DiagramId) -> RoomLog:
        """The log of a diagram. Raises NotFound."""
        try:
            return self.logs[diagram]
        except KeyError:
            raise NotFound("There is no such diagram.") from None

    def threat_model(self, model: ThreatModelId) -> ThreatModel:
        """Raises NotFound."""
        try:
            return self.threat_models[model]
        except KeyError:
            raise NotFound("There is no such threat model.") from None

    def diagrams_of(self, model: ThreatModelId) -> list[Diagram]:
        """The diagrams of a threat model, oldest first."""
        return sorted(
            (d for d in self.diagrams.values() if d.threat_model_id == model), key=lambda d: d.alias
        )

    def counts(self, model: ThreatModelId) -> dict[str, int]:
        """How many children of each kind a threat model has."""
        found = Counter(
            child.kind
            for child in self.children.values()
            if child.threat_model_id == model and child.deleted_at is None
        )
        found["diagram"] = len(self.diagrams_of(model))
        return dict(found)

    def mark_diagram(self, diagram: DiagramId, at: datetime) -> None:
        """Delete a diagram so that it can be restored."""
        gone = self.diagrams.pop(diagram)
        gone = replace(gone, deleted_at=at, modified_at=at, version=gone.version + 1)
        self.deleted_diagrams[diagram] = (gone, self.logs.pop(diagram))
        self.collaborations.pop(diagram, None)

    def restore_diagram(self, diagram: DiagramId) -> Diagram:
        """Restore a diagram, with a fence that shuts out whoever had its room."""
        gone, log = self.deleted_diagrams.pop(diagram)
        log.fence, log.named, log.owner = Fence(log.fence + 1), None, None
        self.logs[diagram] = log
        restored = replace(gone, deleted_at=None, modified_at=self.clock(), version=gone.version + 1)
        self.diagrams[diagram] = restored
        return restored

    def remove_model(self, model: ThreatModelId) -> None:
        """Delete a threat model, deleted or not, for good, with everything in it."""
        for diagram in self.diagrams_of(model):
            self.remove_diagram(diagram.id)
        for key in [key for key, (d, _) in self.deleted_diagrams.items() if d.threat_model_id == model]:
            del self.deleted_diagrams[key]
        for child in [key for key, child in self.children.items() if child.threat_model_id == model]:
            del self.children[child]
        self.threat_models.pop(model, None)
        self.deleted_models.pop(model, None)

    def remove_diagram(self, diagram: DiagramId) -> None:
        """Delete a diagram with its log."""
        del self.diagrams[diagram]
        del self.logs[diagram]
        self.collaborations.pop(diagram, None)
