"""The documents that a process has in memory: rooms that it owns, and replicas of rooms that others own."""

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import chain
from typing import Any

from rooms.hosting import Runner
from rooms.nodes.following import ReplicaRunner
from rooms.runner import RoomRunner
from tmi.domain.ids import DiagramId


@dataclass(frozen=True, slots=True)
class Hosted:
    """By diagram. Whoever changes one of them knows why; see `rooms/service.py`."""

    open: dict[DiagramId, RoomRunner] = field(default_factory=dict)
    ending: dict[DiagramId, RoomRunner] = field(default_factory=dict)
    """Rooms whose last edits are being committed."""
    moving: dict[DiagramId, RoomRunner] = field(default_factory=dict)
    """Rooms that another node is about to own."""
    following: dict[DiagramId, ReplicaRunner] = field(default_factory=dict)
    """Replicas of rooms that other nodes own, or owned until a moment ago."""
    over: deque[Runner[Any]] = field(default_factory=deque)
    """What nobody needs any more, and is not freed yet."""

    @property
    def rooms(self) -> Iterator[RoomRunner]:
        """All that this node owns."""
        return chain(self.open.values(), self.ending.values(), self.moving.values())

    def of(self, diagram: DiagramId) -> Iterator[Runner[Any]]:
        """Whatever has clients of a diagram."""
        for runner in (self.open.get(diagram), self.following.get(diagram)):
            if runner is not None:
                yield runner

    @property
    def with_clients(self) -> Iterator[Runner[Any]]:
        """Whatever may have clients."""
        return chain[Runner[Any]](self.open.values(), self.following.values())
