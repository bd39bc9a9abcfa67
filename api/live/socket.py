"""One live WebSocket on picows: RFC 6455 as far as picows leaves it to us, and a bounded write buffer.

picows (2.3) parses frames and answers most violations by itself. This class adds reserved bits,
fragmentation with a bound, UTF-8 of text, codes in answers to Close, and the closing handshake with a
time limit. What it holds true:

- **Exactly one Close frame** leaves a socket, whatever happens, and nothing after it.
- **The peer's fault is not our bug.** A BadFrame closes 4400. Any other exception is logged with its
  traceback, counted, and closes this socket with 1011; no other socket notices.
- **Memory is bounded.** Past the write buffer's high mark the session is told to pause; what is still
  written to a paused socket (acknowledgements, answers) is counted, and past `outbox_max_bytes` the
  socket is closed. Pings are not answered while it is paused.
- **Nobody is served for long at a stretch.** One read brings little unless a large message is under way, and
  after many frames the others have their turn. What an answer costs counts against its asker's rate.
- **A closing socket ends**: if the peer does not finish the handshake, or does not read, it is aborted.

Writing is the hot path (each delivered copy is one call), so `write` is the transport's own bound method
while all is well: no Python frame in between.
"""

import asyncio
import logging
import os
from collections.abc import Callable
from http import HTTPStatus
from typing import Any, TypeVar, cast

from multidict import CIMultiDict
from picows import (
    WSAutoPingStrategy,
    WSCloseCode,
    WSFrame,
    WSListener,
    WSMsgType,
    WSTransport,
    WSUpgradeResponse,
    WSUpgradeResponseWithListener,
)
from picows.picows import WSProtocol  # type: ignore[attr-defined]  # compiled, and left out of the stubs

from api.live.options import LiveOptions
from api.live.outboxes import Held
from api.live.pages import give_back
from api.live.rate import Rate
from api.live.sockets import Sockets
from rooms import closing
from rooms.gathering import Gathering
from tmi.domain.errors import BadFrame
from tmi.domain.ids import UserId

log = logging.getLogger(__name__)

HandledT = TypeVar("HandledT")

PROTOCOL_ERROR = 1002
UNSUPPORTED_DATA = 1003
INVALID_TEXT = 1007
MESSAGE_TOO_BIG = 1009
_NORMAL = 1000
_FAILURE_LINGER_S = 0.5
_GATHERED_MAX_BYTES = 64 * 1024
"""Whoever sends more within a tick is read by the loop."""
_READ_BYTES = 4 * 1024
"""What one read may bring. The buffer grows with large messages: full of small ones it would take seconds."""
_READ_PARTIAL_BYTES = 16 * 1024
"""The same while a message is not whole yet."""
_FEW_BYTES = 512
_AT_ONCE = 64
"""After so many frames others have their turn; `_FEW_BYTES` hold hardly more."""
_PING_COST = 10
"""A Ping counts as so many edits: it has us write, and nobody needs many."""
_REASON_MAX_BYTES = 123  # RFC 6455, section 5.5: a control frame carries 125 bytes, two of them the code

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


_LARGE_BYTES = 64 * 1024
"""Below, what is kept of a message that is not whole is not counted."""


def _discard(wire: bytes) -> None:
    """Where a closed socket's writes go."""


_NOTHING_ASKED = b"", b"", b"", CIMultiDict[str]()
"""What is kept of every opening handshake."""


