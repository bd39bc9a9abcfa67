"""All live sockets of the process: how many, whose, and the one timer that visits them."""

import asyncio
import heapq
import operator
import random
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import chain
from typing import Protocol

from api.forwarding import TrustedProxies, bucket_of
from api.live.deadlines import Deadlines
from api.live.moderation import ReadModeration
from api.live.options import MIB
from api.live.outboxes import Outboxes
from tmi.domain.errors import TooManyRequests
from tmi.domain.ids import UserId

_USER, _ADDRESS = "user:", "address:"
_TOLD_OF = 20
_TOLD_MAX = 5_000
_SLICES = 20
"""A sweep visits the sockets in this many parts, so that none of them stalls the loop."""


def address_of(
    connection: asyncio.BaseTransport, trusted: TrustedProxies | None = None, forwarded_for: str = ""
) -> str:
    """Whom a connection counts for (see `bucket_of`): the peer, or whom a trusted proxy names."""
    peer = connection.get_extra_info("peername")
    if not isinstance(peer, tuple):
        return bucket_of("")
    return bucket_of((trusted or TrustedProxies()).client(str(peer[0]), (forwarded_for,)))


class Swept(Protocol):
    """A socket as the registry sees it. No method raises."""

    user: UserId | None
    """Whose it is, as far as it is known."""
    serial: int
    """Its number in this process."""

    def __hash__(self) -> int:
        """One socket is like no other."""

    @property
    def messages_in(self) -> int:
        """Frames that it has sent."""

    @property
    def bytes_in(self) -> int:
        """Payload that it has sent, in bytes."""

    @property
    def queued_bytes(self) -> int:
        """What waits in its write buffer."""

    def visit(self, now: float) -> None:
        """Called once in each sweep; `now` is the loop's time in seconds."""

    def close(self, code: int, reason: str) -> None:
        """Begin the closing handshake."""

    def abort(self) -> None:
        """Drop the connection."""


@dataclass(slots=True)
class _Seats:
    """Of one user."""

    taken: int = 0
    limit: int = 0
    """How many they may have, as of the last one."""


