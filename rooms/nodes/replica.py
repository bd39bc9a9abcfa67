"""A room that another node owns, as the clients of this node see it, without any I/O.

What it holds true:

- **The owner decides.** An edit goes to the owner, is applied, numbered and committed there, and comes back
  with what is broadcast: only then does it enter the document here. So the document is always what the owner
  had after some update, and nobody here sees updates in another order than there.
- **Nothing is given up before it is committed.** What a client sent stays here until the owner reports the
  commit. When the link or the owner is lost, the clients stay connected: the next owner is offered the
  document, is told once more whatever was not acknowledged, and acknowledges that.
- **A new owner gets everything.** What this replica has and the new owner has not, since the old one sent it
  out before it committed it, is offered as the answer to the owner's SyncStep1. What sessions sent goes after
  that: a client that synced with the document here did not send what is in it, and yet believes all of it
  saved when its SyncStep2 is acknowledged.

- **The owner counts.** Each client has a place in the owner's room, and is closed when there is none. A
  newcomer need not wait for that: between its coming and the owner's answer it is one too many. So that it
  stays with few of them, this node refuses others by itself for a while once the owner has refused one.

What can go wrong: more waits for an owner than `pending_max_bytes`. Then the writer is closed with 1013, and
keeps its edits, as all Yjs clients do.
"""

import contextlib
from collections import Counter, deque
from collections.abc import Generator, Iterator
from dataclasses import dataclass, field, replace

from crdt import y_websocket
from crdt.document import TAKEN_AT_ONCE_BYTES, Document
from crdt.merging import EMPTY_UPDATE, merge
from crdt.messages import Awareness, Message, QueryAwareness, SyncStep1, SyncStep2, Update
from crdt.structs import Sections
from crdt.updates import read_update
from rooms import closing
from rooms.audience import FULL, READ_ONLY, Audience, Seat
from rooms.bequest import Bequest
from rooms.effects import (
    NOTHING,
    Acknowledge,
    Broadcast,
    Effect,
    Effects,
    FlushAt,
    Forward,
    Refuse,
    Send,
    SessionNumber,
)
from rooms.lifecycle import Happening
from rooms.nodes.messages import (
    REPLICA,
    Acknowledged,
    Answered,
    Asked,
    Bring,
    Ended,
    Enter,
    Follow,
    Hear,
    Leave,
    Refused,
    RoleChanged,
    Say,
    Tell,
    Unfollow,
)
from rooms.nodes.presence import HeardPresence
from rooms.peer import Member
from tmi.domain.errors import BadFrame, BadUpdate, StateTooLarge
from tmi.domain.ids import DiagramId, Seq
from tmi.domain.ports import Origin


@dataclass(frozen=True, slots=True)
class ReplicaLimits:
    """Bounds of a replica."""

    sessions_max: int = 5_000
    pending_max_bytes: int = 8 * 1024 * 1024
    """What may wait for an acknowledgement."""
    awareness_max_bytes: int = 64 * 1024
    presence_max_bytes: int = 8 * 1024 * 1024
    """What sessions have said of themselves, all together."""
    ids_per_session: int = 16
    doubt_s: float = 5.0
    """So long after a change of owner, those of whom nobody has spoken are gone."""
    full_s: float = 1.0
    """After the owner refused a client since its room is full, others are refused here for so long."""


_NOTHING_NEW = Say(REPLICA, y_websocket.sync_step2(EMPTY_UPDATE))
"""Is acknowledged once all that the owner has applied by then is committed."""
_OF_ANOTHER_DOCUMENT = -1


@dataclass(slots=True)
class _Whole:
    """A large edit that crosses in pieces."""

    is_lacking: bool = False
    """The owner has refused one of them."""


@dataclass(frozen=True, slots=True)
class _Waiting:
    """An edit that the owner has not acknowledged."""

    message: Say | Bring
    syncs: int
    updates: int
    whole: _Whole | None = None
    """Of which large edit it is a piece. The last one is worth what all of it is, all others nothing."""


@dataclass(slots=True)
class _Unacknowledged:
    """What a session waits for, oldest first."""

    member: Member | None
    edits: deque[_Waiting] = field(default_factory=deque)


