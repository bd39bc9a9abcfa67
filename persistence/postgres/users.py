"""Users on PostgreSQL."""

from collections.abc import Mapping, Sequence
from uuid import uuid4

from persistence.postgres import rows
from persistence.postgres.database import PostgresDatabase
from tmi.domain.errors import NotFound
from tmi.domain.ids import UserId
from tmi.domain.model import User

SIGN_IN = """
INSERT INTO users AS u (id, provider, provider_id, email, name, last_login)
VALUES ($1, $2, $3, $4, $5, now())
ON CONFLICT (provider, provider_id)
    DO UPDATE SET email = excluded.email, name = excluded.name, last_login = now()
RETURNING u.id, u.provider, u.provider_id, u.email, u.name, u.created_at
"""

GET = "SELECT u.id, u.provider, u.provider_id, u.email, u.name, u.created_at FROM users u WHERE u.id = $1"

GET_ALL = """
SELECT u.id, u.provider, u.provider_id, u.email, u.name, u.created_at
FROM users u WHERE u.id = ANY($1::uuid[])
"""


class PostgresUsers:
    """The port `Users`."""

    def __init__(self, database: PostgresDatabase) -> None:
        self._database = database

    async def sign_in(self, provider: str, provider_id: str, email: str, name: str) -> User:
        """Find or create the user that a provider vouches for, and keep e-mail and name current."""
        found = await self._database.fetch(SIGN_IN, uuid4(), provider, provider_id, email, name)
        return rows.user(found[0])

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
