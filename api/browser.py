"""Sign-in for pages: a cookie, and no token that a script could read or leak.

The service is an OAuth client of its own here (draft-ietf-oauth-browser-based-apps, section 6.1): it begins
the flow that every client uses, and redeems the code inside the process. The browser holds an opaque secret.

What holds true:

- **Nobody is led elsewhere.** Where to go in the end is a path of this origin, checked as it comes in and
  once more before it is used.
- **Only who began a sign-in can finish it.** The state that goes around is an HMAC under a secret that this
  browser holds as a cookie, and so is the PKCE verifier, which never leaves the process. So no page can sign
  a visitor in under the name of somebody else (RFC 9700, section 4.7).
- **A sign-in makes a new secret**, and ends the session that the browser had before.
- **What changes something** needs the CSRF token and a page of ours (`api/origins.py`); who brings a bearer
  token needs neither and may not bring a cookie as well.
"""

import hmac
import re
import secrets
from base64 import urlsafe_b64decode, urlsafe_b64encode
from datetime import timedelta
from urllib.parse import urlencode

from authlib.oauth2.rfc7636 import create_s256_code_challenge
from quart import Blueprint, Response, request
from quart_schema import operation_id, tag

from api import bodies, cookies, oauth, schemas, sign_ins
from api.authorization import oauth_query
from api.context import browser_scheme as scheme
from api.context import caller, context, public, services, sign_in_by_cookie
from api.documented import operation
from api.errors import OAuthError
from api.schemas.browser import RETURN_TO
from tmi.domain.errors import BadInput, Unauthenticated
from tmi.domain.model import SignIn

routes = Blueprint("browser", __name__)

CALLBACK = "/session/callback"
ATTEMPT = "tmi_sign_in"
ATTEMPT_TTL_S = 600
_STATE = re.compile(r"([A-Za-z0-9_-]{22})\.([A-Za-z0-9_-]{43})")
_ATTEMPT = re.compile(r"([A-Za-z0-9_-]{43})\.([A-Za-z0-9_-]{1,1400})")
_NO_STORE = {"Cache-Control": "no-store", "Pragma": "no-cache"}


@routes.get("/session/sign-in")
@public
@tag(["Browser session"])
@operation_id("beginBrowserSession")
@operation(query=schemas.SessionSignInQuery, answers={302: None}, errors=(400,))
async def begin() -> Response:
    """Sign in with a cookie

    For links and redirects of pages. Leads to the sign-in, and then to `return_to`, a path of this origin.
    """
    query = oauth_query(schemas.SessionSignInQuery)
    known = _attempt()
    browser = cookies.new_secret() if known is None else known[0]
    nonce = secrets.token_urlsafe(16)
    parameters = {
        "idp": query.idp,
        "login_hint": query.login_hint,
        "client_callback": _base() + CALLBACK,
        "state": f"{nonce}.{_proof(browser, nonce)}",
        "scope": "openid profile email",
        "code_challenge": create_s256_code_challenge(_verifier(browser, nonce)),  # type: ignore[no-untyped-call]
        "code_challenge_method": "S256",
    }
    told = urlencode({name: value for name, value in parameters.items() if value is not None})
    answer = Response(b"", 302, {"Location": f"/oauth2/authorize?{told}", **_NO_STORE})
    # One secret for all sign-ins that this browser has under way; they all end where the last one wanted to.
    place = urlsafe_b64encode(query.return_to.encode()).rstrip(b"=").decode()
    _set_cookie(answer, ATTEMPT, f"{browser}.{place}", ATTEMPT_TTL_S)
    return answer


@routes.get(CALLBACK)
@public
@tag(["Browser session"])
@operation_id("finishBrowserSession")
@operation(query=schemas.SessionCallbackQuery, answers={302: None}, errors=(400, 503))
async def callback() -> Response:
    """Come back from the sign-in

    Sets the session cookie and leads to where `return_to` said.
    """
    said = oauth_query(schemas.SessionCallbackQuery)
    attempt, state = _attempt(), _STATE.fullmatch(said.state or "")
    if attempt is None or state is None or not _is_same(_proof(attempt[0], state[1]), state[2]):
        why = "this sign-in took too long, or began in another browser; begin it again"
        raise OAuthError("invalid_request", why)
    if said.error is not None or said.code is None:
        raise OAuthError(_error_of(said.error), said.error_description or "the sign-in was not completed")
    browser, return_to = attempt
    given = schemas.TokenRequest(
        grant_type="authorization_code",
        code=said.code,
        code_verifier=_verifier(browser, state[1]),
        redirect_uri=_base() + CALLBACK,
    )
    secret = await context().to_the_end(_signed_in(given))
    answer = Response(b"", 302, {"Location": _base() + return_to, **_NO_STORE})
    _set_cookie(answer, cookies.NAME, secret, int(services().options.browser_session_s))
    return answer


