"""Signing in at other services."""

from datetime import timedelta
from typing import Protocol

from tmi.domain.sign_in import PendingAuthorization


class PendingAuthorizations(Protocol):
    """Who went to an identity provider. State and the browser's secret are stored as SHA-256 only."""

    async def begin(self, state: str, browser: str, pending: PendingAuthorization, ttl: timedelta) -> None:
        """Remember somebody who goes."""

    async def finish(self, state: str, browser: str) -> PendingAuthorization | None:
        """Take it out, once: None if unknown, used before or past its time. Another browser takes nothing."""
