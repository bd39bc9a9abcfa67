"""Edits that have arrived and wait to be applied together, when their tick ends.

Applying edits in one transaction costs a third of applying them one by one, and what comes out of it is at
once what goes to everybody else. Only what follows on its clocks without a gap is held; anything else is
applied by itself, after what is held. An edit that is held has no number yet, so nothing was promised.
"""

from collections.abc import Callable, Sequence
from itertools import groupby
from typing import Generic, NamedTuple, TypeVar
from uuid import UUID

from crdt.document import Applied, Document
from crdt.merging import merge
from tmi.domain.ids import UserId

SessionT = TypeVar("SessionT")
_NOBODY = UserId(UUID(int=0))


class Outcome(NamedTuple, Generic[SessionT]):
    """What became of the edits that were held."""

    applied: Applied | None
    """What went in as one."""
    edits: Sequence[tuple[SessionT, bytes]]
    """Whose edits those are."""
    alone: Sequence[tuple[SessionT, bytes]]
    """What has to be applied one by one, since something in it is refused."""


class Held(Generic[SessionT]):
    """The edits of one tick, in the order of their arrival."""

    __slots__ = ("_document", "_edits", "_outcome", "_reached", "size")

    def __init__(self, document: Document) -> None:
        self._document = document
        self._edits: list[tuple[SessionT, bytes]] = []
        self._reached: dict[bytes, int] = {}
        self._outcome: Outcome[SessionT] | None = None
        self.size = 0
        """In bytes."""

    def __len__(self) -> int:
        return len(self._edits)

    def take(self, session: SessionT, update: bytes) -> bool:
        """Hold an edit; False if it must be applied by itself. Raises BadUpdate."""
        if not self._document.follows(update, self._reached):
            return False
        self._edits.append((session, update))
        self.size += len(update)
        return True

    def apply_lone(self) -> tuple[SessionT, bytes] | None:
        """Apply what is held if it is one edit; which that was, where it went in as it came, and nothing is
        held afterwards. None: what became of it is for `apply` to say, at once. Most edits of quiet rooms.
        """
        edits = self._edits
        if len(edits) != 1:
            return None
        outcome = self._document.apply_one(edits[0][1], self._reached)
        if outcome is not None:
            applied, alone = outcome
            self._outcome = Outcome(applied, () if alone else edits, edits if alone else ())
            return None
        self._edits, self._reached, self.size = [], {}, 0
        return edits[0]

    def apply(self) -> Outcome[SessionT]:
        """Apply what is held; nothing is held afterwards."""
        edits, reached, outcome = self._edits, self._reached, self._outcome
        self._edits, self._reached, self._outcome, self.size = [], {}, None, 0
        if outcome is not None:
            return outcome
        applied, alone = self._document.apply_together([update for _, update in edits], reached)
        return Outcome(applied, () if alone else edits, edits if alone else ())


def by_author(edits: Sequence[tuple[SessionT, bytes]], author: Callable[[SessionT], UserId | None]) -> list[
    tuple[SessionT, bytes]
]:  # fmt: skip
    """One update for each author, with a session of theirs. The log keeps who brought what."""
    ordered = sorted(edits, key=lambda edit: author(edit[0]) or _NOBODY)
    rows = []
    for _, group in groupby(ordered, lambda edit: author(edit[0])):
        mine = list(group)
        rows.append((mine[0][0], merge([update for _, update in mine])))
    return rows
