"""Long work in short steps, so that rooms go on meanwhile."""

import asyncio
import contextlib
from collections.abc import Generator
from typing import TypeVar

from crdt.document import Document
from tmi.domain.ports import StoredDocument

T = TypeVar("T")


class Slices:
    """Does a step of some milliseconds in each turn of the loop, of all works together, by turns."""

    def __init__(self) -> None:
        self._turn = asyncio.Lock()

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
        """The document that was stored. One of 8 MiB takes half a second."""
        return await self.run(Document.load_by_steps(stored.snapshot, stored.tail, is_whole=stored.is_whole))
