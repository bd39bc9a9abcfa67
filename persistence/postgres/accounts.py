"""Accounts on PostgreSQL: what administrators see of users, and how an account goes.

A threat model never loses its last owner by an account's end: it goes with the account instead. The order of
locks: the account's row, memberships as where a group is deleted, and then that of every write to a threat
model, its row before its grants, and rows by id.
"""

from collections.abc import Sequence
from datetime import timedelta
from uuid import UUID

from persistence.postgres import events, rows
from persistence.postgres.audit import write
from persistence.postgres.database import PooledConnection, PostgresDatabase, Record
from persistence.postgres.diagrams import delete_diagrams
from persistence.postgres.quotas import lock_usage, transfer_charge
from persistence.postgres.threat_models import get_all
from persistence.postgres.users import alone_with_address, take_address
from persistence.secrets import digest
from tmi.domain.errors import BadInput, NotFound
from tmi.domain.events import HANDED_OVER, LEFT, Event
from tmi.domain.ids import DiagramId, ThreatModelId, UserId
from tmi.domain.model import ADMINISTRATORS_GROUP, Account, AuditEntry
from tmi.domain.ports import AccountChange, AccountFilter, Page
from tmi.domain.sign_ins import AUTOMATION_PROVIDER

MEANS = """
g.principal_type = 'user' AND g.provider = u.provider
AND lower(g.provider_id COLLATE "C") IN (lower(u.provider_id COLLATE "C"), lower(u.email COLLATE "C"))
AND (g.provider_id = u.provider_id
     OR (u.email_verified AND lower(g.provider_id COLLATE "C") = lower(u.email COLLATE "C")))
"""
"""Whom a grant means by name: as in the view user_grants."""

MODELS_AT_ONCE = 10_000

ACCOUNTS = f"""
SELECT u.id, u.provider, u.provider_id, u.email, u.name, u.created_at, u.email_verified,
       u.modified_at, u.last_login,
       ARRAY(SELECT p.provider_id FROM group_members m JOIN groups p ON p.id = m.group_id
             WHERE m.user_id = u.id ORDER BY p.provider_id LIMIT 100) AS groups,
       EXISTS (SELECT FROM group_members m
               WHERE m.user_id = u.id AND m.group_id = '{ADMINISTRATORS_GROUP}') AS is_administrator,
       (SELECT count(DISTINCT g.threat_model_id) FROM grants g WHERE {MEANS} AND g.role = 3) AS owned
FROM users u
"""

WHERE = """
WHERE ($1::text IS NULL OR u.provider = $1)
  AND ($2::text IS NULL OR strpos(lower(u.email), lower($2)) > 0)
  AND ($3::text IS NULL OR strpos(lower(u.name), lower($3)) > 0)
  AND ($4::timestamptz IS NULL OR u.created_at > $4) AND ($5::timestamptz IS NULL OR u.created_at < $5)
  AND ($6::timestamptz IS NULL OR u.last_login > $6) AND ($7::timestamptz IS NULL OR u.last_login < $7)
  AND ($8::boolean IS NULL OR (u.provider = $9) = $8)
"""

TOTAL = f"SELECT count(*) FROM users u {WHERE}"

ORDERS = {
    (column, descending): f"ORDER BY u.{column} {'DESC' if descending else 'ASC'} NULLS LAST, u.id"
    for column in ("created_at", "last_login", "email", "name")
    for descending in (False, True)
}

GET = f"{ACCOUNTS} WHERE u.id = $1"

CHANGE = """
UPDATE users SET email = coalesce($2, email), name = coalesce($3, name),
                 email_verified = coalesce($4, email_verified AND ($2 IS NULL OR $2 = email)),
                 modified_at = now()
WHERE id = $1 RETURNING provider, provider_id, email, email_verified
"""

LOCK_USER = "SELECT id FROM users WHERE id = $1 FOR UPDATE"
LOCK_USERS = "SELECT id FROM users WHERE id = ANY($1::uuid[]) ORDER BY id FOR SHARE"

LOCK_MEMBERSHIPS = """
SELECT group_id FROM group_members WHERE user_id = $1 OR added_by = $1 ORDER BY group_id, user_id FOR UPDATE
"""
"""Its own, which go, and those of others that lose who added them: two who added each other may go at once.
There come no more while the account's row is locked.
"""

NAMED = f"""
SELECT t.id FROM threat_models t
WHERE t.id IN (
    SELECT g.threat_model_id FROM users u JOIN grants g ON {MEANS} WHERE u.id = $1 AND g.role >= $2)
ORDER BY t.id LIMIT {MODELS_AT_ONCE} FOR UPDATE
"""

