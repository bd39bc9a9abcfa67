"""The shell around one document: it performs effects on real peers and timers.

A failure in here or in the room that is not the client's fault is our bug: it is logged with its traceback,
counted, and ends the one session it happened in.
"""

import logging
from collections import Counter, deque
from collections.abc import Callable, Collection, Hashable, Iterable, Iterator, Mapping, Sequence
from time import perf_counter
from typing import Any, ClassVar, Generic, TypeVar, cast

from crdt import y_websocket
from crdt.merging import EMPTY_STATE_VECTOR, EMPTY_UPDATE
from crdt.messages import Awareness, Message, QueryAwareness, SyncStep1, SyncStep2, Update
from rooms import closing
from rooms.audience import Audience
from rooms.effects import (
    NOTHING,
    Acknowledge,
    Broadcast,
    ChangeRole,
    Close,
    Effect,
    Effects,
    FlushAt,
    Refuse,
    Send,
    SendState,
    SessionNumber,
    Subscribe,
    Unsubscribe,
)
from rooms.gathering import Gathering, Source
from rooms.lifecycle import Phase
from rooms.peer import Follower, Member, Peer
from rooms.ticker import Ticker
from tmi.domain.ids import SignInId, UserId
from tmi.domain.roles import Role

log = logging.getLogger(__name__)

_LARGE_BYTES = 256 * 1024
_SLOW_BYTES = 16 * 1024
"""From this size on it takes more than moments to find out what somebody lacks of a document."""
_LABORIOUS_BYTES = 64 * 1024
"""Edits of this size may take more than moments to apply: 0.4 us a byte where all is keys."""
_WORK_BYTES_PER_S = 64 * 1024 * 1024
"""What that time counts for in its author's rate: eight times what a client may send by default."""
_TEARING = 10
"""So many times the document's size an edit that makes it be built anew counts for: 0.15 us a byte."""
_ASKING_MAX = 16
_QUERIED_S = 0.037
"""For so long one answer is enough for whoever asks who is here: about as often as cursors go out."""
_WIRES_MAX = 4
_RESOLUTION_S = 0.001
"""Of the loop's clock and timers."""
_NEARLY = 1.25
_WIRES_KEPT_S = 3.0

RoomT = TypeVar("RoomT", bound=Audience)


class Session:
    """One member's presence in one room: what a socket holds on to, whoever hosts the room."""

    __slots__ = ("has_edited", "is_served", "number", "peer", "runner", "source")

    def __init__(self, runner: "Runner[Any]", number: SessionNumber, peer: Peer) -> None:
        self.runner = runner
        """Who hosts it at present."""
        self.number = number
        """The room's number for it."""
        self.peer = peer
        self.has_edited = False
        """Since that was gathered last (`Runner.edited`)."""
        self.is_served = False
        """It was sent the document, as everybody is once; what it asks for again counts as its own."""
        self.source: Source | None = None
        """The socket, where nothing but this session depends on when it is read."""

    def receive(self, message: Message) -> None:
        """Hand a message to the room. A client's fault closes its peer with 4400; nothing is raised."""
        if isinstance(message, Update):
            self.has_edited = True
        self.runner.receive(self.number, message)

    def receive_update(self, update: bytes) -> None:
        """Hand over what an Update message carries; as `receive`, and cheaper."""
        self.has_edited = True
        if not self.runner.room.hold(self.number, update):
            self.runner.receive_update(self.number, update)
        elif self.source is not None and self.source.gathering is None:
            self.runner.gather(self.source)

    def receive_awareness(self, data: bytes) -> None:
        """Hand over what an Awareness message carries; as `receive`, and cheaper."""
        if not self.runner.room.hold_awareness(self.number, data):
            self.runner.receive(self.number, Awareness(data))
        elif self.source is not None and self.source.gathering is None:
            self.runner.gather(self.source)

    def pause(self) -> None:
        """The socket's write buffer has passed its high mark: no more broadcasts until `resume`."""
        # The buffer may fill up in the middle of a broadcast, and `pause` flushes: wait for this turn's end.
        self.runner.later(lambda: self.runner.pause(self.number))

    def resume(self) -> None:
        """The write buffer has drained: bring the peer up to date."""
        self.runner.later(lambda: self.runner.resume(self.number))

    def leave(self) -> None:
        """The connection is gone. Calling it again does nothing."""
        self.runner.leave(self.number)


