"""What belongs to sessions that a browser keeps as a cookie."""

from dataclasses import dataclass
from datetime import datetime

from tmi.domain.ids import SignInId, UserId
from tmi.domain.model import AuditEntry


@dataclass(frozen=True, slots=True)
class Visitor:
    """Whose browser it is."""

    user: UserId
    sign_in: SignInId
    ends_at: datetime
    """When the sign-in ends, however busy the browser is."""


@dataclass(frozen=True, slots=True)
class IdleEnd:
    """A sign-in that ended since nobody used its browser."""

    sign_in: SignInId
    entry: AuditEntry
    """Of the system audit, written with the end."""
