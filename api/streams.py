"""Readers of server-sent events: what happens to a threat model, within a second, on whatever node.

What it holds true, besides what `api/news.py` does:

- **Nothing is missed.** A reader that says which event it has (`Last-Event-ID`) is given what came since,
  page by page, then what comes.
- **Nobody reads on who may not.** Whatever is told of people and sign-ins (`Rights.on_people`) is followed by
  a look at those whom it concerns. A belt: all are looked at twice a minute.
- **A slow reader costs a queue.** When it is full the stream ends; the reader comes back with the number that
  it has.
"""

import asyncio
import logging
import random
from collections import Counter, deque
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime

from api.news import PAGE, New, News, Pair
from tmi.domain.beats import to_next_beat
from tmi.domain.errors import DatabaseUnavailable, Draining, TooManyRequests
from tmi.domain.ids import SignInId, ThreatModelId, UserId
from tmi.domain.model import SignIn
from tmi.domain.ports import Feed, Happened, Signal, SignInTerms

log = logging.getLogger(__name__)

LOOK_S = 0.5
"""How often it is looked whether sign-ins have expired and the node drains."""
HEARTBEAT_S = 15.0
"""Of silence: proxies end connections on which nothing is said."""
BELT_S = 30.0
BEGIN_WITHIN_S = 30.0
SIGN_INS_AT_ONCE = 5_000


@dataclass(frozen=True, slots=True)
class StreamLimits:
    """Bounds for one process."""

    streams: int = 2000
    streams_per_user: int = 20
    queue: int = 200
    """Events that may wait for one reader."""


Piece = tuple[int, bytes]
"""An event's number (0: none) and what is sent for it."""


@dataclass(eq=False, slots=True)
class Stream:
    """One reader of one threat model."""

    model: ThreatModelId
    user: UserId
    sign_in: SignInId
    expires_at: datetime
    after: int
    """The number that the reader has."""
    opened_at: float
    queue: deque[Piece] = field(default_factory=deque)
    is_ended: bool = False
    """Nothing more is for it than what is queued."""
    wake: asyncio.Event = field(default_factory=asyncio.Event)
    task: "asyncio.Task[object] | None" = None
    """Who sends it, once that has begun."""


