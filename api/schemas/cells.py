"""Cells of a diagram, as the contract bounds them."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, TypeAdapter

from api.schemas.base import UuidText

Color = Annotated[
    str,
    StringConstraints(
        max_length=32, pattern=r"^(#[0-9a-fA-F]*|rgb\( *[0-9]+ *, *[0-9]+ *, *[0-9]+ *\)|[a-z]+)$"
    ),
]
Dashes = Annotated[
    str,
    StringConstraints(max_length=64, pattern=r"^$|^[0-9]+(\.[0-9]+)?((, ?| )[0-9]+(\.[0-9]+)?)*$"),
]
Percentage = Annotated[str, StringConstraints(max_length=64, pattern=r"^[0-9]+%$")]
LabelText = Annotated[str, StringConstraints(max_length=256, pattern=r"^[^\x00-\x1F]*$")]
Font = Annotated[str, StringConstraints(max_length=64, pattern=r"^[a-zA-Z0-9 ,'-]*$")]
PortName = Annotated[str, StringConstraints(max_length=64, pattern=r"^[^\x00-\x1F]*$")]
GroupName = Annotated[str, StringConstraints(max_length=32, pattern=r"^[^\x00-\x1F]*$")]
Number = Annotated[float, Field(allow_inf_nan=False)]
AtLeast0 = Annotated[float, Field(ge=0, allow_inf_nan=False)]
AtLeast1 = Annotated[float, Field(ge=1, allow_inf_nan=False)]
Place = Number | Percentage
RouterName = Literal["normal", "orth", "one_side", "manhattan", "metro", "er"]
ConnectorName = Literal["normal", "rounded", "smooth", "jumpover"]
NodeShape = Literal["actor", "process", "store", "security-boundary", "text-box"]


class CellPart(BaseModel):
    """A value inside a cell: exact types, nothing unknown."""

    model_config = ConfigDict(strict=True, extra="forbid")


class CellMetadata(CellPart):
    """A key and its value."""

    key: Annotated[str, StringConstraints(min_length=1, max_length=256, pattern=r"^[a-zA-Z0-9_./:-]+$")]
    value: Annotated[str, StringConstraints(min_length=1, max_length=1024)]


class CellData(BaseModel):
    """Data of a cell: what editors like, and some names that mean something."""

    model_config = ConfigDict(strict=True, extra="allow")

    metadata: Annotated[list[CellMetadata], Field(max_length=100, alias="_metadata")] = []
    security_boundary: bool = False
    data_assets: Annotated[list[UuidText], Field(min_length=1, max_length=100)] | None = None


class Position(CellPart):
    """Where a node is."""

    x: Number
    y: Number


class Size(CellPart):
    """How large a node is, in pixels."""

    width: Annotated[float, Field(ge=40, allow_inf_nan=False)]
    height: Annotated[float, Field(ge=30, allow_inf_nan=False)]


class NodeBody(CellPart):
    """How a node's shape is drawn."""

    fill: Color | None = None
    stroke: Color | None = None
    strokeWidth: AtLeast0 | None = None
    strokeDasharray: Dashes | None = None
    rx: AtLeast0 | None = None
    ry: AtLeast0 | None = None
    lateral: Number | None = None
    refWidth: Place | None = None
    refHeight: Place | None = None
    fillOpacity: Annotated[float, Field(ge=0, le=1)] | None = None


class NodeText(CellPart):
    """How a node's label is drawn."""

    text: LabelText | None = None
    fontSize: AtLeast1 | None = None
    fill: Color | None = None
    fontFamily: Font | None = None
    refX: Place | None = None
    refY: Place | None = None
    refDx: Number | None = None
    refDy: Number | None = None
    refX2: Place | None = None
    refY2: Place | None = None
    textAnchor: Literal["start", "middle", "end"] | None = None
    textVerticalAnchor: Literal["top", "middle", "bottom"] | None = None


class NodeAttrs(CellPart):
    """How a node is drawn."""

    body: NodeBody | None = None
    text: NodeText | None = None


