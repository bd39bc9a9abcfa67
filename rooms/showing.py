"""What a diagram's editors see at one moment, for those who do not edit it."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from functools import partial
from typing import Any

from crdt.cells import Json
from crdt.document import Document
from crdt.reading import AT_ONCE, count_cells, read_by_steps, read_cells, read_meta
from rooms.editing import Shown
from rooms.hosted import Hosted
from rooms.hosting import Runner
from rooms.nodes.following import ReplicaRunner
from rooms.nodes.replica import Replica
from rooms.room import Room
from rooms.slices import Slices
from tmi.domain.errors import Unavailable
from tmi.domain.ids import DiagramId, Seq

_TRIES = 3
"""A room may move while it is read."""
_AT_ONCE = 4
"""Large diagrams, and such as nobody has open, that are read at a time: each takes memory meanwhile."""

Source = Room | Replica


class Showing:
    """Reads the rooms of this node, replicas of others', and the log of diagrams that nobody has open."""

    def __init__(
        self,
        hosted: Hosted,
        replica: Callable[[DiagramId], Awaitable[ReplicaRunner | None]],
        from_log: Callable[[DiagramId], Awaitable[tuple[Seq, Document]]],
        slices: Slices,
        timeout_s: float,
    ) -> None:
        self._hosted = hosted
        self._replica = replica
        self._from_log = from_log
        self._slices = slices
        self._timeout_s = timeout_s
        self._slots = asyncio.Semaphore(_AT_ONCE)

    async def read(self, diagram: DiagramId) -> tuple[Seq, Document]:
        """The document as its editors see it now, with the number of its last update.

        A diagram whose room another node owns is read there; one without a room from the log, and is not
        claimed. Do not change the document. Raises NotFound, Unavailable and DatabaseUnavailable.
        """
        room = await self._room(diagram)
        return await self._from_log(diagram) if room is None else (room.seq, room.document)

    async def show(self, diagram: DiagramId) -> Shown:
        """Its cells and the rest at one moment; a large diagram is read by steps. Raises as `read` does."""
        for _ in range(_TRIES):
            room = await self._room(diagram)
            if room is not None and count_cells(room.document) <= AT_ONCE:
                return Shown(read_cells(room.document), read_meta(room.document), room.seq)
            async with self._slot():
                if room is None:
                    seq, document = await self._from_log(diagram)
                    rest: Callable[[], _Rest] = partial(_rest_of, document, seq)
                else:
                    document, rest = room.document, partial(self._rest, room)
                cells, told = await self._slices.run(read_by_steps(document, rest))
            if told is not None:
                return Shown(cells, *told)
        raise Unavailable("the diagram's room does not stay in one place; try again shortly")

    @contextlib.asynccontextmanager
    async def _slot(self) -> AsyncIterator[None]:
        try:
            async with asyncio.timeout(self._timeout_s):
                await self._slots.acquire()
        except TimeoutError:
            raise Unavailable("too many diagrams are being read; try again shortly") from None
        try:
            yield
        finally:
            self._slots.release()

    async def _room(self, diagram: DiagramId) -> Source | None:
        """The room if this node owns it, or else its replica; with all edits that have come here by now."""
        hosted = self._hosted
        homes = hosted.open, hosted.ending, hosted.moving
        runner = next((home[diagram] for home in homes if diagram in home), None)
        if runner is not None and not runner.room.is_over:
            runner.settle()
            return runner.room
        replica = await self._replica(diagram)
        if replica is None:
            return None
        try:
            async with asyncio.timeout(self._timeout_s):
                await replica.up_to_date()
        except TimeoutError:
            raise Unavailable("the node that owns this diagram does not answer") from None
        return replica.room

    def _rest(self, room: Source) -> "_Rest":
        """None if the document has gone on elsewhere, under other numbers."""
        hosted, diagram = self._hosted, room.diagram
        homes: Sequence[Mapping[DiagramId, Runner[Any]]] = (
            hosted.open, hosted.ending, hosted.moving, hosted.following,
        )  # fmt: skip
        is_here = any(diagram in home and home[diagram].room is room for home in homes)
        return _rest_of(room.document, room.seq) if is_here and not room.is_over else None


_Rest = tuple[dict[str, Json], Seq] | None


def _rest_of(document: Document, seq: Seq) -> _Rest:
    return read_meta(document), seq
