"""What arrived where: reads the frames that clients kept and holds them against what was sent.

An edit counts as delivered to a client when a frame of that client carries its struct with the very key and
value that its author wrote. Equal frames (a server sends the same bytes to everyone) are decoded once.
"""

from array import array
from collections.abc import Sequence
from dataclasses import dataclass, field

from bench.client import Client
from bench.yjs import keyed_structs

EditId = tuple[int, int]


@dataclass(frozen=True)
class Window:
    """The measured part of a run, in `perf_counter` seconds."""

    start: float
    end: float

    @property
    def seconds(self) -> float:
        return self.end - self.start


@dataclass
class Delivery:
    """The outcome of a run. A copy is one edit at one client other than its author."""

    edits: int = 0
    copies_due: int = 0
    copies_missing: int = 0
    copies_in_window: int = 0
    sent_in_window: int = 0
    altered: int = 0
    invented: int = 0
    """Edits that nobody sent."""
    undecodable: int = 0
    update_frames: int = 0
    frame_bytes: int = 0
    latencies_s: "array[float]" = field(default_factory=lambda: array("d"))
    """Sorted, one for each copy of an edit that was sent within the window."""


class Ledger:
    """Everything that the clients of one room wrote, and what each of them read."""

    def __init__(self, clients: Sequence[Client]) -> None:
        self._clients = clients
        self._authors = {client.writer.client: number for number, client in enumerate(clients)}
        self._decoded: dict[bytes, tuple[EditId, ...]] = {}
        self._altered: set[EditId] = set()
        self._invented: set[EditId] = set()
        """By Yjs client id, since their author may be nobody here."""
        self._undecodable = 0

    def delivery(self, window: Window) -> Delivery:
        """The whole account of a run that has ended."""
        outcome = Delivery(edits=sum(len(client.sent_at) for client in self._clients))
        for client in self._clients:
            self._account(client, window, outcome)
        outcome.copies_due = outcome.edits * (len(self._clients) - 1)
        outcome.sent_in_window = sum(
            window.start <= sent < window.end for client in self._clients for sent in client.sent_at
        )
        outcome.altered = len(self._altered)
        outcome.invented = len(self._invented)
        outcome.undecodable = self._undecodable
        outcome.latencies_s = array("d", sorted(outcome.latencies_s))
        return outcome

    def _account(self, client: Client, window: Window, outcome: Delivery) -> None:
        seen = self._nothing_seen()
        sent_at = [author.sent_at for author in self._clients]
        latencies, own, in_window = outcome.latencies_s, self._authors[client.writer.client], 0
        for frame, read_at in zip(client.frames, client.read_at, strict=True):
            outcome.frame_bytes += len(frame)
            edits = self._edits_of(client, frame)
            outcome.update_frames += bool(edits)
            for author, clock in edits:
                if author == own or seen[author][clock]:
                    continue
                seen[author][clock] = 1
                sent = sent_at[author][clock]
                in_window += window.start <= read_at < window.end
                if window.start <= sent < window.end:
                    latencies.append(read_at - sent)
        outcome.copies_in_window += in_window
        outcome.copies_missing += self._unseen(seen, client)

    def _nothing_seen(self) -> list[bytearray]:
        return [bytearray(len(author.sent_at)) for author in self._clients]

    def missing(self, client: Client) -> int:
        """How many edits of others are in none of the frames of this client, be it an author or not."""
        seen = self._nothing_seen()
        for frame in client.frames:
            for author, clock in self._edits_of(client, frame):
                seen[author][clock] = 1
        return self._unseen(seen, client)

    def latencies(self, client: Client, window: Window) -> "array[float]":
        """How long each edit of others took to this client, of those that were sent within the window."""
        seen, found = self._nothing_seen(), array("d")
        own = self._authors.get(client.writer.client)
        for frame, read_at in zip(client.frames, client.read_at, strict=True):
            for author, clock in self._edits_of(client, frame):
                sent = self._clients[author].sent_at[clock]
                if author != own and not seen[author][clock] and window.start <= sent < window.end:
                    seen[author][clock] = 1
                    found.append(read_at - sent)
        return found

    def current_at(self, client: Client, moment: float) -> float | None:
        """When it had read every edit of others that was sent before `moment`; None if it never had."""
        own = self._authors.get(client.writer.client)
        lacking = {
            (author, clock)
            for author, one in enumerate(self._clients)
            if author != own
            for clock, sent in enumerate(one.sent_at)
            if sent < moment
        }
        for frame, read_at in zip(client.frames, client.read_at, strict=True):
            lacking.difference_update(self._edits_of(client, frame))
            if not lacking:
                return read_at
        return None

    def _unseen(self, seen: Sequence[bytearray], client: Client) -> int:
        own = self._authors.get(client.writer.client)
        return sum(clocks.count(0) for author, clocks in enumerate(seen) if author != own)

    def _edits_of(self, client: Client, frame: bytes) -> tuple[EditId, ...]:
        known = self._decoded.get(frame)
        if known is None:
            known = self._decoded[frame] = self._decode(client, frame)
        return known

    def _decode(self, client: Client, frame: bytes) -> tuple[EditId, ...]:
        try:
            update = client.dialect.update_in(frame)
            structs = [] if update is None else list(keyed_structs(update))
        except ValueError:
            self._undecodable += 1
            return ()
        found: list[EditId] = []
        for struct in structs:
            author = self._authors.get(struct.client)
            if author is None or struct.clock >= len(self._clients[author].sent_at):
                self._invented.add((struct.client, struct.clock))
            elif self._clients[author].writer.written[struct.clock] == (struct.key, struct.content):
                found.append((author, struct.clock))
            else:
                self._altered.add((author, struct.clock))
        return tuple(found)
