"""The JSON of the contract: what requests may hold and what answers look like."""

from collections.abc import Sequence
from dataclasses import asdict
from datetime import datetime
from typing import Annotated, Any, Literal, Self
from uuid import UUID

from pydantic import (
    AwareDatetime,
    BaseModel,
    ConfigDict,
    Field,
    RootModel,
    StringConstraints,
    model_validator,
)

from rooms.administration import ROOMS_MAX, NodeStatus, RoomStatus, Unreachable
from tmi.domain.ids import GroupId, ThreatModelId
from tmi.domain.model import (
    ADMINISTRATORS_GROUP,
    Account,
    AuditEntry,
    Diagram,
    Group,
    GroupMember,
    ThreatModel,
    ThreatModelSummary,
    User,
)
from tmi.domain.roles import EVERYONE, Grant, Principal, Role

_LINE = r"^[^\x00-\x1F]*$"
_TEXT = r"^[^\x00-\x08\x0B\x0C\x0E-\x1F]*$"
_IDENTIFIER = r"^[^<>\"'&\x00-\x1F]*$"
_PROVIDER = r"^(\*|[a-zA-Z][a-zA-Z0-9_*-]*)$"
_EMAIL = r"^[a-zA-Z0-9._%+-]+@[a-zA-Z0-9.-]+\.[a-zA-Z]{2,}$"
_HTTP_URI = (
    r"^$|^https?://[a-zA-Z0-9]([a-zA-Z0-9-]{0,61}[a-zA-Z0-9])?"
    r"(\.[a-zA-Z0-9]([a-zA-Z0-9-]{0,61}[a-zA-Z0-9])?)*(:[0-9]{1,5})?(/[^\s\x00-\x1F]*)?$"
)
_UUID = r"^[0-9a-fA-F]{8}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{12}$"

_SCOPE = r"^[a-zA-Z0-9_]([a-zA-Z0-9_ ]*[a-zA-Z0-9_])?$"
_OPAQUE = r"^[a-zA-Z0-9_.-]+$"

DEFAULT_FRAMEWORK = "STRIDE"
MAX_AUTHORIZATIONS = 1000
MAX_PATCH_OPERATIONS = 1000
BUILT_IN_PROVIDER = "tmi"
"""The provider of this service's own groups, `everyone` among them."""

Name = Annotated[str, StringConstraints(min_length=1, max_length=256, pattern=_LINE)]
Description = Annotated[str, StringConstraints(max_length=2048, pattern=_TEXT)]
PkceText = Annotated[str, StringConstraints(min_length=43, max_length=128, pattern=r"^[A-Za-z0-9\-._~]+$")]
UuidText = Annotated[str, StringConstraints(pattern=_UUID)]


class Input(BaseModel):
    """Something that a client sends: exact types, no unknown fields."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)


class Query(BaseModel):
    """Parameters of a query string: text that is converted, no unknown ones."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Output(BaseModel):
    """Something that this service answers; it made the values itself."""

    model_config = ConfigDict(extra="forbid", frozen=True)


# --- errors -------------------------------------------------------------------------------------


class ErrorDetails(Output):
    """Particulars of an error for programs."""

    code: str | None = None
    context: dict[str, Any] | None = None
    suggestion: str | None = None


class Error(Output):
    """Every error has this shape."""

    error: str
    error_description: str
    details: ErrorDetails | None = None


# --- principals ---------------------------------------------------------------------------------


class PrincipalOutput(Output):
    """A user or a group."""

    principal_type: Literal["user", "group"]
    provider: str
    provider_id: str
    display_name: str | None = None
    email: str | None = None


class UserOutput(PrincipalOutput):
    """A person who has signed in."""

    @classmethod
    def of(cls, user: User) -> Self:
        """The user as others see it."""
        return cls(
            principal_type="user",
            provider=user.provider,
            provider_id=user.provider_id,
            display_name=user.name,
            email=user.email,
        )


class GroupMembership(Output):
    """A group of this service that a user belongs to."""

    internal_uuid: UUID
    group_name: str
    name: str | None = None


class Profile(UserOutput):
    """The signed-in user's own profile."""

    is_admin: bool = False
    is_security_reviewer: bool = False
    groups: list[GroupMembership] = Field(default_factory=list)


