"""Diagrams."""

from datetime import datetime
from typing import Annotated, Any, ClassVar, Literal, Self
from uuid import UUID

from pydantic import Field, SkipValidation, StringConstraints

from api.schemas.base import Description, Input, Name, Output, Query
from api.schemas.cells import AnyCell, CellMetadata, NodeShape
from tmi.domain.diagrams import DiagramImage
from tmi.domain.model import Diagram

MAX_CELLS = 10_000
Svg = Annotated[str, StringConstraints(max_length=102_400, pattern=r"^[A-Za-z0-9+/]*=*$")]


class DiagramInput(Input):
    """A new diagram."""

    name: Name
    type: Literal["DFD-1.0.0"]


class ImageInput(Input):
    """A picture of the diagram, and the number of the last update that it shows."""

    svg: Svg | None = None
    update_vector: Annotated[int, Field(ge=0, lt=2**63)] | None = None


class PaletteEntry(Input):
    """A color of the diagram's palette."""

    position: Annotated[int, Field(ge=1, le=8)]
    color: Annotated[str, StringConstraints(pattern=r"^#[0-9a-fA-F]{3}([0-9a-fA-F]{3})?$")]


class DiagramDetails(Input):
    """What a write may say of a diagram beside its cells."""

    name: Name
    type: Literal["DFD-1.0.0"]
    description: Description | None = None
    image: ImageInput | None = None
    include_in_report: bool = True
    timmy_enabled: bool = True
    metadata: Annotated[list[CellMetadata], Field(max_length=10_000)] | None = None
    color_palette: Annotated[list[PaletteEntry], Field(max_length=8)] | None = None


class DiagramUpdate(DiagramDetails):
    """A diagram as it is to look. Cells may be in either form of geometry.

    What the service computes may come along, as it was read, and is left alone; `version` is compared, as
    `If-Match` is.
    """

    cells: Annotated[list[SkipValidation[AnyCell]], Field(max_length=MAX_CELLS)]
    """Checked where they are applied: those that stay as they are need not follow the contract."""
    version: Annotated[int, Field(ge=1)] | None = None
    id: Any = None
    alias: Any = None
    created_at: Any = None
    modified_at: Any = None
    deleted_at: Any = None
    update_vector: Any = None
    auto_generated: Any = None


class ImageOutput(Output):
    """A picture of the diagram."""

    svg: str | None = None
    update_vector: int | None = None

    @classmethod
    def of(cls, image: DiagramImage | None) -> Self | None:
        """As JSON."""
        return None if image is None else cls(svg=image.svg, update_vector=image.update_vector)


class DiagramListItem(Output):
    """A row of the list of diagrams."""

    id: UUID
    alias: int
    name: str
    type: Annotated[str, Field(json_schema_extra={"const": "DFD-1.0.0"})]
    description: str | None = None
    created_at: datetime
    modified_at: datetime
    deleted_at: datetime | None = None
    image: ImageOutput | None = None
    include_in_report: bool
    timmy_enabled: bool

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
            deleted_at=diagram.deleted_at,
            image=ImageOutput.of(diagram.image),
            include_in_report=diagram.include_in_report,
            timmy_enabled=diagram.timmy_enabled,
        )


class DiagramOutput(DiagramListItem):
    """A diagram with its cells; `update_vector` counts the updates that these very cells hold."""

    version: int
    update_vector: int
    metadata: list[CellMetadata]
    color_palette: list[PaletteEntry] | None = None
    cells: list[AnyCell]


class MinimalTerminal(Output):
    """An end of a data flow."""

    cell: str
    port: str | None = None


class MinimalCell(Output):
    """A node or a data flow without how it is drawn; `source` and `target` are a flow's."""

    SAYS_NULL: ClassVar[frozenset[str]] = frozenset({"parent"})

    id: str
    shape: NodeShape | Literal["flow"]
    parent: str | None = None
    children: list[str] | None = None
    source: MinimalTerminal | None = None
    target: MinimalTerminal | None = None
    labels: list[str]
    metadata: dict[str, str]
    security_boundary: bool | None = None
    data_asset_ids: list[str]


class MinimalDiagramModel(Output):
    """A diagram in its threat model, for programs that analyse it; `id`, `name`, `description` and `metadata`
    are the threat model's.
    """

    id: UUID
    name: str
    description: str
    metadata: dict[str, str]
    cells: list[MinimalCell]
    assets: list[dict[str, Any]]


class FormatQuery(Query):
    """The format of the answer, before what `Accept` says."""

    format: Literal["json", "yaml", "graphml"] | None = None


class DiagramList(Output):
    """A page of a threat model's diagrams."""

    diagrams: list[DiagramListItem]
    total: int
    limit: int
    offset: int
