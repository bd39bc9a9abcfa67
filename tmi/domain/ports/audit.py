"""The system audit."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from tmi.domain.ids import AuditId
from tmi.domain.model import AuditEntry


@dataclass(frozen=True, slots=True)
class AuditFilter:
    """Which entries to list."""

    email: str | None = None
    provider: str | None = None
    after: datetime | None = None
    before: datetime | None = None
    method: str | None = None
    path_prefix: str | None = None
    what: str | None = None


@dataclass(frozen=True, slots=True)
class AuditPage:
    """A page of the audit, newest first."""

    entries: Sequence[AuditEntry]
    total: int
    older: int | None
    """Where the next page begins; None at the end."""
    newer: int | None
    """Where the page before begins; None at the newest end."""


class Audit(Protocol):
    """The system audit. Entries are never changed."""

    async def record(self, entry: AuditEntry) -> None:
        """Add an entry of its own."""

    async def page(self, wanted: AuditFilter, limit: int, cursor: int | None, *, newer: bool) -> AuditPage:
        """The entries after (`newer`: before) a place in the list, from its newest end without one."""

    async def place_of(self, entry: AuditId) -> int:
        """The cursor from which on a page begins with this entry. Raises NotFound."""

    async def get(self, entry: AuditId) -> AuditEntry:
        """Raises NotFound."""

    async def purge(self, before: datetime, rows: int) -> int:
        """Delete up to `rows` entries that are older; returns how many went."""
