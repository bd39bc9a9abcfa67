"""Connections for the hottest statement, without the ceremony of a pool.

Taking a connection from asyncpg's pool and giving it back took about as much CPU as a small append itself.
These go from one statement to the next as they are. One that failed in any way but by the statement's own
fault is thrown away.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, Any

import asyncpg

from persistence.postgres.failures import AWAY

if TYPE_CHECKING:
    Record = asyncpg.Record
    Connection = asyncpg.Connection[Record]
else:
    Record = asyncpg.Record
    Connection = asyncpg.Connection


class HotConnections:
    """At most `limit` connections, made when they are first needed."""

    def __init__(self, connect: Callable[[], Awaitable[Connection]], limit: int) -> None:
        self._connect = connect
        self._slots = asyncio.Semaphore(limit)
        self._idle: list[Connection] = []
        self._in_use = 0
        self._closed = False

    @property
    def open(self) -> int:
        """Connections that are open, as far as is known."""
        return len(self._idle) + self._in_use

    async def fetch(self, sql: str, *arguments: Any) -> Sequence[Record]:
        """The rows of one statement. Raises what asyncpg raises."""
        async with self._slots:
            connection = await self._take()
            self._in_use += 1
            try:
                rows = await connection.fetch(sql, *arguments)
            except (*AWAY, asyncio.CancelledError):
                connection.terminate()
                raise
            except asyncpg.PostgresError:
                self._keep(connection)
                raise
            finally:
                self._in_use -= 1
            self._keep(connection)
            return rows

    async def _take(self) -> Connection:
        while self._idle:
            connection = self._idle.pop()
            if not connection.is_closed():
                return connection
        return await self._connect()

    def _keep(self, connection: Connection) -> None:
        if self._closed:
            connection.terminate()
        else:
            self._idle.append(connection)

    def close(self) -> None:
        """Close the idle ones now, and those in use when they are free."""
        self._closed = True
        while self._idle:
            self._idle.pop().terminate()