class UserInfo(Output):
    """Claims of the signed-in user (OpenID Connect Core 1.0, section 5.1)."""

    sub: str
    email: str
    name: str
    idp: str
    groups: list[str] = Field(default_factory=list)


class AuthorizationInput(Input):
    """Who gets which role. A principal need not have signed in yet."""

    principal_type: Literal["user", "group"]
    provider: Annotated[str, StringConstraints(max_length=100, pattern=_PROVIDER)]
    provider_id: Annotated[str, StringConstraints(min_length=1, max_length=500, pattern=_IDENTIFIER)]
    display_name: Name | None = None
    email: Annotated[str, StringConstraints(max_length=254, pattern=_EMAIL)] | None = None
    role: Literal["reader", "writer", "owner"]

    @property
    def grant(self) -> Grant:
        """In the domain's words; `*` and `tmi` are two spellings of the provider of `everyone`."""
        everyone = self.principal_type == "group" and self.provider_id == EVERYONE and self.provider == "*"
        provider = BUILT_IN_PROVIDER if everyone else self.provider
        principal = Principal(self.principal_type, provider, self.provider_id, self.email, self.display_name)
        return Grant(principal, Role.parse(self.role))


class AuthorizationOutput(PrincipalOutput):
    """Who has which role."""

    role: Literal["reader", "writer", "owner"]

    @classmethod
    def of(cls, grant: Grant) -> "AuthorizationOutput":
        """A grant as JSON."""
        principal = grant.principal
        return cls.model_validate(
            {
                "principal_type": principal.principal_type,
                "provider": principal.provider,
                "provider_id": principal.provider_id,
                "display_name": principal.display_name,
                "email": principal.email,
                "role": grant.role.label,
            }
        )


Authorizations = Annotated[list[AuthorizationInput], Field(max_length=MAX_AUTHORIZATIONS)]


# --- threat models ------------------------------------------------------------------------------


class Metadata(Input):
    """A key and its value."""

    key: Annotated[str, StringConstraints(min_length=1, max_length=256, pattern=r"^[a-zA-Z0-9_./:-]+$")]
    value: Annotated[str, StringConstraints(min_length=1, max_length=1024, pattern=_TEXT)]


class ThreatModelInput(Input):
    """A new threat model."""

    name: Name
    description: Description | None = None
    threat_model_framework: (
        Annotated[str, StringConstraints(max_length=30, pattern=r"^[A-Za-z0-9_-]*$")] | None
    ) = None
    authorization: Authorizations = Field(default_factory=list)
    metadata: Annotated[list[Metadata], Field(max_length=0)] | None = None
    issue_uri: Annotated[str, StringConstraints(max_length=1000, pattern=_HTTP_URI)] | None = None
    is_confidential: bool = False


class ThreatModelOutput(Output):
    """A threat model."""

    id: UUID
    alias: int
    name: str
    description: str | None = None
    owner: UserOutput | None = None
    created_by: UserOutput | None = None
    threat_model_framework: str
    authorization: list[AuthorizationOutput]
    metadata: list[Metadata] = Field(default_factory=list)
    issue_uri: str | None = None
    status: str = "not_started"
    is_confidential: bool
    created_at: datetime
    modified_at: datetime
    version: int

    @classmethod
    def of(cls, model: ThreatModel) -> Self:
        """A threat model as JSON."""
        return cls(
            id=model.id,
            alias=model.alias,
            name=model.name,
            description=model.description,
            owner=_user(model.owner),
            created_by=_user(model.created_by),
            threat_model_framework=model.threat_model_framework,
            authorization=[AuthorizationOutput.of(grant) for grant in model.grants],
            issue_uri=model.issue_uri,
            is_confidential=model.is_confidential,
            created_at=model.created_at,
            modified_at=model.modified_at,
            version=model.version,
        )


class ThreatModelListItem(Output):
    """A row of the list of threat models."""

    id: UUID
    alias: int
    name: str
    description: str | None = None
    owner: UserOutput | None = None
    created_by: UserOutput | None = None
    threat_model_framework: str
    issue_uri: str | None = None
    status: str = "not_started"
    created_at: datetime
    modified_at: datetime
    diagram_count: int
    document_count: int = 0
    repo_count: int = 0
    threat_count: int = 0
    asset_count: int = 0
    note_count: int = 0

    @classmethod
    def of(cls, summary: ThreatModelSummary) -> "ThreatModelListItem":
        """A summary as JSON."""
        model = summary.model
        return cls(
            id=model.id,
            alias=model.alias,
            name=model.name,
            description=model.description,
            owner=_user(model.owner),
            created_by=_user(model.created_by),
            threat_model_framework=model.threat_model_framework,
            issue_uri=model.issue_uri,
            created_at=model.created_at,
            modified_at=model.modified_at,
            diagram_count=summary.diagram_count,
        )


