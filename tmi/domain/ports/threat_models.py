"""Threat models and their diagrams."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from tmi.domain.ids import DiagramId, ThreatModelId, UserId
from tmi.domain.model import AuditEntry, Diagram, NewThreatModel, ThreatModel, ThreatModelSummary, User
from tmi.domain.quotas import NO_LIMITS, Limits
from tmi.domain.roles import Grant


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

    async def create(
        self, creator: User, new: NewThreatModel, defaults: Limits = NO_LIMITS
    ) -> ThreatModel:
        """Store a new threat model; `creator` gets the owner role besides `new.grants`, and is charged for
        it.

        `defaults` are the limits of who has no allowance of their own. Raises QuotaReached.
        """

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

    async def create(
        self,
        model: ThreatModelId,
        name: str,
        type_: str,
        description: str | None,
        defaults: Limits = NO_LIMITS,
    ) -> Diagram:
        """Who is charged for the threat model is charged for the diagram, too.

        Raises NotFound when the threat model does not exist, and QuotaReached.
        """

    async def of_threat_model(self, model: ThreatModelId, page: Page) -> tuple[Sequence[Diagram], int]:
        """A page of a threat model's diagrams, oldest first, and their total. Raises NotFound."""

    async def get(self, model: ThreatModelId, diagram: DiagramId) -> Diagram:
        """Raises NotFound, also when the diagram belongs to another threat model."""

    async def delete(self, model: ThreatModelId, diagram: DiagramId) -> None:
        """Delete a diagram with its log and snapshots. Raises NotFound."""

    async def ids_of(self, model: ThreatModelId) -> Sequence[DiagramId]:
        """Every diagram of a threat model (at most 10,000)."""
