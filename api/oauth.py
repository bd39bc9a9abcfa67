"""Sign-in by OAuth 2 (RFC 6749, with PKCE by RFC 7636), and who the caller is.

Today's one identity provider is `tmi`, for development: it believes anybody to be whom `login_hint` says,
which is why it exists only where the operator asked for it, and answers only to callbacks on the loopback
interface. The flow is the one of production: a code that is good once and for a minute, bound to the client's
PKCE challenge, then a short access token and a refresh token that changes with every use. No token ever
travels in a URL.
"""

import hmac
import re
import secrets
from datetime import timedelta
from urllib.parse import urlencode, urlsplit, urlunsplit

from authlib.oauth2.rfc7636 import create_s256_code_challenge
from quart import Blueprint, Response
from quart_schema import operation_id, tag

from api import audit, bodies, schemas, sign_ins
from api.context import caller, context, is_administrator, public, services
from api.documented import operation
from api.errors import OAuthError, UnsupportedMediaType
from tmi.domain.errors import BadInput, Unauthenticated
from tmi.domain.ids import SignInId
from tmi.domain.model import AuthorizationCode, SignIn, User
from tmi.domain.sign_ins import Begun, Refused

routes = Blueprint("oauth", __name__)

DEVELOPMENT_PROVIDER = "tmi"
CODE_TTL = timedelta(seconds=60)
_NO_STORE = {"Cache-Control": "no-store", "Pragma": "no-cache"}
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
    _require_provider(query.idp)
    callback = _checked_callback(query.client_callback)
    challenge = _checked_challenge(query)
    user = await _development_user(query.login_hint)
    code = secrets.token_urlsafe(32)
    grant = AuthorizationCode(user, callback, challenge, query.scope or "openid")
    await services().codes.issue(code, grant, CODE_TTL)
    location = _with_parameters(callback, {"code": code, "state": query.state})
    return Response(b"", 302, {"Location": location, **_NO_STORE})


@routes.post("/oauth2/token")
@public
@tag(["Sign-in"])
@operation_id("exchangeOAuthCode")
@operation(
    query=schemas.TokenQuery,
    body=schemas.TokenRequest,
    media_types=(bodies.JSON, bodies.FORM),
    answers={200: schemas.TokenAnswer},
    errors=(400, 413, 415, 503),
)
async def exchange() -> Response:
    """Exchange a code or a refresh token for tokens

    A refresh token works once: the answer holds its successor. One that is used again ends its session.
    """
    if (idp := oauth_query(schemas.TokenQuery).idp) is not None:
        _require_provider(idp)
    try:
        given = await bodies.read_json_or_form(schemas.TokenRequest)
    except BadInput as error:
        raise _as_invalid_request(error) from None
    refresh_token = secrets.token_urlsafe(32)
    match given.grant_type:
        case "authorization_code":
            user, sign_in = await context().to_the_end(redeem_code(given, refresh_token, _refresh_ttl()))
        case "refresh_token":
            user, sign_in = await context().to_the_end(_rotate(given, refresh_token))
        case None:
            raise OAuthError("invalid_request", "grant_type is missing")
        case _:
            raise OAuthError("unsupported_grant_type", "use authorization_code or refresh_token")
    return _token_answer(user, sign_in, refresh_token)


@routes.post("/oauth2/refresh")
@public
@tag(["Sign-in"])
@operation_id("refreshToken")
@operation(
    body=schemas.RefreshRequest,
    answers={200: schemas.TokenAnswer},
    errors=(400, 401, 413, 415, 503),
)
async def refresh() -> Response:
    """Exchange a refresh token for tokens

    As `/oauth2/token` does by `refresh_token`, but a refresh token that is no longer good is a 401 here.
    """
    given = await bodies.read_model(schemas.RefreshRequest)
    successor = secrets.token_urlsafe(32)
    sign_in = await context().to_the_end(_exchanged(given.refresh_token, successor))
    if sign_in is None:
        raise Unauthenticated("the refresh token is unknown, used or too old")
    return _token_answer(sign_in.user, sign_in.id, successor)


@routes.get("/oauth2/userinfo")
@tag(["Sign-in"])
@operation_id("getCurrentUser")
@operation(answers={200: schemas.UserInfo}, errors=(401, 503))
async def userinfo() -> Response:
    """The caller's claims by OpenID Connect"""
    user = caller().user
    claims = schemas.UserInfo(sub=str(user.id), email=user.email, name=user.name, idp=user.provider)
    return bodies.answer(claims)


@routes.get("/me")
@tag(["Sign-in"])
@operation_id("getCurrentUserProfile")
@operation(answers={200: schemas.Profile}, errors=(401, 503))
async def me() -> Response:
    """The caller's profile"""
    return bodies.answer(await profile_of(caller().user))


