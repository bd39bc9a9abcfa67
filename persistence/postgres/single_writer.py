"""The single-writer lock: without Redis, one service per database. Services with Redis share it.

A PostgreSQL advisory lock belongs to a server session, so it lives as long as its connection and falls with
a process that is killed. Rooms do not depend on it: their fences decide. It exists so that a second service
says so and exits, instead of taking rooms away from the first one by one.

A lost connection may leave its session behind on the server, holding the lock until the server's network
time-out. That is no other service: it is known by its process id and start time, and ended.
"""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass
from datetime import datetime
from enum import Enum
from typing import TYPE_CHECKING

import asyncpg

from persistence.postgres.failures import AWAY, translated
from tmi.domain.errors import Conflict

if TYPE_CHECKING:
    Connection = asyncpg.Connection[asyncpg.Record]
else:
    Connection = asyncpg.Connection

LOCK = 0x746D69_02
"""Advisory lock of the service that writes."""

HEARTBEAT_S = 5.0
RETRY_S = 0.5
CLOSE_S = 1.0
"""For a goodbye: there is nothing to lose."""
FIRST_TRIES = 5
FIRST_RETRY_S = 0.1
"""Half a second in all: the session of a service that was killed just now takes a moment to end."""

Connect = Callable[[], Awaitable[Connection]]

HOLDER = """
SELECT a.pid, a.backend_start
FROM pg_locks l JOIN pg_stat_activity a USING (pid)
WHERE l.locktype = 'advisory' AND l.objsubid = 1 AND l.granted
  AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
  AND l.classid = ($1::bigint >> 32)::oid AND l.objid = ($1::bigint & 4294967295)::oid
"""


_TRY_ALONE = "SELECT pg_try_advisory_lock($1)"
_TRY_SHARED = "SELECT pg_try_advisory_lock_shared($1)"


@dataclass(frozen=True, slots=True)
class Backend:
    """A server session: a process id alone may be used again."""

    pid: int
    started: datetime


@asynccontextmanager
async def single_writer_lock(
    connect: Connect, *, among_nodes: bool = False
) -> AsyncIterator[AsyncIterator[bool]]:
    """Hold the lock while the body runs; yields the changes (see the port). Raises Conflict."""
    lock = _Lock(connect, _TRY_SHARED if among_nodes else _TRY_ALONE)
    with translated():
        await lock.take_first()
    try:
        async with aclosing(lock.changes()) as changes:
            yield changes
    finally:
        await lock.let_go()


_TAKEN = {
    _TRY_ALONE: "Another tmi service already uses this database. Several need TMI_REDIS_URL, each of them.",
    _TRY_SHARED: "A tmi service without TMI_REDIS_URL already uses this database.",
}


class _Outcome(Enum):
    OURS = "ours"
    AGAIN = "nobody else has it: try again"
    TAKEN = "another service has it"


class _Lock:
    def __init__(self, connect: Connect, try_lock: str) -> None:
        self._connect = connect
        self._try = try_lock
        self._connection: Connection | None = None
        self._backend: Backend | None = None
        self._lost = asyncio.Event()

    async def take_first(self) -> None:
        for _ in range(FIRST_TRIES):
            if await self._take() is _Outcome.OURS:
                return
            await asyncio.sleep(FIRST_RETRY_S)
        raise Conflict(_TAKEN[self._try])

    async def changes(self) -> AsyncGenerator[bool, None]:
        while True:
            await self._until_lost()
            yield False
            if not await self._won_back():
                return
            yield True

    async def let_go(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            await _close(connection)

    async def _take(self) -> _Outcome:
        connection = await self._connect()
        try:
            outcome = await self._try_lock(connection)
        except BaseException:
            connection.terminate()
            raise
        if outcome is not _Outcome.OURS:
            await _close(connection)
        return outcome

    async def _try_lock(self, connection: Connection) -> _Outcome:
        if await connection.fetchval(self._try, LOCK):
            self._backend = await _own_backend(connection)
            self._hold(connection)
            return _Outcome.OURS
        holder = await connection.fetchrow(HOLDER, LOCK)
        if holder is None:
            return _Outcome.AGAIN
        if _backend(holder) != self._backend:
            return _Outcome.TAKEN
        await connection.execute("SELECT pg_terminate_backend($1)", holder["pid"])
        return _Outcome.AGAIN

    def _hold(self, connection: Connection) -> None:
        self._connection = connection
        self._lost = lost = asyncio.Event()
        connection.add_termination_listener(lambda _: lost.set())

    async def _until_lost(self) -> None:
        """Returns when the connection is closed or no longer answers."""
        while self._connection is not None and not self._connection.is_closed():
            try:
                await asyncio.wait_for(self._lost.wait(), HEARTBEAT_S)
            except TimeoutError:
                if not await _answers(self._connection):
                    self._connection.terminate()

    async def _won_back(self) -> bool:
        """Try until the lock is ours again (True) or another service has it (False)."""
        while True:
            try:
                outcome = await self._take()
            except AWAY:
                outcome = _Outcome.AGAIN
            if outcome is not _Outcome.AGAIN:
                return outcome is _Outcome.OURS
            await asyncio.sleep(RETRY_S)


async def _answers(connection: Connection) -> bool:
    try:
        await connection.execute("SELECT 1", timeout=HEARTBEAT_S)
    except (*AWAY, asyncpg.PostgresError):
        return False
    return True


async def _own_backend(connection: Connection) -> Backend:
    row = await connection.fetchrow(
        "SELECT pid, backend_start FROM pg_stat_activity WHERE pid = pg_backend_pid()"
    )
    assert row is not None
    return _backend(row)


def _backend(row: asyncpg.Record) -> Backend:
    return Backend(row["pid"], row["backend_start"])


async def _close(connection: Connection) -> None:
    try:
        await connection.close(timeout=CLOSE_S)
    except AWAY:
        connection.terminate()
