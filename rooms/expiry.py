"""Sockets do not outlive the sign-in behind them, also where nobody ends it: its time is over.

When a session ends is known beforehand, but it may be prolonged by any node. So a session of a newcomer is
looked up once, and again when its end has come: then it either ends later, or it is over and its sockets are
closed. All that is due is one query, several times a second at most; a session that nobody here has any more
is forgotten when it is due. While the database is away the rights last known hold.
"""

import asyncio
import heapq
import logging
from collections.abc import AsyncIterator, Callable, Collection
from contextlib import asynccontextmanager
from datetime import UTC, datetime

from tmi.domain.beats import to_next_beat
from tmi.domain.errors import DatabaseUnavailable
from tmi.domain.ids import SignInId
from tmi.domain.ports import SignInTerms

log = logging.getLogger(__name__)

LOOK_EVERY_S = 0.5
AT_ONCE = 5_000


class Expiry:
    """Watches when the sessions of open sockets end."""

    def __init__(
        self,
        terms: SignInTerms,
        here: Callable[[], Collection[SignInId]],
        is_over: Callable[[SignInId], None],
        look_every_s: float = LOOK_EVERY_S,
    ) -> None:
        """`here` tells whose sockets are open on this node; `is_over` closes those of a session."""
        self._terms = terms
        self._here = here
        self._is_over = is_over
        self._look_every_s = look_every_s
        self._known: set[SignInId] = set()
        self._due: list[tuple[datetime, SignInId]] = []

    def watch(self, sign_in: SignInId) -> None:
        """A socket of this session has been opened."""
        if sign_in not in self._known:
            self._known.add(sign_in)
            heapq.heappush(self._due, (datetime.now(UTC), sign_in))

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Watch while the body runs."""
        task = asyncio.create_task(self._keep(), name="expiry-of-sign-ins")
        try:
            yield
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def _keep(self) -> None:
        while True:
            await asyncio.sleep(to_next_beat(asyncio.get_running_loop().time(), self._look_every_s))
            try:
                await self._look()
            except DatabaseUnavailable:
                continue
            except Exception:
                log.exception("it could not be seen which sign-ins are over; it is looked at again")

    async def _look(self) -> None:
        if not self._due or self._due[0][0] > datetime.now(UTC):
            return
        now, here = datetime.now(UTC), self._here()
        asked: list[SignInId] = []
        while self._due and self._due[0][0] <= now and len(asked) < AT_ONCE:
            sign_in = heapq.heappop(self._due)[1]
            if sign_in in here:
                asked.append(sign_in)
            else:
                self._known.discard(sign_in)
        try:
            ends = await self._terms.ends(asked) if asked else {}
        except BaseException:
            for sign_in in asked:
                heapq.heappush(self._due, (now, sign_in))
            raise
        for sign_in in asked:
            if sign_in in ends:
                heapq.heappush(self._due, (ends[sign_in], sign_in))
            else:
                self._known.discard(sign_in)
                self._is_over(sign_in)
