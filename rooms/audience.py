"""Everybody who looks at one document through this process, without any I/O.

The part that a room (`rooms/room.py`) and the replica of a room that another node owns
(`rooms/nodes/replica.py`) have in common: who is connected and with which role, what a newcomer is sent, who
reads too slowly, and which answers a session still owes. Where its edits go is the other part.
"""

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Generator, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import count

from crdt import y_websocket
from crdt.document import Document
from crdt.merging import EMPTY_STATE_VECTOR
from crdt.messages import Message, SyncStep2, Update
from crdt.pieces import NotWhole
from crdt.plain import begins_plainly
from crdt.structs import Sections, read_by_steps
from rooms import closing
from rooms.effects import (
    NOTHING,
    ChangeRole,
    Close,
    Effect,
    Effects,
    Send,
    SendState,
    SessionNumber,
    Subscribe,
    Unsubscribe,
)
from rooms.lifecycle import NEXT, Happening, Phase
from rooms.peer import Member
from tmi.domain.errors import BadFrame
from tmi.domain.ids import DiagramId, UserId
from tmi.domain.ports import Origin
from tmi.domain.roles import Action, Role, may

_MAX_ASKED = 16
"""SyncStep1s to one session that may be unanswered."""

_NUMBERS: Iterator[SessionNumber] = count(1)
"""Of all sessions of the process: they may move from a room to a replica, and keep their numbers."""

READ_ONLY = "your role on this threat model does not allow editing"
FULL = "this diagram has as many clients as it may"
"""The reason that a follower recognises a full room by."""


@dataclass(slots=True)
class Seat:
    """One session, as its room knows it."""

    number: SessionNumber
    member: Member | None
    """None: a node that follows this room."""
    may_edit: bool
    wants_acknowledgements: bool
    is_elsewhere: bool = False
    """It is a client of a node that follows, where its refused edits are counted."""
    given: bytes | None = None
    """The state that it was given before the room was open, until it is greeted."""
    greeted: bool = False
    """Its first SyncStep1 was answered."""
    is_slow: bool = False
    """It stopped reading before it was greeted: of what it was given then."""
    behind: bytes | None = None
    """The state vector it had when it stopped reading."""
    behind_version: int = -1
    """The document's version of that moment."""
    has_heard: int = 0
    """How much it had been sent of everybody's awareness by then: see `_presence_told`."""
    asked_at: int = -1
    """The document version at which it was last asked to fill a gap."""
    refused: int = 0
    """How many of its edits were refused."""
    is_occupied: bool = False
    """A large edit of it is on its way in, so what it sends meanwhile waits."""
    author: UserId | None = field(init=False)
    """Who may be said to have made its Updates."""
    answers: tuple[int, ...] = ()
    """Our SyncStep1s that it has not answered yet: for each how many refused edits its answer makes good.

    The Hocuspocus provider counts one for the first sync of a connection and one for each Update, refused or
    not, and believes itself saved when as many were accepted. So nobody is asked twice for the same thing,
    and the answer that brings refused edits accepts them all. Nearly always none or one, so a tuple.
    """

    def __post_init__(self) -> None:
        self.author = None if self.member is None else self.member.user

    def worth(self, origin: Origin) -> tuple[int, int]:
        """How many messages the commit of this one acknowledges: SyncStep2 and Update."""
        if origin is not Origin.SYNC:
            return 0, 1
        refused, *rest = self.answers or (0,)
        self.answers = tuple(rest)
        return 1, max(refused - 1, 0)


