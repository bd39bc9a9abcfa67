"""A live socket's write buffer, and its bound.

**Memory is bounded.** Past the write buffer's high mark the session is told to pause; what is still written
to a paused socket (acknowledgements, answers) is counted, and past `outbox_max_bytes` the socket is closed.
Pings are not answered while it is paused. What all sockets hold is counted in `outboxes`.

Writing is the hot path (each delivered copy is one call), so `write` is the transport's own bound method
while all is well: no Python frame in between.
"""

import asyncio
from collections.abc import Callable
from typing import TypeVar, cast

from api.live.connection import Connection
from api.live.ending import EndingSocket
from api.live.state import LARGE_BYTES, discard
from rooms import closing

HandledT = TypeVar("HandledT")


class BufferedSocket(EndingSocket):
    """A socket that may be written to whether its client reads or not."""

    __slots__ = ()

    # --- for subclasses -------------------------------------------------------------------------

    def paused(self) -> None:
        """The write buffer passed its high mark."""

    def resumed(self) -> None:
        """The write buffer has drained."""

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

    def write_state(self, *wires: bytes) -> None:
        """Queue frames that belong together, of which large ones may be given to other sockets, too.

        The first may fill the write buffer of a client that reads as fast as it can: the others follow it
        whatever they weigh, and only what comes then is held against the client. Small ones are one write.
        """
        if len(wires) > 1 and sum(map(len, wires)) < LARGE_BYTES:  # what is large is not copied
            wires = (b"".join(wires),)
        write, is_paused = self.write, self.is_paused  # `_write_paused` counts for itself
        for wire in wires:
            held = self._held
            write(wire)
            if self.write is discard:
                return
            if held is not None and not is_paused:
                self._sockets.outboxes.grew(held, len(wire))
            self._share(wire)

    def _share(self, wire: bytes) -> None:
        """It was just written to a stalled socket."""
        held, tcp = self._held, self._tcp
        if held is None or tcp is None or len(wire) < LARGE_BYTES:
            return
        if tcp.get_extra_info("sslcontext") is None:  # else it is encrypted for each
            self._sockets.outboxes.shares(held, wire)

    # --- called by picows -----------------------------------------------------------------------

    def pause_writing(self) -> None:
        self._overdue = 0
        if not self._closing:
            self.write = self._write_paused
            self._held = self._sockets.outboxes.add(self)
            self._guarded(self.paused)

    def resume_writing(self) -> None:
        self._release_held()
        if not self._closing and self._ws is not None:
            self.write = cast(Connection, self._ws.underlying_transport).write
            self._guarded(self.resumed)

    def _write_paused(self, wire: bytes) -> None:
        assert self._tcp is not None
        self._overdue += len(wire)
        if self._overdue > self.options.outbox_max_bytes - self.options.write_high_bytes:
            self._sockets.refusals["outbox"] += 1
            self.write = discard
            self._deaf = True
            # Not at once: whoever writes may be in the middle of writing to everybody in the room.
            loop = asyncio.get_running_loop()
            loop.call_soon(self.close, closing.TRY_AGAIN_LATER, "this client does not read")
        else:
            self._tcp.write(wire)
            if self._held is not None:
                self._sockets.outboxes.grew(self._held, len(wire))
