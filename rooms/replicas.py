"""The replicas of a node: rooms that other nodes own, for as long as somebody here wants them."""

import asyncio

from crdt.document import Document
from rooms.background import Background
from rooms.budget import Budget
from rooms.hosted import Hosted
from rooms.limits import RoomsLimits
from rooms.nodes.following import ReplicaRunner
from rooms.nodes.keeper import Keeper
from rooms.nodes.replica import Replica, ReplicaLimits
from rooms.slices import Slices
from tmi.domain.errors import OwnedElsewhere, Unavailable
from tmi.domain.ids import DiagramId
from tmi.domain.model import Node
from tmi.domain.ports import Coordinator


class Replicas:
    """Makes them, and lets newcomers wait until they can be answered."""

    def __init__(
        self,
        hosted: Hosted,
        budget: Budget,
        coordinator: Coordinator,
        slices: Slices,
        background: Background,
        limits: RoomsLimits,
    ) -> None:
        self._hosted = hosted
        self._budget = budget
        self._coordinator = coordinator
        self._slices = slices
        self._background = background
        self._timeout_s = limits.load_timeout_s
        self._limits = ReplicaLimits(
            sessions_max=limits.room.sessions_max,
            awareness_max_bytes=limits.room.awareness_max_bytes,
            presence_max_bytes=limits.room.presence_max_bytes,
            ids_per_session=limits.room.ids_per_session,
        )
        self.keeper: Keeper | None = None
        """Attaches them to their owners; None: this node is alone, and follows nobody."""

    def make(self, diagram: DiagramId, document: Document | None = None) -> ReplicaRunner:
        """One that nobody attaches yet; with a document that is there already, if one is given."""
        return self._hosted.add_replica(Replica(diagram, self._limits, document), self._slices)

    def follow(self, diagram: DiagramId, elsewhere: OwnedElsewhere) -> ReplicaRunner:
        """The replica of a room that another node owns. Raises Unavailable while rooms take too much memory,
        and `elsewhere` if this node is alone.
        """
        if self.keeper is None:
            raise elsewhere
        # Somebody else may have been quicker.
        replica = self._hosted.following.get(diagram)
        if replica is not None and replica.room.is_open:
            return replica
        self._budget.refuse_when_full()
        return self._follow(diagram, elsewhere.owner, self.keeper)

    def seek(self, diagram: DiagramId, owner: Node) -> None:
        """Follow a room whose owner cannot be reached, as if a client were in it, until somebody can."""
        if self.keeper is not None and diagram not in self._hosted.following:
            self._follow(diagram, owner, self.keeper)

    async def find(self, diagram: DiagramId) -> ReplicaRunner | None:
        """Of a room that another node owns, if there is one."""
        replica = self._hosted.following.get(diagram)
        if self.keeper is None or (replica is not None and replica.room.is_open):
            return replica
        owner = await self._coordinator.owner(diagram)
        return None if owner is None else self._follow(diagram, owner, self.keeper)

    def _follow(self, diagram: DiagramId, owner: Node, keeper: Keeper) -> ReplicaRunner:
        runner = self.make(diagram)
        self._background.spawn(keeper.keep(runner, owner))
        return runner

    async def ready(self, replica: ReplicaRunner) -> None:
        """Wait until newcomers can be answered. Raises Unavailable, also where it takes too much memory."""
        try:
            async with asyncio.timeout(self._timeout_s):
                await replica.synced.wait()
        except TimeoutError:
            raise Unavailable("the node that owns this diagram does not answer") from None
        self._count(replica)

    def _count(self, replica: ReplicaRunner) -> None:
        """What a replica takes is known once it is synced. Raises Unavailable, as for rooms, and ends it."""
        if replica.is_counted or not replica.room.is_open:
            return
        if replica.room.is_empty:
            try:
                self._budget.refuse_when_full()
            except Unavailable:
                replica.perform(replica.room.close_if_idle())
                raise
        replica.is_counted = True
        self._budget.count(replica)
