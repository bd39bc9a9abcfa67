"""Diagrams."""

from datetime import datetime
from typing import Any, Literal
from uuid import UUID

from api.schemas.base import Input, Name, Output
from tmi.domain.model import Diagram


class DiagramInput(Input):
    """A new diagram."""

    name: Name
    type: Literal["DFD-1.0.0"]


class DiagramListItem(Output):
    """A row of the list of diagrams."""

    id: UUID
    alias: int
    name: str
    type: str
    description: str | None = None
    created_at: datetime
    modified_at: datetime

    @classmethod
    def of(cls, diagram: Diagram) -> "DiagramListItem":
        """A diagram's metadata as JSON."""
        return cls(
            id=diagram.id,
            alias=diagram.alias,
            name=diagram.name,
            type=diagram.type,
            description=diagram.description,
            created_at=diagram.created_at,
            modified_at=diagram.modified_at,
        )


class DiagramOutput(DiagramListItem):
    """A diagram with its cells; `update_vector` counts the updates that these very cells hold."""

    version: int
    update_vector: int
    cells: list[dict[str, Any]]


class DiagramList(Output):
    """A page of a threat model's diagrams."""

    diagrams: list[DiagramListItem]
    total: int
    limit: int
    offset: int