class LiveSocket(WSListener):
    """A socket without a protocol yet: subclasses say what a message means."""

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
        self.tells_from = _LARGE_BYTES
        """From how many on they are measured."""
        self._partial_bytes = 0
        self.write = early.append

    # --- for subclasses -------------------------------------------------------------------------

    def opened(self) -> None:
        """The upgrade is done."""

    def received(self, message: bytes) -> None:
        """A binary message, joined. May raise BadFrame."""
        raise NotImplementedError

    def received_text(self, message: str) -> None:  # noqa: ARG002
        """A text message, joined."""
        self.fail(UNSUPPORTED_DATA, "only binary messages are understood here")

    def ended(self) -> None:
        """Nothing will be received or sent any more; called once, also when the upgrade never happened."""

    def paused(self) -> None:
        """The write buffer passed its high mark."""

    def resumed(self) -> None:
        """The write buffer has drained."""

    def keepalive(self, now: float) -> None:
        """Send what keeps this client from thinking that the server is gone; called at each sweep."""

    def together(self, handle: Callable[[HandledT], None], message: HandledT) -> None:
        """Handle what is answered in several writes, and make one of them: each takes seven microseconds."""
        wires: list[bytes] = []
        write = self.write
        self.write = gather = wires.append
        try:
            handle(message)
        finally:
            # Where the socket was closed meanwhile, nothing may follow its Close.
            if self.write is gather:
                self.write = write
                self.write_state(*wires)

    @property
    def is_paused(self) -> bool:
        """The write buffer has passed its high mark, and has not drained since."""
        return self._held is not None

    # --- closing --------------------------------------------------------------------------------

    @property
    def is_closing(self) -> bool:
        """A Close frame was sent, or the connection is gone."""
        return self._closing

    def close(self, code: int, reason: str) -> None:
        """Send Close and wait, within bounds, for the peer's. Only the first call counts."""
        if self._closing:
            return
        if self._ws is None:
            self._early_close = self._early_close or (code, reason)
            return
        self._send_close(code, reason)
        self._begin_closing(self.options.close_timeout_s)

    def fail(self, code: int, reason: str) -> None:
        """Send Close and serve no more (RFC 6455, section 7.1.7): the peer does not follow the protocol.

        Only our half is shut at once. The rest comes a little later, or the reset that answers what the peer
        still sends could overtake the Close frame.
        """
        if self._closing or self._tcp is None:
            self.close(code, reason)
            return
        self._send_close(code, reason)
        if self._tcp.can_write_eof():
            self._tcp.write_eof()
        self._begin_closing(_FAILURE_LINGER_S)

    def abort(self) -> None:
        """Drop the connection without a word: the peer does not listen."""
        if self._tcp is not None:
            self._tcp.abort()

    def abandon(self) -> None:
        """The upgrade will not happen."""
        self._leave_address()
        self._closing = self._deaf = True
        self.write = _discard
        self._guarded(self.ended)

    def parser_failed(self) -> None:
        """picows has found a violation, sent its Close and will disconnect; read no more of it."""
        self.leave_gathering()
        if not self._closing and self._tcp is not None:
            self._is_broken = True
            self._count_close_of_parser()
            self._tcp.pause_reading()
            self._begin_closing(_FAILURE_LINGER_S)

    def _count_close_of_parser(self) -> None:
        """picows sends it without asking us."""
        assert self._ws is not None
        sent = self._ws.close_handshake.sent
        assert sent is not None
        code = cast(int, sent.code)
        self._sockets.closes[code] += 1
        if code == MESSAGE_TOO_BIG:
            self._sockets.refusals["frame"] += 1

    def _send_close(self, code: int, reason: str) -> None:
        assert self._ws is not None
        self._sockets.closes[code] += 1
        clipped = reason.encode()[:_REASON_MAX_BYTES].decode(errors="ignore") if reason else ""
        self._ws.send_close(cast(WSCloseCode, code), clipped.encode())

    def _begin_closing(self, timeout_s: float) -> None:
        assert self._tcp is not None
        self.leave_gathering()
        self._release_held()
        self._closing = self._deaf = True
        if self._rate is not None and self._rate.stop():
            self._read_on()  # the answer to our Close is behind what is unread
        self.write = _discard
        self._fragments = None
        self._sockets.end_within(self, timeout_s)
        self._guarded(self.ended)

    def _guarded(self, callback: Callable[..., None], *arguments: Any) -> None:
        """Run a subclass's handler; whatever it raises ends this socket and nothing else."""
        try:
            callback(*arguments)
        except Exception as error:  # noqa: BLE001 - see _failed
            self._failed(error)

    def _failed(self, error: Exception) -> None:
        if isinstance(error, BadFrame):
            self.fail(closing.BAD_FRAME, str(error))
            return
        self._sockets.faults += 1
        log.error("a handler of a live socket failed", exc_info=error)
        self.fail(closing.INTERNAL_ERROR, "internal error")

    # --- called by picows -----------------------------------------------------------------------

    def on_ws_connected(self, transport: WSTransport) -> None:
        # The handshake is over; its headers were an eighth of an idle socket's memory.
        request = transport.request
        request.method, request.path, request.version, request.headers = _NOTHING_ASKED
        self._ws = transport
        connection = cast("_Connection", transport.underlying_transport)
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

    def pause_writing(self) -> None:
        self._overdue = 0
        if not self._closing:
            self.write = self._write_paused
            self._held = self._sockets.outboxes.add(self)
            self._guarded(self.paused)

    def resume_writing(self) -> None:
        self._release_held()
        if not self._closing and self._ws is not None:
            self.write = cast("_Connection", self._ws.underlying_transport).write
            self._guarded(self.resumed)

    # --- reading by ticks (rooms/gathering.py) --------------------------------------------------

    def stop_reading(self) -> int | None:
        """Be read by the loop no more; the descriptor to watch. None under TLS, which only the loop can read,
        and while nothing is to be read.
        """
        tcp = self._tcp
        if self._closing or tcp is None or tcp.is_closing() or self._is_unread:
            return None
        if tcp.get_extra_info("sslcontext") is not None:
            return None
        tcp.pause_reading()
        descriptor: int = tcp.get_extra_info("socket").fileno()
        self._descriptor = descriptor
        return descriptor

    def read_now(self) -> None:
        """Read and handle what has arrived, within bounds. Whatever is unusual is left to the loop."""
        assert self._tcp is not None
        protocol = self._tcp.get_protocol()
        assert isinstance(protocol, _Protocol)
        read = 0
        while self.gathering is not None:
            buffer = protocol.get_buffer(-1)
            try:
                size = os.readv(self._descriptor, (buffer,))
            except (BlockingIOError, InterruptedError):
                return
            except OSError:
                size = 0  # the loop will find it, too
            if size:
                is_all = size < len(buffer)
                protocol.taken(size)
                if is_all:
                    return
            read += size
            if not size or read > _GATHERED_MAX_BYTES:
                self.leave_gathering()

    def read_by_loop(self) -> None:
        """Be read by the loop again."""
        self._read_on()

    def let_others_go_first(self) -> None:
        """Much has come at once: read on in the loop's next turn."""
        self.leave_gathering()
        tcp = self._tcp
        if tcp is not None and not tcp.is_closing():
            tcp.pause_reading()
            asyncio.get_running_loop().call_soon(self._read_on)

    def leave_gathering(self) -> None:
        """Have the loop read this socket, if it does not."""
        if self.gathering is not None:
            self.gathering.remove(self)

    # --- details --------------------------------------------------------------------------------

    def _fragment(self, kind: WSMsgType, payload: bytes, is_last: bool) -> None:
        """RFC 6455, section 5.4."""
        if (kind is _CONTINUATION) is (self._fragments is None):
            self.fail(PROTOCOL_ERROR, "fragments out of order")
            return
        if self._fragments is None:
            self._fragments, self._kind = bytearray(), kind
        if len(self._fragments) + len(payload) > self.options.frame_max_bytes:
            self._sockets.refusals["frame"] += 1
            self.fail(MESSAGE_TOO_BIG, "the message is too large")
            return
        self._fragments += payload
        if is_last:
            message, self._fragments = bytes(self._fragments), None
            self._joined(message)
        elif len(self._fragments) > _LARGE_BYTES:
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

    def _write_paused(self, wire: bytes) -> None:
        assert self._tcp is not None
        self._overdue += len(wire)
        if self._overdue > self.options.outbox_max_bytes - self.options.write_high_bytes:
            self._sockets.refusals["outbox"] += 1
            self.write = _discard
            self._deaf = True
            # Not at once: whoever writes may be in the middle of writing to everybody in the room.
            loop = asyncio.get_running_loop()
            loop.call_soon(self.close, closing.TRY_AGAIN_LATER, "this client does not read")
        else:
            self._tcp.write(wire)
            if self._held is not None:
                self._sockets.outboxes.grew(self._held, len(wire))

    def write_state(self, *wires: bytes) -> None:
        """Queue frames that belong together, of which large ones may be given to other sockets, too.

        The first may fill the write buffer of a client that reads as fast as it can: the others follow it
        whatever they weigh, and only what comes then is held against the client. Small ones are one write.
        """
        if len(wires) > 1 and sum(map(len, wires)) < _LARGE_BYTES:  # what is large is not copied
            wires = (b"".join(wires),)
        write, is_paused = self.write, self.is_paused  # `_write_paused` counts for itself
        for wire in wires:
            held = self._held
            write(wire)
            if self.write is _discard:
                return
            if held is not None and not is_paused:
                self._sockets.outboxes.grew(held, len(wire))
            self._share(wire)

    def _share(self, wire: bytes) -> None:
        """It was just written to a stalled socket."""
        held, tcp = self._held, self._tcp
        if held is None or tcp is None or len(wire) < _LARGE_BYTES:
            return
        if tcp.get_extra_info("sslcontext") is None:  # else it is encrypted for each
            self._sockets.outboxes.shares(held, wire)

    def _release_held(self) -> None:
        held, self._held = self._held, None
        if held is not None:
            self._sockets.outboxes.discard(held)

    def _leave_address(self) -> None:
        address, self.address = self.address, None
        if address is not None:
            self._sockets.leave_address(address)

    # --- messages that are not whole ------------------------------------------------------------

    @property
    def partial_max_bytes(self) -> int:
        """How much of a message may be kept until it is whole."""
        return self.options.frame_max_bytes + _LARGE_BYTES

    def measure(self) -> None:
        """See whether too much is kept here of messages that are not whole, by this client or by all."""
        partial = self.since_frame + (len(self._fragments) if self._fragments is not None else 0)
        if self._closing or partial <= _LARGE_BYTES:
            partial = 0
        if self._partial_bytes and not partial and not self._closing:
            self._give_back()
        self._hold_partial(partial)
        if partial > self.partial_max_bytes:
            self._sockets.refusals["waiting"] += 1
            self.fail(closing.TRY_AGAIN_LATER, "too much was sent before a document was open")
        elif partial and self._sockets.partial_bytes > self.options.partial_total_max_bytes:
            self._sockets.refusals["partial"] += 1
            self.fail(closing.TRY_AGAIN_LATER, "too many large messages are on their way; come back")

    def _give_back(self) -> None:
        """A large message is through: its place in the read buffer need not stay in memory."""
        protocol = self._tcp.get_protocol() if self._tcp is not None else None
        if isinstance(protocol, _Protocol):
            give_back(protocol.unused())

    def _hold_partial(self, size: int) -> None:
        self._sockets.partial_bytes += size - self._partial_bytes
        self._partial_bytes = size
        # While something is kept each read may be the one that completes it.
        self.tells_from = -1 if size else _LARGE_BYTES

    # --- the rate -------------------------------------------------------------------------------

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

    def charge(self, edits: int, size: int) -> None:
        """Count as sent by this client what it costs us besides its own frames."""
        self._edits_left -= edits
        self._bytes_left -= size
        self._known_rate().charge(edits, size)
        if self._edits_left < 0 or self._bytes_left < 0:
            self._over_rate()

    def _known_rate(self) -> Rate:
        rate = self._rate
        if rate is None:
            rate = self._rate = Rate(self.options, self._began_at)
        return rate

    @property
    def _is_unread(self) -> bool:
        """For a while, since the client sends too much."""
        return self._rate is not None and self._rate.is_pausing

    def _over_rate(self) -> None:
        """The allowance is used up: grant what time has brought since; is that too little, read no more for
        a while, and close at the end of the patience. What arrived is handled all the same.
        """
        rate, now = self._known_rate(), asyncio.get_running_loop().time()
        if self._closing or self._tcp is None or rate.is_pausing:
            return
        edits, size = rate.grant(now, self._edits_left, self._bytes_left)
        self._edits_left += edits
        self._bytes_left += size
        pause_s = rate.pause_s(self._edits_left, self._bytes_left)
        if pause_s <= 0 or self._tcp.is_closing():
            return
        patience_s = rate.patience_left_s(now)
        self.leave_gathering()
        self._tcp.pause_reading()
        self._sockets.throttles += 1
        if pause_s > patience_s:
            rate.pause(patience_s, self._lose_patience)
        else:
            rate.pause(pause_s, self._read_on)

    def _read_on(self) -> None:
        """Have the loop read this socket, unless it is not to be read at present."""
        tcp = self._tcp
        if tcp is None or tcp.is_closing() or self._is_broken:
            return
        if not self._is_unread and self.gathering is None:
            tcp.resume_reading()

    def _lose_patience(self) -> None:
        self._sockets.refusals["rate"] += 1
        # Not `close`: it would wait for an answer behind all that is unread.
        self.fail(closing.TRY_AGAIN_LATER, "too many edits; come back")

    def visit(self, now: float) -> None:
        """The sweep passes by: see whether anybody is there, and keep the connection alive."""
        if self._heard:
            self._heard, self._heard_at = False, now
        if self._closing or self._ws is None:
            return
        if self._is_unread:
            self._heard_at = now
        if self._held is not None:
            if now - self._held.since > self.options.stall_max_s:
                self.abort()
            return
        silence = now - self._heard_at
        if silence > self.options.silence_max_s:
            self.abort()
            return
        if silence > self.options.ping_after_s:
            self._ws.send_ping()
        self._guarded(self.keepalive, now)


