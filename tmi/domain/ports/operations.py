"""What the service itself runs on: shared counts and the health of the database."""

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Protocol


class RateLimits(Protocol):
    """Counts of requests, of all nodes together where they can reach each other."""

    async def hit(self, key: str, window_s: int) -> int:
        """Count a request in the window that is now; returns how many it has had, this one included.

        Windows of `window_s` seconds begin at multiples of it of Unix time. Never raises.
        """


class Tallies(Protocol):
    """What is open on the other nodes."""

    async def exchange(self, counts: Mapping[str, int]) -> Mapping[str, int]:
        """Tell the others what is open here; returns what they told last, summed up. Raises Unavailable."""


class Database(Protocol):
    """The database as the program's life cycle sees it."""

    async def migrate(self) -> Sequence[str]:
        """Apply missing migrations under an advisory lock; returns the names of those applied."""

    async def ping(self, timeout_s: float) -> bool:
        """Whether a query is answered in time. Never raises."""

    def hold_single_writer_lock(
        self, *, among_nodes: bool = False
    ) -> AbstractAsyncContextManager[AsyncIterator[bool]]:
        """Hold the lock that keeps a second service without Redis off this database.

        `among_nodes`: this service has Redis, and shares the lock with others that have it. Raises Conflict
        if another service holds it. The iterator yields False when the connection behind the lock was lost,
        True when it was won back; it ends when another service has taken it.
        """
