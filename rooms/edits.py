"""A document that sessions edit: how what they send is held, applied, numbered, promised and passed on.

It is the larger half of a room (`rooms/room.py`), which tells what it holds true; who is where is the other.
"""

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass

from crdt import y_websocket
from crdt.document import Applied, Document
from crdt.merging import EMPTY_UPDATE
from crdt.pieces import NotWhole
from crdt.structs import Sections
from rooms import closing
from rooms.audience import READ_ONLY, Audience, Seat
from rooms.effects import NOTHING, Broadcast, Effect, Effects, FlushAt, Refuse, SessionNumber
from rooms.held import Held, by_author
from rooms.pacing import Pacer
from rooms.relay import Relay
from rooms.size import TOO_LARGE, SizeLimit
from rooms.unsaved import Unsaved
from tmi.domain.errors import BadFrame, TooLarge, TooMuchPending
from tmi.domain.ids import DiagramId, Seq, UserId
from tmi.domain.ports import Origin


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


class EditedDocument(Audience):
    """See the module's text. Not thread-safe; every method returns at once."""

    def __init__(self, diagram: DiagramId, document: Document, seq: Seq, limits: RoomLimits) -> None:
        super().__init__(diagram, document, limits.sessions_max)
        self._limits = limits
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
    def unacknowledged(self) -> int:
        """How many messages wait for a commit."""
        return self._unsaved.messages

    # --- edits that wait for their tick ---------------------------------------------------------

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

    def _held_back(self, seat: Seat, now: float) -> Effects:
        if len(self._held) == 1:
            return (FlushAt(self._tick_ends(seat, now)),)
        return self._settle(now) if self._held.size > self._limits.held_max_bytes else NOTHING

    # --- edits by themselves --------------------------------------------------------------------

    def _edit(self, seat: Seat, update: bytes, origin: Origin, now: float) -> Effects:
        syncs, updates = seat.worth(origin)
        if update == EMPTY_UPDATE:  # as nearly everybody answers who comes
            return self._acknowledge_later(seat, syncs, updates)
        if not seat.may_edit:
            adds = self.document.would_add(update)
            return self._look_on(seat, adds, origin, (syncs, updates), now)
        if not self._size.allows(update, now):
            self.refusals["document_size"] += 1
            return self._end(seat.number, closing.DOCUMENT_TOO_LARGE, TOO_LARGE, now)
        return self._accept(seat, update, seat.author, origin, (syncs, updates), now)

    def _look_on(
        self, seat: Seat, adds: bool, origin: Origin, worth: tuple[int, int], now: float  # noqa: ARG002
    ) -> Effects:
        if not adds:
            return self._acknowledge_later(seat, *worth)
        if not seat.is_elsewhere:
            seat.refused += sum(worth)
        return (Refuse(seat.number, READ_ONLY),)

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

    # --- large edits ----------------------------------------------------------------------------

    def _clearly_allows(self, size: int) -> bool:
        return self._size.clearly_allows(self._held.size + size)

    def _take_pieces(
        self, seat: Seat, update: bytes, read: Sections, origin: Origin
    ) -> Generator[Effects | None, float, bool]:
        for piece in self.document.pieces_of(update, read):
            now = yield None
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
        yield self._acknowledge_later(seat, *seat.worth(origin))
        return True

    # --- what goes out --------------------------------------------------------------------------

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


def _sole_source(edits: Sequence[tuple[Seat, bytes]]) -> SessionNumber | None:
    """Whose all these edits are, if they are of one session."""
    first = edits[0][0] if edits else None
    for seat, _ in edits:
        if seat is not first:
            return None
    return None if first is None else first.number
