"""The system audit, as handlers use it: who did what, in the database and as a structured log line.

An entry of a change is written by the adapter in the transaction of the change: make it with `entry`, hand it
over, and call `logged` once the change is committed. What changes nothing else (a sign-in) is recorded by
`note`. Refusals are recorded behind the request's back and at a bounded rate: nobody may fill the database by
being refused. Those past the bound are counted: an entry of their own says how many there were.

Never put a secret into an entry: no token, code, ticket or challenge, and no query string.
"""

import asyncio
import logging
from collections.abc import Callable
from datetime import UTC, datetime
from uuid import uuid4

from quart import g, request

from tmi.domain.audit import logged, refused
from tmi.domain.errors import DatabaseUnavailable
from tmi.domain.ids import AuditId
from tmi.domain.model import AuditEntry, User
from tmi.domain.ports import Audit

__all__ = ["Refusals", "entry", "logged", "note"]

log = logging.getLogger("tmi.audit")

REFUSALS_PER_S = 10.0
REFUSALS_BURST = 100
LEFT_OUT_EVERY_S = 10.0
"""So often, at most, an entry tells how many refusals were not recorded."""
_VALUE_MAX = 1000
_PATH_MAX = 1024


def entry(
    what: str,
    summary: str | None = None,
    *,
    old: str | None = None,
    new: str | None = None,
    actor: User | None = None,
) -> AuditEntry:
    """What this request does. `actor`: who, where that is not who signed in for it."""
    if actor is None and hasattr(g, "sign_in"):
        actor = g.sign_in.user
    return AuditEntry(
        id=AuditId(uuid4()),
        at=datetime.now(UTC),
        actor=None if actor is None else actor.id,
        provider="" if actor is None else actor.provider,
        provider_id="" if actor is None else actor.provider_id,
        email="" if actor is None else actor.email,
        name="" if actor is None else actor.name,
        method=request.method,
        path=request.path[:_PATH_MAX],
        what=what,
        old=None if old is None else old[:_VALUE_MAX],
        new=None if new is None else new[:_VALUE_MAX],
        summary=None if summary is None else summary[:_VALUE_MAX],
    )


async def note(audit: Audit, made: AuditEntry) -> None:
    """Record what changes nothing else. Raises DatabaseUnavailable."""
    await audit.record(made)
    logged(made)


class Refusals:
    """Records refusals, at most so many, in tasks of its own."""

    def __init__(self, audit: Audit, begin: Callable[..., asyncio.Task[None]]) -> None:
        self._audit = audit
        self._begin = begin
        self._left: float = REFUSALS_BURST
        self._seen_at: float | None = None
        self.left_out = 0
        """Refusals that came too fast to be recorded."""
        self._untold = 0

    def refused(self, what: str, summary: str) -> None:
        """Record that this request was refused, once and if there is room for it."""
        if g.get("refusal_is_noted"):
            return
        self.is_noted()
        if self._has_room():
            self._begin(self._record(entry(what, summary)))

    def refused_at(self, path: str, summary: str) -> None:
        """Record that a live socket was refused to somebody whose name nobody knows, if there is room."""
        if self._has_room():
            made = refused("socket.refused", summary[:_VALUE_MAX], "GET", path[:_PATH_MAX])
            self._begin(self._record(made))

    def _has_room(self) -> bool:
        now = asyncio.get_running_loop().time()
        if self._seen_at is not None:
            self._left = min(REFUSALS_BURST, self._left + (now - self._seen_at) * REFUSALS_PER_S)
        self._seen_at = now
        if self._left < 1:
            self.left_out += 1
            self._untold += 1
            if self._untold == 1:
                asyncio.get_running_loop().call_later(LEFT_OUT_EVERY_S, self.tell_left_out)
            return False
        self._left -= 1
        return True

    def tell_left_out(self) -> None:
        """Record how many refusals were not recorded since this was told last, if any."""
        count, self._untold = self._untold, 0
        if count:
            summary = f"{count} refusals came too fast to be recorded one by one"
            self._begin(self._record(refused("refusals.left_out", summary, new=str(count))))

    def is_noted(self) -> None:
        """The refusal of this request is in the audit already."""
        g.refusal_is_noted = True

    async def _record(self, made: AuditEntry) -> None:
        logged(made)
        try:
            await self._audit.record(made)
        except DatabaseUnavailable:
            log.warning("a refusal could not be recorded: the database is away")
