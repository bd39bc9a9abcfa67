"""Those who come while a large diagram is still being read from the log.

What is stored is here long before pycrdt has taken it in: 30 ms for 1 MB, half a second for 8 MiB. So whoever
comes by a socket that is for this diagram alone is let in at once, and who has nothing yet is given the
snapshot as it lies in the log, and the updates after it in one; what else they send waits. When the room is
open they go on there. If it is not opened after all, they are sent away.

Where so much came after the snapshot that to merge it would stop the loop, it follows when the room is open,
and the SyncStep2 with it: a client that is given one takes itself for synchronised, and may miss what is yet
to come, or make it anew.

A snapshot is what a room of ours encoded, and what it would encode for a newcomer: pycrdt takes it as it is,
or the room has another state, which then follows as a whole. Of the updates after it, what waits for
something that is missing is given, too. Those in a room are not told of that; Yjs keeps it back until what is
missing comes (13.6). To leave it out would mean to read the snapshot: 20 ms for 1 MB.
"""

import asyncio
import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Protocol

from crdt.merging import EMPTY_STATE_VECTOR, merge
from crdt.messages import Message, QueryAwareness, SyncStep1, SyncStep2, Update
from rooms import closing
from rooms.effects import NOTHING, Effects, SendState, SessionNumber
from rooms.gathering import Source
from rooms.large_edits import KEPT_MAX_BYTES, MESSAGE_BYTES, Kept
from rooms.peer import Member, Peer
from rooms.runner import RoomRunner
from rooms.session import Session
from rooms.ticker import Ticker
from rooms.wires import StateWires
from tmi.domain.errors import BadUpdate, Draining, TmiError
from tmi.domain.ids import DiagramId

log = logging.getLogger(__name__)

ASKED_WITHIN_S = 0.005
"""For so long the room waits for the first question: what takes it in stops the loop, or slows it down."""
GIVEN_WITHIN_S = 0.003
"""And then for so long, in which what was given may get to the client."""
GIVEN_MAX = 2
"""So many are given the snapshot before the room is open; of a crowd the others wait for it. To send it to
all of a hundred while it is taken in had other rooms wait for 26 ms instead of 18.
"""
WAITING_MAX_BYTES = 4 * 1024
"""Of messages that wait: who has sent more is read no more until the room is open. What is read already, as a
large message, waits as well, within what the process keeps of edits (`rooms/large_edits.py`).
"""

TAIL_MAX_UPDATES = 2000
"""So many updates after a snapshot are merged in 5 ms; more are not given before the room is open."""
TAIL_MAX_BYTES = 1024 * 1024
"""The same for all of them together, however large each is: they are sent again when the room is open."""

_TOO_MUCH = "too much waits for diagrams to be opened; come back"


@dataclass(slots=True, eq=False)
class _Arrival:
    session: Session
    member: Member
    messages: list[Message] = field(default_factory=list)
    waiting_bytes: int = 0
    has_asked: bool = False
    """For all there is."""
    is_given: bool = False
    """The snapshot."""
    is_held_back: bool = False
    is_paused: bool = False
    has_left: bool = False
    """What it has sent goes in all the same."""


class _NoRoom:
    """Where nothing is held for the next tick."""

    def hold(self, *_: object) -> bool:
        return False

    def hold_awareness(self, *_: object) -> bool:
        return False


_NO_ROOM = _NoRoom()


class LetsIn(Protocol):
    """Who decides (`rooms/service.py`)."""

    def check(self, diagram: DiagramId, member: Member) -> None:
        """Raises what a member is to be sent away for who may have had a role, or a sign-in, until lately."""

    def let_in(self, runner: RoomRunner, member: Member, session: Session, given: bytes | None) -> None:
        """Have a session go on in the open room, or raise what `Rooms.join` raises. `given`: the state it has
        been sent.
        """


