"""Groups and who is in them, on PostgreSQL."""

from collections.abc import Sequence
from uuid import uuid4

import asyncpg

from persistence.postgres import rows
from persistence.postgres.audit import write
from persistence.postgres.database import PooledConnection, PostgresDatabase, Record
from tmi.domain.errors import Conflict, Forbidden, LastOwner, NotFound
from tmi.domain.ids import GroupId, UserId
from tmi.domain.model import EVERYONE_GROUP, AuditEntry, Group, GroupMember
from tmi.domain.ports import GroupFilter, Page

NAMES = """
g.principal_type = 'group' AND g.provider = p.provider
AND lower(g.provider_id COLLATE "C") = lower(p.provider_id COLLATE "C") AND g.provider_id = p.provider_id
"""
"""Grants that mean a group: as in the view user_grants."""

GROUPS = f"""
SELECT p.id, p.provider, p.provider_id, p.name, p.description, p.is_builtin, p.created_at,
       greatest(p.created_at, (SELECT max(m.added_at) FROM group_members m WHERE m.group_id = p.id))
           AS last_used,
       (SELECT count(*) FROM grants g WHERE {NAMES}) AS grants,
       (SELECT count(*) FROM group_members m WHERE m.group_id = p.id) AS members
FROM groups p
"""

WHERE = f"""
WHERE ($1::text IS NULL OR p.provider = $1)
  AND ($2::text IS NULL OR strpos(lower(p.provider_id), lower($2)) > 0)
  AND ($3::boolean IS NULL OR EXISTS (SELECT FROM grants g WHERE {NAMES}) = $3)
  AND ($4::boolean IS NULL OR p.is_builtin = $4)
"""

ORDERS = {
    (by_name, descending): f"ORDER BY p.{'provider_id' if by_name else 'created_at'} "
    f"{'DESC' if descending else 'ASC'}, p.id"
    for by_name in (False, True)
    for descending in (False, True)
}

TOTAL = f"SELECT count(*) FROM groups p {WHERE}"
GET = f"{GROUPS} WHERE p.id = $1"

CREATE = """
INSERT INTO groups (id, provider, provider_id, name, description) VALUES ($1, 'tmi', $2, $3, $4)
ON CONFLICT (provider, provider_id) DO NOTHING RETURNING id
"""

CHANGE = """
UPDATE groups SET name = coalesce($2, name), description = coalesce($3, description) WHERE id = $1
"""

LOCK = "SELECT is_builtin FROM groups WHERE id = $1 FOR UPDATE"

NAMED = f"""
SELECT t.id FROM threat_models t
WHERE t.id IN (SELECT g.threat_model_id FROM groups p JOIN grants g ON {NAMES} WHERE p.id = $1)
ORDER BY t.id FOR UPDATE
"""

UNNAME = f"DELETE FROM grants g USING groups p WHERE p.id = $1 AND {NAMES}"

ORPHAN = """
SELECT EXISTS (
    SELECT FROM unnest($1::uuid[]) AS t (id)
    WHERE NOT EXISTS (SELECT FROM grants g WHERE g.threat_model_id = t.id AND g.role = 3))
"""

TOUCH = """
UPDATE threat_models SET version = version + 1, modified_at = clock_timestamp() WHERE id = ANY($1::uuid[])
"""

LOCK_MEMBERS = "SELECT user_id FROM group_members WHERE group_id = $1 ORDER BY group_id, user_id FOR UPDATE"
"""Before threat models, as where an account is deleted."""

MEMBERS_TOLD_MAX = 10_000

MEMBERS = """
SELECT m.id AS membership, m.group_id, m.added_by, m.added_at, m.notes, a.email AS added_by_email,
       u.id, u.provider, u.provider_id, u.email, u.name, u.created_at, u.email_verified
FROM group_members m JOIN users u ON u.id = m.user_id LEFT JOIN users a ON a.id = m.added_by
"""

OF_GROUP = f"{MEMBERS} WHERE m.group_id = $1 ORDER BY m.added_at, m.id LIMIT $2 OFFSET $3"

MEMBER = f"{MEMBERS} WHERE m.group_id = $1 AND m.user_id = $2"

COUNT = """
SELECT (SELECT count(*) FROM group_members m WHERE m.group_id = p.id) AS members FROM groups p WHERE p.id = $1
"""

OF_USER = """
SELECT p.id, p.provider_id, p.name FROM group_members m JOIN groups p ON p.id = m.group_id
WHERE m.user_id = $1 ORDER BY p.provider_id, p.id LIMIT 100
"""

ADD = """
INSERT INTO group_members (group_id, user_id, added_by, notes) VALUES ($1, $2, $3, $4)
ON CONFLICT (group_id, user_id) DO NOTHING RETURNING id
"""

REMOVE = "DELETE FROM group_members WHERE group_id = $1 AND user_id = $2 RETURNING id"


