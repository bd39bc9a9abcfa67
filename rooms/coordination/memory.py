"""Ownership among the nodes of one process, for tests and simulations: what Redis does, without Redis."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from tmi.domain.errors import OwnedElsewhere
from tmi.domain.ids import DiagramId, Fence, NodeId
from tmi.domain.model import Node
from tmi.domain.ports import UpdateLog


@dataclass(slots=True)
class Leases:
    """What all nodes know: who is alive, and who holds which room. Who dies is taken out of `alive`."""

    alive: dict[NodeId, Node] = field(default_factory=dict)
    holders: dict[DiagramId, NodeId] = field(default_factory=dict)


class MemoryCoordinator:
    """The port `Coordinator` for one node among others."""

    def __init__(self, leases: Leases, log: UpdateLog, node: Node) -> None:
        """The node is alive from now on."""
        self._leases = leases
        self._log = log
        self._node = node
        leases.alive[node.id] = node

    async def claim(self, diagram: DiagramId, disowned: NodeId | None = None) -> Fence:
        """Take the lease unless a node that is alive has it, and raise the fence."""
        leases = self._leases
        holder = leases.holders.get(diagram)
        if holder is not None and holder not in (self._node.id, disowned) and holder in leases.alive:
            raise OwnedElsewhere(leases.alive[holder])
        leases.holders[diagram] = self._node.id
        try:
            return await self._log.claim(diagram, str(self._node.id))
        except BaseException:
            if leases.holders.get(diagram) == self._node.id:
                del leases.holders[diagram]
            raise

    async def release(self, diagram: DiagramId, fence: Fence) -> None:  # noqa: ARG002
        """Give the lease back."""
        if self._leases.holders.get(diagram) == self._node.id:
            del self._leases.holders[diagram]

    async def owner(self, diagram: DiagramId) -> Node | None:
        """Whoever holds the lease, is alive and is not this node."""
        holder = self._leases.holders.get(diagram)
        return None if holder is None or holder == self._node.id else self._leases.alive.get(holder)

    def peers(self) -> Sequence[Node]:
        """All others that are alive."""
        return [node for node in self._leases.alive.values() if node.id != self._node.id]

    async def withdraw(self) -> None:
        """Mark the node as draining."""
        alive = self._leases.alive
        if self._node.id in alive:
            alive[self._node.id] = replace(alive[self._node.id], is_draining=True)
