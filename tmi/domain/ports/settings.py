"""Settings that administrators change, and preferences that people have."""

from collections.abc import Sequence
from typing import Protocol

from tmi.domain.configuration import StoredSetting
from tmi.domain.ids import UserId
from tmi.domain.model import AuditEntry


class SystemSettings(Protocol):
    """Settings that were changed while the service ran. What is written is written with its audit entry."""

    async def all(self) -> Sequence[StoredSetting]:
        """By key, at most 1,000."""

    async def put(self, setting: StoredSetting, entry: AuditEntry) -> StoredSetting:
        """Store it in place of an earlier value; returns it with the time of the store."""

    async def remove(self, key: str, entry: AuditEntry) -> None:
        """Raises NotFound."""


class Preferences(Protocol):
    """What people want of their clients: a text, which the clients understand."""

    async def get(self, user: UserId) -> str | None:
        """None: there are none."""

    async def create(self, user: UserId, text: str) -> None:
        """Raises Conflict where there are some."""

    async def put(self, user: UserId, text: str) -> None:
        """Store them in place of earlier ones."""
