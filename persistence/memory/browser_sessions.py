"""Browsers' cookies in memory."""

from collections.abc import Sequence
from datetime import datetime, timedelta

from persistence.memory.store import MemoryStore
from persistence.secrets import digest
from tmi.domain.audit import happened
from tmi.domain.browser import IdleEnd, Visitor
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

    async def edited(self, sign_ins: Sequence[SignInId], idle: timedelta, late: timedelta) -> None:
        """Edits on sockets are uses of these sign-ins' sessions."""
        self._store.visit()
        now, sessions = self._store.clock(), self._store.browser_sessions
        for secret, (sign_in, idle_until) in sessions.items():
            if sign_in in sign_ins and idle_until > now - late:
                sessions[secret] = (sign_in, now + idle)

    async def end_idle(self, late: timedelta, at_most: int) -> Sequence[IdleEnd]:
        """End sign-ins whose browser went unused for too long."""
        self._store.visit()
        used_until: dict[SignInId, datetime] = {}
        for sign_in, idle_until in self._store.browser_sessions.values():
            used_until[sign_in] = max(idle_until, used_until.get(sign_in, idle_until))
        latest = self._store.clock() - late
        idle = [key for key, until in used_until.items() if until <= latest and self._store.standing(key)]
        ending = set(idle[:at_most])
        ended = [self._ended(key) for key in self._store.end_sessions(lambda key, _: key in ending)]
        for one in ended:
            self._store.write_audit(one.entry)
        return ended

    def _ended(self, key: SignInId) -> IdleEnd:
        user = self._store.users[self._store.sign_ins[key].user]
        return IdleEnd(key, happened("sign_in.idle", user, "nobody used the browser", old=str(key)))
