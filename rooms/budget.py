"""What all rooms and replicas of a process may take of its memory together, by estimate.

Past the first limit those without anybody are closed early, least recently used first. Past the second no
further one is opened, and open ones hardly grow (`rooms/growth.py`). What a document takes is known once it
is read: it is counted from then on, while it is loaded too.
"""

import contextlib
from collections.abc import Iterator
from itertools import chain
from typing import Any

from rooms.growth import Growth
from rooms.hosted import Hosted
from rooms.hosting import Runner
from rooms.limits import RoomsLimits
from rooms.memory import MEMORY_FACTOR, ROOM_BYTES, memory_of
from rooms.nodes.following import ReplicaRunner
from rooms.runner import RoomRunner
from tmi.domain.errors import Unavailable
from tmi.domain.ports import StoredDocument

_GROWTH_SHARE = 8
"""Open rooms may grow past the hard limit by this part of it."""


class Budget:
    """Keeps rooms within their memory. `look` is called now and then."""

    def __init__(self, hosted: Hosted, limits: RoomsLimits) -> None:
        self._hosted = hosted
        self._limits = limits
        self._growth = Growth(hosted)
        self._seen = 0
        """What all take, as of the last look and with what has come since."""
        self._loading = 0
        """What documents take that are being loaded."""
        self._due_at = 0.0
        self.evictions = 0
        """Rooms and replicas closed early."""

    @property
    def bytes_taken(self) -> int:
        """What the rooms take, those being loaded too, and the replicas of others."""
        everything = chain[Runner[Any]](self._hosted.rooms, self._hosted.following.values())
        rooms = sum(memory_of(runner) for runner in everything if not runner.room.is_over)
        return rooms + self._loading

    def count(self, runner: Runner[Any]) -> None:
        """A document is in memory."""
        self._seen += memory_of(runner)

    @contextlib.contextmanager
    def loading(self, stored: StoredDocument) -> Iterator[None]:
        """A document is being loaded while the body runs. Raises Unavailable, see `refuse_when_full`."""
        self.refuse_when_full()
        taken = ROOM_BYTES + MEMORY_FACTOR * (len(stored.snapshot or b"") + sum(map(len, stored.tail)))
        self._loading += taken
        self._seen += taken
        try:
            yield
        finally:
            self._loading -= taken
            self._seen -= taken

    def refuse_when_full(self) -> None:
        """Raises Unavailable while rooms take too much and none can be closed for it.

        What a room will take is known when it is there. So the limit is passed by one room at most.
        """
        limits = self._limits
        if self._seen < limits.memory_hard_max_bytes:
            return
        self._evict(limits.memory_hard_max_bytes)
        if self._seen >= limits.memory_hard_max_bytes:
            self._hosted.refusals["rooms_memory"] += 1
            raise Unavailable("the open diagrams take all the memory they may; try again shortly")

    def look(self) -> None:
        """Close what is too much, and hold back what grows, if it is time to look again."""
        now, limits = self._hosted.ticker.now(), self._limits
        if now < self._due_at:
            return
        self._due_at = now + limits.memory_sweep_s
        self._seen = self.bytes_taken
        if self._seen > limits.memory_max_bytes:
            self._evict(limits.memory_max_bytes)
        hard = limits.memory_hard_max_bytes
        self._growth.look(is_over=self._seen > hard, allowed_bytes=hard // _GROWTH_SHARE)

    def _evict(self, target_bytes: int) -> None:
        """Close rooms and replicas without anybody and without unsaved edits, least recently used first."""
        self._seen = self.bytes_taken
        latest = self._hosted.ticker.now() - self._limits.evict_after_s
        idle: list[Runner[Any]] = [
            runner
            for runner in self._hosted.with_clients
            if runner.room.is_open
            and runner.room.is_empty
            and not runner.room.unsaved
            and runner.idle_since <= latest
        ]
        for runner in sorted(idle, key=lambda idle_runner: idle_runner.idle_since):
            if self._seen <= target_bytes:
                return
            if isinstance(runner, RoomRunner):
                runner.room.close_if_idle()
            elif isinstance(runner, ReplicaRunner) and runner.synced.is_set():
                runner.perform(runner.room.close_if_idle())
            else:
                continue  # newcomers wait for it
            self._seen -= memory_of(runner)
            self.evictions += 1
