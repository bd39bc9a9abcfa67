"""Signing in at another service."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class PendingAuthorization:
    """Whom a client sent, who went to an identity provider and has not come back yet."""

    provider: str
    redirect_uri: str
    """Where the client wants its code."""
    client_state: str | None
    code_challenge: str
    """The client's PKCE S256 challenge (RFC 7636, section 4.2)."""
    scope: str
