"""Long work in short steps, so that rooms go on meanwhile."""

import asyncio
import contextlib
from collections.abc import Callable, Generator
from typing import TypeVar

from crdt.document import Document
from tmi.domain.ports import StoredDocument

T = TypeVar("T")

_QUIET_BYTES, _TAIL_BYTES = 2 * 1024 * 1024, 64 * 1024
_QUIET_S = 1.0


class Slices:
    """Does a step of some milliseconds in each turn of the loop, of all works together, by turns."""

    def __init__(self, silent_s: Callable[[], float] = lambda: 0.0) -> None:
        """`silent_s`: how long nobody has edited anything in any room."""
        self._turn = asyncio.Lock()
        self._silent_s = silent_s

    async def run(self, steps: Generator[None, None, T]) -> T:
        """Do all steps; what the work returns. Raises what it raises."""
        with contextlib.closing(steps):
            while True:
                async with self._turn:
                    try:
                        next(steps)
                    except StopIteration as end:
                        result: T = end.value
                        return result
                    await asyncio.sleep(0)  # with the lock held: no other work has a step in this turn

    async def load(self, stored: StoredDocument) -> Document:
        """The document that was stored. One of 8 MiB takes half a second, by steps.

        A snapshot of up to 2 MiB, 50 ms, is loaded in one go where nobody edits anything who could notice:
        that takes half as long.
        """
        is_short = len(stored.snapshot or b"") <= _QUIET_BYTES and sum(map(len, stored.tail)) <= _TAIL_BYTES
        if stored.is_whole and is_short and self._silent_s() >= _QUIET_S:
            return Document.load(stored.snapshot, stored.tail, is_whole=True)
        return await self.run(Document.load_by_steps(stored.snapshot, stored.tail, is_whole=stored.is_whole))
