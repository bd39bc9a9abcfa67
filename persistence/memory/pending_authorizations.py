"""Who went to an identity provider, in memory."""

from datetime import timedelta

from persistence.memory.store import MemoryStore
from persistence.secrets import digest
from tmi.domain.sign_in import PendingAuthorization


class MemoryPendingAuthorizations:
    """The port `PendingAuthorizations`."""

    def __init__(self, store: MemoryStore) -> None:
        self._store = store

    async def begin(self, state: str, browser: str, pending: PendingAuthorization, ttl: timedelta) -> None:
        """Remember somebody who goes."""
        self._store.visit()
        key = digest(state), digest(browser)
        self._store.pending_authorizations[key] = pending, self._store.clock() + ttl

    async def finish(self, state: str, browser: str) -> PendingAuthorization | None:
        """Take it out, once: None if unknown, used before or past its time."""
        self._store.visit()
        key = digest(state), digest(browser)
        pending, expires_at = self._store.pending_authorizations.pop(key, (None, None))
        return pending if expires_at is not None and expires_at > self._store.clock() else None
