"""What a room has applied and the log does not hold yet, and who waits for which of it.

What it holds true:

- Numbers are given without gaps, and leave only into a batch; a batch leaves only by its commit. So there is
  at most one in flight, and the log gets them in order.
- A message waits for the last number that was given when it arrived, its own or, where it added nothing,
  that of everything before it. These numbers only rise, so one queue serves all sessions.
- The journal is told when there is something for a batch, and once more when somebody begins to wait for it.
"""

from collections import deque
from collections.abc import Container, Iterable, Mapping, Sequence

from rooms.effects import Acknowledge, Effect, Effects, Journal, SessionNumber
from tmi.domain.ids import Seq, UserId
from tmi.domain.ports import LoggedUpdate, Origin

_JOURNAL = Journal()


class Unsaved:
    """Numbers, batches and acknowledgements of one room."""

    __slots__ = (
        "_in_flight",
        "_left_at",
        "_max_bytes",
        "_max_updates",
        "_unsent",
        "_waiting",
        "bytes_in_flight",
        "committed_seq",
        "messages",
        "seq",
        "size",
    )

    def __init__(self, seq: Seq, *, batch_max_updates: int, batch_max_bytes: int) -> None:
        self.seq = seq
        """The last number given; provisional until committed."""
        self.committed_seq = seq
        self.size = 0
        """Bytes that are numbered and not committed."""
        self.bytes_in_flight = 0
        """Of them, those in the batch whose commit is under way."""
        self.messages = 0
        """How many messages wait for a commit."""
        self._max_updates = batch_max_updates
        self._max_bytes = batch_max_bytes
        self._unsent: deque[LoggedUpdate] = deque()
        self._in_flight: tuple[LoggedUpdate, ...] = ()
        self._left_at = Seq(0)
        """The last number when somebody left last while not all was committed."""
        self._waiting: deque[tuple[Seq, dict[SessionNumber, list[int]]]] = deque()

    @property
    def can_be_taken(self) -> bool:
        """There is something for the next batch."""
        return bool(self._unsent)

    @property
    def is_awaited(self) -> bool:
        """Somebody waits for the next commit. Who has left counts: they cannot offer their edits again after
        a crash.
        """
        return self.messages > 0 or self._left_at > self.committed_seq

    @property
    def in_flight(self) -> int:
        """How many updates are in the batch whose commit is under way."""
        return len(self._in_flight)

    def add(self, effects: list[Effect], update: bytes, author: UserId | None, origin: Origin) -> None:
        """Number an applied update, and queue it for the journal."""
        self.seq = seq = Seq(self.seq + 1)
        unsent = self._unsent
        unsent.append(LoggedUpdate(seq, author, origin, update))
        self.size += len(update)
        if len(unsent) == 1:
            effects.append(_JOURNAL)

    def wait(self, effects: list[Effect], number: SessionNumber, syncs: int, updates: int) -> None:
        """Acknowledge messages with the commit of the last number; from the first on the journal hurries.
        Again and again takes no more room here.
        """
        if not self.messages:
            self._hurry(effects)
        waiting = self._waiting
        if not waiting or waiting[-1][0] != self.seq:
            waiting.append((self.seq, {}))
        count = waiting[-1][1].setdefault(number, [0, 0])
        count[0] += syncs
        count[1] += updates
        self.messages += syncs + updates

    def acknowledge(self, number: SessionNumber, syncs: int, updates: int) -> Effects:
        """Acknowledge messages that added nothing: they are as durable as what was numbered so far."""
        if self.seq == self.committed_seq:
            return (Acknowledge(number, syncs, updates),)
        effects: list[Effect] = []
        self.wait(effects, number, syncs, updates)
        return effects

    def left(self, effects: list[Effect]) -> None:
        """Somebody is gone, and perhaps an author of what is numbered."""
        self._left_at = self.seq
        self._hurry(effects)

    def _hurry(self, effects: list[Effect]) -> None:
        if self._unsent and _JOURNAL not in effects:
            effects.append(_JOURNAL)

    def uncommitted(self) -> Sequence[LoggedUpdate]:
        """All that is not known to be in the log, in order, what is in flight included."""
        return [*self._in_flight, *self._unsent]

    def owed(self) -> Mapping[SessionNumber, list[int]]:
        """How many SyncStep2 and Update messages of whom wait for a commit."""
        return _summed(counts for _, counts in self._waiting)

    def take(self) -> tuple[LoggedUpdate, ...]:
        """The next batch, bounded; empty while one is in flight.

        A batch whose commit failed without an answer is offered again by its holder, unchanged.
        """
        if self._in_flight:
            return ()
        if len(self._unsent) == 1:  # most batches of quiet rooms
            update = self._unsent.popleft()
            self._in_flight, self.bytes_in_flight = (update,), len(update.data)
            return self._in_flight
        batch: list[LoggedUpdate] = []
        size = 0
        while self._unsent and len(batch) < self._max_updates and size < self._max_bytes:
            update = self._unsent.popleft()
            size += len(update.data)
            batch.append(update)
        self._in_flight, self.bytes_in_flight = tuple(batch), size
        return self._in_flight

    def committed(self, here: Container[SessionNumber]) -> Effects:
        """The batch in flight is committed: acknowledge what waited for it to those who are here."""
        self.committed_seq = self._in_flight[-1].seq
        self.size -= self.bytes_in_flight
        self._in_flight, self.bytes_in_flight = (), 0
        effects: list[Effect] = []
        if self._waiting:
            effects.extend(
                Acknowledge(number, syncs, updates)
                for number, (syncs, updates) in self._satisfied().items()
                if number in here
            )
        if self._unsent:
            effects.append(_JOURNAL)
        return effects

    def _satisfied(self) -> Mapping[SessionNumber, list[int]]:
        """How many messages of whom wait no more."""
        waiting = self._waiting
        counts: dict[SessionNumber, list[int]] = {}
        while waiting and waiting[0][0] <= self.committed_seq:
            for number, (syncs, updates) in waiting.popleft()[1].items():
                count = counts.setdefault(number, [0, 0])
                count[0] += syncs
                count[1] += updates
                self.messages -= syncs + updates
        return counts


def _summed(many: Iterable[Mapping[SessionNumber, list[int]]]) -> Mapping[SessionNumber, list[int]]:
    sums: dict[SessionNumber, list[int]] = {}
    for counts in many:
        for number, (syncs, updates) in counts.items():
            one = sums.setdefault(number, [0, 0])
            one[0] += syncs
            one[1] += updates
    return sums
