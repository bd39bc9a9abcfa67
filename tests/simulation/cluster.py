"""A small world of several nodes, all driven by one seed: owners, replicas, links, a fence log and leases.

The real parts are the rooms and replicas with their runners, both ends of the links, the mirrors, the
messages with their encoding, and the documents. What is asynchronous in the service is told here once more by
events on simulated time: opening a room (lease, fence, load), the keeper of a replica, the journal's commits.
A node can be killed, or paused and resumed with all that was meant for it; a link can be slow, blackholed or
cut, and its two ends hear of that at different times. Answers of the log get lost after their commit, and
before it. Guests come, make one edit and go for good before anybody can acknowledge it: the node that took it
answers for it, unless it is killed.
"""

import asyncio
import random
import re
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from functools import partial
from heapq import heappop, heappush
from itertools import count
from typing import Any

from crdt.document import Document
from crdt.messages import Awareness, SyncStep1, SyncStep2, Update
from crdt.updates import read_state_vector
from rooms import closing
from rooms.edits import RoomLimits
from rooms.nodes.ends import FollowersEnd, OwnersEnd
from rooms.nodes.following import ReplicaRunner
from rooms.nodes.messages import Answered, Channel, Hear, Message, Tell, decode, encode
from rooms.nodes.mirror import Answer, Mirror
from rooms.nodes.replica import Replica, ReplicaLimits
from rooms.peer import Member
from rooms.room import Room
from rooms.runner import RoomRunner
from rooms.session import Session
from rooms.ticker import Ticker
from tests.simulation.world import DIAGRAM, GARBAGE, Client, Log, content_of
from tmi.domain.ids import DiagramId, Fence, NodeId, Seq
from tmi.domain.ports import RoomBatch
from tmi.domain.roles import Role

Call = Callable[[], None]
LIMITS = RoomLimits(quiet_copies_per_s=20)
ALIVE_S, HEARTBEAT_S = 1.5, 0.4
SILENCE_S = 1.0
"""A link whose other end says nothing for so long is given up."""
ANSWER_S = 0.5
"""The log is asked again after so long without an answer."""
TOKEN = re.compile(rb"[efgr]\d+-[0-9.]+")


class Clock:
    """Events in the order of their time, and of their making where that is the same."""

    def __init__(self) -> None:
        self.now = 0.0
        self._events: list[tuple[float, int, Call]] = []
        self._order = count()

    def at(self, when: float, call: Call) -> None:
        heappush(self._events, (max(when, self.now), next(self._order), call))

    def run_until(self, end: float) -> None:
        steps = 0
        while self._events and self._events[0][0] <= end:
            steps += 1
            assert steps < 200_000, "the world does not come to rest"
            self.now, _, call = heappop(self._events)
            call()
        self.now = end


class FenceLog(Log):
    """Also takes a batch that it has already, as the real one does when its answer was lost."""

    def __init__(self) -> None:
        super().__init__()
        self.fences: list[Fence] = []
        self.claimed_at: dict[Fence, int] = {}
        self.is_away = False

    def claim(self) -> Fence:
        fence = super().claim()
        self.claimed_at[fence] = len(self.updates)
        return fence

    def append(self, batch: RoomBatch) -> bool:
        known = [update for update in batch.updates if update.seq <= len(self.updates)]
        if batch.fence == self.fence and known:
            assert all(self.updates[update.seq - 1] == update for update in known), "a number is given twice"
            batch = RoomBatch(batch.diagram, batch.fence, batch.updates[len(known) :])
        stands = super().append(batch)
        if stands:
            self.fences.extend([batch.fence] * len(batch.updates))
        return stands


@dataclass
class Leases:
    """What Redis would hold. It may be emptied, and be away."""

    holder: "tuple[Process, Fence | None] | None" = None
    alive_until: "dict[Process, float]" = field(default_factory=dict)
    is_away: bool = False

    def is_alive(self, process: "Process", now: float) -> bool:
        return self.alive_until.get(process, 0.0) > now


class SimulatedTicker(Ticker):
    """The rooms' timer, on simulated time."""

    def __init__(self, process: "Process") -> None:
        self._process = process
        self.now = lambda: process.cluster.clock.now

    def at(self, when: float, callback: Call) -> None:
        self._process.at(when - self.now(), callback)

    def afterwards(self, callback: Call) -> None:
        self._process.at(0.0, callback)  # whatever else happens at this moment comes between

    def paced(self, whose: Hashable, callback: Callable[[], int]) -> None:
        def take_turn() -> None:
            callback()

        if self._process.cluster.turn_s:
            self._process.at(self._process.cluster.turn_s, take_turn)
        else:
            take_turn()


