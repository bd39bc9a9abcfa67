"""What is new in threat models: heard once a process, read once a threat model, for all who follow it here.

Who follows are audiences: the readers of server-sent events (`api/streams.py`) and the open editors
(`api/live/editors.py`). What it holds true:

- **Nothing is missed.** Numbers rise in the order of commits within a threat model. What is followed has a
  number up to which everything was told; each commit is heard of (`Feed.hearing`), and what came after the
  number is read then. Where some may not have been heard of, everything that is followed is read.
- **Nobody is told who may not read.** An event that may change roles is preceded by a look at them.
- **What is quiet costs a few numbers.** There is a task for a threat model only while something is read.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Coroutine, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Protocol, Self, TypeVar

import orjson

from api import bodies, schemas
from tmi.domain.errors import DatabaseUnavailable
from tmi.domain.events import ChangeType, ObjectType, Recorded
from tmi.domain.ids import ThreatModelId, UserId
from tmi.domain.ports import AccessControl, Feed
from tmi.domain.roles import Action, Role, may

log = logging.getLogger(__name__)

PAGE = 100
"""Events read at once."""
RETRY_S = 0.5
SWEEP_S = 30.0
"""How often what nobody follows any more is forgotten; where something happens there, that is at once."""
AT_ONCE = 1000
"""Roles asked for in one query."""
READS_AT_ONCE = 8
"""Threat models that are read at the same time: a database that is back is not asked for all at once."""

Pair = tuple[UserId, ThreatModelId]
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class New:
    """One event, as those who follow are told of it."""

    number: int
    data: bytes
    """An entry of the trail, in JSON, which has no line breaks in it."""
    may_change_roles: bool
    is_end: bool
    """The threat model is gone."""

    @classmethod
    def of(cls, recorded: Recorded) -> Self:
        event = recorded.event
        entry = schemas.TrailEntry.of(recorded).model_dump(exclude_none=True)
        data = orjson.dumps(entry, default=bodies.plain, option=orjson.OPT_UTC_Z)
        is_models = event.object_type is ObjectType.THREAT_MODEL
        is_end = is_models and event.change is ChangeType.DELETED
        return cls(recorded.number, data, is_models and not is_end, is_end)


class Audience(Protocol):
    """Some of those who follow threat models. No method may block or raise."""

    def has(self, model: ThreatModelId) -> bool:
        """Whether anybody follows a threat model."""

    def users(self, model: ThreatModelId) -> Iterable[UserId]:
        """Who does."""

    def looked(self, readable: Mapping[Pair, bool]) -> None:
        """Whether these may read these threat models now; they may not be of this audience."""

    def offer(self, model: ThreatModelId, new: New, after: int) -> None:
        """Something has happened, and the one before had the number `after`."""

    def lose(self, model: ThreatModelId, after: int) -> None:
        """What came after a number cannot be told."""


class _Channel:
    """A threat model that is followed."""

    __slots__ = ("is_behind", "joining", "last", "reading", "ready")

    def __init__(self) -> None:
        self.last = 0
        """Everything up to this number was told."""
        self.ready: asyncio.Future[None] | None = asyncio.get_running_loop().create_future()
        """None: `last` is known."""
        self.joining = 0
        """Those who are about to follow."""
        self.is_behind = False
        """There may be more."""
        self.reading: asyncio.Task[None] | None = None


class News:
    """What this process follows. Use it inside `running()`."""

    def __init__(self, feed: Feed, access: AccessControl) -> None:
        self._feed = feed
        self._access = access
        self._audiences: list[Audience] = []
        self._channels: dict[ThreatModelId, _Channel] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._slots = asyncio.Semaphore(READS_AT_ONCE)

    def add(self, audience: Audience) -> None:
        """Tell these, too."""
        self._audiences.append(audience)

    @property
    def followed(self) -> int:
        """Threat models."""
        return len(self._channels)

    @asynccontextmanager
    async def running(self) -> AsyncIterator["News"]:
        """Hear of new events while the body runs. Raises DatabaseUnavailable if that cannot be begun."""
        async with self._feed.hearing(self._heard):
            self._begin(self._sweep(), "news-sweep")
            try:
                yield self
            finally:
                for task in self._tasks:
                    task.cancel()
                await asyncio.gather(*self._tasks, return_exceptions=True)

    @asynccontextmanager
    async def joining(self, model: ThreatModelId) -> AsyncIterator[int]:
        """Whoever is of an audience at the end of the body is told of all that comes after the number that
        it is given. Raises DatabaseUnavailable.
        """
        channel = self._channels.get(model) or self._open(model)
        channel.joining += 1
        try:
            if channel.ready is not None:
                await asyncio.shield(channel.ready)
            yield channel.last
        finally:
            channel.joining -= 1

    def _begin(self, work: Coroutine[Any, Any, None], name: str) -> asyncio.Task[None]:
        task = asyncio.create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    def _open(self, model: ThreatModelId, *, patient: bool = False) -> _Channel:
        channel = self._channels[model] = _Channel()
        self._begin(self._place(model, channel, patient), f"news-{model}")
        return channel

    async def _place(self, model: ThreatModelId, channel: _Channel, patient: bool) -> None:
        """Find out from where on to tell. `patient`: somebody follows already, whatever becomes of this."""
        ready = channel.ready
        failure: Exception | None = None
        assert ready is not None
        while True:
            try:
                channel.last = await self._feed.last(model)
            except DatabaseUnavailable as error:
                if patient:
                    await asyncio.sleep(RETRY_S)
                    continue
                failure = error
            except Exception as error:
                log.exception("the events of threat model %s cannot be followed", model)
                failure = error
            break
        channel.ready = None
        if failure is None:
            ready.set_result(None)
            if channel.is_behind:
                self._wake(model, channel)
        else:
            del self._channels[model]
            ready.set_exception(failure)
            ready.exception()  # nobody may be waiting

    # --- what happens ---------------------------------------------------------------------------

    def _heard(self, model: ThreatModelId | None) -> None:
        """There is more of a threat model; None: of any, perhaps."""
        for key in list(self._channels) if model is None else (model,):
            channel = self._channels.get(key)
            if channel is not None:
                self._wake(key, channel)

    def _wake(self, model: ThreatModelId, channel: _Channel) -> None:
        channel.is_behind = True
        if channel.ready is not None or channel.reading is not None:
            return
        if self._is_followed(model, channel):
            channel.reading = self._begin(self._read(model, channel), f"news-{model}")
        else:
            del self._channels[model]

    def _is_followed(self, model: ThreatModelId, channel: _Channel) -> bool:
        return channel.joining > 0 or any(audience.has(model) for audience in self._audiences)

    async def _read(self, model: ThreatModelId, channel: _Channel) -> None:
        try:
            while channel.is_behind and self._is_followed(model, channel):
                channel.is_behind = False
                try:
                    await self._pass_on(model, channel)
                except DatabaseUnavailable:
                    channel.is_behind = True
                    await asyncio.sleep(RETRY_S)
        except Exception:
            log.exception("what is new in threat model %s could not be read; it is not told", model)
            for audience in self._audiences:
                audience.lose(model, channel.last)
            del self._channels[model]
            if self._is_followed(model, channel):
                self._open(model, patient=True)
        else:
            if channel.is_behind and self._channels.get(model) is channel:
                del self._channels[model]  # nobody follows any more; who comes next begins at the end of then
        finally:
            channel.reading = None

    async def _pass_on(self, model: ThreatModelId, channel: _Channel) -> None:
        while True:
            async with self._slots:
                page = await self._feed.since(model, channel.last, PAGE)
            for new in map(New.of, page):
                if new.may_change_roles:
                    await self.look({(user, model) for one in self._audiences for user in one.users(model)})
                for audience in self._audiences:
                    audience.offer(model, new, channel.last)
                channel.last = new.number
            if len(page) < PAGE:
                return

    async def _sweep(self) -> None:
        while True:
            await asyncio.sleep(SWEEP_S)
            for some in _in_parts(list(self._channels)):
                for model in some:
                    channel = self._channels.get(model)
                    if channel is None or channel.ready is not None or channel.reading is not None:
                        continue
                    if not self._is_followed(model, channel):
                        del self._channels[model]
                await asyncio.sleep(0)

    # --- who may read on ------------------------------------------------------------------------

    async def look(self, pairs: Iterable[Pair]) -> None:
        """Look which of these users may read these threat models now, and tell the audiences.

        While the database is away nothing is read either: it is waited for.
        """
        for some in _in_parts(list(pairs)):
            roles = await self._roles(some)
            readable = {pair: may(role, Action.READ) for pair, role in zip(some, roles, strict=True)}
            for audience in self._audiences:
                audience.looked(readable)

    def look_soon(self, pairs: Iterable[Pair]) -> None:
        """Begin to `look`. Where that fails, they are taken for people who may not read."""
        self._begin(self._looked(list(pairs)), "news-look")

    async def _looked(self, pairs: Sequence[Pair]) -> None:
        try:
            await self.look(pairs)
        except Exception:
            log.exception("the roles of those who follow threat models could not be looked at")
            for audience in self._audiences:
                audience.looked(dict.fromkeys(pairs, False))

    async def _roles(self, pairs: Sequence[Pair]) -> Sequence[Role | None]:
        while True:
            try:
                return await self._access.to_threat_models(pairs)
            except DatabaseUnavailable:
                await asyncio.sleep(RETRY_S)


def _in_parts(what: Sequence[T]) -> Iterable[Sequence[T]]:
    return (what[start : start + AT_ONCE] for start in range(0, len(what), AT_ONCE))
