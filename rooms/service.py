"""All rooms of this process: opening (once at a time), joining, rights, idleness, draining."""

import asyncio
import contextlib
import logging
from collections import Counter
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import Any
from uuid import UUID

from crdt.document import Document
from rooms import closing
from rooms.hosting import Runner, Session
from rooms.journal import Journal, JournalLimits
from rooms.nodes.following import ReplicaRunner
from rooms.nodes.keeper import Keeper, NodeLinks
from rooms.nodes.loopback import Loopback
from rooms.nodes.mirror import Answer, Mirror
from rooms.nodes.replica import Replica, ReplicaLimits
from rooms.peer import Member, Peer
from rooms.room import Room, RoomLimits
from rooms.runner import UPDATE_WEIGHT, RoomRunner
from rooms.snapshots import SnapshotLimits, Snapshotter
from rooms.ticker import Ticker
from tmi.domain.errors import (
    DatabaseUnavailable,
    Draining,
    NotFound,
    OwnedElsewhere,
    TooManyRequests,
    Unavailable,
)
from tmi.domain.ids import CollaborationId, DiagramId, NodeId, Seq, SignInId, UserId
from tmi.domain.model import Node
from tmi.domain.ports import (
    AccessControl,
    Coordinator,
    Entrant,
    Happened,
    Signal,
    Signals,
    Standing,
    StoredDocument,
    UpdateLog,
)
from tmi.domain.roles import Action, may

log = logging.getLogger(__name__)

_OPENING_TRIES = 5

MEMORY_FACTOR = 20
"""Resident bytes for each encoded byte of a document.

Measured with pycrdt 0.14.13 on x86-64 Linux: 20 for a diagram of 20,000 cells, 24 for 20,000 edits by as many
clients, 37 for 100,000 moves of 100 cells, 1.1 for texts of 10,000 letters: what counts is the number of
structs, of 200 to 600 bytes each. Diagrams are of the first kind.
"""
ROOM_BYTES = 10 * 1024
"""What a room takes without its document's content: measured with 2,000 rooms."""


