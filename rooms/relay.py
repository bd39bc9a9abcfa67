"""What a document has integrated and nobody was sent yet."""

from crdt import y_websocket
from crdt.merging import EMPTY_UPDATE, merge
from rooms.effects import Broadcast, SessionNumber


class Relay:
    """Updates that share a flush. They go out as one."""

    __slots__ = ("_source", "updates")

    def __init__(self) -> None:
        self.updates: list[bytes] = []
        """In the order in which they were integrated."""
        self._source: SessionNumber | None = None

    def add(self, update: bytes, source: SessionNumber | None) -> bool:
        """`source` alone has all of it already. True for the first of a flush, which has to be asked for."""
        if update == EMPTY_UPDATE:
            return False  # all of it waits for something; it goes out when that has come
        is_first = not self.updates
        self._source = source if is_first or self._source == source else None
        self.updates.append(update)
        return is_first

    def take(self) -> Broadcast:
        """All of it; nothing is left. What is of one author alone needs no echo: the protocols send none."""
        updates, source = self.updates, self._source
        self.updates, self._source = [], None
        merged = updates[0] if len(updates) == 1 else merge(updates)
        return Broadcast(y_websocket.update(merged), source)
