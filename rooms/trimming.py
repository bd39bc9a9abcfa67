"""Giving memory that documents took back to the system.

glibc keeps what is freed below the top of an arena: after rooms of 1.2 GiB were closed the process still had
nearly all of it. `malloc_trim` gives every page back that is free as a whole. It holds the arena's
lock meanwhile, for which the loop waits when it allocates much at a time (measured: 36 ms for 600 MiB that
were free), so it runs in a thread, about each 64 MiB, and once at a time.
"""

import asyncio
import ctypes
from collections.abc import Callable

TRIM_BYTES = 64 * 1024 * 1024
"""So much is freed, by estimate, before it is worth the while."""
AGAIN_S = 10.0
"""After so long once more: whoever writes the snapshot of a closed room keeps its document for a while."""


def trim_of_libc() -> Callable[[], object] | None:
    """glibc's `malloc_trim`; None where the C library has none. ctypes lets go of the GIL during the call."""
    try:
        trim = ctypes.CDLL(None).malloc_trim
    except (OSError, AttributeError):
        return None
    trim.argtypes, trim.restype = [ctypes.c_size_t], ctypes.c_int
    return lambda: trim(0)


class Trimming:
    """Counts what is freed, and says when to give it back."""

    def __init__(self, trim: Callable[[], object] | None, again_s: float = AGAIN_S) -> None:
        self._trim = trim
        self._again_s = again_s
        self._freed = 0
        self._is_under_way = False

    @property
    def is_due(self) -> bool:
        """Enough was freed, and it is not being given back yet."""
        return self._trim is not None and self._freed >= TRIM_BYTES and not self._is_under_way

    def freed(self, size: int) -> None:
        """So many bytes were freed, by estimate."""
        self._freed += size

    async def run(self) -> None:
        """Give everything back that is free, and what is free somewhat later."""
        if self._trim is None:
            return
        self._freed, self._is_under_way = 0, True
        try:
            await asyncio.to_thread(self._trim)
            await asyncio.sleep(self._again_s)
            await asyncio.to_thread(self._trim)
        finally:
            self._is_under_way = False