class Sockets:
    """The registry, and the bounds per user and address.

    `faults` counts exceptions in handlers, that is, bugs of ours; `refusals` what was refused, by limit;
    `closes` the Close frames sent, by code.
    """

    def __init__(
        self,
        sweep_s: float,
        documents_per_user_max: int,
        per_address_max: int = 10_000,
        moderation: ReadModeration | None = None,
        outbox_total_max_bytes: int = 512 * MIB,
    ) -> None:
        self.moderation = moderation or ReadModeration(0)
        self.faults = 0
        self.accepted = 0
        self.throttles = 0
        self.partial_bytes = 0
        """What is kept of large messages that are not whole."""
        self.refusals: Counter[str] = Counter()
        self.closes: Counter[int] = Counter()
        self.outboxes = Outboxes(outbox_total_max_bytes, self._outbox_closed)
        self._elsewhere: Mapping[str, int] = {}
        self._per_address_max = per_address_max
        self._addresses: Counter[str] = Counter()
        self._sweep_s = sweep_s
        self._documents_per_user_max = documents_per_user_max
        self._slices: list[dict[Swept, None]] = [{} for _ in range(_SLICES)]
        """By `serial`. Dicts, since a set takes twice as much."""
        self._open = 0
        self._seats: dict[UserId, _Seats] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._ending: dict[float, Deadlines[Swept]] = {}
        """Those whose connections are to be gone within so many seconds; only few such times are in use."""
        self._loop: asyncio.AbstractEventLoop | None = None
        self._empty = asyncio.Event()
        self._empty.set()

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        """The running loop; to ask asyncio for it is a system call."""
        loop = self._loop
        if loop is None:
            loop = self._loop = asyncio.get_running_loop()
        return loop

    def _outbox_closed(self) -> None:
        self.refusals["outbox_total"] += 1

    def __len__(self) -> int:
        return self._open

    def __iter__(self) -> Iterator[Swept]:
        return chain.from_iterable(self._slices)

    def add(self, socket: Swept) -> None:
        """Take in a socket whose upgrade is done."""
        self.accepted += 1
        socket.serial = self.accepted
        self._slices[self.accepted % _SLICES][socket] = None
        self._open += 1
        self._empty.clear()
        if self._timer is None:
            self._sweep(0)

    def discard(self, socket: Swept) -> None:
        """The socket's connection is gone."""
        place = self._slices[socket.serial % _SLICES]
        if socket in place:
            del place[socket]
            self._open -= 1
            if not self._open:
                self._empty.set()
        for deadlines in self._ending.values():
            deadlines.discard(socket)

    def end_within(self, socket: Swept, timeout_s: float) -> None:
        """Abort it then, unless its connection is gone before (`discard`)."""
        deadlines = self._ending.get(timeout_s)
        if deadlines is None:
            deadlines = self._ending[timeout_s] = Deadlines(timeout_s, _abort)
        deadlines.add(socket)

    async def none_left(self) -> None:
        """Wait until there is no socket."""
        await self._empty.wait()

    def take_seat(self, user: UserId, limit: int | None = None) -> None:
        """Count one more open document of a user, who may have `limit` of them: None for what everybody may,
        0 for as many as they like. Raises TooManyRequests.
        """
        limit = self._documents_per_user_max if limit is None else limit
        seats = self._seats.get(user)
        if limit and (0 if seats is None else seats.taken) + self._told_of(user) >= limit:
            self.refusals["documents_per_user"] += 1
            raise TooManyRequests("this user has too many open documents")
        if seats is None:
            seats = self._seats[user] = _Seats()
        seats.taken += 1
        seats.limit = limit

    def _told_of(self, user: UserId) -> int:
        """How many a user has open at other nodes."""
        elsewhere = self._elsewhere  # usually empty, and to write a UUID takes a microsecond
        return elsewhere.get(f"{_USER}{user}", 0) if elsewhere else 0

    def leave_seat(self, user: UserId) -> None:
        """Undo one `take_seat`."""
        seats = self._seats[user]
        seats.taken -= 1
        if not seats.taken:
            del self._seats[user]

    def documents_of(self, user: UserId) -> int:
        """How many open documents a user has."""
        seats = self._seats.get(user)
        return 0 if seats is None else seats.taken

    def take_address(self, address: str) -> None:
        """Count one more connection of an address (see `address_of`). Raises TooManyRequests."""
        count = self._addresses.get(address, 0)
        if count + self._elsewhere.get(f"{_ADDRESS}{address}", 0) >= self._per_address_max:
            self.refusals["sockets_per_address"] += 1
            raise TooManyRequests("this address has too many connections")
        self._addresses[address] = count + 1

    def leave_address(self, address: str) -> None:
        """Undo one `take_address`."""
        self._addresses[address] -= 1
        if not self._addresses[address]:
            self._addresses.pop(address)

    def connections_of(self, address: str) -> int:
        """How many connections an address has."""
        return self._addresses[address]

    # --- with other nodes -----------------------------------------------------------------------

    def tally(self) -> Mapping[str, int]:
        """What counts against limits of all nodes together.

        Only who has a twentieth of a limit is told of, and at most a few thousand: so the sum over the nodes
        may pass a limit by a twentieth for each of them.
        """
        told: dict[str, int] = {}
        users = [
            (f"{_USER}{user}", seats.taken)
            for user, seats in self._seats.items()
            if seats.taken >= _floor(seats.limit)
        ]
        floor = _floor(self._per_address_max)
        addresses = [(f"{_ADDRESS}{key}", count) for key, count in self._addresses.items() if count >= floor]
        for many in (users, addresses):
            told.update(heapq.nlargest(_TOLD_MAX, many, key=operator.itemgetter(1)))
        return told

    def hear_tally(self, elsewhere: Mapping[str, int]) -> None:
        """What the other nodes have; nothing while they cannot be heard."""
        self._elsewhere = elsewhere

    def close_all(self, code: int, reason: str) -> None:
        """Begin the closing handshake everywhere."""
        for socket in list(self):
            socket.close(code, reason)

    def close_spread(self, code: int, reason: str, spread_s: float) -> None:
        """Begin the closing handshakes at random moments of a time, so that not all come back at once."""
        loop = asyncio.get_running_loop()
        for socket in self:
            at_s = random.uniform(0, spread_s)  # noqa: S311 - not a secret
            loop.call_later(at_s, socket.close, code, reason)

    def abort_all(self) -> None:
        """Drop every connection."""
        for socket in list(self):
            socket.abort()

    def _sweep(self, place: int) -> None:
        """Visit one slice; runs as long as there are sockets."""
        self._timer = None
        loop = asyncio.get_running_loop()
        now = loop.time()
        for socket in list(self._slices[place]):
            socket.visit(now)
        if self._open:
            self._timer = loop.call_later(self._sweep_s / _SLICES, self._sweep, (place + 1) % _SLICES)


def _abort(socket: Swept) -> None:
    socket.abort()


def _floor(limit: int) -> int:
    """From how much on the others are told of it."""
    return max(1, limit // _TOLD_OF) if limit else 2**63
