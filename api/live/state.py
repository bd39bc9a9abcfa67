"""What a live socket keeps, and what its connection may ask of it.

Everything is in one class, since each level of a hierarchy that has an `__init__` of its own costs a call for
each connection. What is done with it is in the classes above, each of which has one job and adds nothing that
is kept: `reading`, `ending`, `writing`, `socket`.
"""

import asyncio
from collections.abc import Callable

from picows import WSListener, WSMsgType, WSTransport

from api.live.options import LiveOptions
from api.live.outboxes import Held
from api.live.rate import Rate
from api.live.sockets import Sockets
from rooms.gathering import Gathering
from tmi.domain.ids import UserId

LARGE_BYTES = 64 * 1024
"""Below, what is kept of a message that is not whole is not counted, and what is written not shared."""
_BINARY = WSMsgType.BINARY


def discard(wire: bytes) -> None:
    """Where a closed socket's writes go."""


class SocketState(WSListener):
    """Of one socket, from before its upgrade to its end."""

    __slots__ = (
        "_began_at",
        "_bytes_left",
        "_closing",
        "_deaf",
        "_descriptor",
        "_early",
        "_early_close",
        "_edits_left",
        "_fragments",
        "_heard",
        "_heard_at",
        "_held",
        "_held_back",
        "_is_broken",
        "_kind",
        "_overdue",
        "_partial_bytes",
        "_pong",
        "_rate",
        "_sockets",
        "_tcp",
        "_ws",
        "address",
        "gathering",
        "moderation",
        "options",
        "serial",
        "since_frame",
        "tells_from",
        "user",
        "write",
    )

    write: Callable[[bytes], None]
    """Queue a complete WebSocket frame. Never raises."""

    def __init__(self, options: LiveOptions, sockets: Sockets) -> None:
        self.options = options
        self._sockets = sockets
        self.moderation = sockets.moderation
        self._ws: WSTransport | None = None
        self._tcp: asyncio.Transport | None = None
        early: list[bytes] = []
        self._early: list[bytes] | None = early
        self._early_close: tuple[int, str] | None = None
        self._closing = False
        self._deaf = False
        """What comes is of no interest any more, but for a Close."""
        self._is_broken = False
        """picows can make no sense of what comes."""
        self._pong: bytes | None = None
        """Set from the answer to a Ping to the end of the loop's turn: what is owed then, if anything."""
        self._fragments: bytearray | None = None
        self._kind = _BINARY
        self._held: Held | None = None
        self._held_back = 0
        """So many large edits of it are on their way into rooms."""
        self._overdue = 0
        self._rate: Rate | None = None
        """Made when it is needed: most clients never come near their rate."""
        self._began_at = self._heard_at = sockets.loop.time()
        self._edits_left: float = options.edits_burst
        self._bytes_left: float = options.bytes_burst
        self.address: str | None = None
        """What the connection counts for; set once the socket will be handed over."""
        self.user: UserId | None = None
        self.gathering: Gathering | None = None
        """Who reads it, if that is not the loop."""
        self._descriptor = -1
        self.serial = 0
        self._heard = True
        self.since_frame = 0
        """Bytes read since the end of the last frame, about: what is kept of one that is not whole."""
        self.tells_from = LARGE_BYTES
        """From how many on they are measured."""
        self._partial_bytes = 0
        self.write = early.append

    def abort(self) -> None:
        """Drop the connection without a word: the peer does not listen."""
        if self._tcp is not None:
            self._tcp.abort()

    # --- asked by its connection ----------------------------------------------------------------

    def abandon(self) -> None:
        """The upgrade will not happen."""
        raise NotImplementedError

    def parser_failed(self) -> None:
        """picows has found a violation, sent its Close and will disconnect; read no more of it."""
        raise NotImplementedError

    def measure(self) -> None:
        """See whether too much is kept here of messages that are not whole, by this client or by all."""
        raise NotImplementedError

    def let_others_go_first(self) -> None:
        """Much has come at once: read on in the loop's next turn."""
        raise NotImplementedError

    # --- figures --------------------------------------------------------------------------------

    @property
    def is_closing(self) -> bool:
        """A Close frame was sent, or the connection is gone."""
        return self._closing

    @property
    def messages_in(self) -> int:
        """Frames received."""
        granted = self.options.edits_burst if self._rate is None else self._rate.edits_granted
        return round(granted - self._edits_left)

    @property
    def bytes_in(self) -> int:
        """Payload received, in bytes."""
        granted = self.options.bytes_burst if self._rate is None else self._rate.bytes_granted
        return round(granted - self._bytes_left)

    @property
    def queued_bytes(self) -> int:
        """What waits in the write buffer."""
        return self._tcp.get_write_buffer_size() if self._tcp is not None else 0

    @property
    def frames_left(self) -> float:
        """Of the allowance."""
        return self._edits_left
