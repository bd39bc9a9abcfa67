"""Sockets of a busy room, read when its tick is due instead of whenever something arrives.

What comes in before a tick ends waits for that anyhow, and each wakeup of the process costs the same for one
message as for fifty: two switches of context, a poll, cold caches. So while a room is busy, those who talk in
it are not read by the loop. What they send waits in the kernel, and is read in one go when the tick is due:
one call says who has sent something, and one per socket brings all of it.
"""

import contextlib
import logging
import select
from typing import Protocol

log = logging.getLogger(__name__)


class Source(Protocol):
    """A socket that can be read at other times than the loop's."""

    gathering: "Gathering | None"
    """Set and reset by `Gathering`."""

    def stop_reading(self) -> int | None:
        """Be read by the loop no more; the descriptor to watch, or None where that is not possible now."""

    def read_now(self) -> None:
        """Read and handle what has arrived. What the loop sees to, as the end of a stream, is left to it."""

    def read_by_loop(self) -> None:
        """Be read by the loop again, if there is anything left to read."""

    def abort(self) -> None:
        """Drop the connection."""


class Gathering:
    """The sources of one room."""

    __slots__ = ("_descriptors", "_poll", "_sources")

    def __init__(self) -> None:
        self._poll = select.epoll()
        self._sources: dict[int, Source] = {}
        self._descriptors: dict[Source, int] = {}

    def __len__(self) -> int:
        return len(self._sources)

    def add(self, source: Source) -> None:
        """Read this one from now on, unless that is not possible."""
        if source.gathering is not None:
            return
        descriptor = source.stop_reading()
        if descriptor is None:
            return
        try:
            self._poll.register(descriptor, select.EPOLLIN)
        except OSError:
            source.read_by_loop()
            return
        self._sources[descriptor] = source
        self._descriptors[source] = descriptor
        source.gathering = self

    def remove(self, source: Source) -> None:
        """Let the loop read this one again."""
        descriptor = self._descriptors.pop(source)
        source.gathering = None
        if self._sources.get(descriptor) is source:
            del self._sources[descriptor]
            with contextlib.suppress(OSError):
                self._poll.unregister(descriptor)
        source.read_by_loop()

    def read(self) -> None:
        """Read whoever has sent something, in the order of arrival."""
        if not self._sources:
            return
        for descriptor, _ in self._poll.poll(0, len(self._sources)):
            source = self._sources.get(descriptor)
            if source is None:
                continue
            try:
                source.read_now()
            except Exception:
                log.exception("a socket could not be read")
                source.abort()

    def close(self) -> None:
        """Let the loop read all of them again."""
        for source in list(self._descriptors):
            self.remove(source)
        self._poll.close()
