"""Headers of every answer, whoever writes it: Quart, the listener, or an upgrade that is refused."""

from collections.abc import Mapping
from dataclasses import dataclass

VERSION = "1.8.22"
"""Of the published TMI contract that this API follows."""

ALWAYS: Mapping[str, str] = {
    "X-API-Version": VERSION,
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cache-Control": "no-store",
}


@dataclass(frozen=True, slots=True)
class StrictTransport:
    """What tells browsers to speak https with this host from now on (RFC 6797)."""

    max_age_s: int = 0
    """0: not told, since it would take back what was."""
    subdomains: bool = False
    """With all hosts whose names end in this one's as well."""

    def headers(self, scheme: str) -> Mapping[str, str]:
        """Nothing over http, where browsers would ignore it (section 7.2)."""
        if scheme != "https" or self.max_age_s == 0:
            return {}
        more = "; includeSubDomains" if self.subdomains else ""
        return {"Strict-Transport-Security": f"max-age={self.max_age_s}{more}"}
