"""Opening the rooms that a node owns: once at a time for each diagram, a few at the same time.

A room is claimed first, and read from the log after that: whatever a former owner committed before the claim
is in what is read, and whatever it tries later is refused.
"""

import asyncio
import logging
from collections.abc import Callable, Collection, Iterator

from crdt.document import Document
from rooms.arriving import Arrivals, LetsIn
from rooms.background import Background
from rooms.budget import Budget
from rooms.database_watch import DatabaseWatch
from rooms.hosted import Hosted
from rooms.journal import Journal
from rooms.limits import RoomsLimits
from rooms.peer import Member, Peer
from rooms.room import Room
from rooms.runner import UPDATE_WEIGHT, RoomRunner
from rooms.slices import Slices
from rooms.snapshots import Snapshotter
from tmi.domain.errors import DatabaseUnavailable, Draining, OwnedElsewhere, Unavailable
from tmi.domain.ids import DiagramId, NodeId, Seq
from tmi.domain.ports import Coordinator, StoredDocument, UpdateLog

log = logging.getLogger(__name__)

_CLOSED_AGAIN = "the diagram's room does not stay open; try again shortly"
OPENING_TRIES = 5
"""A room that was opened may be gone before whoever wanted it has their turn."""


class _UnderWay:
    """A room that is being opened."""

    __slots__ = ("arrivals", "has_visitors", "task")

    def __init__(self, task: asyncio.Task[RoomRunner]) -> None:
        self.task = task
        self.arrivals: asyncio.Future[Arrivals | None] = task.get_loop().create_future()
        """Those who come before it is open; None if that is not worth the while."""
        self.has_visitors = False
        """Somebody is about to join it."""
        task.add_done_callback(self._done)

    def let_come(self, arrivals: Arrivals) -> None:
        """From now on whoever comes is let in."""
        self.arrivals.set_result(arrivals)

    @property
    def arrived(self) -> Arrivals | None:
        """Those who have come already, if anybody may."""
        return self.arrivals.result() if self.arrivals.done() else None

    def _done(self, task: asyncio.Task[RoomRunner]) -> None:
        if not self.arrivals.done():
            self.arrivals.set_result(None)
        elif not task.cancelled():
            task.exception()  # whoever had come was told, and perhaps nobody else waits to be


