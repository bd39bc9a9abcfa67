"""The document of a room: the only place that applies updates, and the only one that knows pycrdt's habits.

What it holds true
- Whatever `apply` accepted is in `encode()`: integrated or, where what it builds on is missing, *pending*.
  pycrdt would neither show nor encode what is pending, so the document keeps it: one update, `_pending`.
- Nothing is ever pending inside pycrdt between two calls.
- An update that changed nothing is reported as adding nothing, so that a client offering the same state at
  each reconnect costs no row in the log.
- A refused update leaves the document as it was, or, where pycrdt took a part of it before it failed, the
  part is reported as applied, since journal and document must agree.

What can go wrong in pycrdt (each has a regression test)
- It panics. A panic is a BaseException that asyncio would take for a request to stop everything.
- It integrates past a gap, silently, and may get stuck there: what was missing arrives, and nothing happens.
- It integrates twice what it kept behind a gap or pending itself, if meanwhile the same structs came as
  garbage-collected ones: the document then encodes lengths of 2^32 - 1, at which Yjs clients lose everything
  behind them. So pycrdt is given only what follows on its clocks without a gap; where an update waits for
  another client's structs, the document is built anew from what was integrated. What waits is offered
  again once its first struct is ready.
- It cannot part the two halves of a character as Yjs does (`crdt/pairs.py`).
- It fails half-way: a struct whose parent is no container is an error after the structs before it went in.

pycrdt tells what it integrated, as an update. Usually that is the update given, which is the cheap way to
know that all of it went in; only other outcomes are looked into.
"""

import secrets
from bisect import bisect_right
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from operator import eq
from typing import Any, NamedTuple

import pycrdt
from pycrdt import Doc, TransactionEvent

from crdt.pairs import Pairs, may_hold_pairs, read_texts, tear
from crdt.pieces import NotWhole, pieces
from crdt.structs import Sections, check_update, read_structs
from crdt.updates import (
    Id,
    Ranges,
    begins_plainly,
    check_state_vector,
    encode_delete_set,
    placeholder,
    read_state_vector,
    read_update,
    split_at_gaps,
    union,
)
from tmi.domain.errors import BadFrame, BadUpdate, TooMuchPending

EMPTY_UPDATE = b"\x00\x00"
EMPTY_STATE_VECTOR = b"\x00"

MAX_PENDING_BYTES = 1024 * 1024
"""What may wait for its predecessors; merging it with each new update takes a few milliseconds."""

_ANY_END = 2**64

_HEAD = 12
_HEAD_MIN = 5
"""The shortest update of one client: a count, a count, the client, its clock, and the deletes (none)."""

_LATER_MIN_BYTES = 64 * 1024
"""How much may follow the encoded document before it is encoded anew, or half of its size."""

_READ_FAST_BYTES = 1024
"""An update of more is looked into before it is taken apart: nearly none has to be."""

_LOADED_TOGETHER = 512

TAKEN_AT_ONCE_BYTES = 512 * 1024
"""A state up to this size is integrated in one go, in 10 ms."""

_MAX_REACHED = 10_000
"""Clients whose last clock is remembered."""

_SPAN = 32
"""Merging costs 0.7 us an update by ten and 20 us an update by 5,000."""


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
    """What to keep in the log: the update as it came, or the part of it that pycrdt was able to take."""


class Pending(NamedTuple):
    """What waits for its predecessors."""

    update: bytes
    ids: tuple[Ranges, Ranges]
    """Its structs and its deletes. Bytes say less: the keys of an object inside a value come in any order."""
    heads: Mapping[int, tuple[int, Sequence[Id]]]
    """Each client's first struct, and what it is placed by."""

    def is_ready(self, clocks: Mapping[int, int]) -> bool:
        """Whether any of it waits no longer."""
        _, deletes = self.ids
        return any(is_ready(client, head, clocks) for client, head in self.heads.items()) or any(
            start < clocks.get(client, 0) for client, ranges in deletes.items() for start, _ in ranges
        )


NOTHING_PENDING = Pending(EMPTY_UPDATE, ({}, {}), {})


