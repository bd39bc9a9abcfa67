"""Collaboration sessions and tickets."""

from collections.abc import Sequence
from datetime import timedelta
from typing import Protocol

from tmi.domain.ids import CollaborationId, DiagramId, ThreatModelId, UserId
from tmi.domain.model import AuditEntry, Collaboration, Ticket


class Collaborations(Protocol):
    """Collaboration sessions, at most one of each diagram."""

    async def begin(
        self, model: ThreatModelId, diagram: DiagramId, host: UserId, entry: AuditEntry | None = None
    ) -> tuple[Collaboration, bool]:
        """The session of a diagram, and whether it was begun just now. One without a host gets this one.
        `entry` goes into the system audit with a new one.

        Raises NotFound, also when the diagram belongs to another threat model.
        """

    async def of_diagram(self, model: ThreatModelId, diagram: DiagramId) -> Collaboration | None:
        """The session of a diagram, if there is one. Raises NotFound, also when the diagram belongs to
        another threat model.
        """

    async def get(self, collaboration: CollaborationId) -> Collaboration:
        """Raises NotFound."""

    async def visible_to(self, user: UserId, limit: int) -> Sequence[Collaboration]:
        """The newest sessions of diagrams on whose threat model a user has a role."""

    async def end(self, collaboration: CollaborationId, entry: AuditEntry | None = None) -> bool:
        """End a session and forget its tickets. False if there was none, and then `entry` isn't written."""


class Tickets(Protocol):
    """Tickets for live sockets: each is good once and for a moment. Stored as SHA-256 only."""

    async def issue(self, ticket: str, grant: Ticket, ttl: timedelta) -> None:
        """Remember a ticket. Raises NotFound when its collaboration session has ended."""

    async def redeem(self, ticket: str) -> Ticket | None:
        """Take a ticket out, once: None if unknown, used before, past its time, or its session has ended."""