class Audience(ABC):
    """The sessions of one document. Not thread-safe; every method returns at once."""

    refusals: Counter[str]
    """What was refused, by limit; the service gives all its rooms the same one."""

    def __init__(self, diagram: DiagramId, document: Document, sessions_max: int) -> None:
        self.diagram = diagram
        self.document = document
        self.phase = Phase.OPEN
        self._sessions_max = sessions_max
        self._sessions: dict[SessionNumber, Seat] = {}
        self._nodes_here = 0
        """How many of the sessions are nodes that follow."""

    # --- what the two kinds do each in their way ------------------------------------------------

    @abstractmethod
    def receive(self, number: SessionNumber, message: Message, now: float) -> Effects:
        """Handle one message. A client's fault ends its session, and changes nothing else."""

    @abstractmethod
    def hold(self, number: SessionNumber, update: bytes) -> bool:
        """Take an Update message in that needs nothing else done; False if it is for `receive`."""

    def hold_first(self, number: SessionNumber, update: bytes, now: float) -> float | None:  # noqa: ARG002
        """As `hold`, for the first one; returns when `flush` is due, or None if it is for `receive`."""
        return None

    @abstractmethod
    def hold_awareness(self, number: SessionNumber, data: bytes) -> bool:
        """Take awareness in that needs nothing else done; False if it is for `receive`."""

    @abstractmethod
    def flush(self, now: float) -> Effects:
        """Send out what is due; says when to call again if something has to wait."""

    def tick_s(self, now: float, *, is_ticking: bool) -> float | None:  # noqa: ARG002
        """How far apart it is worth looking for messages, in seconds; None while each is to be read at once.

        `is_ticking`: they are looked for in this way already.
        """
        return None

    @abstractmethod
    def _settle(self, now: float) -> list[Effect]:
        """Apply what has arrived: the document is as its editors see it."""

    @abstractmethod
    def _flush_edits(self, effects: list[Effect], now: float) -> None:
        """Send out every edit that is applied."""

    @abstractmethod
    def _left(self, seat: Seat, now: float) -> Effects:
        """Tell the others that a session is gone."""

    @abstractmethod
    def _present(self) -> bytes | None:
        """Everybody's awareness, encoded; None if nobody is here."""

    @abstractmethod
    def _presence_told(self) -> int:
        """How often everybody has been told of somebody's awareness."""

    @abstractmethod
    def _presence_since(self, told: int) -> bytes | None:
        """What is new to who has been told so often, encoded; None if nothing is."""

    # --- sessions -------------------------------------------------------------------------------

    @property
    def members(self) -> Mapping[SessionNumber, Member]:
        """Who is connected, by session."""
        return {number: seat.member for number, seat in self._sessions.items() if seat.member is not None}

    @property
    def is_open(self) -> bool:
        """Sessions come and go, edits are applied."""
        return self.phase is Phase.OPEN

    @property
    def is_over(self) -> bool:
        """Nothing more will come of this room; it may be forgotten."""
        return self.phase is Phase.CLOSED

    @property
    def session_count(self) -> int:
        """How many sessions are connected, nodes that follow included."""
        return len(self._sessions)

    @property
    def is_full(self) -> bool:
        """No further client may join. Each client of a node that follows counts, the node itself does not."""
        return len(self._sessions) - self._nodes_here >= self._sessions_max

    @property
    def is_empty(self) -> bool:
        """Nobody is connected."""
        return not self._sessions

    def join(
        self,
        member: Member,
        wants_acknowledgements: bool = True,
        is_elsewhere: bool = False,
        given: bytes | None = None,
    ) -> SessionNumber:
        """Let somebody in who may watch this diagram. Only while the phase is OPEN.

        Without `wants_acknowledgements` no commit is told to this session, which saves the counting.
        `is_elsewhere`: it is a client of a node that follows. `given`: a state that it has been sent already.
        """
        number = self._seat(member, may(member.role, Action.EDIT), wants_acknowledgements, is_elsewhere)
        self._sessions[number].given = given
        return number

    def _seat(
        self,
        member: Member | None,
        may_edit: bool,
        wants_acknowledgements: bool,
        is_elsewhere: bool = False,
    ) -> SessionNumber:
        number = next(_NUMBERS)
        self._nodes_here += member is None
        self._sessions[number] = Seat(number, member, may_edit, wants_acknowledgements, is_elsewhere)
        return number

    def leave(self, number: SessionNumber, now: float) -> Effects:
        """The session's connection is gone. Calling it again does nothing."""
        seat = self._sessions.pop(number, None)
        if seat is None:
            return NOTHING
        self._nodes_here -= seat.member is None
        effects: list[Effect] = [Unsubscribe(number)] if seat.greeted else []
        effects.extend(self._left(seat, now))
        return effects

    def change_role(self, number: SessionNumber, role: Role | None, now: float) -> Effects:
        """The member's role changed; None or a role that may not watch ends the session."""
        seat = self._sessions.get(number)
        if seat is None or seat.member is None or seat.member.role == role:
            return NOTHING
        if role is None or not may(role, Action.WATCH):
            return self._end(number, closing.NO_LONGER_ALLOWED, "you may no longer read this diagram", now)
        could_edit, seat.may_edit = seat.may_edit, may(role, Action.EDIT)
        seat.member = Member(seat.member.user, seat.member.sign_in, role)
        effects: list[Effect] = [ChangeRole(number, role)]
        if seat.refused and seat.may_edit and not could_edit:
            # What it drew as a reader was refused, and exists only there.
            effects.extend(self._settle(now))
            effects.extend(self._ask(seat))
        return effects

    def end_session(self, number: SessionNumber, code: int, reason: str, now: float) -> Effects:
        """Close one session from our side."""
        return self._end(number, code, reason, now) if number in self._sessions else NOTHING

    def _blame(self, number: SessionNumber, fault: BadFrame, now: float) -> Effects:
        """What a client sent is at fault: that ends its session, and changes nothing else."""
        return self.end_session(number, closing.BAD_FRAME, str(fault)[:120], now)

    def close_writers(self, code: int, reason: str, now: float) -> Effects:
        """Close everybody who may edit; readers stay, and so do nodes that follow."""
        writers = [number for number, seat in self._sessions.items() if seat.may_edit and seat.member]
        return [effect for number in writers for effect in self._end(number, code, reason, now)]

    def _end(self, number: SessionNumber, code: int, reason: str, now: float) -> Effects:
        return [*self.leave(number, now), Close(number, code, reason)]

    def _close_all(self, code: int, reason: str, now: float) -> Effects:
        return [e for number in list(self._sessions) for e in self._end(number, code, reason, now)]

    # --- joining --------------------------------------------------------------------------------

    def _sync(self, seat: Seat, state_vector: bytes) -> Effects:
        number = seat.number
        effects: list[Effect] = [self._difference(seat, state_vector)]
        if seat.greeted:
            # Hocuspocus' `forceSync` counts on being asked in return.
            effects.extend(self._ask(seat))
            return effects
        seat.greeted = True
        if not seat.is_slow:
            effects.append(Subscribe(number))
        effects.extend(self._ask(seat))
        effects.extend(self._everybody(number))
        if seat.is_slow:
            seat.is_slow = False
            self._note_behind(seat)
        return effects

    def _difference(self, seat: Seat, state_vector: bytes) -> Effect:
        number, given = seat.number, seat.given
        seat.given = None
        if state_vector != EMPTY_STATE_VECTOR:
            return Send(number, y_websocket.sync_step2(self.document.difference(state_vector)))
        base, later = self.document.parts()
        if base is given:
            return Send(number, y_websocket.sync_step2(later))
        return SendState(number, base, later)

    def _ask(self, seat: Seat) -> Effects:
        """Ask for what the session has and the room has not."""
        if len(seat.answers) >= _MAX_ASKED:
            return NOTHING  # one of the answers that are under way will bring it
        seat.answers += (seat.refused,)
        seat.refused = 0
        return [Send(seat.number, y_websocket.sync_step1(self.document.state_vector()))]

    def _everybody(self, number: SessionNumber) -> Effects:
        present = self._present()
        return NOTHING if present is None else [Send(number, y_websocket.awareness(present))]

    def settle(self, now: float) -> Effects:
        """Apply what is held: the document is as its editors see it."""
        return self._settle(now)

    # --- large edits ----------------------------------------------------------------------------

    def edit_by_steps(
        self, number: SessionNumber, message: SyncStep2 | Update
    ) -> Generator[Effects | None, float, None] | None:
        """As `receive`, for a large edit: each step wants to know the time, tells its effects, if any, and
        takes some milliseconds. None: it is for `receive`. Until the last step no other edit of the session
        is.
        """
        seat, update = self._sessions.get(number), message.update
        if seat is None or not self.is_open or self.document.tears(update):
            return None
        is_short = begins_plainly(update) is not None  # a few structs, whatever is in them
        if is_short or (seat.may_edit and not self._clearly_allows(len(update))):
            return None
        origin = Origin.SYNC if isinstance(message, SyncStep2) else Origin.UPDATE
        return self._edit_by_steps(seat, update, origin)

    def _edit_by_steps(
        self, seat: Seat, update: bytes, origin: Origin
    ) -> Generator[Effects | None, float, None]:
        seat.is_occupied = True
        now = yield None
        try:
            yield self._settle(now)  # what came before it may be held
            read = yield from read_by_steps(update)
            now = yield None
            try:
                is_taken = seat.may_edit and (yield from self._take_pieces(seat, update, read, origin))
            except NotWhole:
                is_taken = False
            if is_taken:
                return
            if seat.may_edit:  # it has no pieces, or the role was lost and is back
                yield [*self._settle(now), *self._edit(seat, update, origin, now)]
            else:
                adds, worth = self.document.adds(update, read), seat.worth(origin)
                yield self._look_on(seat, adds, origin, worth, now)
        except BadFrame as fault:
            yield self._blame(seat.number, fault, now)
        finally:
            seat.is_occupied = False

    @abstractmethod
    def _clearly_allows(self, size: int) -> bool:
        """Whether an edit of that size is within all limits, as can be seen without a look at it."""

    @abstractmethod
    def _take_pieces(
        self, seat: Seat, update: bytes, read: Sections, origin: Origin
    ) -> Generator[Effects | None, float, bool]:
        """Take all of it, and promise to acknowledge it. False: the role was lost meanwhile."""

    @abstractmethod
    def _edit(self, seat: Seat, update: bytes, origin: Origin, now: float) -> Effects:
        """Take it in one go."""

    @abstractmethod
    def _look_on(
        self, seat: Seat, adds: bool, origin: Origin, worth: tuple[int, int], now: float
    ) -> Effects:
        """Somebody who may not edit has sent something; `adds`: that is new."""

    # --- slow readers ---------------------------------------------------------------------------

    def pause(self, number: SessionNumber, now: float) -> Effects:
        """The session reads too slowly: send it no more until `resume`."""
        seat = self._sessions.get(number)
        if seat is None or seat.behind is not None:
            return NOTHING
        if not seat.greeted:
            seat.is_slow = True
            return NOTHING
        effects: list[Effect] = []
        # What is applied and not flushed would be in the state vector, and yet never sent: flush it first.
        self._flush_edits(effects, now)
        self._note_behind(seat)
        effects.append(Unsubscribe(number))
        return effects

    def _note_behind(self, seat: Seat) -> None:
        seat.behind, seat.behind_version = self.document.state_vector(), self.document.version
        seat.has_heard = self._presence_told()

    def resume(self, number: SessionNumber, now: float) -> Effects:
        """The session reads again: one difference brings it up to date."""
        seat = self._sessions.get(number)
        if seat is not None:
            seat.is_slow = False
        if seat is None or seat.behind is None:
            return NOTHING
        effects = self._settle(now)
        if number not in self._sessions:
            return effects  # something that it sent was at fault
        behind, seat.behind = seat.behind, None
        if seat.behind_version != self.document.version:
            effects.append(Send(number, y_websocket.update(self.document.difference(behind))))
        effects.append(Subscribe(number))
        # Not everybody again: that alone could make it a slow reader once more, and so on for ever.
        missed = self._presence_since(seat.has_heard)
        if missed is not None:
            effects.append(Send(number, y_websocket.awareness(missed)))
        return effects

    # --- the end --------------------------------------------------------------------------------

    def _become(self, happening: Happening) -> None:
        self.phase = NEXT[self.phase, happening]

    def deleted(self, now: float) -> Effects:
        """The diagram is gone."""
        self._become(Happening.DELETED)
        return self._close_all(closing.DIAGRAM_DELETED, "this diagram was deleted", now)
