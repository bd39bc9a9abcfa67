"""The update log in memory, with what tests of durability need: stalled commits, refused rooms and lost
answers.
"""

import asyncio
import time
from collections.abc import Sequence

from persistence.memory.store import MemoryStore, RoomLog
from tmi.domain.errors import Conflict, DatabaseUnavailable
from tmi.domain.ids import DiagramId, Fence, Seq
from tmi.domain.ports import AppendResult, RoomBatch, StoredDocument


class MemoryUpdateLog:
    """The port `UpdateLog`.

    `gate`: an append commits only once it is set; fences are checked after that. `refused`: rooms whose
    rows fail, and why. `lose_next_answer`: the next append commits and then raises DatabaseUnavailable.
    """

    def __init__(self, store: MemoryStore, gate: asyncio.Event | None = None) -> None:
        self._store = store
        self.gate = gate
        self.refused: dict[DiagramId, str] = {}
        self.lose_next_answer = False

    async def claim(self, diagram: DiagramId, owner: str) -> Fence:
        """Raise the fence. Raises NotFound."""
        self._store.visit()
        log = self._store.log(diagram)
        log.fence, log.owner = Fence(log.fence + 1), owner
        log.seen_at = time.monotonic()
        return log.fence

    async def load(self, diagram: DiagramId) -> StoredDocument:
        """The newest snapshot and its tail. Raises NotFound."""
        self._store.visit()
        log = self._store.log(diagram)
        snapshot_seq = max(log.snapshots, default=Seq(0))
        snapshot, is_whole = log.snapshots.get(snapshot_seq, (None, False))
        return StoredDocument(
            snapshot=snapshot,
            snapshot_seq=snapshot_seq,
            tail=tuple(update.data for _, update in log.rows[snapshot_seq:]),
            seq=Seq(len(log.rows)),
            is_whole=is_whole,
        )

    async def append(self, batches: Sequence[RoomBatch]) -> AppendResult:
        """Commit each room whose fence stands. Raises ValueError if a room has two batches."""
        if len({batch.diagram for batch in batches}) != len(batches):
            raise ValueError("A room has at most one batch in a group commit.")
        if self.gate is not None:
            await self.gate.wait()
        self._store.visit()
        result = self._append(batches)
        if self.lose_next_answer:
            self.lose_next_answer = False
            raise DatabaseUnavailable("The answer was lost.")
        return result

    def _append(self, batches: Sequence[RoomBatch]) -> AppendResult:
        committed: set[DiagramId] = set()
        stale: set[DiagramId] = set()
        failed: dict[DiagramId, str] = {}
        for batch in batches:
            log = self._store.logs.get(batch.diagram)
            if log is None or log.fence != batch.fence:
                stale.add(batch.diagram)
            elif reason := self.refused.get(batch.diagram) or _refusal(log, batch):
                failed[batch.diagram] = reason
            else:
                log.rows += [(batch.fence, u) for u in batch.updates if u.seq > len(log.rows)]
                log.times += [self._store.clock()] * (len(log.rows) - len(log.times))
                committed.add(batch.diagram)
        return AppendResult(frozenset(committed), frozenset(stale), failed)

    async def save_snapshot(
        self, diagram: DiagramId, fence: Fence, seq: Seq, state: bytes, *, is_whole: bool = False
    ) -> bool:
        """Store a snapshot unless one of that number is there. Raises Conflict if `seq` is not committed."""
        self._store.visit()
        log = self._store.logs.get(diagram)
        if log is None or log.fence != fence:
            return False
        if not 1 <= seq <= len(log.rows):
            raise Conflict(f"Update {seq} is not committed.")
        log.snapshots.setdefault(seq, (state, is_whole))
        return True


def _refusal(log: RoomLog, batch: RoomBatch) -> str | None:
    """Why a batch cannot be appended, apart from its fence."""
    first = batch.updates[0].seq if batch.updates else Seq(0)
    if first < 1 or [u.seq for u in batch.updates] != list(range(first, first + len(batch.updates))):
        return "The numbers of the batch are not consecutive."
    if first > len(log.rows) + 1:
        return f"Update {first} does not follow {len(log.rows)}, the last one."
    there = log.rows[first - 1 : first - 1 + len(batch.updates)]
    same = all(f == batch.fence and u.data == n.data for (f, u), n in zip(there, batch.updates, strict=False))
    return None if same else "The log holds other updates of these numbers."
