"""Users on PostgreSQL."""

from collections.abc import Mapping, Sequence
from uuid import uuid4

from persistence.postgres import rows
from persistence.postgres.database import PooledConnection, PostgresDatabase
from tmi.domain.errors import NotFound
from tmi.domain.ids import UserId
from tmi.domain.model import User

SIGN_IN = """
INSERT INTO users AS u (id, provider, provider_id, email, name, email_verified, last_login)
VALUES ($1, $2, $3, $4, $5, $6, now())
ON CONFLICT (provider, provider_id)
    DO UPDATE SET email = excluded.email, name = excluded.name, email_verified = excluded.email_verified,
                  last_login = now()
RETURNING u.id, u.provider, u.provider_id, u.email, u.name, u.created_at, u.email_verified
"""

ALONE = """
SELECT pg_advisory_xact_lock(hashtextextended($1, 0)), pg_advisory_xact_lock(hashtextextended($2, 0))
"""
"""For the person, then for the address: rows alone don't keep two apart who are not there yet."""

LOCK = """
SELECT id FROM users
WHERE (provider = $1 AND provider_id = $3)
   OR (provider = $1 AND lower(email COLLATE "C") = lower($2 COLLATE "C") AND email_verified)
ORDER BY id FOR NO KEY UPDATE
"""
"""Who brings the address and who has it: two people may just have changed addresses with each other."""

LOSE = """
UPDATE users SET email_verified = false
WHERE provider = $1 AND lower(email COLLATE "C") = lower($2 COLLATE "C") AND provider_id <> $3
  AND email_verified
"""
"""Who had the address before. It may have been given to somebody else since."""

GET = """
SELECT u.id, u.provider, u.provider_id, u.email, u.name, u.created_at, u.email_verified
FROM users u WHERE u.id = $1
"""

GET_ALL = """
SELECT u.id, u.provider, u.provider_id, u.email, u.name, u.created_at, u.email_verified
FROM users u WHERE u.id = ANY($1::uuid[])
"""


class PostgresUsers:
    """The port `Users`."""

    def __init__(self, database: PostgresDatabase) -> None:
        self._database = database

    async def sign_in(
        self, provider: str, provider_id: str, email: str, name: str, *, email_verified: bool = False
    ) -> User:
        """Find or create the user that a provider vouches for; a verified address has this one holder. Who is
        changed by it is told by a trigger (migration 0027).
        """
        async with self._database.transaction() as connection:
            if email_verified:
                await alone_with_address(connection, provider, provider_id, email)
                await take_address(connection, provider, provider_id, email)
            row = await connection.fetchrow(
                SIGN_IN, uuid4(), provider, provider_id, email, name, email_verified
            )
        assert row is not None
        return rows.user(row)

    async def get(self, user: UserId) -> User:
        """Raises NotFound."""
        found = await self._database.read(GET, user)
        if not found:
            raise NotFound("There is no such user.")
        return rows.user(found[0])

    async def get_all(self, users: Sequence[UserId]) -> Mapping[UserId, User]:
        """Those of `users` that there are, in one query."""
        found = map(rows.user, await self._database.read(GET_ALL, users))
        return {user.id: user for user in found}


async def alone_with_address(
    connection: PooledConnection, provider: str, provider_id: str, email: str
) -> None:
    """Let nobody else bring this address until the caller's transaction ends; lock all whom it concerns."""
    person, address = f"person:{provider}:{provider_id}", f"address:{provider}:{email.lower()}"
    await connection.execute(ALONE, person, address)
    await connection.execute(LOCK, provider, email, provider_id)


async def take_address(
    connection: PooledConnection, provider: str, provider_id: str, email: str
) -> None:
    """Whoever else had this verified address has it no more."""
    await connection.execute(LOSE, provider, email, provider_id)
