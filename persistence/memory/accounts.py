"""Accounts in memory."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import timedelta
from typing import Any

from persistence.memory.access import means
from persistence.memory.events import write
from persistence.memory.store import AccountRow, MemoryStore
from persistence.memory.users import lose_address, tell_changed
from persistence.secrets import digest
from tmi.domain.errors import BadInput, NotFound
from tmi.domain.events import HANDED_OVER, LEFT, Event
from tmi.domain.ids import DiagramId, ThreatModelId, UserId
from tmi.domain.model import ADMINISTRATORS_GROUP, Account, AuditEntry, User
from tmi.domain.ports import AccountChange, AccountFilter, Page
from tmi.domain.roles import Grant, Principal, Role
from tmi.domain.sign_ins import AUTOMATION_PROVIDER


class MemoryAccounts:
    """The port `Accounts`."""

    def __init__(self, store: MemoryStore) -> None:
        self._store = store

    async def matching(self, wanted: AccountFilter, page: Page) -> tuple[Sequence[Account], int]:
        """A page of the accounts, and their total."""
        self._store.visit()
        accounts = [self._account(user) for user in self._store.users.values()]
        found = sorted(
            (account for account in accounts if _matches(wanted, account)), key=lambda a: a.user.id
        )
        keys: dict[str, Callable[[Account], Any]] = {
            "created_at": lambda a: a.user.created_at,
            "last_login": lambda a: a.last_login,
            "email": lambda a: a.user.email,
            "name": lambda a: a.user.name,
        }
        key = keys[wanted.sort_by]
        known = sorted((a for a in found if key(a) is not None), key=key, reverse=wanted.descending)
        ordered = known + [a for a in found if key(a) is None]
        return ordered[page.offset : page.offset + page.limit], len(found)

    async def get(self, user: UserId) -> Account:
        """Raises NotFound."""
        self._store.visit()
        return self._account(self._user(user))

    async def change(self, user: UserId, change: AccountChange, entry: AuditEntry) -> Account:
        """Raises NotFound."""
        self._store.visit()
        present, before = self._user(user), dict(self._store.users)
        email = present.email if change.email is None else change.email
        verified = present.email_verified and email == present.email
        if verified if change.email_verified is None else change.email_verified:
            lose_address(self._store, present.provider, email)
        self._store.users[user] = replace(
            present,
            email=email,
            name=change.name or present.name,
            email_verified=verified if change.email_verified is None else change.email_verified,
        )
        self._store.account(user).modified_at = self._store.clock()
        self._store.write_audit(entry)
        tell_changed(self._store, before)
        return self._account(self._user(user))

    async def delete(self, user: UserId, entry: AuditEntry) -> Sequence[DiagramId]:
        """Delete an account, and the threat models that have no owner left. Raises NotFound."""
        self._store.visit()
        present, gone = self._user(user), []
        changed: set[ThreatModelId] = set()
        told: list[Event] = []
        for model in list(self._store.threat_models.values()):
            kept = tuple(grant for grant in model.grants if not self._names(grant, present))
            if kept == model.grants:
                continue
            if any(grant.role is Role.OWNER for grant in kept):
                self._put(model.id, kept)
                changed.add(model.id)
                continue
            gone += [diagram.id for diagram in self._store.diagrams_of(model.id)]
            self._store.remove_model(model.id)
            told.append(Event.of_lost_model(entry, model.id, model.version))
        for model in list(self._store.threat_models.values()):
            reviewer = model.security_reviewer
            if reviewer is not None and (reviewer.provider, reviewer.provider_id) == (
                present.provider,
                present.provider_id,
            ):
                self._store.threat_models[model.id] = replace(model, security_reviewer=None)
                if model.id not in changed:
                    self._put(model.id, model.grants)
                    changed.add(model.id)
        self._store.remove_user(user)
        self._store.write_audit(entry)
        write(self._store, *told, *self._told(entry, sorted(changed), LEFT))
        return gone

    async def transfer(
        self, source: UserId, target: UserId, entry: AuditEntry, *, with_charge: bool = False
    ) -> Sequence[ThreatModelId]:
        """Raises NotFound, and BadInput when both are the same."""
        self._store.visit()
        if source == target:
            raise BadInput("ownership goes to somebody else")
        before, after = self._user(source), self._user(target)
        moved = []
        for model in sorted(self._store.threat_models.values(), key=lambda m: m.id):
            if not any(g.role is Role.OWNER and self._names(g, before) for g in model.grants):
                continue
            grants = [self._handed_over(grant, before, after) for grant in model.grants]
            if not any(self._names(grant, after) for grant in grants):
                principal = Principal("user", after.provider, after.provider_id, after.email, after.name)
                grants.append(Grant(principal, Role.OWNER))
            self._put(model.id, tuple(grants))
            if with_charge and self._store.charged_to.get(model.id) == source:
                self._store.charged_to[model.id] = target
            moved.append(model.id)
        self._store.write_audit(entry)
        write(self._store, *self._told(entry, moved, HANDED_OVER))
        return moved

    def _told(self, entry: AuditEntry, models: Sequence[ThreatModelId], summary: str) -> list[Event]:
        return [Event.of_people(entry, self._store.threat_models[model], summary) for model in models]

    def _handed_over(self, grant: Grant, before: User, after: User) -> Grant:
        if self._names(grant, after):
            return replace(grant, role=Role.OWNER)
        is_handed = grant.role is Role.OWNER and self._names(grant, before)
        return replace(grant, role=Role.WRITER) if is_handed else grant

    def _names(self, grant: Grant, user: User) -> bool:
        return grant.principal.principal_type == "user" and means(self._store, grant.principal, user)

    def _put(self, model: ThreatModelId, grants: tuple[Grant, ...]) -> None:
        present = self._store.threat_models[model]
        self._store.threat_models[model] = replace(
            present, grants=grants, version=present.version + 1, modified_at=self._store.clock()
        )

    def _user(self, user: UserId) -> User:
        if user not in self._store.users:
            raise NotFound("There is no such user.")
        return self._store.users[user]

    def _account(self, user: User) -> Account:
        row: AccountRow = self._store.account(user.id)
        groups = [group for (group, member) in self._store.memberships if member == user.id]
        owned = sum(
            any(g.role is Role.OWNER and self._names(g, user) for g in model.grants)
            for model in self._store.threat_models.values()
        )
        return Account(
            user=user,
            modified_at=row.modified_at or user.created_at,
            last_login=row.last_login,
            groups=tuple(sorted(self._store.group_rows[group].name for group in groups)),
            is_administrator=ADMINISTRATORS_GROUP in groups,
            owned=owned,
        )


class MemoryChallenges:
    """The port `Challenges`."""

    def __init__(self, store: MemoryStore) -> None:
        self._store = store

    async def issue(self, user: UserId, challenge: str, ttl: timedelta) -> None:
        """Remember a challenge in place of an earlier one."""
        self._store.visit()
        self._store.challenges[user] = digest(challenge), self._store.clock() + ttl

    async def redeem(self, user: UserId, challenge: str) -> bool:
        """Take it out, once: False if it is another one, or past its time."""
        self._store.visit()
        known = self._store.challenges.get(user)
        if known is None or known[0] != digest(challenge):
            return False
        del self._store.challenges[user]
        return known[1] > self._store.clock()


def _matches(wanted: AccountFilter, account: Account) -> bool:
    user, login = account.user, account.last_login
    return (
        wanted.provider in (None, user.provider)
        and wanted.automation in (None, user.provider == AUTOMATION_PROVIDER)
        and (wanted.email is None or wanted.email.lower() in user.email.lower())
        and (wanted.name is None or wanted.name.lower() in user.name.lower())
        and (wanted.created_after is None or user.created_at > wanted.created_after)
        and (wanted.created_before is None or user.created_at < wanted.created_before)
        and (wanted.last_login_after is None or (login is not None and login > wanted.last_login_after))
        and (wanted.last_login_before is None or (login is not None and login < wanted.last_login_before))
    )
