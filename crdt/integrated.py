"""What is integrated of a document: pycrdt's side of it, the only place that lets pycrdt apply updates.

What it holds true
- An update goes in, or a part of it and `_told` says which, or nothing and the document is as it was.
- What is integrated is encoded once for all who ask, until it has changed by much.

What can go wrong in pycrdt (each has a regression test)
- It panics (`crdt/panics.py`).
- It fails half-way: a struct whose parent is no container is an error after the structs before it went in.
- It cannot part the two halves of a character as Yjs does (`crdt/pairs.py`).
- It gets stuck behind gaps, so it is given none: see `crdt/document.py`.

pycrdt tells what it integrated, as an update. Usually that is the update given, which is the cheap way to
know that all of it went in; only other outcomes are looked into.
"""

import secrets
from collections.abc import Callable, Generator
from typing import Any

from pycrdt import Doc

from crdt.merging import EMPTY_STATE_VECTOR, EMPTY_UPDATE, merge, merge_two
from crdt.pairs import Pairs, may_hold_pairs, read_texts, tear
from crdt.panics import is_panic, refusal
from crdt.pieces import NotWhole, pieces
from crdt.ranges import Ranges, until_clocks
from crdt.structs import READ_FAST_BYTES, read_structs
from crdt.updates import check_state_vector, encode_delete_set, read_state_vector, read_update
from tmi.domain.errors import BadFrame, BadUpdate

_LATER_MIN_BYTES = 64 * 1024
"""How much may follow the encoded document before it is encoded anew, or half of its size."""


