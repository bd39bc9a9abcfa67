"""Snapshots in the background: they bound what loading has to replay, and delete nothing.

A snapshot holds the document after the committed update `seq`. It is encoded when its number is given and
written only once that number is committed, so it can never know more than the log. The next one is due when
the updates since then weigh as much as it does: loading reads at most about twice the document, and these
snapshots together never take more room than the log. One more is taken when a room is closed with a tail of
some weight.
"""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import NamedTuple

from rooms.runner import RoomRunner
from tmi.domain.errors import DatabaseUnavailable, TmiError
from tmi.domain.ids import DiagramId, Seq
from tmi.domain.ports import UpdateLog

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class SnapshotLimits:
    """When a snapshot is due."""

    min_weight: int = 128 * 1024
    """Bytes of tail, `UPDATE_WEIGHT` for each update included, below which none is taken."""
    idle_min_weight: int = 16 * 1024
    """The same for a room that is closed, since nobody is there."""
    idle_share: int = 8
    """There it is due from this share of the last snapshot on, so snapshots may take eight times the log."""
    max_waiting: int = 1000
    """Rooms that may wait for their snapshot; further ones try again at their next commit."""


class _Encoded(NamedTuple):
    """A snapshot that waits for the commit of its number."""

    runner: RoomRunner
    seq: Seq
    state: bytes
    is_whole: bool


class Snapshotter:
    """Takes snapshots of rooms one at a time, after their commits."""

    def __init__(self, store: UpdateLog, limits: SnapshotLimits) -> None:
        self._store = store
        self._limits = limits
        self._due: dict[DiagramId, RoomRunner] = {}
        self._encoded: dict[DiagramId, _Encoded] = {}
        self._wake = asyncio.Event()
        self.taken = 0

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Run the background task."""
        task = asyncio.create_task(self._work(), name="snapshots")
        try:
            yield
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    def on_committed(self, runner: RoomRunner) -> None:
        """A room's batch was committed: take note, and wake the task if something is due."""
        room = runner.room
        waiting = self._encoded.get(room.diagram) if self._encoded else None
        if waiting is not None and waiting.seq <= room.committed_seq:
            self._wake.set()
        elif (
            room.is_open
            and runner.tail_weight >= max(self._limits.min_weight, runner.snapshot_bytes)
            and len(self._due) < self._limits.max_waiting
        ):
            self._due[room.diagram] = runner
            self._wake.set()

    def on_idle(self, runner: RoomRunner) -> None:
        """A room will be closed: the next to open it should not have much to replay.

        Looking through large updates for gaps takes ten times as long as reading as much of a snapshot.
        """
        limits = self._limits
        due_weight = max(limits.idle_min_weight, runner.snapshot_bytes // limits.idle_share)
        if runner.tail_weight >= due_weight and len(self._due) < limits.max_waiting:
            self._due[runner.room.diagram] = runner
            self._wake.set()

    def forget(self, runner: RoomRunner) -> None:
        """The room has stood down: its document may go on to change, unlike its number."""
        if self._due.get(runner.room.diagram) is runner:
            del self._due[runner.room.diagram]

    async def _work(self) -> None:
        while True:
            await self._wake.wait()
            self._wake.clear()
            await self._take_due()

    async def _take_due(self) -> None:
        # Not in `_work`, which would keep the last room and its state for as long as nothing else is due.
        while self._due:
            diagram, runner = self._due.popitem()
            if diagram not in self._encoded:
                self._encode(diagram, runner)
                await asyncio.sleep(0)
        for diagram, encoded in list(self._encoded.items()):
            room = encoded.runner.room
            committed = encoded.seq <= room.committed_seq
            if committed or room.is_over:
                del self._encoded[diagram]
            if committed:
                await self._write(encoded)

    def _encode(self, diagram: DiagramId, runner: RoomRunner) -> None:
        room = runner.room
        try:
            state = room.document.encode()
        except TmiError:
            log.exception("room %s: no snapshot can be encoded", diagram)
            return
        self._encoded[diagram] = _Encoded(runner, room.seq, state, not room.document.pending)
        runner.snapshot_bytes = len(state)
        runner.tail_weight = 0

    async def _write(self, encoded: _Encoded) -> None:
        room = encoded.runner.room
        try:
            if await self._store.save_snapshot(
                room.diagram, room.fence, encoded.seq, encoded.state, is_whole=encoded.is_whole
            ):
                self.taken += 1
        except DatabaseUnavailable as error:
            # Nothing is lost: the tail is only longer until the next one.
            log.warning("room %s: no snapshot was written: %s", room.diagram, error)
        except Exception:
            log.exception("room %s: a snapshot failed", room.diagram)
