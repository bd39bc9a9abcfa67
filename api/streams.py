"""Readers of server-sent events: what happens to a threat model, within a second, on whatever node.

What it holds true:

- **One listener a process.** The trail's commits are heard once (`Feed.hearing`), and what is new in a
  threat model is read once for all of its readers here, however many they are.
- **Nothing is missed.** Numbers rise in the order of commits within a threat model. A reader that says which
  it has (`Last-Event-ID`) is given what came since, page by page, then what comes.
- **Nobody reads on who may not.** An event that may change roles is preceded by a look at them; so is
  whatever is told of people and sign-ins (`Rooms.on_people`). A belt: all are looked at twice a minute.
- **A slow reader costs a queue.** When it is full the stream ends; the reader comes back with the number that
  it has.
"""

import asyncio
import logging
import random
from collections import Counter, deque
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime

import orjson

from api import bodies, schemas
from tmi.domain.errors import DatabaseUnavailable, Draining, NotFound, TooManyRequests
from tmi.domain.events import ChangeType, ObjectType, Recorded
from tmi.domain.ids import SignInId, ThreatModelId, UserId
from tmi.domain.model import SignIn
from tmi.domain.ports import AccessControl, Feed, Happened, Signal, SignIns
from tmi.domain.roles import Action, may

log = logging.getLogger(__name__)

PAGE = 100
"""Events read at once."""
RETRY_S = 0.5
LOOK_S = 0.5
"""How often it is looked whether sign-ins have expired and the node drains."""
HEARTBEAT_S = 15.0
"""Of silence: proxies end connections on which nothing is said."""
BELT_S = 30.0
BEGIN_WITHIN_S = 30.0


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

    channel: "_Channel"
    model: ThreatModelId
    user: UserId
    sign_in: SignInId
    expires_at: datetime
    after: int | None
    """The number that the reader has; None: from now on."""
    opened_at: float
    queue: deque[Piece] = field(default_factory=deque)
    is_ended: bool = False
    """Nothing more is for it than what is queued."""
    wake: asyncio.Event = field(default_factory=asyncio.Event)
    task: "asyncio.Task[object] | None" = None
    """Who sends it, once that has begun."""


class _Channel:
    """The readers of one threat model."""

    def __init__(self) -> None:
        self.streams: set[Stream] = set()
        self.wake = asyncio.Event()
        self.ready: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        """The number from which on `pump` reads."""
        self.pump: asyncio.Task[None] | None = None


