"""The document of a room: what is integrated, and what waits for something that has not come yet.

What it holds true
- Whatever `apply` accepted is in `encode()`: integrated or, where what it builds on is missing, *pending*.
  pycrdt would neither show nor encode what is pending, so the document keeps it: one update, `_pending`.
- Nothing is ever pending inside pycrdt between two calls.
- An update that changed nothing is reported as adding nothing, so that a client offering the same state at
  each reconnect costs no row in the log.
- A refused update leaves the document as it was, or, where pycrdt took a part of it before it failed, the
  part is reported as applied, since journal and document must agree.

What can go wrong in pycrdt (each has a regression test; `crdt/integrated.py` has more)
- It integrates past a gap, silently, and may get stuck there: what was missing arrives, and nothing happens.
- It integrates twice what it kept behind a gap or pending itself, if meanwhile the same structs came as
  garbage-collected ones: the document then encodes lengths of 2^32 - 1, at which Yjs clients lose everything
  behind them. So pycrdt is given only what follows on its clocks without a gap; where an update waits for
  another client's structs, the document is built anew from what was integrated. What waits is offered
  again once its first struct is ready.
"""

from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import suppress
from operator import eq
from typing import NamedTuple

import pycrdt

from crdt.integrated import Integrated, built_by_steps
from crdt.merging import EMPTY_STATE_VECTOR, EMPTY_UPDATE, difference, merge, merge_two
from crdt.pending import NOTHING_PENDING, Pending, is_ready, not_integrated
from crdt.pieces import pieces_of
from crdt.plain import begins_plainly, placeholder
from crdt.ranges import Ranges, covers, from_clocks, until_clocks
from crdt.structs import READ_FAST_BYTES, Sections, check_update, read_structs
from crdt.updates import read_state_vector, read_update, split_at_gaps
from tmi.domain.errors import BadUpdate, TooMuchPending

MAX_PENDING_BYTES = 1024 * 1024
"""What may wait for its predecessors; merging it with each new update takes a few milliseconds."""

_HEAD = 12
_HEAD_MIN = 5
"""The shortest update of one client: a count, a count, the client, its clock, and the deletes (none)."""

_LONE_MAX_BYTES = 64 * 1024
"""A larger update is applied as several together are."""

_LOADED_TOGETHER = 512
_LOADED_IN_ORDER = 64
"""Updates in one step; they cost more one by one."""

TAKEN_AT_ONCE_BYTES = 512 * 1024
"""A state up to this size is integrated in one go, in 10 ms."""

_MAX_REACHED = 10_000
"""Clients whose last clock is remembered."""


class Applied(NamedTuple):
    """What an update did to the document."""

    adds: bool
    """The document, or what is pending in it, changed."""
    relay: bytes
    """What was integrated, for those who had what the document had before; the update itself, usually.

    Nothing of it waits for anything: clients built on pycrdt suffer from gaps as this one would.
    """
    gap: bool
    """Something of it still waits for a predecessor."""
    journal: bytes
    """What to keep in the log: the update as it came, where it went in as it is. Or else what of it went in
    or waits: what it says about clocks that are there already would be taken for true if the log is merged.
    """


