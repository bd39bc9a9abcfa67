"""From a room that nobody is in to the memory that it took: it is closed, given back and freed."""

from typing import Any

from crdt.document import Document
from rooms.background import Background
from rooms.hosted import Hosted
from rooms.hosting import Runner
from rooms.limits import RoomsLimits
from rooms.memory import ROOM_BYTES, memory_of
from rooms.runner import RoomRunner
from rooms.snapshots import Snapshotter
from rooms.trimming import Trimming, trim_of_libc
from tmi.domain.ports import Coordinator

_FREED_BYTES = 512 * 1024
"""Of documents that are freed at once, or the one that is larger."""


class Retiring:
    """Lets rooms and replicas go. `close_idle` and `free_some` are called now and then."""

    def __init__(
        self,
        hosted: Hosted,
        coordinator: Coordinator,
        snapshotter: Snapshotter,
        background: Background,
        limits: RoomsLimits,
    ) -> None:
        self._hosted = hosted
        self._coordinator = coordinator
        self._snapshotter = snapshotter
        self._background = background
        self._limits = limits
        self._trimming = Trimming(trim_of_libc())

    def close_idle(self) -> None:
        """Close what nobody is in for long, and give back what has been committed."""
        hosted, now = self._hosted, self._hosted.ticker.now()
        for diagram, runner in list(hosted.open.items()):
            room = runner.room
            if room.is_open:
                if not room.is_empty or now - runner.idle_since <= self._limits.idle_s:
                    continue
                self._snapshotter.on_idle(runner)
                room.close_if_idle()
            if not room.is_open:
                hosted.end(diagram, runner)
        for diagram, runner in list(hosted.ending.items()):
            if runner.room.is_over:
                del hosted.ending[diagram]
                self.release(runner)
        self._close_idle_replicas()

    def _close_idle_replicas(self) -> None:
        hosted, limits = self._hosted, self._limits
        for diagram, replica in list(hosted.following.items()):
            # One that is not synced is empty since newcomers wait for that: for seconds, when an owner died.
            patience_s = limits.idle_s
            if not replica.synced.is_set():
                patience_s = max(patience_s, limits.load_timeout_s)
            if replica.room.is_empty and hosted.ticker.now() - replica.idle_since > patience_s:
                replica.perform(replica.room.close_if_idle())
            if replica.room.is_over:
                replica.detach()
                replica.synced.set()  # whoever waits looks for the room again
                del hosted.following[diagram]
                hosted.over.append(replica)

    def release(self, runner: RoomRunner) -> None:
        """A room is over: give it back, and free it in time."""
        # A task that knew the room would keep its document.
        self._background.spawn(self._coordinator.release(runner.room.diagram, runner.room.fence))
        self._hosted.over.append(runner)

    async def give_back(self, runner: RoomRunner) -> None:
        """Others may own it from now on."""
        await self._coordinator.release(runner.room.diagram, runner.room.fence)

    def free_some(self) -> None:
        """Let documents of rooms that are over go, some at a time: to free 5,000 cells takes 10 ms."""
        over = self._hosted.over
        left = max(_FREED_BYTES, sum(map(_size, over)) // 4)
        while over and left > 0:
            self._trimming.freed(memory_of(over[0]))
            left -= _size(over.popleft())
        if self._trimming.is_due:
            self._background.spawn(self._trimming.run())


def _size(runner: Runner[Any]) -> int:
    document: Document = runner.room.document
    return ROOM_BYTES + document.bytes_estimate