class Replica(Audience):
    """See the module's text."""

    def __init__(self, diagram: DiagramId, limits: ReplicaLimits, document: Document | None = None) -> None:
        super().__init__(diagram, document or Document(), limits.sessions_max)
        self.refusals = Counter()
        self._limits = limits
        self._presence = HeardPresence(
            ids_per_session=limits.ids_per_session,
            state_max_bytes=limits.awareness_max_bytes,
            max_bytes=limits.presence_max_bytes,
        )
        self._waiting: dict[SessionNumber, _Unacknowledged] = {}
        self._give_up_at: float | None = None
        self._full_until: float | None = None
        """The owner's room is full; none of those who are here has left since."""
        self.seq = Seq(0)
        """The number of the last update in the document; provisional until committed."""
        self.unsaved = 0
        """How many edits wait for the owner's acknowledgement."""
        self.unsaved_bytes = 0
        self.is_attached = False
        """There is an owner to talk to."""
        self._has_offered = False
        """This owner was offered the document: edits may follow."""
        self.is_synced = False
        """The document is one that an owner had."""
        self.asked = 0
        """How often an owner was asked for all that it has."""
        self.answered = 0
        """How many of these questions are answered, or will never be."""

    @property
    def presence_bytes(self) -> int:
        """What everybody's awareness takes, about."""
        return self._presence.size

    @property
    def is_full(self) -> bool:
        """No further client may join, as far as is known here."""
        return self._full_until is not None or super().is_full

    # --- from the clients -----------------------------------------------------------------------

    def receive(self, number: SessionNumber, message: Message, now: float) -> Effects:
        """Answer what can be answered here; everything else is the owner's."""
        seat = self._sessions.get(number)
        if seat is None:
            return NOTHING
        try:
            return self._answer(seat, message, now)
        except BadFrame as fault:
            if isinstance(fault, StateTooLarge):
                self.refusals["presence_state"] += 1
            return self._blame(number, fault, now)

    def hold(self, number: SessionNumber, update: bytes) -> bool:  # noqa: ARG002
        """Never: the owner has the edits wait for their tick."""
        return False

    def hold_awareness(self, number: SessionNumber, data: bytes) -> bool:  # noqa: ARG002
        """Never: it goes to the owner."""
        return False

    def _answer(self, seat: Seat, message: Message, now: float) -> Effects:
        if isinstance(message, Update):
            return self._edit(seat, message.update, Origin.UPDATE, now)
        if isinstance(message, Awareness):
            fresh = self._presence.say(seat.number, message.data)
            return NOTHING if fresh is None else self._forward(Say(seat.number, y_websocket.awareness(fresh)))
        if isinstance(message, SyncStep2):
            return self._edit(seat, message.update, Origin.SYNC, now)
        if isinstance(message, SyncStep1):
            return self._sync(seat, message.state_vector)
        if isinstance(message, QueryAwareness):
            return self._everybody(seat.number)
        raise BadFrame(f"a room takes no {type(message).__name__}")

    def _edit(self, seat: Seat, update: bytes, origin: Origin, now: float) -> Effects:
        worth = seat.worth(origin)
        if not seat.may_edit:
            return self._look_on(seat, self.document.would_add(update), origin, worth, now)
        return self._pass_on(seat, update, origin, worth, now)

    def _pass_on(
        self,
        seat: Seat,
        update: bytes,
        origin: Origin,
        worth: tuple[int, int],
        now: float,
        whole: _Whole | None = None,
    ) -> Effects:
        body = y_websocket.sync_step2(update) if origin is Origin.SYNC else y_websocket.update(update)
        if self.unsaved_bytes + len(body) > self._limits.pending_max_bytes:
            self.refusals["replica_pending"] += 1
            reason = "too many edits wait for the node that owns this diagram"
            return self._end(seat.number, closing.TRY_AGAIN_LATER, reason, now)
        edit = Say(seat.number, body)
        self._wait(seat.number, seat.member, _Waiting(edit, *worth, whole))
        return self._forward(edit) if self._has_offered else NOTHING

    def _clearly_allows(self, size: int) -> bool:
        return self.unsaved_bytes + size < self._limits.pending_max_bytes // 2

    def _take_pieces(
        self, seat: Seat, update: bytes, read: Sections, origin: Origin
    ) -> Generator[Effects | None, float, bool]:
        whole, last = _Whole(), EMPTY_UPDATE
        now = yield None
        for piece in self.document.pieces_of(update, read):
            if not seat.may_edit:
                return False
            effects = None
            if piece is not None:
                if last != EMPTY_UPDATE:
                    effects = self._pass_on(seat, last, Origin.UPDATE, (0, 0), now, whole)
                last = piece
            now = yield effects
        yield self._pass_on(seat, last, origin, seat.worth(origin), now, whole)
        return True

    def _look_on(
        self, seat: Seat, adds: bool, origin: Origin, worth: tuple[int, int], now: float
    ) -> Effects:
        if not adds:
            return self._pass_on(seat, EMPTY_UPDATE, origin, worth, now)
        seat.refused += sum(worth)
        return (Refuse(seat.number, READ_ONLY),)

    def _wait(self, number: SessionNumber, member: Member | None, edit: _Waiting) -> None:
        waiting = self._waiting.get(number)
        if waiting is None:
            waiting = self._waiting[number] = _Unacknowledged(member)
        waiting.edits.append(edit)
        self.unsaved += 1
        self.unsaved_bytes += len(edit.message.body)

    def _forward(self, *messages: Asked) -> Effects:
        return [Forward(message) for message in messages] if self.is_attached else NOTHING

    def entered(self, number: SessionNumber) -> Effects:
        """Tell the owner of a session that has joined."""
        seat = self._sessions[number]
        assert seat.member is not None
        return self._forward(Enter(number, seat.member))

    def _left(self, seat: Seat, now: float) -> Effects:  # noqa: ARG002
        self._full_until = None
        self._presence.leave(seat.number)
        effects = list(self._forward(Leave(seat.number)))
        waiting = self._waiting.pop(seat.number, None)
        if waiting is not None:
            # It is not told of any commit now; the replica waits for them instead, in its own name.
            self.unsaved -= len(waiting.edits)
            self.unsaved_bytes -= sum(len(edit.message.body) for edit in waiting.edits)
            effects.extend(self._adopt(waiting))
        return effects

    def _adopt(self, left: _Unacknowledged) -> Effects:
        try:
            updates = [update for edit in left.edits for update in _sound_updates(edit.message.body)]
            merged = merge(updates)
        except BadUpdate:
            return NOTHING  # the owner will not take it either
        if not updates:
            return NOTHING
        mine = Say(REPLICA, y_websocket.sync_step2(merged))
        self._wait(REPLICA, None, _Waiting(mine, 0, 0))
        # This owner has them from the one who left, unless it has not been offered the document yet.
        return self._forward(_NOTHING_NEW if self._has_offered else mine)

    # --- the owner ------------------------------------------------------------------------------

    def attach(self, now: float) -> Effects:
        """There is an owner: tell it what is here and who is here, and, once it has asked, what is not
        acknowledged.
        """
        self.is_attached = True
        self._has_offered = False
        self.asked += 1
        self._full_until = None
        self._presence.doubt()
        self._give_up_at = now + self._limits.doubt_s
        effects: list[Effect] = [Forward(Follow(self.diagram, self.document.state_vector()))]
        # First what others may build on: who waits for that here is acknowledged when it is committed.
        effects.extend(self._say_again(REPLICA))
        for number, seat in self._sessions.items():
            if seat.member is not None:
                effects.append(Forward(Enter(number, seat.member)))
            said = self._presence.said_by(number)
            if said is not None:
                effects.append(Forward(Say(number, y_websocket.awareness(said))))
        effects.append(FlushAt(self._give_up_at))
        return effects

    def _say_again(self, number: SessionNumber) -> Iterator[Effect]:
        waiting = self._waiting.get(number)
        return iter(()) if waiting is None else (Forward(edit.message) for edit in waiting.edits)

    def detach(self) -> None:
        """The owner is lost; the clients stay, and what they send waits for the next one."""
        self.is_attached = False
        self.answered = self.asked

    def ask(self) -> Effects:
        """Ask the owner for all that it has by now."""
        self.asked += 1
        return self._forward(Say(REPLICA, y_websocket.sync_step1(self.document.state_vector())))

    def large_state_in(self, message: Answered) -> bytes | None:
        """The state that a message brings to a replica that has nothing so far, if it is large."""
        if not isinstance(message, Tell | Hear) or len(message.body) <= TAKEN_AT_ONCE_BYTES:
            return None
        if self.is_synced or not self.document.is_empty:
            return None
        try:
            part, *more = y_websocket.decode(message.body)
        except BadFrame:
            return None  # `hear` will tell
        return part.update if isinstance(part, Update | SyncStep2) and not more else None

    def without_state(self, message: Answered) -> Answered:
        """The message, when the document has taken the state that it brought."""
        assert isinstance(message, Tell | Hear)
        (part,) = y_websocket.decode(message.body)
        is_answer = isinstance(part, SyncStep2)
        body = y_websocket.sync_step2(EMPTY_UPDATE) if is_answer else y_websocket.update(EMPTY_UPDATE)
        return replace(message, body=body)

    def hear(self, message: Answered, now: float) -> Effects:
        """Handle what the owner says. Raises BadFrame for what no owner says."""
        if isinstance(message, Hear):
            self.seq = message.seq
            return self._take(message.body, message.but or None)
        if isinstance(message, Tell):
            if message.session == REPLICA:
                self.seq = message.seq
                return self._take(message.body, None)
            return self._told(message)
        if isinstance(message, Acknowledged):
            return self._acknowledged(message)
        if isinstance(message, Refused):
            return self._refused(message)
        if isinstance(message, RoleChanged):
            return self.change_role(message.session, message.role, now)
        if isinstance(message, Ended):
            return self._ended(message, now)
        return NOTHING

    def _take(self, body: bytes, but: SessionNumber | None) -> Effects:
        effects: list[Effect] = []
        for part in y_websocket.decode(body):
            if isinstance(part, Awareness):
                self._presence.hear(part.data)
                effects.append(Broadcast(body, but))
            elif isinstance(part, SyncStep1):
                effects.extend(self._offer(part.state_vector))
            elif isinstance(part, Update | SyncStep2):
                effects.extend(self._integrate(part, but))
        return effects

    def _integrate(self, part: Update | SyncStep2, but: SessionNumber | None) -> Effects:
        if isinstance(part, SyncStep2):
            self.is_synced = True
            self.answered = min(self.answered + 1, self.asked)
        applied = self.document.apply(part.update)
        self.document.bytes_estimate += len(part.update)
        effects: list[Effect] = []
        if applied.relay != EMPTY_UPDATE:
            effects.append(Broadcast(y_websocket.update(applied.relay), but))
        if applied.gap:
            effects.extend(self.ask())
        return effects

    def _offer(self, state_vector: bytes) -> Effects:
        body = y_websocket.sync_step2(self.document.difference(state_vector))
        # It needs no keeping: the document is offered to every owner.
        self._wait(REPLICA, None, _Waiting(_NOTHING_NEW, 0, 0))
        effects = list(self._forward(Say(REPLICA, body)))
        if self.is_attached and not self._has_offered:
            self._has_offered = True
            for number in self._waiting:
                if number != REPLICA:
                    effects.extend(self._say_again(number))
        return effects

    def _told(self, message: Tell) -> Effects:
        seat = self._sessions.get(message.session)
        if seat is None:
            return NOTHING
        if message.body.startswith(b"\x00\x00"):
            # The owner misses something of this session's: the question is counted here.
            return self._ask(seat)
        return (Send(message.session, message.body),)

    def _acknowledged(self, message: Acknowledged) -> Effects:
        waiting = self._waiting.get(message.session)
        if waiting is None:
            return NOTHING
        syncs = updates = 0
        effects: list[Effect] = []
        for _ in range(min(message.count, len(waiting.edits))):
            edit = self._drop_oldest(waiting)
            if edit.whole is None or not edit.whole.is_lacking:
                syncs += edit.syncs
                updates += edit.updates
            else:
                effects.extend(self._not_taken(message.session, edit, READ_ONLY))
                # The role was lost and is back: nobody else will ask for what was refused.
                if edit.syncs + edit.updates and message.session in self._sessions:
                    effects.extend(self._ask(self._sessions[message.session]))
        if not waiting.edits:
            del self._waiting[message.session]
        seat = self._sessions.get(message.session)
        if seat is None or not seat.wants_acknowledgements or not syncs + updates:
            return effects
        return [Acknowledge(message.session, syncs, updates), *effects]

    def _refused(self, message: Refused) -> Effects:
        """The owner knows of a demotion that had not arrived here yet."""
        waiting = self._waiting.get(message.session)
        if message.session not in self._sessions or waiting is None:
            return NOTHING
        edit = self._drop_oldest(waiting)
        if not waiting.edits:
            del self._waiting[message.session]
        return self._not_taken(message.session, edit, message.reason)

    def _not_taken(self, number: SessionNumber, edit: _Waiting, reason: str) -> Effects:
        seat = self._sessions.get(number)
        if edit.whole is not None:
            edit.whole.is_lacking = True
        if seat is None or not edit.syncs + edit.updates:
            return NOTHING
        seat.refused += edit.syncs + edit.updates
        return (Refuse(number, reason),)

    def _drop_oldest(self, waiting: _Unacknowledged) -> _Waiting:
        edit = waiting.edits.popleft()
        self.unsaved -= 1
        self.unsaved_bytes -= len(edit.message.body)
        return edit

    def _ended(self, message: Ended, now: float) -> Effects:
        if message.session != REPLICA:
            effects = self.end_session(message.session, message.code, message.reason, now)
            return [*effects, *self._found_full(now)] if message.reason == FULL else effects
        self._become(Happening.DELETED if message.code == closing.DIAGRAM_DELETED else Happening.LOG_REFUSED)
        return self._close_all(message.code, message.reason, now)

    def _found_full(self, now: float) -> Effects:
        self._full_until = now + self._limits.full_s
        return (FlushAt(self._full_until),)

    # --- sessions of a room that stood down -----------------------------------------------------

    def catch_up(self, left: Bequest) -> Effects:
        """Bring those who are here already up to what that room had; before `inherit`."""
        self.is_synced = True
        if left.document is self.document:
            return NOTHING
        missing = left.document.difference(self.document.state_vector())
        applied = self.document.apply(missing)
        if applied.relay == EMPTY_UPDATE:
            return NOTHING
        self.document.bytes_estimate += len(missing)
        return (Broadcast(y_websocket.update(applied.relay)),)

    def inherit(self, left: Bequest) -> Effects:
        """Go on with the sessions of a room of this node, which another one owns now, or will in a moment.

        What that room accepted and may not have committed is brought to the next owner first of all, as whose
        it is. So the messages that waited for its commit need not say anything again: they are acknowledged
        once everything before them is committed.
        """
        self.seq = max(self.seq, left.seq)
        for update in left.unsaved:
            bring = Bring(update.author, update.origin, update.data)
            self._wait(REPLICA, None, _Waiting(bring, 0, 0))
        self._sessions.update(left.seats)
        for seat in left.seats.values():
            seat.has_heard = 0  # the room counted otherwise
        for number, (syncs, updates) in left.owed.items():
            nothing = Say(number, _NOTHING_NEW.body)
            self._wait(number, left.seats[number].member, _Waiting(nothing, syncs, updates))
        self._presence.inherit(left.present, left.said)
        return NOTHING if left.document is self.document else self._level(left)

    def _level(self, left: Bequest) -> Effects:
        """Bring those who came up to what this replica had before."""
        gained = self.document.difference(left.document.state_vector())
        is_news = left.document.would_add(gained)
        effects: list[Effect] = []
        for number, seat in left.seats.items():
            if seat.behind is not None:
                seat.behind_version = _OF_ANOTHER_DOCUMENT
            elif seat.greeted and is_news:
                effects.append(Send(number, y_websocket.update(gained)))
        return effects

    # --- what every audience does ---------------------------------------------------------------

    def _settle(self, now: float) -> list[Effect]:  # noqa: ARG002
        return []

    def _flush_edits(self, effects: list[Effect], now: float) -> None:
        """Nothing waits here."""

    def _present(self) -> bytes | None:
        return self._presence.everybody()

    def _presence_told(self) -> int:
        return self._presence.heard

    def _presence_since(self, told: int) -> bytes | None:
        return self._presence.since(told)

    def flush(self, now: float) -> Effects:
        """Give up those who did not come back with the new owner, and ask again whether its room is full."""
        effects: list[Effect] = []
        if self._full_until is not None:
            if now < self._full_until:
                effects.append(FlushAt(self._full_until))
            else:
                self._full_until = None
        return [*effects, *self._give_up(now)]

    def _give_up(self, now: float) -> Effects:
        if self._give_up_at is None or not self.is_attached:
            return NOTHING
        if now < self._give_up_at:
            return (FlushAt(self._give_up_at),)
        self._give_up_at = None
        gone = self._presence.give_up()
        return NOTHING if gone is None else (Broadcast(y_websocket.awareness(gone)),)

    # --- the end --------------------------------------------------------------------------------

    def close_if_idle(self) -> Effects:
        """Nobody is here, and everything is acknowledged: end."""
        if not self.is_empty or self.unsaved:
            return NOTHING
        effects = self._forward(Unfollow())
        self._become(Happening.IDLE)
        self._become(Happening.SAVED)
        self.is_attached = False
        return effects

    def drain(self, now: float) -> Effects:
        """Send everybody away to come back elsewhere. What is not acknowledged stays with the clients."""
        effects = self._close_all(closing.SERVICE_RESTART, "this node is restarting; connect again", now)
        self._become(Happening.DRAIN)
        self._become(Happening.SAVED)
        return effects


def _sound_updates(body: bytes) -> Iterator[bytes]:
    """What can be decoded. The rest is a client's fault, which must not become the replica's at the owner."""
    for part in y_websocket.decode(body):
        if isinstance(part, Update | SyncStep2):
            with contextlib.suppress(BadFrame):
                read_update(part.update)
                yield part.update
