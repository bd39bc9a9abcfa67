"""Settings that administrators changed, and people's preferences, on PostgreSQL."""

from collections.abc import Sequence

import asyncpg

from persistence.postgres.audit import write
from persistence.postgres.database import PostgresDatabase, Record
from tmi.domain.configuration import StoredSetting
from tmi.domain.errors import Conflict, NotFound
from tmi.domain.ids import UserId
from tmi.domain.model import AuditEntry

ALL = "SELECT * FROM system_settings ORDER BY key LIMIT 1000"

PUT = """
INSERT INTO system_settings (key, value, kind, description, modified_by) VALUES ($1, $2, $3, $4, $5)
ON CONFLICT (key) DO UPDATE
SET value = $2, kind = $3, description = $4, modified_by = $5, modified_at = clock_timestamp()
RETURNING *
"""

REMOVE = "DELETE FROM system_settings WHERE key = $1 RETURNING key"

PREFERENCES = "SELECT preferences FROM user_preferences WHERE user_id = $1"

CREATE_PREFERENCES = """
INSERT INTO user_preferences (user_id, preferences) VALUES ($1, $2) ON CONFLICT DO NOTHING RETURNING user_id
"""

PUT_PREFERENCES = """
INSERT INTO user_preferences (user_id, preferences) VALUES ($1, $2)
ON CONFLICT (user_id) DO UPDATE SET preferences = $2, modified_at = now()
"""


class PostgresSystemSettings:
    """The port `SystemSettings`."""

    def __init__(self, database: PostgresDatabase) -> None:
        self._database = database

    async def all(self) -> Sequence[StoredSetting]:
        """By key, at most 1,000."""
        return [_setting(row) for row in await self._database.read(ALL)]

    async def put(self, setting: StoredSetting, entry: AuditEntry) -> StoredSetting:
        """Store it in place of an earlier value."""
        async with self._database.transaction() as connection:
            row = await connection.fetchrow(
                PUT, setting.key, setting.value, setting.kind, setting.description, setting.modified_by
            )
            await write(connection, entry)
        assert row is not None
        return _setting(row)

    async def remove(self, key: str, entry: AuditEntry) -> None:
        """Raises NotFound."""
        async with self._database.transaction() as connection:
            if await connection.fetchval(REMOVE, key) is None:
                raise NotFound("Nobody has changed this setting.")
            await write(connection, entry)


class PostgresPreferences:
    """The port `Preferences`."""

    def __init__(self, database: PostgresDatabase) -> None:
        self._database = database

    async def get(self, user: UserId) -> str | None:
        """None: there are none."""
        found = await self._database.read(PREFERENCES, user)
        return found[0]["preferences"] if found else None

    async def create(self, user: UserId, text: str) -> None:
        """Raises Conflict where there are some, and NotFound for a user who is gone."""
        if not await self._write(CREATE_PREFERENCES, user, text):
            raise Conflict("There are preferences already.")

    async def put(self, user: UserId, text: str) -> None:
        """Store them in place of earlier ones. Raises NotFound for a user who is gone."""
        await self._write(PUT_PREFERENCES, user, text)

    async def _write(self, sql: str, user: UserId, text: str) -> Sequence[Record]:
        try:
            return await self._database.fetch(sql, user, text)
        except asyncpg.ForeignKeyViolationError:
            raise NotFound("There is no such user.") from None


def _setting(row: Record) -> StoredSetting:
    return StoredSetting(
        key=row["key"],
        value=row["value"],
        kind=row["kind"],
        description=row["description"],
        modified_at=row["modified_at"],
        modified_by=None if row["modified_by"] is None else UserId(row["modified_by"]),
    )
