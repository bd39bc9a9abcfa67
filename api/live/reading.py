"""When a live socket is read, and how much of what it sends is kept.

- **Its rate**: past the allowance it is not read for a while, and is closed at the end of the patience. What
  an answer costs counts against its asker's rate.
- **Messages that are not whole** are bounded, for each client and for all of them together.
- **Nobody is served for long at a stretch**: after many frames at once the others have their turn. One read
  brings little unless a large message is under way (`connection`).
- **While a large edit goes in** that the client has sent, what it sends next waits with the client.
- **By ticks**: who talks in a busy room is read when its tick is due (`rooms/gathering.py`).
"""

import asyncio
import os

from api.live.connection import PicowsProtocol
from api.live.pages import give_back
from api.live.rate import Rate
from api.live.state import LARGE_BYTES, SocketState
from rooms import closing

MESSAGE_TOO_BIG = 1009
_GATHERED_MAX_BYTES = 64 * 1024
"""Whoever sends more within a tick is read by the loop."""


class ReadSocket(SocketState):
    """A socket that is read by the loop or by ticks, as far as its rate allows."""

    __slots__ = ()

    def fail(self, code: int, reason: str) -> None:
        """Send Close and serve no more."""
        raise NotImplementedError

    # --- by ticks (rooms/gathering.py) ----------------------------------------------------------

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
        assert isinstance(protocol, PicowsProtocol)
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

    # --- messages that are not whole ------------------------------------------------------------

    @property
    def partial_max_bytes(self) -> int:
        """How much of a message may be kept until it is whole."""
        return self.options.frame_max_bytes + LARGE_BYTES

    def measure(self) -> None:
        """See whether too much is kept here of messages that are not whole, by this client or by all."""
        partial = self.since_frame + (len(self._fragments) if self._fragments is not None else 0)
        if self._closing or partial <= LARGE_BYTES:
            partial = 0
        if self._partial_bytes and not partial and not self._closing:
            self._give_back()
        self._hold_partial(partial)
        if partial > self.partial_max_bytes:
            self.refuse_partial()
        elif partial and self._sockets.partial_bytes > self.options.partial_total_max_bytes:
            self._sockets.refusals["partial"] += 1
            self.fail(closing.TRY_AGAIN_LATER, "too many large messages are on their way; come back")

    def refuse_message(self) -> None:
        """It is larger than any may be: to come back and send it again would not help."""
        self._sockets.refusals["frame"] += 1
        self.fail(MESSAGE_TOO_BIG, "the message is too large")

    def refuse_partial(self) -> None:
        """More than `partial_max_bytes` has come of a message that is not whole."""
        self.refuse_message()

    def _give_back(self) -> None:
        """A large message is through: its place in the read buffer need not stay in memory."""
        protocol = self._tcp.get_protocol() if self._tcp is not None else None
        if isinstance(protocol, PicowsProtocol):
            give_back(protocol.unused())

    def _hold_partial(self, size: int) -> None:
        self._sockets.partial_bytes += size - self._partial_bytes
        self._partial_bytes = size
        # While something is kept each read may be the one that completes it.
        self.tells_from = -1 if size else LARGE_BYTES

    # --- the rate -------------------------------------------------------------------------------

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
        """For a while, since the client sends too much, or something large that is worked on."""
        return self._held_back > 0 or (self._rate is not None and self._rate.is_pausing)

    def hold_back(self) -> None:
        """Read no more until `go_on`; what has arrived is handled."""
        tcp = self._tcp
        if tcp is None or self._closing or tcp.is_closing():
            return
        self._held_back += 1
        self.leave_gathering()
        tcp.pause_reading()

    def go_on(self) -> None:
        """Read on, after as many calls as of `hold_back`."""
        if self._held_back:
            self._held_back -= 1
            self._read_on()

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
