"""Sign-in sessions, codes and signing keys."""

from collections.abc import Sequence
from datetime import timedelta
from typing import Protocol

from tmi.domain.ids import SignInId, UserId
from tmi.domain.model import AuthorizationCode, SignIn, SigningKey


class SignIns(Protocol):
    """Sign-in sessions, authorization codes and refresh tokens. Secrets are stored as SHA-256 only."""

    async def issue_code(self, code: str, grant: AuthorizationCode, ttl: timedelta) -> None:
        """Remember an authorization code."""

    async def redeem_code(self, code: str) -> AuthorizationCode | None:
        """Take a code out, once: None if unknown, used before or past its time."""

    async def start(self, user: UserId, refresh_token: str, ttl: timedelta) -> SignIn:
        """Begin a session whose first refresh token is given."""

    async def rotate(self, refresh_token: str, successor: str, ttl: timedelta) -> SignIn | None:
        """Exchange a refresh token. None if unknown or expired; one used before ends its whole session."""

    async def get(self, sign_in: SignInId) -> SignIn | None:
        """The session if it still stands: None once it ended, was revoked or expired."""


class SigningKeys(Protocol):
    """Keys for signing tokens, shared by all nodes."""

    async def current(self) -> Sequence[SigningKey]:
        """All usable keys, newest first."""

    async def add_first(self, key: SigningKey) -> Sequence[SigningKey]:
        """Store `key` unless another node was first; returns what `current` would."""
