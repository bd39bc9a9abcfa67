"""LISTEN on a connection of its own, which is watched, and replaced when it is gone."""

import asyncio
import contextlib
import logging
import math
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import asyncpg

from tmi.domain.beats import to_next_beat
from tmi.domain.errors import DatabaseUnavailable
from tmi.domain.ports import Hearing

if TYPE_CHECKING:
    Connection = asyncpg.Connection[asyncpg.Record]
else:
    Connection = asyncpg.Connection

log = logging.getLogger(__name__)

CHECK_S = 5.0
"""So often a connection is asked whether it stands, if nothing depends on that, and so long it may be silent.
"""
RETRY_S = 0.5

Connect = Callable[[], Awaitable[Connection]]


@asynccontextmanager
async def listening(
    connect: Connect,
    channel: str,
    heard: Callable[[str], None],
    missed: Callable[[], None],
    prove_every_s: float = CHECK_S,
) -> AsyncIterator[Hearing]:
    """Call `heard` with each payload of `channel` while the body runs, and `missed` after the connection was
    away for a while. Raises DatabaseUnavailable if that cannot be begun.

    The connection is asked every `prove_every_s` seconds. A server sends what is pending before it says that
    a query is done, so an answer proves that all that was published before the question has arrived; who
    relies on that asks how old the last proof is.
    """
    listener = _Listener(connect, channel, heard, missed, prove_every_s)
    await listener.connect()
    task = asyncio.create_task(listener.keep(), name=f"listening to {channel}")
    try:
        yield listener
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        listener.terminate()


class _Listener:
    def __init__(
        self,
        connect: Connect,
        channel: str,
        heard: Callable[[str], None],
        missed: Callable[[], None],
        prove_every_s: float,
    ) -> None:
        self._connect = connect
        self._channel = channel
        self._heard = heard
        self._missed = missed
        self._prove_every_s = prove_every_s
        self._connection: Connection | None = None
        self._proven_at = -math.inf
        self._is_cut = asyncio.Event()

    def unsure_s(self) -> float:
        """Seconds since it was last proved that nothing is missing."""
        if self._connection is None or self._connection.is_closed():
            return math.inf
        return time.monotonic() - self._proven_at

    async def connect(self) -> None:
        connection = await self._connect()
        began = time.monotonic()
        try:
            await connection.add_listener(self._channel, self._notified)
        except BaseException:
            connection.terminate()
            raise
        self._is_cut.clear()
        connection.add_termination_listener(self._terminated)
        self._connection = connection
        self._proven_at = began
        if connection.is_closed():
            self._is_cut.set()

    async def keep(self) -> None:
        """Look at the connection now and then, and as soon as it is cut, and replace it when it is gone."""
        while True:
            with contextlib.suppress(TimeoutError):
                wait_s = to_next_beat(asyncio.get_running_loop().time(), self._prove_every_s)
                await asyncio.wait_for(self._is_cut.wait(), wait_s)
            self._is_cut.clear()
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
        began = time.monotonic()
        with contextlib.suppress(OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError):
            async with asyncio.timeout(CHECK_S):
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

    def _terminated(self, connection: Any) -> None:
        if connection is self._connection:
            self._is_cut.set()

    def _notified(self, _connection: Any, _pid: int, _channel: str, payload: object) -> None:
        self._heard(str(payload))
