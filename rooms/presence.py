"""Who is here: awareness of everybody in a room.

Awareness entries are (client id, clock, JSON state); a client takes an entry whose clock is newer than the
one it has, or equal with state `null`, which means gone. What this module holds true:

- An entry belongs to the session that speaks for it, and goes when that session goes: a client id that a
  session announces first of all is its own; other ids it brings (a browser's tabs share awareness) are its
  own until their owner comes.
- A client id stays bound to the first user who announced it as their own, and until then to the first who
  spoke of it: y-websocket 3.x sends back what it hears, to a new owner perhaps before the client itself is
  heard. Entries for it from other users are dropped without fuss.
- Clocks are compared before the JSON is looked at, and the JSON is only checked, never rebuilt.
- All of it together is bounded. At the bound no further client id is taken, and no state that is larger than
  the one before; those who are here move on with what is as small.
- After a departure the clock is remembered. A client that reconnects with the clock it had would be ignored
  by its peers, so it is sent its own departure, to which y-protocols answers with a higher clock.
"""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from crdt import awareness
from crdt.awareness import GONE, Entry
from rooms.effects import SessionNumber
from tmi.domain.errors import BadFrame, StateTooLarge
from tmi.domain.ids import UserId

_BRACE = ord("{")
_ID_BYTES = 512
"""What a client id takes besides its state: measured with 1,000."""
_COPIES = 2
"""Of each state: alone, and as it is sent."""


@dataclass(slots=True)
class _Known:
    client: int
    clock: int
    state: bytes
    user: UserId
    session: SessionNumber | None
    is_own: bool
    """Announced by the session whose own it is."""
    head: bytes
    """How a message about this client alone begins."""
    wire: bytes | None = None
    """The entry, encoded, if it has been."""
    told_at: int = 0
    """The number of the last flush that told of it."""

    def say(self, clock: int, state: bytes, wire: bytes | None = None) -> None:
        """This is the newest state; `wire`: as it came."""
        self.clock = clock
        self.state = state
        self.wire = wire

    def encoded(self) -> bytes:
        """As `crdt.awareness.encode` puts it behind the number of entries."""
        if self.wire is None:
            self.wire = awareness.encode_rest(self.head, self.clock, self.state)
        return self.wire