class Streams:
    """The streams of this process. Use it inside `running()`."""

    def __init__(
        self,
        feed: Feed,
        access: AccessControl,
        sign_ins: SignIns,
        is_draining: Callable[[], bool],
        limits: StreamLimits | None = None,
    ) -> None:
        self._feed = feed
        self._access = access
        self._sign_ins = sign_ins
        self._is_draining = is_draining
        self._limits = limits or StreamLimits()
        self._channels: dict[ThreatModelId, _Channel] = {}
        self._users: Counter[UserId] = Counter()
        self._looks: set[asyncio.Task[None]] = set()
        self.cut = 0
        """Readers that were too slow."""

    @property
    def count(self) -> int:
        """Streams that are open."""
        return sum(len(channel.streams) for channel in self._channels.values())

    @asynccontextmanager
    async def running(self) -> AsyncIterator["Streams"]:
        """Hear of new events while the body runs. Raises DatabaseUnavailable if that cannot be begun."""
        async with self._feed.hearing(self._heard):
            keeper = asyncio.create_task(self._keep(), name="event-streams")
            try:
                yield self
            finally:
                self._end(self._every())
                pumps = [channel.pump for channel in self._channels.values() if channel.pump is not None]
                tasks = [keeper, *pumps, *self._looks]
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)

    # --- one reader -----------------------------------------------------------------------------

    async def open(self, model: ThreatModelId, sign_in: SignIn, after: int | None) -> Stream:
        """A stream of a threat model for who may read it. Whoever opens it reads it (`read`) at once.

        Raises TooManyRequests, Draining and DatabaseUnavailable.
        """
        if self._is_draining():
            raise Draining
        user = sign_in.user.id
        if self.count >= self._limits.streams:
            raise TooManyRequests("too many event streams are open here; try again later")
        if self._users[user] >= self._limits.streams_per_user:
            raise TooManyRequests("you have as many event streams as you may")
        channel = self._channels.get(model)
        if channel is None:
            channel = self._channels[model] = _Channel()
            channel.pump = asyncio.create_task(self._pump(model, channel), name=f"events-{model}")
        now = asyncio.get_running_loop().time()
        stream = Stream(channel, model, user, sign_in.id, sign_in.expires_at, after, now)
        channel.streams.add(stream)
        self._users[user] += 1
        try:
            last = await asyncio.shield(channel.ready)
        except BaseException:
            self._close(stream)
            raise
        if stream.after is None:
            stream.after = last
        # The role was looked up before the stream was among those that are looked at.
        self._look([stream])
        return stream

    async def read(self, stream: Stream) -> AsyncIterator[bytes]:
        """What is sent to a reader, until the stream ends."""
        stream.task = asyncio.current_task()
        assert stream.after is not None
        sent = stream.after
        try:
            # Readers whose node goes do not all come back at the same moment. Clients keep the id, though
            # nothing has happened yet.
            wait_ms = random.randint(500, 2500)  # noqa: S311 - not a secret
            yield f"retry: {wait_ms}\nid: {sent}\n\n".encode()
            while not stream.is_ended:
                page = await self._feed.since(stream.model, sent, PAGE)
                for number, wire in map(_piece, page):
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
        channel = stream.channel
        if stream not in channel.streams:
            return
        channel.streams.discard(stream)
        self._users[stream.user] -= 1
        if not self._users[stream.user]:
            del self._users[stream.user]
        if not channel.streams:
            self._forget(stream.model, channel)
            if channel.pump is not None:
                channel.pump.cancel()
            if not channel.ready.done():  # somebody may wait for it, whose stream was turned away meanwhile
                channel.ready.set_exception(DatabaseUnavailable("events cannot be read just now"))
                channel.ready.exception()

    def _forget(self, model: ThreatModelId, channel: "_Channel") -> None:
        if self._channels.get(model) is channel:
            del self._channels[model]

    # --- all readers of a threat model ----------------------------------------------------------

    async def _pump(self, model: ThreatModelId, channel: _Channel) -> None:
        """Read what is new in a threat model whenever there is something, for all who follow it."""
        last = await self._begin(model, channel)
        while last is not None:
            await channel.wake.wait()
            channel.wake.clear()
            try:
                last = await self._pass_on(model, channel, last)
            except DatabaseUnavailable:
                channel.wake.set()
                await asyncio.sleep(RETRY_S)
            except Exception:
                log.exception("the events of threat model %s could not be read; its streams end", model)
                self._forget(model, channel)
                self._end(channel.streams)
                return

    async def _begin(self, model: ThreatModelId, channel: _Channel) -> int | None:
        try:
            last = await self._feed.last(model)
        except Exception as error:
            if not channel.ready.done():
                channel.ready.set_exception(error)
                channel.ready.exception()  # nobody may be waiting
            if not isinstance(error, DatabaseUnavailable):
                log.exception("the events of threat model %s cannot be followed", model)
            self._forget(model, channel)
            return None
        if not channel.ready.done():
            channel.ready.set_result(last)
        return last

    async def _pass_on(self, model: ThreatModelId, channel: _Channel, last: int) -> int:
        while True:
            page = await self._feed.since(model, last, PAGE)
            for recorded in page:
                if recorded.event.object_type is ObjectType.THREAT_MODEL:
                    await self._before(recorded, channel)
                piece = _piece(recorded)
                for stream in list(channel.streams):
                    self._offer(stream, piece)
                last = recorded.number
                if _is_end(recorded):
                    self._end(channel.streams)
            if len(page) < PAGE:
                return last

    async def _before(self, recorded: Recorded, channel: _Channel) -> None:
        """Roles may be others after this event: whoever may not read any more does not get it."""
        if not _is_end(recorded):
            await self._check_roles(list(channel.streams))

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

    def _heard(self, model: ThreatModelId | None) -> None:
        if model is None:
            for channel in self._channels.values():
                channel.wake.set()
        elif model in self._channels:
            self._channels[model].wake.set()

    def _every(self) -> Iterable[Stream]:
        return [stream for channel in self._channels.values() for stream in channel.streams]

    def _look(self, streams: list[Stream]) -> None:
        if not streams:
            return
        task = asyncio.create_task(self._looked(streams), name="event-streams-look")
        self._looks.add(task)
        task.add_done_callback(self._looks.discard)

    async def _looked(self, streams: list[Stream]) -> None:
        try:
            await self._check_roles(streams)
            await self._check_sign_ins(streams)
        except Exception:
            log.exception("the readers of events could not be looked at; their streams end")
            self._turn_away(streams)

    async def _check_roles(self, streams: list[Stream]) -> None:
        """Turn away whoever may not read any more. While the database is away nothing is read either."""
        for user, model in {(stream.user, stream.model) for stream in streams}:
            if not await self._may_read(user, model):
                self._turn_away(s for s in streams if (s.user, s.model) == (user, model))

    async def _may_read(self, user: UserId, model: ThreatModelId) -> bool:
        while True:
            try:
                return may(await self._access.to_threat_model(user, model), Action.READ)
            except NotFound:
                return False
            except DatabaseUnavailable:
                await asyncio.sleep(RETRY_S)

    async def _check_sign_ins(self, streams: list[Stream]) -> None:
        for sign_in in {stream.sign_in for stream in streams}:
            with suppress(DatabaseUnavailable):
                if await self._sign_ins.get(sign_in) is None:
                    self._turn_away(stream for stream in streams if stream.sign_in == sign_in)

    def _turn_away(self, streams: Iterable[Stream]) -> None:
        """Nothing more, not even what waits for them."""
        for stream in list(streams):
            stream.queue.clear()
            self._cut(stream)

    async def _keep(self) -> None:
        clock = asyncio.get_running_loop().time
        looked_at = clock()
        while True:
            await asyncio.sleep(LOOK_S)
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


def _is_end(recorded: Recorded) -> bool:
    """The threat model is gone."""
    event = recorded.event
    return event.object_type is ObjectType.THREAT_MODEL and event.change is ChangeType.DELETED


def _piece(recorded: Recorded) -> Piece:
    """An event in the words of server-sent events; JSON has no line breaks in it."""
    data = schemas.TrailEntry.of(recorded).model_dump(exclude_none=True)
    wire = orjson.dumps(data, default=bodies.plain, option=orjson.OPT_UTC_Z)
    return recorded.number, b"id: %d\nevent: change\ndata: %s\n\n" % (recorded.number, wire)
