"""People, groups and memberships."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Literal, Protocol

from tmi.domain.ids import DiagramId, GroupId, ThreatModelId, UserId
from tmi.domain.model import Account, AuditEntry, Group, GroupMember, User
from tmi.domain.ports.threat_models import Page


class Users(Protocol):
    """People who have signed in."""

    async def sign_in(
        self, provider: str, provider_id: str, email: str, name: str, *, email_verified: bool = False
    ) -> User:
        """Find or create the user that a provider vouches for, and keep e-mail and name current.

        Only a verified address means somebody in authorization lists, and it means one: whoever else of the
        provider had it verified has not any more, since addresses are given to new people. (Administrators
        may say otherwise.) Who has another address or name by that, and who lost one, is signalled to every
        node.
        """

    async def get(self, user: UserId) -> User:
        """Raises NotFound."""

    async def get_all(self, users: Sequence[UserId]) -> Mapping[UserId, User]:
        """Those of `users` (at most 5,000) that there are, in one query."""


@dataclass(frozen=True, slots=True)
class AccountFilter:
    """Which accounts to list, and in which order. Texts are parts of what is looked for, in any case."""

    provider: str | None = None
    email: str | None = None
    name: str | None = None
    created_after: datetime | None = None
    created_before: datetime | None = None
    last_login_after: datetime | None = None
    last_login_before: datetime | None = None
    automation: bool | None = None
    """Accounts of programs alone, or all others."""
    sort_by: Literal["created_at", "last_login", "email", "name"] = "created_at"
    descending: bool = True


@dataclass(frozen=True, slots=True)
class AccountChange:
    """New values of an account; None leaves a field as it is, except that a new address is not verified."""

    email: str | None = None
    name: str | None = None
    email_verified: bool | None = None


class Accounts(Protocol):
    """Users as administrators see them. What is written is written together with its audit entry."""

    async def matching(self, wanted: AccountFilter, page: Page) -> tuple[Sequence[Account], int]:
        """A page (here `limit` may be 0 to 1,000) of the accounts, and their total."""

    async def get(self, user: UserId) -> Account:
        """Raises NotFound."""

    async def change(self, user: UserId, change: AccountChange, entry: AuditEntry) -> Account:
        """Change an account. An address that is verified by it has no other holder any more. Who has another
        address or name by that, and who lost one, is signalled to every node. Raises NotFound.
        """

    async def delete(self, user: UserId, entry: AuditEntry) -> Sequence[DiagramId]:
        """Delete an account with its sign-ins and its place in every authorization list. Threat models that
        have no owner left go with it; returns their diagrams. Raises NotFound.
        """

    async def transfer(
        self, source: UserId, target: UserId, entry: AuditEntry, *, with_charge: bool = False
    ) -> Sequence[ThreatModelId]:
        """Make `target` an owner of all that `source` owns by name, and `source` a writer there; returns
        these threat models, at most 10,000 at a time. Raises NotFound, and BadInput when both are the same.

        `with_charge`: they count for the quota of `target` from now on. Not where `source` decides alone:
        nobody may use up the quota of somebody who was not asked.
        """


class Challenges(Protocol):
    """Texts by which people confirm that their account shall be deleted; one at a time for each."""

    async def issue(self, user: UserId, challenge: str, ttl: timedelta) -> None:
        """Remember a challenge in place of an earlier one."""

    async def redeem(self, user: UserId, challenge: str) -> bool:
        """Take it out, once: False if it is another one, or past its time."""


@dataclass(frozen=True, slots=True)
class GroupFilter:
    """Which groups to list, and in which order."""

    provider: str | None = None
    name: str | None = None
    """A part of it, in any case."""
    is_used: bool | None = None
    """In authorization lists."""
    is_builtin: bool | None = None
    by_name: bool = False
    """Otherwise by age."""
    descending: bool = True


class Groups(Protocol):
    """Groups of users. What is written is written together with its audit entry."""

    async def matching(self, wanted: GroupFilter, page: Page) -> tuple[Sequence[Group], int]:
        """A page (here `limit` may be 0 to 1,000) of the groups, and their total."""

    async def get(self, group: GroupId) -> Group:
        """Raises NotFound."""

    async def create(self, name: str, title: str, description: str | None, entry: AuditEntry) -> Group:
        """Create a group of this service. Raises Conflict when there is one of that name."""

    async def change(
        self, group: GroupId, title: str | None, description: str | None, entry: AuditEntry
    ) -> Group:
        """Change what is not None. Raises NotFound."""

    async def delete(self, group: GroupId, entry: AuditEntry) -> Sequence[UserId]:
        """Delete a group, also from authorization lists; returns who was a member (at most 10,000). Raises
        NotFound, Forbidden for a built-in group, and LastOwner where a threat model has no other owner.
        """


class Memberships(Protocol):
    """Who is in which group. What is written is written together with its audit entry."""

    async def of_group(self, group: GroupId, page: Page) -> tuple[Sequence[GroupMember], int]:
        """A page (here `limit` may be 0 to 1,000), oldest first, and the total. Raises NotFound."""

    async def of_user(self, user: UserId) -> Sequence[tuple[GroupId, str, str]]:
        """Id, name and title of the groups (at most 100) that a user is a member of, without `everyone`."""

    async def add(
        self, group: GroupId, user: UserId, by: UserId, notes: str | None, entry: AuditEntry
    ) -> GroupMember:
        """Raises NotFound, Conflict for a member, and Forbidden for `everyone`."""

    async def remove(self, group: GroupId, user: UserId, entry: AuditEntry) -> None:
        """Raises NotFound, and Forbidden for `everyone`."""
