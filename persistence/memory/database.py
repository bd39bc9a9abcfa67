"""The database's life cycle in memory."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager, aclosing, asynccontextmanager

from persistence.memory.store import MemoryStore
from tmi.domain.errors import Conflict

POLL_S = 0.01


class MemoryDatabase:
    """The port `Database`. The single-writer lock is lost while the store is unavailable."""

    def __init__(self, store: MemoryStore) -> None:
        self._store = store

    async def migrate(self) -> Sequence[str]:
        """There is nothing to migrate."""
        self._store.visit()
        return []

    async def ping(self, timeout_s: float) -> bool:  # noqa: ARG002
        """Whether the store is available. Never raises."""
        return not self._store.unavailable

    def hold_single_writer_lock(
        self, *, among_nodes: bool = False
    ) -> AbstractAsyncContextManager[AsyncIterator[bool]]:
        """The lock that keeps a second service off this store. Raises Conflict."""
        return self._hold_among_nodes() if among_nodes else self._hold()

    @asynccontextmanager
    async def _hold(self) -> AsyncIterator[AsyncIterator[bool]]:
        self._store.visit()
        if self._store.single_writer or self._store.sharing_writers:
            raise Conflict("Another tmi service already uses this store.")
        self._store.single_writer = True
        try:
            async with aclosing(self._changes()) as changes:
                yield changes
        finally:
            self._store.single_writer = False

    @asynccontextmanager
    async def _hold_among_nodes(self) -> AsyncIterator[AsyncIterator[bool]]:
        self._store.visit()
        if self._store.single_writer:
            raise Conflict("A tmi service without Redis already uses this store.")
        self._store.sharing_writers += 1
        try:
            async with aclosing(self._changes()) as changes:
                yield changes
        finally:
            self._store.sharing_writers -= 1

    async def _changes(self) -> AsyncGenerator[bool, None]:
        away = False
        while True:
            while self._store.unavailable is away:
                await asyncio.sleep(POLL_S)
            away = not away
            yield not away
