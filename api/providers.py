"""Which ways to sign in there are, and whose groups authorization lists may name."""

import re

from quart import Blueprint, Response, request
from quart_schema import operation_id, tag

from api import bodies, schemas
from api.context import DEVELOPMENT_PROVIDER, context, public, scheme, services
from api.documented import operation
from api.errors import OAuthError
from api.identity.providers import CALLBACK_PATH
from tmi.domain.errors import BadInput, NotFound
from tmi.domain.model import User
from tmi.domain.ports import GroupFilter, Page

routes = Blueprint("providers", __name__)

DEVELOPMENT_NAME = "TMI (development)"
GROUPS_MAX = 1000

_PROVIDER = re.compile(r"[a-zA-Z][a-zA-Z0-9_-]{0,99}")


@routes.get("/oauth2/providers")
@public
@tag(["Sign-in"])
@operation_id("getAuthProviders")
@operation(answers={200: schemas.Providers}, errors=(503,))
async def list_providers() -> Response:
    """List the ways to sign in"""
    base = services().options.public_url or f"{scheme()}://{request.host}"
    known = [
        (provider.options.id, provider.name, provider.icon, provider.options.client_id)
        for provider in services().identity_providers.values()
    ]
    if services().options.dev:
        known.append((DEVELOPMENT_PROVIDER, DEVELOPMENT_NAME, DEVELOPMENT_PROVIDER, DEVELOPMENT_PROVIDER))
    shown = [
        schemas.Provider(
            id=key,
            name=name,
            icon=icon,
            auth_url=f"{base}/oauth2/authorize?idp={key}",
            token_url=f"{base}/oauth2/token?idp={key}",
            redirect_uri=f"{base}{CALLBACK_PATH}",
            client_id=client_id,
        )
        for key, name, icon, client_id in known
    ]
    return bodies.answer(schemas.Providers(providers=shown))


@routes.get("/oauth2/providers/<idp>/groups")
@tag(["Sign-in"])
@operation_id("getProviderGroups")
@operation(answers={200: schemas.ProviderGroups}, errors=(400, 401, 403, 404, 503))
async def list_groups(idp: str) -> Response:
    """List the groups of a provider, for who writes an authorization list

    The groups of this service belong to `tmi`, which is there whether or not anybody signs in by it.
    """
    if not _PROVIDER.fullmatch(idp):
        raise BadInput("an identity provider's id has letters, digits, - and _")
    if idp != DEVELOPMENT_PROVIDER and idp not in services().identity_providers:
        raise NotFound("There is no such identity provider here.")
    wanted = GroupFilter(provider=idp, by_name=True, descending=False)
    found, _ = await services().groups.matching(wanted, Page(GROUPS_MAX, 0))
    groups = [
        schemas.ProviderGroup(
            name=group.name, display_name=group.title, used_in_authorizations=group.grants > 0
        )
        for group in found
    ]
    return bodies.answer(schemas.ProviderGroups(idp=idp, groups=groups))


def require_provider(idp: str) -> None:
    """Raises OAuthError unless there is such an identity provider here."""
    if idp not in provider_ids():
        raise OAuthError("invalid_request", "there is no such identity provider here")


def is_offered(user: User) -> bool:
    """See `Context.is_offered`."""
    return context().is_offered(user.provider)


def provider_ids() -> list[str]:
    """See `Context.provider_ids`."""
    return context().provider_ids()
