"""A room: one diagram's document and everybody who edits it, without any I/O.

The room is told what happens (`join`, `receive`, `flush`, `committed`, ...) and answers with effects
(`rooms/effects.py`); it knows no socket, no database and no clock but the `now` it is given (seconds,
monotonic). What it holds true:

- **One total order.** Updates are applied in the order they arrive and numbered without gaps (`seq`). What
  changes the document, or would once a gap is filled, gets a number; what adds nothing gets none.
- **Acknowledged means committed**, and **what is applied is journaled**: see `rooms/unsaved.py`. Edits of a
  busy room wait for the end of their tick before they are applied, numbered and promised anything
  (`rooms/held.py`), and what came of them for the flush that sends it out (`rooms/relay.py`).
- **Fan-out carries everything.** What a subscribed session has been sent, with its own edits, adds up to the
  document as of the last flush. A session that reads too slowly is unsubscribed together with the state
  vector of that moment, and gets the difference from it when it reads again.

What can go wrong: a client's bytes (BadFrame: its session ends, nothing else changes), the fence (the room
stands down), the store refusing this room's rows (the room ends; its clients keep their edits and offer them
to the next room).
"""

from collections import Counter
from collections.abc import Callable, Collection, Generator, Sequence
from dataclasses import dataclass

from crdt import y_websocket
from crdt.document import Applied, Document
from crdt.merging import EMPTY_UPDATE
from crdt.messages import Awareness, Message, QueryAwareness, SyncStep1, SyncStep2, Update
from crdt.pieces import NotWhole
from crdt.plain import begins_plainly
from crdt.structs import Sections, read_by_steps
from rooms import closing
from rooms.audience import READ_ONLY, Audience, Seat
from rooms.bequest import Bequest
from rooms.cursors import Cursors
from rooms.effects import NOTHING, Broadcast, Effect, Effects, FlushAt, Refuse, SessionNumber
from rooms.held import Held, by_author
from rooms.lifecycle import Happening, Phase
from rooms.pacing import Pacer
from rooms.presence import Presence
from rooms.relay import Relay
from rooms.size import TOO_LARGE, SizeLimit
from rooms.unsaved import Unsaved
from tmi.domain.errors import BadFrame, TooLarge, TooMuchPending
from tmi.domain.ids import DiagramId, Fence, Seq, UserId
from tmi.domain.ports import Origin, RoomBatch

_STILL_BUSY = 0.75
"""A room ceases to be busy a little below where it began."""

_NOT_EDITED_S = 1.0
"""After so long nobody is about to edit, as far as anybody can tell."""


@dataclass(frozen=True, slots=True)
class RoomLimits:
    """Bounds of a room; times in seconds."""

    tick_s: float = 0.015
    """At most this long an edit waits for others in a busy room."""
    awareness_tick_s: float = 0.037
    quiet_copies_per_s: float = 8000.0
    """Up to this many copies a second are sent at once, without a tick."""
    batch_max_updates: int = 2000
    batch_max_bytes: int = 4 * 1024 * 1024
    held_max_bytes: int = 256 * 1024
    """Edits that wait for the end of their tick; more are applied at once."""
    awareness_max_bytes: int = 64 * 1024
    """One state; and what waits, not read yet, for the flush of cursors."""
    presence_max_bytes: int = 8 * 1024 * 1024
    """All states together, about, with what is kept beside them: 5,000 clients with 500 bytes each fit."""
    ids_per_session: int = 16
    document_max_bytes: int = 64 * 1024 * 1024
    """The document's encoded size, from where on edits only may delete."""
    measure_interval_s: float = 10.0
    """How often a document at its limit is measured, unless it grows fast: 64 MiB take 0.4 s."""
    sessions_max: int = 5_000


