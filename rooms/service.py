"""All rooms of this process: who comes in and who is there, which node owns them, draining.

Here the parts are put together. Rooms are opened (`rooms/opening.py`) or, where another node owns them,
followed (`rooms/replicas.py`), kept within their memory (`rooms/budget.py`), closed and freed
(`rooms/retiring.py`). What becomes of sessions when roles or sign-ins change is for `rooms/rights.py`.
"""

import asyncio
import contextlib
import logging
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from datetime import timedelta
from typing import Any

from crdt.document import Document
from rooms.arriving import Arrivals
from rooms.audience import FULL
from rooms.background import Background
from rooms.budget import Budget
from rooms.database_watch import DatabaseWatch
from rooms.editing import Shown
from rooms.expiry import Expiry
from rooms.growth import HELD_BACK
from rooms.handing_over import HandingOver, Successors, best_successor
from rooms.hosted import Hosted
from rooms.hosting import Runner
from rooms.idling import Idling
from rooms.journal import SHEDDING, Journal
from rooms.limits import RoomsLimits
from rooms.nodes.following import ReplicaRunner
from rooms.nodes.keeper import Keeper, NodeLinks
from rooms.nodes.loopback import Loopback
from rooms.nodes.mirror import Answer, Mirror
from rooms.nodes.witnesses import Witnesses
from rooms.opening import OPENING_TRIES, Opening
from rooms.peer import Member, Peer
from rooms.replicas import Replicas
from rooms.retiring import Retiring
from rooms.rights import Rights
from rooms.runner import RoomRunner
from rooms.session import Session
from rooms.showing import Showing
from rooms.slices import Slices
from rooms.snapshots import Snapshotter
from rooms.ticker import Ticker
from tmi.domain.beats import to_next_beat
from tmi.domain.errors import DatabaseUnavailable, OwnedElsewhere, TooManyRequests, Unavailable
from tmi.domain.ids import DiagramId, Fence, NodeId, Seq, SignInId
from tmi.domain.model import Node
from tmi.domain.ports import (
    AccessControl,
    BrowserSessions,
    Coordinator,
    Signals,
    SignInTerms,
    UpdateLog,
)
from tmi.domain.roles import Action, may

log = logging.getLogger(__name__)