class PortGroup(BaseModel):
    """A side of a node with ports."""

    model_config = ConfigDict(strict=True, extra="allow")

    position: Literal["top", "right", "bottom", "left"] | None = None
    attrs: dict[str, Any] | None = None


class Port(BaseModel):
    """Where edges may be connected."""

    model_config = ConfigDict(strict=True, extra="allow")

    id: PortName
    group: GroupName
    attrs: dict[str, Any] | None = None


class Ports(CellPart):
    """A node's ports."""

    groups: dict[str, PortGroup] | None = None
    items: Annotated[list[Port], Field(max_length=1000)] | None = None


class Node(BaseModel):
    """A process, a store, an actor, a boundary or a text.

    Its geometry is `position` and `size`, or flat `x y width height`.
    """

    model_config = ConfigDict(strict=True, extra="allow")

    id: UuidText
    shape: NodeShape
    data: CellData | None = None
    position: Position | None = None
    size: Size | None = None
    angle: Number | None = None
    attrs: NodeAttrs | None = None
    ports: Ports | None = None
    parent: UuidText | Literal[""] | None = None
    children: Annotated[list[UuidText], Field(max_length=1000)] | None = None
    x: Number | None = None
    y: Number | None = None
    width: Annotated[float, Field(ge=40, allow_inf_nan=False)] | None = None
    height: Annotated[float, Field(ge=30, allow_inf_nan=False)] | None = None


class EdgeTerminal(CellPart):
    """An end of an edge."""

    cell: UuidText
    port: PortName | None = None


class Marker(CellPart):
    """An arrowhead."""

    name: Literal["classic", "block", "diamond", "circle"] | None = None
    size: AtLeast1 | None = None


class EdgeLine(CellPart):
    """How an edge's line is drawn."""

    stroke: Color | None = None
    strokeWidth: AtLeast0 | None = None
    strokeDasharray: Dashes | None = None
    targetMarker: Marker | None = None
    sourceMarker: Marker | None = None


class EdgeAttrs(CellPart):
    """How an edge is drawn."""

    line: EdgeLine | None = None


class EdgeLabelText(CellPart):
    """How a label is drawn."""

    text: LabelText | None = None
    fontSize: AtLeast1 | None = None
    fill: Color | None = None
    fontFamily: Font | None = None


class EdgeLabelAttrs(CellPart):
    """How a label is drawn."""

    text: EdgeLabelText | None = None


class Offset(CellPart):
    """Beside the edge."""

    x: Number | None = None
    y: Number | None = None


class LabelOptions(CellPart):
    """How a label's place is meant."""

    absoluteDistance: bool | None = None
    reverseDistance: bool | None = None
    absoluteOffset: bool | None = None
    keepGradient: bool | None = None
    ensureLegibility: bool | None = None


class LabelPlace(CellPart):
    """A label's place along the edge."""

    distance: Number
    offset: Number | Offset | None = None
    angle: Number | None = None
    options: LabelOptions | None = None


class EdgeLabel(CellPart):
    """A label of an edge."""

    attrs: EdgeLabelAttrs | None = None
    position: Number | LabelPlace | None = None


class Router(CellPart):
    """How an edge finds its way."""

    name: RouterName
    args: dict[str, Any] | None = None


class Connector(CellPart):
    """How an edge's corners are drawn."""

    name: ConnectorName
    args: dict[str, Any] | None = None


class Edge(BaseModel):
    """A data flow between two nodes."""

    model_config = ConfigDict(strict=True, extra="allow")

    id: UuidText
    shape: Literal["flow"]
    data: CellData | None = None
    source: EdgeTerminal
    target: EdgeTerminal
    attrs: EdgeAttrs | None = None
    labels: Annotated[list[EdgeLabel], Field(max_length=1000)] | None = None
    vertices: Annotated[list[Position], Field(max_length=1000)] | None = None
    router: RouterName | Router | None = None
    connector: ConnectorName | Connector | None = None
    defaultLabel: EdgeLabel | None = None


AnyCell = Annotated[Node | Edge, Field(discriminator="shape")]
CELL: TypeAdapter[Node | Edge] = TypeAdapter(AnyCell)
"""Checks one cell."""
