"""Sessions that a browser keeps as a cookie."""

from collections.abc import Sequence
from datetime import timedelta
from typing import Protocol

from tmi.domain.browser import IdleEnd, Visitor
from tmi.domain.ids import SignInId


class BrowserSessions(Protocol):
    """Cookies of sign-in sessions. Secrets are stored as SHA-256 only."""

    async def begin(self, secret: str, sign_in: SignInId, idle: timedelta) -> None:
        """Let a secret stand for a sign-in session, until it goes unused for so long."""

    async def use(self, secret: str, idle: timedelta) -> Visitor | None:
        """Whose a secret is, which counts as a use. None if unknown, unused for too long, or if its sign-in
        has ended or expired.
        """

    async def edited(self, sign_ins: Sequence[SignInId], idle: timedelta, late: timedelta) -> None:
        """Edits on sockets are uses of these sign-ins' sessions, also of one that went unused for too long by
        less than `late`. Sign-ins that no browser has are passed over.
        """

    async def end_idle(self, late: timedelta, at_most: int) -> Sequence[IdleEnd]:
        """End sign-ins whose browser went unused for too long by `late` or more, write that into the system
        audit, and return those: nobody else ends them as well.
        """
