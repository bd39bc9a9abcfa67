"""Sign-in by OAuth."""

from typing import Annotated, Literal

from pydantic import Field, StringConstraints

from api.schemas.base import (
    OPAQUE,
    PROVIDER_ID,
    SCOPE,
    Input,
    LoginHint,
    OAuthInput,
    OAuthQuery,
    Output,
    PkceText,
)

GRANT_TYPES = ("authorization_code", "refresh_token", "client_credentials")
"""Another is answered in OAuth's own words: `unsupported_grant_type`."""


class AuthorizeQuery(OAuthQuery):
    """An OAuth authorization request (RFC 6749, section 4.1.1). The address of the client is
    `client_callback`, or `redirect_uri`, as clients of other servers call it.
    """

    idp: Annotated[str, StringConstraints(max_length=100, pattern=PROVIDER_ID)] | None = None
    client_callback: Annotated[str, StringConstraints(max_length=1000)] | None = None
    redirect_uri: Annotated[str, StringConstraints(max_length=1000)] | None = None
    response_type: Annotated[str, StringConstraints(max_length=100)] | None = None
    prompt: Annotated[str, StringConstraints(max_length=100)] | None = None
    state: Annotated[str, StringConstraints(max_length=256, pattern=r"^[a-zA-Z0-9_~.+/=-]*$")] | None = None
    login_hint: LoginHint | None = None
    scope: Annotated[str, StringConstraints(max_length=256, pattern=SCOPE)] | None = None
    code_challenge: PkceText | None = None
    code_challenge_method: Annotated[str, Field(json_schema_extra={"enum": ["S256"]})] | None = None


class TokenQuery(OAuthQuery):
    """At which identity provider the code was issued."""

    idp: Annotated[str, StringConstraints(max_length=100, pattern=PROVIDER_ID)] | None = None


class TokenRequest(OAuthInput):
    """An OAuth token request (RFC 6749, sections 4.1.3 and 6)."""

    grant_type: (
        Annotated[
            str, StringConstraints(max_length=100), Field(json_schema_extra={"enum": list(GRANT_TYPES)})
        ]
        | None
    ) = None
    code: Annotated[str, StringConstraints(max_length=8192, pattern=r"^[\x20-\x7E]+$")] | None = None
    code_verifier: PkceText | None = None
    redirect_uri: Annotated[str, StringConstraints(max_length=1000)] | None = None
    refresh_token: Annotated[str, StringConstraints(max_length=1024, pattern=OPAQUE)] | None = None
    client_id: Annotated[str, StringConstraints(max_length=256)] | None = None
    client_secret: Annotated[str, StringConstraints(max_length=1024)] | None = None
    state: Annotated[str, StringConstraints(max_length=256)] | None = None


class RefreshRequest(Input):
    """A refresh token to exchange."""

    refresh_token: Annotated[str, StringConstraints(max_length=1000, pattern=OPAQUE)]


class TokenAnswer(Output):
    """Tokens of a sign-in session."""

    access_token: str
    refresh_token: str | None = None
    token_type: Literal["bearer"] = "bearer"  # noqa: S105 - the type of a token, no secret
    expires_in: int
