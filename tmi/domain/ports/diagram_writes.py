"""Writes of a diagram's row; its cells are the room's."""

from typing import Protocol

from tmi.domain.diagrams import DiagramFields
from tmi.domain.ids import DiagramId, ThreatModelId
from tmi.domain.model import Diagram


class DiagramWrites(Protocol):
    """A diagram's row, as the writes of its owner see it."""

    async def get(self, model: ThreatModelId, diagram: DiagramId) -> Diagram:
        """As `Diagrams.get`."""

    async def write(
        self, model: ThreatModelId, diagram: DiagramId, fields: DiagramFields, expected: int | None = None
    ) -> Diagram:
        """Store the fields under the next version. Raises NotFound, and Conflict when `expected` is not the
        present version.
        """