@routes.get("/session")
@public
@tag(["Browser session"])
@operation_id("getBrowserSession")
@operation(answers={200: schemas.BrowserSession}, errors=(401, 403, 503))
async def show() -> Response:
    """Tell a page who is signed in

    With the CSRF token. Asking counts as a use of the session.
    """
    secret = await _by_cookie()
    sign_in = caller()
    profile = await oauth.profile_of(sign_in.user)
    session = schemas.BrowserSession(
        user=profile,
        csrf_token=cookies.csrf_token(secret),
        expires_at=sign_in.expires_at,
        idle_timeout_s=services().cookies.idle.total_seconds(),
    )
    return bodies.answer(session, headers=_NO_STORE)


@routes.post("/session/sign-out")
@public
@tag(["Browser session"])
@operation_id("endBrowserSession")
@operation(answers={204: None}, errors=(401, 403, 503))
async def sign_out() -> Response:
    """Sign out

    Ends the session with its cookie and its open sockets.
    """
    await _by_cookie()
    sign_in = caller()
    await context().to_the_end(sign_ins.end(sign_in.user.id, sign_in.id, "sign_in.ended"))
    answer = bodies.no_content()
    _set_cookie(answer, cookies.NAME, "", 0)
    return answer


async def _by_cookie() -> str:
    """The secret of the session that asks. Raises Unauthenticated, Forbidden and BadInput."""
    secret = _cookie(cookies.NAME)
    if secret is None:
        raise Unauthenticated("there is no session cookie")
    await sign_in_by_cookie(secret)
    return secret


async def _signed_in(given: schemas.TokenRequest) -> str:
    """A new session for a code; the browser's former one ends."""
    before = await _session_before()
    ttl = timedelta(seconds=services().options.browser_session_s)
    _, sign_in = await oauth.redeem_code(given, None, ttl)
    secret = cookies.new_secret()
    await services().cookies.store.begin(secret, sign_in, services().cookies.idle)
    if before is not None:
        await sign_ins.end(before.user.id, before.id, "sign_in.ended", before.user)
    return secret


async def _session_before() -> SignIn | None:
    try:
        secret = _cookie(cookies.NAME)
    except BadInput:
        return None
    visitor = None if secret is None else await services().cookies.visitor(secret)
    return None if visitor is None else await context().sessions.get(visitor.sign_in)


def _base() -> str:
    """Our own origin. Raises OAuthError where it is not known for certain."""
    options = services().options
    if options.public_url is not None:
        return options.public_url
    if not options.dev:
        raise OAuthError("invalid_request", "sessions of browsers need TMI_PUBLIC_URL")
    return options.origins.own(scheme(), request.headers.get("Host", ""))


# --- cookies ------------------------------------------------------------------------------------


def _cookie(name: str) -> str | None:
    full = cookies.full_name(name, scheme(), is_dev=services().options.dev)
    return cookies.read(request.headers.getlist("Cookie"), full)


def _set_cookie(answer: Response, name: str, value: str, max_age_s: int) -> None:
    """Raises OAuthError over plain http."""
    full = cookies.full_name(name, scheme(), is_dev=services().options.dev)
    if full is None:
        raise OAuthError("invalid_request", "sessions of browsers need https")
    # Lax: a link from elsewhere finds somebody signed in; requests that other sites make do not bring it.
    answer.set_cookie(
        full, value, max_age=max_age_s, path="/", secure=scheme() == "https", httponly=True, samesite="Lax"
    )


def _attempt() -> tuple[str, str] | None:
    """The secret of the browser that signs in, and where it wants to go."""
    found = _ATTEMPT.fullmatch(_cookie(ATTEMPT) or "")
    if found is None:
        return None
    try:
        place = urlsafe_b64decode(found[2] + "=" * (-len(found[2]) % 4)).decode("ascii")
    except ValueError:
        return None
    return (found[1], place) if re.fullmatch(RETURN_TO, place) else None


def _proof(browser: str, nonce: str) -> str:
    return cookies.derived(browser, f"tmi state {nonce}")


def _verifier(browser: str, nonce: str) -> str:
    return cookies.derived(browser, f"tmi verifier {nonce}")


def _is_same(expected: str, given: str) -> bool:
    return hmac.compare_digest(expected.encode(), given.encode())


def _error_of(error: str | None) -> str:
    return error if error is not None and re.fullmatch(r"[a-z_]{1,100}", error) else "access_denied"