_get_buffer = WSProtocol.get_buffer
_buffer_updated = WSProtocol.buffer_updated


class _Protocol(WSProtocol):  # type: ignore[misc]  # see the import
    """picows' protocol, which also tells its listener when the parser has given up."""

    __slots__ = ()

    data_received = staticmethod(_discard)
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
        listener = self.listener
        listener.since_frame += nbytes
        if nbytes > _FEW_BYTES:
            self._much(listener, nbytes)
        else:
            _buffer_updated(self, nbytes)
        listener.moderation.count()
        if listener.since_frame > listener.tells_from:
            listener.measure()
        if self.transport.is_close_frame_sent:
            self.listener.parser_failed()

    def _much(self, listener: LiveSocket, nbytes: int) -> None:
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
        """So many bytes were read into the buffer by somebody else than the loop."""
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


class _Connection:
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


def hand_over(socket: LiveSocket, received: bytes, connection: asyncio.Transport) -> None:
    """Give a connection to picows. `received`: a valid opening handshake and what came after it.

    The connection's reading may be paused, and goes on then.
    """
    if connection.is_closing():
        socket.abandon()
        return
    options = socket.options
    protocol = _Protocol(
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
    protocol.connection_made(_Connection(connection))
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
        if self.logger.isEnabledFor(logging.DEBUG):
            self.logger.debug(msg, *args)

    warning = error = info


_picows_log = _PicowsLog(log)
