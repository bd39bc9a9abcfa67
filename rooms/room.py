"""A room: one diagram's document and everybody who edits it, without any I/O.

The room is told what happens (`join`, `receive`, `flush`, `committed`, ...) and answers with effects
(`rooms/effects.py`); it knows no socket, no database and no clock but the `now` it is given (seconds,
monotonic). What it holds true:

- **One total order.** Updates are applied in the order they arrive and numbered without gaps (`seq`). What
  changes the document, or would once a gap is filled, gets a number; what adds nothing gets none.
- **Acknowledged means committed**, and **what is applied is journaled**: see `rooms/unsaved.py`. Edits of a
  busy room wait for the end of their tick before they are applied, numbered and promised anything: see
  `rooms/held.py`.
- **Fan-out carries everything.** What a subscribed session has been sent, with its own edits, adds up to the
  document as of the last flush. A session that reads too slowly is unsubscribed together with the state
  vector of that moment, and gets the difference from it when it reads again.

What can go wrong: a client's bytes (BadFrame: its session ends, nothing else changes), the fence (the room
stands down), the store refusing this room's rows (the room ends; its clients keep their edits and offer them
to the next room).
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from crdt import y_websocket
from crdt.document import EMPTY_STATE_VECTOR, EMPTY_UPDATE, Applied, Document, merge
from crdt.messages import Awareness, Message, QueryAwareness, SyncStep1, SyncStep2, Update
from rooms import closing
from rooms.effects import (
    NOTHING,
    Acknowledge,
    Broadcast,
    ChangeRole,
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
from rooms.held import Held, by_author
from rooms.lifecycle import NEXT, Happening, Phase
from rooms.pacing import Pacer
from rooms.peer import Member
from rooms.presence import Presence
from rooms.size import SizeLimit
from rooms.unsaved import Unsaved
from tmi.domain.errors import BadFrame, TooLarge
from tmi.domain.ids import DiagramId, Fence, Seq, UserId
from tmi.domain.ports import Origin, RoomBatch
from tmi.domain.roles import Action, Role, may

_JOURNAL = Journal()
_MAX_ASKED = 16
"""SyncStep1s to one session that may be unanswered."""

TOO_LARGE = "this diagram has reached its size limit: only deleting helps"
READ_ONLY = "your role on this threat model does not allow editing"


@dataclass(frozen=True, slots=True)
class RoomLimits:
    """Bounds of a room; times in seconds."""

    tick_s: float = 0.015
    """At most this long an edit waits for others in a busy room."""
    awareness_tick_s: float = 0.035
    quiet_copies_per_s: float = 8000.0
    """Up to this many copies a second are sent at once, without a tick."""
    batch_max_updates: int = 2000
    batch_max_bytes: int = 4 * 1024 * 1024
    held_max_bytes: int = 256 * 1024
    """Edits that wait for the end of their tick; more are applied at once."""
    awareness_max_bytes: int = 64 * 1024
    ids_per_session: int = 16
    document_max_bytes: int = 64 * 1024 * 1024
    """The document's encoded size, from where on edits only may delete."""
    measure_interval_s: float = 10.0
    """How often a document at its limit is measured, unless it grows fast: 64 MiB take 0.4 s."""
    sessions_max: int = 5_000


@dataclass(slots=True)
class _Session:
    number: SessionNumber
    member: Member
    may_edit: bool
    wants_acknowledgements: bool
    greeted: bool = False
    """Its first SyncStep1 was answered."""
    behind: bytes | None = None
    """The state vector it had when it stopped reading."""
    behind_version: int = -1
    """The document's version of that moment."""
    asked_at: int = -1
    """The document version at which it was last asked to fill a gap."""
    refused: int = 0
    """How many of its edits were refused."""
    answers: list[int] = field(default_factory=list)
    """Our SyncStep1s that it has not answered yet: for each how many refused edits its answer makes good.

    The Hocuspocus provider counts one for the first sync of a connection and one for each Update, refused or
    not, and believes itself saved when as many were accepted. So nobody is asked twice for the same thing,
    and the answer that brings refused edits accepts them all. A list, since an empty deque takes 600 bytes.
    """


