"""Who owns which room, in memory."""

import time
from collections.abc import Collection, Mapping

from persistence.memory.store import MemoryStore
from tmi.domain.errors import Conflict, OwnedElsewhere
from tmi.domain.ids import DiagramId, Fence, NodeId
from tmi.domain.model import Node
from tmi.domain.ports import Tenure


class MemoryOwnership:
    """The port `Ownership`."""

    def __init__(self, store: MemoryStore) -> None:
        self._store = store

    async def claim(
        self, diagram: DiagramId, owner: Node, spared: Collection[NodeId] = (), after: Fence | None = None
    ) -> Fence:
        """Raise the fence. Raises NotFound, OwnedElsewhere (by a spared node) and Conflict."""
        tenure = await self.find(diagram)
        if tenure.owner is not None and tenure.owner.id in spared:
            raise OwnedElsewhere(tenure.owner)
        if after not in (None, tenure.fence):
            raise Conflict("Another node has claimed the room first.")
        log = self._store.log(diagram)
        log.fence, log.owner = Fence(log.fence + 1), str(owner.id)
        log.named, log.seen_at = (log.fence, owner), time.monotonic()
        return log.fence

    async def find(self, diagram: DiagramId) -> Tenure:
        """Who owns a room. Raises NotFound."""
        self._store.visit()
        log = self._store.log(diagram)
        fence, node = log.named or (None, None)
        owner = node if log.owner is not None and fence == log.fence else None
        return Tenure(log.fence, owner, log.owner is None, time.monotonic() - log.seen_at)

    async def renew(self, held: Mapping[DiagramId, Fence]) -> frozenset[DiagramId]:
        """Note that the owner lives; returns the rooms whose fence still stands."""
        self._store.visit()
        logs = self._store.logs
        standing = frozenset(d for d, fence in held.items() if d in logs and logs[d].fence == fence)
        for diagram in standing:
            logs[diagram].seen_at = time.monotonic()
        return standing

    async def release(self, diagram: DiagramId, owner: NodeId, fence: Fence) -> None:
        """Let nobody own the room, unless it was claimed again since."""
        self._store.visit()
        log = self._store.logs.get(diagram)
        if log is not None and (log.fence, log.owner) == (fence, str(owner)):
            log.owner = None
