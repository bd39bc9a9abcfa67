"""The first half of signing in: `/oauth2/authorize`, where people prove who they are (RFC 6749, section 4.1).

A client brings its callback and a PKCE challenge, and gets a code that is good once and for a minute;
`api/oauth.py` exchanges it for tokens. In between somebody says who the person is.

**Identity providers** (`api/identity`). The browser goes there with a state that is good once and for ten
minutes, and comes back to `/oauth2/callback`. What is kept meanwhile is in the database, so that any node can
finish it, and is found by the state together with a secret of the browser, a cookie: who is made to finish a
sign-in that somebody else began (login CSRF; RFC 9700, section 4.7) has no such cookie, or another one. The
provider's nonce and PKCE verifier are derived from both. What a provider says against it goes to the client
as an OAuth error.

**The development provider** `tmi` believes anybody to be whom they say. It exists only where the operator
asked for it. Scripts say it in `login_hint`; people get a page. A browser that another site sent is shown the
page as well, with the name filled in: it signs nobody in who did not press the button. More would protect
nothing here, since any program may ask for any name; what a client has against forged answers is its state
and its challenge.
"""

import asyncio
import re
import secrets
from collections.abc import Awaitable
from datetime import timedelta
from typing import TypeVar
from urllib.parse import urlencode, urlsplit, urlunsplit

from quart import Blueprint, Response, request
from quart_schema import operation_id, tag

from api import bodies, pages, schemas
from api.client_callbacks import checked_callback
from api.context import DEVELOPMENT_PROVIDER, context, public, services
from api.documented import operation
from api.errors import OAuthError, UnsupportedMediaType
from api.identity.provider import Attempt, Identity, IdentityProvider
from api.providers import DEVELOPMENT_NAME, provider_ids, require_provider
from tmi.domain.errors import BadInput
from tmi.domain.model import AuthorizationCode, User
from tmi.domain.ports import AccountFilter, Page
from tmi.domain.sign_in import PendingAuthorization

routes = Blueprint("authorization", __name__)

CODE_TTL = timedelta(seconds=60)
PENDING_TTL = timedelta(minutes=10)
NO_STORE = {"Cache-Control": "no-store", "Pragma": "no-cache"}
"""RFC 6749, section 5.1."""
COOKIE = "tmi-sign-in"
PROVIDER_S = 20.0
"""For all that a provider is asked for one step of a sign-in."""
KNOWN_NAMES = 6
"""Who signed in last, on the page of the development provider."""

Told = TypeVar("Told")

_S256_CHALLENGE = re.compile(r"[A-Za-z0-9_-]{43}")
_UNDESCRIBABLE = re.compile(r"[^\x20-\x21\x23-\x5B\x5D-\x7E]")
_BROWSER_SECRET = re.compile(r"[A-Za-z0-9_-]{43}")


@routes.get("/oauth2/authorize")
@public
@tag(["Sign-in"])
@operation_id("authorizeOAuthProvider")
@operation(query=schemas.AuthorizeQuery, answers={302: None}, errors=(400, 503))
async def authorize() -> Response:
    """Begin to sign in

    Redirects to the identity provider `idp`, and in the end to `client_callback` (or `redirect_uri`) with
    `code` and `state`, or with `error`. The development provider `tmi` signs in whom `login_hint` names:
    `alice` becomes `alice@tmi.local`. Browsers get a page where a choice is left.
    """
    try:
        return await _authorized()
    except OAuthError as error:
        if not pages.is_wanted():
            raise
        return pages.problem(error.code, error.detail)


@routes.get("/oauth2/callback")
@public
@tag(["Sign-in"])
@operation_id("handleOAuthCallback")
@operation(query=schemas.CallbackQuery, answers={302: None}, errors=(400, 503))
async def callback() -> Response:
    """Come back from an identity provider

    Redirects to the `client_callback` of the authorization request, with `code` and `state` or with `error`.
    """
    try:
        return await _finished()
    except OAuthError as error:
        context().refusals.refused("sign_in.refused", error.detail)
        if not pages.is_wanted():
            raise
        return pages.problem(error.code, error.detail)


async def _authorized() -> Response:
    query = oauth_query(schemas.AuthorizeQuery)
    idp = query.idp or _default_provider(query)
    if idp is not None:
        require_provider(idp)
    pending = PendingAuthorization(
        provider=idp or "",
        redirect_uri=checked_callback(_callback_of(query), services().options),
        client_state=query.state,
        code_challenge=_checked_challenge(query),
        scope=query.scope or "openid",
    )
    if (refusal := _cannot_be_done(query)) is not None:
        return _refused(pending, refusal)
    if idp is None:
        return pages.choose_provider(_choices(), _parameters(query))
    if idp == DEVELOPMENT_PROVIDER:
        return await _developer(query, pending)
    return await _sent_to(services().identity_providers[idp], pending)


