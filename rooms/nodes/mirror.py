"""The owner's side of a room that another node follows.

The follower takes one seat for itself, over which it gets all that is broadcast, once, and offers what it has
and the owner has not. Each of its clients takes a seat of its own: so roles, presence, limits, refusals and
acknowledgements are decided here, by the same code as for the clients of this node.
"""

from collections.abc import Callable, Hashable

from crdt import y_websocket
from crdt.messages import SyncStep1
from rooms import closing
from rooms.audience import FULL
from rooms.effects import SessionNumber
from rooms.growth import HELD_BACK
from rooms.journal import SHEDDING
from rooms.nodes.messages import (
    REPLICA,
    Acknowledged,
    Answered,
    Asked,
    Bring,
    Census,
    Counted,
    Ended,
    Enter,
    Hear,
    Leave,
    Lost,
    Refused,
    RoleChanged,
    Say,
    Tell,
)
from rooms.peer import Member
from rooms.runner import RoomRunner
from rooms.session import Session
from tmi.domain.ids import NodeId
from tmi.domain.model import Node
from tmi.domain.roles import Action, Role, may

Answer = Callable[[Answered], None]


class Mirror:
    """One follower of one room. `answer` sends to it; `is_over` once the room has sent it away."""

    def __init__(
        self,
        runner: RoomRunner,
        state_vector: bytes,
        answer: Answer,
        entered: Callable[[Member], None],
        is_shedding: Callable[[], bool],
        node: NodeId | None = None,
    ) -> None:
        """The room's phase must be OPEN. Begins with what the follower lacks. `entered` is called after each
        client that takes a seat; while `is_shedding` no writer does. `node`: which one follows, if that is
        another one.
        """
        self.node = node
        self._runner = runner
        self._answer = answer
        self._entered = entered
        self._is_shedding = is_shedding
        self._seats: dict[SessionNumber, _Seat] = {}
        self._numbers: dict[SessionNumber, SessionNumber] = {}
        """The follower's numbers, by ours."""
        self.is_over = False
        self._session = runner.follow(_Follower(self))
        self._session.receive(SyncStep1(state_vector))

    def receive(self, message: Asked) -> None:
        """Handle what the follower says. Raises BadFrame for a body that no client could have sent."""
        if self.is_over:
            return
        if isinstance(message, Say):
            self._say(message)
        elif isinstance(message, Bring):
            self._runner.bring(self._session.number, message.body, message.author, message.origin)
        elif isinstance(message, Enter):
            self._enter(message)
        elif isinstance(message, Census):
            self._answer(Counted(tuple(self._runner.room.members.values())))
        elif isinstance(message, Leave):
            seat = self._forget(message.session)
            if seat is not None:
                seat.session.leave()

    def _say(self, message: Say) -> None:
        if message.session == REPLICA:
            session = self._session
        else:
            seat = self._seats.get(message.session)
            if seat is None:
                return  # it was sent away meanwhile
            session = seat.session
        update = y_websocket.lone_update(message.body)
        if update is not None:
            session.receive_update(update)
            return
        awareness = y_websocket.lone_awareness(message.body)
        if awareness is not None:
            session.receive_awareness(awareness)
            return
        for part in y_websocket.decode(message.body):
            session.receive(part)

    def _enter(self, message: Enter) -> None:
        if message.session == REPLICA or message.session in self._seats:
            return
        is_writer = may(message.member.role, Action.EDIT)
        if self._runner.room.is_full:
            self._refuse(message, "sessions_per_room", FULL)
            return
        if self._runner.is_held_back and is_writer:
            self._refuse(message, "rooms_growth", HELD_BACK)
            return
        if self._is_shedding() and is_writer:
            self._refuse(message, "journal", SHEDDING)
            return
        seat = _Seat(self, message.session)
        seat.session = self._runner.join(message.member, seat)
        self._seats[message.session] = seat
        self._numbers[seat.session.number] = message.session
        self._entered(message.member)

    def _refuse(self, message: Enter, limit: str, reason: str) -> None:
        self._runner.room.refusals[limit] += 1
        self._answer(Ended(message.session, closing.TRY_AGAIN_LATER, reason))

    def pause(self) -> None:
        """The link is full: no more broadcasts until `resume`."""
        self._session.pause()

    def resume(self) -> None:
        """The link has drained: one difference brings the follower up to date."""
        self._session.resume()

    def close(self) -> None:
        """The follower has gone, and all of its clients with it."""
        self.is_over = True
        seats, self._seats = self._seats, {}
        for seat in seats.values():
            seat.session.leave()
        self._session.leave()

    def freeze(self) -> None:
        """See `rooms.peer.Follower`. The room has forgotten all sessions already."""
        self.is_over = True
        self._seats = {}

    def let_go(self, successor: Node | None, *, is_disowned: bool) -> None:
        """See `rooms.peer.Follower`."""
        self._answer(Lost(is_disowned, successor))

    # --- told by the seats ----------------------------------------------------------------------

    def tell(self, session: SessionNumber, body: bytes) -> None:
        """For one session, or for the follower itself."""
        self.answer(Tell(session, body, self._runner.room.seq))

    def answer(self, message: Answered) -> None:
        """Send to the follower."""
        if not self.is_over:
            self._answer(message)

    def hear(self, body: bytes, but: SessionNumber | None) -> None:
        """A broadcast."""
        source = REPLICA if but is None else self._numbers.get(but, REPLICA)
        self._answer(Hear(body, source, self._runner.room.seq))

    def sent_away(self, session: SessionNumber, code: int, reason: str) -> None:
        """The room has closed one of the follower's clients."""
        self._forget(session)
        # When the whole room moves on, its clients there stay connected.
        if code != closing.SERVICE_RESTART:
            self.answer(Ended(session, code, reason))

    def dismissed(self, code: int, reason: str) -> None:
        """The room has closed the follower's own seat: the room is over."""
        is_moving = code == closing.SERVICE_RESTART
        self.answer(Lost(is_disowned=False) if is_moving else Ended(REPLICA, code, reason))
        self.is_over = True

    def _forget(self, session: SessionNumber) -> "_Seat | None":
        seat = self._seats.pop(session, None)
        if seat is not None:
            self._numbers.pop(seat.session.number, None)
        return seat


