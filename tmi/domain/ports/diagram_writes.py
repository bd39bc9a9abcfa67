"""Writes of a diagram's row; its cells are the room's."""

from typing import Protocol

from tmi.domain.diagrams import DiagramFields
from tmi.domain.events import Deed
from tmi.domain.ids import DiagramId, Seq, ThreatModelId
from tmi.domain.model import Diagram


class DiagramWrites(Protocol):
    """A diagram's row, as the writes of its owner see it."""

    async def get(self, model: ThreatModelId, diagram: DiagramId) -> Diagram:
        """As `Diagrams.get`."""

    async def write(
        self,
        model: ThreatModelId,
        diagram: DiagramId,
        fields: DiagramFields,
        deed: Deed,
        *,
        expected: int | None = None,
        read: DiagramFields | None = None,
        seq: Seq | None = None,
    ) -> Diagram:
        """Store the fields under the next version, with the event of it; `seq` is the update that changed
        cells, if one did. With `read`, what was read before, a field that is the same there stays as it is.
        Raises NotFound, and Conflict when `expected` is not the present version.
        """
