"""Who is behind a proxy: `X-Forwarded-For` and `X-Forwarded-Proto`, believed as far as proxies are trusted.

Anybody may send these headers. Each proxy appends whom it heard from at the right, so they are read from the
right: an address counts as told by a proxy only while all hops to its right are trusted ones. What a client
made up stands to the left of its own address, which the first trusted proxy appended, and is never reached.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address

HOPS_MAX = 16
_REMEMBERED = 1024
Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network

_SHARE_MIN = 32
"""Connections; several people share an address."""


@dataclass(frozen=True, slots=True)
class TrustedProxies:
    """The networks of proxies that are believed."""

    networks: tuple[Network, ...] = ()

    def trusts(self, peer: str) -> bool:
        """Whether this is the address of a proxy of ours."""
        address = _parsed(peer) if self.networks else None
        return address is not None and self._is_trusted(address)

    def client(self, peer: str, forwarded_for: Sequence[str]) -> str:
        """Whose request it is: the nearest address that is no trusted proxy's, as text.

        `forwarded_for`: the header's lines, in their order. A hop that is no address ends the search: then it
        is the request of the proxy that passed it on.
        """
        current = _parsed(peer) if self.networks else None
        if current is None or not self._is_trusted(current):
            return peer
        hops = ",".join(forwarded_for).split(",")
        for hop in reversed(hops[-HOPS_MAX:]):
            address = _parsed(hop)
            if address is None:
                break
            current = address
            if not self._is_trusted(address):
                break
        return str(current)

    def scheme(self, peer: str, forwarded_proto: Sequence[str], own: str) -> str:
        """`http` or `https`, as the nearest proxy says, if that is trusted."""
        if self.trusts(peer):
            told = ",".join(forwarded_proto).rpartition(",")[2].strip().lower()
            if told in ("http", "https"):
                return told
        return own

    def _is_trusted(self, address: Address) -> bool:
        return any(address in network for network in self.networks if network.version == address.version)


def share_of(total: int) -> int:
    """What one address may have of a total of which half is in use, so that it never keeps others out."""
    return max(_SHARE_MIN, total // 8)


@lru_cache(_REMEMBERED)
def bucket_of(client: str) -> str:
    """Whom an address counts for: an IPv4 address, or an IPv6 network of 64 bits.

    One customer has at least a /64 of IPv6 (RFC 6177), so single addresses of it would bound nobody. What is
    no address, as with unix sockets, is local.
    """
    address = _parsed(client)
    if address is None:
        return "local"
    if isinstance(address, IPv4Address):
        return str(address)
    return str(IPv6Address(int(address) >> 64 << 64))


def _parsed(text: str) -> Address | None:
    """An address, also with a port (`192.0.2.1:80`, `[2001:db8::1]:80`); IPv4 in IPv6 is IPv4."""
    text = text.strip()
    if text.startswith("["):
        text = text[1:].partition("]")[0]
    elif text.count(":") == 1:
        text = text.partition(":")[0]
    try:
        address = ip_address(text.partition("%")[0])
    except ValueError:
        return None
    if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:
        return address.ipv4_mapped
    return address
