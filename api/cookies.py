"""The session cookie: its name, how it is read, whose it is, and the CSRF token that goes with it.

The cookie holds a secret of 256 bits and nothing else. Over https its name begins with `__Host-`, so that no
other host and no path can have set it (RFC 6265bis, section 4.1.3); over plain http there is none, except in
development. The CSRF token is an HMAC under that secret: it needs no store, ends with the session, and does
not tell the secret.
"""

import hmac
import re
import secrets
from base64 import urlsafe_b64encode
from collections.abc import Sequence
from datetime import timedelta
from hashlib import sha256

from cachetools import TTLCache
from werkzeug.datastructures import MultiDict
from werkzeug.http import parse_cookie

from tmi.domain.browser import Visitor
from tmi.domain.errors import BadInput, Forbidden
from tmi.domain.ports import BrowserSessions

NAME = "tmi_session"
_PREFIX = "__Host-"
SECRET = re.compile(r"[A-Za-z0-9_-]{43}")
_SEEN_MAX_S = 60.0
_SEEN_SHARE = 4
_SEEN_MAX = 10_000
_COOKIES_MAX = 16 * 1024


def new_secret() -> str:
    """256 bits in 43 letters."""
    return secrets.token_urlsafe(32)


def full_name(name: str, scheme: str, *, is_dev: bool) -> str | None:
    """What a cookie is called; None where there is none: over plain http, unless for development."""
    if scheme == "https":
        return _PREFIX + name
    return name if is_dev else None


def read(lines: Sequence[str], name: str | None) -> str | None:
    """A cookie out of the lines of `Cookie` headers. Raises BadInput where it is given twice."""
    if name is None or not lines:
        return None
    text = "; ".join(lines)
    if len(text) > _COOKIES_MAX:
        raise BadInput("there are too many cookies")
    found = parse_cookie(text, MultiDict).getlist(name)
    if len(found) > 1:
        raise BadInput("the session cookie is given twice")
    return found[0] if found else None


def derived(secret: str, purpose: str) -> str:
    """An HMAC-SHA256 under a cookie's secret, in base64url."""
    made = hmac.new(secret.encode(), purpose.encode(), sha256).digest()
    return urlsafe_b64encode(made).rstrip(b"=").decode()


def csrf_token(secret: str) -> str:
    """What a page of ours has to send with a request that changes something."""
    return derived(secret, "tmi csrf token")


def check_csrf(given: Sequence[str], secret: str) -> None:
    """Raises Forbidden unless the lines of `X-CSRF-Token` are the one token of this session."""
    expected = csrf_token(secret).encode()
    if len(given) != 1 or not hmac.compare_digest(expected, given[0].encode(errors="replace")):
        raise Forbidden("with the session cookie, send X-CSRF-Token as GET /session tells it")


class SessionCookies:
    """Whose browser a secret belongs to; remembered for a minute at most, so that a request costs no query.

    The sign-in behind it may have ended meanwhile: callers ask for that.
    """

    def __init__(self, store: BrowserSessions, idle: timedelta) -> None:
        """`idle`: after so long without a request a cookie is worth nothing any more."""
        self.store = store
        self.idle = idle
        remember_s = min(_SEEN_MAX_S, idle.total_seconds() / _SEEN_SHARE)
        self._seen: TTLCache[bytes, Visitor] = TTLCache(_SEEN_MAX, remember_s)

    async def visitor(self, secret: str) -> Visitor | None:
        """Raises DatabaseUnavailable."""
        if not SECRET.fullmatch(secret):
            return None
        key = sha256(secret.encode()).digest()
        visitor = self._seen.get(key)
        if visitor is None:
            visitor = await self.store.use(secret, self.idle)
            if visitor is not None:
                self._seen[key] = visitor
        return visitor
