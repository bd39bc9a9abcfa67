"""How many connections come from one address, before it is known whose they are."""

from collections import Counter

from api.forwarding import TrustedProxies, bucket_of


class ConnectionsByAddress:
    """Counts what is open by IPv4 address or IPv6 /64.

    Trusted proxies are not bounded, since everybody comes by them, and neither are Unix sockets.
    """

    def __init__(self, most: int, proxies: TrustedProxies) -> None:
        self._most = most
        self._proxies = proxies
        self._open: Counter[str] = Counter()

    def take(self, peer: object, *, is_bounded: bool = True) -> str | None:
        """Count one more from a socket's `peer`; what to `give` back, or None if there are too many.

        Without `is_bounded` it is counted and never refused.
        """
        address = str(peer[0]) if isinstance(peer, tuple) and peer else ""
        if not address or self._proxies.trusts(address):
            return ""
        bucket = bucket_of(address)
        count = self._open.get(bucket, 0)
        if is_bounded and count >= self._most:
            return None
        self._open[bucket] = count + 1
        return bucket

    def give(self, bucket: str) -> None:
        """One that was taken is over."""
        if bucket:
            self._open[bucket] -= 1
            if not self._open[bucket]:
                self._open.pop(bucket)  # `del` is a method of Counter, in Python

    def __len__(self) -> int:
        """How many addresses have something open."""
        return len(self._open)
