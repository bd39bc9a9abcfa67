"""Health, nodes and rooms."""

from dataclasses import asdict
from datetime import datetime
from typing import Annotated, Literal, Self

from pydantic import Field

from api.schemas.base import Input, Output, Query, UuidText
from rooms.administration import ROOMS_MAX, NodeStatus, RoomStatus, Unreachable


class HealthAnswer(Output):
    """`ok`, or what is degraded."""

    status: str




class ApiStatus(Output):
    """How the service is."""

    code: Literal["ok", "degraded", "error"]
    time: datetime


class ServiceInfo(Output):
    """What runs here."""

    name: str
    build: str


class Specification(Output):
    """The API and where it is described."""

    version: str
    specification: str


class ApiInfo(Output):
    """What runs here, and how it is."""

    status: ApiStatus
    service: ServiceInfo
    api: Specification


class NodeOutput(Output):
    """A node, as it says itself."""

    id: str
    name: str
    url: str
    """Where other nodes reach it."""
    version: str
    uptime_s: float
    rooms_owned: int
    rooms_followed: int
    """Rooms of other nodes in which it has clients."""
    sessions: int
    """Open diagrams of its own clients."""
    is_draining: bool

    @classmethod
    def of(cls, node: NodeStatus) -> Self:
        """From what the node said."""
        return cls(**asdict(node))


class SilentNode(Output):
    """A node that is said to be alive, and did not answer."""

    id: str
    name: str
    url: str
    why: str

    @classmethod
    def of(cls, node: Unreachable) -> Self:
        """From what was tried."""
        return cls(**asdict(node))


class NodeList(Output):
    """All nodes that are alive."""

    nodes: list[NodeOutput]
    silent: list[SilentNode]


class RoomOutput(Output):
    """An open room, as its owner says."""

    id: str
    """The diagram's."""
    node_id: str
    node_name: str
    sessions: int
    followers: int
    """Other nodes that have clients in it."""
    document_bytes: int
    seq: int
    unsaved: int
    """Updates that are not committed."""
    edits_per_s: float
    since_commit_s: float | None = None
    """Absent: nothing was committed since it was opened."""

    @classmethod
    def of(cls, room: RoomStatus) -> Self:
        """From what its owner said."""
        return cls(**asdict(room))


class RoomList(Output):
    """The first of all open rooms."""

    rooms: list[RoomOutput]
    total: int
    silent: list[SilentNode]


class RoomsQuery(Query):
    """What to sort rooms by, largest first, and how many to show."""

    sort: Literal["edits_per_s", "document_bytes", "sessions", "unsaved", "since_commit_s"] = "edits_per_s"
    limit: Annotated[int, Field(ge=1, le=ROOMS_MAX)] = 100


class MoveInput(Input):
    """Where a room is to go."""

    node_id: UuidText | None = None


class MoveOutput(Output):
    """Where a room is now."""

    id: str
    node_id: str
    node_name: str
