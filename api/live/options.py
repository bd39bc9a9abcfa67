"""Bounds of live sockets, given by settings."""

from dataclasses import dataclass, field

from api.forwarding import TrustedProxies
from api.headers import StrictTransport
from api.origins import Origins

KIB = 1024
MIB = 1024 * KIB


@dataclass(frozen=True, slots=True)
class LiveOptions:
    """What one socket may cost, and whom the endpoint lets in."""

    public_origin: str | None = None
    """The origin of this service (`https://tmi.example.org`); None: what a request's Host names."""
    allowed_origins: frozenset[str] = frozenset()
    """Further origins, compared as whole strings."""
    dev: bool = False
    """Allow every loopback origin as well, and session cookies over plain http."""

    @property
    def origins(self) -> Origins:
        """Whose pages may use the session cookie."""
        return Origins(self.public_origin, self.allowed_origins)

    trusted_proxies: TrustedProxies = field(default_factory=TrustedProxies)
    hsts: StrictTransport = field(default_factory=StrictTransport)

    sockets_max: int = 20_000
    handshakes_max: int = 2_000
    """Sockets at the upgrade, and Hocuspocus sockets that have no document yet."""
    documents_per_user_max: int = 1_000
    sockets_per_address_max: int = 10_000
    """Behind a proxy all connections come from its address."""
    handshake_timeout_s: float = 10.0
    """For looking up who asks and opening the room."""

    frame_max_bytes: int = 16 * MIB
    """A whole message, however many fragments it comes in."""
    partial_total_max_bytes: int = 256 * MIB
    """What may be kept of messages that are not whole, all sockets together. Before a document is open on a
    Hocuspocus socket, `waiting_max_bytes` of it.
    """
    outbox_max_bytes: int = MIB
    """What may be queued for a client that does not read, besides one state that was under way."""
    outbox_total_max_bytes: int = 512 * MIB
    """What may be queued for all clients together that do not read, see `Outboxes`."""
    write_high_bytes: int = 256 * KIB
    read_buffer_bytes: int = KIB
    """To begin with; picows lets it grow with what comes. Most of what an idle socket takes."""

    edits_per_s: float = 1_000.0
    """Frames that one connection may send in the long run; each counts, cursors too."""
    edits_burst: int = 5_000
    bytes_per_s: float = 8.0 * MIB
    bytes_burst: int = 64 * MIB
    """Enough for the first sync of a large diagram that was edited offline."""
    rate_patience_s: float = 10.0
    """How long, in a minute, a connection over its rate is merely left unread before it is closed 1013."""

    sweep_s: float = 10.0
    """Each socket is visited once in this time, and sent a keepalive."""
    ping_after_s: float = 20.0
    silence_max_s: float = 360.0
    """Without a frame or pong for so long the other side is gone; a stopped reader is granted 5 minutes."""
    stall_max_s: float = 600.0
    """How long a write buffer may stay full."""
    close_timeout_s: float = 5.0

    documents_per_socket_max: int = 100
    waiting_max_bytes: int = MIB
    """Frames that arrived before their document was open, all documents of a socket together."""
    waiting_max_frames: int = 2_000
    auth_timeout_s: float = 10.0
    """From a document's first frame to its Auth; traffic does not extend it. Checked at each sweep."""
    denials_max: int = 200
    """Refusals on one Hocuspocus socket before it is closed."""
    unused_max_s: float = 60.0
    """How long a Hocuspocus socket may stay without an open document."""
