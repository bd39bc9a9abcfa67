"""Browsers' cookies on PostgreSQL."""

from datetime import timedelta

from persistence.postgres.database import PostgresDatabase
from persistence.secrets import digest
from tmi.domain.browser import Visitor
from tmi.domain.ids import SignInId, UserId

BEGIN = """
INSERT INTO browser_sessions (secret_hash, sign_in_id, idle_until) VALUES ($1, $2, now() + $3::interval)
"""

USE = """
UPDATE browser_sessions b SET idle_until = now() + $2::interval FROM sign_ins s
WHERE b.secret_hash = $1 AND b.idle_until > now()
  AND s.id = b.sign_in_id AND s.ended_at IS NULL AND s.expires_at > now()
RETURNING s.id, s.user_id, s.expires_at
"""


class PostgresBrowserSessions:
    """The port `BrowserSessions`."""

    def __init__(self, database: PostgresDatabase) -> None:
        self._database = database

    async def begin(self, secret: str, sign_in: SignInId, idle: timedelta) -> None:
        """Let a secret stand for a sign-in session, until it goes unused for so long."""
        await self._database.fetch(BEGIN, digest(secret), sign_in, idle)

    async def use(self, secret: str, idle: timedelta) -> Visitor | None:
        """Whose a secret is, which counts as a use."""
        found = await self._database.fetch(USE, digest(secret), idle)
        if not found:
            return None
        row = found[0]
        return Visitor(UserId(row["user_id"]), SignInId(row["id"]), row["expires_at"])
