"""Authorization codes, sign-in sessions, refresh tokens, client credentials and signing keys.

Secrets are stored as SHA-256 only. Who brings one that is worth nothing learns that and no more; callers
learn why, for the audit.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Protocol

from tmi.domain.ids import CredentialId, SignInId, UserId
from tmi.domain.model import AuditEntry, AuthorizationCode, SignIn, SigningKey
from tmi.domain.ports.threat_models import Page
from tmi.domain.sign_ins import (
    Begun,
    ClientCredential,
    KeyTerm,
    NewCredential,
    RefreshToken,
    Refused,
    StandingSignIn,
)


class Codes(Protocol):
    """Authorization codes: each is good once and for a moment."""

    async def issue(self, code: str, grant: AuthorizationCode, ttl: timedelta) -> None:
        """Remember a code, unless the user is gone: then it is good for nothing."""

    async def redeem(self, code: str) -> AuthorizationCode | Refused:
        """Take a code out, once. One that comes back ends the sign-in that was begun with it."""


class SignIns(Protocol):
    """Sign-in sessions."""

    async def start(
        self, user: UserId, refresh_token: str | None, ttl: timedelta, begun: Begun | None = None
    ) -> SignIn:
        """Begin a session, whose first refresh token is given if it has any. It never outlives the
        credential that begins it.

        Raises Unauthenticated when its code came back meanwhile, or its credential is no longer good.
        """

    async def get(self, sign_in: SignInId) -> SignIn | None:
        """The session if it still stands: None once it ended, was revoked or expired."""

    async def of_user(self, user: UserId, page: Page) -> tuple[Sequence[StandingSignIn], int]:
        """A page of the sessions of a user that stand, newest first, and their total."""

    async def end(self, user: UserId, sign_in: SignInId) -> bool:
        """End a session; False if the user has none of this id that stands."""

    async def end_all(self, user: UserId, besides: SignInId | None = None) -> Sequence[SignInId]:
        """End all sessions of a user but one; returns those that it ended."""


class SignInTerms(Protocol):
    """When sign-in sessions end."""

    async def ends(self, sign_ins: Sequence[SignInId]) -> Mapping[SignInId, datetime]:
        """When those of these sessions (at most 5,000) that stand will end, in one query."""


class RefreshTokens(Protocol):
    """The refresh tokens of a session are one family, of which the newest alone is good."""

    async def rotate(
        self, refresh_token: str, successor: str, ttl: timedelta, longest: timedelta | None = None
    ) -> SignIn | Refused:
        """Exchange a refresh token, once, and prolong its session by `ttl`, but never past `longest` after
        its start. One that was used before ends its whole session, however old it is.
        """

    async def find(self, refresh_token: str) -> RefreshToken | None:
        """A refresh token of a session that stands. Does not use it."""


class ClientCredentials(Protocol):
    """Client credentials. What is written is written together with its audit entry."""

    async def create(
        self, user: UserId, new: NewCredential, at_most: int | None, entry: AuditEntry
    ) -> ClientCredential:
        """Raises NotFound, and Forbidden for a user who has `at_most` already."""

    async def of_user(self, user: UserId, page: Page) -> tuple[Sequence[ClientCredential], int]:
        """A page of a user's credentials (here `limit` may be 0 to 1,000), oldest first, and their total."""

    async def set_active(
        self, user: UserId, credential: CredentialId, entry: AuditEntry, *, active: bool
    ) -> tuple[ClientCredential, Sequence[SignInId]]:
        """Deactivating one ends its sign-ins, which are returned. Raises NotFound, also for another's."""

    async def delete(
        self, user: UserId, credential: CredentialId, entry: AuditEntry
    ) -> Sequence[SignInId]:
        """Delete one and end its sign-ins, which are returned. Raises NotFound, also for another's."""

    async def authenticate(self, client_id: str, secret: str) -> ClientCredential | Refused:
        """The credential of a client that knows its secret, and mark it used."""


class SigningKeys(Protocol):
    """Keys for signing tokens, shared by all nodes."""

    async def current(self) -> Sequence[SigningKey]:
        """All keys that verify, newest first: those too that will sign only later. A key verifies until the
        last token that it may have signed has ended.
        """

    async def add_first(self, key: SigningKey) -> Sequence[SigningKey]:
        """Store `key` unless another node was first; returns what `current` would."""

    async def promise(self, token_ttl: timedelta) -> None:
        """Tokens may live so long: keys verify at least until those that they signed have ended."""


class KeyRotation(Protocol):
    """How operators change the keys. Nothing here reads a private key."""

    async def terms(self) -> Sequence[KeyTerm]:
        """All keys that verify, newest first."""

    async def add(self, key: SigningKey, lead: timedelta, entry: AuditEntry) -> KeyTerm:
        """Store a key that signs after `lead`. Raises Conflict while another one waits for its time."""

    async def replace_all(self, key: SigningKey, entry: AuditEntry) -> Sequence[str]:
        """Store a key that signs at once, and delete all others with what they signed; returns their ids."""
