"""How much one connection may send: a bucket of edits and one of bytes, refilled only when one runs dry.

The socket keeps what is left of both as plain numbers and subtracts each frame; nothing else is done per
frame. What was granted in all, less what is left, is what the client has sent.

A client over its rate is not read for a while: what it sends waits in the kernel and with the client, so it
costs no memory here, and nothing that arrived is refused, since the client would keep it and diverge.
"""

import asyncio
from collections.abc import Callable

from api.live.options import LiveOptions

WINDOW_S = 60.0
"""Patience is counted anew after so long."""
_STEP_S = 0.05
"""Reading goes on when so much has been refilled: a pause for each frame would cost more than it spares."""


class Rate:
    """The slow part: refills, pauses, and how long a connection has been paused of late."""

    __slots__ = (
        "_granted_at",
        "_options",
        "_paused_s",
        "_timer",
        "_window_began",
        "bytes_granted",
        "edits_granted",
    )

    def __init__(self, options: LiveOptions, now: float) -> None:
        """The bursts are granted at once."""
        self._options = options
        self._granted_at = self._window_began = now
        self._paused_s = 0.0
        self._timer: asyncio.TimerHandle | None = None
        self.edits_granted: float = options.edits_burst
        self.bytes_granted: float = options.bytes_burst

    def grant(self, now: float, edits_left: float, bytes_left: float) -> tuple[float, float]:
        """What to add to each allowance for the time since the last grant; never above the bursts."""
        options, elapsed_s = self._options, now - self._granted_at
        self._granted_at = now
        edits = min(elapsed_s * options.edits_per_s, options.edits_burst - edits_left)
        size = min(elapsed_s * options.bytes_per_s, options.bytes_burst - bytes_left)
        self.edits_granted += edits
        self.bytes_granted += size
        return edits, size

    def charge(self, edits: int, size: int) -> None:
        """So much of what was granted is used up by what the client did not send."""
        self.edits_granted -= edits
        self.bytes_granted -= size

    def pause_s(self, edits_left: float, bytes_left: float) -> float:
        """How long not to read; 0 if there is an allowance."""
        if edits_left >= 0 and bytes_left >= 0:
            return 0.0
        options = self._options
        return max(-edits_left / options.edits_per_s, -bytes_left / options.bytes_per_s) + _STEP_S

    def patience_left_s(self, now: float) -> float:
        """How much longer the connection may be paused within this minute."""
        if now - self._window_began > WINDOW_S:
            self._window_began, self._paused_s = now, 0.0
        return max(self._options.rate_patience_s - self._paused_s, 0.0)

    @property
    def is_pausing(self) -> bool:
        """Whether a pause is under way."""
        return self._timer is not None

    def pause(self, for_s: float, then: Callable[[], None]) -> None:
        """Call back after a pause, which is counted."""
        self._paused_s += for_s
        self._timer = asyncio.get_running_loop().call_later(for_s, self._over, then)

    def stop(self) -> bool:
        """Forget a pause: nothing will be called back. Whether there was one."""
        timer, self._timer = self._timer, None
        if timer is None:
            return False
        timer.cancel()
        return True

    def _over(self, then: Callable[[], None]) -> None:
        self._timer = None
        then()