@dataclass(frozen=True, slots=True)
class RoomsLimits:
    """Bounds of all rooms together; times in seconds."""

    room: RoomLimits = field(default_factory=RoomLimits)
    journal: JournalLimits = field(default_factory=JournalLimits)
    snapshots: SnapshotLimits = field(default_factory=SnapshotLimits)
    idle_s: float = 30.0
    """A room without anybody is closed after this long."""
    memory_max_bytes: int = 1024 * 1024 * 1024
    """What the rooms may take together, by estimate, before those without anybody are closed early."""
    memory_hard_max_bytes: int = 2 * 1024 * 1024 * 1024
    """From here on no further room is opened."""
    memory_sweep_s: float = 1.0
    """What the rooms take is looked at this often."""
    evict_after_s: float = 1.0
    """A room is not closed early before it has been without anybody for so long."""
    sweep_s: float = 0.1
    loads_at_once: int = 4
    load_timeout_s: float = 30.0
    read_timeout_s: float = 5.0
    """For reading a document from the node that owns it."""
    loads_waiting_max: int = 1000
    rights_retry_s: float = 0.5
    recent_change_s: float = 60.0
    """For this long after a change of rights, a newcomer's role is read once more after it joined."""


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
        self._access = access
        self._signals: Signals | None = None
        self._limits = limits or RoomsLimits()
        self._ticker = Ticker(asyncio.get_running_loop())
        self._snapshotter = Snapshotter(store, self._limits.snapshots)
        self.journal = Journal(store, self._limits.journal, self._snapshotter.on_committed)
        self._open: dict[DiagramId, RoomRunner] = {}
        self._following: dict[DiagramId, ReplicaRunner] = {}
        """Replicas of rooms that other nodes own, or owned until a moment ago."""
        self._keeper: Keeper | None = None
        self._opening: dict[DiagramId, asyncio.Task[RoomRunner]] = {}
        self._ending: dict[DiagramId, RoomRunner] = {}
        self._load_slots = asyncio.Semaphore(self._limits.loads_at_once)
        self._draining = False
        self._memory_seen = 0
        self._memory_due_at = 0.0
        self._changed_at: dict[DiagramId, float] = {}
        self._people_changed_at: dict[UserId, float] = {}
        self._background: set[asyncio.Task[None]] = set()
        self.refusals: Counter[str] = Counter()
        """What was refused, by limit."""
        self.closes: Counter[int] = Counter()
        """Sessions that rooms have ended, by close code."""
        self.evictions = 0
        self.on_collaboration_ended: Callable[[CollaborationId], None] = lambda _: None
        """Called on each node when a collaboration session has ended."""

    @property
    def is_hurried(self) -> bool:
        """A commit or the end of a tick is awaited: each is several turns of the loop away."""
        return self.journal.in_flight > 0 or self._ticker.is_ticking

    def use(self, links: NodeLinks, signals: Signals) -> None:
        """Be one node of several: follow rooms that others own over these links, and tell them what happens
        here. Whoever hears others' signals hands them to `hear`.
        """
        self._keeper = Keeper(self._own, links, Loopback(self))
        self._signals = signals

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator["Rooms"]:
        """Run the background tasks. Call `drain` before leaving, or unsaved edits are left to the clients."""
        async with self.journal.running(), self._snapshotter.running():
            sweeper = asyncio.create_task(self._sweep(), name="rooms-sweep")
            try:
                yield self
            finally:
                tasks = [sweeper, *self._background, *self._opening.values()]
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)
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
            raise TooManyRequests("this diagram has as many clients as it may")
        if self.journal.shedding and may(member.role, Action.EDIT):
            self.refusals["journal"] += 1
            raise Unavailable("too many edits wait for the database; try again shortly")
        session = runner.join(member, peer)
        self._look_again(diagram, member)
        return session

    def _look_again(self, diagram: DiagramId, member: Member) -> None:
        """A newcomer's role was looked up before it was let in, perhaps before a change."""
        if diagram in self._changed_at or member.user in self._people_changed_at:
            self._spawn(self._reread(diagram))

    def mirror(self, diagram: DiagramId, state_vector: bytes, answer: Answer) -> Mirror | None:
        """Let another node follow a room that is open here; None if it is not."""
        runner = self._open.get(diagram)
        if runner is None or not runner.room.is_open or self._draining:
            return None
        return Mirror(runner, state_vector, answer, lambda member: self._look_again(diagram, member))

    def is_between(self, diagram: DiagramId) -> bool:
        """Whether a room is being opened here, or its last edits are being committed."""
        return diagram in self._opening or diagram in self._ending or diagram in self._open

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
            if replica.room.is_open:
                return replica
        raise Unavailable("the diagram's room does not stay open; try again shortly")

    def _replica_at(self, diagram: DiagramId, elsewhere: OwnedElsewhere) -> ReplicaRunner:
        if self._keeper is None:
            raise elsewhere
        # Somebody else may have been quicker.
        replica = self._following.get(diagram)
        if replica is not None and replica.room.is_open:
            return replica
        return self._follow(diagram, elsewhere.owner, self._keeper)

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
        limits = ReplicaLimits(sessions_max=self._limits.room.sessions_max)
        runner = ReplicaRunner(Replica(diagram, limits), self._ticker)
        runner.closes = self.closes
        self._following[diagram] = runner
        self._spawn(keeper.keep(runner, owner))
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

    def _refuse_beyond_memory(self) -> None:
        """Raises Unavailable while rooms take too much and none can be closed for it."""
        limits = self._limits
        if self._memory_seen < limits.memory_hard_max_bytes:
            return
        self._evict(limits.memory_hard_max_bytes)
        if self._memory_seen >= limits.memory_hard_max_bytes:
            self.refusals["rooms_memory"] += 1
            raise Unavailable("the open diagrams take all the memory they may; try again shortly")

    async def _load(self, diagram: DiagramId, disowned: NodeId | None) -> RoomRunner:
        try:
            async with asyncio.timeout(self._limits.load_timeout_s), self._load_slots:
                await self._saved(diagram)
                fence = await self._coordinator.claim(diagram, disowned)
                try:
                    stored = await self._store.load(diagram)
                except BaseException:
                    self._spawn(self._coordinator.release(diagram, fence))
                    raise
        except TimeoutError:
            raise DatabaseUnavailable("opening the diagram took too long") from None
        if self._draining:
            self._spawn(self._coordinator.release(diagram, fence))
            raise Draining
        document = Document.load(stored.snapshot, stored.tail, is_whole=stored.is_whole)
        if document.rejected:
            log.error("room %s: %d updates of its log cannot be applied", diagram, document.rejected)
        room = Room(
            diagram,
            fence,
            document,
            stored.seq,
            self._limits.room,
        )
        runner = RoomRunner(room, self._ticker, self.journal.offer)
        runner.closes = self.closes
        self._memory_seen += memory_of(runner)
        runner.snapshot_bytes = len(stored.snapshot or b"")
        runner.tail_weight = _weight(stored)
        self._open[diagram] = runner
        self._snapshotter.on_committed(runner)
        return runner

    async def _saved(self, diagram: DiagramId) -> None:
        """Wait for the last commit of a room that is closing: what it holds must be in the log before it is
        read.
        """
        while True:
            ending = self._ending.get(diagram)
            if ending is None or ending.room.is_over:
                return
            await asyncio.sleep(0.01)

    # --- reading --------------------------------------------------------------------------------

    async def read(self, diagram: DiagramId) -> tuple[Seq, Document]:
        """The document as its editors see it now, with the number of its last update.

        A diagram whose room another node owns is read there; one without a room from the log, and is not
        claimed. Do not change the document. Raises NotFound, Unavailable and DatabaseUnavailable.
        """
        runner = self._open.get(diagram) or self._ending.get(diagram)
        if runner is not None and not runner.room.is_over:
            runner.settle()
            return runner.room.seq, runner.room.document
        replica = await self._replica(diagram)
        if replica is not None:
            try:
                async with asyncio.timeout(self._limits.read_timeout_s):
                    await replica.up_to_date()
            except TimeoutError:
                raise Unavailable("the node that owns this diagram does not answer") from None
            return replica.room.seq, replica.room.document
        async with self._load_slots:
            stored = await self._store.load(diagram)
        return stored.seq, Document.load(stored.snapshot, stored.tail, is_whole=stored.is_whole)

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
        if not await self._announced(Happened.ACCESS_CHANGED, diagrams):
            await self._access_changed(diagrams)

    def deleted(self, diagrams: Sequence[DiagramId]) -> None:
        """These diagrams are gone: close their sessions with 4404, on every node."""
        self._deleted(diagrams)
        self._spawn(self._announce(Happened.DELETED, diagrams))

    async def sign_in_ended(self, sign_in: SignInId) -> None:
        """Close every session behind this sign-in with 4401, on every node."""
        self._sign_in_ended(sign_in)
        await self._announce(Happened.SIGN_IN_ENDED, [sign_in])

    async def people_changed(self, users: Sequence[UserId]) -> None:
        """These users' roles may have changed anywhere: see to it on every node."""
        if not await self._announced(Happened.PEOPLE_CHANGED, users):
            await self._people_changed(users)

    async def collaboration_ended(self, collaboration: CollaborationId) -> None:
        """A collaboration session is over: close the sockets that came by its tickets, on every node."""
        if not await self._announced(Happened.COLLABORATION_ENDED, [collaboration]):
            self.on_collaboration_ended(collaboration)

    async def _announce(self, happened: Happened, ids: Sequence[UUID]) -> None:
        await self._announced(happened, ids)

    async def _announced(self, happened: Happened, ids: Sequence[UUID]) -> bool:
        """Tell all nodes, this one included; False if only this one can be told now."""
        if self._signals is None or not ids:
            return False
        try:
            await self._signals.publish(Signal(happened, tuple(ids)))
        except DatabaseUnavailable:
            # The others' connections are gone as well: they look at everything again when it is back.
            return False
        return True

    def hear(self, signal: Signal | None) -> None:
        """A node has told all what happened; None: some of it may have been missed."""
        if signal is None:
            self._spawn(self._access_changed([*self._open]))
            self._spawn(self._check_sign_ins())
        elif signal.happened is Happened.ACCESS_CHANGED:
            self._spawn(self._access_changed([DiagramId(key) for key in signal.ids]))
        elif signal.happened is Happened.DELETED:
            self._deleted([DiagramId(key) for key in signal.ids])
        elif signal.happened is Happened.PEOPLE_CHANGED:
            self._spawn(self._people_changed([UserId(key) for key in signal.ids]))
        elif signal.happened is Happened.COLLABORATION_ENDED:
            for key in signal.ids:
                self.on_collaboration_ended(CollaborationId(key))
        else:
            for key in signal.ids:
                self._sign_in_ended(SignInId(key))

    async def _access_changed(self, diagrams: Sequence[DiagramId]) -> None:
        """Read the roles again of everybody who is connected here.

        Demotes and promotes open sessions, and closes with 4403 those who may no longer read. While the
        database is away the rights last known hold, and this is tried again until it answers.
        """
        now = self._ticker.now()
        for diagram in diagrams:
            self._changed_at[diagram] = now
        for diagram in diagrams:
            await self._reread(diagram)

    async def _people_changed(self, users: Iterable[UserId]) -> None:
        """Read the roles again wherever these users are."""
        now, people = self._ticker.now(), set(users)
        self._people_changed_at.update(dict.fromkeys(people, now))
        for diagram, runner in list(self._open.items()):
            if any(member.user in people for member in runner.room.members.values()):
                await self._reread(diagram)

    async def _reread(self, diagram: DiagramId) -> None:
        while (runner := self._open.get(diagram)) is not None and not runner.room.is_empty:
            users = list({member.user for member in runner.room.members.values()})
            try:
                roles = await self._access.to_diagram_of_all(users, diagram)
            except NotFound:
                self._deleted([diagram])
                return
            except DatabaseUnavailable:
                await asyncio.sleep(self._limits.rights_retry_s)
                continue
            runner.change_roles(roles)
            if all(member.user in roles for member in runner.room.members.values()):
                return

    async def _check_sign_ins(self) -> None:
        """Close the sessions whose sign-in ended without a word."""
        for diagram, runner in list(self._open.items()):
            entrants = [
                Entrant(user, sign_in, diagram)
                for user, sign_in in {(m.user, m.sign_in) for m in runner.room.members.values()}
            ]
            for standing, entrant in zip(await self._standings(entrants), entrants, strict=True):
                if not standing.signed_in:
                    self._sign_in_ended(entrant.sign_in)

    async def _standings(self, entrants: Sequence[Entrant]) -> Sequence[Standing]:
        """As soon as the database answers."""
        while entrants:
            try:
                return await self._access.standings(entrants)
            except DatabaseUnavailable:
                await asyncio.sleep(self._limits.rights_retry_s)
        return ()

    def _sign_in_ended(self, sign_in: SignInId) -> None:
        for runner in list(self._open.values()):
            _end_sign_in(runner, sign_in)
        for replica in list(self._following.values()):
            _end_sign_in(replica, sign_in)

    def _deleted(self, diagrams: Sequence[DiagramId]) -> None:
        for diagram in diagrams:
            runner = self._open.pop(diagram, None) or self._ending.pop(diagram, None)
            if runner is not None:
                runner.end(runner.room.deleted)
                self._spawn(self._coordinator.release(diagram, runner.room.fence))
            replica = self._following.get(diagram)
            if replica is not None:
                replica.end(replica.room.deleted)

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

    async def _sweep(self) -> None:
        while True:
            await asyncio.sleep(self._limits.sweep_s)
            try:
                self.journal.keep_within_bound()
                self._close_idle()
                self._close_idle_replicas()
            except Exception:
                log.exception("the sweep of rooms failed; it goes on")

    def _evict(self, target_bytes: int) -> None:
        """Close rooms without anybody and without unsaved edits, least recently used first."""
        self._memory_seen = self.memory_bytes
        latest = self._ticker.now() - self._limits.evict_after_s
        idle = [
            runner
            for runner in self._open.values()
            if runner.room.is_empty and not runner.room.unsaved and runner.idle_since <= latest
        ]
        for runner in sorted(idle, key=lambda idle_runner: idle_runner.idle_since):
            if self._memory_seen <= target_bytes:
                return
            runner.room.close_if_idle()
            self._memory_seen -= memory_of(runner)
            self.evictions += 1

    def _close_idle(self) -> None:
        now = self._ticker.now()
        if now >= self._memory_due_at:
            self._memory_due_at = now + self._limits.memory_sweep_s
            self._memory_seen = self.memory_bytes
            if self._memory_seen > self._limits.memory_max_bytes:
                self._evict(self._limits.memory_max_bytes)
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
                self._spawn(self._coordinator.release(diagram, runner.room.fence))
        for diagram, changed_at in list(self._changed_at.items()):
            if now - changed_at > self._limits.recent_change_s:
                del self._changed_at[diagram]
        for user, changed_at in list(self._people_changed_at.items()):
            if now - changed_at > self._limits.recent_change_s:
                del self._people_changed_at[user]

    def _close_idle_replicas(self) -> None:
        idle_since = self._ticker.now() - self._limits.idle_s
        for diagram, replica in list(self._following.items()):
            if replica.room.is_empty and replica.idle_since < idle_since:
                replica.perform(replica.room.close_if_idle())
            if replica.room.is_over:
                replica.detach()
                del self._following[diagram]

    def _retire(self, diagram: DiagramId, runner: RoomRunner) -> None:
        del self._open[diagram]
        self._ending[diagram] = runner

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._background.add(task)
        task.add_done_callback(self._finished)

    def _finished(self, task: asyncio.Task[None]) -> None:
        self._background.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("a background task of the rooms failed", exc_info=error)

    # --- figures --------------------------------------------------------------------------------

    @property
    def runners(self) -> Iterator[RoomRunner]:
        """All rooms in memory."""
        return chain(self._open.values(), self._ending.values())

    @property
    def memory_bytes(self) -> int:
        """What the rooms take, by estimate."""
        return sum(memory_of(runner) for runner in self.runners if not runner.room.is_over)

    @property
    def snapshots_taken(self) -> int:
        """Snapshots written."""
        return self._snapshotter.taken

    @property
    def open_rooms(self) -> int:
        """Rooms in memory."""
        return len(self._open) + len(self._ending)

    @property
    def sessions(self) -> int:
        """Sessions in all rooms."""
        runners = chain[Runner[Any]](self._open.values(), self._following.values())
        return sum(runner.peers_here for runner in runners)


def _end_sign_in(runner: Runner[Any], sign_in: SignInId) -> None:
    for number, member in runner.room.members.items():
        if member.sign_in == sign_in:
            runner.end_session(number, closing.SIGN_IN_ENDED, "your sign-in session has ended")


def memory_of(runner: RoomRunner) -> int:
    """What a room takes, by estimate, in bytes."""
    room = runner.room
    return ROOM_BYTES + MEMORY_FACTOR * room.document.bytes_estimate + room.unsaved_bytes


def _weight(stored: StoredDocument) -> int:
    return sum(len(update) + UPDATE_WEIGHT for update in stored.tail)