class Integrated:
    """A pycrdt document in which nothing is pending. One thread at a time.

    What hands it updates (`_integrate`) says `_changed` with what went in.
    """

    __slots__ = (
        "_base",
        "_deleted",
        "_doc",
        "_events",
        "_later",
        "_later_size",
        "_pairs",
        "_raw",
        "_state_vector",
        "_subscription",
        "bytes_estimate",
        "version",
    )

    def __init__(self) -> None:
        self.version = 0
        """Rises with each change."""
        self.bytes_estimate = 0
        """What encoding it last took, in bytes. Who applies updates adds their sizes (see `measure`)."""
        self._pairs = Pairs()
        """Of all texts, and perhaps of some that were refused; see `_mend`."""
        self._attach(_new_doc())

    def _attach(self, doc: Doc[Any]) -> None:
        events: list[bytes] = []
        deleted = [b"\x00"]

        def changed(event: Any) -> None:  # a TransactionEvent, of which the stub leaves out `delete_set`
            events.append(event.update)
            deleted[0] = event.delete_set

        # Neither the callback nor what is around it may know the document, or Rust keeps the circle alive for
        # ever: the public `observe` does know it.
        self._raw = doc._doc  # noqa: SLF001 - applying through the public wrapper takes twice as long
        self._subscription = self._raw.observe(changed)
        self._doc = doc
        self._events = events
        self._deleted = deleted
        """What the last transaction deleted, as its update ends. 0.15 us an edit."""
        self._forget()

        self._base: bytes | None = None
        self._later: list[bytes] = []
        self._later_size = 0

    def _begin(self, doc: Doc[Any], state: bytes) -> None:
        """Go on with a document that has taken `state`, and nothing else."""
        self._attach(doc)
        self._base = state

    def _begin_whole(self, state: bytes) -> bool:
        """Begin with a state in which nothing waits for anything; False if it is not taken after all."""
        doc = _new_doc()
        try:
            if may_hold_pairs(state):
                state = self._mend(state)
            doc.apply_update(state)
        except BaseException as error:  # noqa: BLE001 - panics
            refusal(error)
            return False
        self._begin(doc, state)
        return True

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

    # --- changing -------------------------------------------------------------------------------

    def transact(self, edit: Callable[[Doc[Any]], None]) -> bytes | None:
        """Change the document ourselves, whole or not at all; the update, or None if nothing changed."""
        before = self._whole()
        self._events.clear()
        try:
            with self._doc.transaction():
                edit(self._doc)
        except BaseException as error:
            self._rebuild(before)
            if is_panic(error):
                raise BadUpdate(str(error)[:200]) from None
            raise
        update = self._told()
        if update == EMPTY_UPDATE:
            return None
        if may_hold_pairs(update):
            self._pairs.add(read_texts(update)[1])
        self._changed(update)
        return update

    def _integrate(self, update: bytes) -> bool:
        """Hand the update to pycrdt; what went in is in `_events` afterwards.

        False if it failed half-way. Raises BadUpdate if it failed and the document is as it was.
        """
        before = self._doc
        if self._pairs.by_client or may_hold_pairs(update):
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
            refused = refusal(error)
            if self._told() == EMPTY_UPDATE:
                if self._doc is not before:
                    self._attach(before)
                    self._pairs.add(read_texts(before.get_update())[1])
                raise refused from None
            return False
        return True

    def _told(self) -> bytes:
        """What the last transaction integrated."""
        return merge([update for update in self._events if update != EMPTY_UPDATE])

    def _mend(self, update: bytes) -> bytes:
        """Before pycrdt sees an update that comes between the halves of characters: have both be U+FFFD, as
        Yjs does, in the document and in the update, which is returned. What cannot be read is for pycrdt to
        refuse.
        """
        try:
            if not self._pairs.by_client and len(update) > READ_FAST_BYTES and not _has_pairs(update):
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

    def _delete_reached(self, *deletes: Ranges) -> bytes:
        """Delete what of these is there by now: pycrdt forgets it where structs of the same update wait, and
        what waited before was for something that may have come. Returns what that did.
        """
        clocks = read_state_vector(self._doc.get_state())
        gained = EMPTY_UPDATE
        for ranges in deletes:
            reached = until_clocks(ranges, clocks)
            if reached and self._integrate(b"\x00" + encode_delete_set(reached)):
                gained = merge_two(gained, self._told())
        return gained

    def _start_anew(self) -> None:
        """A new pycrdt document has nothing stuck in it."""
        self._rebuild(self._doc.get_update())

    def _rebuild(self, update: bytes) -> None:
        """Start again from an update."""
        doc = _new_doc()
        try:
            doc.apply_update(update)
        except BaseException as error:  # noqa: BLE001 - panics
            raise refusal(error) from None
        self._attach(doc)

    # --- reading --------------------------------------------------------------------------------

    @property
    def doc(self) -> Doc[Any]:
        """The pycrdt document, for reading."""
        return self._doc

    def state_vector(self) -> bytes:
        """What is integrated: client to next clock. Cached per version."""
        if self._state_vector is None:
            self._state_vector = self._doc.get_state()
        return self._state_vector

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

    def _encode_since(self, since: bytes) -> bytes:
        try:
            return self._doc.get_update(since)
        except BaseException as error:  # noqa: BLE001 - panics
            raise BadFrame(refusal(error).detail) from None

    def measure(self) -> int:
        """The size of the document encoded, which `bytes_estimate` is from now on. Costs an encoding."""
        self._whole()
        return self.bytes_estimate

    def tears(self, update: bytes) -> bool:
        """Whether an update comes between the halves of a character that is there: the document is then built
        anew, which takes as long as to load it (70 ms for 470 KB). None that is malformed does.
        """
        if not self._pairs.by_client:
            return False
        try:
            return any(edge in self._pairs for edge in read_texts(update)[0])
        except BadUpdate:
            return False

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


def built_by_steps(state: bytes) -> Generator[None, None, Doc[Any] | None]:
    """A pycrdt document that has taken a large state in pieces, with something else to be done at each
    `yield`; None if something in it waits, or it is malformed.
    """
    doc = _new_doc()
    taking = pieces(state)
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
        return None
    except BaseException as error:  # noqa: BLE001 - panics
        refusal(error)
        return None
    return doc if read_state_vector(doc.get_state()) == clocks else None


def _has_pairs(update: bytes) -> bool:
    """Whether some text of it holds characters of two UTF-16 units, or that is not known. Most of them are in
    labels, which are values.
    """
    try:
        return read_structs(update).has_pairs
    except BadUpdate:
        return True
