"""Signing keys in memory."""

from collections.abc import Sequence

from persistence.memory.store import MemoryStore
from tmi.domain.model import SigningKey


class MemorySigningKeys:
    """The port `SigningKeys`."""

    def __init__(self, store: MemoryStore) -> None:
        self._store = store

    async def current(self) -> Sequence[SigningKey]:
        """All keys, newest first."""
        self._store.visit()
        return sorted(self._store.signing_keys.values(), key=lambda k: k.created_at, reverse=True)

    async def add_first(self, key: SigningKey) -> Sequence[SigningKey]:
        """Store `key` unless there is one; returns what `current` would."""
        self._store.visit()
        if not self._store.signing_keys:
            self._store.signing_keys[key.kid] = key
        return await self.current()
