"""The shell around one document: it performs effects on real peers and timers.

When a question is answered is decided by `rooms/answering.py`, to whom a broadcast goes by
`rooms/subscribers.py`. A failure in here or in the room that is not the client's fault is our bug: it is
logged with its traceback, counted, and ends the one session it happened in.
"""

import logging
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from time import perf_counter
from typing import Any, ClassVar, Generic, TypeVar

from crdt.messages import Message, QueryAwareness, SyncStep1, SyncStep2, Update
from rooms import closing
from rooms.answering import Answering, OpenQuestions
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
from rooms.large_edits import LargeEdits
from rooms.lifecycle import Phase
from rooms.peer import Member, Peer
from rooms.session import Session
from rooms.subscribers import Subscribers
from rooms.ticker import Ticker
from rooms.wires import StateWires
from tmi.domain.ids import SignInId, UserId
from tmi.domain.roles import Role

log = logging.getLogger(__name__)

_LABORIOUS_BYTES = 2 * 1024
"""Edits of this size may take more than moments to apply: 0.4 us a byte where all is keys."""
_WORK_BYTES_PER_S = 64 * 1024 * 1024
"""What that time counts for in its author's rate: eight times what a client may send by default."""
_TEARING = 10
"""So many times the document's size an edit that makes it be built anew counts for: 0.15 us a byte."""
_RESOLUTION_S = 0.001
"""Of the loop's clock and timers."""
_NEARLY = 1.25

