"""The entities that REST shows: users, threat models and diagrams."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from uuid import UUID

from tmi.domain.diagrams import DiagramFields, DiagramImage
from tmi.domain.ids import (
    AuditId,
    CollaborationId,
    CredentialId,
    DiagramId,
    GroupId,
    NodeId,
    SignInId,
    ThreatModelId,
    UserId,
)
from tmi.domain.roles import Grant, Principal, fold


@dataclass(frozen=True, slots=True)
class User:
    """A person who has signed in at least once."""

    id: UserId
    provider: str
    provider_id: str
    email: str
    name: str
    created_at: datetime
    email_verified: bool = False
    """The provider vouches that the address is theirs. Any other address means nobody."""

    def is_called(self, name: str) -> bool:
        """Whether `name`, an id or an e-mail address at this user's provider, means this user.

        The rule of authorization lists: an id as it is, an e-mail but for the case of ASCII letters, and only
        if the provider vouches for it.
        """
        by_email = self.email_verified and fold(name) == fold(self.email)
        return name == self.provider_id or by_email

    def is_one_of(self, names: Iterable[str]) -> bool:
        """Whether one of `names`, each `provider:id` or `provider:e-mail`, means this user."""
        split = (name.partition(":") for name in names)
        return any(provider == self.provider and self.is_called(name) for provider, _, name in split)


EVERYONE_GROUP = GroupId(UUID(int=0))
ADMINISTRATORS_GROUP = GroupId(UUID(int=2))
"""The built-in groups, by the ids that the contract's clients know. `everyone` has no members of its own."""


@dataclass(frozen=True, slots=True)
class Account:
    """A user as administrators see it."""

    user: User
    modified_at: datetime
    last_login: datetime | None
    groups: tuple[str, ...]
    """The names of the groups that it is a member of, at most 100."""
    is_administrator: bool
    """By membership in the group `administrators`."""
    owned: int
    """Threat models that it owns by name."""


@dataclass(frozen=True, slots=True)
class Group:
    """A group of users, named in authorization lists by `provider` and `name`."""

    id: GroupId
    provider: str
    name: str
    title: str
    description: str | None
    is_builtin: bool
    created_at: datetime
    last_used: datetime
    grants: int
    """Authorization lists that name it."""
    members: int


@dataclass(frozen=True, slots=True)
class GroupMember:
    """A user's membership in a group."""

    id: UUID
    group: GroupId
    user: User
    added_by: UserId | None
    added_by_email: str | None
    added_at: datetime
    notes: str | None


@dataclass(frozen=True, slots=True)
class AuditEntry:
    """What somebody did, or was refused. Never holds a secret."""

    id: AuditId
    at: datetime
    actor: UserId | None
    """None where nobody had signed in, and for accounts that are gone."""
    provider: str
    provider_id: str
    email: str
    name: str
    method: str
    path: str
    what: str
    """The kind of event, or the dotted path of the field that changed."""
    old: str | None
    new: str | None
    summary: str | None


@dataclass(frozen=True, slots=True)
class ThreatModel:
    """A threat model with its authorization list. `version` rises with each REST write."""

    id: ThreatModelId
    alias: int
    name: str
    description: str | None
    threat_model_framework: str
    issue_uri: str | None
    is_confidential: bool
    owner: User | None
    created_by: User | None
    grants: tuple[Grant, ...]
    created_at: datetime
    modified_at: datetime
    version: int
    status: str = "not_started"
    status_updated: datetime | None = None
    """When its status last changed; None: it never did."""
    security_reviewer: Principal | None = None
    """Always one of its owners."""
    metadata: Mapping[str, str] = field(default_factory=dict)
    deleted_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class ThreatModelSummary:
    """A row of the list of threat models."""

    model: ThreatModel
    """Without its grants."""
    counts: Mapping[str, int] = field(default_factory=dict)
    """How many children it has, by the names of their kinds."""

    @property
    def diagram_count(self) -> int:
        """How many diagrams it has."""
        return self.counts.get("diagram", 0)


@dataclass(frozen=True, slots=True)
class NewThreatModel:
    """What a client says when it creates one; the creator becomes an owner besides `grants`."""

    name: str
    description: str | None
    threat_model_framework: str
    issue_uri: str | None
    is_confidential: bool
    grants: tuple[Grant, ...]
    metadata: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Diagram:
    """A diagram's metadata; its cells live in the document of its room."""

    id: DiagramId
    threat_model_id: ThreatModelId
    alias: int
    name: str
    type: str
    description: str | None
    created_at: datetime
    modified_at: datetime
    version: int
    image: DiagramImage | None = None
    include_in_report: bool = True
    timmy_enabled: bool = True
    metadata: Mapping[str, str] = field(default_factory=dict)
    deleted_at: datetime | None = None

    @property
    def fields(self) -> DiagramFields:
        """What a REST write may change."""
        return DiagramFields(
            self.name,
            self.description,
            self.image,
            self.include_in_report,
            self.timmy_enabled,
            self.metadata,
        )


@dataclass(frozen=True, slots=True)
class Collaboration:
    """A collaboration session: that a diagram is being worked on together, until somebody ends it."""

    id: CollaborationId
    threat_model_id: ThreatModelId
    threat_model_name: str
    diagram_id: DiagramId
    diagram_name: str
    host: UserId | None
    """Who began it; None once that account is gone."""
    started_at: datetime


@dataclass(frozen=True, slots=True)
class Ticket:
    """What a ticket for a live socket stands for: one user, one sign-in, one collaboration session."""

    user: UserId
    sign_in: SignInId
    collaboration: CollaborationId
    threat_model: ThreatModelId
    diagram: DiagramId


@dataclass(frozen=True, slots=True)
class SignIn:
    """A sign-in session: what an access token's `sid` names."""

    id: SignInId
    user: User
    expires_at: datetime
    credential: CredentialId | None = None
    """The client credential that began it; None for a person's."""


@dataclass(frozen=True, slots=True)
class SigningKey:
    """An asymmetric key pair that signs tokens; all nodes share it through the database."""

    kid: str
    algorithm: str
    private_pem: bytes = field(repr=False)
    created_at: datetime
    signs_from: datetime | None = None
    """When it begins to sign; None: since it was made. The key before it signs until then."""


@dataclass(frozen=True, slots=True)
class AuthorizationCode:
    """What an OAuth authorization code stands for until it is redeemed, once."""

    user: User
    redirect_uri: str
    code_challenge: str
    """PKCE S256 challenge (RFC 7636, section 4.2)."""
    scope: str


@dataclass(frozen=True, slots=True)
class Node:
    """A serving process, as its peers know it."""

    id: NodeId
    name: str
    """For people: the machine, or what the operator calls it."""
    url: str
    """Where its peers reach it: `ws://host:port`, `unix:/path`, or both (`rooms/nodes/addresses.py`)."""
    is_draining: bool = False
    """It is about to stop, and gets no further rooms."""
