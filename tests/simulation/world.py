"""A small world around the room core: clients, a network, a log and a clock, all driven by one seed.

Nothing here waits or does I/O. Every step pops the earliest event; events are deliveries, commits, edits and
mishaps (dropped connections, crashed servers, usurped rooms, slow readers, malformed frames). The clients are
Yjs-compatible documents that follow the sync protocol; the log is a list that keeps what was committed, and
nothing else.
"""

import random
from dataclasses import dataclass, field
from functools import partial
from heapq import heappop, heappush
from itertools import count
from typing import Any, Protocol
from uuid import UUID

from pycrdt import Doc, Map

from crdt import y_websocket
from crdt.document import Document
from crdt.merging import EMPTY_UPDATE
from crdt.messages import Awareness, SyncStep1, SyncStep2, Update
from rooms.edits import RoomLimits
from rooms.effects import (
    Acknowledge,
    Broadcast,
    Close,
    Effect,
    Effects,
    FlushAt,
    Journal,
    Refuse,
    Send,
    SendState,
    SessionNumber,
    Subscribe,
    Unsubscribe,
)
from rooms.lifecycle import Phase
from rooms.peer import Member
from rooms.room import Room
from tmi.domain.errors import BadFrame
from tmi.domain.ids import DiagramId, Fence, Seq, SignInId, UserId
from tmi.domain.ports import LoggedUpdate, RoomBatch
from tmi.domain.roles import Role

DIAGRAM = DiagramId(UUID(int=1))
GARBAGE = (b"\x01\x02\x03", b"\xff" * 12, b"\x00\x01", b"\x01\xff\xff\xff\xff\x0f\x00")


@dataclass
class Log:
    """What Postgres would hold: the fence, and the committed updates of the one diagram."""

    fence: Fence = field(default_factory=lambda: Fence(0))
    updates: list[LoggedUpdate] = field(default_factory=list)

    def claim(self) -> Fence:
        self.fence = Fence(self.fence + 1)
        return self.fence

    def append(self, batch: RoomBatch) -> bool:
        if batch.fence != self.fence:
            return False
        for update in batch.updates:
            assert update.seq == len(self.updates) + 1, "the log has a gap or a duplicate"
            self.updates.append(update)
        return True

    def load(self) -> Document:
        return Document.load(None, [update.data for update in self.updates])


class Network(Protocol):
    """What a client asks of the world it lives in."""

    acknowledged: set[str]

    def to_server(self, client: "Client", connection: int, message: Any) -> None:
        """Deliver a message, after those before it."""


class Client:
    """A Yjs-compatible client that follows y-protocols, and knows which of its edits were acknowledged."""

    def __init__(self, world: Network, name: int, role: Role) -> None:
        self.world = world
        self.name = name
        self.member = Member(UserId(UUID(int=100 + name)), SignInId(UUID(int=200 + name)), role)
        self.doc: Doc[Any] = Doc(client_id=1000 + name)
        self.cells = self.doc.get("cells", type=Map)
        self.tokens = self.doc.get("tokens", type=Map)
        self.connection: int | None = None
        self.reading = True
        self.made: list[str] = []
        """Tokens of all edits, oldest first."""
        self.unacknowledged: list[str] = []
        """What this connection's messages carried, one entry a message, not acknowledged yet."""
        self.carried: list[list[str]] = []
        self._captured: list[bytes] = []
        self._subscription = self.doc.observe(lambda event: self._captured.append(event.update))
        self.applying = False

    def edit(self, token: str, rng: random.Random) -> None:
        self._captured.clear()
        with self.doc.transaction():
            self.tokens[token] = True
            key = f"c{rng.randrange(12)}"
            if rng.random() < 0.3 and key in self.cells:
                del self.cells[key]
            else:
                self.cells[key] = {"x": rng.randrange(100)}
        self.made.append(token)
        if self.connection is not None:
            for update in self._captured:
                self.send(Update(update), [token])

    def send(self, message: Any, carries: list[str] | None = None) -> None:
        if carries is not None:
            self.carried.append(carries)
        assert self.connection is not None
        self.world.to_server(self, self.connection, message)

    def connected(self, connection: int) -> None:
        self.connection = connection
        self.reading = True
        self.carried = []
        self.send(SyncStep1(self.doc.get_state()))

    def disconnected(self) -> None:
        self.connection = None
        self.carried = []

    def receive(self, body: bytes) -> None:
        for message in y_websocket.decode(body):
            if isinstance(message, SyncStep1):
                self.send(SyncStep2(self.doc.get_update(message.state_vector)), list(self.made))
            elif isinstance(message, SyncStep2 | Update):
                self.doc.apply_update(message.update)

    def acknowledged(self, messages: int) -> None:
        for tokens in self.carried[:messages] if self.member.role is Role.WRITER else ():
            self.world.acknowledged.update(tokens)
        del self.carried[:messages]


