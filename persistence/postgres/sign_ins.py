"""Codes, sign-in sessions and refresh tokens on PostgreSQL.

The refresh tokens of a sign-in are one family, of which the newest alone is good. An older one that comes
back was copied by somebody, so the whole sign-in ends (RFC 9700, section 4.14.2). Both are decided under a
lock on the sign-in's row: of two calls with the same token one gets the successor, and the other ends the
sign-in. Used ones are kept as long as their sign-in stands: the thief may wait.

A code that comes back ends what was begun with it (RFC 6749, section 4.1.2). Between its redemption and the
start of the sign-in its row in `used_codes` decides: whoever changes that row second sees what the first did.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from uuid import UUID, uuid4

from persistence.postgres import rows
from persistence.postgres.database import PooledConnection, PostgresDatabase, Record
from persistence.secrets import digest
from tmi.domain.errors import Unauthenticated
from tmi.domain.ids import CredentialId, SignInId, UserId
from tmi.domain.model import AuthorizationCode, SignIn
from tmi.domain.ports import Page
from tmi.domain.sign_ins import Begun, RefreshToken, Refusal, Refused, StandingSignIn

USED_CODE_TTL = timedelta(hours=1)
"""So long it is known that a code was used."""

ISSUE_CODE = """
INSERT INTO authorization_codes (code_hash, user_id, redirect_uri, code_challenge, scope, expires_at)
SELECT $1, u.id, $3, $4, $5, now() + $6::interval FROM users u WHERE u.id = $2 FOR KEY SHARE
"""

REDEEM_CODE = """
WITH taken AS (
    DELETE FROM authorization_codes WHERE code_hash = $1 RETURNING *
), kept AS (
    INSERT INTO used_codes (code_hash, expires_at) SELECT code_hash, now() + $2::interval FROM taken
)
SELECT c.redirect_uri, c.code_challenge, c.scope, c.expires_at > now() AS valid,
       u.id, u.provider, u.provider_id, u.email, u.name, u.created_at, u.email_verified
FROM taken c JOIN users u ON u.id = c.user_id
"""

REPLAY_CODE = "UPDATE used_codes SET replayed = true WHERE code_hash = $1 RETURNING sign_in_id"

START = """
WITH u AS (
    SELECT * FROM users WHERE id = $2 FOR KEY SHARE
), code AS (
    UPDATE used_codes SET sign_in_id = $1 WHERE code_hash = $5 AND NOT replayed RETURNING 1
), credential AS (
    SELECT c.id, c.expires_at FROM u JOIN client_credentials c ON c.user_id = u.id
    WHERE c.id = $6 AND c.is_active AND (c.expires_at IS NULL OR c.expires_at > now())
    FOR SHARE OF c
), s AS (
    INSERT INTO sign_ins (id, user_id, expires_at, credential_id, client)
    SELECT $1, u.id, least(now() + $4::interval, (SELECT expires_at FROM credential)), $6, $7
    FROM u
    WHERE ($5::bytea IS NULL OR EXISTS (SELECT FROM code))
      AND ($6::uuid IS NULL OR EXISTS (SELECT FROM credential))
    RETURNING id, expires_at, credential_id
), token AS (
    INSERT INTO refresh_tokens (token_hash, sign_in_id, expires_at)
    SELECT $3, s.id, s.expires_at FROM s WHERE $3::bytea IS NOT NULL
)
SELECT s.id AS sign_in, s.expires_at, s.credential_id,
       u.id, u.provider, u.provider_id, u.email, u.name, u.created_at, u.email_verified
FROM s, u
"""
"""The user is locked before the credential, as by who deletes an account."""

LOCK_FAMILY = """
SELECT s.id, s.user_id, t.used_at IS NOT NULL AS used, t.expires_at > now() AS valid,
       s.ended_at IS NOT NULL AS ended, s.expires_at > now() AS unexpired
