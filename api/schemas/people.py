"""Users, groups and authorization lists."""

from typing import Annotated, Literal, Self
from uuid import UUID

from pydantic import Field, StringConstraints

from api.schemas.base import (
    BUILT_IN_PROVIDER,
    EMAIL,
    MAX_AUTHORIZATIONS,
    PROVIDER,
    Identifier,
    Input,
    Name,
    Output,
)
from tmi.domain.model import User
from tmi.domain.roles import EVERYONE, Grant, Principal, Role


class PrincipalOutput(Output):
    """A user or a group."""

    principal_type: Literal["user", "group"]
    provider: str
    provider_id: str
    display_name: str | None = None
    email: str | None = None


class UserOutput(PrincipalOutput):
    """A person who has signed in."""

    principal_type: Literal["user"]

    @classmethod
    def of(cls, user: User) -> Self:
        """The user as others see it."""
        return cls(
            principal_type="user",
            provider=user.provider,
            provider_id=user.provider_id,
            display_name=user.name,
            email=user.email,
        )


class GroupMembership(Output):
    """A group of this service that a user belongs to."""

    internal_uuid: UUID
    group_name: str
    name: str | None = None


class Profile(UserOutput):
    """The signed-in user's own profile."""

    is_admin: bool = False
    is_security_reviewer: bool = False
    groups: list[GroupMembership] = Field(default_factory=list)


class UserInfo(Output):
    """Claims of the signed-in user (OpenID Connect Core 1.0, section 5.1)."""

    sub: str
    email: str
    name: str
    idp: str
    groups: list[str] = Field(default_factory=list)


class AuthorizationInput(Input):
    """Who gets which role. A principal need not have signed in yet."""

    principal_type: Literal["user", "group"]
    provider: Annotated[str, StringConstraints(max_length=100, pattern=PROVIDER)]
    provider_id: Identifier
    display_name: Name | None = None
    email: Annotated[str, StringConstraints(max_length=254, pattern=EMAIL)] | None = None
    role: Literal["reader", "writer", "owner"]

    @property
    def grant(self) -> Grant:
        """In the domain's words; `*` and `tmi` are two spellings of the provider of `everyone`."""
        everyone = self.principal_type == "group" and self.provider_id == EVERYONE and self.provider == "*"
        provider = BUILT_IN_PROVIDER if everyone else self.provider
        principal = Principal(self.principal_type, provider, self.provider_id, self.email, self.display_name)
        return Grant(principal, Role.parse(self.role))


class AuthorizationOutput(PrincipalOutput):
    """Who has which role."""

    role: Literal["reader", "writer", "owner"]

    @classmethod
    def of(cls, grant: Grant) -> "AuthorizationOutput":
        """A grant as JSON."""
        principal = grant.principal
        return cls.model_validate(
            {
                "principal_type": principal.principal_type,
                "provider": principal.provider,
                "provider_id": principal.provider_id,
                "display_name": principal.display_name,
                "email": principal.email,
                "role": grant.role.label,
            }
        )


Authorizations = Annotated[list[AuthorizationInput], Field(max_length=MAX_AUTHORIZATIONS)]



def user_output(user: User | None) -> UserOutput | None:
    return None if user is None else UserOutput.of(user)