class Opening:
    """Claims rooms and reads them from the log."""

    def __init__(
        self,
        store: UpdateLog,
        coordinator: Coordinator,
        hosted: Hosted,
        budget: Budget,
        journal: Journal,
        snapshotter: Snapshotter,
        slices: Slices,
        background: Background,
        limits: RoomsLimits,
    ) -> None:
        self._store = store
        self._coordinator = coordinator
        self._hosted = hosted
        self._budget = budget
        self._journal = journal
        self._snapshotter = snapshotter
        self._slices = slices
        self._background = background
        self._limits = limits
        self._under_way: dict[DiagramId, _UnderWay] = {}
        self._load_slots = asyncio.Semaphore(limits.loads_at_once)
        self.is_draining = False
        """Nobody is taken in any more."""
        self.watch: DatabaseWatch | None = None
        """Knows whether this node is cut off from the database; None: nobody looks."""
        self.on_fence_lost: Callable[[RoomRunner], None] | None = None
        """See `RoomRunner`; for the rooms to come."""
        self.lets: LetsIn | None = None
        """See `Arrivals`; None: nobody comes before a room is open."""

    @property
    def under_way(self) -> Collection[asyncio.Task[RoomRunner]]:
        """Rooms that are being opened."""
        return [opening.task for opening in self._under_way.values()]

    def is_opening(self, diagram: DiagramId) -> bool:
        """Whether its room is being opened."""
        return diagram in self._under_way

    def arrived(self, diagram: DiagramId) -> Iterator[tuple[Member, Peer]]:
        """Who has come to a room that is being opened."""
        opening = self._under_way.get(diagram)
        arrivals = None if opening is None else opening.arrived
        return iter(()) if arrivals is None else arrivals.here

    def opened(self, diagram: DiagramId) -> RoomRunner | None:
        """The room if it is open here. Raises Draining."""
        if self.is_draining:
            raise Draining
        runner = self._hosted.open.get(diagram)
        if runner is not None and not runner.room.is_open:
            self._hosted.end(diagram, runner)
            return None
        return runner

    async def own(self, diagram: DiagramId, disowned: NodeId | None = None) -> RoomRunner:
        """The room, opened here if need be. `disowned` is a node that says it does not own it.

        Raises OwnedElsewhere, NotFound, Unavailable, DatabaseUnavailable and Draining.
        """
        for _ in range(OPENING_TRIES):
            runner = self.opened(diagram)
            if runner is not None:
                return runner
            # Who gives up waiting does not end the load that others wait for.
            await asyncio.shield(self._open(diagram, disowned).task)
        raise Unavailable(_CLOSED_AGAIN)

    async def entrance(self, diagram: DiagramId) -> RoomRunner | Arrivals:
        """As `own`, for whoever comes to join: while a large one is still being read they are let in already.
        """
        for _ in range(OPENING_TRIES):
            runner = self.opened(diagram)
            if runner is not None:
                return runner
            opening = self._open(diagram, None)
            opening.has_visitors = True
            arrivals = await asyncio.shield(opening.arrivals)
            if arrivals is not None and arrivals.is_open:
                return arrivals
            await asyncio.shield(opening.task)
        raise Unavailable(_CLOSED_AGAIN)

    def _open(self, diagram: DiagramId, disowned: NodeId | None) -> _UnderWay:
        opening = self._under_way.get(diagram)
        if opening is None:
            self._budget.refuse_when_full()
            if len(self._under_way) >= self._limits.loads_waiting_max:
                self._hosted.refusals["loads_waiting"] += 1
                raise Unavailable("too many diagrams are being opened; try again shortly")
            task = asyncio.create_task(self._load(diagram, disowned), name=f"open-{diagram}")
            opening = self._under_way[diagram] = _UnderWay(task)
            task.add_done_callback(lambda _: self._under_way.pop(diagram, None))
        return opening

    async def found(self, diagram: DiagramId, disowned: NodeId | None) -> RoomRunner:
        """For those who look for an owner: as `own`, except that a draining node claims nothing, and that
        there is no need to claim, which a node may have to wait for, what somebody else has.
        """
        runner = self._hosted.open.get(diagram)
        if runner is not None and runner.room.is_open:
            return runner
        if disowned is None or self.is_draining:
            owner = await self._coordinator.owner(diagram)
            if owner is not None:
                raise OwnedElsewhere(owner)
        if self.is_draining:
            raise Draining
        return await self.own(diagram, disowned)

    async def _load(self, diagram: DiagramId, disowned: NodeId | None) -> RoomRunner:
        # No frame may know the task: with what it raises that would be a circle that keeps what was read.
        try:
            runner = await self._read(diagram, disowned)
        except BaseException as error:
            self._fail(diagram, error)
            raise
        arrived = self._under_way[diagram].arrived
        if arrived is not None:
            arrived.enter(runner)
        return runner

    def _fail(self, diagram: DiagramId, error: BaseException) -> None:
        arrived = self._under_way[diagram].arrived
        if arrived is not None:
            arrived.fail(error)

    async def _read(self, diagram: DiagramId, disowned: NodeId | None) -> RoomRunner:
        if self.watch is not None and self.watch.is_cut_off:
            raise DatabaseUnavailable("this node is cut off from the database")
        try:
            async with asyncio.timeout(self._limits.load_timeout_s), self._load_slots:
                self._budget.refuse_when_full()  # others may have filled it since this one came
                await self._saved(diagram)
                fence = await self._coordinator.claim(diagram, disowned)
                try:
                    stored = await self._store.load(diagram)
                    await self._let_come(diagram, stored)
                    document = await self._loaded(stored)
                    if self.is_draining:
                        raise Draining
                except BaseException:
                    self._background.spawn(self._coordinator.release(diagram, fence))
                    raise
        except TimeoutError:
            raise DatabaseUnavailable("opening the diagram took too long") from None
        # From here to where it is counted again nothing is awaited.
        if document.rejected:
            log.error("room %s: %d updates of its log cannot be applied", diagram, document.rejected)
        room = Room(diagram, fence, document, stored.seq, self._limits.room)
        runner = self._hosted.add_room(room, self._journal.offer)
        runner.on_fence_lost = self.on_fence_lost
        runner.snapshot_bytes = len(stored.snapshot or b"")
        runner.tail_weight = _weight(stored)
        self._budget.count(runner)
        self._snapshotter.on_committed(runner)
        return runner

    async def _let_come(self, diagram: DiagramId, stored: StoredDocument) -> None:
        """Let those who come to join in now, if taking in what is stored takes long."""
        snapshot = stored.snapshot
        is_worth_it = snapshot is not None and stored.is_whole and len(snapshot) >= self._limits.early_bytes
        if snapshot is None or self.lets is None or self.is_draining or not is_worth_it:
            return
        hosted = self._hosted
        arrivals = Arrivals(diagram, snapshot, stored.tail, hosted.ticker, hosted.kept, self.lets)
        self._under_way[diagram].let_come(arrivals)
        if self._under_way[diagram].has_visitors:
            await arrivals.first_given()

    async def _loaded(self, stored: StoredDocument) -> Document:
        """The document of a room to be. Raises Unavailable, since others were opened while this one was read,
        and Draining.
        """
        if self.is_draining:
            raise Draining
        with self._budget.loading(stored):
            return await self._slices.load(stored)

    async def _saved(self, diagram: DiagramId) -> None:
        """Wait for the last commit of a room that is closing: what it holds must be in the log before it is
        read.
        """
        while True:
            ending = self._hosted.ending.get(diagram)
            if (ending is None or ending.room.is_over) and diagram not in self._hosted.moving:
                return
            await asyncio.sleep(0.01)

    async def from_log(self, diagram: DiagramId) -> tuple[Seq, Document]:
        """The document of a diagram that nobody has open, and the number of its last update. It is not
        claimed, and takes its turn with those that are being opened. Raises NotFound and DatabaseUnavailable.
        """
        async with self._load_slots:
            stored = await self._store.load(diagram)
            return stored.seq, await self._slices.load(stored)


def _weight(stored: StoredDocument) -> int:
    return sum(len(update) + UPDATE_WEIGHT for update in stored.tail)