class Rooms:
    """The rooms that this node owns. Construct it inside a running event loop, use it inside `running()`."""

    def __init__(
        self,
        store: UpdateLog,
        coordinator: Coordinator,
        access: AccessControl,
        limits: RoomsLimits | None = None,
    ) -> None:
        self._coordinator = coordinator
        self._limits = limits = limits or RoomsLimits()
        self._ticker = ticker = Ticker(asyncio.get_running_loop())
        self._snapshotter = snapshotter = Snapshotter(store, limits.snapshots)
        self.journal = Journal(store, limits.journal, snapshotter.on_committed)
        self.slices = Slices(lambda: self.journal.silent_s)
        """Does long work in short steps."""
        self._hosted = hosted = Hosted(ticker)
        self.refusals = hosted.refusals
        """What was refused, by limit."""
        self.closes = hosted.closes
        """Sessions that rooms have ended, by close code."""
        self._background = background = Background()
        self._budget = budget = Budget(hosted, limits)
        self._retiring = Retiring(hosted, coordinator, snapshotter, background, limits)
        self._opening = Opening(
            store, coordinator, hosted, budget, self.journal, snapshotter, self.slices, background, limits
        )
        self._replicas = Replicas(hosted, budget, coordinator, self.slices, background, limits)
        self._opening.lets = self
        self.rights = Rights(
            hosted,
            access,
            ticker,
            background,
            self._retiring.release,
            retry_s=limits.rights_retry_s,
            recent_s=limits.recent_change_s,
        )
        """Told of changes of roles, sign-ins and the like; sees to them on every node."""
        self._showing = Showing(
            hosted, self._replicas.find, self._opening.from_log, self.slices, limits.read_timeout_s
        )
        self._handing: HandingOver | None = None
        self._successors: Successors | None = None

    @property
    def is_hurried(self) -> bool:
        """A commit or the end of a tick is awaited: each is several turns of the loop away."""
        return self.journal.in_flight > 0 or self._ticker.is_ticking

    def use(
        self,
        links: NodeLinks,
        signals: Signals,
        successors: Successors | None = None,
        witnesses: Witnesses | None = None,
    ) -> None:
        """Be one node of several: follow rooms that others own over these links, and tell them what happens
        here. Whoever hears others' signals hands them to `rights`.
        """
        self._replicas.keeper = keeper = Keeper(self._opening.found, links, Loopback(self), witnesses)
        self._handing = handing = HandingOver(
            self._hosted,
            keeper,
            self._background,
            self._retiring.give_back,
            self._replica_of,
            self._limits.handover,
        )
        self._opening.on_fence_lost = handing.fence_lost
        self._successors = successors
        self.rights.signals = signals

    def tell_by(self, signals: Signals) -> None:
        """Tell what happens here by these signals, also on a node that is alone: other parts of it hear them,
        and so does this one. Whoever hears them hands them to `rights`.
        """
        self.rights.signals = signals

    @contextlib.asynccontextmanager
    async def watching_database(
        self, answers: Callable[[float], Awaitable[bool]], others: Callable[[], Awaitable[Sequence[Node]]]
    ) -> AsyncIterator[None]:
        """Give all rooms away when this node alone has lost the database (`rooms/database_watch.py`)."""
        watch = DatabaseWatch(self.journal, answers, others, self._give_up, self._limits.watch)
        self._opening.watch = watch
        task = asyncio.create_task(watch.run(), name="database-watch")
        try:
            yield
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    def expiry(self, terms: SignInTerms) -> Expiry:
        """Whoever runs it sees to it that no socket outlives its sign-in."""
        watch = Expiry(terms, self.rights.sign_ins_here, self.rights.is_over)
        self.rights.on_newcomer = watch.watch
        return watch

    def idling(self, store: BrowserSessions, idle: timedelta) -> Idling:
        """Whoever runs it sees to it that no socket outlives a browser's session that nobody uses."""

        def edited() -> set[SignInId]:
            return {sign_in for runner in self._hosted.with_clients for sign_in in runner.edited()}

        return Idling(store, idle, edited, self.rights.sign_ins_ended)

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator["Rooms"]:
        """Run the background tasks. Call `drain` before leaving, or unsaved edits are left to the clients."""
        async with self.journal.running(), self._snapshotter.running():
            sweeper = asyncio.create_task(self._sweep(), name="rooms-sweep")
            try:
                yield self
            finally:
                tasks = [sweeper, *self._opening.under_way]
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)
                await self._background.end()
                self._ticker.close()

    # --- joining --------------------------------------------------------------------------------

    async def join(
        self, diagram: DiagramId, member: Member, peer: Peer, *, may_come_early: bool = False
    ) -> Session:
        """Let a member into a diagram's room, opening it if need be.

        Nothing is sent by itself: the first SyncStep1 is answered with a SyncStep2, then the room's own
        SyncStep1 and everybody's awareness. `may_come_early`: while a large diagram is still being read, what
        is stored may be sent before the room is open, and if it is not opened after all, the peer is closed.
        For peers that end with their session (`rooms/arriving.py`).

        Raises NotFound, Unavailable (also while writers are being refused because too much is unsaved),
        TooManyRequests, DatabaseUnavailable and Draining.
        """
        host = await self._room(diagram, may_come_early)
        if isinstance(host, Arrivals):
            if len(host) >= self._limits.room.sessions_max:
                self.refusals["sessions_per_room"] += 1
                raise TooManyRequests(FULL)
            return host.join(member, peer)
        self._refuse_where_full(host, member)
        session = host.join(member, peer)
        self.rights.look_again(diagram, member)
        return session

    def check(self, diagram: DiagramId, member: Member) -> None:
        """See `rooms.arriving.LetsIn`."""
        if self.rights.is_outdated(diagram, member):
            raise Unavailable("what you may do here may have changed")

    def let_in(self, runner: RoomRunner, member: Member, session: Session, given: bytes | None) -> None:
        """See `rooms.arriving.LetsIn`."""
        self._refuse_where_full(runner, member)
        runner.let_in(member, session, given)
        self.rights.look_again(runner.room.diagram, member)

    def _refuse_where_full(self, runner: Runner[Any], member: Member) -> None:
        if runner.room.is_full:
            self.refusals["sessions_per_room"] += 1
            raise TooManyRequests(FULL)
        if runner.is_held_back and (may(member.role, Action.EDIT) or isinstance(runner, ReplicaRunner)):
            self.refusals["rooms_growth"] += 1
            raise Unavailable(HELD_BACK)
        if self.journal.shedding and may(member.role, Action.EDIT):
            self.refusals["journal"] += 1
            raise Unavailable(SHEDDING)

    def mirror(
        self, diagram: DiagramId, state_vector: bytes, answer: Answer, node: NodeId | None
    ) -> Mirror | None:
        """Let another node follow a room that is open here; None if it is not."""
        runner = self._hosted.open.get(diagram)
        if runner is None or not runner.room.is_open:
            return None

        def entered(member: Member) -> None:
            self.rights.look_again(diagram, member)

        return Mirror(runner, state_vector, answer, entered, lambda: self.is_shedding, node)

    def fence_risen(self, diagram: DiagramId, fence: Fence) -> None:
        """Another node has claimed a room that this one had with `fence`."""
        hosted = self._hosted
        for home in (hosted.open, hosted.moving, hosted.ending):
            runner = home.get(diagram)
            if runner is not None and runner.room.fence == fence and not runner.room.is_over:
                runner.fence_lost()

    def is_between(self, diagram: DiagramId) -> bool:
        """Whether a room is being opened here, or its last edits are being committed."""
        hosted = self._hosted
        homes = hosted.open, hosted.ending, hosted.moving
        return self._opening.is_opening(diagram) or any(diagram in home for home in homes)

    async def _room(self, diagram: DiagramId, may_come_early: bool) -> Runner[Any] | Arrivals:
        """The room, opened here if need be, or who lets people in until it is; or else its replica."""
        for _ in range(OPENING_TRIES):
            owned = self._opening.opened(diagram)
            if owned is not None:
                return owned
            replica = self._hosted.following.get(diagram)
            if replica is None or not replica.room.is_open:
                try:
                    way_in = self._opening.entrance if may_come_early else self._opening.own
                    return await way_in(diagram)
                except OwnedElsewhere as elsewhere:
                    replica = self._replicas.follow(diagram, elsewhere)
            await self._replicas.ready(replica)
            if replica.room.is_open:
                return replica
        raise Unavailable("the diagram's room does not stay open; try again shortly")

    # --- owners ---------------------------------------------------------------------------------

    async def take(self, diagram: DiagramId, former: NodeId) -> Node | None:
        """Open a room that a former owner has given up; returns who was quicker, if anybody was.

        Raises NotFound, Unavailable, DatabaseUnavailable and Draining.
        """
        try:
            await self._opening.own(diagram, former)
        except OwnedElsewhere as elsewhere:
            return elsewhere.owner
        return None

    async def move(self, diagram: DiagramId, successor: Node) -> Node:
        """Hand a room over that is open here (`rooms/handing_over.py`). Raises NotFound and Unavailable."""
        if self._handing is None or self._successors is None:
            raise Unavailable("this node is alone")
        if self.journal.database_away:
            raise DatabaseUnavailable
        return await self._handing.hand_over(diagram, successor, self._successors)

    async def _give_up(self, others: Sequence[Node]) -> None:
        if self._handing is not None and self._successors is not None:
            await self._handing.abandon_all(others, self._successors)

    async def hand_over_all(self, deadline_s: float) -> None:
        """Take nobody in, and hand the rooms with people in them to other nodes, if there are any. The
        clients that are here stay until they are closed (`drain`).
        """
        self._opening.is_draining = True
        await self._coordinator.withdraw()
        if self._handing is None or self._successors is None or self.journal.database_away:
            return
        given: Counter[NodeId] = Counter()

        def choose(runner: RoomRunner) -> Node | None:
            successor = best_successor(runner, self.successors(), given.__getitem__)
            if successor is not None:
                given[successor.id] += 1
            return successor

        await self._handing.hand_over_all(deadline_s, self._successors, choose)

    def successors(self) -> Sequence[Node]:
        """The nodes that may own a room next."""
        return [node for node in self._coordinator.peers() if not node.is_draining]

    def peers(self) -> Sequence[Node]:
        """The other nodes that are alive."""
        return self._coordinator.peers()

    def _replica_of(self, diagram: DiagramId, runner: RoomRunner) -> ReplicaRunner:
        """For the clients of a room that stands down; its document is theirs from now on."""
        self._snapshotter.forget(runner)
        return self._replicas.make(diagram, runner.room.document)

    async def owner_here(self, diagram: DiagramId) -> RoomRunner:
        """See `rooms.editing.Owners`."""
        return await self._opening.found(diagram, None)

    def seek_owner(self, diagram: DiagramId, owner: Node) -> None:
        """See `rooms.editing.Owners`."""
        self._replicas.seek(diagram, owner)

    @property
    def is_shedding(self) -> bool:
        """Writers are being refused because too much is unsaved."""
        return self.journal.shedding

    # --- reading --------------------------------------------------------------------------------

    async def read(self, diagram: DiagramId) -> tuple[Seq, Document]:
        """See `rooms.showing.Showing.read`."""
        return await self._showing.read(diagram)

    async def show(self, diagram: DiagramId) -> Shown:
        """See `rooms.showing.Showing.show`."""
        return await self._showing.show(diagram)

    async def members(self, diagram: DiagramId) -> Sequence[Member]:
        """Who is in a diagram's room now, on whatever node, in the order in which they came; empty while
        nobody has it open. Raises Unavailable.
        """
        runner = self._hosted.open.get(diagram)
        if runner is not None:
            return tuple(runner.room.members.values())
        replica = await self._replicas.find(diagram)
        if replica is None:
            return ()
        try:
            async with asyncio.timeout(self._limits.read_timeout_s):
                return await replica.census()
        except TimeoutError:
            raise Unavailable("the node that owns this diagram does not answer") from None

    def here(self, diagram: DiagramId) -> Iterator[tuple[Member, Peer]]:
        """Who is in a diagram's room by way of this node, whoever owns it, or waits for it to open. Nobody
        may come or go meanwhile.
        """
        for runner in self._hosted.of(diagram):
            yield from runner.here
        yield from self._opening.arrived(diagram)

    # --- closing --------------------------------------------------------------------------------

    async def drain(self, deadline_s: float) -> Mapping[DiagramId, int]:
        """Take nobody in, send everybody away (1012), commit everything.

        Returns the updates that could not be committed in time, by room; empty when all is saved.
        """
        self._opening.is_draining = True
        for runner in list(self._hosted.open.values()):
            runner.end(runner.room.drain)
            await asyncio.sleep(0)
        for replica in list(self._hosted.following.values()):
            replica.end(replica.room.drain)
        await self.journal.flushed(deadline_s)
        return self.journal.unsaved()

    def _next_sweep_s(self) -> float:
        """Sooner while there is a lot to do."""
        limits = self._limits
        if self.journal.is_filling or self._hosted.over:
            return limits.busy_sweep_s
        return to_next_beat(self._ticker.now(), limits.sweep_s)

    async def _sweep(self) -> None:
        while True:
            await asyncio.sleep(self._next_sweep_s())
            try:
                self.journal.keep_within_bound()
                self._budget.look()
                self._retiring.close_idle()
                self.rights.forget_old_changes()
                self._retiring.free_some()
            except Exception:
                log.exception("the sweep of rooms failed; it goes on")

    # --- figures --------------------------------------------------------------------------------

    @property
    def runners(self) -> Iterator[RoomRunner]:
        """All rooms in memory."""
        return self._hosted.rooms

    def owned(self, diagram: DiagramId) -> RoomRunner | None:
        """A room that this node owns and has open."""
        runner = self._hosted.open.get(diagram)
        return runner if runner is not None and runner.room.is_open else None

    @property
    def followed_rooms(self) -> int:
        """Replicas of rooms that other nodes own, or this one does meanwhile."""
        return len(self._hosted.following)

    @property
    def is_draining(self) -> bool:
        """Nobody is taken in any more."""
        return self._opening.is_draining

    @property
    def memory_bytes(self) -> int:
        """What the rooms take, those being loaded too, and the replicas of others, by estimate."""
        return self._budget.bytes_taken

    @property
    def evictions(self) -> int:
        """Rooms and replicas without anybody that were closed early for their memory."""
        return self._budget.evictions

    @property
    def snapshots_taken(self) -> int:
        """Snapshots written."""
        return self._snapshotter.taken

    @property
    def open_rooms(self) -> int:
        """Rooms in memory."""
        return len(self._hosted.open) + len(self._hosted.ending)

    @property
    def replicas(self) -> int:
        """Rooms of other nodes that are followed here."""
        return len(self._hosted.following)

    @property
    def sessions(self) -> int:
        """Sessions in all rooms."""
        return sum(runner.peers_here for runner in self._hosted.with_clients)