class World:
    """One seeded run. `run()` raises AssertionError as soon as a promise is broken."""

    def __init__(self, seed: int, *, writers: int = 3, readers: int = 1, edits: int = 25) -> None:
        self.rng = random.Random(seed)
        self.now = 0.0
        self.log = Log()
        self.acknowledged: set[str] = set()
        self.clients = [Client(self, n, Role.WRITER) for n in range(writers)]
        self.readers = [Client(self, writers + n, Role.READER) for n in range(readers)]
        self._events: list[tuple[float, int, Any]] = []
        self._order = count()
        self._connections = count(1)
        self._edits_left = edits
        self._calm = False
        self.room: Room
        self._generation = 0
        self._sessions: dict[int, tuple[Client, int]] = {}
        self._numbers: dict[int, int] = {}
        self._wires: dict[tuple[int, bool], float] = {}
        self._subscribed: set[int] = set()
        self._paused: set[int] = set()
        self.mishaps = 0
        self._open_room()

    # --- the clock ------------------------------------------------------------------------------

    def at(self, delay: float, call: Any) -> None:
        heappush(self._events, (self.now + delay, next(self._order), call))

    def delay(self) -> float:
        return self.rng.choice((0.0005, 0.002, 0.02, 0.2)) * (0.5 + self.rng.random())

    def run(self) -> None:
        for client in [*self.clients, *self.readers]:
            self._reconnect_later(client)
        self.at(0.01, self._something)
        steps = 0
        while self._events:
            steps += 1
            assert steps < 200_000, "the world does not come to rest"
            self.now, _, call = heappop(self._events)
            call()
        self._check_rest()

    # --- the network: ordered, per connection and direction ------------------------------------

    def _deliver(self, connection: int, up: bool, call: Any) -> None:
        earliest = self._wires.get((connection, up), 0.0)
        when = max(earliest, self.now + self.delay())
        self._wires[connection, up] = when
        heappush(self._events, (when, next(self._order), call))

    def to_server(self, client: Client, connection: int, message: Any) -> None:
        self._deliver(connection, True, lambda: self._server_receives(connection, message))

    def to_client(self, number: SessionNumber, call: Any) -> None:
        connection = self._numbers.get(number)
        if connection is None:
            return  # the connection is gone, and the room does not know it yet
        client, _ = self._sessions[connection]
        self._deliver(connection, False, lambda: client.connection == connection and call(client))

    # --- the server -----------------------------------------------------------------------------

    def _open_room(self) -> None:
        fence = self.log.claim()
        document = self.log.load()
        self._generation += 1
        self.room = Room(
            DIAGRAM, fence, document, Seq(len(self.log.updates)), RoomLimits(quiet_copies_per_s=20)
        )
        self._sessions.clear()
        self._numbers.clear()
        self._subscribed.clear()
        self._paused.clear()
        self._check_acknowledged(document)

    def _check_acknowledged(self, document: Document) -> None:
        # An edit whose predecessor has not come yet is in the log and waits, unseen: look into the bytes.
        state = document.encode()
        lost = [token for token in self.acknowledged if token.encode() not in state]
        assert not lost, f"acknowledged edits are lost: {sorted(lost)}"

    def _connect(self, client: Client) -> None:
        if client.connection is not None or self.room.phase is not Phase.OPEN:
            return
        connection = next(self._connections)
        number = self.room.join(client.member)
        self._sessions[connection] = (client, number)
        self._numbers[number] = connection
        client.connected(connection)

    def _reconnect_later(self, client: Client) -> None:
        self.at(self.delay(), lambda: self._connect(client))

    def _drop(self, client: Client) -> None:
        connection = client.connection
        if connection is None:
            return
        client.disconnected()
        entry = self._sessions.pop(connection, None)
        if entry is not None:
            number = entry[1]
            del self._numbers[number]
            self.at(self.delay(), lambda room=self.room: self._leave(room, number))
        self._reconnect_later(client)

    def _leave(self, room: Room, number: int) -> None:
        effects = room.leave(number, self.now)
        if room is self.room:
            self.perform(effects)

    def _server_receives(self, connection: int, message: Any) -> None:
        entry = self._sessions.get(connection)
        if entry is None:
            return
        number = entry[1]
        try:
            if isinstance(message, Awareness) and self.room.hold_awareness(number, message.data):
                return
            if isinstance(message, Update) and self.room.hold(number, message.update):
                return
            effects = self.room.receive(number, message, self.now)
        except BadFrame:
            effects = self.room.end_session(number, 4400, "bad frame", self.now)
        self.perform(effects)

    def perform(self, effects: Effects) -> None:
        for effect in effects:
            match effect:
                case Send(number, body):
                    self._send(number, body)
                case SendState(number, base, later):
                    whole = later == EMPTY_UPDATE
                    self._send(number, y_websocket.sync_step2(base) if whole else y_websocket.update(base))
                    if not whole:
                        self._send(number, y_websocket.sync_step2(later))
                case Broadcast(body, but):
                    for number in sorted(self._subscribed - {but}):
                        self._send(number, body)
                case Subscribe(number):
                    self._subscribed.add(number)
                case Unsubscribe(number):
                    self._subscribed.discard(number)
                case FlushAt(at):
                    self.at(max(0.0, at - self.now), partial(self._flush, self.room))
                case Journal():
                    self._start_commit()
                case _:
                    self._answer(effect)

    def _answer(self, effect: Effect) -> None:
        match effect:
            case Acknowledge(number, syncs, updates):
                self.to_client(number, lambda client: client.acknowledged(syncs + updates))
            case Refuse(number, _):
                client = self._sessions[self._numbers[number]][0]
                assert client.member.role is Role.READER, "a writer's edit was refused"
            case Close(number, _, _):
                connection = self._numbers.pop(number, 0)
                entry = self._sessions.pop(connection, None)
                if entry is not None:
                    self._deliver(connection, False, lambda: self._closed(entry[0], connection))

    def _flush(self, room: Room) -> None:
        if room is self.room:
            self.perform(room.flush(self.now))

    def _closed(self, client: Client, connection: int) -> None:
        if client.connection == connection:
            client.disconnected()
            self._reconnect_later(client)

    def _send(self, number: int, body: bytes) -> None:
        self.to_client(number, lambda client: client.receive(body))

    def _start_commit(self) -> None:
        room = self.room
        batch = room.take_batch()
        if batch is not None:
            self.at(self.delay(), lambda: self._reach_log(room, batch))

    def _reach_log(self, room: Room, batch: RoomBatch) -> None:
        stands = self.log.append(batch)
        self.at(self.delay(), lambda: self._hear_from_log(room, stands))

    def _hear_from_log(self, room: Room, stands: bool) -> None:
        if room is not self.room:
            return
        if stands:
            self.perform(room.committed())
        else:
            self.perform(room.fence_lost(self.now))
            self._open_room()

    # --- what happens ---------------------------------------------------------------------------

    def _something(self) -> None:
        rng = self.rng
        if self._edits_left == 0:
            self._come_to_rest()
            return
        chance = rng.random()
        if chance < 0.75:
            self._edits_left -= 1
            client = rng.choice(self.clients)
            client.edit(f"e{self._edits_left}-{client.name}", rng)
        elif chance < 0.80:
            reader = rng.choice(self.readers)
            reader.edit(f"r{self._edits_left}-{rng.random()}", rng)
        elif chance < 0.88:
            self._drop(rng.choice([*self.clients, *self.readers]))
        elif chance < 0.91:
            self._crash()
        elif chance < 0.93:
            self.log.claim()  # usurped: the next commit is refused
        elif chance < 0.97:
            self._toggle_reading(rng.choice([*self.clients, *self.readers]))
        else:
            self._misbehave()
        self.mishaps += chance >= 0.80
        self.at(rng.choice((0.0, 0.001, 0.03, 0.3)) * rng.random(), self._something)

    def _crash(self) -> None:
        for client in [*self.clients, *self.readers]:
            if client.connection is not None:
                client.disconnected()
                self._reconnect_later(client)
        self._open_room()

    def _toggle_reading(self, client: Client) -> None:
        entry = self._sessions.get(client.connection or 0)
        if entry is None:
            return
        number = entry[1]
        if number in self._paused:
            self._paused.discard(number)
            self.perform(self.room.resume(number, self.now))
        else:
            self._paused.add(number)
            self.perform(self.room.pause(number, self.now))

    def _misbehave(self) -> None:
        client = self.rng.choice([*self.clients, *self.readers])
        if client.connection is not None:
            kind = self.rng.choice((Update, SyncStep2, SyncStep1, Awareness))
            client.send(kind(self.rng.choice(GARBAGE)), [] if kind in (Update, SyncStep2) else None)

    def _come_to_rest(self) -> None:
        """No more mishaps: everybody reconnects, and what was made must arrive everywhere."""
        if not self._calm:
            self._calm = True
            for number in sorted(self._paused):
                self.perform(self.room.resume(number, self.now))
            self._paused.clear()
            self.at(2.0, self._come_to_rest)
        elif self.log.fence != self.room.fence:
            # Usurped since the last commit: the owner would find out with its next one.
            self.perform(self.room.fence_lost(self.now))
            self._open_room()
            self.at(2.0, self._come_to_rest)

    def _check_rest(self) -> None:
        stored = self.log.load()
        expected = content_of(stored.encode())
        made = {token for client in self.clients for token in client.made}
        assert made == set(expected["tokens"]), "an edit did not reach the log, or a reader's did"
        assert made == self.acknowledged & made, "an edit that is committed was not acknowledged"
        assert stored.state_vector() == self.room.document.state_vector()
        for client in self.clients:
            assert expected == content_of(client.doc.get_update()), f"client {client.name} differs"
        for reader in self.readers:
            seen = content_of(reader.doc.get_update())["tokens"]
            assert made <= set(seen), f"reader {reader.name} lacks edits"
        assert not self.room.unsaved


def content_of(update: bytes) -> dict[str, Any]:
    doc: Doc[Any] = Doc()
    doc.apply_update(update)
    return {name: doc.get(name, type=Map).to_py() or {} for name in ("cells", "tokens")}
