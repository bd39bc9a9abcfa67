"""All rooms of this process: opening (once at a time), joining, rights, idleness, draining."""

import asyncio
import contextlib
import logging
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from datetime import timedelta
from itertools import chain
from typing import Any
from uuid import UUID

from crdt.document import Document
from rooms.audience import FULL
from rooms.background import Background
from rooms.database_watch import DatabaseWatch
from rooms.editing import Shown
from rooms.expiry import Expiry
from rooms.growth import HELD_BACK, Growth
from rooms.handing_over import HandingOver, Successors, best_successor
from rooms.hosted import Hosted
from rooms.hosting import Runner, Session
from rooms.idling import Idling
from rooms.journal import Journal
from rooms.limits import RoomsLimits
from rooms.memory import MEMORY_FACTOR, ROOM_BYTES, memory_of
from rooms.nodes.following import ReplicaRunner
from rooms.nodes.keeper import Keeper, NodeLinks
from rooms.nodes.loopback import Loopback
from rooms.nodes.mirror import Answer, Mirror
from rooms.nodes.replica import Replica, ReplicaLimits
from rooms.nodes.witnesses import Witnesses
from rooms.peer import Member, Peer
from rooms.rights import Rights
from rooms.room import Room
from rooms.runner import UPDATE_WEIGHT, RoomRunner
from rooms.showing import Showing
from rooms.slices import Slices
from rooms.snapshots import Snapshotter
from rooms.ticker import Ticker
from rooms.trimming import Trimming, trim_of_libc
from tmi.domain.beats import to_next_beat
from tmi.domain.errors import (
    DatabaseUnavailable,
    Draining,
    OwnedElsewhere,
    TooManyRequests,
    Unavailable,
)
from tmi.domain.ids import CollaborationId, DiagramId, Fence, NodeId, Seq, SignInId, UserId
from tmi.domain.model import Node
from tmi.domain.ports import (
    AccessControl,
    BrowserSessions,
    Coordinator,
    Signal,
    Signals,
    SignInTerms,
    StoredDocument,
    UpdateLog,
)
from tmi.domain.roles import Action, may

log = logging.getLogger(__name__)

_OPENING_TRIES = 5
_GROWTH_SHARE = 8
"""Open rooms may grow past the hard limit by this part of it."""
_FREED_BYTES = 512 * 1024
"""Of documents that are freed at once, or the one that is larger."""


