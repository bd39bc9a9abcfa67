"""Accounts on the command line: what is shown of them, and who becomes an administrator."""

from typing import Any

from tmi.domain.audit import by_hand
from tmi.domain.errors import Conflict, NotFound
from tmi.domain.model import Account, AuditEntry, User
from tmi.domain.ports import AccountFilter, Accounts, Page

_NAMESAKES_MAX = 100


def as_json(account: Account) -> dict[str, Any]:
    """An account in the contract's names."""
    user = account.user
    return {
        "internal_uuid": str(user.id),
        "provider": user.provider,
        "provider_user_id": user.provider_id,
        "email": user.email,
        "email_verified": user.email_verified,
        "name": user.name,
        "created_at": user.created_at,
        "modified_at": account.modified_at,
        "last_login": account.last_login,
        "is_admin": account.is_administrator,
        "groups": list(account.groups),
        "active_threat_models": account.owned,
    }


def line_of(account: Account) -> str:
    """An account in one line."""
    user = account.user
    seen = "never" if account.last_login is None else account.last_login.strftime("%Y-%m-%d %H:%M")
    administrator = "  administrator" if account.is_administrator else ""
    named = f"{user.provider}:{user.email}  {user.name}"
    return "".join(c if c.isprintable() else "?" for c in f"{user.id}  {seen:16}  {named}{administrator}")


def entry(account: Account, *, added: bool) -> AuditEntry:
    """The entry of the system audit for an administrator whom an operator makes, or not any more."""
    who = str(account.user.id)
    command = "tmi users administrator"
    if added:
        return by_hand(command, "group.member_added", new=who)
    return by_hand(command, "group.member_removed", old=who)


async def by_email(accounts: Accounts, email: str) -> User:
    """The one account with this address, in any case. Raises NotFound, and Conflict if there are several."""
    found, _ = await accounts.matching(AccountFilter(email=email), Page(_NAMESAKES_MAX, 0))
    users = [account.user for account in found if account.user.email.lower() == email.lower()]
    if not users:
        raise NotFound(f"nobody has signed in as {email}; see tmi users list")
    if len(users) > 1:
        raise Conflict(f"{len(users)} accounts have the address {email}")
    return users[0]
