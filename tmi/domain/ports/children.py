"""Children of threat models, their metadata, and what becomes of the deleted."""

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Protocol

from tmi.domain.children import Child, ChildChange, ChildFilter, Draft, Entity
from tmi.domain.events import Deed
from tmi.domain.ids import ChildId, DiagramId, ThreatModelId
from tmi.domain.kinds import Kind
from tmi.domain.model import Diagram, ThreatModel
from tmi.domain.ports.threat_models import Page


class Children(Protocol):
    """Threats, assets, documents, notes and repositories, by the table of kinds.

    Each call is one transaction: all of it happens or nothing. A child of another threat model or kind, and
    one that is deleted, is not found.
    """

    async def create(
        self, model: ThreatModelId, kind: Kind, drafts: Sequence[Draft], deed: Deed
    ) -> Sequence[Child]:
        """Store new children under the next aliases, in their order.

        Raises NotFound when there is no such threat model, and BadInput for a reference to what is not in it.
        """

    async def page(
        self, model: ThreatModelId, kind: Kind, wanted: ChildFilter, page: Page
    ) -> tuple[Sequence[Child], int]:
        """A page of a threat model's children of a kind, without their bulky field, and their total."""

    async def get(self, model: ThreatModelId, kind: Kind, child: ChildId) -> Child:
        """Raises NotFound."""

    async def change(
        self, model: ThreatModelId, kind: Kind, changes: Sequence[ChildChange], deed: Deed
    ) -> Sequence[Child]:
        """Change children, each as its change says; returns them in that order, new ones with version 1.

        Raises NotFound, BadInput for a reference to what is not in the threat model, Conflict for a new child
        whose id is taken, and whatever a change raises.
        """

    async def mark(
        self,
        model: ThreatModelId,
        kind: Kind,
        children: Sequence[ChildId],
        deed: Deed,
        *,
        deleted: bool,
        expected: int | None = None,
    ) -> Sequence[Child]:
        """Delete children, or restore them. Raises NotFound, Conflict for one that is not deleted, and
        VersionMismatch where one is not at the version `expected`.
        """


class Metadata(Protocol):
    """Keys and values of a threat model, a diagram or another child."""

    async def of(self, entity: Entity) -> Mapping[str, str]:
        """Raises NotFound."""

    async def change(
        self, entity: Entity, make: Callable[[Mapping[str, str]], Mapping[str, str]], deed: Deed
    ) -> Mapping[str, str]:
        """Replace metadata by what `make`, which is called under a lock, makes of them, and raise the
        entity's version. Raises NotFound and whatever `make` raises.
        """


class Bin(Protocol):
    """Threat models, diagrams and children that were deleted, and can be restored for a time."""

    async def restore_model(self, model: ThreatModelId, deed: Deed) -> ThreatModel:
        """Restore a threat model with what was deleted together with it. Raises NotFound, and Conflict if it
        is not deleted.
        """

    async def restore_diagram(self, model: ThreatModelId, diagram: DiagramId, deed: Deed) -> Diagram:
        """Restore a diagram with all of its document. Raises NotFound, and Conflict if it is not deleted."""

    async def purge(self, before: datetime, rows: int) -> int:
        """Delete for good up to `rows` each of threat models, diagrams and children that were deleted before
        then; returns how many went.
        """
