"""The keys that sign tokens: for the service, and for the operators who change them."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from uuid import UUID

from api.keys import LEAD
from api.tokens import Tokens, new_signing_key, shared_signing_keys
from persistence.postgres.database import PostgresDatabase
from persistence.postgres.signals import PostgresSignals
from persistence.postgres.signing_keys import PostgresKeyRotation, PostgresSigningKeys
from tmi.domain.audit import by_hand
from tmi.domain.errors import StartupError
from tmi.domain.ports import Happened, KeyRotation, Signal, Signals
from tmi.domain.sign_ins import KeyTerm
from tmi.embedded.postgres import Places
from tmi.settings import Settings
from tmi.wiring.database import open_database

ISSUER = "tmi"
"""Who signs tokens where no public URL says."""


async def tokens_of(settings: Settings, database: PostgresDatabase) -> Tokens:
    """What signs and verifies tokens, with the keys that all nodes share."""
    store = PostgresSigningKeys(database)
    tokens = Tokens(
        await shared_signing_keys(store),
        settings.public_url or ISSUER,
        timedelta(seconds=settings.access_token_ttl_s),
        timedelta(seconds=settings.collab_token_ttl_s),
    )
    await store.promise(tokens.longest_ttl)
    return tokens


@dataclass(frozen=True, slots=True)
class Keys:
    """What operators do with the keys that sign tokens."""

    rotation: KeyRotation
    signals: Signals

    async def list(self) -> Sequence[KeyTerm]:
        """All keys that verify, newest first."""
        return await self.rotation.terms()

    async def rotate(self, by: str) -> KeyTerm:
        """Make a key that signs as soon as every node can know it. Raises Conflict while one waits for that.
        """
        key = new_signing_key()
        term = await self.rotation.add(key, LEAD, by_hand(by, "keys.rotated", new=key.kid))
        await self._tell(key.kid)
        return term

    async def replace(self, by: str) -> Sequence[str]:
        """Make a key that signs at once, and take all others away; returns their ids."""
        key = new_signing_key()
        gone = await self.rotation.replace_all(key, by_hand(by, "keys.replaced", new=key.kid))
        await self._tell(key.kid)
        return gone

    async def _tell(self, kid: str) -> None:
        await self.signals.publish(Signal(Happened.KEYS_CHANGED, (UUID(kid),)))


@asynccontextmanager
async def open_keys(settings: Settings) -> AsyncIterator[Keys]:
    """The signing keys of a deployment, for a tool with the same settings. Raises StartupError."""
    if settings.database_url is None and not Places(settings.data_dir).cluster.is_dir():
        raise StartupError(f"There is no database in {settings.data_dir}.")
    async with open_database(settings, beside=True) as database:
        rotation = PostgresKeyRotation(database)
        if not await rotation.terms():
            raise StartupError("No node has used this database yet.")
        yield Keys(rotation, PostgresSignals(database))