REVIEWS = """
EXISTS (SELECT FROM users r WHERE r.id = $1 AND r.provider = t.security_reviewer->>'provider'
        AND r.provider_id = t.security_reviewer->>'provider_id')
"""

CONCERNED = f"""
SELECT t.id FROM threat_models t
WHERE t.charged_to = $1 OR t.created_by = $1
   OR t.id IN (SELECT g.threat_model_id FROM users u JOIN grants g ON {MEANS} WHERE u.id = $1)
   OR {REVIEWS}
ORDER BY t.id FOR UPDATE
"""
"""What an account has to do with, all of it locked before anything else is. What names it from then on names
somebody who may sign in again.
"""

UNNAME = f"""
DELETE FROM grants g USING users u WHERE u.id = $1 AND g.threat_model_id = ANY($2::uuid[]) AND {MEANS}
RETURNING g.threat_model_id AS id
"""

ORPHANS = """
SELECT t.id FROM unnest($1::uuid[]) AS t (id)
WHERE NOT EXISTS (SELECT FROM grants g WHERE g.threat_model_id = t.id AND g.role = 3)
"""

DIAGRAMS = "SELECT id FROM diagrams WHERE threat_model_id = ANY($1::uuid[]) ORDER BY id FOR UPDATE"

TOUCH = """
UPDATE threat_models SET version = version + 1, modified_at = clock_timestamp() WHERE id = ANY($1::uuid[])
"""

REVIEWED = f"SELECT t.id FROM threat_models t WHERE t.id = ANY($2::uuid[]) AND {REVIEWS}"

LEAVE = f"""
UPDATE threat_models t
SET charged_to = nullif(charged_to, $1::uuid), created_by = nullif(created_by, $1::uuid),
    security_reviewer = CASE WHEN {REVIEWS} THEN NULL ELSE security_reviewer END,
    version = CASE WHEN id = ANY($3::uuid[]) THEN version + 1 ELSE version END,
    modified_at = CASE WHEN id = ANY($3::uuid[]) THEN clock_timestamp() ELSE modified_at END
WHERE id = ANY($2::uuid[])
"""
"""Once, and not by the foreign keys as well: a second update in a transaction checks the other user that a
row names, under a lock that is out of order.
"""

SET_ROLE = f"""
UPDATE grants g SET role = $3 FROM users u
WHERE u.id = $1 AND g.threat_model_id = ANY($2::uuid[]) AND g.role <> $3 AND {MEANS}
"""

DEMOTE = f"""
UPDATE grants g SET role = 2 FROM users u
WHERE u.id = $1 AND g.threat_model_id = ANY($2::uuid[]) AND g.role = 3 AND {MEANS}
"""

NAME_OWNER = f"""
INSERT INTO grants
    (threat_model_id, position, principal_type, provider, provider_id, email, display_name, role)
SELECT t.id, (SELECT coalesce(max(o.position), -1) + 1 FROM grants o WHERE o.threat_model_id = t.id),
       'user', u.provider, u.provider_id, u.email, u.name, 3
FROM unnest($2::uuid[]) AS t (id), users u
WHERE u.id = $1 AND NOT EXISTS (SELECT FROM grants g WHERE g.threat_model_id = t.id AND {MEANS})
"""

CHALLENGE = """
INSERT INTO deletion_challenges (user_id, challenge_hash, expires_at) VALUES ($1, $2, now() + $3::interval)
ON CONFLICT (user_id) DO UPDATE SET challenge_hash = excluded.challenge_hash, expires_at = excluded.expires_at
"""

MEET = """
DELETE FROM deletion_challenges WHERE user_id = $1 AND challenge_hash = $2
RETURNING expires_at > now() AS valid
"""

OWNER = 3


DELETE_MODELS = "DELETE FROM threat_models WHERE id = ANY($1::uuid[]) RETURNING id, version"


