"""Which services may be put under load: this machine's own, and others where their owner asks for it.

A name is resolved once. What was found to be this machine's is what is connected to, whatever the name leads
to later on: see `addresses_of` and `at_address`.
"""

import socket
from dataclasses import dataclass, field
from functools import cache
from ipaddress import ip_address
from urllib.parse import SplitResult, urlsplit

OWN = "--i-own-this-server"


class NotAllowed(Exception):
    """This service may not be put under load, or not in this way; the text says why, and holds no secret."""


@dataclass(frozen=True)
class Target:
    """A running service, by its origin: `https://tmi.example.com`. Raises `NotAllowed` when it is made."""

    url: str
    token: str | None = field(default=None, repr=False)
    """An access token; None to sign in through the development provider."""
    is_own: bool = False
    """Whoever asks for the load has said that the service is theirs, though it is not on this machine."""

    def __post_init__(self) -> None:
        parts = _split(self.url, ("http", "https"))
        if parts.path not in ("", "/"):
            raise NotAllowed("give scheme, host and perhaps port, like https://tmi.example.com")
        self._check(parts)
        if self.token is not None and parts.scheme == "http" and not is_loopback(parts.hostname or ""):
            raise NotAllowed("a token travels over TLS only: give an https address")

    def check_sockets(self, url: str) -> None:
        """The service says itself where its sockets are, and may send us elsewhere. Raises `NotAllowed`."""
        parts = _split(url, ("ws", "wss"))
        self._check(parts)
        if urlsplit(self.url).scheme == "https" and parts.scheme == "ws":
            raise NotAllowed(
                f"the service says that its sockets are at ws://{parts.netloc}, without TLS: "
                "set its TMI_PUBLIC_URL to its https address"
            )

    def _check(self, parts: SplitResult) -> None:
        host = parts.hostname or ""
        if not self.is_own and not is_loopback(host):
            raise NotAllowed(
                f"{host} is not this machine. A load test can make a service unusable for others: "
                f"run it against servers of your own only, and say so with {OWN}"
            )


def _split(url: str, schemes: tuple[str, ...]) -> SplitResult:
    parts = urlsplit(url)
    try:
        has_host = bool(parts.hostname) and parts.port != 0
    except ValueError:
        has_host = False
    if parts.scheme not in schemes or not has_host:
        raise NotAllowed(f"an address begins with {' or '.join(schemes)}:// and names a host")
    if "@" in parts.netloc or parts.query or parts.fragment:
        raise NotAllowed("an address of a service holds no user, password, query or fragment")
    return parts


def is_loopback(host: str) -> bool:
    """Whether every address of this host is this machine's. Raises `NotAllowed` where it has none."""
    return all(ip_address(address).is_loopback for address in addresses_of(host))


@cache
def addresses_of(host: str) -> tuple[str, ...]:
    """In the system's order; looked up once in the life of this process. Raises `NotAllowed` without any."""
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        raise NotAllowed(f"{host} has no address: {error}") from None
    return tuple(dict.fromkeys(str(entry[4][0]) for entry in found))


def at_address(url: str, address: str) -> str:
    """The same with an address in place of the host's name."""
    parts = urlsplit(url)
    port = "" if parts.port is None else f":{parts.port}"
    return parts._replace(netloc=f"{f'[{address}]' if ':' in address else address}{port}").geturl()