class Streams:
    """The streams of this process. Use it inside `running()`."""

    def __init__(
        self,
        news: News,
        feed: Feed,
        sign_ins: SignInTerms,
        is_draining: Callable[[], bool],
        limits: StreamLimits | None = None,
    ) -> None:
        self._news = news
        self._feed = feed
        self._sign_ins = sign_ins
        self._is_draining = is_draining
        self._limits = limits or StreamLimits()
        self._streams: dict[ThreatModelId, set[Stream]] = {}
        self._opening = 0
        self._users: Counter[UserId] = Counter()
        """Of streams, those that are being opened included."""
        self._looks: set[asyncio.Task[None]] = set()
        self.cut = 0
        """Readers that were too slow."""
        news.add(self)

    @property
    def count(self) -> int:
        """Streams that are open."""
        return sum(map(len, self._streams.values()))

    @asynccontextmanager
    async def running(self) -> AsyncIterator["Streams"]:
        """Look at the readers now and then while the body runs."""
        keeper = asyncio.create_task(self._keep(), name="event-streams")
        try:
            yield self
        finally:
            self._end(self._every())
            tasks = [keeper, *self._looks]
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    # --- one reader -----------------------------------------------------------------------------

    async def open(self, model: ThreatModelId, sign_in: SignIn, after: int | None) -> Stream:
        """A stream of a threat model for who may read it, from the event with the number `after` on, or from
        now on. Whoever opens it reads it (`read`) at once.

        Raises TooManyRequests, Draining and DatabaseUnavailable.
        """
        if self._is_draining():
            raise Draining
        user = sign_in.user.id
        if self.count + self._opening >= self._limits.streams:
            raise TooManyRequests("too many event streams are open here; try again later")
        if self._users[user] >= self._limits.streams_per_user:
            raise TooManyRequests("you have as many event streams as you may")
        self._opening += 1
        self._users[user] += 1
        try:
            async with self._news.joining(model) as last:
                now = asyncio.get_running_loop().time()
                since = last if after is None else after
                stream = Stream(model, user, sign_in.id, sign_in.expires_at, since, now)
                self._streams.setdefault(model, set()).add(stream)
        except BaseException:
            self._leave(user)
            raise
        finally:
            self._opening -= 1
        # The role was looked up before the stream was among those that are looked at.
        self._look([stream])
        return stream

    async def read(self, stream: Stream) -> AsyncIterator[bytes]:
        """What is sent to a reader, until the stream ends."""
        stream.task = asyncio.current_task()
        sent = stream.after
        try:
            # Readers whose node goes do not all come back at the same moment. Clients keep the id, though
            # nothing has happened yet.
            wait_ms = random.randint(500, 2500)  # noqa: S311 - not a secret
            yield f"retry: {wait_ms}\nid: {sent}\n\n".encode()
            while not stream.is_ended:
                page = await self._feed.since(stream.model, sent, PAGE)
                for number, wire in map(_piece, map(New.of, page)):
                    yield wire
                    sent = number
                if len(page) < PAGE:
                    break
            while (piece := await self._next(stream)) is not None:
                number, wire = piece
                if number > sent or not number:
                    yield wire
                sent = max(sent, number)
        except DatabaseUnavailable:
            return  # the reader comes back with the number it has
        finally:
            self._close(stream)

    async def _next(self, stream: Stream) -> Piece | None:
        """What comes next; None at the end. What was there before the end is given out."""
        while not stream.queue:
            if stream.is_ended:
                return None
            stream.wake.clear()
            try:
                async with asyncio.timeout(HEARTBEAT_S):
                    await stream.wake.wait()
            except TimeoutError:
                return 0, b": still here\n\n"
        return stream.queue.popleft()

    def _close(self, stream: Stream) -> None:
        streams = self._streams.get(stream.model, set())
        if stream not in streams:
            return
        streams.discard(stream)
        if not streams:
            del self._streams[stream.model]
        self._leave(stream.user)

    def _leave(self, user: UserId) -> None:
        self._users[user] -= 1
        if not self._users[user]:
            del self._users[user]

    # --- all readers of a threat model: see `api.news.Audience` ----------------------------------

    def has(self, model: ThreatModelId) -> bool:
        """Whether anybody reads what happens to a threat model."""
        return model in self._streams

    def users(self, model: ThreatModelId) -> Iterable[UserId]:
        """Who does."""
        return {stream.user for stream in self._streams.get(model, ())}

    def looked(self, readable: Mapping[Pair, bool]) -> None:
        """Turn away whoever may not read any more."""
        for (user, model), is_readable in readable.items():
            if not is_readable:
                self._turn_away(s for s in list(self._streams.get(model, ())) if s.user == user)

    def offer(self, model: ThreatModelId, new: New, after: int) -> None:  # noqa: ARG002
        """Something has happened."""
        streams = list(self._streams.get(model, ()))
        piece = _piece(new) if streams else (0, b"")
        for stream in streams:
            self._offer(stream, piece)
        if new.is_end:
            self._end(streams)

    def lose(self, model: ThreatModelId, after: int) -> None:  # noqa: ARG002
        """The readers come back with the number that they have."""
        self._end(self._streams.get(model, ()))

    def _offer(self, stream: Stream, piece: Piece) -> None:
        if stream.is_ended:
            return
        if len(stream.queue) >= self._limits.queue:
            self.cut += 1
            self._cut(stream)
            return
        stream.queue.append(piece)
        stream.wake.set()

    def _cut(self, stream: Stream) -> None:
        """End it at once, even while something is being sent that nobody takes."""
        self._end([stream])
        self._close(stream)
        if stream.task is not None:
            stream.task.cancel()

    def _end(self, streams: Iterable[Stream]) -> None:
        for stream in streams:
            stream.is_ended = True
            stream.wake.set()

    # --- who may read on ------------------------------------------------------------------------

    def hear(self, signal: Signal | None) -> None:
        """Something happened to people or sign-ins; None: something may have been missed."""
        if signal is None:
            self._look(list(self._every()))
        elif signal.happened is Happened.SIGN_IN_ENDED:
            self._turn_away(stream for stream in self._every() if stream.sign_in in signal.ids)
        elif signal.happened is Happened.PEOPLE_CHANGED:
            self._look([stream for stream in self._every() if stream.user in signal.ids])

    def _every(self) -> Iterable[Stream]:
        return [stream for streams in self._streams.values() for stream in streams]

    def _look(self, streams: list[Stream]) -> None:
        if not streams:
            return
        task = asyncio.create_task(self._looked(streams), name="event-streams-look")
        self._looks.add(task)
        task.add_done_callback(self._looks.discard)

    async def _looked(self, streams: list[Stream]) -> None:
        """While the database is away nothing is read either."""
        try:
            await self._news.look({(stream.user, stream.model) for stream in streams})
            await self._check_sign_ins(streams)
        except Exception:
            log.exception("the readers of events could not be looked at; their streams end")
            self._turn_away(streams)

    async def _check_sign_ins(self, streams: list[Stream]) -> None:
        sign_ins = list({stream.sign_in for stream in streams})
        for start in range(0, len(sign_ins), SIGN_INS_AT_ONCE):
            some = sign_ins[start : start + SIGN_INS_AT_ONCE]
            with suppress(DatabaseUnavailable):
                over = set(some) - (await self._sign_ins.ends(some)).keys()
                self._turn_away(stream for stream in streams if stream.sign_in in over)

    def _turn_away(self, streams: Iterable[Stream]) -> None:
        """Nothing more, not even what waits for them."""
        for stream in list(streams):
            stream.queue.clear()
            self._cut(stream)

    async def _keep(self) -> None:
        clock = asyncio.get_running_loop().time
        looked_at = clock()
        while True:
            await asyncio.sleep(to_next_beat(clock(), LOOK_S))
            every = list(self._every())
            if self._is_draining():
                self._end(every)
            now = datetime.now(UTC)
            self._turn_away(stream for stream in every if stream.expires_at <= now)
            started_by = clock() - BEGIN_WITHIN_S
            self._turn_away(s for s in every if s.task is None and s.opened_at < started_by)
            if clock() - looked_at > BELT_S and not self._looks:
                looked_at = clock()
                self._look(every)


def _piece(new: New) -> Piece:
    """An event in the words of server-sent events."""
    return new.number, b"id: %d\nevent: change\ndata: %s\n\n" % (new.number, new.data)
