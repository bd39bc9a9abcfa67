"""Keeps replicas attached to whoever owns their rooms, whatever becomes of the owners.

The same few steps find the owner at first, after a link broke, after an owner died and after it handed the
room over: claim the room; if another node owns it, follow that one; if that one cannot be reached, try again.
The coordinator says when the room of a dead node may be claimed. One that lives, and that most nodes cannot
reach (`rooms/nodes/witnesses.py`), is treated as if it had given the room up. A node that succeeds follows
itself: its clients stay with the replica, and are none the wiser.
"""

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable
from typing import Protocol

from rooms.nodes.following import ReplicaRunner
from rooms.nodes.loopback import Loopback
from rooms.nodes.witnesses import Suspects
from tmi.domain.errors import NotFound, OwnedElsewhere, Unavailable
from tmi.domain.ids import DiagramId, NodeId
from tmi.domain.model import Node

log = logging.getLogger(__name__)

_PAUSE_S = 0.03, 0.1
"""Between two tries, at random, so that nodes that look for the same owner do not keep step."""
_FAULT_PAUSE_S = 1.0
_BRIEF_S = 0.1
_DOUBT_S = 0.9
"""So long an owner that cannot be reached is tried before others are asked; a dial takes up to a second."""

Own = Callable[[DiagramId, NodeId | None], Awaitable[object]]
"""Open a room on this node; the second is a node that says it does not own it. Raises OwnedElsewhere."""


class NodeLinks(Protocol):
    """The way to other nodes."""

    @property
    def node(self) -> NodeId:
        """This one."""

    async def follow(self, owner: Node, runner: ReplicaRunner) -> None:
        """Attach a replica to its owner. Raises Unavailable when that node cannot be reached."""


class Keeper:
    """Looks after the replicas of this node."""

    def __init__(
        self, own: Own, links: NodeLinks, loopback: Loopback, suspects: Suspects | None = None
    ) -> None:
        self._own = own
        self._links = links
        self._loopback = loopback
        self._suspects = suspects

    async def keep(self, runner: ReplicaRunner, owner: Node | None) -> None:
        """Until the replica is over. `owner` is where to look first."""
        clock = asyncio.get_running_loop().time
        disowned: NodeId | None = None
        sought, sought_at = owner, clock()
        while not runner.room.is_over:
            try:
                await self._attach(runner, owner, disowned)
            except OwnedElsewhere as elsewhere:
                disowned, is_new = None, owner != elsewhere.owner
                owner = elsewhere.owner
                if owner != sought:
                    sought, sought_at = owner, clock()
                if not is_new:
                    await _pause()
            except NotFound:
                runner.end(runner.room.deleted)
            except Unavailable as error:
                log.debug("room %s: %s", runner.room.diagram, error)
                is_doubtful = owner is not None and clock() - sought_at >= _DOUBT_S
                disowned = await self._missing(owner) if is_doubtful else None
                owner = None
                await _pause()
            except Exception:
                log.exception("room %s: looking for its owner failed; it goes on", runner.room.diagram)
                owner = disowned = None
                await asyncio.sleep(_FAULT_PAUSE_S)
            else:
                attached_at = clock()
                await runner.lost.wait()
                if runner.successor is None and clock() - attached_at < _BRIEF_S:
                    await _pause()  # an owner that is about to be one, or about to end
                sought, sought_at = owner, clock()
                disowned = owner.id if owner is not None and runner.is_disowned else None
                owner = runner.successor

    async def _missing(self, owner: Node | None) -> NodeId | None:
        """The owner, if others cannot reach it either."""
        if owner is None or owner.id == self._links.node or self._suspects is None:
            return None
        return owner.id if await self._suspects.missed_by_most(owner) else None

    async def _attach(self, runner: ReplicaRunner, owner: Node | None, disowned: NodeId | None) -> None:
        if owner is not None and owner.id != self._links.node:
            await self._links.follow(owner, runner)
            return
        await self._own(runner.room.diagram, disowned)
        self._loopback.follower.open(runner)


async def _pause() -> None:
    await asyncio.sleep(random.uniform(*_PAUSE_S))  # noqa: S311 - not a secret
