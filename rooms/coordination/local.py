"""Ownership on one node: every room is ours, and Postgres still counts the terms."""

from collections.abc import Sequence

from tmi.domain.ids import DiagramId, Fence, NodeId
from tmi.domain.model import Node
from tmi.domain.ports import UpdateLog


class LocalCoordinator:
    """The coordinator of a single node. The database's single-writer lock keeps a second one away."""

    def __init__(self, log: UpdateLog, owner: str) -> None:
        self._log = log
        self._owner = owner

    async def claim(self, diagram: DiagramId, disowned: NodeId | None = None) -> Fence:  # noqa: ARG002
        """Raise the fence in the log."""
        return await self._log.claim(diagram, self._owner)

    async def release(self, diagram: DiagramId, fence: Fence) -> None:
        """Nothing to give back: the fence stays with the last owner until the next claim."""

    async def owner(self, diagram: DiagramId) -> Node | None:  # noqa: ARG002
        """There is no other."""
        return None

    def peers(self) -> Sequence[Node]:
        """There are none."""
        return ()

    async def withdraw(self) -> None:
        """There is nobody to tell."""
