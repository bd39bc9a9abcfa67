"""Discovery documents."""

from typing import Literal

from api.schemas.base import Output


class AuthorizationServer(Output):
    """Metadata of an OAuth authorization server (RFC 8414, section 2)."""

    issuer: str
    authorization_endpoint: str
    token_endpoint: str
    jwks_uri: str
    revocation_endpoint: str
    introspection_endpoint: str
    response_types_supported: list[str]
    grant_types_supported: list[str]
    code_challenge_methods_supported: list[str]
    token_endpoint_auth_methods_supported: list[str]
    scopes_supported: list[str]
    authorization_response_iss_parameter_supported: bool
    """RFC 9207, section 3."""


class OpenIdProvider(AuthorizationServer):
    """The same, as OpenID Connect Discovery 1.0 has it."""

    userinfo_endpoint: str
    subject_types_supported: list[str]
    id_token_signing_alg_values_supported: list[str]
    claims_supported: list[str]


class ProtectedResource(Output):
    """Metadata of a protected resource (RFC 9728, section 2)."""

    resource: str
    authorization_servers: list[str]
    jwks_uri: str
    scopes_supported: list[str]
    bearer_methods_supported: list[Literal["header"]]
    resource_name: str
    resource_documentation: str
    tls_client_certificate_bound_access_tokens: bool = False


class PublicKey(Output):
    """An Ed25519 key to verify tokens with (RFC 8037, section 2)."""

    kty: str
    crv: str
    x: str
    use: str
    alg: str
    kid: str


class KeySet(Output):
    """Keys to verify tokens with (RFC 7517, section 5)."""

    keys: list[PublicKey]
