"""What belongs to sign-in sessions: how one was begun, why a secret is refused, client credentials."""

from dataclasses import dataclass
from datetime import datetime
from enum import Enum

from tmi.domain.ids import CredentialId, SignInId, UserId
from tmi.domain.model import SignIn, User

AUTOMATION_PROVIDER = "automation"
"""The provider of accounts of programs. Nobody signs in by it, and no setting may give a provider its name.
"""


class Refusal(Enum):
    """Why a code, a refresh token or a client secret is worth nothing. Clients are not told; the audit is."""

    UNKNOWN = "unknown"
    EXPIRED = "expired"
    REUSED = "reused"
    """It was used before, so somebody has a copy: its whole sign-in is over."""
    ENDED = "ended"
    """Its sign-in has ended, or its credential was deactivated."""


@dataclass(frozen=True, slots=True)
class Refused:
    """A secret that is worth nothing, and whose it was as far as that is known."""

    why: Refusal
    user: UserId | None = None
    sign_in: SignInId | None = None
    has_ended_it: bool = False
    """The sign-in stood until this secret came back."""


@dataclass(frozen=True, slots=True)
class Begun:
    """What a sign-in comes from."""

    client: str | None = None
    """What the client calls itself, for the people whose sign-in it is."""
    code: str | None = None
    """The authorization code that was redeemed for it: used again, it ends this sign-in."""
    credential: CredentialId | None = None
    """The client credential: its end is the end of this sign-in."""


@dataclass(frozen=True, slots=True)
class StandingSignIn:
    """A sign-in as the person whose it is sees it."""

    id: SignInId
    started_at: datetime
    refreshed_at: datetime | None
    """When its refresh token was last exchanged."""
    expires_at: datetime
    client: str | None
    credential: CredentialId | None


@dataclass(frozen=True, slots=True)
class RefreshToken:
    """A refresh token of a sign-in that stands."""

    sign_in: SignIn
    expires_at: datetime
    is_used: bool


@dataclass(frozen=True, slots=True)
class KeyTerm:
    """When a signing key signs and verifies."""

    kid: str
    algorithm: str
    created_at: datetime
    signs_from: datetime
    signs_until: datetime | None
    """When the next one begins; None: there is none yet."""
    verifies_until: datetime | None


@dataclass(frozen=True, slots=True)
class NewCredential:
    """A client credential to be. Of the secret only its SHA-256 is stored."""

    client_id: str
    secret: str
    name: str
    description: str | None
    expires_at: datetime | None


@dataclass(frozen=True, slots=True)
class ClientCredential:
    """With it a program acts as its user, until it expires, is deactivated or deleted."""

    id: CredentialId
    user: User
    client_id: str
    name: str
    description: str | None
    is_active: bool
    created_at: datetime
    modified_at: datetime
    expires_at: datetime | None
    last_used_at: datetime | None


