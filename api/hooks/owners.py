"""Whether who made a subscription may still have it: events go to administrators' endpoints alone."""

from collections.abc import Sequence

from cachetools import TTLCache

from tmi.domain.errors import NotFound
from tmi.domain.ids import UserId
from tmi.domain.model import ADMINISTRATORS_GROUP
from tmi.domain.ports import Memberships, Users

REMEMBERED_S = 5.0
REMEMBERED_MAX = 1000


class Owners:
    """Remembers for some seconds who is an administrator."""

    def __init__(self, users: Users, memberships: Memberships, administrators: Sequence[str]) -> None:
        """`administrators`: those of the settings, as `provider:id`."""
        self._users = users
        self._memberships = memberships
        self._administrators = administrators
        self._known: TTLCache[UserId, bool] = TTLCache(REMEMBERED_MAX, REMEMBERED_S)

    async def may_own(self, user: UserId) -> bool:
        """Whether a user is an administrator, as of a few seconds ago."""
        known = self._known.get(user)
        if known is None:
            known = self._known[user] = await self._is_administrator(user)
        return known

    async def _is_administrator(self, user: UserId) -> bool:
        try:
            found = await self._users.get(user)
        except NotFound:
            return False
        if found.is_one_of(self._administrators):
            return True
        return any(key == ADMINISTRATORS_GROUP for key, _, _ in await self._memberships.of_user(user))
