"""Identity providers, and coming back from them."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, StringConstraints

from api.schemas.base import Output


class Provider(Output):
    """A way to sign in."""

    id: str
    name: str
    icon: str
    auth_url: str
    token_url: str
    redirect_uri: str
    client_id: str


class Providers(Output):
    """The ways to sign in."""

    providers: list[Provider]


class ProviderGroup(Output):
    """A group that authorization lists may name."""

    name: str
    display_name: str
    used_in_authorizations: bool


class ProviderGroups(Output):
    """The groups of an identity provider."""

    idp: str
    groups: list[ProviderGroup]


class CallbackQuery(BaseModel):
    """What an identity provider says (RFC 6749, section 4.1.2; RFC 9207). Most of them add something."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    code: Annotated[str, StringConstraints(max_length=4096, pattern=r"^[ -~]+$")] | None = None
    state: Annotated[str, StringConstraints(max_length=256, pattern=r"^[a-zA-Z0-9_~.+/=-]+$")] | None = None
    iss: Annotated[str, StringConstraints(max_length=1024)] | None = None
    error: Annotated[str, StringConstraints(max_length=256)] | None = None
