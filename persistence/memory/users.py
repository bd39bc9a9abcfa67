"""Users in memory."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from uuid import uuid4

from persistence.memory.store import MemoryStore
from tmi.domain.errors import NotFound
from tmi.domain.ids import UserId
from tmi.domain.model import User


class MemoryUsers:
    """The port `Users`."""

    def __init__(self, store: MemoryStore) -> None:
        self._store = store

    async def sign_in(self, provider: str, provider_id: str, email: str, name: str) -> User:
        """Find or create the user that a provider vouches for, and keep e-mail and name current."""
        self._store.visit()
        users = self._store.users
        known = [u for u in users.values() if (u.provider, u.provider_id) == (provider, provider_id)]
        if known:
            user = replace(known[0], email=email, name=name)
        else:
            user = User(UserId(uuid4()), provider, provider_id, email, name, self._store.clock())
        users[user.id] = user
        self._store.account(user.id).last_login = self._store.clock()
        return user

    async def get(self, user: UserId) -> User:
        """Raises NotFound."""
        self._store.visit()
        try:
            return self._store.users[user]
        except KeyError:
            raise NotFound("There is no such user.") from None

    async def get_all(self, users: Sequence[UserId]) -> Mapping[UserId, User]:
        """Those of `users` that there are."""
        self._store.visit()
        return {user: self._store.users[user] for user in users if user in self._store.users}
