"""Client credentials, and what clients ask about tokens."""

from datetime import datetime
from typing import Annotated, Literal, Self
from uuid import UUID

from pydantic import AwareDatetime, BeforeValidator, Field, StringConstraints

from api.schemas.base import LINE, Input, OAuthInput, Output, SeenLine, SeenText
from tmi.domain.model import SignIn
from tmi.domain.sign_ins import ClientCredential


def _text(value: object) -> object:
    if not isinstance(value, str):
        raise ValueError("give a date and a time as text")  # noqa: TRY004 - pydantic's way to refuse
    return value


Moment = Annotated[AwareDatetime, Field(strict=False), BeforeValidator(_text)]
"""RFC 3339, with its offset."""


class CredentialInput(Input):
    """A new client credential."""

    name: Annotated[SeenLine, StringConstraints(min_length=1, max_length=100)]
    description: Annotated[SeenText, StringConstraints(max_length=500)] | None = None
    expires_at: Moment | None = None


class CredentialChange(Input):
    """What may be changed of one."""

    is_active: bool


class AutomationInput(Input):
    """An account for a program."""

    name: Annotated[str, StringConstraints(max_length=63, pattern=r"^[a-z][a-z0-9-]*[a-z0-9]$")]


class CreatedCredential(Output):
    """A new client credential. Its secret is never shown again."""

    id: UUID
    client_id: str
    client_secret: str
    name: str
    description: str | None = None
    created_at: datetime
    expires_at: datetime | None = None

    @classmethod
    def of_new(cls, credential: ClientCredential, secret: str) -> Self:
        """With its secret, this once."""
        return cls(
            id=credential.id,
            client_id=credential.client_id,
            client_secret=secret,
            name=credential.name,
            description=credential.description,
            created_at=credential.created_at,
            expires_at=credential.expires_at,
        )


class CredentialOutput(Output):
    """A client credential."""

    id: UUID
    client_id: str
    name: str
    description: str | None = None
    is_active: bool
    last_used_at: datetime | None = None
    created_at: datetime
    modified_at: datetime
    expires_at: datetime | None = None

    @classmethod
    def of(cls, credential: ClientCredential) -> Self:
        """Without its secret."""
        return cls(
            id=credential.id,
            client_id=credential.client_id,
            name=credential.name,
            description=credential.description,
            is_active=credential.is_active,
            last_used_at=credential.last_used_at,
            created_at=credential.created_at,
            modified_at=credential.modified_at,
            expires_at=credential.expires_at,
        )


class Credentials(Output):
    """A page of client credentials."""

    credentials: list[CredentialOutput]
    total: int
    limit: int
    offset: int


_Token = Annotated[str, StringConstraints(min_length=1, max_length=4096, pattern=r"^[^\x00-\x1F]*$")]
"""As long as an access token may be: the contract's 1,000 and 2,000 would refuse good ones."""


class RevocationRequest(OAuthInput):
    """Which token to revoke (RFC 7009, section 2.1). A hint is not needed; any word is one."""

    token: _Token
    token_type_hint: Annotated[str, StringConstraints(max_length=1000, pattern=LINE)] | None = None
    client_id: Annotated[str, StringConstraints(max_length=256)] | None = None
    client_secret: Annotated[str, StringConstraints(max_length=256)] | None = None


class IntrospectionRequest(OAuthInput):
    """Which token to tell of (RFC 7662, section 2.1)."""

    token: _Token
    token_type_hint: Annotated[str, StringConstraints(max_length=1000, pattern=LINE)] | None = None


class Introspection(Output):
    """What a token is worth (RFC 7662, section 2.2); of one that is not good, nothing else is told."""

    active: bool
    sub: str | None = None
    email: str | None = None
    name: str | None = None
    exp: int | None = None
    iat: int | None = None
    iss: str | None = None
    token_type: Literal["Bearer", "refresh_token"] | None = None

    @classmethod
    def of(
        cls,
        sign_in: SignIn,
        issuer: str,
        issued: int | None,
        ends: int,
        token_type: Literal["Bearer", "refresh_token"],
    ) -> Self:
        """A good token of a session, with when it was issued and when it ends, in Unix seconds."""
        user = sign_in.user
        return cls(
            active=True,
            sub=str(user.id),
            email=user.email,
            name=user.name,
            exp=min(ends, int(sign_in.expires_at.timestamp())),
            iat=issued,
            iss=issuer,
            token_type=token_type,
        )


class Nothing(Output):
    """An empty object."""