class Document:
    """A Yjs document with what is pending in it. One thread at a time."""

    __slots__ = (
        "_base",
        "_doc",
        "_events",
        "_hopeless",
        "_later",
        "_later_size",
        "_pairs",
        "_pending",
        "_raw",
        "_reached",
        "_state_vector",
        "_subscription",
        "bytes_estimate",
        "rejected",
        "version",
    )

    def __init__(self) -> None:
        self.version = 0
        """Rises with each change."""
        self.rejected = 0
        """How many stored updates could not be applied while loading."""
        self.bytes_estimate = 0
        """What encoding it last took, in bytes. Who applies updates adds their sizes (see `measure`)."""
        self._pending = NOTHING_PENDING
        self._hopeless: tuple[Ranges, Ranges] | None = (
            None  # what healing did not help; it is not tried twice
        )
        self._reached: dict[bytes, int] = {}
        """Encoded client to a clock that it has reached, or passed."""
        self._pairs = Pairs()
        """Of all texts, and perhaps of some that were refused; see `_mend`."""
        self._attach(_new_doc())

    def _attach(self, doc: Doc[Any]) -> None:
        events: list[bytes] = []

        def changed(event: TransactionEvent) -> None:
            events.append(event.update)

        # Neither the callback nor what is around it may know the document, or Rust keeps the circle alive for
        # ever: the public `observe` does know it.
        self._raw = doc._doc  # noqa: SLF001 - applying through the public wrapper takes twice as long
        self._subscription = self._raw.observe(changed)
        self._doc = doc
        self._events = events
        self._forget()

        self._base: bytes | None = None
        self._later: list[bytes] = []
        self._later_size = 0

    def _forget(self) -> None:
        self._state_vector: bytes | None = None

    def _changed(self, gained: bytes) -> None:
        """`gained`: what was integrated."""
        self.version += 1
        self._state_vector = None
        if self._base is not None:
            self._later.append(gained)
            self._later_size += len(gained)
            if self._later_size > max(_LATER_MIN_BYTES, len(self._base) // 2):
                self._base, self._later, self._later_size = None, [], 0

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
        is_taken = snapshot is not None and is_whole and document._take_whole(snapshot)
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
            is_taken = yield from document._take_pieces(stored[0])
        if not is_taken and snapshot is not None and is_whole:
            is_taken = document._take_whole(snapshot)
        yield
        yield from document._load_all(stored[is_taken:], stored)
        return document

    def begin_by_steps(self, state: bytes) -> Generator[None, None, bool]:
        """Have an empty document take a large state, with something else to be done at each `yield`. Nobody
        may use the document meanwhile. False: it is still empty, since `state` waits for something.
        """
        is_taken = yield from self._take_pieces(state)
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
            self._load(rest[first : first + _LOADED_TOGETHER])
            yield
        self.version = 0
        self.bytes_estimate = sum(map(len, stored))

    def _take_pieces(self, update: bytes) -> Generator[None, None, bool]:
        """Begin with a large update in pieces; False, with nothing taken, if that is not possible."""
        doc = _new_doc()
        taking = pieces(update)
        try:
            while True:
                try:
                    piece = next(taking)
                except StopIteration as end:
                    clocks: dict[int, int] = end.value
                    break
                if piece:
                    doc.apply_update(piece)
                yield
        except NotWhole:
            return False
        except BaseException as error:  # noqa: BLE001 - panics
            _refusal(error)
            return False
        if read_state_vector(doc.get_state()) != clocks or not self.is_empty:
            return False
        self._attach(doc)
        self._base = update
        return True

    def _take_whole(self, snapshot: bytes) -> bool:
        """Begin with a snapshot in which nothing waits for anything; False if it is not taken after all."""
        doc = _new_doc()
        try:
            if may_hold_pairs(snapshot):
                snapshot = self._mend(snapshot)
            doc.apply_update(snapshot)
        except BaseException as error:  # noqa: BLE001 - panics
            _refusal(error)
            return False
        self._attach(doc)
        self._base = snapshot
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
        if len(self._pending.update) + len(update) > MAX_PENDING_BYTES and self._must_wait(update, sections):
            raise TooMuchPending("too much waits for updates that never came")
        return self._apply(update, sections)

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
        if clock > reached.get(client, -1) and not self._follows(update, client, clock, structs, clock_at):
            return False
        if self.tears(update):
            return False
        reached[client] = clock + structs
        return True

    def tears(self, update: bytes) -> bool:
        """Whether an update comes between the halves of a character that is there: the document is then built
        anew, which takes as long as to load it (70 ms for 470 KB). None that is malformed does.
        """
        if not self._pairs:
            return False
        try:
            return any(edge in self._pairs for edge in read_texts(update)[0])
        except BadUpdate:
            return False

    def apply_one(
        self, update: bytes, reached: Mapping[bytes, int]
    ) -> tuple[Applied | None, Sequence[bytes]] | None:
        """As `apply_together`, for one update alone; None where it went in as it came, as nearly all do.

        A hot path: 2.6 us.
        """
        if self._pending is not NOTHING_PENDING or len(update) > _LATER_MIN_BYTES:
            return self.apply_together([update], reached)
        try:
            whole = self._integrate(update)
        except BadUpdate:
            return None, [update]
        if not whole:
            return self._keep_part(), [update]
        events = self._events
        if len(events) == 1 and (events[0] == update or _says_the_same(events[0], update)):
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
        is_same = _says_the_same if len(updates) == 1 else eq
        if len(self._events) == 1 and is_same(self._events[0], merged) and self._pending is NOTHING_PENDING:
            self._reached.update(reached)
            self._changed(merged)
            return Applied(True, merged, False, merged), ()
        return self._look(merged, merged), ()

    def transact(self, edit: Callable[[Doc[Any]], None]) -> bytes | None:
        """Change the document ourselves, whole or not at all; the update, or None if nothing changed."""
        before = self._whole()
        self._events.clear()
        try:
            with self._doc.transaction():
                edit(self._doc)
        except BaseException as error:
            self._rebuild(before)
            if _is_panic(error):
                raise BadUpdate(str(error)[:200]) from None
            raise
        update = _gather(self._events)
        if update == EMPTY_UPDATE:
            return None
        if may_hold_pairs(update):
            self._pairs.add(read_texts(update)[1])
        self._changed(update)
        return update

    def _apply(self, update: bytes, sections: Sections | None = None) -> Applied:
        """`sections`: what is in it, if somebody had to look."""
        start = begins_plainly(update)
        if start is not None and self._follows(update, *start):
            return self._apply_following(update, start)
        if update == EMPTY_UPDATE:
            return Applied(False, EMPTY_UPDATE, False, update)
        clocks = read_state_vector(self.state_vector())
        if sections is None and len(update) > _READ_FAST_BYTES:
            sections = read_structs(update)
        if sections is not None and sections.follow(clocks):
            return self._apply_following(update)
        following, _ = split_at_gaps(update, clocks)
        if not self._integrate(following):
            return self._keep_part()
        return self._look(update, following)

    def _apply_following(self, update: bytes, start: tuple[bytes, int, int, int] | None = None) -> Applied:
        """Integrate an update that has no gap in it or before it. `start`: see `begins_plainly`."""
        if not self._integrate(update):
            return self._keep_part()
        if len(self._events) == 1 and _says_the_same(self._events[0], update):
            if start is not None:
                client, clock, structs, _ = start
                self._reached[client] = clock + structs
            self._changed(update)
            if self._pending is NOTHING_PENDING:
                return Applied(True, update, False, update)
            return Applied(True, _merge_two(update, self._settle()), False, update)
        return self._look(update, update)

    def _follows(self, update: bytes, client: bytes, clock: int, _structs: int, clock_at: int) -> bool:
        """Whether an update of one client follows on what is there without a gap.

        In the usual case the last update of this client tells: each struct takes at least one clock.
        Otherwise pycrdt is asked what is left of a placeholder for all that must be there, since reading a
        state vector, which has an entry for every client there ever was, takes longer.
        """
        if clock <= self._reached.get(client, 0):
            return True
        if len(self._reached) > _MAX_REACHED:
            self._reached.clear()
        return pycrdt.get_update(placeholder(update, clock_at), self.state_vector())[0] == 0

    def _keep_part(self) -> Applied:
        """pycrdt failed after it took a part of the update: that part is what was applied."""
        kept = _gather(self._events)
        self._rebuild(self._doc.get_update())
        return self._keep(kept)

    def _keep(self, kept: bytes) -> Applied:
        self._pending = self._not_integrated(self._pending.update)
        self._changed(kept)
        return Applied(True, kept, False, kept)

    def _integrate(self, update: bytes) -> bool:
        """Hand the update to pycrdt; what went in is in `_events` afterwards.

        False if it failed half-way. Raises BadUpdate if it failed and the document is as it was.
        """
        before = self._doc
        if self._pairs or may_hold_pairs(update):
            update = self._mend(update)
        self._events.clear()
        raw = self._raw
        try:
            transaction = raw.create_transaction()
            try:
                raw.apply_update(transaction, update)
                transaction.commit()
            finally:
                transaction.drop()
        except BaseException as error:  # noqa: BLE001 - panics
            refusal = _refusal(error)
            if _gather(self._events) == EMPTY_UPDATE:
                if self._doc is not before:
                    self._attach(before)
                    self._pairs.add(read_texts(before.get_update())[1])
                raise refusal from None
            return False
        return True

    def _mend(self, update: bytes) -> bytes:
        """Before pycrdt sees an update that comes between the halves of characters: have both be U+FFFD, as
        Yjs does, in the document and in the update, which is returned. What cannot be read is for pycrdt to
        refuse.
        """
        try:
            if not self._pairs and len(update) > _READ_FAST_BYTES and not _has_pairs(update):
                return update
            edges, spans = read_texts(update)
        except BadUpdate:
            return update
        is_here = any(edge in self._pairs for edge in edges)
        self._pairs.add(spans)
        torn = {edge for edge in edges if edge in self._pairs}
        if not torn:
            return update
        if is_here:
            state = self._doc.get_update()
            self._rebuild(tear(state, read_texts(state)[1], torn))
        self._pairs.remove(torn)
        return tear(update, spans, torn)

    def _look(self, update: bytes, given: bytes) -> Applied:
        """Find out what became of an update, of which pycrdt was given the part that follows without a
        gap.
        """
        integrated = _gather(self._events)
        before = self._pending
        waiting = self._not_integrated(update)
        if waiting is not NOTHING_PENDING:
            if self._not_integrated(given) is not NOTHING_PENDING:
                self._rebuild(self._doc.get_update())
            of_both = before.ids[1], read_update(update).deletes
            integrated = _merge_two(integrated, self._delete_reached(*of_both))
            self._pending = self._not_integrated(_merge_two(before.update, waiting.update))
        if integrated != EMPTY_UPDATE:
            self._forget()
        gained = _merge_two(integrated, self._settle())
        adds = gained != EMPTY_UPDATE or self._pending.ids != before.ids
        if adds:
            self._changed(gained)
        gap = waiting is not NOTHING_PENDING and self._pending is not NOTHING_PENDING
        return Applied(adds, gained, gap, update)

    def _delete_reached(self, *deletes: Ranges) -> bytes:
        """Delete what of these is there by now: pycrdt forgets it where structs of the same update wait, and
        what waited before was for something that may have come. Returns what that did.
        """
        clocks = read_state_vector(self._doc.get_state())
        gained = EMPTY_UPDATE
        for ranges in deletes:
            reached = _until_clocks(ranges, clocks)
            if reached and self._integrate(b"\x00" + encode_delete_set(reached)):
                gained = _merge_two(gained, _gather(self._events))
        return gained

    def _settle(self) -> bytes:
        """Integrate what waited for what has come now; returns what went in."""
        gained = EMPTY_UPDATE
        while (waiting := self._pending) is not NOTHING_PENDING and waiting.ids != self._hopeless:
            if not waiting.is_ready(read_state_vector(self.state_vector())):
                break
            went_in = self._offer(waiting)
            gained = _merge_two(gained, went_in)
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
        went_in = _gather(self._events)
        still = self._not_integrated(waiting.update) if whole else NOTHING_PENDING
        if not whole or self._not_integrated(following) is not NOTHING_PENDING:
            self._rebuild(self._doc.get_update())
            went_in = _merge_two(went_in, self._delete_reached(waiting.ids[1]))
        if still.ids == waiting.ids:
            self._hopeless = still.ids
        self._pending = still
        return went_in

    def _not_integrated(self, update: bytes) -> Pending:
        """What of the update is not in the document."""
        encoded = self._doc.get_state()
        rest = _difference(update, encoded)
        if rest == EMPTY_UPDATE:
            return NOTHING_PENDING
        shape = read_update(rest)
        clocks = read_state_vector(encoded)
        deletes = _from_clocks(shape.deletes, clocks)
        if not shape.structs and not deletes:
            return NOTHING_PENDING
        left = rest[: shape.deletes_at] + encode_delete_set(deletes)
        return Pending(left, (shape.structs, deletes), shape.heads)

    def _must_wait(self, update: bytes, sections: Sections | None) -> bool:
        """Whether the update begins with something that cannot be integrated now, for all of its clients."""
        clocks = read_state_vector(self.state_vector())
        if sections is not None and sections.begin(clocks):
            return False
        waiting = _difference(_merge_two(self._pending.update, update), self.state_vector())
        heads = read_update(waiting).heads
        return bool(heads) and not any(is_ready(client, head, clocks) for client, head in heads.items())

    def _rebuild(self, update: bytes) -> None:
        """Start again from an update: a new pycrdt document has nothing stuck in it."""
        doc = _new_doc()
        try:
            doc.apply_update(update)
        except BaseException as error:  # noqa: BLE001 - panics
            raise _refusal(error) from None
        self._attach(doc)

    # --- reading --------------------------------------------------------------------------------

    @property
    def doc(self) -> Doc[Any]:
        """The pycrdt document, for reading."""
        return self._doc

    @property
    def pending(self) -> bool:
        """Whether something waits for a predecessor."""
        return self._pending is not NOTHING_PENDING

    def state_vector(self) -> bytes:
        """What is integrated: client to next clock. Cached per version."""
        if self._state_vector is None:
            self._state_vector = self._doc.get_state()
        return self._state_vector

    def encode(self) -> bytes:
        """All that was accepted, what is pending included, as one update."""
        return self._with_pending(self._whole())

    def difference(self, since: bytes) -> bytes:
        """What is integrated and not known by a state vector, for whoever sent it. Raises BadFrame."""
        if since == EMPTY_STATE_VECTOR:
            return self._whole()
        check_state_vector(since)
        return self._encode_since(since)

    def parts(self) -> tuple[bytes, bytes]:
        """What is integrated, in two updates: one that many calls share, and what came after it.

        Encoding a document anew takes 5 ms a megabyte; while people edit it, each newcomer would cost that.
        """
        if self._base is None:
            return self._whole(), EMPTY_UPDATE
        if len(self._later) > 1:
            self._later = [merge(self._later)]
        return self._base, self._later[0] if self._later else EMPTY_UPDATE

    def _whole(self) -> bytes:
        """What is integrated; cached per version."""
        if self._base is None or self._later:
            self._base, self._later, self._later_size = self._doc.get_update(), [], 0
            self.bytes_estimate = len(self._base)
        return self._base

    def _with_pending(self, update: bytes) -> bytes:
        return _merge_two(update, self._pending.update)

    def _encode_since(self, since: bytes) -> bytes:
        try:
            return self._doc.get_update(since)
        except BaseException as error:  # noqa: BLE001 - panics
            raise BadFrame(_refusal(error).detail) from None

    def measure(self) -> int:
        """The size of the document encoded, which `bytes_estimate` is from now on. Costs an encoding."""
        self._whole()
        return self.bytes_estimate

    def would_grow(self, update: bytes) -> bool:
        """Whether `apply` would bring in more than deletes. Raises BadUpdate."""
        check_update(update)
        return _difference(update, self.state_vector())[0] != 0

    def would_add(self, update: bytes) -> bool:
        """Whether `apply` would change anything. Raises BadUpdate."""
        check_update(update)
        if self._not_integrated(self._with_pending(update)).ids != self._pending.ids:
            return True
        clocks = self.state_vector()
        known = read_update(_difference(update, clocks)).deletes
        return bool(known) and not _covers(self._deletes(), known, read_state_vector(clocks))

    def _deletes(self) -> Ranges:
        """What is deleted. Every difference carries the whole delete set; that to now carries nothing
        else.
        """
        return read_update(self._doc.get_update(self.state_vector())).deletes


def _new_doc() -> Doc[Any]:
    """A pycrdt document with a client id of its own, of 32 bits as in Yjs (pycrdt's own cost 8 bytes an id).

    It is never used again: an id that returned after uncommitted edits were lost would give two different
    edits one name.
    """
    return Doc(client_id=secrets.randbits(32))


def _has_pairs(update: bytes) -> bool:
    """Whether some text of it holds characters of two UTF-16 units, or that is not known. Most of them are in
    labels, which are values.
    """
    try:
        return read_structs(update).has_pairs
    except BadUpdate:
        return True


def _says_the_same(integrated: bytes, update: bytes) -> bool:
    """Whether all of the update went in, as far as that can be seen at a glance.

    The keys of an object inside a value come back in any order. So for an update of one client it is enough
    that its head (number of structs, client, first clock) and its length came back.
    """
    return integrated == update or (
        len(integrated) == len(update) and integrated[0] == 1 and integrated[:_HEAD] == update[:_HEAD]
    )


def is_ready(client: int, head: tuple[int, Sequence[Id]], clocks: Mapping[int, int]) -> bool:
    """Whether a client's first struct could be integrated: all that it is placed by is there."""
    clock, places = head
    return clock <= clocks.get(client, 0) and all(at < clocks.get(by, 0) for by, at in places)


def merge(updates: Sequence[bytes]) -> bytes:
    """One update that does what all do, pending parts included. Raises BadUpdate."""
    merged = list(updates)
    while len(merged) > 1:
        merged = [_merge_span(merged[at : at + _SPAN]) for at in range(0, len(merged), _SPAN)]
    return merged[0] if merged else EMPTY_UPDATE


def _merge_span(updates: Sequence[bytes]) -> bytes:
    if len(updates) == 1:
        return updates[0]
    try:
        return pycrdt.merge_updates(*updates)
    except BaseException as error:  # noqa: BLE001 - panics
        raise _refusal(error) from None


def _merge_two(first: bytes, second: bytes) -> bytes:
    if first == EMPTY_UPDATE:
        return second
    return first if second == EMPTY_UPDATE else _merge_span((first, second))


def _difference(update: bytes, state_vector: bytes) -> bytes:
    """The structs of the update that the state vector does not know, and all of its delete set."""
    try:
        return pycrdt.get_update(update, state_vector)
    except BaseException as error:  # noqa: BLE001 - panics
        raise _refusal(error) from None


def _gather(events: Sequence[bytes]) -> bytes:
    """What a transaction integrated."""
    told = [update for update in events if update != EMPTY_UPDATE]
    return merge(told)


def _is_panic(error: BaseException) -> bool:
    """Panics derive from BaseException, as cancellation, exit and interrupt do; pyo3 exports no class."""
    return type(error).__name__ == "PanicException"


def _refusal(error: BaseException) -> BadUpdate:
    """The error of pycrdt as ours; anything that is not pycrdt's is raised again."""
    if isinstance(error, ValueError | RuntimeError) or _is_panic(error):
        return BadUpdate(str(error)[:200])
    raise error


def _from_clocks(deletes: Ranges, clocks: Mapping[int, int]) -> Ranges:
    """The deletes of what is not there yet."""
    waiting: Ranges = {}
    for client, ranges in deletes.items():
        clock = clocks.get(client, 0)
        beyond = [(max(start, clock), end) for start, end in ranges if end > clock and end > start]
        if beyond:
            waiting[client] = union(beyond)
    return waiting


def _until_clocks(deletes: Ranges, clocks: Mapping[int, int]) -> Ranges:
    """The deletes of what is there."""
    reached: Ranges = {}
    for client, ranges in deletes.items():
        clock = clocks.get(client, 0)
        before = [(start, min(end, clock)) for start, end in ranges if start < min(end, clock)]
        if before:
            reached[client] = union(before)
    return reached


def _covers(deleted: Ranges, asked: Ranges, clocks: Mapping[int, int]) -> bool:
    """Whether all that is asked to be deleted, as far as it is there, is deleted."""
    for client, ranges in asked.items():
        clock = clocks.get(client, 0)
        known = union(deleted.get(client, ()))
        for start, end in ranges:
            if not _is_within(start, min(end, clock), known):
                return False
    return True


def _is_within(start: int, end: int, ranges: Sequence[tuple[int, int]]) -> bool:
    """Whether sorted ranges leave no part of [start, end) out."""
    for low, high in ranges[max(bisect_right(ranges, (start, _ANY_END)) - 1, 0) :]:
        if start >= end or low > start:
            break
        start = max(start, high)
    return start >= end