class Presence:
    """The awareness of one room. Bounded: ids per session, bytes of one state and of all, departures."""

    def __init__(
        self,
        *,
        ids_per_session: int = 16,
        state_max_bytes: int = 64 * 1024,
        max_bytes: int = 8 * 1024 * 1024,
        remembered: int = 1024,
    ) -> None:
        self.size = 0
        """What all of it takes, in bytes, about."""
        self.flushes = 0
        """How often changes were taken. Who was sent all until then lacks what later flushes tell."""
        self.refusals: Counter[str] = Counter()
        """What was not taken in, by limit."""
        self.has_moved = False
        """Somebody who was here already has moved on since `take_changes`."""
        self._known: dict[int, _Known] = {}
        self._own: dict[SessionNumber, int] = {}
        self._ids: dict[SessionNumber, list[int]] = {}
        """The client ids that each session speaks for: few, and a set takes 200 bytes."""
        self._present: dict[int, None] = {}
        self._changed: dict[int, None] = {}
        self._departed: dict[int, None] = {}
        self._ids_per_session = ids_per_session
        self._state_max_bytes = state_max_bytes
        self._max_bytes = max_bytes
        self._remembered = remembered

    def receive(self, session: SessionNumber, user: UserId, data: bytes) -> bytes | None:
        """Take a session's awareness in; returns encoded entries that must go back to it, if any.

        Raises BadFrame for malformed entries and for states over the size limit.
        """
        if self._take_newer(session, user, data):
            return None
        try:
            entries = awareness.parse(data, max_entries=1024, max_state_bytes=self._state_max_bytes)
        except StateTooLarge:
            self.refusals["presence_state"] += 1
            raise
        if entries and session not in self._own:
            self._own[session] = entries[0].client
        returning = [entry for entry in entries if self._take(session, user, entry)]
        if not returning:
            return None
        return awareness.encode(
            [Entry(entry.client, self._known[entry.client].clock, GONE) for entry in returning]
        )

    def _take_newer(self, session: SessionNumber, user: UserId, data: bytes) -> bool:
        """The same as the rest of `receive`, at a third of the cost, for nearly all messages of a busy room:
        a client that is here moves on. False for any other.
        """
        known = self._known.get(self._own.get(session, -1))
        if known is None or not data.startswith(known.head):
            return False
        if known.session != session or known.user != user or not known.is_own or known.state == GONE:
            return False
        found = awareness.read_lone(data, len(known.head))
        if found is None:
            return False
        clock, at = found
        if clock <= known.clock or len(data) - at > self._state_max_bytes or data[at] != _BRACE:
            return False
        state = data[at:]
        if not awareness.is_json_object_or_null(state):
            return False
        if len(state) > len(known.state) and not self._has_room_for(known, state):
            return False
        self._say(known, clock, state, data[1:])
        self._changed[known.client] = None
        self.has_moved = True
        return True

    def _take(self, session: SessionNumber, user: UserId, entry: Entry) -> bool:
        """Merge one entry; True if its sender has to be told of its own departure."""
        known = self._known.get(entry.client)
        if known is None:
            self._add(session, user, entry)
            return False
        own = self._own.get(session) == entry.client
        if known.user != user:
            if not own or known.is_own:
                return False
            known.user = user
        known.is_own |= own
        if entry.clock < known.clock or (
            entry.clock == known.clock and not (entry.state == GONE != known.state)
        ):
            if known.state == GONE:
                return own and entry.state != GONE
            if own:
                self._give_to(session, known)
            return False
        _check(entry)
        if not self._has_room_for(known, entry.state):
            self.refusals["presence_bytes"] += 1
            return False
        if known.session is None or own:
            self._give_to(session, known)
        self.has_moved |= known.state != GONE != entry.state
        self._say(known, entry.clock, entry.state)
        self._changed[entry.client] = None
        if entry.state == GONE:
            self._remember_departure(entry.client)
        else:
            self._departed.pop(entry.client, None)
            self._present[entry.client] = None
        return False

    def _add(self, session: SessionNumber, user: UserId, entry: Entry) -> None:
        if entry.state == GONE:
            return
        if len(self._ids.get(session, ())) >= self._ids_per_session:
            self.refusals["presence_ids"] += 1
            return
        _check(entry)
        size = _ID_BYTES + _COPIES * len(entry.state)
        if self.size + size > self._max_bytes:
            self.refusals["presence_bytes"] += 1
            return
        self.size += size
        own = self._own.get(session) == entry.client
        head = awareness.head_of(entry.client)
        self._known[entry.client] = known = _Known(
            entry.client, entry.clock, entry.state, user, None, own, head
        )
        self._present[entry.client] = None
        self._give_to(session, known)
        self._changed[entry.client] = None

    def _has_room_for(self, known: _Known, state: bytes) -> bool:
        grown = len(state) - len(known.state)
        return grown <= 0 or self.size + _COPIES * grown <= self._max_bytes

    def _say(self, known: _Known, clock: int, state: bytes, wire: bytes | None = None) -> None:
        self.size += _COPIES * (len(state) - len(known.state))
        known.say(clock, state, wire)

    def _give_to(self, session: SessionNumber, known: _Known) -> None:
        if known.session == session:
            return
        if known.session is not None:
            self._ids[known.session].remove(known.client)
        known.session = session
        self._ids.setdefault(session, []).append(known.client)

    def leave(self, session: SessionNumber) -> bool:
        """The session is gone, and everybody it spoke for. True if anybody has to be told."""
        told = False
        spoken_for = [self._known[client] for client in sorted(self._ids.pop(session, ()))]
        for known in spoken_for:
            known.session = None
        for known in spoken_for:
            client = known.client
            if known.state != GONE:
                self._say(known, known.clock, GONE)
                self._changed[client] = None
                self._remember_departure(client)
                told = True
        self._own.pop(session, None)
        return told

    def _remember_departure(self, client: int) -> None:
        self._present.pop(client, None)
        self._departed[client] = None
        while len(self._departed) > self._remembered:
            oldest = next(iter(self._departed))
            if oldest in self._changed:
                return
            del self._departed[oldest]
            known = self._known.pop(oldest)
            self.size -= _ID_BYTES + _COPIES * len(known.state)
            if known.session is not None:
                self._ids[known.session].remove(oldest)

    def has_heard_of(self, session: SessionNumber) -> bool:
        """Whether it has announced a client id."""
        return session in self._own

    @property
    def dirty(self) -> bool:
        """Whether anything changed since `take_changes`."""
        return bool(self._changed)

    def take_changes(self) -> tuple[bytes, SessionNumber | None]:
        """The changed entries, encoded, and the session that alone caused them (None: several, or a
        departure).
        """
        self.flushes = flush = self.flushes + 1
        sources = set()
        for client in self._changed:
            known = self._known[client]
            known.told_at = flush
            sources.add(known.session)
        data = self._encode(self._changed)
        self._changed = {}
        self.has_moved = False
        return data, sources.pop() if len(sources) == 1 else None

    def everybody(self) -> bytes | None:
        """All present entries, encoded; None if nobody is here."""
        return self._encode(self._present) if self._present else None

    def _encode(self, clients: Iterable[int]) -> bytes:
        known = self._known
        return awareness.join([known[client].encoded() for client in clients])

    def since(self, flush: int) -> bytes | None:
        """What is new to who was sent all up to that flush, encoded; None if nothing is."""
        changed = self._changed
        news = [key for key, known in self._known.items() if known.told_at > flush or key in changed]
        return self._encode(news) if news else None

    def known(self) -> list[Entry]:
        """Everybody who is here or was here a while ago."""
        return [Entry(known.client, known.clock, known.state) for known in self._known.values()]

    def spoken_for(self, session: SessionNumber) -> list[Entry]:
        """Those for whom a session speaks, its own client id first."""
        own = self._own.get(session)
        clients = sorted(self._ids.get(session, ()), key=lambda client: client != own)
        return [Entry(client, self._known[client].clock, self._known[client].state) for client in clients]

    def users(self) -> frozenset[UserId]:
        """The users who are present."""
        return frozenset(self._known[client].user for client in self._present)


def _check(entry: Entry) -> None:
    if not awareness.is_json_object_or_null(entry.state):
        raise BadFrame(f"the awareness state of client {entry.client} is no JSON object")
