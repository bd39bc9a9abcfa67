"""Headers of every answer, whoever writes it: Quart, the listener, or an upgrade that is refused."""

from collections.abc import Mapping

VERSION = "1.8.22"
"""Of the published TMI contract that this API follows."""

ALWAYS: Mapping[str, str] = {
    "X-API-Version": VERSION,
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}


def strict_transport(scheme: str, max_age_s: int) -> Mapping[str, str]:
    """What tells browsers to speak https with this host from now on (RFC 6797); nothing over http, where they
    would ignore it (section 7.2), and nothing for 0 seconds, which would take it back.
    """
    if scheme != "https" or max_age_s == 0:
        return {}
    return {"Strict-Transport-Security": f"max-age={max_age_s}; includeSubDomains"}
