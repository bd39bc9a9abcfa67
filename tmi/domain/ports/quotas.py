"""Quotas, and what they are compared with."""

from collections.abc import Sequence
from typing import Protocol

from tmi.domain.ids import DiagramId, ThreatModelId, UserId
from tmi.domain.model import AuditEntry
from tmi.domain.ports.threat_models import Page
from tmi.domain.quotas import Allowance, Quota, Usage


class Quotas(Protocol):
    """Allowances of single users. What is written is written together with its audit entry."""

    async def of(self, user: UserId) -> Quota | None:
        """None: the limits of everybody hold."""

    async def page(self, page: Page) -> tuple[Sequence[Quota], int]:
        """A page (here `limit` may be 0 to 1,000), oldest first, and the total."""

    async def put(self, user: UserId, allowance: Allowance, entry: AuditEntry) -> tuple[Quota, bool]:
        """Set a user's allowance; also says whether there was none before. Raises NotFound."""

    async def remove(self, user: UserId, entry: AuditEntry) -> None:
        """Let the limits of everybody hold again. Raises NotFound where they do already."""


class Storage(Protocol):
    """What users are charged for. Counted when something changes, and never by looking through it."""

    async def usage(self, user: UserId) -> Usage:
        """Nothing for somebody who is not known."""

    async def payers_over(self, default: int) -> frozenset[UserId]:
        """Who has more stored bytes than allowed (at most 10,000 of them). `default` is what everybody may
        have, 0 for as much as they like.
        """

    async def limit_passed(self, model: ThreatModelId, default: int) -> int | None:
        """How many bytes who is charged for a threat model may store; None unless they store more."""

    async def paid_by(self, diagrams: Sequence[DiagramId], users: frozenset[UserId]) -> frozenset[DiagramId]:
        """Those of `diagrams` for which one of `users` is charged."""