RoomT = TypeVar("RoomT", bound=Audience)


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
        self._subscribers = Subscribers()
        self._answering = Answering(room, self._sessions, ticker)
        self.large_edits = LargeEdits(room, self._sessions, ticker)
        self._wires = StateWires(ticker)
        self._flush_at: float | None = None
        self._put_off: list[Effect] = []
        """What the last flush asks for. Rooms that are due together work out theirs first: writes that follow
        each other closely wake their readers once, and each time that took a third of a write.
        """
        self._gathering: Gathering | None = None
        """While the room is busy: who is read when its tick is due."""
        self._gather_at = 0.0

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

    def let_in(self, member: Member, session: Session, given: bytes | None) -> None:
        """Go on with a session that came before the room was open, and was given this state meanwhile
        (`rooms/arriving.py`); the room's phase must be OPEN.
        """
        wants_acknowledgements = session.peer.wants_acknowledgements
        session.number = self.room.join(member, wants_acknowledgements, given=given)
        session.runner = self
        self._sessions[session.number] = session

    def receive(self, number: SessionNumber, message: Message) -> None:
        """Hand a message of a session to the room."""
        if isinstance(message, SyncStep1):
            self._answering.question(number, message)
        elif isinstance(message, QueryAwareness):
            self._answering.query(number)
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
        """A large edit goes in by pieces. Any other is applied in one go, and nobody is served meanwhile: so
        its author pays for the time, and is read no more for a multiple of it.
        """
        if self.large_edits.take(number, message):
            return
        document = self.room.document
        # By estimate, since a replica leaves it to its owner, and then does it, too.
        paid = _TEARING * document.bytes_estimate if document.tears(message.update) else 0
        if not paid and len(message.update) <= _LABORIOUS_BYTES:
            self._receive(number, message)
            return
        began = perf_counter()
        self._receive(number, message)
        session = self._sessions.get(number)
        if session is None:
            return
        if paid:
            session.peer.answered(paid)
        else:
            self.worked(session, perf_counter() - began)

    def worked(self, session: Session, took_s: float) -> None:
        """A session pays for so many seconds of work."""
        session.peer.answered(int(took_s * _WORK_BYTES_PER_S))

    def answer(self, session: Session, message: SyncStep1 | QueryAwareness) -> Effects:
        """Have the room answer a question; returns what was done for it."""
        effects = self._handle(session.number, message)
        self._perform_as_one(session, effects)
        return effects

    def take_turn(self, session: Session) -> int:
        """Answer a session whose turn has come; how much that was, in bytes."""
        return self._answering.take_turn(session)

    def _receive(self, number: SessionNumber, message: Message) -> None:
        effects = self._handle(number, message)
        if effects:
            self.perform(effects)

    def _handle(self, number: SessionNumber, message: Message) -> Effects:
        """What is to be done for a message."""
        try:
            return self.room.receive(number, message, self._ticker.now())
        except Exception:
            log.exception("room %s: a message could not be handled", self.room.diagram)
            self.failed(number)
            return NOTHING

    def failed(self, number: SessionNumber) -> None:
        """What a session sent could not be handled, and that is our fault: end it."""
        self.faults += 1
        self.end_session(number, closing.INTERNAL_ERROR, "internal error")

    def pause(self, number: SessionNumber) -> None:
        """Stop broadcasts to a slow reader."""
        self.perform(self.room.pause(number, self._ticker.now()))

    def resume(self, number: SessionNumber) -> None:
        """Bring a slow reader up to date."""
        session = self._sessions.get(number)
        if session is not None:
            self._perform_as_one(session, self.room.resume(number, self._ticker.now()))

    def leave(self, number: SessionNumber) -> None:
        """A session's connection is gone; a large edit of it that is on its way goes in first."""
        if self.large_edits.leave(number):
            return
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
            is_subscribed = self._subscribers.remove(number, session.peer)
            other.take_in(session, is_subscribed, self._answering.release(number))

    def take_in(self, session: Session, is_subscribed: bool, open_questions: OpenQuestions) -> None:
        """Go on with a session that another runner had, and with what it waits for."""
        self._sessions[session.number] = session
        if is_subscribed:
            self._subscribers.add(session.number, session.peer)
        self._answering.take_over(session.number, open_questions)

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
        self.large_edits.finish()
        self.perform(how(self._ticker.now()))

    # --- effects --------------------------------------------------------------------------------

    def perform(self, effects: Iterable[Effect]) -> None:
        """Do what the room asks for, in order."""
        if self._put_off:
            put_off, self._put_off = self._put_off, []
            effects = (*put_off, *effects)
        table = self.PERFORMERS
        for effect in effects:
            table[type(effect)](self, effect)

    def _perform_put_off(self) -> None:
        self.perform(())

    def _send(self, effect: Send) -> None:
        session = self._sessions.get(effect.session)
        if session is not None:
            session.peer.write(session.peer.frame(effect.body))

    def _perform_as_one(self, session: Session, effects: Iterable[Effect]) -> None:
        """As `perform`, where all that is for this session belongs together: see `Peer.write_state`."""
        self.perform(())
        number, peer = session.number, session.peer
        wires: list[bytes] = []
        table = self.PERFORMERS
        for effect in effects:
            if isinstance(effect, Send) and effect.session == number:
                wires.append(peer.frame(effect.body))
            elif isinstance(effect, SendState) and effect.session == number:
                wires += self._wires.of(peer, effect)
            else:
                table[type(effect)](self, effect)
        if wires and number in self._sessions:
            peer.write_state(*wires)

    def _send_state(self, effect: SendState) -> None:
        session = self._sessions.get(effect.session)
        if session is not None:
            session.peer.write_state(*self._wires.of(session.peer, effect))

    def _broadcast(self, effect: Broadcast) -> None:
        self._subscribers.send(effect)

    def _subscribe(self, effect: Subscribe) -> None:
        session = self._sessions.get(effect.session)
        if session is not None:
            self._subscribers.add(effect.session, session.peer)

    def _unsubscribe(self, effect: Unsubscribe) -> None:
        session = self._sessions.get(effect.session)
        if session is not None:
            self._subscribers.remove(effect.session, session.peer)

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
            is_first = not self._put_off
            self._put_off += self.room.flush(self._ticker.now())
            if is_first and self._put_off:
                self._ticker.afterwards(self._perform_put_off)

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
