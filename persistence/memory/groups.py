"""Groups and who is in them, in memory."""

from collections.abc import Sequence
from dataclasses import replace
from uuid import uuid4

from persistence.memory.store import MemoryStore
from tmi.domain.errors import Conflict, Forbidden, LastOwner, NotFound
from tmi.domain.ids import GroupId, UserId
from tmi.domain.model import EVERYONE_GROUP, AuditEntry, Group, GroupMember
from tmi.domain.ports import GroupFilter, Page
from tmi.domain.roles import Grant, Role


class MemoryGroups:
    """The port `Groups`."""

    def __init__(self, store: MemoryStore) -> None:
        self._store = store

    async def matching(self, wanted: GroupFilter, page: Page) -> tuple[Sequence[Group], int]:
        """A page of the groups, and their total."""
        self._store.visit()
        groups = sorted(map(self._shown, self._store.group_rows.values()), key=lambda g: g.id)
        found = [group for group in groups if _matches(wanted, group)]
        if wanted.by_name:
            found.sort(key=lambda g: g.name, reverse=wanted.descending)
        else:
            found.sort(key=lambda g: g.created_at, reverse=wanted.descending)
        return found[page.offset : page.offset + page.limit], len(found)

    async def get(self, group: GroupId) -> Group:
        """Raises NotFound."""
        self._store.visit()
        return self._shown(self._row(group))

    async def create(self, name: str, title: str, description: str | None, entry: AuditEntry) -> Group:
        """Create a group of this service. Raises Conflict when there is one of that name."""
        self._store.visit()
        if any((row.provider, row.name) == ("tmi", name) for row in self._store.group_rows.values()):
            raise Conflict("There is a group of this name.")
        now = self._store.clock()
        made = Group(GroupId(uuid4()), "tmi", name, title, description, False, now, now, 0, 0)
        self._store.group_rows[made.id] = made
        self._store.write_audit(entry)
        return self._shown(made)

    async def change(
        self, group: GroupId, title: str | None, description: str | None, entry: AuditEntry
    ) -> Group:
        """Change what is not None. Raises NotFound."""
        self._store.visit()
        row = self._row(group)
        changed = replace(
            row,
            title=row.title if title is None else title,
            description=row.description if description is None else description,
        )
        self._store.group_rows[group] = changed
        self._store.write_audit(entry)
        return self._shown(changed)

    async def delete(self, group: GroupId, entry: AuditEntry) -> Sequence[UserId]:
        """Delete a group, also from authorization lists. Raises NotFound, Forbidden and LastOwner."""
        self._store.visit()
        row = self._row(group)
        if row.is_builtin:
            raise Forbidden("a built-in group stays")
        kept = {
            model.id: tuple(grant for grant in model.grants if not _names(grant, row))
            for model in self._store.threat_models.values()
            if any(_names(grant, row) for grant in model.grants)
        }
        if any(all(grant.role is not Role.OWNER for grant in grants) for grants in kept.values()):
            raise LastOwner("this group is the only owner of a threat model")
        for key, grants in kept.items():
            model = self._store.threat_models[key]
            self._store.threat_models[key] = replace(
                model, grants=grants, version=model.version + 1, modified_at=self._store.clock()
            )
        members = [user for (key, user) in self._store.memberships if key == group]
        for user in members:
            del self._store.memberships[group, user]
        self._store.groups.pop((row.provider, row.name), None)
        del self._store.group_rows[group]
        self._store.write_audit(entry)
        return members

    def _row(self, group: GroupId) -> Group:
        if group not in self._store.group_rows:
            raise NotFound("There is no such group.")
        return self._store.group_rows[group]

    def _shown(self, row: Group) -> Group:
        members = [m for (key, _), m in self._store.memberships.items() if key == row.id]
        grants = sum(_names(g, row) for model in self._store.threat_models.values() for g in model.grants)
        last_used = max([row.created_at, *(member.added_at for member in members)])
        return replace(row, members=len(members), grants=grants, last_used=last_used)


class MemoryMemberships:
    """The port `Memberships`."""

    def __init__(self, store: MemoryStore) -> None:
        self._store = store

    async def of_group(self, group: GroupId, page: Page) -> tuple[Sequence[GroupMember], int]:
        """A page, oldest first, and the total. Raises NotFound."""
        self._store.visit()
        if group not in self._store.group_rows:
            raise NotFound("There is no such group.")
        found = [self._shown(m) for (key, _), m in self._store.memberships.items() if key == group]
        return found[page.offset : page.offset + page.limit], len(found)

    async def of_user(self, user: UserId) -> Sequence[tuple[GroupId, str, str]]:
        """Id, name and title of the groups that a user is a member of."""
        self._store.visit()
        rows = [self._store.group_rows[key] for key, member in self._store.memberships if member == user]
        return [(row.id, row.name, row.title) for row in sorted(rows, key=lambda row: row.name)]

    async def add(
        self, group: GroupId, user: UserId, by: UserId, notes: str | None, entry: AuditEntry
    ) -> GroupMember:
        """Raises NotFound, Conflict for a member, and Forbidden for `everyone`."""
        self._store.visit()
        _refuse_everyone(group)
        if group not in self._store.group_rows or user not in self._store.users:
            raise NotFound("There is no such group or user.")
        if (group, user) in self._store.memberships:
            raise Conflict("This user is a member already.")
        row = self._store.group_rows[group]
        added = GroupMember(uuid4(), group, self._store.users[user], by, None, self._store.clock(), notes)
        self._store.memberships[group, user] = added
        self._store.groups.setdefault((row.provider, row.name), set()).add(user)
        self._store.write_audit(entry)
        return self._shown(added)

    async def remove(self, group: GroupId, user: UserId, entry: AuditEntry) -> None:
        """Raises NotFound, and Forbidden for `everyone`."""
        self._store.visit()
        _refuse_everyone(group)
        if (group, user) not in self._store.memberships:
            raise NotFound("There is no such group, or no such member in it.")
        row = self._store.group_rows[group]
        del self._store.memberships[group, user]
        self._store.groups[row.provider, row.name].discard(user)
        self._store.write_audit(entry)

    def _shown(self, member: GroupMember) -> GroupMember:
        """With its users as they are now."""
        users = self._store.users
        by = None if member.added_by is None else users.get(member.added_by)
        return replace(
            member,
            user=users[member.user.id],
            added_by=None if by is None else by.id,
            added_by_email=None if by is None else by.email,
        )


def _refuse_everyone(group: GroupId) -> None:
    if group == EVERYONE_GROUP:
        raise Forbidden("everybody is in this group, and stays")


def _names(grant: Grant, group: Group) -> bool:
    return grant.principal.key == ("group", group.provider, group.name)


def _matches(wanted: GroupFilter, group: Group) -> bool:
    return (
        wanted.provider in (None, group.provider)
        and (wanted.name is None or wanted.name.lower() in group.name.lower())
        and wanted.is_used in (None, group.grants > 0)
        and wanted.is_builtin in (None, group.is_builtin)
    )
