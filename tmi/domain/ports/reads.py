"""What is read most."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Protocol

from tmi.domain.children import Child, ChildFilter, StoredChild
from tmi.domain.ids import ChildId, ThreatModelId, UserId
from tmi.domain.kinds import Kind
from tmi.domain.model import Diagram, ThreatModel
from tmi.domain.ports.threat_models import Page


@dataclass(frozen=True, slots=True)
class Contents:
    """What is in a threat model: diagrams and then children, each kind by alias."""

    diagrams: Sequence[Diagram]
    children: Sequence[StoredChild]


class Reads(Protocol):
    """Reads that look up the reader's role themselves: each is one question, and tells nothing, not even
    whether there is such a thing, to who has no role. Every role may read.
    """

    async def model(
        self, user: UserId, model: ThreatModelId, most: int
    ) -> tuple[ThreatModel, Contents] | None:
        """A threat model with at most so many of each kind; None: there is none, or not for this user."""

    async def page(
        self, user: UserId, model: ThreatModelId, kind: Kind, wanted: ChildFilter, page: Page
    ) -> tuple[Sequence[StoredChild], int] | None:
        """A page of a threat model's children and their total; None: as above. `wanted` asks for none that
        are deleted.
        """

    async def child(self, user: UserId, model: ThreatModelId, kind: Kind, child: ChildId) -> Child | None:
        """A child with all its fields; None: as above."""

    async def contents(self, model: ThreatModelId, most: int) -> Contents:
        """What is in a threat model, whoever asks: for who has just written it."""

    async def named(self, model: ThreatModelId, kind: Kind, children: Collection[ChildId]) -> Sequence[Child]:
        """Those of these children that there are, by alias and without their bulky field, whoever asks."""
