"""Where webhooks may lead: never into the network that the service is in, unless an operator says so.

A URL is somebody's wish, and a name means what its owner says at that moment. So both are checked: the URL
when it is given, and at each request every address that its name has; the connection is then made to an
address that was checked, and to nothing else.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from urllib.parse import urlsplit

from tmi.domain.errors import BadInput

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network

DEFAULT_PORTS = {"https": 443, "http": 80}
URL_MAX = 1024

_HOST = re.compile(
    r"[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?(\.[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?)*"
)
_NUMBER = re.compile(r"[0-9]+|0[xX][0-9A-Fa-f]*")
_LOCAL_NAMES = ("localhost", "local", "internal", "intranet", "lan", "home.arpa", "corp", "home")
"""Names that are never public (RFC 6761, RFC 6762, RFC 8375, and what ICANN reserves)."""

_REFUSED = tuple(
    map(
        ip_network,
        (
            # The special addresses of RFC 6890 and its registry. Python's own list differs by version.
            *("0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16", "172.16.0.0/12"),
            *("192.0.0.0/24", "192.0.2.0/24", "192.88.99.0/24", "192.168.0.0/16", "198.18.0.0/15"),
            *("198.51.100.0/24", "203.0.113.0/24", "224.0.0.0/3"),
            "168.63.129.16/32",  # Azure's platform, which only virtual machines reach
            "2002::/16",  # 6to4: the address holds another one
            "2001::/23",  # Teredo and other protocols (RFC 2928)
            *("2001:db8::/32", "3fff::/20"),  # documentation (RFC 3849, RFC 9637)
        ),
    )
)
_NAT64 = ip_network("64:ff9b::/96")
_PUBLIC_IPV6 = ip_network("2000::/3")
"""All that is given out; local, mapped and multicast addresses are elsewhere."""


class Refused(BadInput):
    """Webhooks may not lead there."""


@dataclass(frozen=True, slots=True)
class Target:
    """What a URL leads to."""

    scheme: str
    host: str
    port: int
    netloc: str
    """Host and port as they were given, for the Host header."""
    rest: str
    """Path and query."""


@dataclass(frozen=True, slots=True)
class TargetRules:
    """What an operator allows."""

    allow_http: bool = False
    """For development."""
    ports: frozenset[int] = frozenset({443, 8443})
    """Empty: any."""
    networks: tuple[Network, ...] = ()
    """Addresses in these are allowed though they are not public."""

    def target(self, url: str) -> Target:
        """What `url` leads to. Raises Refused, which says why."""
        if len(url) > URL_MAX or not url.isascii() or not url.isprintable() or " " in url or "\\" in url:
            raise Refused("the URL is not plain ASCII text, or too long")
        try:
            parts = urlsplit(url)
            port = parts.port
        except ValueError:
            raise Refused("the URL is not valid") from None
        if parts.scheme != "https" and not (parts.scheme == "http" and self.allow_http):
            raise Refused("the URL has to begin with https://")
        if "@" in parts.netloc or parts.fragment:
            raise Refused("the URL may have neither a user nor a fragment")
        host = (parts.hostname or "").removesuffix(".")
        self._check_host(host)
        port = DEFAULT_PORTS[parts.scheme] if port is None else port
        if port == 0 or (self.ports and port not in self.ports):
            raise Refused(f"port {port} is not one of {', '.join(map(str, sorted(self.ports)))}")
        rest = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        return Target(parts.scheme, host, port, parts.netloc, rest)

    def _check_host(self, host: str) -> None:
        try:
            literal = ip_address(host)
        except ValueError:
            if len(host) > 253 or not _HOST.fullmatch(host):
                raise Refused("the URL's host is not valid") from None
            # Resolvers take `127.1` and `0x7f000001` for addresses.
            if _NUMBER.fullmatch(host.rpartition(".")[2]):
                raise Refused("the URL's host is not valid") from None
            self._check_name(host.lower())
        else:
            self.check([literal])

    def _check_name(self, host: str) -> None:
        is_local = "." not in host or any(host == name or host.endswith(f".{name}") for name in _LOCAL_NAMES)
        if is_local and not self.networks:
            raise Refused("the URL's host is a name of this network")

    def check(self, addresses: Iterable[Address]) -> None:
        """Raises Refused unless there is an address, and all of them may be called."""
        found = list(addresses)
        if not found:
            raise Refused("the host has no address")
        if not all(map(self.allows, found)):
            raise Refused("the host has an address that is not public")

    def allows(self, address: Address) -> bool:
        """Whether it may be called: it is public, or in a network that the operator allows."""
        if isinstance(address, IPv6Address):
            if address.scope_id is not None:
                return False
            if address.ipv4_mapped is not None:
                return self.allows(address.ipv4_mapped)
        return any(address in network for network in self.networks) or is_public(address)


def is_public(address: Address) -> bool:
    """Whether an address is one of the internet at large."""
    if isinstance(address, IPv6Address):
        if address in _NAT64:
            return is_public(IPv4Address(int(address) & 0xFFFFFFFF))
        if address not in _PUBLIC_IPV6:
            return False
    if any(address in network for network in _REFUSED):
        return False
    return address.is_global and not address.is_multicast and not address.is_reserved
