"""Accounts on the command line: what is shown of them, and who becomes an administrator."""

from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

from tmi.domain.ids import AuditId
from tmi.domain.model import Account, AuditEntry


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
    return AuditEntry(
        id=AuditId(uuid4()),
        at=datetime.now(UTC),
        actor=None,
        provider="tmi",
        provider_id="operator",
        email="",
        name="the command line",
        method="",
        path="tmi users administrator",
        what="group.member_added" if added else "group.member_removed",
        old=None if added else who,
        new=who if added else None,
        summary=None,
    )
