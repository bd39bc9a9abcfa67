"""Browsers' cookies in memory."""

from datetime import timedelta

from persistence.memory.store import MemoryStore
from persistence.secrets import digest
from tmi.domain.browser import Visitor
from tmi.domain.ids import SignInId


class MemoryBrowserSessions:
    """The port `BrowserSessions`."""

    def __init__(self, store: MemoryStore) -> None:
        self._store = store

    async def begin(self, secret: str, sign_in: SignInId, idle: timedelta) -> None:
        """Let a secret stand for a sign-in session, until it goes unused for so long."""
        self._store.visit()
        self._store.browser_sessions[digest(secret)] = (sign_in, self._store.clock() + idle)

    async def use(self, secret: str, idle: timedelta) -> Visitor | None:
        """Whose a secret is, which counts as a use."""
        self._store.visit()
        sign_in, idle_until = self._store.browser_sessions.get(digest(secret), (None, None))
        if sign_in is None or idle_until is None or idle_until <= self._store.clock():
            return None
        session = self._store.standing(sign_in)
        if session is None:
            return None
        self._store.browser_sessions[digest(secret)] = (sign_in, self._store.clock() + idle)
        return Visitor(session.user, sign_in, session.expires_at)