def _callback_of(query: schemas.AuthorizeQuery) -> str | None:
    """Raises OAuthError."""
    given = {query.client_callback, query.redirect_uri} - {None}
    if len(given) > 1:
        raise OAuthError("invalid_request", "client_callback and redirect_uri differ; one is enough")
    return given.pop() if given else None


def _cannot_be_done(query: schemas.AuthorizeQuery) -> OAuthError | None:
    """What a client asks for that there is not here, which it is told at its address (RFC 6749, 4.1.2.1)."""
    if query.response_type not in (None, "code"):
        return OAuthError("unsupported_response_type", "there is response_type=code only")
    if query.prompt is not None and "none" in query.prompt.split(" "):
        # OpenID Connect Core, section 3.1.2.6. Nobody is remembered here from one sign-in to the next.
        return OAuthError("login_required", "nobody can sign in here without being asked")
    return None


def _default_provider(query: schemas.AuthorizeQuery) -> str | None:
    """Where somebody signs in who did not say; None: they have to choose. Raises OAuthError."""
    known = provider_ids()
    if not known:
        raise OAuthError("invalid_request", "there is no identity provider here")
    if len(known) == 1:
        return known[0]
    if DEVELOPMENT_PROVIDER in known and (query.login_hint is not None or not pages.is_wanted()):
        return DEVELOPMENT_PROVIDER
    if not pages.is_wanted():
        raise OAuthError("invalid_request", "say in idp which identity provider: see /oauth2/providers")
    return None


def _choices() -> list[pages.Choice]:
    known = [pages.Choice(key, provider.name) for key, provider in services().identity_providers.items()]
    return [*known, pages.Choice(DEVELOPMENT_PROVIDER, DEVELOPMENT_NAME)] if services().options.dev else known


# --- the development provider -------------------------------------------------------------------


async def _developer(query: schemas.AuthorizeQuery, pending: PendingAuthorization) -> Response:
    # Fetch Metadata: browsers say whether a page of another site sent them. Programs say nothing.
    was_sent = request.headers.get("Sec-Fetch-Site") == "cross-site"
    if query.login_hint is not None and not was_sent:
        name = query.login_hint.lower()
        email = f"{name}@{DEVELOPMENT_PROVIDER}.local"
        if len(email) > schemas.MAX_EMAIL:
            raise OAuthError("invalid_request", "login_hint makes a longer address than there may be")
        user = await services().users.sign_in(DEVELOPMENT_PROVIDER, email, email, name, email_verified=True)
        return await _welcomed(user, pending)
    if not pages.is_wanted():
        raise OAuthError("invalid_request", "add login_hint, as in login_hint=alice")
    wanted = AccountFilter(provider=DEVELOPMENT_PROVIDER, sort_by="last_login")
    known, _ = await services().accounts.matching(wanted, Page(KNOWN_NAMES, 0))
    names = [account.user.email.partition("@")[0] for account in known]
    parameters = {**_parameters(query), "idp": DEVELOPMENT_PROVIDER}
    return pages.choose_name(names, parameters, query.login_hint, _may_lead_to(pending.redirect_uri))


def _parameters(query: schemas.AuthorizeQuery) -> dict[str, str]:
    """The authorization request, for a page that sends it again without what the person has to say."""
    return query.model_dump(exclude_none=True, exclude={"idp", "login_hint"})


def _may_lead_to(redirect_uri: str) -> str:
    """The policy `form-action`: browsers apply it to redirects, too, and clients here redirect once more."""
    local = "http://localhost:* http://127.0.0.1:*"
    parts = urlsplit(redirect_uri)
    # A policy can't name an IPv6 address (Content Security Policy 3, section 2.3.1).
    place = f"{parts.scheme}:" if "[" in parts.netloc else f"{parts.scheme}://{parts.netloc}"
    return f"'self' {local} {place}"


# --- other providers ----------------------------------------------------------------------------


async def _sent_to(provider: IdentityProvider, pending: PendingAuthorization) -> Response:
    known = request.cookies.get(_cookie_name(), "")
    browser = known if _BROWSER_SECRET.fullmatch(known) else secrets.token_urlsafe(32)
    attempt = Attempt(secrets.token_urlsafe(32), browser)
    try:
        address = await _in_time(provider, provider.address(attempt))
    except OAuthError as error:
        return _refused(pending, error)
    await services().pending_authorizations.begin(attempt.state, browser, pending, PENDING_TTL)
    answer = Response(b"", 302, {"Location": address, **NO_STORE})
    # Lax, since the provider's redirect has to bring it. It stays for other sign-ins of this browser that are
    # under way; a state is good once.
    answer.set_cookie(
        _cookie_name(),
        browser,
        max_age=int(PENDING_TTL.total_seconds()),
        path="/",
        secure=_is_secure(),
        httponly=True,
        samesite="Lax",
    )
    return answer


