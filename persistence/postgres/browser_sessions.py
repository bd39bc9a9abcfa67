"""Browsers' cookies on PostgreSQL."""

from collections.abc import Sequence
from datetime import timedelta

from persistence.postgres import audit, rows
from persistence.postgres.database import PostgresDatabase
from persistence.secrets import digest
from tmi.domain.audit import happened
from tmi.domain.browser import IdleEnd, Visitor
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

EDITED = """
UPDATE browser_sessions SET idle_until = now() + $2::interval WHERE secret_hash IN (
    SELECT secret_hash FROM browser_sessions
    WHERE sign_in_id = ANY($1::uuid[]) AND idle_until > now() - $3::interval FOR UPDATE SKIP LOCKED)
"""
"""Whoever has a row locked prolongs it as well, or deletes it."""

END_IDLE = """
WITH ended AS (
UPDATE sign_ins SET ended_at = now() WHERE id IN (
    SELECT s.id FROM browser_sessions b JOIN sign_ins s ON s.id = b.sign_in_id
    WHERE b.idle_until <= now() - $1::interval AND s.ended_at IS NULL AND s.expires_at > now()
      AND NOT EXISTS (
        SELECT FROM browser_sessions o WHERE o.sign_in_id = s.id AND o.idle_until > now() - $1::interval)
    LIMIT $2 FOR UPDATE OF s SKIP LOCKED)
RETURNING id, user_id)
SELECT ended.id AS sign_in_id, u.* FROM ended JOIN users u ON u.id = ended.user_id
"""
"""The row goes with the next purge."""


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

    async def edited(self, sign_ins: Sequence[SignInId], idle: timedelta, late: timedelta) -> None:
        """Edits on sockets are uses of these sign-ins' sessions."""
        await self._database.fetch(EDITED, list(sign_ins), idle, late)

    async def end_idle(self, late: timedelta, at_most: int) -> Sequence[IdleEnd]:
        """End sign-ins whose browser went unused for too long."""
        async with self._database.transaction() as connection:
            found = await connection.fetch(END_IDLE, late, at_most)
            ended = [(SignInId(row["sign_in_id"]), rows.user(row)) for row in found]
            told = [
                IdleEnd(key, happened("sign_in.idle", user, "nobody used the browser", old=str(key)))
                for key, user in ended
            ]
            for one in told:
                await audit.write(connection, one.entry)
        return told
