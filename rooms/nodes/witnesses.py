"""What other nodes say of what one node alone cannot tell.

Whether a node that does not answer is cut off from all or only from the one that asks, and whether the
database is away for all or for this node alone, can be learned from others only. Nothing that is said here
needs to be true for rooms to be safe: who writes is for the fence to decide. A wrong word costs a detour.

- **Missed by most**: more than half of all nodes that are alive, the asker and the missing one included,
  cannot reach a node. Then its rooms may be claimed though it lives. Of two nodes neither can outvote the
  other, and in a network that is split in halves nobody changes owners.
- **The database**: whoever has it may take rooms from a node that has lost it.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from typing import Protocol

from rooms.nodes.control import Json
from tmi.domain.errors import TmiError
from tmi.domain.ids import NodeId
from tmi.domain.model import Node

log = logging.getLogger(__name__)

ANSWER_S = 0.7
"""For an answer from memory, or from the database."""
VOTE_S = 2.0
"""For the word of a witness, who may have to look first."""
FRESH_S = 0.5
"""So long a count of votes is good."""

Ask = Callable[[Node, Json, float], Awaitable[Json]]


class Suspects(Protocol):
    """Whether others miss a node, too."""

    async def missed_by_most(self, node: Node) -> bool:
        """Whether more than half of the nodes cannot reach it. Never raises."""


class Witnesses:
    """The other nodes, as those who are asked."""

    def __init__(self, peers: Callable[[], Sequence[Node]], ask: Ask) -> None:
        """`peers` are the other nodes that are alive; `ask` raises Unavailable where one does not answer."""
        self._peers = peers
        self._ask = ask
        self._counts: dict[NodeId, asyncio.Task[bool]] = {}

    async def missed_by_most(self, node: Node) -> bool:
        """Whether more than half of the nodes cannot reach `node`, which this one cannot. Never raises."""
        count = self._counts.get(node.id)
        if count is None:
            count = asyncio.create_task(self._count(node), name=f"votes-{node.name}")
            self._counts[node.id] = count
            count.add_done_callback(lambda _: self._forget_soon(node.id))
        return await asyncio.shield(count)

    def _forget_soon(self, node: NodeId) -> None:
        asyncio.get_running_loop().call_later(FRESH_S, self._counts.pop, node, None)

    async def _count(self, node: Node) -> bool:
        peers = self._peers()
        witnesses = [peer for peer in peers if peer.id != node.id]
        all_nodes = 1 + len(witnesses) + 1
        question = {"do": "reach", "node": str(node.id)}
        told = await asyncio.gather(*(self._told(peer, question, VOTE_S) for peer in witnesses))
        missing = 1 + sum(answer is False for answer in told)
        is_missed = missing * 2 > all_nodes
        if is_missed:
            log.warning("node %s lives, and %d of %d nodes cannot reach it", node.name, missing, all_nodes)
        return is_missed

    async def with_database(self) -> Sequence[Node]:
        """The nodes that have the database. Never raises."""
        peers = [peer for peer in self._peers() if not peer.is_draining]
        told = await asyncio.gather(*(self._told(peer, {"do": "database"}, ANSWER_S) for peer in peers))
        return [peer for peer, answer in zip(peers, told, strict=True) if answer is True]

    async def _told(self, peer: Node, question: Json, patience_s: float) -> object:
        """What a peer says; None where it says nothing."""
        try:
            answer = await self._ask(peer, question, patience_s)
        except TmiError:
            return None
        return answer.get("is") if isinstance(answer, dict) else None
