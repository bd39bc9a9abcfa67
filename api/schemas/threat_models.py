"""Threat models."""

from datetime import datetime
from typing import Annotated, Self
from uuid import UUID

from pydantic import Field, StringConstraints

from api.schemas.base import HTTP_URI, TEXT, Description, Input, Name, Output
from api.schemas.children import Metadata
from api.schemas.people import AuthorizationOutput, Authorizations, UserOutput, user_output
from tmi.domain.model import ThreatModel, ThreatModelSummary


class ThreatModelInput(Input):
    """A new threat model."""

    name: Name
    description: Description | None = None
    threat_model_framework: (
        Annotated[str, StringConstraints(max_length=30, pattern=r"^[A-Za-z0-9_-]*$")] | None
    ) = None
    authorization: Authorizations = Field(default_factory=list)
    metadata: Annotated[list[Metadata], Field(max_length=0)] | None = None
    issue_uri: Annotated[str, StringConstraints(max_length=1000, pattern=HTTP_URI)] | None = None
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
            owner=user_output(model.owner),
            created_by=user_output(model.created_by),
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
            owner=user_output(model.owner),
            created_by=user_output(model.created_by),
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
