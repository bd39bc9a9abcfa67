"""Sign-in sessions on PostgreSQL.

The refresh tokens of a sign-in are one family, of which the newest alone is good. An older one that comes
back was copied by somebody, so the whole sign-in ends (RFC 9700, section 4.14.2). Both are decided under a
lock on the sign-in's row: of two calls with the same token one gets the successor, and the other ends the
sign-in.
"""

from datetime import timedelta
from uuid import uuid4

from persistence.postgres import rows
from persistence.postgres.database import PooledConnection, PostgresDatabase, Record
from persistence.secrets import digest
from tmi.domain.ids import SignInId, UserId
from tmi.domain.model import AuthorizationCode, SignIn

ISSUE_CODE = """
INSERT INTO authorization_codes (code_hash, user_id, redirect_uri, code_challenge, scope, expires_at)
VALUES ($1, $2, $3, $4, $5, now() + $6::interval)
"""

REDEEM_CODE = """
DELETE FROM authorization_codes c USING users u
WHERE c.code_hash = $1 AND u.id = c.user_id
RETURNING c.redirect_uri, c.code_challenge, c.scope, c.expires_at > now() AS valid,
          u.id, u.provider, u.provider_id, u.email, u.name, u.created_at, u.email_verified
"""

START = """
WITH u AS (
    SELECT * FROM users WHERE id = $2
), s AS (
    INSERT INTO sign_ins (id, user_id, expires_at) VALUES ($1, $2, now() + $4::interval)
    RETURNING id, expires_at
), token AS (
    INSERT INTO refresh_tokens (token_hash, sign_in_id, expires_at) SELECT $3, s.id, s.expires_at FROM s
)
SELECT s.id AS sign_in, s.expires_at,
       u.id, u.provider, u.provider_id, u.email, u.name, u.created_at, u.email_verified
FROM s, u
"""

LOCK_FAMILY = """
SELECT s.id, t.used_at IS NOT NULL AS used, t.expires_at > now() AS valid,
       s.ended_at IS NULL AND s.expires_at > now() AS stands
FROM sign_ins s JOIN refresh_tokens t ON t.sign_in_id = s.id
WHERE t.token_hash = $1
FOR UPDATE
"""

END = "UPDATE sign_ins SET ended_at = now() WHERE id = $1 AND ended_at IS NULL"

USE = "UPDATE refresh_tokens SET used_at = now() WHERE token_hash = $1"

SUCCEED = (
    "INSERT INTO refresh_tokens (token_hash, sign_in_id, expires_at) VALUES ($1, $2, now() + $3::interval)"
)

PROLONG = """
UPDATE sign_ins s SET expires_at = now() + $2::interval FROM users u
WHERE s.id = $1 AND u.id = s.user_id
RETURNING s.id AS sign_in, s.expires_at,
       u.id, u.provider, u.provider_id, u.email, u.name, u.created_at, u.email_verified
"""

GET = """
SELECT s.id AS sign_in, s.expires_at,
       u.id, u.provider, u.provider_id, u.email, u.name, u.created_at, u.email_verified
FROM sign_ins s JOIN users u ON u.id = s.user_id
WHERE s.id = $1 AND s.ended_at IS NULL AND s.expires_at > now()
"""


class PostgresSignIns:
    """The port `SignIns`."""

    def __init__(self, database: PostgresDatabase) -> None:
        self._database = database

    async def issue_code(self, code: str, grant: AuthorizationCode, ttl: timedelta) -> None:
        """Remember an authorization code."""
        await self._database.fetch(
            ISSUE_CODE,
            digest(code),
            grant.user.id,
            grant.redirect_uri,
            grant.code_challenge,
            grant.scope,
            ttl,
        )

    async def redeem_code(self, code: str) -> AuthorizationCode | None:
        """Take a code out, once: None if unknown, used before or past its time."""
        found = await self._database.fetch(REDEEM_CODE, digest(code))
        if not found or not found[0]["valid"]:
            return None
        row = found[0]
        return AuthorizationCode(rows.user(row), row["redirect_uri"], row["code_challenge"], row["scope"])

    async def start(self, user: UserId, refresh_token: str, ttl: timedelta) -> SignIn:
        """Begin a session whose first refresh token is given."""
        found = await self._database.fetch(START, uuid4(), user, digest(refresh_token), ttl)
        return _sign_in(found[0])

    async def rotate(self, refresh_token: str, successor: str, ttl: timedelta) -> SignIn | None:
        """Exchange a refresh token, once, and prolong its session; a second time ends the session."""
        async with self._database.transaction() as connection:
            family = await connection.fetchrow(LOCK_FAMILY, digest(refresh_token))
            if family is None or not family["stands"] or not family["valid"]:
                return None
            if family["used"]:
                await connection.execute(END, family["id"])
                return None
            await connection.execute(USE, digest(refresh_token))
            return await _succeed(connection, SignInId(family["id"]), successor, ttl)

    async def get(self, sign_in: SignInId) -> SignIn | None:
        """The session if it still stands: None once it ended or expired."""
        found = await self._database.read(GET, sign_in)
        return _sign_in(found[0]) if found else None


async def _succeed(connection: PooledConnection, sign_in: SignInId, successor: str, ttl: timedelta) -> SignIn:
    await connection.execute(SUCCEED, digest(successor), sign_in, ttl)
    row = await connection.fetchrow(PROLONG, sign_in, ttl)
    assert row is not None
    return _sign_in(row)


def _sign_in(row: Record) -> SignIn:
    return SignIn(SignInId(row["sign_in"]), rows.user(row), row["expires_at"])
