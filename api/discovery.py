"""What clients and resource servers read first: where sign-in is, what it offers, and the keys of tokens.

Without TMI_PUBLIC_URL the addresses are those by which the request came, and tokens name `tmi` as their
issuer: whoever verifies tokens elsewhere needs that setting. No ID tokens are issued.
"""

from quart import Blueprint, Response, request
from quart_schema import operation_id, tag

from api import bodies, schemas
from api.context import HOST, public, scheme, services
from api.documented import operation
from api.tokens import ALGORITHM
from tmi.domain.errors import BadInput

routes = Blueprint("discovery", __name__)

SCOPES = ["openid", "profile", "email"]
_CACHED = {"Cache-Control": "public, max-age=30"}
"""Shorter than a new key is shown before it signs."""


@routes.get("/.well-known/oauth-authorization-server")
@public
@tag(["Sign-in"])
@operation_id("getOAuthAuthorizationServerMetadata")
@operation(answers={200: schemas.AuthorizationServer}, errors=(400,))
async def authorization_server() -> Response:
    """Where and how to sign in (RFC 8414)"""
    return bodies.answer(schemas.AuthorizationServer.model_validate(_server(base_url())), headers=_CACHED)


@routes.get("/.well-known/openid-configuration")
@public
@tag(["Sign-in"])
@operation_id("getOpenIDConfiguration")
@operation(answers={200: schemas.OpenIdProvider}, errors=(400,))
async def openid_configuration() -> Response:
    """Where and how to sign in (OpenID Connect Discovery)"""
    base = base_url()
    more = {
        "userinfo_endpoint": f"{base}/oauth2/userinfo",
        "subject_types_supported": ["public"],
        "id_token_signing_alg_values_supported": [ALGORITHM],
        "claims_supported": ["sub", "email", "name", "idp", "groups"],
    }
    return bodies.answer(schemas.OpenIdProvider.model_validate(_server(base) | more), headers=_CACHED)


@routes.get("/.well-known/oauth-protected-resource")
@public
@tag(["Sign-in"])
@operation_id("getOAuthProtectedResourceMetadata")
@operation(answers={200: schemas.ProtectedResource}, errors=(400,))
async def protected_resource() -> Response:
    """Whose tokens this API takes, and how (RFC 9728)"""
    base = base_url()
    answer = schemas.ProtectedResource(
        resource=base,
        authorization_servers=[base],
        jwks_uri=f"{base}/.well-known/jwks.json",
        scopes_supported=SCOPES,
        bearer_methods_supported=["header"],
        resource_name="TMI",
        resource_documentation=f"{base}/docs",
    )
    return bodies.answer(answer, headers=_CACHED)


@routes.get("/.well-known/jwks.json")
@public
@tag(["Sign-in"])
@operation_id("getJWKS")
@operation(answers={200: schemas.KeySet}, errors=(400,))
async def jwks() -> Response:
    """The keys that verify access tokens (RFC 7517)"""
    keys = [schemas.PublicKey.model_validate(key) for key in services().tokens.jwks()]
    return bodies.answer(schemas.KeySet(keys=keys), headers=_CACHED)


def base_url() -> str:
    """Where clients reach this service. Raises BadInput for a Host that is none."""
    base = services().options.public_url
    if base is not None:
        return base.rstrip("/")
    hosts = request.headers.getlist("Host")
    if len(hosts) != 1 or not HOST.fullmatch(hosts[0]):
        raise BadInput("the Host header is not valid")
    return f"{scheme()}://{hosts[0]}"


def _server(base: str) -> dict[str, object]:
    return {
        "issuer": base,
        "authorization_endpoint": f"{base}/oauth2/authorize",
        "token_endpoint": f"{base}/oauth2/token",
        "jwks_uri": f"{base}/.well-known/jwks.json",
        "revocation_endpoint": f"{base}/oauth2/revoke",
        "introspection_endpoint": f"{base}/oauth2/introspect",
        "response_types_supported": ["code"],
        "grant_types_supported": ["authorization_code", "refresh_token", "client_credentials"],
        "code_challenge_methods_supported": ["S256"],
        "token_endpoint_auth_methods_supported": ["none", "client_secret_basic", "client_secret_post"],
        "scopes_supported": SCOPES,
        "authorization_response_iss_parameter_supported": services().options.public_url is not None,
    }