class Noticed(asyncio.Event):
    """Tells when it is set."""

    def __init__(self, on_set: Call) -> None:
        super().__init__()
        self._on_set = on_set

    def set(self) -> None:
        was_set = self.is_set()
        super().set()
        if not was_set:
            self._on_set()


class Process:
    """One run of a node, from its start to its death."""

    def __init__(self, cluster: "Cluster", name: int) -> None:
        self.cluster = cluster
        self.name = name
        self.is_dead = False
        self.is_paused = False
        self.missed: list[Call] = []
        self.ticker = SimulatedTicker(self)
        self.room: RoomRunner | None = None
        self.ending: RoomRunner | None = None
        self.replica: ReplicaRunner | None = None
        self.opening: list[Callable[[Process | None], None]] | None = None
        self.loopback = Link(cluster, self, self)
        self.links: dict[Process, Link] = {}
        self.heartbeat()

    def at(self, delay: float, call: Call) -> None:
        """In this process: never once it is dead, and later while it is paused."""
        self.cluster.at(delay, lambda: self.do(call))

    def do(self, call: Call) -> None:
        if self.is_dead:
            return
        if self.is_paused:
            self.missed.append(call)
        else:
            call()

    def resume(self) -> None:
        self.is_paused = False
        missed, self.missed = self.missed, []
        for call in missed:
            self.do(call)

    # --- ownership ------------------------------------------------------------------------------

    def heartbeat(self) -> None:
        leases = self.cluster.leases
        if not leases.is_away:
            leases.alive_until[self] = self.cluster.clock.now + ALIVE_S
            room = self.room
            if leases.holder is None and room is not None and room.room.is_open:
                leases.holder = self, room.room.fence
        self.at(HEARTBEAT_S, self.heartbeat)

    def own(self, disowned: "Process | None", then: "Callable[[Process | None], None]") -> None:
        """Open the room here; `then` is told who owns it, or None if that can't be said now."""
        self._retire()
        if self.room is not None:
            then(self)
        elif self.opening is not None:
            self.opening.append(then)
        else:
            self.opening = [then]
            self.at(self.cluster.delay(), lambda: self._claim(disowned))

    def _claim(self, disowned: "Process | None") -> None:
        leases, now = self.cluster.leases, self.cluster.clock.now
        if leases.is_away or (self.ending is not None and not self.ending.room.is_over):
            self._opened(None)
            return
        holder = leases.holder[0] if leases.holder is not None else None
        if holder is not None and holder not in (self, disowned) and leases.is_alive(holder, now):
            self._opened(holder)
            return
        leases.holder = self, None
        self.at(self.cluster.delay(), self._raise_fence)

    def _raise_fence(self) -> None:
        log = self.cluster.log
        if log.is_away:
            self._opened(None)
            return
        fence = log.claim()
        if self.cluster.leases.holder == (self, None):
            self.cluster.leases.holder = self, fence
        self.at(self.cluster.delay(), lambda: self._load(fence))

    def _load(self, fence: Fence) -> None:
        log = self.cluster.log
        if log.is_away:
            self._opened(None)
            return
        document = log.load()
        self.cluster.check_acknowledged(document, fence)
        room = Room(DIAGRAM, fence, document, Seq(len(log.updates)), LIMITS)
        self.room = RoomRunner(room, self.ticker, self._commit)
        self.room.on_fence_lost = self._fence_lost
        self.cluster.runners.append(self.room)
        self._opened(self)

    def _opened(self, owner: "Process | None") -> None:
        waiting, self.opening = self.opening or [], None
        for then in waiting:
            then(owner)

    def _retire(self) -> None:
        if self.room is not None and not self.room.room.is_open:
            self.room, self.ending = None, self.room
        if self.ending is not None and self.ending.room.is_over:
            fence, self.ending = self.ending.room.fence, None
            if self.cluster.leases.holder == (self, fence) and not self.cluster.leases.is_away:
                self.cluster.leases.holder = None

    def hand_over(self) -> None:
        """What draining does to a room that is owned here: see `rooms/handing_over.py`."""
        runner = self.room
        if runner is None or not runner.room.is_open:
            return
        if self.cluster.happens(0.3):
            runner.end(runner.room.drain)
            self._retire()
            return
        let_go = self._stand_down(runner)
        runner.room.hand_over()
        self.ending = runner

        def look() -> None:
            if runner.room.is_over:
                self._retire()
                let_go()
            else:
                self.at(0.002, look)

        look()

    def _fence_lost(self, runner: RoomRunner) -> None:
        let_go = self._stand_down(runner)
        runner.end(runner.room.fence_lost)
        let_go()

    def _stand_down(self, runner: RoomRunner) -> Call:
        """Returns what lets the clients look for an owner: see `rooms/handing_over.py`."""
        self.room = None
        replica = self.replica
        is_kept = replica is not None and not replica.room.is_over
        if not is_kept:
            is_wanted = bool(runner.clients) or bool(runner.room.unsaved)
            left = Replica(DIAGRAM, ReplicaLimits(), runner.room.document)
            replica = ReplicaRunner(left, self.ticker) if is_wanted else None
        followers = runner.stand_down(replica)
        if replica is not None:
            self.cluster.inherited(replica)

        def let_go() -> None:
            for follower in followers:
                follower.let_go(None, is_disowned=True)
            if replica is not None and not is_kept:
                self._look_after(replica, None)

        return let_go

    def sweep(self) -> None:
        """Close what nobody uses."""
        if self.replica is not None and self.replica.room.is_empty:
            self.replica.perform(self.replica.room.close_if_idle())
        if self.room is not None and self.room.room.is_open:
            self.room.room.close_if_idle()
        self._retire()

    # --- commits --------------------------------------------------------------------------------

    def _commit(self, runner: RoomRunner) -> None:
        batch = runner.room.take_batch()
        if batch is not None:
            self._append(runner, batch)

    def _append(self, runner: RoomRunner, batch: RoomBatch) -> None:
        self.cluster.at(self.cluster.delay(), lambda: self._reach_log(runner, batch))

    def _reach_log(self, runner: RoomRunner, batch: RoomBatch) -> None:
        cluster = self.cluster
        if cluster.log.is_away or cluster.happens(0.03):
            self.at(ANSWER_S, lambda: self._append(runner, batch))
            return
        stands = cluster.log.append(batch)
        if cluster.happens(0.03):
            self.at(ANSWER_S, lambda: self._append(runner, batch))
            return
        self.at(cluster.delay(), lambda: self._hear_from_log(runner, stands))

    def _hear_from_log(self, runner: RoomRunner, stands: bool) -> None:
        if runner.room.is_over:
            return
        if stands:
            runner.committed()
        else:
            self.cluster.stale_refused += 1
            runner.fence_lost()
        self._retire()

    # --- following ------------------------------------------------------------------------------

    def mirror(
        self, diagram: DiagramId, state_vector: bytes, answer: Answer, node: NodeId | None
    ) -> Mirror | None:
        self._retire()
        if diagram != DIAGRAM or self.room is None:
            return None
        return Mirror(self.room, state_vector, answer, lambda _: self.reread_soon(), lambda: False, node)

    def is_between(self, diagram: DiagramId) -> bool:
        return diagram == DIAGRAM and not (self.opening is None and self.ending is None and self.room is None)

    def follow(self, owner: "Process") -> None:
        self._look_after(ReplicaRunner(Replica(DIAGRAM, ReplicaLimits()), self.ticker), owner)

    def _look_after(self, runner: ReplicaRunner, owner: "Process | None") -> None:
        self.replica = runner
        looked_at: list[Process | None] = [owner]

        def lost() -> None:
            disowned = looked_at[0] if runner.is_disowned else None
            self.at(0.0, lambda: self._keep(runner, None, disowned, looked_at))

        runner.lost = Noticed(lost)
        asyncio.Event.set(runner.lost)
        self._keep(runner, owner, None, looked_at)

    def _keep(
        self, runner: ReplicaRunner, owner: "Process | None", disowned: "Process | None",
        looked_at: "list[Process | None]",
    ) -> None:  # fmt: skip
        """See `rooms/nodes/keeper.py`."""
        if runner.room.is_over or not runner.lost.is_set():
            return

        def again(owner: "Process | None") -> None:
            pause = self.cluster.rng.uniform(0.03, 0.1)
            self.at(pause, lambda: self._keep(runner, owner, None, looked_at))

        def owned_by(found: "Process | None") -> None:
            if found is self:
                looked_at[0] = None
                self.loopback.follower.open(runner)
            else:
                again(found)

        if owner is None:
            self.own(disowned, owned_by)
        else:
            looked_at[0] = owner
            self._dial(owner, lambda link: link.follower.open(runner) if link else again(None))

    def _dial(self, owner: "Process", then: "Callable[[Link | None], None]") -> None:
        def arrived() -> None:
            link = self.links.get(owner)
            if link is None and (owner.is_dead or owner.is_paused or self.cluster.is_cut(self, owner)):
                self.at(0.2, lambda: then(None))
                return
            if link is None:
                link = self.links[owner] = Link(self.cluster, self, owner)
                self.cluster.links.append(link)
            then(link)

        self.at(self.cluster.delay(), arrived)

    # --- clients --------------------------------------------------------------------------------

    def audience(self) -> RoomRunner | ReplicaRunner | None:
        """Where a client may join now; if there is nothing yet, that is begun."""
        self._retire()
        if self.room is not None:
            return self.room
        replica = self.replica
        if replica is not None and replica.room.is_open:
            return replica if replica.synced.is_set() else None
        self.own(None, self._found)
        return None

    def _found(self, owner: "Process | None") -> None:
        if owner is None or owner is self:
            return
        if self.replica is None or not self.replica.room.is_open:
            self.follow(owner)

    def reread_soon(self) -> None:
        self.at(self.cluster.delay(), self.reread)

    def reread(self) -> None:
        """Give everybody the role that the database says now."""
        if self.room is not None and self.room.room.is_open:
            self.room.change_roles({c.member.user: role for c, role in self.cluster.roles.items()})


