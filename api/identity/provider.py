"""What TMI asks of an identity provider, and gets."""

import hmac
import re
from base64 import urlsafe_b64encode
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, Protocol

from api.errors import OAuthError

MAX_EMAIL = 254
MAX_NAME = 256
MAX_ID = 255

Kind = Literal["google", "github", "microsoft", "oidc"]

_EMAIL = re.compile(r"[^\s@<>\"'&,]{1,64}@[A-Za-z0-9](?:[A-Za-z0-9.-]{0,250}[A-Za-z0-9])?")
_UNSEEN = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff]+")


@dataclass(frozen=True, slots=True)
class ProviderOptions:
    """What an operator says of an identity provider."""

    id: str
    kind: Kind
    client_id: str
    client_secret: str | None = field(repr=False)
    issuer: str
    """Where it is: the issuer, and for GitHub the address of the site."""
    tenant: str = ""
    allowed_tenants: tuple[str, ...] = ()
    hosted_domain: str = ""
    allowed_domains: tuple[str, ...] = ()
    trust_emails: bool = False
    scopes: tuple[str, ...] = ()
    name: str | None = None
    icon: str | None = None


@dataclass(frozen=True, slots=True)
class Attempt:
    """One visit to a provider. What goes there is derived, so that nothing has to be kept but digests."""

    state: str
    """Known to the browser, the provider and us; good once."""
    browser: str = field(repr=False)
    """A secret of the browser, in a cookie; the provider never sees it."""

    @property
    def nonce(self) -> str:
        """What the ID token has to repeat."""
        return self._derived("nonce")

    @property
    def verifier(self) -> str:
        """The PKCE verifier (RFC 7636, section 4.1)."""
        return self._derived("verifier")

    def _derived(self, purpose: str) -> str:
        digest = hmac.digest(self.browser.encode(), f"{purpose}:{self.state}".encode(), "sha256")
        return urlsafe_b64encode(digest).rstrip(b"=").decode()


@dataclass(frozen=True, slots=True)
class Identity:
    """Who somebody is, as the provider says."""

    provider_id: str
    email: str
    email_verified: bool
    name: str


class IdentityProvider(Protocol):
    """A place where people sign in. Every method raises OAuthError as the client is to learn of it."""

    options: ProviderOptions
    name: str
    """For people."""
    icon: str

    async def address(self, attempt: Attempt) -> str:
        """Where to send the browser."""

    async def identity(self, answer: Mapping[str, str], attempt: Attempt) -> Identity:
        """Who came back with `answer`: the parameters of the callback."""


def refused_by(name: str, answer: Mapping[str, str]) -> OAuthError:
    """What a client learns of a provider's error (RFC 6749, section 4.1.2.1).

    The provider's own description stays out: it is written for whoever registered the client there.
    """
    error = answer.get("error", "")
    if error in ("access_denied", "consent_required", "interaction_required", "login_required"):
        return OAuthError("access_denied", f"{name} did not sign you in")
    if error == "temporarily_unavailable":
        return OAuthError("temporarily_unavailable", f"{name} can't sign anybody in at the moment")
    return OAuthError("server_error", f"{name} did not accept the request")


def checked_identity(options: ProviderOptions, name: str, found: Identity) -> Identity:
    """An identity as it may be kept. Raises OAuthError for one that is not to come in, or has no address."""
    if not 0 < len(found.provider_id) <= MAX_ID or _UNSEEN.search(found.provider_id):
        raise OAuthError("server_error", f"{name} sent an id that can't be kept")
    if len(found.email) > MAX_EMAIL or not _EMAIL.fullmatch(found.email):
        raise OAuthError("access_denied", f"{name} did not tell an e-mail address of yours")
    domain = found.email.rpartition("@")[2].lower()
    if options.allowed_domains and not (found.email_verified and domain in options.allowed_domains):
        raise OAuthError("access_denied", "your e-mail address is not among those that may sign in here")
    seen = _UNSEEN.sub(" ", found.name).strip()[:MAX_NAME]
    return Identity(
        found.provider_id, found.email, found.email_verified, seen or found.email.partition("@")[0]
    )
