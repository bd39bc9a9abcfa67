"""Sessions that a browser keeps as a cookie."""

from datetime import timedelta
from typing import Protocol

from tmi.domain.browser import Visitor
from tmi.domain.ids import SignInId


class BrowserSessions(Protocol):
    """Cookies of sign-in sessions. Secrets are stored as SHA-256 only."""

    async def begin(self, secret: str, sign_in: SignInId, idle: timedelta) -> None:
        """Let a secret stand for a sign-in session, until it goes unused for so long."""

    async def use(self, secret: str, idle: timedelta) -> Visitor | None:
        """Whose a secret is, which counts as a use. None if unknown, unused for too long, or if its sign-in
        has ended or expired.
        """
