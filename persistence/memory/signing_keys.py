"""Signing keys in memory."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime, timedelta

from persistence.memory.store import MemoryStore
from tmi.domain.errors import Conflict
from tmi.domain.model import AuditEntry, SigningKey
from tmi.domain.sign_ins import KeyTerm

_MARGIN = timedelta(minutes=1)


class MemorySigningKeys:
    """The port `SigningKeys`."""

    def __init__(self, store: MemoryStore) -> None:
        self._store = store

    async def current(self) -> Sequence[SigningKey]:
        """All keys that verify, newest first."""
        self._store.visit()
        return [
            replace(self._store.signing_keys[term.kid], signs_from=term.signs_from)
            for term in _terms(self._store)
        ]

    async def add_first(self, key: SigningKey) -> Sequence[SigningKey]:
        """Store `key` unless there is one; returns what `current` would."""
        self._store.visit()
        if not self._store.signing_keys:
            self._store.signing_keys[key.kid] = key
        return await self.current()

    async def promise(self, token_ttl: timedelta) -> None:
        """Tokens may live so long: keys verify at least until those that they signed have ended."""
        self._store.visit()
        self._store.token_ttl = max(self._store.token_ttl, token_ttl)


class MemoryKeyRotation:
    """The port `KeyRotation`."""

    def __init__(self, store: MemoryStore) -> None:
        self._store = store

    async def terms(self) -> Sequence[KeyTerm]:
        """All keys that verify, newest first."""
        self._store.visit()
        return _terms(self._store)

    async def add(self, key: SigningKey, lead: timedelta, entry: AuditEntry) -> KeyTerm:
        """Store a key that signs after `lead`. Raises Conflict while another one waits for its time."""
        self._store.visit()
        now = self._store.clock()
        if any(_signs_from(one) > now for one in self._store.signing_keys.values()):
            raise Conflict("a new key waits for its time already")
        self._store.signing_keys[key.kid] = replace(key, created_at=now, signs_from=now + lead)
        self._store.write_audit(entry)
        return next(term for term in _terms(self._store) if term.kid == key.kid)

    async def replace_all(self, key: SigningKey, entry: AuditEntry) -> Sequence[str]:
        """Store a key that signs at once, and delete all others; returns their ids."""
        self._store.visit()
        now, gone = self._store.clock(), list(self._store.signing_keys)
        self._store.signing_keys.clear()
        self._store.signing_keys[key.kid] = replace(key, created_at=now, signs_from=now)
        self._store.write_audit(entry)
        return gone


def _terms(store: MemoryStore) -> list[KeyTerm]:
    newest_first = sorted(store.signing_keys.values(), key=_signs_from, reverse=True)
    terms: list[KeyTerm] = []
    until: datetime | None = None
    for key in newest_first:
        ends = None if until is None else until + store.token_ttl + _MARGIN
        if ends is None or ends > store.clock():
            terms.append(KeyTerm(key.kid, key.algorithm, key.created_at, _signs_from(key), until, ends))
        until = _signs_from(key)
    return terms


def _signs_from(key: SigningKey) -> datetime:
    return key.signs_from or key.created_at
