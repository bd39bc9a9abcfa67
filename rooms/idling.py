"""Sessions of browsers that nobody uses end, and their open sockets and event streams with them.

What is use: a request over REST with the session's cookie, and an Update of a document on a socket of the
session. Cursors, syncs and keepalives are not, since pages send them by themselves. So an editor that is open
in a forgotten tab does not keep its user signed in, and somebody who only draws is not sent away.

Edits leave a mark at their session, and nothing else, until they are gathered; a sign-in is written at most
once in an eighth of the bound, or once a minute. Every node gathers and ends. A session ends late by two
rounds, so that no node ends what was used at another one and is not written yet.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Sequence
from contextlib import asynccontextmanager
from datetime import timedelta
from itertools import islice

from cachetools import TTLCache

from tmi.domain.audit import logged
from tmi.domain.errors import DatabaseUnavailable
from tmi.domain.ids import SignInId
from tmi.domain.ports import BrowserSessions

log = logging.getLogger(__name__)

AT_ONCE = 200
_ROUND_MAX_S = 5.0
_HELD_MAX_S = 60.0
_SHARE = 8
"""Of the bound: what a round takes at most, and how long uses of one sign-in are held back."""
_KNOWN_MAX = 50_000


class Idling:
    """Watches the sessions of browsers."""

    def __init__(
        self,
        store: BrowserSessions,
        idle: timedelta,
        edited: Callable[[], Collection[SignInId]],
        ended: Callable[[Sequence[SignInId]], Awaitable[None]],
    ) -> None:
        """`idle`: the bound. `edited` tells who has edited here since it was asked last; `ended` closes what
        belongs to sign-ins, on every node.
        """
        self._store = store
        self._idle = idle
        self._edited = edited
        self._ended = ended
        self._round_s = min(_ROUND_MAX_S, idle.total_seconds() / _SHARE)
        self._late = timedelta(seconds=2 * self._round_s)
        self._pending: set[SignInId] = set()
        held_s = min(_HELD_MAX_S, idle.total_seconds() / _SHARE)
        self._written: TTLCache[SignInId, None] = TTLCache(_KNOWN_MAX, held_s)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Watch while the body runs."""
        task = asyncio.create_task(self._keep(), name="idling-of-browsers")
        try:
            yield
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def _keep(self) -> None:
        while True:
            await asyncio.sleep(self._round_s)
            self._pending.update(self._edited())
            try:
                await self._write()
                await self._end()
            except DatabaseUnavailable:
                continue
            except Exception:
                log.exception("it could not be seen which browsers are idle; it is looked at again")

    async def _write(self) -> None:
        while due := list(islice((one for one in self._pending if one not in self._written), AT_ONCE)):
            await self._store.edited(due, self._idle, self._late)
            self._pending.difference_update(due)
            self._written.update(dict.fromkeys(due))

    async def _end(self) -> None:
        while ended := await self._store.end_idle(self._late, AT_ONCE):
            for one in ended:
                logged(one.entry)
            await self._ended([one.sign_in for one in ended])