class Link:
    """One way of following between two processes, and its two ends."""

    def __init__(self, cluster: "Cluster", follower: Process, owner: Process) -> None:
        self.cluster = cluster
        self.ends = follower, owner
        self.is_broken = False
        self.is_black = False
        self.fences: dict[Channel, Fence] = {}
        self._wires = [0.0, 0.0]
        self._stuck: list[Call] = []
        self.follower = FollowersEnd(lambda channel, message: self._send(1, channel, message))
        self.owner = OwnersEnd(owner, lambda channel, message: self._send(0, channel, message))

    @property
    def is_loop(self) -> bool:
        return self.ends[0] is self.ends[1]

    def _send(self, to: int, channel: Channel, message: Message) -> None:
        frame = encode(channel, message)
        fence = self.ends[1].room.room.fence if self.ends[1].room is not None else None
        if self.is_broken:
            return
        latency = 0.0 if self.is_loop else self.cluster.delay()
        self._wires[to] = max(self._wires[to], self.cluster.clock.now + latency)
        self.cluster.clock.at(self._wires[to], lambda: self._arrive(to, frame, fence))

    def _arrive(self, to: int, frame: bytes, fence: Fence | None) -> None:
        if self.is_broken:
            return
        if self.is_black:
            self._stuck.append(lambda: self._arrive(to, frame, fence))
            return
        self.ends[to].do(lambda: self._receive(to, frame, fence))

    def _receive(self, to: int, frame: bytes, fence: Fence | None) -> None:
        for channel, message in decode(frame):
            if to == 1:
                self.owner.receive(channel, message)
                continue
            runner = self.follower.following.get(channel)
            if runner is not None and isinstance(message, Hear | Tell) and fence is not None:
                self.cluster.saw(runner, fence, message)
            self.follower.receive(channel, message)

    def blacken(self, is_black: bool) -> None:
        self.is_black = is_black
        if not is_black:
            stuck, self._stuck = self._stuck, []
            for call in stuck:
                call()

    def cut(self) -> None:
        """Nothing arrives any more; each end hears of it in its own time."""
        if self.is_broken:
            return
        self.is_broken = True
        self.cluster.links.remove(self)
        follower, owner = self.ends

        def forget() -> None:
            if follower.links.get(owner) is self:
                del follower.links[owner]
            self.follower.close()

        follower.at(self.cluster.delay(), forget)
        owner.at(self.cluster.delay(), self.owner.close)


