"""Where clients may take their codes: an allow-list, compared exactly (RFC 9700, section 2.1).

Three kinds of address are allowed: this service's own, where browser sessions begin; those that the operator
lists; and, for development, all on this machine. A listed one on this machine is good with any port, since a
native app takes whichever is free (RFC 8252, section 7.3).
"""

import re
from urllib.parse import urlsplit, urlunsplit

from api.errors import OAuthError
from api.services import ApiOptions

SESSION_CALLBACK_PATH = "/session/callback"
MAX_LENGTH = 1000

LOOPBACK = re.compile(
    r"https?://(?:127\.0\.0\.1|localhost|\[::1\])(?::[0-9]{1,5})?"
    r"(?:/[A-Za-z0-9\-._~!$&'()*+,;=:@%/]*)?(?:\?[A-Za-z0-9\-._~!$&'()*+,;=:@%/?]*)?"
)
"""An address on this machine, without user or fragment."""


def checked_callback(callback: str | None, options: ApiOptions) -> str:
    """Raises OAuthError unless a client may be sent there with its code."""
    if callback is not None and len(callback) <= MAX_LENGTH and _is_allowed(callback, options):
        return callback
    listed = "one that TMI_CLIENT_CALLBACKS lists"
    local = "an address at 127.0.0.1, localhost or [::1], without fragment, or " if options.dev else ""
    raise OAuthError("invalid_request", f"client_callback (or redirect_uri) is to be {local}{listed}")


def _is_allowed(callback: str, options: ApiOptions) -> bool:
    own = None if options.public_url is None else f"{options.public_url}{SESSION_CALLBACK_PATH}"
    if callback == own or callback in options.client_callbacks:
        return True
    if not LOOPBACK.fullmatch(callback):
        return False
    listed = {_without_port(address) for address in options.client_callbacks if LOOPBACK.fullmatch(address)}
    return options.dev or _without_port(callback) in listed


def _without_port(url: str) -> str:
    parts = urlsplit(url)
    host = parts.netloc.rpartition("]")[0] + "]" if "]" in parts.netloc else parts.netloc.partition(":")[0]
    return urlunsplit(parts._replace(netloc=host))
