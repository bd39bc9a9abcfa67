"""Client credentials on PostgreSQL.

The row of a credential is changed before its sign-ins are ended, and a sign-in is begun under a lock on that
row (see `START` in sign_ins.py): so none can begin unseen while its credential goes.
"""

import hmac
from collections.abc import Sequence
from uuid import uuid4

from persistence.postgres import audit, rows
from persistence.postgres.database import PooledConnection, PostgresDatabase, Record
from persistence.secrets import digest
from tmi.domain.errors import Forbidden, NotFound
from tmi.domain.ids import CredentialId, SignInId, UserId
from tmi.domain.model import AuditEntry
from tmi.domain.ports import Page
from tmi.domain.sign_ins import ClientCredential, NewCredential, Refusal, Refused

LOCK_USER = "SELECT id FROM users WHERE id = $1 FOR NO KEY UPDATE"

COUNT = "SELECT count(*) FROM client_credentials WHERE user_id = $1"

CREATE = """
INSERT INTO client_credentials (id, user_id, client_id, secret_hash, name, description, expires_at)
VALUES ($1, $2, $3, $4, $5, $6, $7)
"""

SELECT = """
SELECT c.id AS credential, c.client_id, c.name AS called, c.description, c.is_active,
       c.created_at AS made_at, c.modified_at, c.expires_at, c.last_used_at, c.secret_hash,
       c.expires_at IS NULL OR c.expires_at > now() AS unexpired,
       u.id, u.provider, u.provider_id, u.email, u.name, u.created_at, u.email_verified
FROM client_credentials c JOIN users u ON u.id = c.user_id
"""

GET = SELECT + "WHERE c.id = $1"

OF_USER = SELECT + "WHERE c.user_id = $1 ORDER BY c.created_at, c.id LIMIT $2 OFFSET $3"

BY_CLIENT_ID = SELECT + "WHERE c.client_id = $1"

SET_ACTIVE = """
UPDATE client_credentials SET is_active = $3, modified_at = now() WHERE id = $1 AND user_id = $2 RETURNING id
"""

LOCK = "SELECT id FROM client_credentials WHERE id = $1 AND user_id = $2 FOR UPDATE"

DELETE = "DELETE FROM client_credentials WHERE id = $1"

END_SIGN_INS = """
UPDATE sign_ins SET ended_at = now()
WHERE credential_id = $1 AND ended_at IS NULL AND expires_at > now()
RETURNING id
"""

USED = "UPDATE client_credentials SET last_used_at = now() WHERE id = $1"


class PostgresClientCredentials:
    """The port `ClientCredentials`."""

    def __init__(self, database: PostgresDatabase) -> None:
        self._database = database

    async def create(
        self, user: UserId, new: NewCredential, at_most: int | None, entry: AuditEntry
    ) -> ClientCredential:
        """Raises NotFound, and Forbidden for a user who has `at_most` already."""
        key = CredentialId(uuid4())
        async with self._database.transaction() as connection:
            if await connection.fetchval(LOCK_USER, user) is None:
                raise NotFound("There is no such user.")
            if at_most is not None and await connection.fetchval(COUNT, user) >= at_most:
                raise Forbidden(f"at most {at_most} client credentials; delete one first")
            await connection.execute(
                CREATE,
                key,
                user,
                new.client_id,
                digest(new.secret),
                new.name,
                new.description,
                new.expires_at,
            )
            await audit.write(connection, entry)
            return await _get(connection, key)

    async def of_user(self, user: UserId, page: Page) -> tuple[Sequence[ClientCredential], int]:
        """A page of a user's credentials, oldest first, and their total."""
        found = await self._database.read(OF_USER, user, page.limit, page.offset)
        total = await self._database.read(COUNT, user)
        return [_credential(row) for row in found], total[0][0]

    async def set_active(
        self, user: UserId, credential: CredentialId, entry: AuditEntry, *, active: bool
    ) -> tuple[ClientCredential, Sequence[SignInId]]:
        """Deactivating one ends its sign-ins, which are returned. Raises NotFound."""
        async with self._database.transaction() as connection:
            if await connection.fetchval(SET_ACTIVE, credential, user, active) is None:
                raise NotFound("There is no such client credential.")
            ended = [] if active else await _end_sign_ins(connection, credential)
            await audit.write(connection, entry)
            return await _get(connection, credential), ended

    async def delete(
        self, user: UserId, credential: CredentialId, entry: AuditEntry
    ) -> Sequence[SignInId]:
        """Delete one and end its sign-ins, which are returned. Raises NotFound."""
        async with self._database.transaction() as connection:
            if await connection.fetchval(LOCK, credential, user) is None:
                raise NotFound("There is no such client credential.")
            ended = await _end_sign_ins(connection, credential)
            await connection.execute(DELETE, credential)
            await audit.write(connection, entry)
            return ended

    async def authenticate(self, client_id: str, secret: str) -> ClientCredential | Refused:
        """The credential of a client that knows its secret, and mark it used."""
        found = await self._database.read(BY_CLIENT_ID, client_id)
        if not found or not hmac.compare_digest(found[0]["secret_hash"], digest(secret)):
            return Refused(Refusal.UNKNOWN, UserId(found[0]["id"]) if found else None)
        row = found[0]
        if not row["is_active"] or not row["unexpired"]:
            why = Refusal.EXPIRED if row["is_active"] else Refusal.ENDED
            return Refused(why, UserId(row["id"]))
        await self._database.fetch(USED, row["credential"])
        return _credential(row)


async def _get(connection: PooledConnection, credential: CredentialId) -> ClientCredential:
    row = await connection.fetchrow(GET, credential)
    assert row is not None
    return _credential(row)


async def _end_sign_ins(connection: PooledConnection, credential: CredentialId) -> list[SignInId]:
    return [SignInId(row["id"]) for row in await connection.fetch(END_SIGN_INS, credential)]


def _credential(row: Record) -> ClientCredential:
    return ClientCredential(
        id=CredentialId(row["credential"]),
        user=rows.user(row),
        client_id=row["client_id"],
        name=row["called"],
        description=row["description"],
        is_active=row["is_active"],
        created_at=row["made_at"],
        modified_at=row["modified_at"],
        expires_at=row["expires_at"],
        last_used_at=row["last_used_at"],
    )