class Rooms:
    """The rooms that this node owns. Construct it inside a running event loop, use it inside `running()`."""

    def __init__(
        self,
        store: UpdateLog,
        coordinator: Coordinator,
        access: AccessControl,
        limits: RoomsLimits | None = None,
    ) -> None:
        self._store = store
        self._coordinator = coordinator
        self._limits = limits or RoomsLimits()
        self._ticker = Ticker(asyncio.get_running_loop())
        self._snapshotter = Snapshotter(store, self._limits.snapshots)
        self.journal = Journal(store, self._limits.journal, self._snapshotter.on_committed)
        self._hosted = hosted = Hosted()
        self._open, self._ending, self._following = hosted.open, hosted.ending, hosted.following
        self._background = Background()
        self._rights = Rights(
            hosted,
            access,
            self._ticker,
            self._background,
            self._release,
            retry_s=self._limits.rights_retry_s,
            recent_s=self._limits.recent_change_s,
        )
        self._keeper: Keeper | None = None
        self._handing: HandingOver | None = None
        self._successors: Successors | None = None
        self._watch: DatabaseWatch | None = None
        self._opening: dict[DiagramId, asyncio.Task[RoomRunner]] = {}
        self._load_slots = asyncio.Semaphore(self._limits.loads_at_once)
        self._draining = False
        self.slices = Slices(lambda: self.journal.silent_s)
        """Does long work in short steps."""
        self._showing = Showing(
            hosted, self._replica, self._read_from_log, self.slices, self._limits.read_timeout_s
        )
        self._memory_seen = 0
        self._memory_loading = 0
        """What documents take that are being loaded, by estimate."""
        self._memory_due_at = 0.0
        self._growth = Growth(hosted)
        self._trimming = Trimming(trim_of_libc())
        self.refusals: Counter[str] = Counter()
        """What was refused, by limit."""
        self.closes: Counter[int] = Counter()
        """Sessions that rooms have ended, by close code."""
        self.evictions = 0

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
        here. Whoever hears others' signals hands them to `hear`.
        """
        self._keeper = keeper = Keeper(self._found, links, Loopback(self), witnesses)
        self._handing = HandingOver(
            self._hosted, keeper, self._background, self._given_back, self._replica_of, self._limits.handover
        )
        self._successors = successors
        self._rights.signals = signals

    def tell_by(self, signals: Signals) -> None:
        """Tell what happens here by these signals, also on a node that is alone: other parts of it hear them,
        and so does this one. Whoever hears them hands them to `hear`.
        """
        self._rights.signals = signals

    @contextlib.asynccontextmanager
    async def watching_database(
        self, answers: Callable[[float], Awaitable[bool]], others: Callable[[], Awaitable[Sequence[Node]]]
    ) -> AsyncIterator[None]:
        """Give all rooms away when this node alone has lost the database (`rooms/database_watch.py`)."""
        self._watch = DatabaseWatch(self.journal, answers, others, self._give_up, self._limits.watch)
        task = asyncio.create_task(self._watch.run(), name="database-watch")
        try:
            yield
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    def expiry(self, terms: SignInTerms) -> Expiry:
        """Whoever runs it sees to it that no socket outlives its sign-in."""
        watch = Expiry(terms, self._rights.sign_ins_here, self._rights.is_over)
        self._rights.on_newcomer = watch.watch
        return watch

    def idling(self, store: BrowserSessions, idle: timedelta) -> Idling:
        """Whoever runs it sees to it that no socket outlives a browser's session that nobody uses."""

        def edited() -> set[SignInId]:
            return {sign_in for runner in self._hosted.with_clients for sign_in in runner.edited()}

        return Idling(store, idle, edited, self._rights.sign_ins_ended)

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator["Rooms"]:
        """Run the background tasks. Call `drain` before leaving, or unsaved edits are left to the clients."""
        async with self.journal.running(), self._snapshotter.running():
            sweeper = asyncio.create_task(self._sweep(), name="rooms-sweep")
            try:
                yield self
            finally:
                tasks = [sweeper, *self._opening.values()]
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)
                await self._background.end()
                self._ticker.close()

    # --- joining --------------------------------------------------------------------------------

    async def join(self, diagram: DiagramId, member: Member, peer: Peer) -> Session:
        """Let a member into a diagram's room, opening it if need be.

        Nothing is sent by itself: the first SyncStep1 is answered with a SyncStep2, then the room's own
        SyncStep1 and everybody's awareness. Raises NotFound, Unavailable (also while writers are being
        refused because too much is unsaved), TooManyRequests, DatabaseUnavailable and Draining.
        """
        runner = await self._room(diagram)
        if runner.room.is_full:
            self.refusals["sessions_per_room"] += 1
            raise TooManyRequests(FULL)
        if runner.is_held_back and (may(member.role, Action.EDIT) or isinstance(runner, ReplicaRunner)):
            self.refusals["rooms_growth"] += 1
            raise Unavailable(HELD_BACK)
        if self.journal.shedding and may(member.role, Action.EDIT):
            self.refusals["journal"] += 1
            raise Unavailable("too many edits wait for the database; try again shortly")
        session = runner.join(member, peer)
        self._rights.look_again(diagram, member)
        return session

    def mirror(
        self, diagram: DiagramId, state_vector: bytes, answer: Answer, node: NodeId | None
    ) -> Mirror | None:
        """Let another node follow a room that is open here; None if it is not."""
        runner = self._open.get(diagram)
        if runner is None or not runner.room.is_open:
            return None

        def entered(member: Member) -> None:
            self._rights.look_again(diagram, member)

        return Mirror(runner, state_vector, answer, entered, node)

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
        homes = self._opening, hosted.open, hosted.ending, hosted.moving
        return any(diagram in home for home in homes)

    async def _room(self, diagram: DiagramId) -> Runner[Any]:
        """The room, opened here if need be, or else its replica."""
        for _ in range(_OPENING_TRIES):
            owned = self._owned(diagram)
            if owned is not None:
                return owned
            replica = self._following.get(diagram)
            if replica is None or not replica.room.is_open:
                try:
                    return await self._own(diagram)
                except OwnedElsewhere as elsewhere:
                    replica = self._replica_at(diagram, elsewhere)
            await self._synced(replica)
            self._count(replica)
            if replica.room.is_open:
                return replica
        raise Unavailable("the diagram's room does not stay open; try again shortly")

    def _count(self, replica: ReplicaRunner) -> None:
        """What a replica takes is known once it is synced. Raises Unavailable, as for rooms, and ends it."""
        if replica.is_counted or not replica.room.is_open:
            return
        if replica.room.is_empty:
            try:
                self._refuse_beyond_memory()
            except Unavailable:
                replica.perform(replica.room.close_if_idle())
                raise
        replica.is_counted = True
        self._memory_seen += memory_of(replica)

    def _replica_at(self, diagram: DiagramId, elsewhere: OwnedElsewhere) -> ReplicaRunner:
        if self._keeper is None:
            raise elsewhere
        # Somebody else may have been quicker.
        replica = self._following.get(diagram)
        if replica is not None and replica.room.is_open:
            return replica
        self._refuse_beyond_memory()
        return self._follow(diagram, elsewhere.owner, self._keeper)

    async def take(self, diagram: DiagramId, former: NodeId) -> Node | None:
        """Open a room that a former owner has given up; returns who was quicker, if anybody was.

        Raises NotFound, Unavailable, DatabaseUnavailable and Draining.
        """
        try:
            await self._own(diagram, former)
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
        self._draining = True
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

    async def _synced(self, replica: ReplicaRunner) -> None:
        try:
            async with asyncio.timeout(self._limits.load_timeout_s):
                await replica.synced.wait()
        except TimeoutError:
            raise Unavailable("the node that owns this diagram does not answer") from None

    def _owned(self, diagram: DiagramId) -> RoomRunner | None:
        if self._draining:
            raise Draining
        runner = self._open.get(diagram)
        if runner is not None and not runner.room.is_open:
            self._retire(diagram, runner)
            return None
        return runner

    def _follow(self, diagram: DiagramId, owner: Node, keeper: Keeper) -> ReplicaRunner:
        runner = self._register(Replica(diagram, self._replica_limits))
        self._background.spawn(keeper.keep(runner, owner))
        return runner

    def _replica_of(self, diagram: DiagramId, runner: RoomRunner) -> ReplicaRunner:
        """For the clients of a room that stands down; its document is theirs from now on."""
        self._snapshotter.forget(runner)
        return self._register(Replica(diagram, self._replica_limits, runner.room.document))

    @property
    def _replica_limits(self) -> ReplicaLimits:
        limits = self._limits.room
        return ReplicaLimits(
            sessions_max=limits.sessions_max,
            awareness_max_bytes=limits.awareness_max_bytes,
            presence_max_bytes=limits.presence_max_bytes,
            ids_per_session=limits.ids_per_session,
        )

    def _register(self, replica: Replica) -> ReplicaRunner:
        replica.refusals = self.refusals
        runner = ReplicaRunner(replica, self._ticker, self.slices)
        runner.closes = self.closes
        self._following[replica.diagram] = runner
        return runner

    async def _own(self, diagram: DiagramId, disowned: NodeId | None = None) -> RoomRunner:
        """The room, opened here. Raises OwnedElsewhere."""
        for _ in range(_OPENING_TRIES):
            runner = self._owned(diagram)
            if runner is not None:
                return runner
            opening = self._opening.get(diagram)
            if opening is None:
                self._refuse_beyond_memory()
                if len(self._opening) >= self._limits.loads_waiting_max:
                    self.refusals["loads_waiting"] += 1
                    raise Unavailable("too many diagrams are being opened; try again shortly")
                opening = asyncio.create_task(self._load(diagram, disowned), name=f"open-{diagram}")
                self._opening[diagram] = opening
                opening.add_done_callback(lambda _: self._opening.pop(diagram, None))
            # Who gives up waiting does not end the load that others wait for.
            await asyncio.shield(opening)
        raise Unavailable("the diagram's room does not stay open; try again shortly")

    async def _found(self, diagram: DiagramId, disowned: NodeId | None) -> RoomRunner:
        """For those who look for an owner: as `_own`, except that a draining node claims nothing, and that
        there is no need to claim, which a node may have to wait for, what somebody else has.
        """
        runner = self.owned(diagram)
        if runner is not None:
            return runner
        if disowned is None or self._draining:
            owner = await self._coordinator.owner(diagram)
            if owner is not None:
                raise OwnedElsewhere(owner)
        if self._draining:
            raise Draining
        return await self._own(diagram, disowned)

    async def owner_here(self, diagram: DiagramId) -> RoomRunner:
        """See `rooms.editing.Owners`."""
        return await self._found(diagram, None)

    def seek_owner(self, diagram: DiagramId, owner: Node) -> None:
        """See `rooms.editing.Owners`."""
        if self._keeper is not None and diagram not in self._following:
            self._follow(diagram, owner, self._keeper)

    @property
    def is_shedding(self) -> bool:
        """Writers are being refused because too much is unsaved."""
        return self.journal.shedding

    def _refuse_beyond_memory(self) -> None:
        """Raises Unavailable while rooms take too much and none can be closed for it.

        What a room will take is known when it is there. So the limit is passed by one room at most.
        """
        limits = self._limits
        if self._memory_seen < limits.memory_hard_max_bytes:
            return
        self._evict(limits.memory_hard_max_bytes)
        if self._memory_seen >= limits.memory_hard_max_bytes:
            self.refusals["rooms_memory"] += 1
            raise Unavailable("the open diagrams take all the memory they may; try again shortly")

    async def _load(self, diagram: DiagramId, disowned: NodeId | None) -> RoomRunner:
        if self._watch is not None and self._watch.is_cut_off:
            raise DatabaseUnavailable("this node is cut off from the database")
        try:
            async with asyncio.timeout(self._limits.load_timeout_s), self._load_slots:
                self._refuse_beyond_memory()  # others may have filled it since this one came
                await self._saved(diagram)
                fence = await self._coordinator.claim(diagram, disowned)
                try:
                    stored = await self._store.load(diagram)
                    document = await self._loaded(stored)
                    if self._draining:
                        raise Draining
                except BaseException:
                    self._background.spawn(self._coordinator.release(diagram, fence))
                    raise
        except TimeoutError:
            raise DatabaseUnavailable("opening the diagram took too long") from None
        # From here to where it is counted again nothing is awaited.
        if document.rejected:
            log.error("room %s: %d updates of its log cannot be applied", diagram, document.rejected)
        room = Room(
            diagram,
            fence,
            document,
            stored.seq,
            self._limits.room,
        )
        room.refusals = self.refusals
        runner = RoomRunner(room, self._ticker, self.journal.offer)
        runner.closes = self.closes
        if self._handing is not None:
            runner.on_fence_lost = self._handing.fence_lost
        self._memory_seen += memory_of(runner)
        runner.snapshot_bytes = len(stored.snapshot or b"")
        runner.tail_weight = _weight(stored)
        self._open[diagram] = runner
        self._snapshotter.on_committed(runner)
        return runner

    async def _loaded(self, stored: StoredDocument) -> Document:
        """The document of a room to be; counted while it is loaded. Raises Unavailable and Draining."""
        if self._draining:
            raise Draining
        self._refuse_beyond_memory()  # others were opened while this one was read
        taken = ROOM_BYTES + MEMORY_FACTOR * (len(stored.snapshot or b"") + sum(map(len, stored.tail)))
        self._memory_loading += taken
        self._memory_seen += taken
        try:
            return await self.slices.load(stored)
        finally:
            self._memory_loading -= taken
            self._memory_seen -= taken

    async def _saved(self, diagram: DiagramId) -> None:
        """Wait for the last commit of a room that is closing: what it holds must be in the log before it is
        read.
        """
        while True:
            ending = self._ending.get(diagram)
            if (ending is None or ending.room.is_over) and diagram not in self._hosted.moving:
                return
            await asyncio.sleep(0.01)

    # --- reading --------------------------------------------------------------------------------

    async def read(self, diagram: DiagramId) -> tuple[Seq, Document]:
        """See `rooms.showing.Showing.read`."""
        return await self._showing.read(diagram)

    async def show(self, diagram: DiagramId) -> Shown:
        """See `rooms.showing.Showing.show`."""
        return await self._showing.show(diagram)

    async def _read_from_log(self, diagram: DiagramId) -> tuple[Seq, Document]:
        async with self._load_slots:
            stored = await self._store.load(diagram)
            return stored.seq, await self.slices.load(stored)

    async def members(self, diagram: DiagramId) -> Sequence[Member]:
        """Who is in a diagram's room now, on whatever node, in the order in which they came; empty while
        nobody has it open. Raises Unavailable.
        """
        runner = self._open.get(diagram)
        if runner is not None:
            return tuple(runner.room.members.values())
        replica = await self._replica(diagram)
        if replica is None:
            return ()
        try:
            async with asyncio.timeout(self._limits.read_timeout_s):
                return await replica.census()
        except TimeoutError:
            raise Unavailable("the node that owns this diagram does not answer") from None

    def here(self, diagram: DiagramId) -> Iterator[tuple[Member, Peer]]:
        """Who is in a diagram's room by way of this node, whoever owns it. Nobody may come or go meanwhile.
        """
        for runner in self._hosted.of(diagram):
            yield from runner.here

    async def _replica(self, diagram: DiagramId) -> ReplicaRunner | None:
        """Of a room that another node owns."""
        replica = self._following.get(diagram)
        if self._keeper is None or (replica is not None and replica.room.is_open):
            return replica
        owner = await self._coordinator.owner(diagram)
        return None if owner is None else self._follow(diagram, owner, self._keeper)

    # --- rights ---------------------------------------------------------------------------------

    async def access_changed(self, diagrams: Sequence[DiagramId]) -> None:
        """Roles on these diagrams may have changed: see to it on every node."""
        await self._rights.access_changed(diagrams)

    def deleted(self, diagrams: Sequence[DiagramId]) -> None:
        """These diagrams are gone: close their sessions with 4404, on every node."""
        self._rights.deleted(diagrams)

    async def sign_in_ended(self, *sign_ins: SignInId) -> None:
        """Close every session behind these sign-ins with 4401, on every node."""
        await self._rights.sign_ins_ended(sign_ins)

    async def people_changed(self, users: Sequence[UserId]) -> None:
        """These users' roles may have changed anywhere: see to it on every node."""
        await self._rights.people_changed(users)

    def on_collaboration_ended(self, do: Callable[[CollaborationId], None]) -> None:
        """What to do on this node when a collaboration session has ended, wherever."""
        self._rights.on_collaboration_ended = do

    def on_people(self, *do: Callable[[Signal | None], None]) -> None:
        """What to do on this node when people's roles may have changed anywhere or sign-ins have ended; None:
        some of it may have been missed.
        """

        def told(signal: Signal | None) -> None:
            for one in do:
                one(signal)

        self._rights.on_people = told

    async def collaboration_ended(self, collaboration: CollaborationId) -> None:
        """A collaboration session is over: close the sockets that came by its tickets, on every node."""
        await self._rights.collaboration_ended(collaboration)

    def on_settings_changed(self, do: Callable[[Sequence[UUID]], None]) -> None:
        """What to do on this node when limits or settings have changed, wherever; with nothing: whatever may
        have.
        """
        self._rights.on_settings_changed = do

    async def settings_changed(self, ids: Sequence[UUID]) -> None:
        """Limits or settings have changed (see `Configuration.changed`): tell every node."""
        await self._rights.settings_changed(ids)

    def look_at_all_roles(self) -> None:
        """Roles may have changed in any room of this node: read them again."""
        self._rights.look_at_all()

    def hear(self, signal: Signal | None) -> None:
        """A node has told all what happened; None: some of it may have been missed."""
        self._rights.hear(signal)

    # --- closing --------------------------------------------------------------------------------

    async def drain(self, deadline_s: float) -> Mapping[DiagramId, int]:
        """Take nobody in, send everybody away (1012), commit everything.

        Returns the updates that could not be committed in time, by room; empty when all is saved.
        """
        self._draining = True
        for runner in list(self._open.values()):
            runner.end(runner.room.drain)
            await asyncio.sleep(0)
        for replica in list(self._following.values()):
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
                self._close_idle()
                self._close_idle_replicas()
                self._free_some()
            except Exception:
                log.exception("the sweep of rooms failed; it goes on")

    def _evict(self, target_bytes: int) -> None:
        """Close rooms and replicas without anybody and without unsaved edits, least recently used first."""
        self._memory_seen = self.memory_bytes
        latest = self._ticker.now() - self._limits.evict_after_s
        idle: list[Runner[Any]] = [
            runner
            for runner in self._hosted.with_clients
            if runner.room.is_open
            and runner.room.is_empty
            and not runner.room.unsaved
            and runner.idle_since <= latest
        ]
        for runner in sorted(idle, key=lambda idle_runner: idle_runner.idle_since):
            if self._memory_seen <= target_bytes:
                return
            if isinstance(runner, RoomRunner):
                runner.room.close_if_idle()
            elif isinstance(runner, ReplicaRunner) and runner.synced.is_set():
                runner.perform(runner.room.close_if_idle())
            else:
                continue  # newcomers wait for it
            self._memory_seen -= memory_of(runner)
            self.evictions += 1

    def _close_idle(self) -> None:
        now = self._ticker.now()
        if now >= self._memory_due_at:
            self._memory_due_at = now + self._limits.memory_sweep_s
            self._memory_seen = self.memory_bytes
            if self._memory_seen > self._limits.memory_max_bytes:
                self._evict(self._limits.memory_max_bytes)
            hard = self._limits.memory_hard_max_bytes
            self._growth.look(is_over=self._memory_seen > hard, allowed_bytes=hard // _GROWTH_SHARE)
        for diagram, runner in list(self._open.items()):
            room = runner.room
            if room.is_open and room.is_empty and now - runner.idle_since > self._limits.idle_s:
                self._snapshotter.on_idle(runner)
                room.close_if_idle()
            if not room.is_open:
                self._retire(diagram, runner)
        for diagram, runner in list(self._ending.items()):
            if runner.room.is_over:
                del self._ending[diagram]
                self._release(runner)
        self._rights.forget_old_changes()

    def _free_some(self) -> None:
        """Let documents of rooms that are over go, some at a time: to free 5,000 cells takes 10 ms."""
        over = self._hosted.over
        left = max(_FREED_BYTES, sum(map(_size, over)) // 4)
        while over and left > 0:
            self._trimming.freed(memory_of(over[0]))
            left -= _size(over.popleft())
        if self._trimming.is_due:
            self._background.spawn(self._trimming.run())

    def _close_idle_replicas(self) -> None:
        limits = self._limits
        for diagram, replica in list(self._following.items()):
            # One that is not synced is empty since newcomers wait for that: for seconds, when an owner died.
            patience_s = limits.idle_s
            if not replica.synced.is_set():
                patience_s = max(patience_s, limits.load_timeout_s)
            if replica.room.is_empty and self._ticker.now() - replica.idle_since > patience_s:
                replica.perform(replica.room.close_if_idle())
            if replica.room.is_over:
                replica.detach()
                replica.synced.set()  # whoever waits looks for the room again
                del self._following[diagram]
                self._hosted.over.append(replica)

    def _retire(self, diagram: DiagramId, runner: RoomRunner) -> None:
        del self._open[diagram]
        self._ending[diagram] = runner

    def _release(self, runner: RoomRunner) -> None:
        self._background.spawn(self._coordinator.release(runner.room.diagram, runner.room.fence))
        self._hosted.over.append(runner)

    async def _given_back(self, runner: RoomRunner) -> None:
        await self._coordinator.release(runner.room.diagram, runner.room.fence)

    # --- figures --------------------------------------------------------------------------------

    @property
    def runners(self) -> Iterator[RoomRunner]:
        """All rooms in memory."""
        return self._hosted.rooms

    def owned(self, diagram: DiagramId) -> RoomRunner | None:
        """A room that this node owns and has open."""
        runner = self._open.get(diagram)
        return runner if runner is not None and runner.room.is_open else None

    @property
    def followed_rooms(self) -> int:
        """Replicas of rooms that other nodes own, or this one does meanwhile."""
        return len(self._following)

    @property
    def is_draining(self) -> bool:
        """Nobody is taken in any more."""
        return self._draining

    @property
    def memory_bytes(self) -> int:
        """What the rooms take, those being loaded too, and the replicas of others, by estimate."""
        everything = chain[Runner[Any]](self.runners, self._following.values())
        rooms = sum(memory_of(runner) for runner in everything if not runner.room.is_over)
        return rooms + self._memory_loading

    @property
    def snapshots_taken(self) -> int:
        """Snapshots written."""
        return self._snapshotter.taken

    @property
    def open_rooms(self) -> int:
        """Rooms in memory."""
        return len(self._open) + len(self._ending)

    @property
    def replicas(self) -> int:
        """Rooms of other nodes that are followed here."""
        return len(self._following)

    @property
    def sessions(self) -> int:
        """Sessions in all rooms."""
        return sum(runner.peers_here for runner in self._hosted.with_clients)


def _size(runner: Runner[Any]) -> int:
    document: Document = runner.room.document
    return ROOM_BYTES + document.bytes_estimate


def _weight(stored: StoredDocument) -> int:
    return sum(len(update) + UPDATE_WEIGHT for update in stored.tail)
