"""A connection as picows (2.3) is to see it, and the way into picows.

picows asks a transport for its socket, its addresses and the state of its write buffer, wants a response for
each upgrade and logs each connection. Hardly any of that is needed here, and some would be memory of every
idle socket. Its protocol is made to read little at once, and to tell when its parser has given up.
"""

import asyncio
import logging
from http import HTTPStatus
from typing import Any

from multidict import CIMultiDict
from picows import WSAutoPingStrategy, WSUpgradeResponse, WSUpgradeResponseWithListener
from picows.picows import WSProtocol  # type: ignore[attr-defined]  # compiled, and left out of the stubs

from api.live.state import SocketState

log = logging.getLogger(__name__)

_READ_BYTES = 4 * 1024
"""What one read may bring. The buffer grows with large messages: full of small ones it would take seconds."""
_READ_PARTIAL_BYTES = 16 * 1024
"""The same while a message is not whole yet."""
_FEW_BYTES = 512
_AT_ONCE = 64
"""After so many frames others have their turn; `_FEW_BYTES` hold hardly more."""

_get_buffer = WSProtocol.get_buffer
_buffer_updated = WSProtocol.buffer_updated


def _never(data: bytes) -> None:
    """What has a buffer is handed no data."""


class PicowsProtocol(WSProtocol):  # type: ignore[misc]  # see the import
    """picows' protocol, which also tells its listener when the parser has given up."""

    __slots__ = ()

    data_received = staticmethod(_never)
    """Never called, since there is a buffer. uvloop's transport remembers what it finds here, and else its
    first protocol's to the end.
    """

    def get_buffer(self, size_hint: int) -> memoryview:
        """Where the next read goes. Hot."""
        buffer: memoryview = _get_buffer(self, size_hint)
        if len(buffer) <= _READ_BYTES:
            return buffer
        listener = self.listener
        is_whole = listener is None or not listener.since_frame
        return buffer[: _READ_BYTES if is_whole else _READ_PARTIAL_BYTES]

    def unused(self) -> memoryview:
        """All of the buffer that nothing has been read to."""
        buffer: memoryview = _get_buffer(self, -1)
        return buffer

    def buffer_updated(self, nbytes: int) -> None:
        """So many bytes were read into the buffer by the loop. Hot."""
        self.taken(nbytes)
        # Only now, or the process would rest before it sends on what has come.
        self.listener.moderation.count()

    def _much(self, listener: SocketState, nbytes: int) -> None:
        before = listener.frames_left
        _buffer_updated(self, nbytes)
        if before - listener.frames_left > _AT_ONCE:
            listener.let_others_go_first()

    def upgraded(self, nbytes: int) -> None:
        """So many bytes came with the upgrade, before there was a listener."""
        _buffer_updated(self, nbytes)
        self.listener.moderation.count()
        if self.transport.is_close_frame_sent:
            self.listener.parser_failed()

    def taken(self, nbytes: int) -> None:
        """So many bytes were read into the buffer, by whomever. Hot."""
        listener = self.listener
        listener.since_frame += nbytes
        if nbytes > _FEW_BYTES:
            self._much(listener, nbytes)
        else:
            _buffer_updated(self, nbytes)
        if listener.since_frame > listener.tells_from:
            listener.measure()
        if self.transport.is_close_frame_sent:
            self.listener.parser_failed()


class _Switching(WSUpgradeResponse):
    """The answer to every upgrade. One for all: picows sets the key's proof in it just before it is written,
    and making it anew took four microseconds.
    """

    __slots__ = ()

    def __init__(self) -> None:
        self.version, self.status, self.body = b"HTTP/1.1", HTTPStatus.SWITCHING_PROTOCOLS, None
        self.headers = CIMultiDict()

    def to_bytes(self) -> bytearray:
        return bytearray(_SWITCHED % self.headers["Sec-WebSocket-Accept"].encode())


_SWITCHED = (
    b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\n"
    b"Sec-WebSocket-Accept: %b\r\n\r\n"
)
_SWITCHING = _Switching()


class _Settled:
    """A connection's socket as picows asks for it at the start: its options are set, and nobody reads a log
    of them. One for all: uvloop makes a socket object for whoever asks, and keeps it.
    """

    __slots__ = ()

    def fileno(self) -> int:
        """Not told: picows writes through the transport, see `_always_through`."""
        return -1

    def setsockopt(self, *_: Any) -> None:
        """uvloop has set TCP_NODELAY, and quick acknowledgements are for clients."""

    def getsockopt(self, *_: Any) -> int:
        return 0


_SETTLED = _Settled()


def _always_through() -> int:
    """What picows is told of the write buffer: it is never empty, so nothing is to be sent past it."""
    return 1


class Connection:
    """What picows keeps and calls a transport: the connection, without its answers about addresses."""

    __slots__ = ("itself", "write")

    get_write_buffer_size = staticmethod(_always_through)

    def __init__(self, connection: asyncio.Transport) -> None:
        self.itself = connection
        self.write = connection.write
        """The one bound method of it: for picows and for the socket."""

    def __getattr__(self, name: str) -> Any:
        return getattr(self.itself, name)

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        if name == "socket":
            return _SETTLED
        if name in ("peername", "sockname"):
            return default
        return self.itself.get_extra_info(name, default)


def hand_over(socket: SocketState, received: bytes, connection: asyncio.Transport) -> None:
    """Give a connection to picows. `received`: a valid opening handshake and what came after it.

    The connection's reading may be paused, and goes on then.
    """
    if connection.is_closing():
        socket.abandon()
        return
    options = socket.options
    protocol = PicowsProtocol(
        None,  # host, a client's
        None,  # path, a client's
        False,
        lambda _: WSUpgradeResponseWithListener(_SWITCHING, socket),
        _picows_log,
        True,
        None,  # the handshake is complete: no time limit
        False,  # the sweep pings, since a timer for each socket costs memory
        None,
        None,
        WSAutoPingStrategy.PING_WHEN_IDLE,
        False,  # pings are answered here, unless the peer does not read
        options.frame_max_bytes,
        None,
        options.read_buffer_bytes,
    )
    connection.set_protocol(protocol)
    protocol.connection_made(Connection(connection))
    connection.resume_reading()
    view = memoryview(received)
    while view:
        buffer = protocol.get_buffer(len(view))
        size = min(len(buffer), len(view))
        buffer[:size] = view[:size]
        protocol.upgraded(size)
        view = view[size:]


class _PicowsLog(logging.LoggerAdapter[logging.Logger]):
    """picows reports each connection, and each fault of a peer as an error: here both are details."""

    def info(self, msg: object, *args: object, **_: object) -> None:
        self.logger.debug(msg, *args)

    warning = error = info


_picows_log = _PicowsLog(log)