FROM sign_ins s JOIN refresh_tokens t ON t.sign_in_id = s.id
WHERE t.token_hash = $1
FOR UPDATE
"""

END = """
UPDATE sign_ins SET ended_at = now()
WHERE id = $1 AND ended_at IS NULL AND expires_at > now() AND user_id = coalesce($2, user_id)
RETURNING user_id
"""

END_ALL = """
UPDATE sign_ins SET ended_at = now()
WHERE user_id = $1 AND ended_at IS NULL AND expires_at > now() AND id IS DISTINCT FROM $2
RETURNING id
"""

USE = "UPDATE refresh_tokens SET used_at = now() WHERE token_hash = $1"

PROLONG = """
UPDATE sign_ins s
SET expires_at = least(now() + $2::interval, s.started_at + $3::interval), refreshed_at = now()
FROM users u
WHERE s.id = $1 AND u.id = s.user_id
RETURNING s.id AS sign_in, s.expires_at, s.credential_id,
          u.id, u.provider, u.provider_id, u.email, u.name, u.created_at, u.email_verified
"""

SUCCEED = "INSERT INTO refresh_tokens (token_hash, sign_in_id, expires_at) VALUES ($1, $2, $3)"

GET = """
SELECT s.id AS sign_in, s.expires_at, s.credential_id,
       u.id, u.provider, u.provider_id, u.email, u.name, u.created_at, u.email_verified
FROM sign_ins s JOIN users u ON u.id = s.user_id
WHERE s.id = $1 AND s.ended_at IS NULL AND s.expires_at > now()
"""

FIND = """
SELECT s.id AS sign_in, s.expires_at, s.credential_id, t.expires_at AS token_expires_at,
       t.used_at IS NOT NULL AS used,
       u.id, u.provider, u.provider_id, u.email, u.name, u.created_at, u.email_verified