class PostgresAccounts:
    """The port `Accounts`."""

    def __init__(self, database: PostgresDatabase) -> None:
        self._database = database

    async def matching(self, wanted: AccountFilter, page: Page) -> tuple[Sequence[Account], int]:
        """A page of the accounts, and their total."""
        order = ORDERS[wanted.sort_by, wanted.descending]
        filters = (
            wanted.provider,
            wanted.email,
            wanted.name,
            wanted.created_after,
            wanted.created_before,
            wanted.last_login_after,
            wanted.last_login_before,
            wanted.automation,
            AUTOMATION_PROVIDER,
        )

        async def work(connection: PooledConnection) -> tuple[Sequence[Account], int]:
            total = await connection.fetchval(TOTAL, *filters)
            sql = f"{ACCOUNTS} {WHERE} {order} LIMIT $10 OFFSET $11"
            found = await connection.fetch(sql, *filters, page.limit, page.offset)
            return [_account(row) for row in found], total

        return await self._database.read_with(work)

    async def get(self, user: UserId) -> Account:
        """Raises NotFound."""
        return await self._database.read_with(lambda connection: _get(connection, user))

    async def change(self, user: UserId, change: AccountChange, entry: AuditEntry) -> Account:
        """Raises NotFound."""
        async with self._database.transaction() as connection:
            present = (await _get(connection, user)).user
            email = change.email or present.email
            await alone_with_address(connection, present.provider, present.provider_id, email)
            row = await connection.fetchrow(
                CHANGE, user, change.email, change.name, change.email_verified
            )
            if row is not None and row["email_verified"]:
                await take_address(connection, row["provider"], row["provider_id"], row["email"])
            changed = await _get(connection, user)
            await write(connection, entry)
        return changed

    async def delete(self, user: UserId, entry: AuditEntry) -> Sequence[DiagramId]:
        """Delete an account, and the threat models that have no owner left. Raises NotFound."""
        async with self._database.transaction() as connection:
            if await connection.fetchval(LOCK_USER, user) is None:
                raise NotFound("There is no such user.")
            await connection.execute(LOCK_MEMBERSHIPS, user)
            concerned = _ids(await connection.fetch(CONCERNED, user))
            reviewed = _ids(await connection.fetch(REVIEWED, user, concerned))
            named = _ids(await connection.fetch(UNNAME, user, concerned))
            orphans = _ids(await connection.fetch(ORPHANS, named))
            gone = [DiagramId(key) for key in _ids(await connection.fetch(DIAGRAMS, orphans))]
            await lock_usage(connection, orphans)
            await delete_diagrams(connection, gone)
            told = [
                Event.of_lost_model(entry, ThreatModelId(row["id"]), row["version"])
                for row in await connection.fetch(DELETE_MODELS, orphans)
            ]
            changed = sorted({*named, *reviewed} - {*orphans})
            await connection.execute(LEAVE, user, concerned, changed)
            await connection.execute("DELETE FROM users WHERE id = $1", user)
            await write(connection, entry)
            told += await _told(connection, entry, changed, LEFT)
            await events.write(connection, *told)
        return gone

    async def transfer(
        self, source: UserId, target: UserId, entry: AuditEntry, *, with_charge: bool = False
    ) -> Sequence[ThreatModelId]:
        """Raises NotFound, and BadInput when both are the same."""
        if source == target:
            raise BadInput("ownership goes to somebody else")
        async with self._database.transaction() as connection:
            if len(await connection.fetch(LOCK_USERS, [source, target])) < 2:
                raise NotFound("There is no such user.")
            models = _ids(await connection.fetch(NAMED, source, OWNER))
            await connection.execute(DEMOTE, source, models)
            await connection.execute(SET_ROLE, target, models, OWNER)
            await connection.execute(NAME_OWNER, target, models)
            charged = await transfer_charge(connection, source, target, models) if with_charge else []
            await connection.execute(TOUCH, [model for model in models if model not in charged])
            await write(connection, entry)
            await events.write(connection, *await _told(connection, entry, models, HANDED_OVER))
        return [ThreatModelId(model) for model in models]


class PostgresChallenges:
    """The port `Challenges`."""

    def __init__(self, database: PostgresDatabase) -> None:
        self._database = database

    async def issue(self, user: UserId, challenge: str, ttl: timedelta) -> None:
        """Remember a challenge in place of an earlier one."""
        await self._database.fetch(CHALLENGE, user, digest(challenge), ttl)

    async def redeem(self, user: UserId, challenge: str) -> bool:
        """Take it out, once: False if it is another one, or past its time."""
        found = await self._database.fetch(MEET, user, digest(challenge))
        return bool(found) and bool(found[0]["valid"])


async def _told(
    connection: PooledConnection, entry: AuditEntry, models: Sequence[UUID], summary: str
) -> list[Event]:
    return [Event.of_people(entry, model, summary) for model in await get_all(connection, models)]


async def _get(connection: PooledConnection, user: UserId) -> Account:
    row = await connection.fetchrow(GET, user)
    if row is None:
        raise NotFound("There is no such user.")
    return _account(row)


def _ids(found: Sequence[Record]) -> list[UUID]:
    return [row["id"] for row in found]


def _account(row: Record) -> Account:
    return Account(
        user=rows.user(row),
        modified_at=row["modified_at"],
        last_login=row["last_login"],
        groups=tuple(row["groups"]),
        is_administrator=row["is_administrator"],
        owned=row["owned"],
    )
