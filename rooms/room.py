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
from collections.abc import Collection

from crdt.document import Document
from crdt.messages import Awareness, Message, QueryAwareness, SyncStep1, SyncStep2, Update
from rooms import closing
from rooms.audience import Seat
from rooms.bequest import Bequest
from rooms.cursors import Cursors
from rooms.edits import EditedDocument, RoomLimits
from rooms.effects import NOTHING, Effect, Effects, FlushAt, SessionNumber
from rooms.lifecycle import Happening, Phase
from rooms.pacing import Pacer
from rooms.presence import Presence
from tmi.domain.errors import BadFrame
from tmi.domain.ids import DiagramId, Fence, Seq
from tmi.domain.ports import Origin, RoomBatch

_STILL_BUSY = 0.75
"""A room ceases to be busy a little below where it began."""

_NOT_EDITED_S = 1.0
"""After so long nobody is about to edit, as far as anybody can tell."""


class Room(EditedDocument):
    """See the module's text. Not thread-safe; every method returns at once."""

    def __init__(
        self, diagram: DiagramId, fence: Fence, document: Document, seq: Seq, limits: RoomLimits
    ) -> None:
        super().__init__(diagram, document, seq, limits)
        self.fence = fence
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

    # --- figures --------------------------------------------------------------------------------

    @property
    def is_awaited(self) -> bool:
        """Somebody waits for its next commit, or for its end."""
        return self._unsaved.is_awaited or self.phase is not Phase.OPEN

    @property
    def is_to_be_taken(self) -> bool:
        """There is something for the next batch."""
        return not self.is_over and self._unsaved.can_be_taken

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

    def hold_awareness(self, number: SessionNumber, data: bytes) -> bool:
        """Keep awareness for the next flush of cursors; False if it is for `receive`.

        Most of it goes this way in a busy room.
        """
        seat = self._sessions.get(number)
        return seat is not None and self._cursors.hold(seat, data)

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
