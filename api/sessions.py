"""What this node remembers of sign-in sessions, so that a request costs no query in the usual case.

A session is looked up once and kept, until a signal says that it ended, that its user changed, or that
signals may have been missed. What holds true:

- A revocation is seen within a second. An entry that is older than `TRUSTED_S` is used only while it is
  certain that every signal up to `TRUSTED_S` ago was heard; otherwise it is looked up again. So a connection
  that is silently dead costs queries, and never lets anybody in.
- What was read before a signal and arrives after it is used by who waits for it and is not kept.
- Nothing outlives the session's own end, and nothing is kept longer than `KEPT_S`.

Requests that come at once for one session share one query. Whoever asks after a signal begins a new one.
"""

import asyncio
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from uuid import UUID

from cachetools import LRUCache

from tmi.domain.ids import SignInId, UserId
from tmi.domain.model import SignIn, User
from tmi.domain.ports import Happened, Hearing, Signal, SignIns

TRUSTED_S = 0.8
KEPT_S = 60.0
KEPT_MAX = 10_000
"""Sessions, of about 1 KiB each."""


@dataclass(frozen=True, slots=True)
class _Kept:
    sign_in: SignIn
    read_at: float


class SessionCache:
    """Sign-in sessions of this node's callers."""

    def __init__(self, sign_ins: SignIns) -> None:
        self._sign_ins = sign_ins
        self._kept: LRUCache[SignInId, _Kept] = LRUCache(KEPT_MAX)
        self._lookups: dict[SignInId, asyncio.Task[SignIn | None]] = {}
        self.hearing: Hearing | None = None
        """The ear that hands signals to `hear`; None: nothing is heard."""
        self.admits: Callable[[User], bool] = lambda _: True
        """Whose sessions count: not those of people whose identity provider was taken out of the settings."""
        self.queries = 0
        """Lookups in the database."""

    async def get(self, key: SignInId) -> SignIn | None:
        """The session if it stands. Raises DatabaseUnavailable."""
        found = await self._stored(key)
        return found if found is not None and self.admits(found.user) else None

    async def _stored(self, key: SignInId) -> SignIn | None:
        kept = self._kept.get(key)
        if kept is not None and self._is_good(kept):
            return kept.sign_in
        lookup = self._lookups.get(key)
        if lookup is None:
            lookup = self._lookups[key] = asyncio.create_task(self._look_up(key), name="look-up-session")
            lookup.add_done_callback(_noticed)
        return await asyncio.shield(lookup)

    def forget(self, sign_ins: Iterable[SignInId]) -> None:
        """These sessions are over."""
        for key in sign_ins:
            self._kept.pop(key, None)
            self._lookups.pop(key, None)

    def forget_users(self, users: Iterable[UserId]) -> None:
        """These users have changed, or are gone."""
        changed = set(users)
        for key in [key for key, kept in self._kept.items() if kept.sign_in.user.id in changed]:
            del self._kept[key]
        self._lookups.clear()

    def hear(self, signal: Signal | None) -> None:
        """Something happened on some node; None: some of it may have been missed."""
        if signal is None:
            self._kept.clear()
            self._lookups.clear()
        elif signal.happened is Happened.SIGN_IN_ENDED:
            self.forget(map(_sign_in_id, signal.ids))
        elif signal.happened is Happened.PEOPLE_CHANGED:
            self.forget_users(map(UserId, signal.ids))

    def _is_good(self, kept: _Kept) -> bool:
        age_s = time.monotonic() - kept.read_at
        if age_s > KEPT_S or kept.sign_in.expires_at <= datetime.now(UTC):
            return False
        return age_s <= TRUSTED_S or (self.hearing is not None and self.hearing.unsure_s() <= TRUSTED_S)

    async def _look_up(self, key: SignInId) -> SignIn | None:
        read_at = time.monotonic()
        me = asyncio.current_task()
        self.queries += 1
        try:
            found = await self._sign_ins.get(key)
        finally:
            is_current = self._lookups.get(key) is me
            if is_current:
                del self._lookups[key]
        if is_current:
            self._kept.pop(key, None)
            if found is not None:
                self._kept[key] = _Kept(found, read_at)
        return found


def _noticed(lookup: asyncio.Task[SignIn | None]) -> None:
    """Whoever waited may have gone: a failure is theirs to see, and no news to anybody else."""
    if not lookup.cancelled():
        lookup.exception()


def _sign_in_id(key: UUID) -> SignInId:
    return SignInId(key)