FROM refresh_tokens t JOIN sign_ins s ON s.id = t.sign_in_id JOIN users u ON u.id = s.user_id
WHERE t.token_hash = $1 AND s.ended_at IS NULL AND s.expires_at > now()
"""

OF_USER = """
SELECT id, started_at, refreshed_at, expires_at, client, credential_id, count(*) OVER () AS total
FROM sign_ins WHERE user_id = $1 AND ended_at IS NULL AND expires_at > now()
ORDER BY started_at DESC, id LIMIT $2 OFFSET $3
"""

ENDS = """
SELECT id, expires_at FROM sign_ins WHERE id = ANY($1::uuid[]) AND ended_at IS NULL AND expires_at > now()
"""

COUNT = "SELECT count(*) FROM sign_ins WHERE user_id = $1 AND ended_at IS NULL AND expires_at > now()"


class PostgresCodes:
    """The port `Codes`."""

    def __init__(self, database: PostgresDatabase) -> None:
        self._database = database

    async def issue(self, code: str, grant: AuthorizationCode, ttl: timedelta) -> None:
        """Remember a code, unless the user is gone."""
        await self._database.fetch(
            ISSUE_CODE,
            digest(code),
            grant.user.id,
            grant.redirect_uri,
            grant.code_challenge,
            grant.scope,
            ttl,
        )

    async def redeem(self, code: str) -> AuthorizationCode | Refused:
        """Take a code out, once. One that comes back ends the sign-in that was begun with it."""
        async with self._database.transaction() as connection:
            row = await connection.fetchrow(REDEEM_CODE, digest(code), USED_CODE_TTL)
            if row is None:
                return await _replayed(connection, code)
        if not row["valid"]:
            return Refused(Refusal.EXPIRED, UserId(row["id"]))
        return AuthorizationCode(rows.user(row), row["redirect_uri"], row["code_challenge"], row["scope"])


async def _replayed(connection: PooledConnection, code: str) -> Refused:
    used = await connection.fetchrow(REPLAY_CODE, digest(code))
    if used is None:
        return Refused(Refusal.UNKNOWN)
    if used["sign_in_id"] is None:
        return Refused(Refusal.REUSED)
    user: UUID | None = await connection.fetchval(END, used["sign_in_id"], None)
    owner = None if user is None else UserId(user)
    return Refused(Refusal.REUSED, owner, SignInId(used["sign_in_id"]), owner is not None)


class PostgresSignIns:
    """The port `SignIns`."""

    def __init__(self, database: PostgresDatabase) -> None:
        self._database = database

    async def start(
        self, user: UserId, refresh_token: str | None, ttl: timedelta, begun: Begun | None = None
    ) -> SignIn:
        """Begin a session. Raises Unauthenticated when what it comes from is no longer good."""
        begun = begun or Begun()
        found = await self._database.fetch(
            START,
            uuid4(),
            user,
            None if refresh_token is None else digest(refresh_token),
            ttl,
            None if begun.code is None else digest(begun.code),
            begun.credential,
            begun.client,
        )
        if not found:
            raise Unauthenticated("what this sign-in comes from is no longer good")
        return _sign_in(found[0])

    async def get(self, sign_in: SignInId) -> SignIn | None:
        """The session if it still stands: None once it ended or expired."""
        found = await self._database.read(GET, sign_in)
        return _sign_in(found[0]) if found else None

    async def of_user(self, user: UserId, page: Page) -> tuple[Sequence[StandingSignIn], int]:
        """A page of the sessions of a user that stand, newest first, and their total."""
        found = await self._database.read(OF_USER, user, page.limit, page.offset)
        total = found[0]["total"] if found else (await self._database.read(COUNT, user))[0][0]
        return [_standing(row) for row in found], total

    async def end(self, user: UserId, sign_in: SignInId) -> bool:
        """End a session; False if the user has none of this id that stands."""
        return bool(await self._database.fetch(END, sign_in, user))

    async def end_all(self, user: UserId, besides: SignInId | None = None) -> Sequence[SignInId]:
        """End all sessions of a user but one; returns those that it ended."""
        return [SignInId(row["id"]) for row in await self._database.fetch(END_ALL, user, besides)]


class PostgresSignInTerms:
    """The port `SignInTerms`."""

    def __init__(self, database: PostgresDatabase) -> None:
        self._database = database

    async def ends(self, sign_ins: Sequence[SignInId]) -> Mapping[SignInId, datetime]:
        """When those of these sessions that stand will end."""
        found = await self._database.read(ENDS, list(sign_ins))
        return {SignInId(row["id"]): row["expires_at"] for row in found}


class PostgresRefreshTokens:
    """The port `RefreshTokens`."""

    def __init__(self, database: PostgresDatabase) -> None:
        self._database = database

    async def rotate(
        self, refresh_token: str, successor: str, ttl: timedelta, longest: timedelta | None = None
    ) -> SignIn | Refused:
        """Exchange a refresh token, once, and prolong its session; a second time ends the session."""
        async with self._database.transaction() as connection:
            family = await connection.fetchrow(LOCK_FAMILY, digest(refresh_token))
            if family is None:
                return Refused(Refusal.UNKNOWN)
            refusal = _refusal(family)
            if refusal is not None:
                ended = refusal is Refusal.REUSED and await connection.fetchval(END, family["id"], None)
                return Refused(refusal, UserId(family["user_id"]), SignInId(family["id"]), bool(ended))
            await connection.execute(USE, digest(refresh_token))
            row = await connection.fetchrow(PROLONG, family["id"], ttl, longest)
            assert row is not None
            await connection.execute(SUCCEED, digest(successor), row["sign_in"], row["expires_at"])
            return _sign_in(row)

    async def find(self, refresh_token: str) -> RefreshToken | None:
        """A refresh token of a session that stands. Does not use it."""
        found = await self._database.read(FIND, digest(refresh_token))
        if not found:
            return None
        row = found[0]
        return RefreshToken(_sign_in(row), row["token_expires_at"], row["used"])


def _refusal(family: Record) -> Refusal | None:
    """Whether it was used before comes first: a stolen token is no better for being old."""
    if family["used"]:
        return Refusal.REUSED
    if family["ended"]:
        return Refusal.ENDED
    return None if family["valid"] and family["unexpired"] else Refusal.EXPIRED


def _sign_in(row: Record) -> SignIn:
    return SignIn(SignInId(row["sign_in"]), rows.user(row), row["expires_at"], _credential(row))


def _standing(row: Record) -> StandingSignIn:
    return StandingSignIn(
        SignInId(row["id"]),
        row["started_at"],
        row["refreshed_at"],
        row["expires_at"],
        row["client"],
        _credential(row),
    )


def _credential(row: Record) -> CredentialId | None:
    return None if row["credential_id"] is None else CredentialId(row["credential_id"])
