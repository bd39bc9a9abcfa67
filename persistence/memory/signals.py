"""Signals within one process."""

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager

from persistence.memory.store import MemoryStore
from tmi.domain.ports import Happened, Hearing, Signal

Handle = Callable[[Signal | None], None]


class MemorySignals:
    """The port `Signals`: reaches all that share the store."""

    told_at_commit = frozenset[Happened]()

    def __init__(self, store: MemoryStore) -> None:
        self._store = store

    async def publish(self, signal: Signal) -> None:
        """Tell every listener of the store."""
        self._store.visit()
        for handle in list(self._store.listeners):
            handle(signal)

    def hearing(self, handle: Handle) -> AbstractAsyncContextManager[Hearing]:
        """Listen while the body runs."""
        return _hearing(self._store.listeners, handle)


@asynccontextmanager
async def _hearing(listeners: list[Handle], handle: Handle) -> AsyncIterator[Hearing]:
    listeners.append(handle)
    try:
        yield _Certain()
    finally:
        listeners.remove(handle)


class _Certain:
    """Whoever publishes calls every listener."""

    def unsure_s(self) -> float:
        return 0.0
