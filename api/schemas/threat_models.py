"""Threat models."""

from collections.abc import Sequence
from datetime import datetime
from typing import Annotated, ClassVar, Literal, Self
from uuid import UUID

from pydantic import AfterValidator, BaseModel, Field, StringConstraints

from api import sanitising
from api.schemas.base import (
    EMAIL,
    LINE,
    PROVIDER,
    Identifier,
    Input,
    Moment,
    Name,
    Output,
    PlainName,
    PlainText,
)
from api.schemas.children import (
    CHILD_BODIES,
    DeletedQuery,
    GivenMetadata,
    Metadata,
    NamePart,
    TextPart,
    Words,
)
from api.schemas.diagrams import DiagramListItem
from api.schemas.people import AuthorizationOutput, Authorizations, PrincipalOutput, UserOutput, user_output
from tmi.domain.kinds import ISSUE_URI
from tmi.domain.model import ThreatModel
from tmi.domain.ports import ThreatModelFilter
from tmi.domain.roles import Principal

Framework = Annotated[str, StringConstraints(max_length=30, pattern=r"^[A-Za-z0-9_-]*$")]
IssueUri = Annotated[
    str,
    StringConstraints(max_length=1000, pattern=ISSUE_URI, strip_whitespace=True),
    AfterValidator(sanitising.checked),
]
Status = Annotated[
    str, StringConstraints(min_length=1, max_length=128, pattern=LINE), AfterValidator(sanitising.checked)
]


class ThreatModelInput(Input):
    """A threat model as clients write it as a whole."""

    name: PlainName
    description: PlainText | None = None
    threat_model_framework: Framework | None = None
    authorization: Authorizations = Field(default_factory=list)
    metadata: GivenMetadata | None = None
    issue_uri: IssueUri | None = None
    is_confidential: bool = False


class ReviewerInput(Input):
    """A user who reviews a threat model, and becomes its owner by that."""

    principal_type: Literal["user"] = "user"
    provider: Annotated[str, StringConstraints(max_length=100, pattern=PROVIDER)]
    provider_id: Identifier
    display_name: Name | None = None
    email: Annotated[str, StringConstraints(max_length=254, pattern=EMAIL)] | None = None

    @property
    def principal(self) -> Principal:
        """In the domain's words."""
        return Principal("user", self.provider, self.provider_id, self.email, self.display_name)


class ThreatModelFields(Input):
    """What patches may make of a threat model, but for its authorization."""

    name: PlainName
    description: PlainText | None = None
    threat_model_framework: Framework | None = None
    issue_uri: IssueUri | None = None
    status: Status | None = None
    security_reviewer: ReviewerInput | None = None
    metadata: GivenMetadata | None = None


class ThreatModelQuery(DeletedQuery):
    """Which threat models."""

    SEVERAL: ClassVar[frozenset[str]] = frozenset({"status"})

    owner: NamePart | None = None
    name: NamePart | None = None
    description: TextPart | None = None
    issue_uri: TextPart | None = None
    created_after: Moment | None = None
    created_before: Moment | None = None
    modified_after: Moment | None = None
    modified_before: Moment | None = None
    status: Words | None = None
    status_updated_after: Moment | None = None
    status_updated_before: Moment | None = None
    security_reviewer: NamePart | None = None

    @property
    def filter(self) -> ThreatModelFilter:
        """In the domain's words."""
        given = self.model_dump(exclude={"limit", "offset", "include_deleted", "status"})
        statuses = None if self.status is None else tuple(self.status)
        return ThreatModelFilter(**given, statuses=statuses, deleted=self.include_deleted)


class ReviewerOutput(PrincipalOutput):
    """A user who reviews a threat model."""

    principal_type: Literal["user"]


def reviewer_output(reviewer: Principal | None) -> ReviewerOutput | None:
    """A reviewer as JSON."""
    if reviewer is None:
        return None
    return ReviewerOutput(
        principal_type="user",
        provider=reviewer.provider,
        provider_id=reviewer.provider_id,
        display_name=reviewer.display_name,
        email=reviewer.email,
    )


def metadata_of(entries: Sequence[Metadata] | None) -> dict[str, str]:
    """Metadata by key."""
    return {entry.key: entry.value for entry in entries or ()}


def _listed(kind: str) -> type[BaseModel]:
    return CHILD_BODIES[kind].listed


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
    status: str
    status_updated: datetime
    security_reviewer: ReviewerOutput | None = None
    is_confidential: bool
    created_at: datetime
    modified_at: datetime
    deleted_at: datetime | None = None
    version: int
    diagrams: list[DiagramListItem] = Field(default_factory=list)
    threats: list[_listed("threat")] = Field(default_factory=list)  # type: ignore[valid-type]
    assets: list[_listed("asset")] = Field(default_factory=list)  # type: ignore[valid-type]
    documents: list[_listed("document")] = Field(default_factory=list)  # type: ignore[valid-type]
    notes: list[_listed("note")] = Field(default_factory=list)  # type: ignore[valid-type]
    repositories: list[_listed("repository")] = Field(default_factory=list)  # type: ignore[valid-type]

    @classmethod
    def of(cls, model: ThreatModel) -> Self:
        """A threat model as JSON."""
        return cls(
            id=model.id,
            alias=model.alias,
            name=model.name,
            description=model.description,
            owner=user_output(model.owner),
            created_by=user_output(model.created_by),
            threat_model_framework=model.threat_model_framework,
            authorization=[AuthorizationOutput.of(grant) for grant in model.grants],
            metadata=[Metadata(key=key, value=value) for key, value in sorted(model.metadata.items())],
            issue_uri=model.issue_uri,
            status=model.status,
            status_updated=model.status_updated or model.created_at,
            security_reviewer=reviewer_output(model.security_reviewer),
            is_confidential=model.is_confidential,
            created_at=model.created_at,
            modified_at=model.modified_at,
            deleted_at=model.deleted_at,
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
    status: str
    status_updated: datetime
    security_reviewer: ReviewerOutput | None = None
    created_at: datetime
    modified_at: datetime
    deleted_at: datetime | None = None
    diagram_count: int
    document_count: int = 0
    repo_count: int = 0
    threat_count: int = 0
    asset_count: int = 0
    note_count: int = 0


class ThreatModelList(Output):
    """A page of the threat models that the caller may see."""

    threat_models: list[ThreatModelListItem]
    total: int
    limit: int
    offset: int