class Document(Integrated):
    """A Yjs document with what is pending in it. One thread at a time."""

    __slots__ = ("_hopeless", "_parts", "_pending", "_reached", "rejected")

    def __init__(self) -> None:
        super().__init__()
        self.rejected = 0
        """How many stored updates could not be applied while loading."""
        self._pending = NOTHING_PENDING
        self._hopeless: tuple[Ranges, Ranges] | None = (
            None  # what healing did not help; it is not tried twice
        )
        self._parts = 0
        """How often pycrdt has taken an update in part and refused the rest."""
        self._reached: dict[bytes, int] = {}
        """Encoded client to a clock that it has reached, or passed."""

    # --- loading --------------------------------------------------------------------------------

    @classmethod
    def load(cls, snapshot: bytes | None, tail: Sequence[bytes], *, is_whole: bool = False) -> "Document":
        """The document of a snapshot and the updates after it, in their order.

        `is_whole`: the snapshot was encoded while nothing was pending. Then it needs no look for gaps, which
        takes five times as long as pycrdt does: 5,000 cells (1.3 MB) are there after 45 ms instead of 275.

        An update that cannot be applied is counted in `rejected`, not raised: the rest of the log is worth
        more.
        """
        document = cls()
        stored = list(tail) if snapshot is None else [snapshot, *tail]
        is_taken = snapshot is not None and is_whole and document._begin_whole(snapshot)
        for _ in document._load_all(stored[is_taken:], stored):
            pass
        return document

    @classmethod
    def load_by_steps(
        cls, snapshot: bytes | None, tail: Sequence[bytes], *, is_whole: bool = False
    ) -> Generator[None, None, "Document"]:
        """As `load`, with something else to be done at each `yield`: a step takes milliseconds.

        A large state is integrated in pieces, which takes twice as long in all; a small one, or one of which
        something waits, at once. Nobody may change the sequence meanwhile.
        """
        document = cls()
        stored = list(tail) if snapshot is None else [snapshot, *tail]
        is_taken = False
        if stored and len(stored[0]) > TAKEN_AT_ONCE_BYTES:
            is_taken = yield from document._begin_in_pieces(stored[0])
        if not is_taken and snapshot is not None and is_whole:
            is_taken = document._begin_whole(snapshot)
        yield
        yield from document._load_all(stored[is_taken:], stored)
        return document

    def begin_by_steps(self, state: bytes) -> Generator[None, None, bool]:
        """Have an empty document take a large state, with something else to be done at each `yield`. Nobody
        may use the document meanwhile. False: it is still empty, since `state` waits for something.
        """
        is_taken = yield from self._begin_in_pieces(state)
        if is_taken:
            self.version += 1
            self.bytes_estimate = len(state)
        return is_taken

    @property
    def is_empty(self) -> bool:
        """Nothing was ever accepted."""
        return self._pending is NOTHING_PENDING and self.state_vector() == EMPTY_STATE_VECTOR

    def _load_all(self, rest: Sequence[bytes], stored: Sequence[bytes]) -> Iterator[None]:
        for first in range(0, len(rest), _LOADED_TOGETHER):
            updates = rest[first : first + _LOADED_TOGETHER]
            self._load(updates)
            yield
            yield from self._load_in_order(updates)
        self.version = 0
        self.bytes_estimate = sum(map(len, stored))

    def _load_in_order(self, updates: Sequence[bytes]) -> Iterator[None]:
        """If something waits after updates were merged, then what came later for the same clocks, as no Yjs
        client writes it, lost to what waits for ever: one after the other they go in as they once did.
        """
        for number, update in enumerate(updates):
            if self._pending is NOTHING_PENDING:
                break
            with suppress(BadUpdate):
                self._apply(update)
            if not number % _LOADED_IN_ORDER:
                yield

    def _begin_in_pieces(self, state: bytes) -> Generator[None, None, bool]:
        """Begin with a large state in pieces; False, with nothing taken, if that is not possible."""
        doc = yield from built_by_steps(state)
        if doc is None or not self.is_empty:
            return False
        self._begin(doc, state)
        return True

    def _load(self, updates: Sequence[bytes]) -> None:
        reached: dict[bytes, int] = {}
        try:
            if all(self.follows(update, reached) for update in updates):
                _, alone = self.apply_together(updates, reached)
            else:
                self._apply(merge(updates))
                alone = ()
        except BadUpdate:
            alone = updates
        for update in alone:
            try:
                self._apply(update)
            except BadUpdate:
                self.rejected += 1

    # --- changing -------------------------------------------------------------------------------

    def apply(self, update: bytes) -> Applied:
        """Integrate an update. Raises BadUpdate when it is malformed, TooMuchPending when too much waits for
        predecessors.

        A hot path: 6.5 us for an edit of 44 bytes, of which pycrdt takes 3.5.
        """
        sections = check_update(update)
        if len(self._pending.update) + len(update) > MAX_PENDING_BYTES:
            sections = sections or read_structs(update)
            if self._must_wait(update, sections):
                raise TooMuchPending("too much waits for updates that never came")
        return self._apply(update, sections)

    def pieces_of(self, update: bytes, read: Sections) -> Generator[bytes | None, None, None]:
        """What a large update that was read brings, in pieces for `apply_piece`, in their order; None now and
        then, as it takes milliseconds to find the next one. The document may change meanwhile.

        Raises NotWhole before the first piece: it has to be applied in one go.
        """
        return pieces_of(update, read, read_state_vector(self.state_vector()))

    def apply_piece(self, piece: bytes) -> tuple[Applied, bool]:
        """Integrate a piece of an update, of `pieces_of`. Raises BadUpdate.

        False: pycrdt has refused a part of it, so those after it may not follow any more.
        """
        parts = self._parts
        applied = self._apply_following(piece)
        return applied, parts == self._parts

    def follows(self, update: bytes, reached: dict[bytes, int]) -> bool:
        """Whether an update of one client has no gap before it, once all that `reached` tells of is there.

        Its own end is then added to `reached`: with one dictionary for several updates they may be applied
        together. A hot path: 1.5 us. Raises BadUpdate where `apply` would without looking inside.
        """
        if len(update) < _HEAD_MIN or update[0] != 1:
            check_update(update)
            return False
        start = begins_plainly(update)
        if start is None:
            return False
        client, clock, structs, clock_at = start
        is_new = clock > reached.get(client, -1) and clock > self._reached.get(client, 0)
        if is_new and not self._follows_all(update, clock_at):
            return False
        if self._pairs.by_client and self.tears(update):
            return False
        reached[client] = clock + structs
        return True

    def apply_one(
        self, update: bytes, reached: Mapping[bytes, int]
    ) -> tuple[Applied | None, Sequence[bytes]] | None:
        """As `apply_together`, for one update alone; None where it went in as it came, as nearly all do.

        A hot path: 2.6 us.
        """
        if self._pending is not NOTHING_PENDING or len(update) > _LONE_MAX_BYTES:
            return self.apply_together([update], reached)
        try:
            whole = self._integrate(update)
        except BadUpdate:
            return None, [update]
        if not whole:
            return self._keep_part(), [update]
        events = self._events
        if len(events) == 1 and (events[0] == update or self._says_the_same(events[0], update)):
            self._reached.update(reached)
            self._changed(update)
            return None
        return self._look(update, update), ()

    def apply_together(
        self, updates: Sequence[bytes], reached: Mapping[bytes, int]
    ) -> tuple[Applied | None, Sequence[bytes]]:
        """Integrate updates in one transaction; all were found to follow, into one `reached`, just before.

        Returns what was applied, if anything, and the updates that have to be applied one by one, since
        pycrdt refuses something in them: all or none. Measured with 24 edits of 42 bytes: 75 us, against 190
        us one by one, and what goes to the others is merged by then.
        """
        try:
            merged = updates[0] if len(updates) == 1 else merge(updates)
            if len(self._pending.update) + len(merged) > MAX_PENDING_BYTES:
                return None, updates
            whole = self._integrate(merged)
        except BadUpdate:
            return None, updates
        if not whole:
            return self._keep_part(), updates
        is_same = self._says_the_same if len(updates) == 1 else eq
        if len(self._events) == 1 and is_same(self._events[0], merged) and self._pending is NOTHING_PENDING:
            self._reached.update(reached)
            self._changed(merged)
            return Applied(True, merged, False, merged), ()
        return self._look(merged, merged), ()

    def _apply(self, update: bytes, sections: Sections | None = None) -> Applied:
        """`sections`: what is in it, if somebody had to look."""
        start = begins_plainly(update)
        if start is not None and self._follows(update, *start):
            return self._apply_following(update, start)
        if update == EMPTY_UPDATE:
            return Applied(False, EMPTY_UPDATE, False, update)
        clocks = read_state_vector(self.state_vector())
        if sections is None and len(update) > READ_FAST_BYTES:
            sections = read_structs(update)
        if sections is not None and sections.follow(clocks):
            return self._apply_following(update)
        following, _ = split_at_gaps(update, clocks)
        if not self._integrate(following):
            return self._keep_part()
        return self._look(update, following)

    def _says_the_same(self, integrated: bytes, update: bytes) -> bool:
        """Whether all of the update went in, as far as that can be seen at a glance.

        The keys of an object inside a value come back in any order. So for an update of one client it is
        enough that its length came back, its head (number of structs, client, first clock) and its end, what
        it deletes: of that, other things may have been deleted than it says, which are yet to come.
        """
        return integrated == update or (
            len(integrated) == len(update)
            and integrated[0] == 1
            and integrated[:_HEAD] == update[:_HEAD]
            and update.endswith(self._deleted[0])
        )

    def _apply_following(self, update: bytes, start: tuple[bytes, int, int, int] | None = None) -> Applied:
        """Integrate an update that has no gap in it or before it. `start`: see `begins_plainly`."""
        if not self._integrate(update):
            return self._keep_part()
        if len(self._events) == 1 and self._says_the_same(self._events[0], update):
            if start is not None:
                client, clock, structs, _ = start
                self._reached[client] = clock + structs
            self._changed(update)
            if self._pending is NOTHING_PENDING:
                return Applied(True, update, False, update)
            return Applied(True, merge_two(update, self._settle()), False, update)
        return self._look(update, update)

    def _follows(self, update: bytes, client: bytes, clock: int, _structs: int, clock_at: int) -> bool:
        """Whether an update of one client follows on what is there without a gap.

        In the usual case the last update of this client tells: each struct takes at least one clock.
        """
        return clock <= self._reached.get(client, 0) or self._follows_all(update, clock_at)

    def _follows_all(self, update: bytes, clock_at: int) -> bool:
        """Ask pycrdt what is left of a placeholder for all that must be there before the update, since
        reading a state vector, which has an entry for every client there ever was, takes longer.
        """
        if len(self._reached) > _MAX_REACHED:
            self._reached.clear()
        return pycrdt.get_update(placeholder(update, clock_at), self.state_vector())[0] == 0

    def _keep_part(self) -> Applied:
        """pycrdt failed after it took a part of the update: that part is what was applied."""
        kept = self._told()
        self._parts += 1
        self._start_anew()
        return self._keep(kept)

    def _keep(self, kept: bytes) -> Applied:
        self._pending = self._not_integrated(self._pending.update)
        self._changed(kept)
        return Applied(True, kept, False, kept)

    def _look(self, update: bytes, given: bytes) -> Applied:
        """Find out what became of an update, of which pycrdt was given the part that follows without a
        gap.
        """
        integrated = self._told()
        before = self._pending
        waiting = self._not_integrated(update)
        if waiting is not NOTHING_PENDING:
            if self._not_integrated(given) is not NOTHING_PENDING:
                self._start_anew()
            of_both = before.ids[1], read_update(update).deletes
            integrated = merge_two(integrated, self._delete_reached(*of_both))
            self._pending = self._not_integrated(merge_two(before.update, waiting.update))
        if integrated != EMPTY_UPDATE:
            self._forget()
        gained = merge_two(integrated, self._settle())
        adds = gained != EMPTY_UPDATE or self._pending.ids != before.ids
        if adds:
            self._changed(gained)
        gap = waiting is not NOTHING_PENDING and self._pending is not NOTHING_PENDING
        return Applied(adds, gained, gap, merge_two(integrated, waiting.update))

    def _settle(self) -> bytes:
        """Integrate what waited for what has come now; returns what went in."""
        gained = EMPTY_UPDATE
        while (waiting := self._pending) is not NOTHING_PENDING and waiting.ids != self._hopeless:
            if not waiting.is_ready(read_state_vector(self.state_vector())):
                break
            went_in = self._offer(waiting)
            gained = merge_two(gained, went_in)
            self._changed(went_in)
        return gained

    def _offer(self, waiting: Pending) -> bytes:
        """Hand pycrdt what waited; what it refuses for good is let go: whoever has it is told when it
        comes again.
        """
        following, _ = split_at_gaps(waiting.update, read_state_vector(self.state_vector()))
        try:
            whole = self._integrate(following)
        except BadUpdate:
            whole = False
        went_in = self._told()
        still = self._not_integrated(waiting.update) if whole else NOTHING_PENDING
        if not whole or self._not_integrated(following) is not NOTHING_PENDING:
            self._start_anew()
            went_in = merge_two(went_in, self._delete_reached(waiting.ids[1]))
        if still.ids == waiting.ids:
            self._hopeless = still.ids
        self._pending = still
        return went_in

    def _not_integrated(self, update: bytes) -> Pending:
        """What of the update is not in the document."""
        return not_integrated(update, self._doc.get_state())

    def _must_wait(self, update: bytes, sections: Sections) -> bool:
        """Whether the update begins with something that cannot be integrated now, for all of its clients."""
        clocks = read_state_vector(self.state_vector())
        if sections.begin(clocks):
            return False
        waiting = difference(merge_two(self._pending.update, update), self.state_vector())
        heads = read_update(waiting).heads
        return bool(heads) and not any(is_ready(client, head, clocks) for client, head in heads.items())

    # --- reading --------------------------------------------------------------------------------

    @property
    def pending(self) -> bool:
        """Whether something waits for a predecessor."""
        return self._pending is not NOTHING_PENDING

    def encode(self) -> bytes:
        """All that was accepted, what is pending included, as one update."""
        return self._with_pending(self._whole())

    def _with_pending(self, update: bytes) -> bytes:
        return merge_two(update, self._pending.update)

    def would_grow(self, update: bytes) -> bool:
        """Whether `apply` would bring in more than deletes. Raises BadUpdate."""
        read_structs(update)
        return difference(update, self.state_vector())[0] != 0

    def would_add(self, update: bytes) -> bool:
        """Whether `apply` would change anything. Raises BadUpdate.

        The update is read whole, so a large one costs about as much as to apply it.
        """
        return self.adds(update, read_structs(update))

    def adds(self, update: bytes, read: Sections) -> bool:
        """As `would_add`, for an update that is read."""
        clocks = read_state_vector(self.state_vector())
        if self._pending is NOTHING_PENDING and not any(section.has_skips for section in read.sections):
            is_news = any(section.clocks[-1] > clocks.get(section.client, 0) for section in read.sections)
            if is_news or from_clocks(read.deletes, clocks):
                return True
        elif self._not_integrated(self._with_pending(update)).ids != self._pending.ids:
            return True
        known = until_clocks(read.deletes, clocks)
        return bool(known) and not covers(self._deletes(), known, clocks)