class Connection:
    """A client's socket at a process: the peer of its session."""

    def __init__(self, cluster: "Cluster", client: Client, process: Process, number: int) -> None:
        self.cluster, self.client, self.process, self.number = cluster, client, process, number
        self.session: Session
        self.is_at_replica = False
        self.is_gone = False
        self.is_paused = False
        self.has_sent_garbage = False
        self._wires = [0.0, 0.0]

    framing = "y-websocket"
    wants_acknowledgements = True

    def frame(self, body: bytes) -> bytes:
        return body

    def deliver(self, up: int, call: Call) -> None:
        self._wires[up] = max(self._wires[up], self.cluster.clock.now + self.cluster.delay())
        if up:
            self.cluster.clock.at(self._wires[up], lambda: self.process.do(call))
        else:
            self.cluster.clock.at(self._wires[up], call)

    def _down(self, call: Callable[[Client], None]) -> None:
        self.deliver(0, lambda: call(self.client) if self.client.connection == self.number else None)

    def write_state(self, *wires: bytes) -> None:
        for wire in wires:
            self.write(wire)

    def write(self, wire: bytes) -> None:
        self._down(lambda client: client.receive(wire))

    def acknowledge(self, syncs: int, updates: int) -> None:
        self._down(lambda client: client.acknowledged(syncs + updates))

    def refuse(self, reason: str) -> None:
        assert self.client.member.role is not Role.WRITER, "a writer's edit was refused"

    def role_changed(self, role: Role) -> None:
        """Its edits will be refused, or not any more."""

    def answered(self, size: int) -> None: ...

    def hold_back(self) -> None: ...

    def go_on(self) -> None: ...

    def close(self, code: int, reason: str) -> None:
        if code == closing.BAD_FRAME:
            assert self.has_sent_garbage, f"a client was closed for a frame that was none of its: {reason}"
        else:
            assert not self.is_at_replica, f"a client of a surviving node was closed: {code} {reason}"
            assert code == closing.SERVICE_RESTART, f"closed {code} {reason}"
        self.is_gone = True
        self._down(lambda _: self.cluster.lost(self))


