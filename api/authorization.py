"""The first half of signing in: `/oauth2/authorize`, where people prove who they are (RFC 6749, section 4.1).

Today's one identity provider is `tmi`, for development: it believes anybody to be whom `login_hint` says,
which is why it exists only where the operator asked for it, and answers only to callbacks on the loopback
interface. What a client gets is a code that is good once and for a minute, bound to its PKCE challenge
(RFC 7636); `api/oauth.py` exchanges it for tokens.
"""

import re
import secrets
from datetime import timedelta
from urllib.parse import urlencode, urlsplit, urlunsplit

from quart import Blueprint, Response
from quart_schema import operation_id, tag

from api import bodies, schemas
from api.context import public, services
from api.documented import operation
from api.errors import OAuthError, UnsupportedMediaType
from tmi.domain.errors import BadInput
from tmi.domain.model import AuthorizationCode, User

routes = Blueprint("authorization", __name__)

DEVELOPMENT_PROVIDER = "tmi"
CODE_TTL = timedelta(seconds=60)
NO_STORE = {"Cache-Control": "no-store", "Pragma": "no-cache"}
"""RFC 6749, section 5.1."""

_LOOPBACK_CALLBACK = re.compile(
    r"https?://(?:127\.0\.0\.1|localhost|\[::1\])(?::[0-9]{1,5})?"
    r"(?:/[A-Za-z0-9\-._~!$&'()*+,;=:@%/]*)?(?:\?[A-Za-z0-9\-._~!$&'()*+,;=:@%/?]*)?"
)
_S256_CHALLENGE = re.compile(r"[A-Za-z0-9_-]{43}")


@routes.get("/oauth2/authorize")
@public
@tag(["Sign-in"])
@operation_id("authorizeOAuthProvider")
@operation(query=schemas.AuthorizeQuery, answers={302: None}, errors=(400, 503))
async def authorize() -> Response:
    """Begin to sign in

    Redirects to `client_callback` with `code` and `state`. The development provider `tmi` signs in whom
    `login_hint` names: `alice` becomes `alice@tmi.local`.
    """
    query = oauth_query(schemas.AuthorizeQuery)
    require_provider(query.idp)
    callback = _checked_callback(query.client_callback)
    challenge = _checked_challenge(query)
    user = await _development_user(query.login_hint)
    code = secrets.token_urlsafe(32)
    grant = AuthorizationCode(user, callback, challenge, query.scope or "openid")
    await services().sign_ins.issue_code(code, grant, CODE_TTL)
    location = _with_parameters(callback, {"code": code, "state": query.state})
    return Response(b"", 302, {"Location": location, **NO_STORE})


def require_provider(idp: str) -> None:
    """Raises OAuthError unless there is such an identity provider here."""
    if idp != DEVELOPMENT_PROVIDER or not services().options.dev:
        raise OAuthError("invalid_request", "there is no such identity provider here")


def _checked_callback(callback: str | None) -> str:
    """Raises OAuthError unless the callback is on the loopback interface (RFC 8252, section 7.3)."""
    if callback is None or not _LOOPBACK_CALLBACK.fullmatch(callback):
        raise OAuthError(
            "invalid_request",
            "client_callback is to be an address at 127.0.0.1, localhost or [::1], without fragment",
        )
    return callback


def _checked_challenge(query: schemas.AuthorizeQuery) -> str:
    """Raises OAuthError without a PKCE challenge by S256, the only method that is safe."""
    challenge = query.code_challenge
    if query.code_challenge_method != "S256" or challenge is None or not _S256_CHALLENGE.fullmatch(challenge):
        raise OAuthError("invalid_request", "code_challenge by code_challenge_method=S256 is needed")
    return challenge


async def _development_user(login_hint: str | None) -> User:
    if login_hint is None:
        raise OAuthError("invalid_request", "add login_hint, as in login_hint=alice")
    name = login_hint.lower()
    email = f"{name}@{DEVELOPMENT_PROVIDER}.local"
    return await services().users.sign_in(DEVELOPMENT_PROVIDER, email, email, name, email_verified=True)


def _with_parameters(callback: str, parameters: dict[str, str | None]) -> str:
    parts = urlsplit(callback)
    added = urlencode({name: value for name, value in parameters.items() if value is not None})
    return urlunsplit(parts._replace(query=f"{parts.query}&{added}" if parts.query else added))


def oauth_query(schema: type[bodies.Model]) -> bodies.Model:
    """The query as `schema` says. Raises OAuthError."""
    try:
        return bodies.read_query(schema)
    except BadInput as error:
        raise as_invalid_request(error) from None


def as_invalid_request(error: BadInput) -> BadInput:
    """RFC 6749's word for a request that is malformed; what has a status of its own stays as it is."""
    return error if isinstance(error, UnsupportedMediaType) else OAuthError("invalid_request", error.detail)