class ThreatModelList(Output):
    """A page of the threat models that the caller may see."""

    threat_models: list[ThreatModelListItem]
    total: int
    limit: int
    offset: int


# --- diagrams -----------------------------------------------------------------------------------


class DiagramInput(Input):
    """A new diagram."""

    name: Name
    type: Literal["DFD-1.0.0"]


class DiagramListItem(Output):
    """A row of the list of diagrams."""

    id: UUID
    alias: int
    name: str
    type: str
    description: str | None = None
    created_at: datetime
    modified_at: datetime

    @classmethod
    def of(cls, diagram: Diagram) -> "DiagramListItem":
        """A diagram's metadata as JSON."""
        return cls(
            id=diagram.id,
            alias=diagram.alias,
            name=diagram.name,
            type=diagram.type,
            description=diagram.description,
            created_at=diagram.created_at,
            modified_at=diagram.modified_at,
        )


class DiagramOutput(DiagramListItem):
    """A diagram with its cells; `update_vector` counts the updates that these very cells hold."""

    version: int
    update_vector: int
    cells: list[dict[str, Any]]


class DiagramList(Output):
    """A page of a threat model's diagrams."""

    diagrams: list[DiagramListItem]
    total: int
    limit: int
    offset: int


# --- parameters ---------------------------------------------------------------------------------


class PageQuery(Query):
    """Which part of a list."""

    limit: Annotated[int, Field(ge=1, le=100)] = 20
    offset: Annotated[int, Field(ge=0, le=1_000_000_000)] = 0


class IfMatch(Query):
    """The version that a write expects."""

    if_match: str | None = None


class JsonPatchOperation(Input):
    """One operation of a JSON Patch (RFC 6902, section 4)."""

    op: Literal["add", "replace", "remove", "test"]
    path: Annotated[str, StringConstraints(max_length=512, pattern=r"^(/[^/]*)*$")]
    value: Any = None

    @model_validator(mode="after")
    def _value_where_needed(self) -> Self:
        if self.op != "remove" and "value" not in self.model_fields_set:
            raise ValueError(f"{self.op} needs a value")
        return self


class JsonPatch(RootModel[Annotated[list[JsonPatchOperation], Field(max_length=MAX_PATCH_OPERATIONS)]]):
    """A JSON Patch document (RFC 6902, section 3)."""

    model_config = ConfigDict(strict=True, frozen=True)


class CollabTokenInput(Input):
    """For which diagram a collab token is wanted; without one it is good for all."""

    diagram_id: UuidText | None = None


class CollabTokenOutput(Output):
    """A token for live sockets and where to connect with it."""

    token: str
    expires_in: int
    y_websocket_url: str
    hocuspocus_url: str


class Participant(Output):
    """Somebody who has the diagram open."""

    user: UserOutput
    last_activity: datetime
    permissions: Literal["reader", "writer"]


class CollaborationSession(Output):
    """A collaboration session of a diagram."""

    session_id: UUID
    host: UserOutput
    presenter: UserOutput | None = None
    threat_model_id: UUID
    threat_model_name: str
    diagram_id: UUID
    diagram_name: str
    participants: list[Participant]
    websocket_url: str


class TicketQuery(Query):
    """For which collaboration session a ticket is wanted."""

    session_id: UuidText


class TicketAnswer(Output):
    """A ticket for one live socket."""

    ticket: str


# --- sign-in ------------------------------------------------------------------------------------


class AuthorizeQuery(Query):
    """An OAuth authorization request."""

    idp: Annotated[str, StringConstraints(max_length=100, pattern=r"^[a-zA-Z][a-zA-Z0-9_-]*$")] = "tmi"
    client_callback: Annotated[str, StringConstraints(max_length=1000)] | None = None
    state: Annotated[str, StringConstraints(max_length=256, pattern=r"^[a-zA-Z0-9_~.+/=-]*$")] | None = None
    login_hint: Annotated[str, StringConstraints(max_length=64, pattern=r"^[a-zA-Z0-9._%+-]+$")] | None = None
    scope: Annotated[str, StringConstraints(max_length=256, pattern=_SCOPE)] | None = None
    code_challenge: PkceText | None = None
    code_challenge_method: str | None = None


