"""What the in-memory adapters share: the tables, a clock, and a switch that takes the database away."""

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime

from tmi.domain.errors import DatabaseUnavailable, NotFound
from tmi.domain.ids import DiagramId, Fence, Seq, SignInId, ThreatModelId, UserId
from tmi.domain.model import AuthorizationCode, Collaboration, Diagram, SigningKey, ThreatModel, Ticket, User
from tmi.domain.ports import LoggedUpdate, Signal


def _now() -> datetime:
    return datetime.now(UTC)


NEVER_CLAIMED = Fence(0)


@dataclass(slots=True)
class RoomLog:
    """The log of one diagram: its fence, and its rows with the fence under which each was written."""

    fence: Fence = NEVER_CLAIMED
    owner: str | None = None
    rows: list[tuple[Fence, LoggedUpdate]] = field(default_factory=list)
    snapshots: dict[Seq, tuple[bytes, bool]] = field(default_factory=dict)
    """Their state, and whether it is whole."""


@dataclass(slots=True)
class Session:
    """A row of sign_ins."""

    user: UserId
    expires_at: datetime
    ended: bool = False


@dataclass(slots=True)
class RefreshToken:
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
    threat_models: dict[ThreatModelId, ThreatModel] = field(default_factory=dict)
    last_alias: int = 0
    last_diagram_alias: dict[ThreatModelId, int] = field(default_factory=dict)
    diagrams: dict[DiagramId, Diagram] = field(default_factory=dict)
    logs: dict[DiagramId, RoomLog] = field(default_factory=dict)
    codes: dict[bytes, tuple[AuthorizationCode, datetime]] = field(default_factory=dict)
    sign_ins: dict[SignInId, Session] = field(default_factory=dict)
    refresh_tokens: dict[bytes, RefreshToken] = field(default_factory=dict)
    collaborations: dict[DiagramId, Collaboration] = field(default_factory=dict)
    tickets: dict[bytes, tuple[Ticket, datetime]] = field(default_factory=dict)
    signing_keys: dict[str, SigningKey] = field(default_factory=dict)
    single_writer: bool = False
    sharing_writers: int = 0
    """Services that hold the single-writer lock among nodes."""
    listeners: list[Callable[[Signal | None], None]] = field(default_factory=list)

    def standing(self, sign_in: SignInId) -> Session | None:
        """The session if it has neither ended nor expired."""
        session = self.sign_ins.get(sign_in)
        stands = session is not None and not session.ended and session.expires_at > self.clock()
        return session if stands else None

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

    def remove_diagram(self, diagram: DiagramId) -> None:
        """Delete a diagram with its log."""
        del self.diagrams[diagram]
        del self.logs[diagram]
        self.collaborations.pop(diagram, None)
