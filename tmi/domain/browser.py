"""What belongs to sessions that a browser keeps as a cookie."""

from dataclasses import dataclass
from datetime import datetime

from tmi.domain.ids import SignInId, UserId


@dataclass(frozen=True, slots=True)
class Visitor:
    """Whose browser it is."""

    user: UserId
    sign_in: SignInId
    ends_at: datetime
    """When the sign-in ends, however busy the browser is."""