class TokenQuery(Query):
    """At which identity provider the code was issued."""

    idp: Annotated[str, StringConstraints(max_length=100, pattern=r"^[a-zA-Z][a-zA-Z0-9_-]*$")] | None = None


class TokenRequest(Input):
    """An OAuth token request (RFC 6749, sections 4.1.3 and 6)."""

    grant_type: Annotated[str, StringConstraints(max_length=100)] | None = None
    code: Annotated[str, StringConstraints(max_length=8192, pattern=r"^[\x20-\x7E]+$")] | None = None
    code_verifier: PkceText | None = None
    redirect_uri: Annotated[str, StringConstraints(max_length=1000)] | None = None
    refresh_token: Annotated[str, StringConstraints(max_length=1024, pattern=_OPAQUE)] | None = None
    client_id: Annotated[str, StringConstraints(max_length=256)] | None = None
    client_secret: Annotated[str, StringConstraints(max_length=1024)] | None = None
    state: Annotated[str, StringConstraints(max_length=256)] | None = None


class RefreshRequest(Input):
    """A refresh token to exchange."""

    refresh_token: Annotated[str, StringConstraints(max_length=1000, pattern=_OPAQUE)]


class TokenAnswer(Output):
    """Tokens of a sign-in session."""

    access_token: str
    refresh_token: str
    token_type: Literal["bearer"] = "bearer"  # noqa: S105 - the type of a token, no secret
    expires_in: int


# --- accounts, groups and the audit -------------------------------------------------------------

Notes = Annotated[str, StringConstraints(max_length=2048, pattern=_TEXT)]
Title = Annotated[str, StringConstraints(min_length=1, max_length=128, pattern=_LINE)]
Part = Annotated[str, StringConstraints(max_length=256, pattern=_LINE)]
LongPart = Annotated[str, StringConstraints(max_length=1024, pattern=_LINE)]


class AdminPageQuery(Query):
    """Which part of a list that administrators read."""

    limit: Annotated[int, Field(ge=0, le=1000)] = 50
    offset: Annotated[int, Field(ge=0, le=1_000_000)] = 0


class AccountQuery(AdminPageQuery):
    """Which accounts, and in which order."""

    provider: Part | None = None
    email: LongPart | None = None
    name: Part | None = None
    created_after: AwareDatetime | None = None
    created_before: AwareDatetime | None = None
    last_login_after: AwareDatetime | None = None
    last_login_before: AwareDatetime | None = None
    sort_by: Literal["created_at", "last_login", "email", "name"] = "created_at"
    sort_order: Literal["asc", "desc"] = "desc"
    automation: bool | None = None
    """There are no accounts of programs."""


class AccountInput(Input):
    """New values of an account."""

    email: Annotated[str, StringConstraints(max_length=254, pattern=_EMAIL)] | None = None
    name: Name | None = None
    email_verified: bool | None = None


class AdminUser(Output):
    """An account as administrators see it."""

    internal_uuid: UUID
    provider: str
    provider_user_id: str
    email: str
    name: str
    email_verified: bool
    created_at: datetime
    modified_at: datetime
    last_login: datetime | None = None
    is_admin: bool
    groups: list[str]
    active_threat_models: int

    @classmethod
    def of(cls, account: Account, *, is_admin: bool) -> Self:
        """An account as JSON."""
        user = account.user
        return cls(
            internal_uuid=user.id,
            provider=user.provider,
            provider_user_id=user.provider_id,
            email=user.email,
            name=user.name,
            email_verified=account.email_verified,
            created_at=user.created_at,
            modified_at=account.modified_at,
            last_login=account.last_login,
            is_admin=is_admin,
            groups=list(account.groups),
            active_threat_models=account.owned,
        )


class AdminUsers(Output):
    """A page of accounts."""

    users: list[AdminUser]
    total: int
    limit: int
    offset: int


