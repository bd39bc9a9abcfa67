"""Users in memory."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from uuid import uuid4

from persistence.memory.store import MemoryStore
from tmi.domain.errors import NotFound
from tmi.domain.ids import UserId
from tmi.domain.model import User
from tmi.domain.ports import Happened, Signal
from tmi.domain.roles import fold


class MemoryUsers:
    """The port `Users`."""

    def __init__(self, store: MemoryStore) -> None:
        self._store = store

    async def sign_in(
        self, provider: str, provider_id: str, email: str, name: str, *, email_verified: bool = False
    ) -> User:
        """Find or create the user that a provider vouches for; a verified address has this one holder."""
        self._store.visit()
        users = self._store.users
        before = dict(users)
        if email_verified:
            lose_address(self._store, provider, email)
        known = [u for u in users.values() if (u.provider, u.provider_id) == (provider, provider_id)]
        if known:
            user = replace(known[0], email=email, name=name, email_verified=email_verified)
        else:
            now = self._store.clock()
            user = User(UserId(uuid4()), provider, provider_id, email, name, now, email_verified)
        users[user.id] = user
        self._store.account(user.id).last_login = self._store.clock()
        tell_changed(self._store, before)
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


def lose_address(store: MemoryStore, provider: str, email: str) -> None:
    """Whoever has this verified address has it no more."""
    for holder in _holders(store, provider, email):
        store.users[holder.id] = replace(holder, email_verified=False)


def tell_changed(store: MemoryStore, before: Mapping[UserId, User]) -> None:
    """Signal who of those that there were is not called as before."""
    changed = tuple(key for key, known in before.items() if store.users[key] != known)
    if changed:
        for handle in list(store.listeners):
            handle(Signal(Happened.PEOPLE_CHANGED, changed))


def _holders(store: MemoryStore, provider: str, email: str) -> list[User]:
    folded = fold(email)
    return [
        user
        for user in store.users.values()
        if user.provider == provider and user.email_verified and fold(user.email) == folded
    ]