class Room(Audience):
    """See the module's text. Not thread-safe; every method returns at once."""

    def __init__(
        self, diagram: DiagramId, fence: Fence, document: Document, seq: Seq, limits: RoomLimits
    ) -> None:
        super().__init__(diagram, document, limits.sessions_max)
        self.fence = fence
        self._limits = limits
        self._presence = Presence(
            ids_per_session=limits.ids_per_session,
            state_max_bytes=limits.awareness_max_bytes,
            max_bytes=limits.presence_max_bytes,
        )
        self._cursors = Cursors(
            self._presence,
            Pacer(limits.awareness_tick_s, limits.quiet_copies_per_s),
            limits.awareness_max_bytes,
        )
        self._edits = Pacer(limits.tick_s, limits.quiet_copies_per_s)
        self._held: Held[Seat] = Held(document)
        self._relay = Relay()
        self._unsaved = Unsaved(
            seq, batch_max_updates=limits.batch_max_updates, batch_max_bytes=limits.batch_max_bytes
        )
        self._size = SizeLimit(document, limits.document_max_bytes, limits.measure_interval_s)

    # --- figures --------------------------------------------------------------------------------

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
    def is_awaited(self) -> bool:
        """Somebody waits for its next commit, or for its end."""
        return self._unsaved.is_awaited or self.phase is not Phase.OPEN

    @property
    def is_to_be_taken(self) -> bool:
        """There is something for the next batch."""
        return not self.is_over and self._unsaved.can_be_taken

    @property
    def unsaved_bytes(self) -> int:
        """Their size, without those that wait for the end of their tick."""
        return self._unsaved.size

    @property
    def in_flight(self) -> int:
        """How many of them are in the batch whose commit is under way."""
        return self._unsaved.in_flight

    @property
    def bytes_in_flight(self) -> int:
        """The size of that batch."""
        return self._unsaved.bytes_in_flight

    @property
    def presence_bytes(self) -> int:
        """What everybody's awareness takes, about."""
        return self._presence.size + self._cursors.unread_bytes

    @property
    def refusals(self) -> Counter[str]:
        """See `Audience`."""
        return self._presence.refusals

    @refusals.setter
    def refusals(self, refusals: Counter[str]) -> None:
        self._presence.refusals = refusals

    @property
    def unacknowledged(self) -> int:
        """How many messages wait for a commit."""
        return self._unsaved.messages

    # --- sessions -------------------------------------------------------------------------------

    def follow(self) -> SessionNumber:
        """Let a node in that follows this room for clients of its own."""
        return self._seat(None, may_edit=True, wants_acknowledgements=True)

    def _left(self, seat: Seat, now: float) -> Effects:
        effects: list[Effect] = []
        if self.unsaved and not self.is_over:
            effects.extend(self._settle(now))
            self._unsaved.left(effects)
        if self._presence.leave(seat.number):
            effects.append(FlushAt(self._cursors.due(now, len(self._sessions))))
        return effects

    def _present(self) -> bytes | None:
        return self._presence.everybody()

    def _presence_told(self) -> int:
        return self._presence.flushes

    def _presence_since(self, told: int) -> bytes | None:
        return self._presence.since(told)

    # --- what sessions send ---------------------------------------------------------------------

    def receive(self, number: SessionNumber, message: Message, now: float) -> Effects:
        """Handle one message. A client's fault ends its session, and changes nothing else."""
        seat = self._sessions.get(number)
        if seat is None:
            return NOTHING
        if isinstance(message, Update) and self._hold(seat, message.update):
            return self._held_back(seat, now)
        if isinstance(message, Awareness):
            effects = self._cursors.read(now, self._sessions, self._blame)
        else:
            effects = self._settle(now)
        if number not in self._sessions:
            return effects  # something that it sent before was at fault
        try:
            return [*effects, *self._answer(seat, message, now)]
        except BadFrame as fault:
            return [*effects, *self._blame(number, fault, now)]

    def _answer(self, seat: Seat, message: Message, now: float) -> Effects:
        if isinstance(message, Update):
            return self._edit(seat, message.update, Origin.UPDATE, now)
        if isinstance(message, Awareness):
            return self._cursors.receive(seat, message.data, now, len(self._sessions))
        if isinstance(message, SyncStep2):
            return self._edit(seat, message.update, Origin.SYNC, now)
        if isinstance(message, SyncStep1):
            return self._sync(seat, message.state_vector)
        if isinstance(message, QueryAwareness):
            return self._everybody(seat.number)
        raise BadFrame(f"a room takes no {type(message).__name__}")

    def hold(self, number: SessionNumber, update: bytes) -> bool:
        """Add an Update message to others that wait for their tick; False if it is for `receive`.

        Nearly all edits of a busy room go this way.
        """
        if not 0 < self._held.size < self._limits.held_max_bytes:
            return False
        seat = self._sessions.get(number)
        return seat is not None and self._hold(seat, update)

    def hold_first(self, number: SessionNumber, update: bytes, now: float) -> float | None:
        """Have an Update message begin a tick; returns when that ends, or None if it is for `receive`.

        Nearly all edits of a quiet room go this way.
        """
        seat = self._sessions.get(number)
        if seat is None or self._held.size or not self._hold(seat, update):
            return None
        return self._tick_ends(seat, now)

    def _tick_ends(self, seat: Seat, now: float) -> float:
        """When the tick ends that this seat's edit has begun."""
        self._edits.is_awaited = seat.wants_acknowledgements or self._unsaved.messages > 0
        return self._edits.due(now, len(self._sessions))

    def _hold(self, seat: Seat, update: bytes) -> bool:
        held = self._held
        is_small = self._size.clearly_allows(held.size + len(update))
        try:
            return seat.may_edit and is_small and not seat.is_occupied and held.take(seat, update)
        except BadFrame:
            return False  # it will be told when what came before it is applied

    def hold_awareness(self, number: SessionNumber, data: bytes) -> bool:
        """Keep awareness for the next flush of cursors; False if it is for `receive`.

        Most of it goes this way in a busy room.
        """
        seat = self._sessions.get(number)
        return seat is not None and self._cursors.hold(seat, data)

    def _held_back(self, seat: Seat, now: float) -> Effects:
        if len(self._held) == 1:
            return (FlushAt(self._tick_ends(seat, now)),)
        return self._settle(now) if self._held.size > self._limits.held_max_bytes else NOTHING

    def _edit(self, seat: Seat, update: bytes, origin: Origin, now: float) -> Effects:
        syncs, updates = seat.worth(origin)
        if update == EMPTY_UPDATE:  # as nearly everybody answers who comes
            return self._acknowledge_later(seat, syncs, updates)
        if not seat.may_edit:
            return self._watched(seat, self.document.would_add(update), (syncs, updates))
        if not self._size.allows(update, now):
            self.refusals["document_size"] += 1
            return self._end(seat.number, closing.DOCUMENT_TOO_LARGE, TOO_LARGE, now)
        return self._accept(seat, update, seat.author, origin, (syncs, updates), now)

    def _watched(self, seat: Seat, adds: bool, worth: tuple[int, int]) -> Effects:
        """Somebody who may not edit has sent something; `adds`: that is new."""
        if not adds:
            return self._acknowledge_later(seat, *worth)
        if not seat.is_elsewhere:
            seat.refused += sum(worth)
        return (Refuse(seat.number, READ_ONLY),)

    def edit_by_steps(
        self, number: SessionNumber, message: SyncStep2 | Update
    ) -> Generator[Effects, float, None] | None:
        """As `receive`, for a large edit: each step wants to know the time, tells its effects and takes some
        milliseconds. None: it is for `receive`. Until the last step no other edit of the session is.
        """
        seat, update = self._sessions.get(number), message.update
        if seat is None or not self.is_open or self.document.tears(update):
            return None
        if begins_plainly(update) is not None:  # few structs, whatever is in them
            return None
        if seat.may_edit and not self._size.clearly_allows(self._held.size + len(update)):
            return None
        origin = Origin.SYNC if isinstance(message, SyncStep2) else Origin.UPDATE
        return self._edit_by_steps(seat, update, origin)

    def _edit_by_steps(self, seat: Seat, update: bytes, origin: Origin) -> Generator[Effects, float, None]:
        seat.is_occupied = True
        now = yield NOTHING
        try:
            # What came before it may be held.
            now = yield self._settle(now)
            reading = read_by_steps(update)
            while True:
                try:
                    next(reading)
                except StopIteration as end:
                    read: Sections = end.value
                    break
                now = yield NOTHING
            try:
                is_taken = seat.may_edit and (yield from self._take_pieces(seat, update, read, origin))
            except NotWhole:
                yield [*self._settle(now), *self._edit(seat, update, origin, now)]
            else:
                worth = seat.worth(origin)
                if is_taken:
                    yield self._acknowledge_later(seat, *worth)
                else:
                    yield self._watched(seat, self.document.adds(update, read), worth)
        except BadFrame as fault:
            yield self._blame(seat.number, fault, now)
        finally:
            seat.is_occupied = False

    def _take_pieces(
        self, seat: Seat, update: bytes, read: Sections, origin: Origin
    ) -> Generator[Effects, float, bool]:
        """Whether all of it was taken: the role may be lost meanwhile."""
        for piece in self.document.pieces_of(update, read):
            now = yield NOTHING
            if not seat.may_edit:
                return False
            if piece is None:
                continue
            effects = self._settle(now)
            applied, is_whole = self.document.apply_piece(piece)
            self._edits.count(now)
            if applied.adds:
                self._take_in(effects, applied, piece, seat, seat.author, origin, now)
            yield effects
            if not is_whole:
                raise NotWhole("the rest of a piece was refused")
        return True

    def _accept(
        self,
        seat: Seat,
        update: bytes,
        author: UserId | None,
        origin: Origin,
        worth: tuple[int, int],
        now: float,
    ) -> Effects:
        """Apply and number an edit; its commit acknowledges `worth` SyncStep2 and Update messages."""
        syncs, updates = worth
        self._edits.count(now)
        try:
            applied = self.document.apply(update)
        except TooMuchPending:
            self.refusals["updates_pending"] += 1
            raise
        if not applied.adds:
            return self._acknowledge_later(seat, syncs, updates)
        effects: list[Effect] = []
        self._take_in(effects, applied, update, seat, author, origin, now)
        if seat.wants_acknowledgements:
            self._unsaved.wait(effects, seat.number, syncs, updates)
        if applied.gap:
            effects.extend(self._ask_for_gap(seat))
        return effects

    def _take_in(
        self, effects: list[Effect], applied: Applied, update: bytes, seat: Seat, author: UserId | None,
        origin: Origin, now: float,
    ) -> None:  # fmt: skip
        """Number what was applied, and have it sent to everybody else."""
        self._number(effects, applied.journal, author, origin)
        source = seat.number if applied.relay == update else None
        effects.extend(self._relay_later(applied.relay, source, now))

    def bring(
        self, number: SessionNumber, update: bytes, author: UserId | None, origin: Origin, now: float
    ) -> Effects:
        """Take in what a former owner has accepted, and perhaps never committed; brought by a node.

        It was checked there, and sent out: so it is neither refused nor held to the size limit here.
        """
        seat = self._sessions.get(number)
        if seat is None:
            return NOTHING
        effects = self._settle(now)
        try:
            return [*effects, *self._accept(seat, update, author, origin, (0, 1), now)]
        except BadFrame as fault:
            return [*effects, *self._blame(number, fault, now)]

    def _settle(self, now: float) -> list[Effect]:
        if not self._held.size:
            return []
        applied, edits, alone = self._held.apply()
        self._edits.count(now, len(edits) + len(alone))
        effects: list[Effect] = []
        if applied is not None and applied.adds:
            self._number_together(effects, applied, edits)
            source = _sole_source(edits) if applied.relay == applied.journal else None
            # The flush that the first held edit asked for will find it.
            self._relay.add(applied.relay, source)
        for seat, _ in edits:
            if seat.wants_acknowledgements:
                effects.extend(self._unsaved.acknowledge(seat.number, 0, 1))
            if applied is not None and applied.gap:
                effects.extend(self._ask_for_gap(seat))
        for seat, update in alone:
            try:
                effects.extend(self._edit(seat, update, Origin.UPDATE, now))
            except BadFrame as fault:
                effects.extend(self._blame(seat.number, fault, now))
        return effects

    def _number_together(
        self, effects: list[Effect], applied: Applied, edits: Sequence[tuple[Seat, bytes]]
    ) -> None:
        """Number what was applied as one: an update for each user."""
        author = edits[0][0].author if edits else None
        for seat, _ in edits:
            if seat.author is not author and seat.author != author:
                break
        else:
            self._number(effects, applied.journal, author, Origin.UPDATE)
            return
        for seat, update in by_author(edits, lambda seat: seat.author):
            self._number(effects, update, seat.author, Origin.UPDATE)

    def _number(self, effects: list[Effect], update: bytes, author: UserId | None, origin: Origin) -> None:
        """Number an applied update, and queue it for the journal."""
        self._unsaved.add(effects, update, author, origin)
        self.document.bytes_estimate += len(update)

    def _relay_later(self, update: bytes, source: SessionNumber | None, now: float) -> Effects:
        """Send what was integrated to everybody but `source`, with the next flush."""
        if self._relay.add(update, source):
            return (FlushAt(self._edits.due(now, len(self._sessions))),)
        return NOTHING

    def _ask_for_gap(self, seat: Seat) -> Effects:
        if seat.answers or seat.asked_at == self.document.version:
            return NOTHING  # an answer that is under way will bring it
        seat.asked_at = self.document.version
        return self._ask(seat)

    def _acknowledge_later(self, seat: Seat, syncs: int, updates: int) -> Effects:
        if not seat.wants_acknowledgements:
            return NOTHING
        return self._unsaved.acknowledge(seat.number, syncs, updates)

    def edit(
        self,
        change: Callable[[Document], bytes | None],
        author: UserId | None,
        origin: Origin,
        now: float,
        at_most_bytes: int = 0,
    ) -> Effects:
        """Change the document from the server's side in one transaction, after `settle`.

        `change` returns its update, or None; `at_most_bytes` is how large that may be. Raises TooLarge when
        the document would pass its size limit by it.
        """
        assert not self._held, "settle first"
        try:
            update = self._size.change(change, at_most_bytes, now)
        except TooLarge:
            self.refusals["document_size"] += 1
            raise
        if update is None:
            return NOTHING
        self._edits.count(now)
        effects: list[Effect] = []
        self._number(effects, update, author, origin)
        effects.extend(self._relay_later(update, None, now))
        return effects

    # --- fan-out --------------------------------------------------------------------------------

    def tick_s(self, now: float, *, is_ticking: bool) -> float | None:
        """See `Audience.tick_s`."""
        members, share = len(self._sessions), _STILL_BUSY if is_ticking else 1.0
        edits = self._edits.tick_s(now, members, share)
        if edits is not None:
            return edits
        cursors = self._cursors.tick_s(now, members, share)
        # While people edit now and then, an edit among cursors waits no longer than among edits.
        return cursors if cursors is None or self._edits.silent_s(now) > _NOT_EDITED_S else cursors / 2

    def flush(self, now: float) -> Effects:
        """Send out what is due; says when to call again if something has to wait."""
        effects: list[Effect] = []
        members = len(self._sessions)
        if self._held.size or self._relay.updates:
            due = self._edits.due(now, members)
            if due <= now:
                self._flush_edits(effects, now)
            else:
                effects.append(FlushAt(due))
        if self._presence.dirty:
            due = self._cursors.due(now, members)
            if due <= now:
                self._flush_cursors(effects, now)
            else:
                effects.append(FlushAt(due))
        return effects

    def flush_all(self, now: float) -> Effects:
        """Send out everything, due or not."""
        effects: list[Effect] = []
        self._flush_edits(effects, now)
        if self._presence.dirty:
            self._flush_cursors(effects, now)
        return effects

    def _flush_cursors(self, effects: list[Effect], now: float) -> None:
        effects.extend(self._cursors.read(now, self._sessions, self._blame))
        effects.append(self._cursors.take(now))

    def _flush_edits(self, effects: list[Effect], now: float) -> None:
        relay, held = self._relay, self._held
        if held.size:
            lone = None if relay.updates else held.apply_lone()
            if lone is not None:
                self._flush_lone(effects, *lone, now)
                return
            effects.extend(self._settle(now))
        if relay.updates:
            self._edits.flushed_at = now
            effects.append(relay.take())

    def _flush_lone(self, effects: list[Effect], seat: Seat, update: bytes, now: float) -> None:
        """Number and send out an edit that went in as it came, and alone."""
        edits = self._edits
        edits.count(now)
        edits.flushed_at = now
        self._number(effects, update, seat.author, Origin.UPDATE)
        if seat.wants_acknowledgements:
            self._unsaved.wait(effects, seat.number, 0, 1)
        effects.append(Broadcast(y_websocket.update(update), seat.number))

    # --- the journal ----------------------------------------------------------------------------

    def take_batch(self) -> RoomBatch | None:
        """The next updates to commit, bounded; None if there are none or a batch is still in flight."""
        batch = () if self.is_over else self._unsaved.take()
        return RoomBatch(self.diagram, self.fence, batch) if batch else None

    def committed(self) -> Effects:
        """The batch in flight is committed: acknowledge everything that waited for it."""
        if self.is_over:
            return NOTHING
        effects = self._unsaved.committed(self._sessions)
        if self.phase is Phase.CLOSING and not self._unsaved.can_be_taken:
            self._become(Happening.SAVED)
        return effects

    # --- the end --------------------------------------------------------------------------------

    def close_if_idle(self) -> None:
        """Nobody is here, and everything is committed: end. Should the fence be lost before that, what those
        who left had sent is brought to the next owner.
        """
        if self.is_empty and not self.unsaved:
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

    def bequeath(self, numbers: Collection[SessionNumber]) -> Bequest:
        """Let these sessions go on elsewhere, and forget all others without a word; after `flush_all`.

        The room is empty then, and commits what it has. What happens to the document later is none of its
        business.
        """
        assert not self._held, "flush first"
        assert not self._relay.updates, "flush first"
        assert not self._cursors.unread_bytes, "flush first"
        sessions, self._sessions, self._nodes_here = self._sessions, {}, 0
        seats = {number: sessions[number] for number in numbers}
        owed = {number: owed for number, owed in self._unsaved.owed().items() if number in seats}
        said = {number: self._presence.spoken_for(number) for number in seats}
        unsaved = self._unsaved.uncommitted()
        return Bequest(self.document, self.seq, seats, unsaved, owed, self._presence.known(), said)

    def hand_over(self) -> None:
        """Nobody is here any more: end after the last commit, so that another node may own the room."""
        self._finish(Happening.DRAIN)

    def log_refused(self, now: float) -> Effects:
        """The store will not take this room's rows: end, so that nobody believes them saved."""
        self._become(Happening.LOG_REFUSED)
        return self._close_all(closing.INTERNAL_ERROR, "this diagram cannot be saved at present", now)

    def _finish(self, happening: Happening) -> None:
        self._become(happening)
        if not self.unsaved:
            self._become(Happening.SAVED)


def _sole_source(edits: Sequence[tuple[Seat, bytes]]) -> SessionNumber | None:
    """Whose all these edits are, if they are of one session."""
    first = edits[0][0] if edits else None
    for seat, _ in edits:
        if seat is not first:
            return None
    return None if first is None else first.number
