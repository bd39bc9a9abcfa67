"""Settings that administrators changed, and people's preferences, in memory."""

from collections.abc import Sequence
from dataclasses import replace

from persistence.memory.store import MemoryStore
from tmi.domain.configuration import StoredSetting
from tmi.domain.errors import Conflict, NotFound
from tmi.domain.ids import UserId
from tmi.domain.model import AuditEntry


class MemorySystemSettings:
    """The port `SystemSettings`."""

    def __init__(self, store: MemoryStore) -> None:
        self._store = store

    async def all(self) -> Sequence[StoredSetting]:
        """By key, at most 1,000."""
        self._store.visit()
        return [self._store.settings[key] for key in sorted(self._store.settings)][:1000]

    async def put(self, setting: StoredSetting, entry: AuditEntry) -> StoredSetting:
        """Store it in place of an earlier value."""
        self._store.visit()
        stored = replace(setting, modified_at=self._store.clock())
        self._store.settings[setting.key] = stored
        self._store.write_audit(entry)
        return stored

    async def remove(self, key: str, entry: AuditEntry) -> None:
        """Raises NotFound."""
        self._store.visit()
        if self._store.settings.pop(key, None) is None:
            raise NotFound("Nobody has changed this setting.")
        self._store.write_audit(entry)


class MemoryPreferences:
    """The port `Preferences`."""

    def __init__(self, store: MemoryStore) -> None:
        self._store = store

    async def get(self, user: UserId) -> str | None:
        """None: there are none."""
        self._store.visit()
        return self._store.preferences.get(user)

    async def create(self, user: UserId, text: str) -> None:
        """Raises Conflict where there are some, and NotFound for a user who is gone."""
        self._store.visit()
        if user in self._store.preferences:
            raise Conflict("There are preferences already.")
        await self.put(user, text)

    async def put(self, user: UserId, text: str) -> None:
        """Store them in place of earlier ones. Raises NotFound for a user who is gone."""
        self._store.visit()
        if user not in self._store.users:
            raise NotFound("There is no such user.")
        self._store.preferences[user] = text
