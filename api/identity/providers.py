"""Identity providers, made from what operators say of them."""

from collections.abc import Iterable, Mapping

from api.identity.github import GitHub
from api.identity.google import Google
from api.identity.microsoft import Microsoft
from api.identity.openid import OpenIdProvider
from api.identity.provider import IdentityProvider, ProviderOptions
from api.identity.web import Web

KINDS = {"google": Google, "github": GitHub, "microsoft": Microsoft, "oidc": OpenIdProvider}
CALLBACK_PATH = "/oauth2/callback"


def identity_providers(
    told: Iterable[ProviderOptions], public_url: str, web: Web
) -> Mapping[str, IdentityProvider]:
    """The providers by their ids. Connects to nothing."""
    redirect_uri = f"{public_url}{CALLBACK_PATH}"
    return {options.id: KINDS[options.kind](options, redirect_uri, web) for options in told}