class PostgresGroups:
    """The port `Groups`."""

    def __init__(self, database: PostgresDatabase) -> None:
        self._database = database

    async def matching(self, wanted: GroupFilter, page: Page) -> tuple[Sequence[Group], int]:
        """A page of the groups, and their total."""
        filters = (wanted.provider, wanted.name, wanted.is_used, wanted.is_builtin)
        order = ORDERS[wanted.by_name, wanted.descending]

        async def work(connection: PooledConnection) -> tuple[Sequence[Group], int]:
            total = await connection.fetchval(TOTAL, *filters)
            sql = f"{GROUPS} {WHERE} {order} LIMIT $5 OFFSET $6"
            found = await connection.fetch(sql, *filters, page.limit, page.offset)
            return [_group(row) for row in found], total

        return await self._database.read_with(work)

    async def get(self, group: GroupId) -> Group:
        """Raises NotFound."""
        return await self._database.read_with(lambda connection: _get(connection, group))

    async def create(self, name: str, title: str, description: str | None, entry: AuditEntry) -> Group:
        """Create a group of this service. Raises Conflict when there is one of that name."""
        key = GroupId(uuid4())
        async with self._database.transaction() as connection:
            if await connection.fetchval(CREATE, key, name, title, description) is None:
                raise Conflict("There is a group of this name.")
            await write(connection, entry)
            return await _get(connection, key)

    async def change(
        self, group: GroupId, title: str | None, description: str | None, entry: AuditEntry
    ) -> Group:
        """Change what is not None. Raises NotFound."""
        async with self._database.transaction() as connection:
            await connection.execute(CHANGE, group, title, description)
            changed = await _get(connection, group)
            await write(connection, entry)
        return changed

    async def delete(self, group: GroupId, entry: AuditEntry) -> Sequence[UserId]:
        """Delete a group, also from authorization lists. Raises NotFound, Forbidden and LastOwner."""
        async with self._database.transaction() as connection:
            is_builtin = await connection.fetchval(LOCK, group)
            if is_builtin is None:
                raise NotFound("There is no such group.")
            if is_builtin:
                raise Forbidden("a built-in group stays")
            found = await connection.fetch(LOCK_MEMBERS, group)
            models = [row["id"] for row in await connection.fetch(NAMED, group)]
            await connection.execute(UNNAME, group)
            if await connection.fetchval(ORPHAN, models):
                raise LastOwner("this group is the only owner of a threat model")
            await connection.execute(TOUCH, models)
            await connection.execute("DELETE FROM groups WHERE id = $1", group)
            await write(connection, entry)
        return [UserId(row["user_id"]) for row in found[:MEMBERS_TOLD_MAX]]


class PostgresMemberships:
    """The port `Memberships`."""

    def __init__(self, database: PostgresDatabase) -> None:
        self._database = database

    async def of_group(self, group: GroupId, page: Page) -> tuple[Sequence[GroupMember], int]:
        """A page, oldest first, and the total. Raises NotFound."""

        async def work(connection: PooledConnection) -> tuple[Sequence[GroupMember], int]:
            total = await connection.fetchval(COUNT, group)
            if total is None:
                raise NotFound("There is no such group.")
            found = await connection.fetch(OF_GROUP, group, page.limit, page.offset)
            return [_member(row) for row in found], total

        return await self._database.read_with(work)

    async def of_user(self, user: UserId) -> Sequence[tuple[GroupId, str, str]]:
        """Id, name and title of the groups that a user is a member of."""
        found = await self._database.read(OF_USER, user)
        return [(GroupId(row["id"]), row["provider_id"], row["name"]) for row in found]

    async def add(
        self, group: GroupId, user: UserId, by: UserId, notes: str | None, entry: AuditEntry
    ) -> GroupMember:
        """Raises NotFound, Conflict for a member, and Forbidden for `everyone`."""
        _refuse_everyone(group)
        async with self._database.transaction() as connection:
            try:
                added = await connection.fetchval(ADD, group, user, by, notes)
            except asyncpg.ForeignKeyViolationError:
                raise NotFound("There is no such group or user.") from None
            if added is None:
                raise Conflict("This user is a member already.")
            await write(connection, entry)
            row = await connection.fetchrow(MEMBER, group, user)
        assert row is not None
        return _member(row)

    async def remove(self, group: GroupId, user: UserId, entry: AuditEntry) -> None:
        """Raises NotFound, and Forbidden for `everyone`."""
        _refuse_everyone(group)
        async with self._database.transaction() as connection:
            if await connection.fetchval(REMOVE, group, user) is None:
                raise NotFound("There is no such group, or no such member in it.")
            await write(connection, entry)


def _refuse_everyone(group: GroupId) -> None:
    if group == EVERYONE_GROUP:
        raise Forbidden("everybody is in this group, and stays")


async def _get(connection: PooledConnection, group: GroupId) -> Group:
    row = await connection.fetchrow(GET, group)
    if row is None:
        raise NotFound("There is no such group.")
    return _group(row)


def _group(row: Record) -> Group:
    return Group(
        id=GroupId(row["id"]),
        provider=row["provider"],
        name=row["provider_id"],
        title=row["name"],
        description=row["description"],
        is_builtin=row["is_builtin"],
        created_at=row["created_at"],
        last_used=row["last_used"],
        grants=row["grants"],
        members=row["members"],
    )


def _member(row: Record) -> GroupMember:
    return GroupMember(
        id=row["membership"],
        group=GroupId(row["group_id"]),
        user=rows.user(row),
        added_by=None if row["added_by"] is None else UserId(row["added_by"]),
        added_by_email=row["added_by_email"],
        added_at=row["added_at"],
        notes=row["notes"],
    )