class Arrivals:
    """The sessions of one room that is being opened: their host (`rooms.session.Host`) until it is."""

    def __init__(
        self,
        diagram: DiagramId,
        snapshot: bytes,
        tail: Sequence[bytes],
        ticker: Ticker,
        kept: Kept,
        lets: LetsIn,
    ) -> None:
        """`tail`: the updates after the snapshot."""
        self._diagram = diagram
        self._state = snapshot
        self._tail = tail
        self._later: bytes | None = None
        """The tail in one update."""
        self._ticker = ticker
        self._kept = kept
        self._lets = lets
        self._wires = StateWires(ticker)
        self._arrived: dict[SessionNumber, _Arrival] = {}
        self._numbers = 0
        self._to_give = GIVEN_MAX
        self._first_given = asyncio.Event()
        self.is_open = True
        """The room is still to come."""

    async def first_given(self) -> None:
        """Wait a moment, until somebody has been given the snapshot."""
        try:
            await asyncio.wait_for(self._first_given.wait(), ASKED_WITHIN_S)
        except TimeoutError:
            return
        await asyncio.sleep(GIVEN_WITHIN_S)

    def __len__(self) -> int:
        return len(self._arrived)

    def join(self, member: Member, peer: Peer) -> Session:
        """Let a peer in; only while this is open. Its socket is closed when the session is."""
        # Numbers of rooms are positive, and each gives it another one.
        self._numbers -= 1
        number = SessionNumber(self._numbers)
        session = Session(self, number, peer)
        self._arrived[number] = _Arrival(session, member)
        return session

    @property
    def here(self) -> Iterator[tuple[Member, Peer]]:
        """Who has come, and has not left."""
        for arrival in self._arrived.values():
            if not arrival.has_left:
                yield arrival.member, arrival.session.peer

    # --- how it ends ----------------------------------------------------------------------------

    def enter(self, runner: RoomRunner) -> None:
        """The room is open: everybody goes on there, in the order in which they came."""
        for arrival in self._each():
            try:
                self._lets.check(self._diagram, arrival.member)
                given = self._state if arrival.is_given else None
                self._lets.let_in(runner, arrival.member, arrival.session, given)
                _go_on(arrival)
            except TmiError as error:
                _send_away(arrival, error)
            except Exception as error:
                log.exception("room %s: somebody who waited for it could not go on", self._diagram)
                _send_away(arrival, error)

    def fail(self, error: BaseException) -> None:
        """The room cannot be opened: send everybody away."""
        if not isinstance(error, TmiError | asyncio.CancelledError):
            log.error("room %s: it could not be opened", self._diagram, exc_info=error)
        for arrival in self._each():
            _send_away(arrival, error)

    def _each(self) -> Iterator[_Arrival]:
        """One after the other, as what happens to one may make others leave."""
        self.is_open = False
        while self._arrived:
            yield self._forget(next(iter(self._arrived)))

    def _forget(self, number: SessionNumber) -> _Arrival:
        arrival = self._arrived.pop(number)
        self._kept.size -= arrival.waiting_bytes
        return arrival

    # --- the host -------------------------------------------------------------------------------

    @property
    def room(self) -> _NoRoom:
        """None yet."""
        return _NO_ROOM

    def receive(self, number: SessionNumber, message: Message) -> None:
        """Give the snapshot to the first who ask for all there is; anything else waits for the room."""
        arrival = self._arrived.get(number)
        if arrival is None:
            return
        is_for_all = isinstance(message, SyncStep1) and message.state_vector == EMPTY_STATE_VECTOR
        if is_for_all and not arrival.has_asked and not arrival.messages:
            arrival.has_asked = True
            if self._to_give:
                self._to_give -= 1
                self._ticker.paced(self._diagram, lambda: self._give(arrival))
            return
        size = MESSAGE_BYTES + _size(message)
        arrival.messages.append(message)
        arrival.waiting_bytes += size
        self._kept.size += size
        if self._kept.size > KEPT_MAX_BYTES:
            self.end_session(number, closing.TRY_AGAIN_LATER, _TOO_MUCH)
        elif arrival.waiting_bytes > WAITING_MAX_BYTES and not arrival.is_held_back:
            arrival.is_held_back = True
            arrival.session.peer.hold_back()

    def receive_update(self, number: SessionNumber, update: bytes) -> None:
        """As `receive`."""
        self.receive(number, Update(update))

    def _give(self, arrival: _Arrival) -> int:
        """Its turn has come, unless it is gone, or in the room, where its question is answered."""
        number, peer = arrival.session.number, arrival.session.peer
        if self._arrived.get(number) is not arrival or arrival.has_left:
            return 0
        try:
            self._lets.check(self._diagram, arrival.member)
        except TmiError as error:
            _send_away(self._forget(number), error)
            return 0
        arrival.is_given = True
        self._first_given.set()
        later = self._merged()
        if later is None:
            peer.write_state(self._wires.of_base(peer, self._state))
            return len(self._state)
        peer.write_state(*self._wires.of(peer, SendState(number, self._state, later)))
        return len(self._state) + len(later)

    def _merged(self) -> bytes | None:
        """What came after the snapshot, in one update; None if it has to wait for the room."""
        tail = self._tail
        if self._later is None and len(tail) <= TAIL_MAX_UPDATES and sum(map(len, tail)) <= TAIL_MAX_BYTES:
            with suppress(BadUpdate):  # the room takes what it can of it
                self._later = merge(tail)
        return self._later

    def gather(self, source: Source) -> None:
        """Nothing is held for a tick here."""

    def pause(self, number: SessionNumber) -> None:
        """A slow reader: nothing is broadcast before it is in the room."""
        self._note_paused(number, is_paused=True)

    def resume(self, number: SessionNumber) -> None:
        """It reads again."""
        self._note_paused(number, is_paused=False)

    def _note_paused(self, number: SessionNumber, *, is_paused: bool) -> None:
        arrival = self._arrived.get(number)
        if arrival is not None:
            arrival.is_paused = is_paused

    def leave(self, number: SessionNumber) -> None:
        """Its connection is gone. The edits that it has sent go in when the room is open."""
        arrival = self._arrived.get(number)
        if arrival is None:
            return
        arrival.has_left = True
        arrival.messages = [one for one in arrival.messages if isinstance(one, SyncStep2 | Update)]
        if not arrival.messages:
            self._forget(number)

    def end_session(self, number: SessionNumber, code: int, reason: str) -> None:
        """Close one session."""
        if number in self._arrived:
            self._forget(number).session.peer.close(code, reason)

    def failed(self, number: SessionNumber) -> None:
        """What a session sent could not be handled, and that is our fault: end it."""
        self.end_session(number, closing.INTERNAL_ERROR, "internal error")

    # What only a room is asked for.

    def answer(self, *_: object) -> Effects:
        """Nothing is known here."""
        return NOTHING

    def perform(self, effects: Effects) -> None:
        """Nothing is asked for without a room."""

    def worked(self, session: Session, took_s: float) -> None:
        """Nothing is worked on."""

    def take_turn(self, *_: object) -> int:
        """No turn is waited for that a room gives."""
        return 0

    def later(self, callback: Callable[[], None]) -> None:
        """Call back at once: nothing is being broadcast here."""
        callback()


def _go_on(arrival: _Arrival) -> None:
    """In the room, with what has waited."""
    session = arrival.session
    if arrival.is_paused:
        session.runner.pause(session.number)
    if arrival.has_asked and not arrival.has_left:
        # Who was given the snapshot is told what came after it.
        session.receive(SyncStep1(EMPTY_STATE_VECTOR))
    for message in arrival.messages:
        session.receive(message)
    if arrival.is_held_back:
        session.peer.go_on()
    if arrival.has_left:
        session.leave()


def _send_away(arrival: _Arrival, error: BaseException) -> None:
    peer = arrival.session.peer
    if isinstance(error, Draining):
        peer.close(closing.SERVICE_RESTART, "this node is being stopped")
    elif isinstance(error, TmiError):
        peer.close(closing.TRY_AGAIN_LATER, f"{str(error).rstrip('.')}; try again shortly"[:120])
    else:
        peer.close(closing.INTERNAL_ERROR, "internal error")


def _size(message: Message) -> int:
    if isinstance(message, SyncStep1):
        return len(message.state_vector)
    if isinstance(message, SyncStep2 | Update):
        return len(message.update)
    return 0 if isinstance(message, QueryAwareness) else len(message.data)