async def _finished() -> Response:
    said = oauth_query(schemas.CallbackQuery)
    browser = request.cookies.get(_cookie_name(), "")
    pending = None
    if said.state is not None and _BROWSER_SECRET.fullmatch(browser):
        pending = await services().pending_authorizations.finish(said.state, browser)
    if pending is None or said.state is None:
        raise OAuthError(
            "invalid_request",
            "this sign-in took too long, is finished already, or began in another browser; begin it again",
        )
    told = {"iss", "code" if said.error is None else "error"}
    answer = said.model_dump(exclude_none=True, include=told)
    try:
        provider = services().identity_providers.get(pending.provider)
        if provider is None:
            raise OAuthError("server_error", "there is no such identity provider here any more")
        identity = await _in_time(provider, provider.identity(answer, Attempt(said.state, browser)))
    except OAuthError as error:
        context().refusals.refused("sign_in.refused", f"{pending.provider}: {error.detail}")
        return _refused(pending, error)
    return await context().to_the_end(_met(identity, pending))


async def _met(identity: Identity, pending: PendingAuthorization) -> Response:
    """Take somebody in whom a provider vouches for."""
    user = await services().users.sign_in(
        pending.provider,
        identity.provider_id,
        identity.email,
        identity.name,
        email_verified=identity.email_verified,
    )
    return await _welcomed(user, pending)


async def _in_time(provider: IdentityProvider, work: Awaitable[Told]) -> Told:
    """What a provider says, if all of it comes in time. Raises OAuthError."""
    try:
        async with asyncio.timeout(PROVIDER_S):
            return await work
    except TimeoutError:
        raise OAuthError("temporarily_unavailable", f"{provider.name} takes too long") from None


def _cookie_name() -> str:
    """A name for a cookie that no other host can have set, where it is secure (RFC 6265bis, 4.1.3)."""
    return f"__Host-{COOKIE}" if _is_secure() else COOKIE


def _is_secure() -> bool:
    return (services().options.public_url or "").startswith("https:")


# --- answers to the client ----------------------------------------------------------------------


async def _welcomed(user: User, pending: PendingAuthorization) -> Response:
    """Send somebody who is known now back to the client, with a code."""
    code = secrets.token_urlsafe(32)
    grant = AuthorizationCode(user, pending.redirect_uri, pending.code_challenge, pending.scope)
    await services().codes.issue(code, grant, CODE_TTL)
    return _redirected(pending, {"code": code})


def _refused(pending: PendingAuthorization, error: OAuthError) -> Response:
    """RFC 6749, section 4.1.2.1, which says what a description may hold."""
    described = _UNDESCRIBABLE.sub("?", error.detail)
    return _redirected(pending, {"error": error.code, "error_description": described})


def _redirected(pending: PendingAuthorization, parameters: dict[str, str]) -> Response:
    # RFC 9207: who speaks.
    told = {**parameters, "state": pending.client_state, "iss": services().options.public_url}
    parts = urlsplit(pending.redirect_uri)
    added = urlencode({name: value for name, value in told.items() if value is not None})
    query = f"{parts.query}&{added}" if parts.query else added
    return Response(b"", 302, {"Location": urlunsplit(parts._replace(query=query)), **NO_STORE})


def _checked_challenge(query: schemas.AuthorizeQuery) -> str:
    """Raises OAuthError without a PKCE challenge by S256, the only method that is safe."""
    challenge = query.code_challenge
    if query.code_challenge_method != "S256" or challenge is None or not _S256_CHALLENGE.fullmatch(challenge):
        raise OAuthError("invalid_request", "code_challenge by code_challenge_method=S256 is needed")
    return challenge


def oauth_query(schema: type[bodies.Model]) -> bodies.Model:
    """The query as `schema` says. Raises OAuthError."""
    try:
        return bodies.read_query(schema)
    except BadInput as error:
        raise as_invalid_request(error) from None


def as_invalid_request(error: BadInput) -> BadInput:
    """RFC 6749's word for a request that is malformed; what has a status of its own stays as it is."""
    return error if isinstance(error, UnsupportedMediaType) else OAuthError("invalid_request", error.detail)