class Cluster:
    """One seeded run. `run()` raises AssertionError as soon as a promise is broken."""

    def __init__(
        self, seed: int, *, nodes: int = 3, edits: int = 24, guests: int = 0, turn_s: float = 0.0
    ) -> None:
        """`turn_s`: how far apart in time what is costly has its turns (`Ticker.paced`)."""
        self.rng = random.Random(seed)
        self.turn_s = turn_s
        self.guests_rng = random.Random(f"guests {seed}")
        """Without guests, a seed means what it did before there were any."""
        self.clock = Clock()
        self.log = FenceLog()
        self.leases = Leases()
        self.links: list[Link] = []
        self.runners: list[RoomRunner] = []
        self.acknowledged: set[str] = set()
        self.writers = [Client(self, n, Role.WRITER) for n in range(3)]
        self.reader = Client(self, 3, Role.READER)
        self.wavering = Client(self, 4, Role.READER)
        self.clients = [*self.writers, self.reader, self.wavering]
        self.roles = {client: client.member.role for client in self.clients}
        self.mishaps = self.stale_refused = self.replicas_heard = self.takeovers = 0
        self.entrusted: list[tuple[str, Process]] = []
        """The edits of guests, and the processes that took them."""
        self._guests = guests
        self._connections: dict[int, Connection] = {}
        self._numbers = count(1)
        self._edits_left = edits
        self._is_calm = False
        self._cuts: set[frozenset[int]] = set()
        self._seen: dict[ReplicaRunner, list[tuple[Fence, list[str]]]] = {}
        self.processes = [Process(self, name) for name in range(nodes)]

    # --- chance and time ------------------------------------------------------------------------

    def at(self, delay: float, call: Call) -> None:
        self.clock.at(self.clock.now + delay, call)

    def delay(self) -> float:
        return self.rng.choice((0.0005, 0.002, 0.02, 0.2)) * (0.5 + self.rng.random())

    def happens(self, chance: float) -> bool:
        return not self._is_calm and self.rng.random() < chance

    def is_cut(self, a: Process, b: Process) -> bool:
        return frozenset((a.name, b.name)) in self._cuts

    def run(self) -> None:
        for client in self.clients:
            self._connect_later(client)
        self.at(0.05, self._something)
        for number in range(self._guests):
            self.at(self.guests_rng.uniform(0.3, 3.0), partial(self._guest_comes, number))
        while not self._is_calm:
            self.clock.run_until(self.clock.now + 1.0)
        self.clock.run_until(self.clock.now + 8.0)
        for client in self.writers:
            client.edit(f"f{client.name}-{client.name}", self.rng)
        self.clock.run_until(self.clock.now + 4.0)
        for process in self.processes:
            # Usurped, with readers at most: it would find out with its next commit.
            if process.room is not None and process.room.room.fence != self.log.fence:
                process.room.fence_lost()
        self.clock.run_until(self.clock.now + 8.0)
        self._check_rest()
        self._check_order()

    # --- clients --------------------------------------------------------------------------------

    def to_server(self, client: Client, connection: int, message: Any) -> None:
        entry = self._connections.get(connection)
        if entry is not None and not entry.is_gone:
            entry.deliver(1, lambda: self._server_receives(entry, message))

    def _server_receives(self, connection: Connection, message: Any) -> None:
        if connection.is_gone:
            return
        if isinstance(message, Update):
            connection.session.receive_update(message.update)
        else:
            connection.session.receive(message)

    def _connect_later(self, client: Client) -> None:
        self.at(self.delay(), lambda: self._connect(client))

    def _connect(self, client: Client) -> None:
        if client.connection is not None:
            return
        process = self.rng.choice(self.processes)
        runner = None if process.is_dead or process.is_paused else process.audience()
        if runner is None:
            self.at(0.05 + self.delay(), lambda: self._connect(client))
            return
        self._join(client, process, runner)

    def _join(self, client: Client, process: Process, runner: RoomRunner | ReplicaRunner) -> Connection:
        connection = Connection(self, client, process, next(self._numbers))
        connection.is_at_replica = isinstance(runner, ReplicaRunner)
        self._connections[connection.number] = connection
        member = Member(client.member.user, client.member.sign_in, self.roles[client])
        connection.session = runner.join(member, connection)
        process.reread_soon()
        client.connected(connection.number)
        return connection

    def _guest_comes(self, number: int) -> None:
        if self._is_calm:
            return
        rng = self.guests_rng
        process = rng.choice(self.processes)
        runner = None if process.is_dead or process.is_paused else process.audience()
        if runner is None:
            self.at(0.1, lambda: self._guest_comes(number))
            return
        guest = Client(self, 10 + number, Role.WRITER)
        self.roles[guest] = Role.WRITER
        connection = self._join(guest, process, runner)
        self.at(rng.uniform(0.0, 0.3), lambda: self._guest_goes(guest, connection))

    def _guest_goes(self, guest: Client, connection: Connection) -> None:
        """One edit, and the end of the connection right behind it."""
        if self._connections.get(connection.number) is not connection:
            return
        token = f"g{guest.name}-{guest.name}"
        guest.edit(token, self.guests_rng)

        def leave() -> None:
            if not connection.is_gone:
                connection.is_gone = True
                connection.session.leave()
                self.entrusted.append((token, connection.process))

        connection.deliver(1, leave)
        guest.disconnected()

    def lost(self, connection: Connection) -> None:
        """The client hears that its connection is gone."""
        self._connections.pop(connection.number, None)
        if connection.client.connection == connection.number:
            connection.client.disconnected()
            if connection.client in self.clients:
                self._connect_later(connection.client)

    def _drop(self, client: Client) -> None:
        connection = self._connections.get(client.connection or 0)
        if connection is not None:
            self.lost(connection)

            def leave() -> None:
                if not connection.is_gone:
                    connection.is_gone = True
                    connection.session.leave()

            connection.deliver(1, leave)

    # --- what happens ---------------------------------------------------------------------------

    def _something(self) -> None:
        rng = self.rng
        if self._edits_left == 0:
            self._calm_down()
            return
        chance = rng.random()
        if chance < 0.6:
            self._edits_left -= 1
            writer = rng.choice([*self.writers, self.wavering])
            writer.edit(f"e{self._edits_left}-{writer.name}", rng)
        elif chance < 0.63:
            self.reader.edit(f"r{self._edits_left}-{rng.random()}", rng)
        else:
            self.mishaps += 1
            rng.choice((
                self._kill, self._pause, self._cut, self._blacken, self._usurp, self._hand_over, self._waver,
                self._drop_one, self._slow_reader, self._misbehave, self._empty_redis, self._away,
                self._sweep, self._slow_link,
            ))()  # fmt: skip
        self.at(rng.choice((0.0, 0.003, 0.05, 0.6)) * rng.random(), self._something)

    def _alive(self) -> list[Process]:
        return [process for process in self.processes if not process.is_dead and not process.is_paused]

    def _victim(self) -> Process | None:
        owners = [process for process in self._alive() if process.room is not None]
        return self.rng.choice(owners if owners and self.rng.random() < 0.7 else self._alive() or [None])

    def _kill(self) -> None:
        process = self._victim()
        if process is None:
            return
        process.is_dead = True
        self.takeovers += process.room is not None
        for connection in list(self._connections.values()):
            if connection.process is process:
                connection.is_gone = True
                connection.deliver(0, partial(self.lost, connection))
        self._cut_off(process)
        self.at(self.rng.choice((0.1, 1.0, 4.0)), lambda: self._restart(process))

    def _cut_off(self, process: Process) -> None:
        for link in list(self.links):
            if process in link.ends:
                link.cut()

    def _restart(self, process: Process) -> None:
        if self.processes[process.name] is process:
            self.processes[process.name] = Process(self, process.name)

    def _pause(self) -> None:
        process = self._victim()
        if process is None:
            return
        process.is_paused = True
        pause = self.rng.choice((0.1, 0.5, 2.5, 4.0))
        if pause > SILENCE_S:
            self.at(SILENCE_S, lambda: self._cut_off(process))
        self.at(pause, process.resume)

    def _cut(self) -> None:
        pair = frozenset(self.rng.sample(range(len(self.processes)), 2))
        self._cuts.add(pair)
        for link in list(self.links):
            if {end.name for end in link.ends} == pair:
                link.cut()
        self.at(self.rng.choice((0.05, 0.5, 2.0)), lambda: self._cuts.discard(pair))

    def _blacken(self) -> None:
        if self.links:
            link = self.rng.choice(self.links)
            link.blacken(True)
            if self.rng.random() < 0.5:
                self.at(self.rng.random() * SILENCE_S, lambda: link.blacken(False))
            else:
                self.at(SILENCE_S, link.cut)

    def _usurp(self) -> None:
        if self.rng.random() < 0.5:
            self.log.claim()
        elif alive := self._alive():
            # A node that was sure, wrongly, that the lease was free.
            usurper = self.rng.choice(alive)
            if usurper.room is None and not self.leases.is_away:
                self.leases.holder = None
                usurper.own(None, lambda _: None)

    def _hand_over(self) -> None:
        process = self._victim()
        if process is not None:
            process.hand_over()

    def _waver(self) -> None:
        was = self.roles[self.wavering]
        self._set_role(Role.READER if was is Role.WRITER else Role.WRITER)

    def _set_role(self, role: Role) -> None:
        self.roles[self.wavering] = role
        for process in self.processes:
            process.reread_soon()

    def _drop_one(self) -> None:
        self._drop(self.rng.choice(self.clients))

    def _slow_reader(self) -> None:
        connection = self._connections.get(self.rng.choice(self.clients).connection or 0)
        if connection is not None and not connection.is_gone:
            connection.is_paused = not connection.is_paused
            act = connection.session.pause if connection.is_paused else connection.session.resume
            connection.process.do(act)

    def _slow_link(self) -> None:
        if self.links:
            link = self.rng.choice(self.links)
            link.ends[1].do(link.owner.pause)
            link.ends[1].at(self.rng.random(), link.owner.resume)

    def _misbehave(self) -> None:
        client = self.rng.choice(self.clients)
        connection = self._connections.get(client.connection or 0)
        if connection is not None:
            connection.has_sent_garbage = True
            kind = self.rng.choice((Update, SyncStep2, SyncStep1, Awareness))
            client.send(kind(self.rng.choice(GARBAGE)), [] if kind in (Update, SyncStep2) else None)

    def _empty_redis(self) -> None:
        self.leases.holder = None
        self.leases.alive_until.clear()

    def _away(self) -> None:
        what = self.rng.choice((self.leases, self.log))
        what.is_away = True

        def back() -> None:
            what.is_away = False

        self.at(self.rng.choice((0.1, 1.0, 3.0)), back)

    def _sweep(self) -> None:
        for process in self._alive():
            process.sweep()

    def _calm_down(self) -> None:
        """No more mishaps: everything comes back, and what was made must arrive everywhere."""
        self._is_calm = True
        self._cuts.clear()
        self.leases.is_away = self.log.is_away = False
        for process in list(self.processes):
            if process.is_dead:
                self._restart(process)
            elif process.is_paused:
                process.resume()
        for link in list(self.links):
            if link.is_black:
                link.cut()
        for connection in self._connections.values():
            if connection.is_paused and not connection.is_gone:
                connection.is_paused = False
                connection.session.resume()
        self._set_role(Role.WRITER)

    # --- what must hold -------------------------------------------------------------------------

    def saw(self, runner: ReplicaRunner, fence: Fence, message: Answered) -> None:
        """A replica is about to hear something from the owner with this fence."""
        assert isinstance(message, Hear | Tell)
        self.replicas_heard += 1
        tokens = [token.decode() for token in TOKEN.findall(message.body)]
        if tokens:
            self._seen.setdefault(runner, []).append((fence, tokens))

    def inherited(self, runner: ReplicaRunner) -> None:
        """A replica has what a room had that stood down, committed or not."""
        tokens = [token.decode() for token in TOKEN.findall(runner.room.document.encode())]
        self._seen.setdefault(runner, []).append((Fence(-1), tokens))

    def check_acknowledged(self, document: Document, fence: Fence) -> None:
        """Edits that wait for a predecessor are in the bytes and not in the content."""
        state = document.encode()
        lost = [token for token in self.acknowledged if token.encode() not in state]
        assert not lost, f"acknowledged edits are lost at claim {fence}: {sorted(lost)}"

    def _check_order(self) -> None:
        # What arrived before its predecessor is numbered then, and seen when that has come.
        number: dict[str, tuple[Fence, int]] = {}
        replayed = Document()
        for n, (fence, update) in enumerate(zip(self.log.fences, self.log.updates, strict=True)):
            for token in TOKEN.findall(replayed.apply(update.data).relay):
                number.setdefault(token.decode(), (fence, n))
        for seen in self._seen.values():
            known: set[str] = set()
            last = (Fence(0), -1)
            for fence, tokens in seen:
                numbered = [number[token] for token in tokens if token not in known and token in number]
                fresh = [one for one in numbered if one[0] == fence]
                known.update(tokens)
                if fresh and last[0] == fence:
                    assert last <= min(fresh), "a replica saw committed updates in another order"
                if fresh:
                    last = max(last, *fresh) if last[0] == fence else max(fresh)

    def _check_rest(self) -> None:
        stored = self.log.load()
        expected, clocks = content_of(stored.encode()), _clocks(stored.state_vector())
        promised = {token for client in self.writers for token in client.made}
        made = promised | set(self.wavering.made)
        tokens = set(expected["tokens"])
        stayed = {token for token in tokens if not token.startswith("g")}
        assert made == stayed, f"lacking {made ^ stayed} in the log"
        kept = {token for token, process in self.entrusted if not process.is_dead}
        assert kept <= tokens, f"lacking {kept - tokens}, of those who left, in the log"
        assert promised == self.acknowledged & promised, "an edit that is committed was not acknowledged"
        owners = [process.room for process in self.processes
                  if process.room is not None and process.room.room.fence == self.log.fence]  # fmt: skip
        assert 1 == len(owners), f"{len(owners)} rooms have the newest fence"
        assert not owners[0].room.unsaved
        assert clocks == _clocks(owners[0].room.document.state_vector()), "the owner differs"
        assert expected == content_of(owners[0].room.document.encode()), "the owner differs"
        for process in self.processes:
            if process.replica is not None and process.replica.room.is_open:
                replica = process.replica.room
                assert replica.is_attached, f"the replica of node {process.name} has no owner"
                assert clocks == _clocks(replica.document.state_vector()), "a replica differs"
                assert expected == content_of(replica.document.encode()), "a replica differs"
                assert not replica.unsaved, f"a replica waits for {replica.unsaved} acknowledgements"
                assert not process.replica.faults
        for client in [*self.writers, self.wavering]:
            assert expected == content_of(client.doc.get_update()), f"client {client.name} differs"
            assert clocks == _clocks(client.doc.get_state()), f"client {client.name} differs"
        seen = content_of(self.reader.doc.get_update())["tokens"]
        assert made <= set(seen), "the reader lacks edits"
        assert not any(runner.faults for runner in self.runners), "a message could not be handled"


def _clocks(state_vector: bytes) -> dict[int, int]:
    """By client: yrs writes them in any order."""
    return dict(read_state_vector(state_vector))
