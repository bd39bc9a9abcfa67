"""Connections for the hottest statements, without the ceremony of a pool.

Taking a connection from asyncpg's pool and giving it back took about as much CPU as a small append itself.
These go from one statement to the next as they are, and keep their statements prepared, which saves
asyncpg's way through its cache and its loggers. One that failed in any way but by the statement's own fault
is thrown away.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, Any

import asyncpg

from persistence.postgres.failures import AWAY, LOST

if TYPE_CHECKING:
    Record = asyncpg.Record
    Connection = asyncpg.Connection[Record]
    Statement = asyncpg.prepared_stmt.PreparedStatement[Record]
else:
    Record = asyncpg.Record
    Connection = asyncpg.Connection
    Statement = asyncpg.prepared_stmt.PreparedStatement


class _Hot:
    """One connection with what is prepared on it."""

    __slots__ = ("connection", "statements")

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self.statements: dict[str, Statement] = {}

    async def fetch(self, sql: str, arguments: Sequence[Any]) -> Sequence[Record]:
        statement = self.statements.get(sql)
        if statement is None:
            statement = self.statements[sql] = await self.connection.prepare(sql)
        rows: Sequence[Record] = await statement.fetch(*arguments)
        return rows


class HotConnections:
    """At most `limit` connections, made when they are first needed. Who finds none free waits up to
    `patience_s`.
    """

    def __init__(self, connect: Callable[[], Awaitable[Connection]], limit: int, patience_s: float) -> None:
        self._connect = connect
        self._patience_s = patience_s
        self._slots = asyncio.Semaphore(limit)
        self._idle: list[_Hot] = []
        self._in_use = 0
        self._closed = False

    @property
    def open(self) -> int:
        """Connections that are open, as far as is known."""
        return len(self._idle) + self._in_use

    @property
    def in_use(self) -> int:
        """Connections with a statement under way."""
        return self._in_use

    async def fetch(self, sql: str, *arguments: Any) -> Sequence[Record]:
        """The rows of one statement. Raises what asyncpg raises, and TimeoutError when none becomes free."""
        if self._slots.locked():
            async with asyncio.timeout(self._patience_s):
                await self._slots.acquire()
        else:
            await self._slots.acquire()
        try:
            hot = await self._take()
            self._in_use += 1
            try:
                rows = await hot.fetch(sql, arguments)
            except (*AWAY, asyncio.CancelledError) as error:
                hot.connection.terminate()
                if isinstance(error, LOST):  # the others, too, perhaps: the server is another one now
                    self._drop_idle()
                raise
            except asyncpg.PostgresError:
                self._keep(hot)
                raise
            finally:
                self._in_use -= 1
            self._keep(hot)
            return rows
        finally:
            self._slots.release()

    async def _take(self) -> _Hot:
        while self._idle:
            hot = self._idle.pop()
            if not hot.connection.is_closed():
                return hot
        return _Hot(await self._connect())

    def _keep(self, hot: _Hot) -> None:
        if self._closed:
            hot.connection.terminate()
        else:
            self._idle.append(hot)

    def close(self) -> None:
        """Close the idle ones now, and those in use when they are free."""
        self._closed = True
        self._drop_idle()

    def _drop_idle(self) -> None:
        while self._idle:
            self._idle.pop().connection.terminate()
