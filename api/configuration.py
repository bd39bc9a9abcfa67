"""What holds now of the limits and settings that change while the service runs.

Each node keeps the settings in memory and the quotas of users whom it has met lately, so that a request
costs no query in the usual case. A change is told to all nodes by a signal, which PostgreSQL delivers within
milliseconds. Where one was missed everything is read again within `READ_AGAIN_S`.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from contextlib import asynccontextmanager
from uuid import UUID

from cachetools import TTLCache

from tmi.domain.configuration import CHANGEABLE, SIGNALED, GivenSetting, StoredSetting
from tmi.domain.errors import BadInput, DatabaseUnavailable
from tmi.domain.ids import UserId
from tmi.domain.ports import Quotas, SystemSettings
from tmi.domain.quotas import Limits, Quota

log = logging.getLogger(__name__)

READ_AGAIN_S = 30.0
RETRY_S = 0.5
USERS_REMEMBERED = 10_000


class Configuration:
    """The settings as they are, and what each user may do."""

    def __init__(self, settings: SystemSettings, quotas: Quotas, given: Sequence[GivenSetting] = ()) -> None:
        self._settings = settings
        self._quotas = quotas
        self.given: Mapping[str, GivenSetting] = {setting.key: setting for setting in given}
        self.stored: Mapping[str, StoredSetting] = {}
        """As of the last reading; values that are not valid any more are left out."""
        self._numbers: dict[str, int] = {}
        """Those that were asked for, as numbers."""
        self._remembered: TTLCache[UserId, Quota | None] = TTLCache(USERS_REMEMBERED, READ_AGAIN_S)
        self._reading = asyncio.Lock()
        self._changes = 0
        self._due = asyncio.Event()

    @asynccontextmanager
    async def running(self) -> AsyncIterator["Configuration"]:
        """Read the settings, and again whenever they change. Raises DatabaseUnavailable."""
        await self.reload()
        task = asyncio.create_task(self._keep(), name="configuration")
        try:
            yield self
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def reload(self) -> None:
        """Read the settings now. Raises DatabaseUnavailable."""
        async with self._reading:  # or an older answer could come in last
            self.stored = {s.key: s for s in await self._settings.all() if _is_valid(s)}
            self._numbers = {}

    def changed(self, ids: Collection[UUID]) -> None:
        """These users' quotas have changed, and the settings where `SIGNALED` is among them; none: whatever
        may have.
        """
        self._changes += 1
        if not ids:
            self._remembered.clear()
        for key in ids:
            self._remembered.pop(UserId(key), None)
        if not ids or SIGNALED in ids:
            self._due.set()

    def value(self, key: str) -> str:
        """What holds of a setting of `CHANGEABLE`: the environment's value, else the stored one, else the
        default.
        """
        given, stored = self.given.get(key), self.stored.get(key)
        if stored is not None and not (given is not None and given.is_from_environment):
            return stored.value
        if given is not None:
            return given.value
        return "0" if CHANGEABLE[key].kind == "int" else ""

    def number(self, key: str) -> int:
        """The value of a setting that is a number."""
        number = self._numbers.get(key)
        if number is None:
            number = self._numbers[key] = int(self.value(key))
        return number

    @property
    def limits(self) -> Limits:
        """What everybody may do."""
        return Limits(
            requests_per_min=self.number("user_requests_per_min"),
            requests_per_hour=self.number("user_requests_per_hour"),
            threat_models=self.number("user_threat_models_max"),
            diagrams=self.number("user_diagrams_max"),
            stored_bytes=self.number("user_stored_max_bytes"),
            connections=self.number("documents_per_user_max"),
        )

    async def limits_of(self, user: UserId) -> Limits:
        """What a user may do. While the database is away, and it is not known, what everybody may."""
        try:
            quota = await self._quota_of(user)
        except DatabaseUnavailable:
            return self.limits
        return self.limits if quota is None else quota.allowance.instead_of(self.limits)

    async def connections_of(self, user: UserId) -> int:
        """How many diagrams a user may have open; 0 for as many as they like.

        As `limits_of` says, at a third of its cost: this is asked for each connection.
        """
        try:
            quota = await self._quota_of(user)
        except DatabaseUnavailable:
            quota = None
        own = None if quota is None else quota.allowance.connections
        return self.number("documents_per_user_max") if own is None else own

    async def _quota_of(self, user: UserId) -> Quota | None:
        try:
            return self._remembered[user]
        except KeyError:
            pass
        changes = self._changes
        quota = await self._quotas.of(user)
        if changes == self._changes:  # else it may have been read before a change
            self._remembered[user] = quota
        return quota

    async def _keep(self) -> None:
        while True:
            try:
                async with asyncio.timeout(READ_AGAIN_S):
                    await self._due.wait()
            except TimeoutError:
                pass
            self._due.clear()
            try:
                await self.reload()
            except DatabaseUnavailable as error:
                log.warning("settings stay as they were for now: %s", error)
                self._due.set()
                await asyncio.sleep(RETRY_S)


def _is_valid(setting: StoredSetting) -> bool:
    known = CHANGEABLE.get(setting.key)
    if known is None:
        return False
    try:
        known.check(setting.value, setting.kind)
    except BadInput as error:
        log.warning("the stored setting %s is left out: %s", setting.key, error)
        return False
    return True
