"""Signing keys on PostgreSQL."""

from collections.abc import Sequence

from persistence.postgres.database import PostgresDatabase, Record
from tmi.domain.model import SigningKey

CURRENT = "SELECT kid, algorithm, private_pem, created_at FROM signing_keys ORDER BY created_at DESC, kid"

ADD = """
INSERT INTO signing_keys (kid, algorithm, private_pem, created_at)
SELECT $1, $2, $3, $4 WHERE NOT EXISTS (SELECT FROM signing_keys)
"""


class PostgresSigningKeys:
    """The port `SigningKeys`."""

    def __init__(self, database: PostgresDatabase) -> None:
        self._database = database

    async def current(self) -> Sequence[SigningKey]:
        """All keys, newest first."""
        return [_key(row) for row in await self._database.read(CURRENT)]

    async def add_first(self, key: SigningKey) -> Sequence[SigningKey]:
        """Store `key` unless there is one; returns what `current` would."""
        async with self._database.transaction() as connection:
            await connection.execute("LOCK TABLE signing_keys IN SHARE ROW EXCLUSIVE MODE")
            await connection.execute(ADD, key.kid, key.algorithm, key.private_pem, key.created_at)
            return [_key(row) for row in await connection.fetch(CURRENT)]


def _key(row: Record) -> SigningKey:
    return SigningKey(row["kid"], row["algorithm"], row["private_pem"], row["created_at"])
