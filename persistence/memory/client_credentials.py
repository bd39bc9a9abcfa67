"""Client credentials in memory."""

import hmac
from collections.abc import Sequence
from uuid import uuid4

from persistence.memory.store import MemoryStore, StoredCredential
from persistence.secrets import digest
from tmi.domain.errors import Forbidden, NotFound
from tmi.domain.ids import CredentialId, SignInId, UserId
from tmi.domain.model import AuditEntry
from tmi.domain.ports import Page
from tmi.domain.sign_ins import ClientCredential, NewCredential, Refusal, Refused


class MemoryClientCredentials:
    """The port `ClientCredentials`."""

    def __init__(self, store: MemoryStore) -> None:
        self._store = store

    async def create(
        self, user: UserId, new: NewCredential, at_most: int | None, entry: AuditEntry
    ) -> ClientCredential:
        """Raises NotFound, and Forbidden for a user who has `at_most` already."""
        self._store.visit()
        if user not in self._store.users:
            raise NotFound("There is no such user.")
        if at_most is not None and len(self._of(user)) >= at_most:
            raise Forbidden(f"at most {at_most} client credentials; delete one first")
        key, now = CredentialId(uuid4()), self._store.clock()
        self._store.credentials[key] = StoredCredential(
            user, new.client_id, digest(new.secret), new.name, new.description, now, now, new.expires_at
        )
        self._store.write_audit(entry)
        return self._shown(key)

    async def of_user(self, user: UserId, page: Page) -> tuple[Sequence[ClientCredential], int]:
        """A page of a user's credentials, oldest first, and their total."""
        self._store.visit()
        found = self._of(user)
        return [self._shown(key) for key in found[page.offset : page.offset + page.limit]], len(found)

    async def set_active(
        self, user: UserId, credential: CredentialId, entry: AuditEntry, *, active: bool
    ) -> tuple[ClientCredential, Sequence[SignInId]]:
        """Deactivating one ends its sign-ins, which are returned. Raises NotFound."""
        self._store.visit()
        stored = self._stored(user, credential)
        stored.is_active, stored.modified_at = active, self._store.clock()
        ended = [] if active else self._end_sign_ins(credential)
        self._store.write_audit(entry)
        return self._shown(credential), ended

    async def delete(
        self, user: UserId, credential: CredentialId, entry: AuditEntry
    ) -> Sequence[SignInId]:
        """Delete one and end its sign-ins, which are returned. Raises NotFound."""
        self._store.visit()
        self._stored(user, credential)
        ended = self._end_sign_ins(credential)
        del self._store.credentials[credential]
        self._store.write_audit(entry)
        return ended

    async def authenticate(self, client_id: str, secret: str) -> ClientCredential | Refused:
        """The credential of a client that knows its secret, and mark it used."""
        self._store.visit()
        found = [key for key, stored in self._store.credentials.items() if stored.client_id == client_id]
        if not found:
            return Refused(Refusal.UNKNOWN)
        stored, now = self._store.credentials[found[0]], self._store.clock()
        if not hmac.compare_digest(stored.secret_hash, digest(secret)):
            return Refused(Refusal.UNKNOWN, stored.user)
        if not stored.is_good(now):
            return Refused(Refusal.EXPIRED if stored.is_active else Refusal.ENDED, stored.user)
        shown = self._shown(found[0])
        stored.last_used_at = now
        return shown

    def _of(self, user: UserId) -> list[CredentialId]:
        return [key for key, stored in self._store.credentials.items() if stored.user == user]

    def _stored(self, user: UserId, credential: CredentialId) -> StoredCredential:
        stored = self._store.credentials.get(credential)
        if stored is None or stored.user != user:
            raise NotFound("There is no such client credential.")
        return stored

    def _end_sign_ins(self, credential: CredentialId) -> list[SignInId]:
        return self._store.end_sessions(lambda _, session: session.credential == credential)

    def _shown(self, credential: CredentialId) -> ClientCredential:
        stored = self._store.credentials[credential]
        return ClientCredential(
            id=credential,
            user=self._store.users[stored.user],
            client_id=stored.client_id,
            name=stored.name,
            description=stored.description,
            is_active=stored.is_active,
            created_at=stored.created_at,
            modified_at=stored.modified_at,
            expires_at=stored.expires_at,
            last_used_at=stored.last_used_at,
        )