async def profile_of(user: User) -> schemas.Profile:
    """A user as they see themselves."""
    groups = schemas.memberships(await services().memberships.of_user(user.id))
    return schemas.Profile.of(user).model_copy(
        update={"is_admin": await is_administrator(user), "groups": groups}
    )


async def redeem_code(
    given: schemas.TokenRequest, refresh_token: str | None, ttl: timedelta
) -> tuple[User, SignInId]:
    """A new session for a code. The code is used up even when the verifier is wrong."""
    if given.code is None or given.code_verifier is None:
        raise OAuthError("invalid_request", "code and code_verifier are needed")
    grant = await services().codes.redeem(given.code)
    if isinstance(grant, Refused):
        await sign_ins.refused("code", grant)
        raise OAuthError("invalid_grant", "the code is unknown, used or too old")
    _require_provider(grant.user.provider)
    if given.redirect_uri is not None and given.redirect_uri != grant.redirect_uri:
        raise OAuthError("invalid_grant", "redirect_uri is not the callback of the authorization")
    expected: str = create_s256_code_challenge(given.code_verifier)  # type: ignore[no-untyped-call]
    if not hmac.compare_digest(expected, grant.code_challenge):
        raise OAuthError("invalid_grant", "code_verifier does not fit the challenge")
    begun = Begun(client=sign_ins.client_name(), code=given.code)
    try:
        sign_in = await services().sign_ins.start(grant.user.id, refresh_token, ttl, begun)
    except Unauthenticated:
        raise OAuthError("invalid_grant", "the code is unknown, used or too old") from None
    await audit.note(services().audit, audit.entry("sign_in.started", actor=grant.user, new=str(sign_in.id)))
    # What the provider says of this user may have changed, and their roles by that.
    await services().rooms.people_changed([grant.user.id])
    return grant.user, sign_in.id


async def _rotate(given: schemas.TokenRequest, successor: str) -> tuple[User, SignInId]:
    if given.refresh_token is None:
        raise OAuthError("invalid_request", "refresh_token is missing")
    sign_in = await _exchanged(given.refresh_token, successor)
    if sign_in is None:
        raise OAuthError("invalid_grant", "the refresh token is unknown, used or too old")
    return sign_in.user, sign_in.id


async def _exchanged(refresh_token: str, successor: str) -> SignIn | None:
    """The session of a refresh token, whose successor is good now; None if it was none."""
    longest = timedelta(seconds=services().options.sign_in_max_s)
    sign_in = await services().refresh_tokens.rotate(refresh_token, successor, _refresh_ttl(), longest)
    if isinstance(sign_in, Refused):
        await sign_ins.refused("refresh_token", sign_in)
        return None
    made = audit.entry("token.refreshed", actor=sign_in.user, new=str(sign_in.id))
    await audit.note(services().audit, made)
    return sign_in


def _token_answer(user: User, sign_in: SignInId, refresh_token: str) -> Response:
    tokens = services().tokens
    answer = schemas.TokenAnswer(
        access_token=tokens.access_token(user, sign_in),
        refresh_token=refresh_token,
        expires_in=int(tokens.access_ttl.total_seconds()),
    )
    return bodies.answer(answer, headers=_NO_STORE)


def _refresh_ttl() -> timedelta:
    return timedelta(seconds=services().options.refresh_token_ttl_s)


def _require_provider(idp: str) -> None:
    """Raises OAuthError unless there is such an identity provider here."""
    if idp != DEVELOPMENT_PROVIDER or not services().options.dev:
        raise OAuthError("invalid_request", "there is no such identity provider here")


def _checked_callback(callback: str | None) -> str:
    """Raises OAuthError unless the callback is on the loopback interface (RFC 8252, section 7.3)."""
    if callback is not None and callback == f"{services().options.public_url}/session/callback":
        return callback
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
    return await services().users.sign_in(DEVELOPMENT_PROVIDER, email, email, name)


def _with_parameters(callback: str, parameters: dict[str, str | None]) -> str:
    parts = urlsplit(callback)
    added = urlencode({name: value for name, value in parameters.items() if value is not None})
    return urlunsplit(parts._replace(query=f"{parts.query}&{added}" if parts.query else added))


def oauth_query(schema: type[bodies.Model]) -> bodies.Model:
    try:
        return bodies.read_query(schema)
    except BadInput as error:
        raise _as_invalid_request(error) from None


def _as_invalid_request(error: BadInput) -> BadInput:
    """RFC 6749's word for a request that is malformed; what has a status of its own stays as it is."""
    return error if isinstance(error, UnsupportedMediaType) else OAuthError("invalid_request", error.detail)
