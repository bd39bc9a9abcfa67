"""One live WebSocket on picows: RFC 6455 as far as picows leaves it to us.

picows (2.3) parses frames and answers most violations by itself. Here are reserved bits, fragmentation with
a bound, UTF-8 of text, and codes in answers to Close. The rest of a socket is in the classes that this one
stands on, each upon the one before: what it keeps (`state`), when it is read (`reading`), how it ends
(`ending`), its write buffer (`writing`). `connection` hands it to picows.
"""

import asyncio
from typing import cast

from multidict import CIMultiDict
from picows import WSFrame, WSMsgType, WSTransport

from api.live.connection import Connection
from api.live.state import LARGE_BYTES
from api.live.writing import BufferedSocket

PROTOCOL_ERROR = 1002
UNSUPPORTED_DATA = 1003
INVALID_TEXT = 1007
_NORMAL = 1000
_PING_COST = 10
"""A Ping counts as so many edits: it has us write, and nobody needs many."""

_BINARY, _TEXT, _CONTINUATION = WSMsgType.BINARY, WSMsgType.TEXT, WSMsgType.CONTINUATION
_PING, _CLOSE = WSMsgType.PING, WSMsgType.CLOSE
_PONG_HEAD = 0x8A


def binary_frame(payload: bytes) -> bytes:
    """A complete unmasked binary frame (RFC 6455, section 5.2), for any number of sockets."""
    size = len(payload)
    if size < 126:
        return bytes((0x82, size)) + payload
    if size < 65536:
        return b"\x82\x7e" + size.to_bytes(2, "big") + payload
    return b"\x82\x7f" + size.to_bytes(8, "big") + payload


_NOTHING_ASKED = b"", b"", b"", CIMultiDict[str]()
"""What is kept of every opening handshake."""


class LiveSocket(BufferedSocket):
    """A socket without a protocol yet: subclasses say what a message means.

    They are told of more: `paused` and `resumed` (`writing`), `keepalive` and `ended` (`ending`).
    """

    __slots__ = ()

    # --- for subclasses -------------------------------------------------------------------------

    def opened(self) -> None:
        """The upgrade is done."""

    def received(self, message: bytes) -> None:
        """A binary message, joined. May raise BadFrame."""
        raise NotImplementedError

    def received_text(self, message: str) -> None:  # noqa: ARG002
        """A text message, joined."""
        self.fail(UNSUPPORTED_DATA, "only binary messages are understood here")

    # --- called by picows -----------------------------------------------------------------------

    def on_ws_connected(self, transport: WSTransport) -> None:
        # The handshake is over; its headers were an eighth of an idle socket's memory.
        request = transport.request
        request.method, request.path, request.version, request.headers = _NOTHING_ASKED
        self._ws = transport
        connection = cast(Connection, transport.underlying_transport)
        self._tcp = tcp = connection.itself
        tcp.set_write_buffer_limits(high=self.options.write_high_bytes)
        self._sockets.add(self)
        self.write = connection.write
        early, self._early = self._early or (), None
        for wire in early:
            self.write(wire)
        if self._early_close is not None:
            self.close(*self._early_close)
        else:
            self._guarded(self.opened)

    def on_ws_disconnected(self, transport: WSTransport) -> None:  # noqa: ARG002
        if self._rate is not None:
            self._rate.stop()
        self.leave_gathering()
        self._leave_address()
        self._hold_partial(0)
        self._release_held()
        self._sockets.discard(self)
        if not self._closing:
            self.abandon()

    def on_ws_frame(self, transport: WSTransport, frame: WSFrame) -> None:  # noqa: ARG002
        """Hot: a whole binary message, which nearly every frame is, goes straight to `received`."""
        self._heard = True
        self.since_frame = 0
        self._edits_left -= 1
        self._bytes_left -= frame.payload_size
        kind = frame.msg_type
        if self._deaf or frame.rsv1 or frame.rsv2 or frame.rsv3 or not frame.fin or kind is not _BINARY:
            self._uncommon(frame, kind)
        elif self._fragments is not None:
            self._fragment(kind, frame.get_payload_as_bytes(), True)
        else:
            try:
                self.received(frame.get_payload_as_bytes())
            except Exception as error:  # noqa: BLE001 - see _failed
                self._failed(error)
        if self._edits_left < 0 or self._bytes_left < 0:
            self._over_rate()

    # --- frames ---------------------------------------------------------------------------------

    def _uncommon(self, frame: WSFrame, kind: WSMsgType) -> None:
        if self._closing:
            if kind is _CLOSE and self._tcp is not None:
                self._tcp.close()
        elif self._deaf and kind is not _CLOSE:
            pass  # it is being closed, since it does not read
        elif frame.rsv1 or frame.rsv2 or frame.rsv3:
            self.fail(PROTOCOL_ERROR, "a reserved bit is set")
        elif kind is _BINARY or kind is _TEXT or kind is _CONTINUATION:
            self._fragment(kind, frame.get_payload_as_bytes(), frame.fin)
        elif kind is _PING:
            payload = frame.get_payload_as_bytes()
            self.answer_ping(bytes((_PONG_HEAD, len(payload))) + payload)
        elif kind is _CLOSE:
            self._answer_close(frame.get_payload_as_bytes())

    def answer_ping(self, wire: bytes) -> None:
        """Answer at once; of more Pings within this turn of the loop the last one alone (RFC 6455, 5.5.3)."""
        self.charge(_PING_COST - 1, 0)
        if self._held is not None:
            return
        if self._pong is None:
            self._pong = b""
            asyncio.get_running_loop().call_soon(self._answer_last_ping)
            self.write(wire)
        else:
            self._pong = wire

    def _answer_last_ping(self) -> None:
        owed, self._pong = self._pong, None
        if owed:
            self.write(owed)

    def _fragment(self, kind: WSMsgType, payload: bytes, is_last: bool) -> None:
        """RFC 6455, section 5.4."""
        if (kind is _CONTINUATION) is (self._fragments is None):
            self.fail(PROTOCOL_ERROR, "fragments out of order")
            return
        if self._fragments is None:
            self._fragments, self._kind = bytearray(), kind
        if len(self._fragments) + len(payload) > self.options.frame_max_bytes:
            self.refuse_message()
            return
        self._fragments += payload
        if is_last:
            message, self._fragments = bytes(self._fragments), None
            self._joined(message)
        elif len(self._fragments) > LARGE_BYTES:
            self.measure()

    def _joined(self, message: bytes) -> None:
        if self._kind is _BINARY:
            self._guarded(self.received, message)
            return
        try:
            text = message.decode()
        except UnicodeDecodeError:
            self.fail(INVALID_TEXT, "the text is not UTF-8")
        else:
            self._guarded(self.received_text, text)

    def _answer_close(self, payload: bytes) -> None:
        """Echo the peer's code (RFC 6455, section 5.5.1) and let the connection go."""
        code = int.from_bytes(payload[:2], "big") if payload else _NORMAL
        # picows has refused what is reserved between 1000 and 2999, save 1006, which is never sent (7.4.1).
        is_valid = 1000 <= code < 5000 and code != 1006
        self.close(code if is_valid else PROTOCOL_ERROR, "")
        if self._tcp is not None:
            self._tcp.close()
