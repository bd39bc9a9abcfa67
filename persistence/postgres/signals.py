"""Signals over LISTEN and NOTIFY: what happened in one service reaches open sockets in all of them.

PostgreSQL, and not Redis, since a removed person has to go whatever state Redis is in, and a connection that
stands misses nothing. Where it was lost the listener says so once it is back, and whoever hears looks at
everything again.

That it stands is asked several times a second: a server sends what is pending before it says that a query is
done, so an answer proves that all that was published before the question has arrived. Who relies on that (the
cache of sign-in sessions) knows how old the last proof is.
"""

import logging
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from uuid import UUID

import orjson

from persistence.postgres.database import PostgresDatabase
from persistence.postgres.listening import listening
from tmi.domain.ports import Happened, Hearing, Signal

log = logging.getLogger(__name__)

CHANNEL = "tmi_signals"
NOTIFY = "SELECT pg_notify($1, payload) FROM unnest($2::text[]) AS p (payload)"
IDS_PER_PAYLOAD = 100
"""A payload has to be shorter than 8,000 bytes (NOTIFY, PostgreSQL 18); an id takes 39."""
PROVE_EVERY_S = 0.5

Handle = Callable[[Signal | None], None]


class PostgresSignals:
    """The port `Signals`."""

    told_at_commit = frozenset(
        {
            Happened.ACCESS_CHANGED,
            Happened.DELETED,
            Happened.SIGN_IN_ENDED,
            Happened.COLLABORATION_ENDED,
            Happened.PEOPLE_CHANGED,
        }
    )
    """By the triggers of migration 0027."""

    def __init__(self, database: PostgresDatabase) -> None:
        self._database = database

    async def publish(self, signal: Signal) -> None:
        """Tell every listener of the database."""
        parts = [signal.ids[n : n + IDS_PER_PAYLOAD] for n in range(0, len(signal.ids), IDS_PER_PAYLOAD)]
        payloads = [orjson.dumps([signal.happened.value, list(map(str, part))]).decode() for part in parts]
        await self._database.fetch(NOTIFY, CHANNEL, payloads)

    def hearing(self, handle: Handle) -> AbstractAsyncContextManager[Hearing]:
        """Listen while the body runs. Raises DatabaseUnavailable if that cannot be begun."""

        def heard(payload: str) -> None:
            try:
                happened, ids = orjson.loads(payload)
                signal = Signal(Happened(happened), tuple(map(UUID, ids)))
            except ValueError:
                log.exception("a signal of another version of this service could not be read")
                handle(None)
                return
            handle(signal)

        return listening(
            self._database.connect_aside, CHANNEL, heard, lambda: handle(None), PROVE_EVERY_S
        )