class _Seat:
    """A client of the follower, as the room's peer. It is never subscribed."""

    __slots__ = ("_mirror", "_number", "session")

    def __init__(self, mirror: Mirror, number: SessionNumber) -> None:
        self._mirror = mirror
        self._number = number
        self.session: Session

    @property
    def framing(self) -> Hashable:
        """Bodies travel bare."""
        return None

    @property
    def wants_acknowledgements(self) -> bool:
        """The follower keeps what is not acknowledged, to offer it to the next owner."""
        return True

    def frame(self, body: bytes) -> bytes:
        return body

    def write_state(self, *wires: bytes) -> None:
        for wire in wires:
            self.write(wire)

    def write(self, wire: bytes) -> None:
        self._mirror.tell(self._number, wire)

    def acknowledge(self, syncs: int, updates: int) -> None:
        self._mirror.answer(Acknowledged(self._number, syncs + updates))

    def refuse(self, reason: str) -> None:
        self._mirror.answer(Refused(self._number, reason))

    def role_changed(self, role: Role) -> None:
        self._mirror.answer(RoleChanged(self._number, role))

    def answered(self, size: int) -> None:
        """Never: its replica answers it."""

    def hold_back(self) -> None:
        """Not possible: others come by the same link."""

    def go_on(self) -> None:
        """See `hold_back`."""

    def close(self, code: int, reason: str) -> None:
        self._mirror.sent_away(self._number, code, reason)


class _Follower:
    """The follower itself, as the room's peer."""

    __slots__ = ("_mirror",)

    def __init__(self, mirror: Mirror) -> None:
        self._mirror = mirror

    @property
    def framing(self) -> Hashable:
        """See `rooms.peer.Follower`."""
        return None

    @property
    def wants_acknowledgements(self) -> bool:
        """Of what it offered."""
        return True

    def frame(self, body: bytes) -> bytes:
        return body

    def write_state(self, *wires: bytes) -> None:
        for wire in wires:
            self.write(wire)

    def write(self, wire: bytes) -> None:
        self._mirror.tell(REPLICA, wire)

    @property
    def node(self) -> NodeId | None:
        return self._mirror.node

    def hear(self, body: bytes, but: SessionNumber | None) -> None:
        self._mirror.hear(body, but)

    def freeze(self) -> None:
        self._mirror.freeze()

    def let_go(self, successor: Node | None, *, is_disowned: bool) -> None:
        self._mirror.let_go(successor, is_disowned=is_disowned)

    def acknowledge(self, syncs: int, updates: int) -> None:
        self._mirror.answer(Acknowledged(REPLICA, syncs + updates))

    def refuse(self, reason: str) -> None:
        """Never: a node may edit."""

    def role_changed(self, role: Role) -> None:
        """Never: a node has no role."""

    def answered(self, size: int) -> None:
        """A node has no rate."""

    def hold_back(self) -> None:
        """Not possible: its clients come by the same link."""

    def go_on(self) -> None:
        """See `hold_back`."""

    def close(self, code: int, reason: str) -> None:
        self._mirror.dismissed(code, reason)
