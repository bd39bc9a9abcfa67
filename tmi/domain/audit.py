"""Entries of the system audit: how they are made outside of a request, and their log lines."""

import logging
from dataclasses import replace
from datetime import UTC, datetime
from uuid import uuid4

from tmi.domain.ids import AuditId
from tmi.domain.model import AuditEntry, User

log = logging.getLogger("tmi.audit")


def happened(what: str, actor: User, summary: str | None = None, *, old: str | None = None) -> AuditEntry:
    """What nobody asked for: it became due at `actor`. Without method and path."""
    made = _made(what, old=old)
    return replace(
        made,
        actor=actor.id,
        provider=actor.provider,
        provider_id=actor.provider_id,
        email=actor.email,
        name=actor.name,
        summary=summary,
    )


def by_hand(command: str, what: str, *, old: str | None = None, new: str | None = None) -> AuditEntry:
    """What a command has done (`tmi keys rotate`), by nobody who has signed in."""
    made = _made(what, old=old, new=new)
    return replace(
        made,
        provider="tmi",
        provider_id="operator",
        name="the command line",
        method="CLI",
        path=command,
    )


def refused(
    what: str, summary: str, method: str = "", path: str = "", *, new: str | None = None
) -> AuditEntry:
    """What was refused to people who are not known."""
    return replace(_made(what, new=new), method=method, path=path, summary=summary)


def _made(what: str, *, old: str | None = None, new: str | None = None) -> AuditEntry:
    key, now = AuditId(uuid4()), datetime.now(UTC)
    return AuditEntry(key, now, None, "", "", "", "", "", "", what, old, new, None)


def logged(made: AuditEntry) -> None:
    """Write the log line of an entry that is committed."""
    log.info(
        "audit %s",
        made.what,
        extra={
            "audit": str(made.id),
            "what": made.what,
            "actor": None if made.actor is None else str(made.actor),
            "method": made.method,
            "path": made.path,
            "old": made.old,
            "new": made.new,
            "summary": made.summary,
        },
    )
