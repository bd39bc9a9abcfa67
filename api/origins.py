"""Which pages may use a browser's cookie: ours, and those of origins that the operator lists.

An origin is compared as a whole string. Browsers say which page asks in `Origin`, which scripts of a page
can't change, and in the Fetch Metadata header `Sec-Fetch-Site`.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from tmi.domain.errors import Forbidden

_SAFE = frozenset({"GET", "HEAD", "OPTIONS"})
_OTHER_SITES = frozenset({"cross-site", "same-site"})


def is_safe(method: str) -> bool:
    """Whether requests of this method change nothing (RFC 9110, section 9.2.1)."""
    return method in _SAFE


@dataclass(frozen=True, slots=True)
class Origins:
    """Whose pages are trusted."""

    public: str | None = None
    """Our own origin; None: what a request's Host names."""
    listed: frozenset[str] = frozenset()

    def own(self, scheme: str, host: str) -> str:
        """The origin of pages of this service itself."""
        return self.public or f"{scheme}://{host.lower()}"

    def are_trusted(self, origin: str, scheme: str, host: str) -> bool:
        """Whether pages of this origin may use a cookie."""
        return origin in self.listed or origin == self.own(scheme, host)


def check_page(
    method: str, origins: Sequence[str], sites: Sequence[str], trusted: Origins, scheme: str, host: str
) -> None:
    """Raises Forbidden unless a request with a cookie comes from a page that may use it.

    `origins` and `sites`: the lines of the headers `Origin` and `Sec-Fetch-Site`. What changes something
    has to be told by one of them to come from a trusted page. What does not is refused where they tell of
    another one: a page that links here has no business with answers that are data.
    """
    if len(origins) > 1 or len(sites) > 1:
        raise Forbidden("the request names several pages that it comes from")
    site = sites[0] if sites else None
    if origins:
        if not trusted.are_trusted(origins[0], scheme, host):
            raise Forbidden("pages of this origin may not use the session cookie")
        if site in _OTHER_SITES and origins[0] not in trusted.listed:
            raise Forbidden("the request contradicts itself about the page that it comes from")
    elif site in _OTHER_SITES or (not is_safe(method) and site != "same-origin"):
        raise Forbidden("with the session cookie, a request has to say that it comes from a page of ours")
