"""Threat models and their diagrams."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from tmi.domain.events import PATCHED_BY_SYSTEM, SYSTEM, Actor, Deed
from tmi.domain.ids import DiagramId, ThreatModelId, UserId
from tmi.domain.model import AuditEntry, Diagram, NewThreatModel, ThreatModel, ThreatModelSummary, User
from tmi.domain.quotas import NO_LIMITS, Limits
from tmi.domain.roles import Grant, Principal


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
    threat_model_framework: str | None = None
    issue_uri: str | None = None
    clear_issue_uri: bool = False
    status: str | None = None
    security_reviewer: Principal | None = None
    clear_security_reviewer: bool = False
    metadata: Mapping[str, str] | None = None

    @property
    def fields(self) -> list[str]:
        """The names of the fields that it changes."""
        changed = {
            "name": self.name is not None,
            "description": self.description is not None or self.clear_description,
            "authorization": self.grants is not None,
            "threat_model_framework": self.threat_model_framework is not None,
            "issue_uri": self.issue_uri is not None or self.clear_issue_uri,
            "status": self.status is not None,
            "security_reviewer": self.security_reviewer is not None or self.clear_security_reviewer,
            "metadata": self.metadata is not None,
        }
        return [name for name, is_changed in changed.items() if is_changed]


@dataclass(frozen=True, slots=True)
class ThreatModelFilter:
    """Which threat models to list. Texts are parts of what is looked for, in any case."""

    name: str | None = None
    description: str | None = None
    owner: str | None = None
    """In the name or e-mail of an owner."""
    issue_uri: str | None = None
    security_reviewer: str | None = None
    """In the name or e-mail; `is:null` and `is:notnull` ask whether there is one."""
    statuses: tuple[str, ...] | None = None
    created_after: datetime | None = None
    created_before: datetime | None = None
    modified_after: datetime | None = None
    modified_before: datetime | None = None
    status_updated_after: datetime | None = None
    status_updated_before: datetime | None = None
    deleted: bool = False
    """Also those that are deleted, where the user is an owner."""


class ThreatModels(Protocol):
    """Threat models with their authorization lists. What is written is written together with its event."""

    async def create(
        self, creator: User, new: NewThreatModel, defaults: Limits = NO_LIMITS
    ) -> ThreatModel:
        """Store a new threat model; `creator` gets the owner role besides `new.grants`, and is charged for
        it.

        `defaults` are the limits of who has no allowance of their own. Raises QuotaReached.
        """

    async def visible_to(
        self, user: UserId, page: Page, wanted: ThreatModelFilter | None = None
    ) -> tuple[Sequence[ThreatModelSummary], int]:
        """A page of the threat models on which the user has a role, newest first, and their total."""

    async def get(self, model: ThreatModelId) -> ThreatModel:
        """Raises NotFound."""

    async def update(
        self,
        model: ThreatModelId,
        expected_version: int,
        change: ThreatModelChange,
        entry: AuditEntry | None = None,
        deed: Deed = PATCHED_BY_SYSTEM,
    ) -> ThreatModel:
        """Apply a change, together with its entry of the system audit if it has one.

        Raises NotFound, Conflict (another write came first) and LastOwner.
        """

    async def delete(
        self, model: ThreatModelId, by: Actor = SYSTEM, *, expected: int | None = None
    ) -> Sequence[DiagramId]:
        """Delete with everything in it, so that it can be restored; returns the diagrams that went with it.
        Raises NotFound, and VersionMismatch when `expected` is not the present version.
        """


class Diagrams(Protocol):
    """Metadata of diagrams. What is written is written together with its event."""

    async def create(
        self,
        model: ThreatModelId,
        name: str,
        type_: str,
        description: str | None,
        by: Actor = SYSTEM,
        defaults: Limits = NO_LIMITS,
    ) -> Diagram:
        """Who is charged for the threat model is charged for the diagram, too.

        Raises NotFound when the threat model does not exist, and QuotaReached.
        """

    async def of_threat_model(
        self, model: ThreatModelId, page: Page, *, deleted: bool = False
    ) -> tuple[Sequence[Diagram], int]:
        """A page of a threat model's diagrams (`deleted`: also those that are), oldest first, and their
        total. Raises NotFound.
        """

    async def get(self, model: ThreatModelId, diagram: DiagramId) -> Diagram:
        """Raises NotFound, also when the diagram belongs to another threat model."""

    async def delete(
        self,
        model: ThreatModelId,
        diagram: DiagramId,
        by: Actor = SYSTEM,
        *,
        expected: int | None = None,
    ) -> None:
        """Delete a diagram, so that it can be restored: until then its room can be neither opened nor
        written. Raises NotFound, and VersionMismatch when `expected` is not the present version.
        """

    async def ids_of(self, model: ThreatModelId) -> Sequence[DiagramId]:
        """Every diagram of a threat model (at most 10,000)."""