class GroupQuery(AdminPageQuery):
    """Which groups, and in which order. Groups are sorted by name, or else by age."""

    provider: Part | None = None
    group_name: LongPart | None = None
    used_in_authorizations: bool | None = None
    built_in: bool | None = None
    sort_by: Literal["created_at", "last_login", "email", "name"] = "created_at"
    sort_order: Literal["asc", "desc"] = "desc"


class GroupInput(Input):
    """A new group."""

    group_name: Annotated[str, StringConstraints(min_length=1, max_length=128, pattern=r"^[a-zA-Z0-9_-]+$")]
    name: Title
    description: Description | None = None


class GroupChange(Input):
    """New values of a group."""

    name: Title | None = None
    description: Description | None = None


class AdminGroup(Output):
    """A group as administrators see it."""

    internal_uuid: UUID
    provider: str
    group_name: str
    name: str
    description: str | None = None
    first_used: datetime
    last_used: datetime
    usage_count: int
    used_in_authorizations: bool
    used_in_admin_grants: bool
    member_count: int
    is_builtin: bool

    @classmethod
    def of(cls, group: Group) -> Self:
        """A group as JSON."""
        return cls(
            internal_uuid=group.id,
            provider=group.provider,
            group_name=group.name,
            name=group.title,
            description=group.description,
            first_used=group.created_at,
            last_used=group.last_used,
            usage_count=group.grants,
            used_in_authorizations=group.grants > 0,
            used_in_admin_grants=group.id == ADMINISTRATORS_GROUP,
            member_count=group.members,
            is_builtin=group.is_builtin,
        )


class AdminGroups(Output):
    """A page of groups."""

    groups: list[AdminGroup]
    total: int
    limit: int
    offset: int


class MemberInput(Input):
    """Who is to be a member of a group."""

    user_internal_uuid: UuidText
    notes: Notes | None = None
    subject_type: Literal["user"] = "user"


class MemberQuery(Query):
    """What kind of member is meant."""

    subject_type: Literal["user"] = "user"


class GroupMemberOutput(Output):
    """A user's membership in a group."""

    id: UUID
    group_internal_uuid: UUID
    subject_type: Literal["user"] = "user"
    user_internal_uuid: UUID
    user_email: str
    user_name: str
    user_provider: str
    user_provider_user_id: str
    added_by_internal_uuid: UUID | None = None
    added_by_email: str | None = None
    added_at: datetime
    notes: str | None = None

    @classmethod
    def of(cls, member: GroupMember, *, for_administrators: bool = True) -> Self:
        """A membership as JSON; who added it, and why, is for administrators."""
        user = member.user
        return cls(
            id=member.id,
            group_internal_uuid=member.group,
            user_internal_uuid=user.id,
            user_email=user.email,
            user_name=user.name,
            user_provider=user.provider,
            user_provider_user_id=user.provider_id,
            added_by_internal_uuid=member.added_by if for_administrators else None,
            added_by_email=member.added_by_email if for_administrators else None,
            added_at=member.added_at,
            notes=member.notes if for_administrators else None,
        )


class GroupMembers(Output):
    """A page of a group's members."""

    members: list[GroupMemberOutput]
    total: int
    limit: int
    offset: int


class MyGroups(Output):
    """The groups that the caller is a member of."""

    groups: list[GroupMembership]
    total: int


class TransferInput(Input):
    """Who is to be the owner."""

    target_user_id: UuidText


class TransferredModels(Output):
    """Threat models that have another owner now."""

    count: int
    threat_model_ids: list[str]


class TransferredResponses(Output):
    """This service has no surveys, so there are none."""

    count: int = 0
    survey_response_ids: list[str] = Field(default_factory=list)


class TransferOutput(Output):
    """What was handed over."""

    threat_models_transferred: TransferredModels
    survey_responses_transferred: TransferredResponses


class DeletionQuery(Query):
    """The challenge that confirms a deletion."""

    challenge: Annotated[str, StringConstraints(min_length=1, max_length=1000, pattern=_LINE)] | None = None


class DeletionChallenge(Output):
    """What has to be sent back to delete the account, and until when."""

    challenge_text: str
    expires_at: datetime


