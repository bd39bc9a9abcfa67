"""What one user may have at most: limits that hold for everybody, and an administrator's word for one.

Who is charged for a threat model and the diagrams in it is one user: its creator, until ownership is
transferred to somebody else. Collaborators may be many; a quota that each of them could use up would be none.
"""

from dataclasses import dataclass
from datetime import datetime

from tmi.domain.ids import UserId


@dataclass(frozen=True, slots=True)
class Limits:
    """What a user may have or do at most; 0 for as much as they like."""

    requests_per_min: int = 0
    requests_per_hour: int = 0
    threat_models: int = 0
    diagrams: int = 0
    """In all threat models together."""
    stored_bytes: int = 0
    """Diagrams, that is, their updates and snapshots as of the last snapshot of each; and a kilobyte for each
    threat, note and the like, with its content and metadata.
    """
    connections: int = 0
    """Open diagrams on all nodes, each tab counted."""


NO_LIMITS = Limits()


@dataclass(frozen=True, slots=True)
class Allowance:
    """What an administrator says for one user; None leaves a limit as it is for everybody, 0 lifts it."""

    requests_per_min: int
    requests_per_hour: int | None = None
    threat_models: int | None = None
    diagrams: int | None = None
    stored_bytes: int | None = None
    connections: int | None = None

    def instead_of(self, defaults: Limits) -> Limits:
        """The limits of this user, where `defaults` are everybody's."""

        def chosen(own: int | None, default: int) -> int:
            return default if own is None else own

        return Limits(
            requests_per_min=self.requests_per_min,
            requests_per_hour=chosen(self.requests_per_hour, defaults.requests_per_hour),
            threat_models=chosen(self.threat_models, defaults.threat_models),
            diagrams=chosen(self.diagrams, defaults.diagrams),
            stored_bytes=chosen(self.stored_bytes, defaults.stored_bytes),
            connections=chosen(self.connections, defaults.connections),
        )


@dataclass(frozen=True, slots=True)
class Quota:
    """A user's allowance, and since when."""

    user: UserId
    allowance: Allowance
    created_at: datetime
    modified_at: datetime


@dataclass(frozen=True, slots=True)
class Usage:
    """What a user is charged for. What was deleted counts until it is purged: it takes as much room."""

    threat_models: int = 0
    diagrams: int = 0
    stored_bytes: int = 0