class Room:
    """See the module's text. Not thread-safe; every method returns at once."""

    def __init__(
        self, diagram: DiagramId, fence: Fence, document: Document, seq: Seq, limits: RoomLimits
    ) -> None:
        self.diagram = diagram
        self.fence = fence
        self.document = document
        self.phase = Phase.OPEN
        self._limits = limits
        self._sessions: dict[SessionNumber, _Session] = {}
        self._next_number = 1
        self._presence = Presence(
            ids_per_session=limits.ids_per_session, state_max_bytes=limits.awareness_max_bytes
        )
        self._held: Held[_Session] = Held(document)
        self._relay: list[bytes] = []
        self._relay_from: SessionNumber | None = None
        self._unsaved = Unsaved(
            seq, batch_max_updates=limits.batch_max_updates, batch_max_bytes=limits.batch_max_bytes
        )
        self._size = SizeLimit(document, limits.document_max_bytes, limits.measure_interval_s)
        self._edits = Pacer(limits.tick_s, limits.quiet_copies_per_s)
        self._cursors = Pacer(limits.awareness_tick_s, limits.quiet_copies_per_s)

    # --- sessions -------------------------------------------------------------------------------

    @property
    def members(self) -> Mapping[SessionNumber, Member]:
        """Who is connected, by session."""
        return {number: session.member for number, session in self._sessions.items()}

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
        """How many sessions are connected."""
        return len(self._sessions)

    @property
    def is_full(self) -> bool:
        """No further session may join."""
        return len(self._sessions) >= self._limits.sessions_max

    @property
    def is_empty(self) -> bool:
        """Nobody is connected."""
        return not self._sessions

    @property
    def seq(self) -> Seq:
        """The last number given; provisional until committed."""
        return self._unsaved.seq

    @property
    def committed_seq(self) -> Seq:
        """The last number that is in the log."""
        return self._unsaved.committed_seq

    @property
    def unsaved(self) -> int:
        """How many accepted updates are not committed."""
        return self._unsaved.seq - self._unsaved.committed_seq + len(self._held)

    @property
    def unsaved_bytes(self) -> int:
        """Their size, without those that wait for the end of their tick."""
        return self._unsaved.size

    @property
    def unacknowledged(self) -> int:
        """How many messages wait for a commit."""
        return self._unsaved.messages

    def join(self, member: Member, wants_acknowledgements: bool = True) -> SessionNumber:
        """Let somebody in who may watch this diagram. Only while the phase is OPEN.

        Without `wants_acknowledgements` no commit is told to this session, which saves the counting.
        """
        number = self._next_number
        self._next_number += 1
        self._sessions[number] = _Session(
            number, member, may(member.role, Action.EDIT), wants_acknowledgements
        )
        return number

    def leave(self, number: SessionNumber, now: float) -> Effects:
        """The session's connection is gone. Calling it again does nothing."""
        session = self._sessions.pop(number, None)
        if session is None:
            return NOTHING
        effects: list[Effect] = [Unsubscribe(number)] if session.greeted else []
        if self._presence.leave(number):
            effects.append(FlushAt(self._cursors.due(now, len(self._sessions))))
        return effects

    def change_role(self, number: SessionNumber, role: Role | None, now: float) -> Effects:
        """The member's role changed; None or a role that may not watch ends the session."""
        session = self._sessions.get(number)
        if session is None or session.member.role == role:
            return NOTHING
        if role is None or not may(role, Action.WATCH):
            return self._end(number, closing.NO_LONGER_ALLOWED, "you may no longer read this diagram", now)
        could_edit, session.may_edit = session.may_edit, may(role, Action.EDIT)
        session.member = Member(session.member.user, session.member.sign_in, role)
        effects: list[Effect] = [ChangeRole(number, role)]
        if session.refused and session.may_edit and not could_edit:
            # What it drew as a reader was refused, and exists only there.
            effects.extend(self._settle(now))
            effects.extend(self._ask(session))
        return effects

    def end_session(self, number: SessionNumber, code: int, reason: str, now: float) -> Effects:
        """Close one session from our side."""
        return self._end(number, code, reason, now) if number in self._sessions else NOTHING

    def close_writers(self, code: int, reason: str, now: float) -> Effects:
        """Close everybody who may edit; readers stay."""
        writers = [number for number, session in self._sessions.items() if session.may_edit]
        return [effect for number in writers for effect in self._end(number, code, reason, now)]

    def _end(self, number: SessionNumber, code: int, reason: str, now: float) -> Effects:
        return [*self.leave(number, now), Close(number, code, reason)]

    # --- what sessions send ---------------------------------------------------------------------

    def receive(self, number: SessionNumber, message: Message, now: float) -> Effects:
        """Handle one message. A client's fault ends its session, and changes nothing else."""
        session = self._sessions.get(number)
        if session is None:
            return NOTHING
        if isinstance(message, Update) and self._hold(session, message.update):
            return self._held_back(now)
        effects = NOTHING if isinstance(message, Awareness) else self._settle(now)
        if number not in self._sessions:
            return effects  # something that it sent before was at fault
        try:
            return [*effects, *self._answer(session, message, now)]
        except BadFrame as fault:
            return [*effects, *self._end(number, closing.BAD_FRAME, str(fault)[:120], now)]

    def _answer(self, session: _Session, message: Message, now: float) -> Effects:
        if isinstance(message, Update):
            return self._edit(session, message.update, Origin.UPDATE, now)
        if isinstance(message, Awareness):
            return self._aware(session, message.data, now)
        if isinstance(message, SyncStep2):
            return self._edit(session, message.update, Origin.SYNC, now)
        if isinstance(message, SyncStep1):
            return self._sync(session, message.state_vector)
        if isinstance(message, QueryAwareness):
            return self._everybody(session.number)
        raise BadFrame(f"a room takes no {type(message).__name__}")

    def hold(self, number: SessionNumber, update: bytes) -> bool:
        """Add an Update message to others that wait for their tick; False if it is for `receive`.

        Nearly all edits of a busy room go this way.
        """
        session = self._sessions.get(number)
        return (
            session is not None
            and 0 < self._held.size < self._limits.held_max_bytes
            and self._hold(session, update)
        )

    def _hold(self, session: _Session, update: bytes) -> bool:
        held = self._held
        is_small = self._size.clearly_allows(held.size + len(update))
        try:
            return session.may_edit and is_small and held.take(session, update)
        except BadFrame:
            return False  # it will be told when what came before it is applied

    def _held_back(self, now: float) -> Effects:
        if len(self._held) == 1:
            return (FlushAt(self._edits.due(now, len(self._sessions))),)
        return self._settle(now) if self._held.size > self._limits.held_max_bytes else NOTHING

    def _sync(self, session: _Session, state_vector: bytes) -> Effects:
        number = session.number
        effects: list[Effect] = [self._difference(number, state_vector)]
        if session.greeted:
            # Hocuspocus' `forceSync` counts on being asked in return.
            effects.extend(self._ask(session))
            return effects
        session.greeted = True
        effects.append(Subscribe(number))
        effects.extend(self._ask(session))
        effects.extend(self._everybody(number))
        return effects

    def _difference(self, number: SessionNumber, state_vector: bytes) -> Effect:
        if state_vector == EMPTY_STATE_VECTOR:
            return SendState(number, *self.document.parts())
        return Send(number, y_websocket.sync_step2(self.document.difference(state_vector)))

    def _ask(self, session: _Session) -> Effects:
        """Ask for what the session has and the room has not."""
        if len(session.answers) >= _MAX_ASKED:
            return NOTHING  # one of the answers that are under way will bring it
        session.answers.append(session.refused)
        session.refused = 0
        return [Send(session.number, y_websocket.sync_step1(self.document.state_vector()))]

    def _everybody(self, number: SessionNumber) -> Effects:
        present = self._presence.everybody()
        return NOTHING if present is None else [Send(number, y_websocket.awareness(present))]

    def _aware(self, session: _Session, data: bytes, now: float) -> Effects:
        was_dirty = self._presence.dirty
        back = self._presence.receive(session.number, session.member.user, data)
        effects: list[Effect] = []
        if back is not None:
            effects.append(Send(session.number, y_websocket.awareness(back)))
        if self._presence.dirty:
            self._cursors.count(now)
            if not was_dirty:
                effects.append(FlushAt(self._cursors.due(now, len(self._sessions))))
        return effects

    def _edit(self, session: _Session, update: bytes, origin: Origin, now: float) -> Effects:
        syncs, updates = self._worth(session, origin)
        if not session.may_edit:
            if self.document.would_add(update):
                session.refused += syncs + updates
                return (Refuse(session.number, READ_ONLY),)
            return self._acknowledge_later(session, syncs, updates)
        if not self._size.allows(update, now):
            return self._end(session.number, closing.DOCUMENT_TOO_LARGE, TOO_LARGE, now)
        self._edits.count(now)
        applied = self.document.apply(update)
        if not applied.adds:
            return self._acknowledge_later(session, syncs, updates)
        effects = self._number(applied.journal, session.member.user, origin)
        effects.extend(self._relay_later(applied.relay, session if applied.relay == update else None, now))
        if session.wants_acknowledgements:
            self._unsaved.wait(session.number, syncs, updates)
        if applied.gap:
            effects.extend(self._ask_for_gap(session))
        return effects

    def settle(self, now: float) -> Effects:
        """Apply what is held: the document is as its editors see it."""
        return self._settle(now)

    def _settle(self, now: float) -> list[Effect]:
        if not self._held:
            return []
        applied, edits, alone = self._held.apply()
        self._edits.count(now, len(edits) + len(alone))
        effects: list[Effect] = []
        if applied is not None and len(edits) == 1 and applied.adds and not applied.gap:
            # Most edits of quiet rooms: the same as below, at half the cost.
            session = edits[0][0]
            self._relay_later(applied.relay, session if applied.relay == applied.journal else None, now)
            effects = self._number(applied.journal, session.member.user, Origin.UPDATE)
            if session.wants_acknowledgements:
                self._unsaved.wait(session.number, 0, 1)
            return effects
        if applied is not None and applied.adds:
            effects.extend(self._number_together(applied, edits))
            first = edits[0][0] if edits else None
            is_from_one = first is not None and all(session is first for session, _ in edits)
            has_its_own = is_from_one and (applied.relay == applied.journal)
            # The flush that the first held edit asked for will find it.
            self._relay_later(applied.relay, first if has_its_own else None, now)
        for session, _ in edits:
            effects.extend(self._acknowledge_later(session, 0, 1))
            if applied is not None and applied.gap:
                effects.extend(self._ask_for_gap(session))
        for session, update in alone:
            try:
                effects.extend(self._edit(session, update, Origin.UPDATE, now))
            except BadFrame as fault:
                effects.extend(self.end_session(session.number, closing.BAD_FRAME, str(fault)[:120], now))
        return effects

    def _number_together(self, applied: Applied, edits: Sequence[tuple[_Session, bytes]]) -> list[Effect]:
        """Number what was applied as one: an update for each user."""
        users = {session.member.user for session, _ in edits}
        if len(users) <= 1:
            return self._number(applied.journal, users.pop() if users else None, Origin.UPDATE)
        effects: list[Effect] = []
        for session, update in by_author(edits, lambda session: session.member.user):
            effects.extend(self._number(update, session.member.user, Origin.UPDATE))
        return effects

    def _worth(self, session: _Session, origin: Origin) -> tuple[int, int]:
        """How many messages the commit of this one acknowledges: SyncStep2 and Update."""
        if origin is not Origin.SYNC:
            return 0, 1
        refused = session.answers.pop(0) if session.answers else 0
        return 1, max(refused - 1, 0)

    def _number(self, update: bytes, author: UserId | None, origin: Origin) -> list[Effect]:
        """Number an applied update, and queue it for the journal."""
        effects: list[Effect] = [] if self._unsaved.can_be_taken else [_JOURNAL]
        self._unsaved.add(update, author, origin)
        self.document.bytes_estimate += len(update)
        return effects

    def _relay_later(self, relay: bytes, source: _Session | None, now: float) -> Effects:
        """Queue what was integrated for everybody but `source`, who has all of it."""
        if relay == EMPTY_UPDATE:
            return NOTHING  # all of it waits for something; it goes out when that has come
        relay_from = None if source is None else source.number
        is_first = not self._relay
        self._relay_from = relay_from if is_first or self._relay_from == relay_from else None
        self._relay.append(relay)
        return (FlushAt(self._edits.due(now, len(self._sessions))),) if is_first else NOTHING

    def _ask_for_gap(self, session: _Session) -> Effects:
        if session.answers or session.asked_at == self.document.version:
            return NOTHING  # an answer that is under way will bring it
        session.asked_at = self.document.version
        return self._ask(session)

    def _acknowledge_later(self, session: _Session, syncs: int, updates: int) -> Effects:
        """It added nothing: it is as durable as what the room has applied so far."""
        if not session.wants_acknowledgements:
            return NOTHING
        if self._unsaved.seq == self._unsaved.committed_seq:
            return (Acknowledge(session.number, syncs, updates),)
        self._unsaved.wait(session.number, syncs, updates)
        return NOTHING

    def edit(
        self, change: Callable[[Document], bytes | None], author: UserId | None, origin: Origin, now: float
    ) -> Effects:
        """Change the document from the server's side in one transaction, after `settle`.

        `change` returns its update, or None. Raises TooLarge when the document is at its size limit.
        """
        assert not self._held, "settle first"
        if self._size.is_passed:
            raise TooLarge(TOO_LARGE)
        update = change(self.document)
        if update is None:
            return NOTHING
        self._edits.count(now)
        return [*self._number(update, author, origin), *self._relay_later(update, None, now)]

    # --- fan-out --------------------------------------------------------------------------------

    def flush(self, now: float) -> Effects:
        """Send out what is due; says when to call again if something has to wait."""
        effects: list[Effect] = []
        members = len(self._sessions)
        if self._relay or self._held:
            due = self._edits.due(now, members)
            if due <= now:
                self._flush_edits(effects, now)
            else:
                effects.append(FlushAt(due))
        if self._presence.dirty:
            due = self._cursors.due(now, members)
            if due <= now:
                self._cursors.flushed_at = now
                data, source = self._presence.take_changes()
                effects.append(Broadcast(y_websocket.awareness(data), source))
            else:
                effects.append(FlushAt(due))
        return effects

    def _flush_edits(self, effects: list[Effect], now: float) -> None:
        effects.extend(self._settle(now))
        relay = self._relay
        if not relay:
            return
        self._edits.flushed_at = now
        merged = relay[0] if len(relay) == 1 else merge(relay)
        # An update of one author alone needs no echo: the protocols send none.
        effects.append(Broadcast(y_websocket.update(merged), self._relay_from))
        self._relay = []
        self._relay_from = None

    def pause(self, number: SessionNumber, now: float) -> Effects:
        """The session reads too slowly: send it no more until `resume`."""
        session = self._sessions.get(number)
        if session is None or session.behind is not None or not session.greeted:
            return NOTHING
        effects: list[Effect] = []
        # What is applied and not flushed would be in the state vector, and yet never sent: flush it first.
        self._flush_edits(effects, now)
        session.behind, session.behind_version = self.document.state_vector(), self.document.version
        effects.append(Unsubscribe(number))
        return effects

    def resume(self, number: SessionNumber, now: float) -> Effects:
        """The session reads again: one difference brings it up to date."""
        session = self._sessions.get(number)
        if session is None or session.behind is None:
            return NOTHING
        effects = self._settle(now)
        behind, session.behind = session.behind, None
        if session.behind_version != self.document.version:
            effects.append(Send(number, y_websocket.update(self.document.difference(behind))))
        effects.append(Subscribe(number))
        return [*effects, *self._everybody(number)]

    # --- the journal ----------------------------------------------------------------------------

    def take_batch(self) -> RoomBatch | None:
        """The next updates to commit, bounded; None if there are none or a batch is still in flight."""
        batch = () if self.is_over else self._unsaved.take()
        return RoomBatch(self.diagram, self.fence, batch) if batch else None

    def committed(self) -> Effects:
        """The batch in flight is committed: acknowledge everything that waited for it."""
        if self.is_over:
            return NOTHING
        sessions = self._sessions
        effects: list[Effect] = [
            Acknowledge(number, syncs, updates)
            for number, (syncs, updates) in self._unsaved.committed().items()
            if number in sessions
        ]
        if self._unsaved.can_be_taken:
            effects.append(_JOURNAL)
        elif self.phase is Phase.CLOSING:
            self._become(Happening.SAVED)
        return effects

    # --- the end --------------------------------------------------------------------------------

    def _become(self, happening: Happening) -> None:
        self.phase = NEXT[self.phase, happening]

    def close_if_idle(self) -> None:
        """Nobody is here: end after the last commit."""
        if self.is_empty:
            self._finish(Happening.IDLE)

    def drain(self, now: float) -> Effects:
        """Send everybody away to come back elsewhere, and end after the last commit."""
        effects: list[Effect] = []
        self._flush_edits(effects, now)
        reason = "this node is restarting; connect again"
        effects.extend(self._close_all(closing.SERVICE_RESTART, reason, now))
        self._finish(Happening.DRAIN)
        return effects

    def fence_lost(self, now: float) -> Effects:
        """Another node owns the room: what is not committed stays with the clients, who offer it there."""
        self._become(Happening.FENCE_LOST)
        return self._close_all(closing.SERVICE_RESTART, "the room has moved; connect again", now)

    def log_refused(self, now: float) -> Effects:
        """The store will not take this room's rows: end, so that nobody believes them saved."""
        self._become(Happening.LOG_REFUSED)
        return self._close_all(closing.INTERNAL_ERROR, "this diagram cannot be saved at present", now)

    def deleted(self, now: float) -> Effects:
        """The diagram is gone."""
        self._become(Happening.DELETED)
        return self._close_all(closing.DIAGRAM_DELETED, "this diagram was deleted", now)

    def _finish(self, happening: Happening) -> None:
        self._become(happening)
        if not self.unsaved:
            self._become(Happening.SAVED)

    def _close_all(self, code: int, reason: str, now: float) -> Effects:
        return [e for number in list(self._sessions) for e in self._end(number, code, reason, now)]