class AuditQuery(Query):
    """Which audit entries."""

    actor_email: Annotated[str, StringConstraints(max_length=254, pattern=_EMAIL)] | None = None
    actor_provider: Annotated[str, StringConstraints(max_length=100, pattern=_LINE)] | None = None
    created_after: AwareDatetime | None = None
    created_before: AwareDatetime | None = None
    http_method: Literal["POST", "PUT", "PATCH", "DELETE"] | None = None
    path_prefix: LongPart | None = None
    field_path: LongPart | None = None
    limit: Annotated[int, Field(ge=1, le=100)] = 50
    cursor: Annotated[str, StringConstraints(max_length=512)] | None = None
    around: UuidText | None = None


class AuditActor(Output):
    """Who it was, as they were called then. Empty where nobody had signed in."""

    email: str
    provider: str
    provider_id: str
    display_name: str


class AuditEntryOutput(Output):
    """An entry of the system audit. `field_path` is the kind of event."""

    id: UUID
    actor: AuditActor
    http_method: str
    http_path: str
    field_path: str
    old_value_redacted: str | None = None
    new_value_redacted: str | None = None
    change_summary: str | None = None
    created_at: datetime

    @classmethod
    def of(cls, entry: AuditEntry) -> Self:
        """An entry as JSON."""
        return cls(
            id=entry.id,
            actor=AuditActor(
                email=entry.email,
                provider=entry.provider,
                provider_id=entry.provider_id,
                display_name=entry.name,
            ),
            http_method=entry.method,
            http_path=entry.path,
            field_path=entry.what,
            old_value_redacted=entry.old,
            new_value_redacted=entry.new,
            change_summary=entry.summary,
            created_at=entry.at,
        )


class AuditEntries(Output):
    """A page of the system audit, newest first."""

    entries: list[AuditEntryOutput]
    total: int
    limit: int
    next_cursor: str | None = None
    prev_cursor: str | None = None


def memberships(groups: Sequence[tuple[GroupId, str, str]]) -> list[GroupMembership]:
    """The groups of a user as JSON."""
    return [GroupMembership(internal_uuid=key, group_name=name, name=title) for key, name, title in groups]


# --- health -------------------------------------------------------------------------------------


class HealthAnswer(Output):
    """`ok`, or what is degraded."""

    status: str


def location_of(model: ThreatModelId) -> str:
    """The path of a threat model."""
    return f"/threat_models/{model}"


def _user(user: User | None) -> UserOutput | None:
    return None if user is None else UserOutput.of(user)


# --- administration -----------------------------------------------------------------------------


class NodeOutput(Output):
    """A node, as it says itself."""

    id: str
    name: str
    url: str
    """Where other nodes reach it."""
    version: str
    uptime_s: float
    rooms_owned: int
    rooms_followed: int
    """Rooms of other nodes in which it has clients."""
    sessions: int
    """Open diagrams of its own clients."""
    is_draining: bool

    @classmethod
    def of(cls, node: NodeStatus) -> Self:
        """From what the node said."""
        return cls(**asdict(node))


class SilentNode(Output):
    """A node that is said to be alive, and did not answer."""

    id: str
    name: str
    url: str
    why: str

    @classmethod
    def of(cls, node: Unreachable) -> Self:
        """From what was tried."""
        return cls(**asdict(node))


class NodeList(Output):
    """All nodes that are alive."""

    nodes: list[NodeOutput]
    silent: list[SilentNode]


class RoomOutput(Output):
    """An open room, as its owner says."""

    id: str
    """The diagram's."""
    node_id: str
    node_name: str
    sessions: int
    followers: int
    """Other nodes that have clients in it."""
    document_bytes: int
    seq: int
    unsaved: int
    """Updates that are not committed."""
    edits_per_s: float
    since_commit_s: float | None = None
    """Absent: nothing was committed since it was opened."""

    @classmethod
    def of(cls, room: RoomStatus) -> Self:
        """From what its owner said."""
        return cls(**asdict(room))


class RoomList(Output):
    """The first of all open rooms."""

    rooms: list[RoomOutput]
    total: int
    silent: list[SilentNode]


class RoomsQuery(Query):
    """What to sort rooms by, largest first, and how many to show."""

    sort: Literal["edits_per_s", "document_bytes", "sessions", "unsaved", "since_commit_s"] = "edits_per_s"
    limit: Annotated[int, Field(ge=1, le=ROOMS_MAX)] = 100


class MoveInput(Input):
    """Where a room is to go."""

    node_id: UuidText | None = None


class MoveOutput(Output):
    """Where a room is now."""

    id: str
    node_id: str
    node_name: str
