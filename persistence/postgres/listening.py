"""LISTEN on a connection of its own, which is watched, and replaced when it is gone."""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import asyncpg

from tmi.domain.errors import DatabaseUnavailable

if TYPE_CHECKING:
    Connection = asyncpg.Connection[asyncpg.Record]
else:
    Connection = asyncpg.Connection

log = logging.getLogger(__name__)

CHECK_S = 5.0
RETRY_S = 0.5

Connect = Callable[[], Awaitable[Connection]]


@asynccontextmanager
async def listening(
    connect: Connect, channel: str, heard: Callable[[str], None], missed: Callable[[], None]
) -> AsyncIterator[None]:
    """Call `heard` with each payload of `channel` while the body runs, and `missed` after the connection was
    away for a while. Raises DatabaseUnavailable if that cannot be begun.
    """
    listener = _Listener(connect, channel, heard, missed)
    await listener.connect()
    task = asyncio.create_task(listener.keep(), name=f"listening to {channel}")
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        listener.terminate()


class _Listener:
    def __init__(
        self, connect: Connect, channel: str, heard: Callable[[str], None], missed: Callable[[], None]
    ) -> None:
        self._connect = connect
        self._channel = channel
        self._heard = heard
        self._missed = missed
        self._connection: Connection | None = None

    async def connect(self) -> None:
        connection = await self._connect()
        try:
            await connection.add_listener(self._channel, self._notified)
        except BaseException:
            connection.terminate()
            raise
        self._connection = connection

    async def keep(self) -> None:
        """Look at the connection now and then, and replace it when it is gone."""
        while True:
            await asyncio.sleep(CHECK_S)
            if await self._is_alive():
                continue
            self.terminate()
            log.warning("lost the connection over which other nodes are heard")
            while not await self._is_back():
                await asyncio.sleep(RETRY_S)
            log.warning("other nodes are heard again")
            self._missed()

    async def _is_alive(self) -> bool:
        if self._connection is None:
            return False
        with contextlib.suppress(OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError):
            async with asyncio.timeout(CHECK_S):
                await self._connection.execute("SELECT 1")
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
        self._heard(str(payload))
