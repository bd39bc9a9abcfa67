"""The documents that a process has in memory: rooms that it owns, and replicas of rooms that others own."""

from collections import Counter, deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import chain
from typing import Any

from rooms.hosting import Runner
from rooms.large_edits import Kept
from rooms.nodes.following import ReplicaRunner
from rooms.nodes.replica import Replica
from rooms.room import Room
from rooms.runner import RoomRunner
from rooms.slices import Slices
from rooms.ticker import Ticker
from tmi.domain.ids import DiagramId


@dataclass(frozen=True, slots=True)
class Hosted:
    """By diagram. Rooms come by `rooms/opening.py`, replicas by `rooms/replicas.py`, and both go by
    `rooms/retiring.py`; rooms that are deleted or change their owner by `rooms/rights.py` and
    `rooms/handing_over.py`.
    """

    ticker: Ticker
    open: dict[DiagramId, RoomRunner] = field(default_factory=dict)
    ending: dict[DiagramId, RoomRunner] = field(default_factory=dict)
    """Rooms whose last edits are being committed."""
    moving: dict[DiagramId, RoomRunner] = field(default_factory=dict)
    """Rooms that another node is about to own."""
    following: dict[DiagramId, ReplicaRunner] = field(default_factory=dict)
    """Replicas of rooms that other nodes own, or owned until a moment ago."""
    over: deque[Runner[Any]] = field(default_factory=deque)
    """What nobody needs any more, and is not freed yet."""
    refusals: Counter[str] = field(default_factory=Counter)
    """What was refused, by limit."""
    closes: Counter[int] = field(default_factory=Counter)
    """Sessions that rooms and replicas have ended, by close code."""
    kept: Kept = field(default_factory=Kept)
    """What is kept of large edits, and behind them."""

    def add_room(self, room: Room, on_journal: Callable[[RoomRunner], None]) -> RoomRunner:
        """A room is open. `on_journal` is told when there is something to commit."""
        room.refusals = self.refusals
        runner = RoomRunner(room, self.ticker, on_journal)
        runner.closes = self.closes
        runner.large_edits.kept = self.kept
        self.open[room.diagram] = runner
        return runner

    def add_replica(self, replica: Replica, slices: Slices) -> ReplicaRunner:
        """A room of another node is followed."""
        replica.refusals = self.refusals
        runner = ReplicaRunner(replica, self.ticker, slices)
        runner.closes = self.closes
        runner.large_edits.kept = self.kept
        self.following[replica.diagram] = runner
        return runner

    def end(self, diagram: DiagramId, runner: RoomRunner) -> None:
        """A room is open no more, and commits what it has."""
        del self.open[diagram]
        self.ending[diagram] = runner

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
