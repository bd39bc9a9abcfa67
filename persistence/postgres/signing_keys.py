"""Signing keys on PostgreSQL.

A key signs until the next one does, and verifies for as long again as a token may live. Both follow from the
rows, by the clock of the database; a key whose time is over is deleted with the other things that expired.
"""

from collections.abc import Sequence
from datetime import timedelta

from persistence.postgres import audit
from persistence.postgres.database import PostgresDatabase, Record
from tmi.domain.errors import Conflict
from tmi.domain.model import AuditEntry, SigningKey
from tmi.domain.sign_ins import KeyTerm

TERMS = """
SELECT * FROM (
    SELECT kid, algorithm, created_at, coalesce(signs_from, created_at) AS signs_from,
           lag(coalesce(signs_from, created_at)) OVER newest AS signs_until,
           lag(coalesce(signs_from, created_at)) OVER newest + token_ttl + interval '1 minute'
               AS verifies_until
    FROM signing_keys WINDOW newest AS (ORDER BY coalesce(signs_from, created_at) DESC, kid)
) t
WHERE verifies_until IS NULL OR verifies_until > now()
"""

NEWEST_FIRST = " ORDER BY signs_from DESC, kid"

CURRENT = f"""
SELECT t.kid, t.algorithm, k.private_pem, t.created_at, t.signs_from
FROM ({TERMS}) t JOIN signing_keys k USING (kid)
ORDER BY t.signs_from DESC, t.kid
"""  # noqa: S608 - constants of this module

ADD_FIRST = """
INSERT INTO signing_keys (kid, algorithm, private_pem, created_at, signs_from, token_ttl)
SELECT $1, $2, $3, $4, $4, interval '0' WHERE NOT EXISTS (SELECT FROM signing_keys)
"""

PROMISE = "UPDATE signing_keys SET token_ttl = $1 WHERE token_ttl < $1"

WAITING = "SELECT kid FROM signing_keys WHERE signs_from > now()"

ADD = """
INSERT INTO signing_keys (kid, algorithm, private_pem, created_at, signs_from, token_ttl)
SELECT $1, $2, $3, now(), now() + $4::interval, coalesce(max(token_ttl), interval '24 hours')
FROM signing_keys
"""

DELETE_OTHERS = "DELETE FROM signing_keys WHERE kid <> $1 RETURNING kid"

LOCK = "LOCK TABLE signing_keys IN SHARE ROW EXCLUSIVE MODE"


class PostgresSigningKeys:
    """The port `SigningKeys`."""

    def __init__(self, database: PostgresDatabase) -> None:
        self._database = database

    async def current(self) -> Sequence[SigningKey]:
        """All keys that verify, newest first."""
        return [_key(row) for row in await self._database.read(CURRENT)]

    async def add_first(self, key: SigningKey) -> Sequence[SigningKey]:
        """Store `key` unless there is one; returns what `current` would."""
        async with self._database.transaction() as connection:
            await connection.execute(LOCK)
            await connection.execute(ADD_FIRST, key.kid, key.algorithm, key.private_pem, key.created_at)
            return [_key(row) for row in await connection.fetch(CURRENT)]

    async def promise(self, token_ttl: timedelta) -> None:
        """Tokens may live so long: keys verify at least until those that they signed have ended."""
        await self._database.fetch(PROMISE, token_ttl)


class PostgresKeyRotation:
    """The port `KeyRotation`."""

    def __init__(self, database: PostgresDatabase) -> None:
        self._database = database

    async def terms(self) -> Sequence[KeyTerm]:
        """All keys that verify, newest first."""
        return [_term(row) for row in await self._database.read(TERMS + NEWEST_FIRST)]

    async def add(self, key: SigningKey, lead: timedelta, entry: AuditEntry) -> KeyTerm:
        """Store a key that signs after `lead`. Raises Conflict while another one waits for its time."""
        async with self._database.transaction() as connection:
            await connection.execute(LOCK)
            if await connection.fetchval(WAITING) is not None:
                raise Conflict("a new key waits for its time already")
            await connection.execute(ADD, key.kid, key.algorithm, key.private_pem, lead)
            await audit.write(connection, entry)
            rows = await connection.fetch(TERMS + NEWEST_FIRST)
        return next(_term(row) for row in rows if row["kid"] == key.kid)

    async def replace_all(self, key: SigningKey, entry: AuditEntry) -> Sequence[str]:
        """Store a key that signs at once, and delete all others; returns their ids."""
        async with self._database.transaction() as connection:
            await connection.execute(LOCK)
            await connection.execute(ADD, key.kid, key.algorithm, key.private_pem, timedelta(0))
            gone = await connection.fetch(DELETE_OTHERS, key.kid)
            await audit.write(connection, entry)
        return [row["kid"] for row in gone]


def _key(row: Record) -> SigningKey:
    return SigningKey(
        row["kid"], row["algorithm"], row["private_pem"], row["created_at"], row["signs_from"]
    )


def _term(row: Record) -> KeyTerm:
    return KeyTerm(
        row["kid"],
        row["algorithm"],
        row["created_at"],
        row["signs_from"],
        row["signs_until"],
        row["verifies_until"],
    )
