"""Entries of the system audit: how they are made outside of a request, and their log lines."""

import logging
from datetime import UTC, datetime
from uuid import uuid4

from tmi.domain.ids import AuditId
from tmi.domain.model import AuditEntry, User

log = logging.getLogger("tmi.audit")


def happened(what: str, actor: User, summary: str | None = None, *, old: str | None = None) -> AuditEntry:
    """What nobody asked for: it became due at `actor`. Without method and path."""
    return AuditEntry(
        id=AuditId(uuid4()),
        at=datetime.now(UTC),
        actor=actor.id,
        provider=actor.provider,
        provider_id=actor.provider_id,
        email=actor.email,
        name=actor.name,
        method="",
        path="",
        what=what,
        old=old,
        new=None,
        summary=summary,
    )


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
