"""How a live socket ends.

- **Exactly one Close frame** leaves a socket, whatever happens, and nothing after it.
- **The peer's fault is not our bug.** A BadFrame closes 4400. Any other exception is logged with its
  traceback, counted, and closes this socket with 1011; no other socket notices.
- **A closing socket ends**: if the peer does not finish the handshake, or does not read, it is aborted. So is
  one that is silent for too long.
"""

import logging
from collections.abc import Callable
from typing import Any, cast

from picows import WSCloseCode

from api.live.reading import MESSAGE_TOO_BIG, ReadSocket
from api.live.state import discard
from rooms import closing
from tmi.domain.errors import BadFrame

log = logging.getLogger(__name__)

_FAILURE_LINGER_S = 0.5
_REASON_MAX_BYTES = 123  # RFC 6455, section 5.5: a control frame carries 125 bytes, two of them the code


class EndingSocket(ReadSocket):
    """A socket that is closed once, and whose handlers may fail."""

    __slots__ = ()

    # --- for subclasses -------------------------------------------------------------------------

    def ended(self) -> None:
        """Nothing will be received or sent any more; called once, also when the upgrade never happened."""

    def keepalive(self, now: float) -> None:
        """Send what keeps this client from thinking that the server is gone; called at each sweep."""

    # --- closing --------------------------------------------------------------------------------

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

    def abandon(self) -> None:
        """The upgrade will not happen."""
        self._leave_address()
        self._closing = self._deaf = True
        self.write = discard
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
        clipped = reason.encode()[:_REASON_MAX_BYTES].decode(errors="ignore")
        self._ws.send_close(cast(WSCloseCode, code), clipped.encode())

    def _begin_closing(self, timeout_s: float) -> None:
        assert self._tcp is not None
        self.leave_gathering()
        self._release_held()
        self._closing = self._deaf = True
        is_paused = self._rate is not None and self._rate.stop()
        if is_paused or self._held_back:
            self._held_back = 0
            self._read_on()  # the answer to our Close is behind what is unread
        self.write = discard
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

    def _release_held(self) -> None:
        held, self._held = self._held, None
        if held is not None:
            self._sockets.outboxes.discard(held)

    def _leave_address(self) -> None:
        address, self.address = self.address, None
        if address is not None:
            self._sockets.leave_address(address)

    # --- the sweep ------------------------------------------------------------------------------

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
