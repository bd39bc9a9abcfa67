"""Who went to an identity provider, on PostgreSQL."""

from datetime import timedelta

from persistence.postgres.database import PostgresDatabase
from persistence.secrets import digest
from tmi.domain.sign_in import PendingAuthorization

BEGIN = """
INSERT INTO pending_authorizations
    (state_hash, browser_hash, provider, redirect_uri, client_state, code_challenge, scope, expires_at)
VALUES ($1, $2, $3, $4, $5, $6, $7, now() + $8::interval)
"""

FINISH = """
DELETE FROM pending_authorizations WHERE state_hash = $1 AND browser_hash = $2
RETURNING provider, redirect_uri, client_state, code_challenge, scope, expires_at > now() AS valid
"""


class PostgresPendingAuthorizations:
    """The port `PendingAuthorizations`."""

    def __init__(self, database: PostgresDatabase) -> None:
        self._database = database

    async def begin(self, state: str, browser: str, pending: PendingAuthorization, ttl: timedelta) -> None:
        """Remember somebody who goes."""
        await self._database.fetch(
            BEGIN,
            digest(state),
            digest(browser),
            pending.provider,
            pending.redirect_uri,
            pending.client_state,
            pending.code_challenge,
            pending.scope,
            ttl,
        )

    async def finish(self, state: str, browser: str) -> PendingAuthorization | None:
        """Take it out, once: None if unknown, used before or past its time."""
        found = await self._database.fetch(FINISH, digest(state), digest(browser))
        if not found or not found[0]["valid"]:
            return None
        row = found[0]
        return PendingAuthorization(
            row["provider"], row["redirect_uri"], row["client_state"], row["code_challenge"], row["scope"]
        )
