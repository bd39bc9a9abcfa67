"""Signals over LISTEN and NOTIFY: what happened in one service reaches open sockets in all of them.

PostgreSQL, and not Redis, since a removed person has to go whatever state Redis is in, and a connection that
stands misses nothing. Where it was lost the listener says so once it is back, and whoever hears looks at
everything again.

That it stands is asked several times a second: a server sends what is pending before it says that a query is
done, so an answer proves that all that was published before the question has arrived. Who relies on that (the
cache of sign-in sessions) knows how old the last proof is.
"""

import asyncio
import contextlib
import logging
import math
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import TYPE_CHECKING, Any
from uuid import UUID

import asyncpg
import orjson

from persistence.postgres.database import PostgresDatabase
from tmi.domain.errors import DatabaseUnavailable
from tmi.domain.ports import Happened, Hearing, Signal

if TYPE_CHECKING:
    Connection = asyncpg.Connection[asyncpg.Record]
else:
    Connection = asyncpg.Connection

log = logging.getLogger(__name__)

CHANNEL = "tmi_signals"
NOTIFY = "SELECT pg_notify($1, payload) FROM unnest($2::text[]) AS p (payload)"
IDS_PER_PAYLOAD = 100
"""A payload has to be shorter than 8,000 bytes (NOTIFY, PostgreSQL 18); an id takes 39."""
PROVE_EVERY_S = 0.3
GIVEN_UP_S = 5.0
"""A connection that has not answered for so long is replaced."""
RETRY_S = 0.5

Handle = Callable[[Signal | None], None]


class PostgresSignals:
    """The port `Signals`."""

    def __init__(self, database: PostgresDatabase) -> None:
        self._database = database

    async def publish(self, signal: Signal) -> None:
        """Tell every listener of the database."""
        parts = [signal.ids[n : n + IDS_PER_PAYLOAD] for n in range(0, len(signal.ids), IDS_PER_PAYLOAD)]
        payloads = [orjson.dumps([signal.happened.value, list(map(str, part))]).decode() for part in parts]
        await self._database.fetch(NOTIFY, CHANNEL, payloads)

    def hearing(self, handle: Handle) -> AbstractAsyncContextManager[Hearing]:
        """Listen while the body runs. Raises DatabaseUnavailable if that cannot be begun."""
        return _hearing(self._database.connect_aside, handle)


@asynccontextmanager
async def _hearing(
    connect: Callable[[], Awaitable[Connection]], handle: Handle
) -> AsyncIterator[Hearing]:
    listener = _Listener(connect, handle)
    await listener.connect()
    task = asyncio.create_task(listener.keep(), name="signals")
    try:
        yield listener
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        listener.terminate()


class _Listener:
    def __init__(self, connect: Callable[[], Awaitable[Connection]], handle: Handle) -> None:
        self._connect = connect
        self._handle = handle
        self._connection: Connection | None = None
        self._proven_at = -math.inf

    def unsure_s(self) -> float:
        """Seconds since it was last proved that nothing is missing."""
        if self._connection is None or self._connection.is_closed():
            return math.inf
        return time.monotonic() - self._proven_at

    async def connect(self) -> None:
        connection = await self._connect()
        began = time.monotonic()
        try:
            await connection.add_listener(CHANNEL, self._notified)
        except BaseException:
            connection.terminate()
            raise
        self._connection = connection
        self._proven_at = began

    async def keep(self) -> None:
        """Look at the connection all the time, and replace it when it is gone."""
        while True:
            await asyncio.sleep(PROVE_EVERY_S)
            if await self._is_alive():
                continue
            self.terminate()
            log.warning("lost the connection over which other nodes are heard")
            while not await self._is_back():
                await asyncio.sleep(RETRY_S)
            log.warning("other nodes are heard again")
            self._handle(None)

    async def _is_alive(self) -> bool:
        if self._connection is None:
            return False
        began = time.monotonic()
        with contextlib.suppress(OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError):
            async with asyncio.timeout(GIVEN_UP_S):
                await self._connection.execute("SELECT 1")
            self._proven_at = began
            return True
        return False

    async def _is_back(self) -> bool:
        try:
            await self.connect()
        except (DatabaseUnavailable, OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError):
            return False
        return True

    def terminate(self) -> None:
        if self._connection is not None:
            self._connection.terminate()
            self._connection = None

    def _notified(self, _connection: Any, _pid: int, _channel: str, payload: object) -> None:
        try:
            happened, ids = orjson.loads(str(payload))
            signal = Signal(Happened(happened), tuple(map(UUID, ids)))
        except ValueError:
            log.exception("a signal of another version of this service could not be read")
            self._handle(None)
            return
        self._handle(signal)