class Runner(Generic[RoomT]):
    """Performs what `room` decides."""

    def __init__(self, room: RoomT, ticker: Ticker) -> None:
        self.room = room
        self.idle_since = ticker.now()
        self.faults = 0
        self.closes: Counter[int] = Counter()
        """Sessions that the room has ended, by code; the service gives all its rooms the same one."""
        self.bytes_before: int | None = None
        """What it took when all rooms together began to take too much (`rooms/growth.py`)."""
        self.is_held_back = False
        """It may not grow."""
        self._ticker = ticker
        self._sessions: dict[SessionNumber, Session] = {}
        self._groups: dict[Hashable, dict[SessionNumber, Peer]] = {}
        self._followers: dict[SessionNumber, Follower] = {}
        """The subscribed ones."""
        self._flush_at: float | None = None
        self._gathering: Gathering | None = None
        """While the room is busy: who is read when its tick is due."""
        self._gather_at = 0.0
        self._asking: dict[SessionNumber, deque[SyncStep1]] = {}
        """The SyncStep1s that wait for a turn of their session, which waits for one turn at a time."""
        self._queried: dict[SessionNumber, bool] = {}
        """Who was told of late who is here, and whether it has asked again since."""
        self._wires: dict[Hashable, tuple[bytes, bytes]] = {}
        """States as they were last framed."""

    @property
    def peers_here(self) -> int:
        """How many clients of this node are connected."""
        return len(self.clients)

    @property
    def clients(self) -> Sequence[SessionNumber]:
        """The sessions of this node's own clients."""
        return [number for number, session in self._sessions.items() if session.peer.framing is not None]

    @property
    def here(self) -> Iterator[tuple[Member, Peer]]:
        """This node's own clients."""
        members = self.room.members
        for number, session in self._sessions.items():
            if session.peer.framing is not None and number in members:
                yield members[number], session.peer

    def edited(self) -> set[SignInId]:
        """The sign-ins of this node's clients that sent edits since this was asked last."""
        found = [session for session in self._sessions.values() if session.has_edited]
        if not found:
            return set()
        members = self.room.members
        for session in found:
            session.has_edited = False
        return {members[session.number].sign_in for session in found if session.number in members}

    # --- from the sockets -----------------------------------------------------------------------

    def join(self, member: Member, peer: Peer) -> Session:
        """Let a peer in; the room's phase must be OPEN."""
        is_elsewhere = peer.framing is None
        return self._enter(self.room.join(member, peer.wants_acknowledgements, is_elsewhere), peer)

    def _enter(self, number: SessionNumber, peer: Peer) -> Session:
        session = self._sessions[number] = Session(self, number, peer)
        return session

    def receive(self, number: SessionNumber, message: Message) -> None:
        """Hand a message of a session to the room."""
        if isinstance(message, SyncStep1):
            self._receive_question(number, message)
        elif isinstance(message, QueryAwareness):
            self._receive_query(number, message)
        elif isinstance(message, SyncStep2 | Update):
            self._receive_edit(number, message)
        else:
            self._receive(number, message)

    def receive_update(self, number: SessionNumber, update: bytes) -> None:
        """As `receive`, for what an Update message carries, and cheaper where nothing waits yet."""
        due = self.room.hold_first(number, update, self._ticker.now())
        if due is None:
            self.receive(number, Update(update))
        else:
            self._flush_by(due)

    def _receive_edit(self, number: SessionNumber, message: SyncStep2 | Update) -> None:
        """An edit is applied in one go, and nobody is served meanwhile. So its author pays for the time, and
        is read no more for a multiple of it.
        """
        document = self.room.document
        # By estimate, since a replica leaves it to its owner, and then does it, too.
        paid = _TEARING * document.bytes_estimate if document.tears(message.update) else 0
        if not paid and len(message.update) <= _LABORIOUS_BYTES:
            self._receive(number, message)
            return
        began = perf_counter()
        self._receive(number, message)
        session = self._sessions.get(number)
        if session is not None:
            session.peer.answered(paid or int((perf_counter() - began) * _WORK_BYTES_PER_S))

    def _receive_question(self, number: SessionNumber, message: SyncStep1) -> None:
        session = self._sessions.get(number)
        if session is None:
            return
        asking = self._asking.get(number)
        if asking is None and not self._is_costly(session, message):
            self._answer(session, message)
            return
        if asking is None:
            self._asking[number] = deque((message,))
            self._wait_for_turn(session)
        elif len(asking) < _ASKING_MAX:
            asking.append(message)
        else:
            self.room.refusals["questions"] += 1
            self.end_session(number, closing.TRY_AGAIN_LATER, "too many requests for a large document")

    def _is_costly(self, session: Session, message: SyncStep1) -> bool:
        is_simple = message.state_vector == EMPTY_STATE_VECTOR or session.peer.framing is None
        return self.room.document.bytes_estimate > (_LARGE_BYTES if is_simple else _SLOW_BYTES)

    def _wait_for_turn(self, session: Session) -> None:
        # By then another runner may host the session.
        self._ticker.paced(self.room.diagram, lambda: session.runner.take_turn(session))

    def take_turn(self, session: Session) -> int:
        """Answer a session whose turn has come; how much that was, in bytes."""
        number = session.number
        asking = self._asking[number]
        size = sum(map(_answer_size, self._answer(session, asking.popleft())))
        if not asking or number not in self._sessions:
            del self._asking[number]
        else:
            self._wait_for_turn(session)
        return size

    def _answer(self, session: Session, message: SyncStep1 | QueryAwareness) -> Effects:
        """What was answered: whoever asks again pays for it."""
        effects = self._handle(session.number, message)
        self._perform_as_one(session, effects)
        if session.is_served or isinstance(message, QueryAwareness):
            session.peer.answered(sum(map(_answer_size, effects)))
        else:
            session.is_served = True
        return effects

    def _receive_query(self, number: SessionNumber, message: QueryAwareness) -> None:
        session = self._sessions.get(number)
        if session is None:
            return
        if number in self._queried:
            self._queried[number] = True
            return
        self._remember_query(number, has_asked_again=False)
        self._answer(session, message)

    def _remember_query(self, number: SessionNumber, *, has_asked_again: bool) -> None:
        if not self._queried:
            self._ticker.at(self._ticker.now() + _QUERIED_S, self._answer_queries)
        self._queried[number] = has_asked_again

    def _answer_queries(self) -> None:
        """Answer those who have asked again."""
        queried, self._queried = self._queried, {}
        for number, has_asked_again in queried.items():
            if has_asked_again:
                self._receive_query(number, QueryAwareness())

    def _receive(self, number: SessionNumber, message: Message) -> None:
        effects = self._handle(number, message)
        if effects:
            self.perform(effects)

    def _handle(self, number: SessionNumber, message: Message) -> Effects:
        """What is to be done for a message."""
        try:
            return self.room.receive(number, message, self._ticker.now())
        except Exception:
            self.faults += 1
            log.exception("room %s: a message could not be handled", self.room.diagram)
            self.end_session(number, closing.INTERNAL_ERROR, "internal error")
            return NOTHING

    def pause(self, number: SessionNumber) -> None:
        """Stop broadcasts to a slow reader."""
        self.perform(self.room.pause(number, self._ticker.now()))

    def resume(self, number: SessionNumber) -> None:
        """Bring a slow reader up to date."""
        session = self._sessions.get(number)
        if session is not None:
            self._perform_as_one(session, self.room.resume(number, self._ticker.now()))

    def leave(self, number: SessionNumber) -> None:
        """A session's connection is gone."""
        self.perform(self.room.leave(number, self._ticker.now()))
        self._forget(number)

    def settle(self) -> None:
        """Bring the document up to what has arrived."""
        self.perform(self.room.settle(self._ticker.now()))

    def later(self, callback: Callable[[], None]) -> None:
        """Call back at the end of this turn of the loop."""
        self._ticker.at(0.0, callback)

    def hand_to(self, other: "Runner[Any]", numbers: Collection[SessionNumber]) -> None:
        """Let another runner go on with these sessions; its document's side is up to the caller."""
        self._stop_gathering()
        for number in numbers:
            session = self._sessions.pop(number)
            session.runner = other
            other._take_in(session, self._ungroup(session), self._asking.pop(number, None))  # noqa: SLF001
            if self._queried.pop(number, False):
                other._remember_query(number, has_asked_again=True)  # noqa: SLF001

    def _take_in(self, session: Session, is_subscribed: bool, asking: deque[SyncStep1] | None) -> None:
        self._sessions[session.number] = session
        if is_subscribed:
            self._groups.setdefault(session.peer.framing, {})[session.number] = session.peer
        if asking is not None:
            self._asking[session.number] = asking

    # --- reading by ticks -----------------------------------------------------------------------

    def gather(self, source: Source) -> None:
        """Read this source when a tick is due, if the room is busy."""
        if self._gathering is None:
            now = self._ticker.now()
            tick_s = self.room.tick_s(now, is_ticking=False)
            if tick_s is None:
                return
            self._gathering = Gathering()
            self._gather_later(now + tick_s)
        self._gathering.add(source)

    def _gather_later(self, when: float) -> None:
        self._gather_at = when
        self._ticker.at(when, self._gather)

    def _gather(self) -> None:
        if self._gathering is None or self._ticker.now() < self._gather_at - _RESOLUTION_S:
            return  # a flush has done it, or will
        self._gather_and_flush(self._gathering)

    def _gather_and_flush(self, gathering: Gathering) -> None:
        now = self._ticker.now()
        tick_s = None if self.room.is_over else self.room.tick_s(now, is_ticking=True)
        if tick_s is None:
            self._stop_gathering()
            self._perform_flush(now)
            return
        try:
            self._flush_at = 0.0  # whatever comes is seen to below
            try:
                gathering.read()
            finally:
                self._flush_at = None
            # A timer may be early by less than its resolution: what is due within it goes out now.
            self._perform_flush(now + _RESOLUTION_S)
        finally:
            # A flush that is due about then reads as well, and each time the process wakes up counts.
            if self._flush_at is not None and self._flush_at <= now + _NEARLY * tick_s:
                self._gather_at = self._flush_at
            else:
                self._gather_later(now + tick_s)

    def _perform_flush(self, now: float) -> None:
        if not self.room.is_over:
            self.perform(self.room.flush(now))

    def _stop_gathering(self) -> None:
        gathering, self._gathering = self._gathering, None
        if gathering is not None:
            gathering.close()

    # --- from the service -----------------------------------------------------------------------

    def end_session(self, number: SessionNumber, code: int, reason: str) -> None:
        """Close one session."""
        self.perform(self.room.end_session(number, code, reason, self._ticker.now()))

    def change_roles(self, roles: Mapping[UserId, Role | None]) -> None:
        """Give the sessions of these users the roles they have now."""
        now = self._ticker.now()
        for number, member in self.room.members.items():
            if member.user in roles:
                self.perform(self.room.change_role(number, roles[member.user], now))

    def close_writers(self, code: int, reason: str) -> None:
        """Close every session that may edit."""
        self.perform(self.room.close_writers(code, reason, self._ticker.now()))

    def end(self, how: Callable[[float], Effects]) -> None:
        """End the room by one of its own methods (`drain`, `fence_lost`, `log_refused`, `deleted`)."""
        self.perform(how(self._ticker.now()))

    # --- effects --------------------------------------------------------------------------------

    def perform(self, effects: Iterable[Effect]) -> None:
        """Do what the room asks for, in order."""
        table = self.PERFORMERS
        for effect in effects:
            table[type(effect)](self, effect)

    def _send(self, effect: Send) -> None:
        session = self._sessions.get(effect.session)
        if session is not None:
            session.peer.write(session.peer.frame(effect.body))

    def _perform_as_one(self, session: Session, effects: Iterable[Effect]) -> None:
        """As `perform`, where all that is for this session belongs together: see `Peer.write_state`."""
        number, peer = session.number, session.peer
        wires: list[bytes] = []
        table = self.PERFORMERS
        for effect in effects:
            if isinstance(effect, Send) and effect.session == number:
                wires.append(peer.frame(effect.body))
            elif isinstance(effect, SendState) and effect.session == number:
                wires += self._state_wires(peer, effect)
            else:
                table[type(effect)](self, effect)
        if wires and number in self._sessions:
            peer.write_state(*wires)

    def _send_state(self, effect: SendState) -> None:
        session = self._sessions.get(effect.session)
        if session is not None:
            session.peer.write_state(*self._state_wires(session.peer, effect))

    def _state_wires(self, peer: Peer, effect: SendState) -> Sequence[bytes]:
        if effect.later == EMPTY_UPDATE:
            return (self._shared_wire(peer, effect.base, y_websocket.sync_step2),)
        return (
            self._shared_wire(peer, effect.base, y_websocket.update),
            peer.frame(y_websocket.sync_step2(effect.later)),
        )

    def _shared_wire(self, peer: Peer, state: bytes, message: Callable[[bytes], bytes]) -> bytes:
        """Frame a state, for all newcomers of these seconds the same bytes."""
        if len(state) < _LARGE_BYTES:
            return peer.frame(message(state))
        key = peer.framing, message
        known = self._wires.get(key)
        if known is None or known[0] is not state:
            if not self._wires or len(self._wires) >= _WIRES_MAX:
                self._wires.clear()
                self._ticker.at(self._ticker.now() + _WIRES_KEPT_S, self._wires.clear)
            known = self._wires[key] = state, peer.frame(message(state))
        return known[1]

    def _broadcast(self, effect: Broadcast) -> None:
        but, body = effect.but, effect.body
        for group in self._groups.values():
            wire = None
            for number, peer in group.items():
                if number == but:
                    continue
                if wire is None:
                    wire = peer.frame(body)
                peer.write(wire)
        for follower in self._followers.values():
            follower.hear(body, but)

    def _subscribe(self, effect: Subscribe) -> None:
        peer = self._sessions[effect.session].peer
        if peer.framing is None:
            self._followers[effect.session] = cast(Follower, peer)
            return
        self._groups.setdefault(peer.framing, {})[effect.session] = peer

    def _unsubscribe(self, effect: Unsubscribe) -> None:
        self._followers.pop(effect.session, None)
        session = self._sessions.get(effect.session)
        if session is not None:
            self._ungroup(session)

    def _ungroup(self, session: Session) -> bool:
        """Send it no more broadcasts; whether it got them until now."""
        framing = session.peer.framing
        group = self._groups.get(framing)
        if group is None:
            return False
        was_in = group.pop(session.number, None) is not None
        if not group:
            del self._groups[framing]
        return was_in

    def _acknowledge(self, effect: Acknowledge) -> None:
        session = self._sessions.get(effect.session)
        if session is not None:
            session.peer.acknowledge(effect.syncs, effect.updates)

    def _refuse(self, effect: Refuse) -> None:
        self._sessions[effect.session].peer.refuse(effect.reason)

    def _change_role(self, effect: ChangeRole) -> None:
        self._sessions[effect.session].peer.role_changed(effect.role)

    def _close(self, effect: Close) -> None:
        peer = self._forget(effect.session)
        if peer is not None:
            self.closes[effect.code] += 1
            peer.close(effect.code, effect.reason)

    def _forget(self, number: SessionNumber) -> Peer | None:
        if self.room.is_empty:
            self.idle_since = self._ticker.now()
        session = self._sessions.pop(number, None)
        return None if session is None else session.peer

    def _schedule_flush(self, effect: FlushAt) -> None:
        self._flush_by(effect.at)

    def _flush_by(self, when: float) -> None:
        if self._flush_at is None or when < self._flush_at:
            self._flush_at = when
            self._ticker.at(when, self._flush)

    def _flush(self) -> None:
        # A flush that was overtaken by an earlier one finds nothing due, and costs next to nothing.
        self._flush_at = None
        if self._gathering is not None:
            self._gather_and_flush(self._gathering)
        elif self.room.phase is not Phase.CLOSED:
            self.perform(self.room.flush(self._ticker.now()))

    # Functions of the class: bound methods in an instance would make a cycle, in which a closed room keeps
    # its document until the collector comes by.
    PERFORMERS: ClassVar[Mapping[type[Effect], Callable[..., None]]] = {
        Send: _send,
        SendState: _send_state,
        Broadcast: _broadcast,
        Subscribe: _subscribe,
        Unsubscribe: _unsubscribe,
        Acknowledge: _acknowledge,
        Refuse: _refuse,
        ChangeRole: _change_role,
        Close: _close,
        FlushAt: _schedule_flush,
    }


def _answer_size(effect: Effect) -> int:
    if isinstance(effect, Send):
        return len(effect.body)
    return len(effect.base) + len(effect.later) if isinstance(effect, SendState) else 0
