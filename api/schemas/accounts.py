"""Accounts, groups, transfers and the system audit."""

from collections.abc import Sequence
from datetime import datetime
from typing import Annotated, Literal, Self
from uuid import UUID

from pydantic import Field, StringConstraints

from api.schemas.base import (
    EMAIL,
    LINE,
    Description,
    Input,
    Moment,
    Name,
    Output,
    Query,
    SeenLine,
    SeenText,
    UuidText,
)
from api.schemas.people import GroupMembership
from tmi.domain.ids import GroupId
from tmi.domain.model import ADMINISTRATORS_GROUP, Account, AuditEntry, Group, GroupMember
from tmi.domain.sign_ins import AUTOMATION_PROVIDER

Notes = Annotated[SeenText, StringConstraints(max_length=2048)]
Title = Annotated[SeenLine, StringConstraints(min_length=1, max_length=128)]
Part = Annotated[str, StringConstraints(max_length=256, pattern=LINE)]
LongPart = Annotated[str, StringConstraints(max_length=1024, pattern=LINE)]


class AdminPageQuery(Query):
    """Which part of a list that administrators read."""

    limit: Annotated[int, Field(ge=0, le=1000)] = 50
    offset: Annotated[int, Field(ge=0, le=1_000_000)] = 0


class AccountQuery(AdminPageQuery):
    """Which accounts, and in which order."""

    provider: Part | None = None
    email: LongPart | None = None
    name: Part | None = None
    created_after: Moment | None = None
    created_before: Moment | None = None
    last_login_after: Moment | None = None
    last_login_before: Moment | None = None
    sort_by: Literal["created_at", "last_login", "email", "name"] = "created_at"
    sort_order: Literal["asc", "desc"] = "desc"
    automation: bool | None = None
    """Accounts of programs alone, or of people alone."""


class AccountInput(Input):
    """New values of an account."""

    email: Annotated[str, StringConstraints(max_length=254, pattern=EMAIL)] | None = None
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
    automation: bool | None = None

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
            email_verified=user.email_verified,
            created_at=user.created_at,
            modified_at=account.modified_at,
            last_login=account.last_login,
            is_admin=is_admin,
            groups=list(account.groups),
            active_threat_models=account.owned,
            automation=user.provider == AUTOMATION_PROVIDER or None,
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

    challenge: Annotated[str, StringConstraints(min_length=1, max_length=1000, pattern=LINE)] | None = None


class DeletionChallenge(Output):
    """What has to be sent back to delete the account, and until when."""

    challenge_text: str
    expires_at: datetime


class AuditQuery(Query):
    """Which audit entries."""

    actor_email: Annotated[str, StringConstraints(max_length=254, pattern=EMAIL)] | None = None
    actor_provider: Annotated[str, StringConstraints(max_length=100, pattern=LINE)] | None = None
    created_after: Moment | None = None
    created_before: Moment | None = None
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
