"""Who is here, as a replica knows it: what the owner said of all, and this node's clients of themselves.

The owner decides whose an entry is. Here stale entries are dropped before they travel, since y-websocket 3.x
repeats whatever it hears; and what this node's clients said last is kept for the next owner.
"""

from collections.abc import Iterable, Mapping, Sequence

from crdt import awareness
from crdt.awareness import GONE, Entry
from rooms.effects import SessionNumber

_ENTRIES_MAX = 100_000
_ID_BYTES = 256
"""What a client id takes besides its state."""


class HeardPresence:
    """Bounded: client ids per session, bytes per state and of all that sessions said, remembered departures.
    What all have said is as large as the owner lets it become.
    """

    def __init__(
        self,
        *,
        ids_per_session: int,
        state_max_bytes: int,
        max_bytes: int = 8 * 1024 * 1024,
        remembered: int = 1024,
    ) -> None:
        self._heard_bytes = self._said_bytes = 0
        self.heard = 0
        """How often the owner has spoken."""
        self._heard: dict[int, Entry] = {}
        self._heard_at: dict[int, int] = {}
        self._departed: dict[int, None] = {}
        self._doubted: set[int] = set()
        self._said: dict[SessionNumber, dict[int, Entry]] = {}
        self._ids_per_session = ids_per_session
        self._state_max_bytes = state_max_bytes
        self._max_bytes = max_bytes
        self._remembered = remembered

    @property
    def size(self) -> int:
        """What all of it takes, in bytes, about."""
        return self._heard_bytes + self._said_bytes

    def say(self, session: SessionNumber, data: bytes) -> bytes | None:
        """What of a session's awareness the owner has to hear; None for nothing. Raises BadFrame."""
        entries = awareness.parse(data, max_entries=1024, max_state_bytes=self._state_max_bytes)
        said = self._said.setdefault(session, {})
        own = next(iter(said), entries[0].client if entries else None)
        fresh = [entry for entry in entries if self._is_fresh(entry, said, is_own=entry.client == own)]
        for entry in fresh:
            before = said.get(entry.client)
            grown = _weight(entry) - _weight(before)
            if before is None and len(said) >= self._ids_per_session:
                continue
            if grown <= 0 or self._said_bytes + grown <= self._max_bytes:
                said[entry.client] = entry
                self._said_bytes += grown
        return awareness.encode(fresh) if fresh else None

    def _is_fresh(self, entry: Entry, said: dict[int, Entry], *, is_own: bool) -> bool:
        known = said.get(entry.client)
        if known is not None:
            return _is_newer(entry, known)
        # Its own, first of all: the owner answers it whatever its clock is, and takes it from a connection
        # that is half open. Of others it may repeat what it heard, which is no word of theirs.
        heard = self._heard.get(entry.client)
        return is_own or heard is None or _is_newer(entry, heard)

    def hear(self, data: bytes) -> None:
        """The owner has spoken. Raises BadFrame."""
        self.heard += 1
        # How large a state may be is the owner's setting, which may differ from this node's.
        for entry in awareness.parse(data, max_entries=_ENTRIES_MAX, max_state_bytes=len(data)):
            self._note(entry)
            self._doubted.discard(entry.client)
        self._forget_long_departed()

    def _note(self, entry: Entry) -> None:
        self._heard_bytes += _weight(entry) - _weight(self._heard.get(entry.client))
        self._heard[entry.client] = entry
        self._heard_at[entry.client] = self.heard
        if entry.state == GONE:
            self._departed[entry.client] = None
        else:
            self._departed.pop(entry.client, None)

    def _forget_long_departed(self) -> None:
        while len(self._departed) > self._remembered:
            oldest = next(iter(self._departed))
            self._heard_bytes -= _weight(self._heard[oldest])
            del self._departed[oldest], self._heard[oldest], self._heard_at[oldest]

    def everybody(self) -> bytes | None:
        """All who are here, encoded; None if nobody is."""
        present = [entry for entry in self._heard.values() if entry.state != GONE]
        return awareness.encode(present) if present else None

    def since(self, heard: int) -> bytes | None:
        """What is new to who was told all up to then, encoded; None if nothing is."""
        news = [self._heard[key] for key, at in self._heard_at.items() if at > heard]
        return awareness.encode(news) if news else None

    def said_by(self, session: SessionNumber) -> bytes | None:
        """What a session said last of everybody it speaks for, for an owner who has not heard it."""
        said = self._said.get(session)
        return awareness.encode(said.values()) if said else None

    def leave(self, session: SessionNumber) -> None:
        """The session is gone."""
        self._said_bytes -= sum(map(_weight, self._said.pop(session, {}).values()))

    def inherit(self, known: Iterable[Entry], said: Mapping[SessionNumber, Sequence[Entry]]) -> None:
        """Sessions have come over from a room: what it knew of everybody, and what they said."""
        self.heard += 1
        for entry in known:
            heard = self._heard.get(entry.client)
            if heard is None or _is_newer(entry, heard):
                self._note(entry)
        self._forget_long_departed()
        for session, entries in said.items():
            self.leave(session)
            self._said[session] = {entry.client: entry for entry in entries}
            self._said_bytes += sum(map(_weight, self._said[session].values()))

    def doubt(self) -> None:
        """There is a new owner, who knows nobody yet: whoever is here is heard of again, or `give_up` ends
        it.
        """
        self._doubted = {client for client, entry in self._heard.items() if entry.state != GONE}

    def give_up(self) -> bytes | None:
        """Those of whom no word came since `doubt` are gone: what to tell about it, if anything."""
        gone = [Entry(client, self._heard[client].clock, GONE) for client in sorted(self._doubted)]
        self._doubted = set()
        if not gone:
            return None
        data = awareness.encode(gone)
        self.hear(data)
        return data


def _weight(entry: Entry | None) -> int:
    return 0 if entry is None else _ID_BYTES + len(entry.state)


def _is_newer(entry: Entry, known: Entry) -> bool:
    return entry.clock > known.clock or (entry.clock == known.clock and entry.state == GONE != known.state)
