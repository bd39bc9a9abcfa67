"""The audit trail of threat models: what was written together with each change."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol
from uuid import UUID

from tmi.domain.events import ChangeType, Difference, ObjectType, Recorded
from tmi.domain.ids import DiagramId, EventId, Seq, ThreatModelId
from tmi.domain.ports.rooms import StoredDocument
from tmi.domain.ports.threat_models import Page

COUNTED_MAX = 100_000
"""A list's total is counted up to this number."""


@dataclass(frozen=True, slots=True)
class EventFilter:
    """Which events to list."""

    threat_model: ThreatModelId | None = None
    object_type: ObjectType | None = None
    change: ChangeType | None = None
    email: str | None = None
    """The actor's, in any case."""
    provider: str | None = None
    after: datetime | None = None
    before: datetime | None = None


@dataclass(frozen=True, slots=True)
class EventPage:
    """A page of the trail, newest first, without states."""

    events: Sequence[Recorded]
    total: int
    older: int | None
    """Where the next page begins; None at the end."""
    newer: int | None
    """Where the page before begins; None at the newest end."""


class Trail(Protocol):
    """Reads the trail."""

    async def page(self, wanted: EventFilter, limit: int, cursor: int | None, *, newer: bool) -> EventPage:
        """The events after (`newer`: before) a place in the list, from its newest end without one."""

    async def of_object(
        self, model: ThreatModelId, object_type: ObjectType, key: UUID, page: Page
    ) -> tuple[Sequence[Recorded], int]:
        """A page of the events of one object, newest first, and their total; none where nothing is known."""

    async def get(self, event: EventId) -> Recorded:
        """An event with its state, if that is kept. Edits of cells have none of their own: they have the
        newest that their diagram had by then. Raises NotFound.
        """

    async def changes(self, numbers: Sequence[int]) -> Mapping[int, Difference]:
        """What these events changed, by one statement: for those whose state is kept, and the one before it.
        An object that is created had nothing before.
        """

    async def purge(self, before: datetime, states_before: datetime, rows: int) -> int:
        """Delete up to `rows` events that are older, and as many states; returns how many went."""


class Feed(Protocol):
    """Follows the trail as it grows."""

    async def last(self, model: ThreatModelId) -> int:
        """The number of a threat model's newest event; 0 where there is none."""

    async def since(self, model: ThreatModelId, number: int, limit: int) -> Sequence[Recorded]:
        """The first `limit` events of a threat model after a number, oldest first, without states."""

    def hearing(
        self, handle: Callable[[ThreatModelId | None], None]
    ) -> AbstractAsyncContextManager[object]:
        """While the body runs, `handle` is called with each threat model that has a new event, wherever it
        was written; with None when some may have been missed.
        """


class CellEdits(Protocol):
    """Edits of cells: the log of a document is their event, and the trail shows them by author and minute.

    Each update is told of once, whoever asks, how often, and however many at once.
    """

    async def tell_of(
        self, model: ThreatModelId, until: datetime, diagram: DiagramId | None = None
    ) -> int:
        """Add what was edited in a threat model's diagrams, or in one of them, before `until`, the beginning
        of a minute, to its trail; returns the number of new events. Takes at most 200 diagrams and 50,000
        updates of each.
        """

    async def tell_next(self, after: DiagramId | None, diagrams: int, until: datetime) -> DiagramId | None:
        """The same for the next so many diagrams of all; returns the last of them, None after the last."""

    async def document(self, diagram: DiagramId, seq: Seq) -> StoredDocument:
        """The document as it was after an update. Raises NotFound, also for one that is still to come."""
