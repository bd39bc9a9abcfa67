"""The second half of signing in by OAuth 2 (RFC 6749, with PKCE by RFC 7636), and who the caller is.

A code of `api/authorization.py` becomes a short access token and a refresh token that changes with every use.
No token ever travels in a URL.
"""

import hmac
import secrets
from datetime import timedelta

from authlib.oauth2.rfc7636 import create_s256_code_challenge
from quart import Blueprint, Response
from quart_schema import operation_id, tag

from api import audit, bodies, client_credentials, schemas, sign_ins
from api.authorization import NO_STORE, as_invalid_request, oauth_query
from api.context import caller, context, is_administrator, public, services
from api.documented import operation
from api.errors import OAuthError
from api.providers import is_offered, require_provider
from tmi.domain.errors import BadInput, Unauthenticated
from tmi.domain.ids import SignInId
from tmi.domain.model import SignIn, User
from tmi.domain.sign_ins import Begun, Refused

routes = Blueprint("oauth", __name__)


@routes.post("/oauth2/token")
@public
@tag(["Sign-in"])
@operation_id("exchangeOAuthCode")
@operation(
    query=schemas.TokenQuery,
    body=schemas.TokenRequest,
    media_types=(bodies.JSON, bodies.FORM),
    answers={200: schemas.TokenAnswer},
    errors=(400, 401, 413, 415, 503),
)
async def exchange() -> Response:
    """Exchange a code, a refresh token or a client credential for tokens

    A refresh token works once: the answer holds its successor. One that is used again ends its session. For a
    client credential there is no refresh token.
    """
    if (idp := oauth_query(schemas.TokenQuery).idp) is not None:
        require_provider(idp)
    try:
        given = await bodies.read_json_or_form(schemas.TokenRequest)
    except BadInput as error:
        raise as_invalid_request(error) from None
    refresh_token = secrets.token_urlsafe(32)
    match given.grant_type:
        case "authorization_code":
            user, sign_in = await context().to_the_end(redeem_code(given, refresh_token, _refresh_ttl()))
        case "refresh_token":
            user, sign_in = await context().to_the_end(_rotate(given, refresh_token))
        case "client_credentials":
            issued = client_credentials.granted(given.client_id, given.client_secret)
            access_token, lives_s = await context().to_the_end(issued)
            answer = schemas.TokenAnswer(access_token=access_token, expires_in=lives_s)
            return bodies.answer(answer, headers=NO_STORE)
        case None:
            raise OAuthError("invalid_request", "grant_type is missing")
        case _:
            known = "authorization_code, refresh_token or client_credentials"
            raise OAuthError("unsupported_grant_type", f"use {known}")
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
    groups = [name for _, name, _ in await services().memberships.of_user(user.id)]
    claims = schemas.UserInfo(
        sub=str(user.id), email=user.email, name=user.name, idp=user.provider, groups=groups
    )
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
    require_provider(grant.user.provider)
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
    if not is_offered(sign_in.user):
        context().refusals.refused("sign_in.refused", f"{sign_in.user.provider} is no provider here any more")
        await sign_ins.end(sign_in.user.id, sign_in.id, "sign_in.ended", sign_in.user)
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
    return bodies.answer(answer, headers=NO_STORE)


def _refresh_ttl() -> timedelta:
    return timedelta(seconds=services().options.refresh_token_ttl_s)
