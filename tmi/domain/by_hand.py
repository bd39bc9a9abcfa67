"""What operators do from the command line, as the system audit tells it."""

from datetime import UTC, datetime
from uuid import uuid4

from tmi.domain.ids import AuditId
from tmi.domain.model import AuditEntry


def by_hand(command: str, what: str, *, old: str | None = None, new: str | None = None) -> AuditEntry:
    """The entry of what a command has done (`tmi keys rotate`), by nobody who has signed in."""
    return AuditEntry(
        id=AuditId(uuid4()),
        at=datetime.now(UTC),
        actor=None,
        provider="tmi",
        provider_id="operator",
        email="",
        name="the command line",
        method="CLI",
        path=command,
        what=what,
        old=old,
        new=new,
        summary=None,
    )
