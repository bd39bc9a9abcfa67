"""Whole documents as the frames that go out: large ones are framed once for all newcomers of some seconds."""

from collections.abc import Callable, Hashable, Sequence

from crdt import y_websocket
from crdt.merging import EMPTY_UPDATE
from rooms.effects import SendState
from rooms.peer import Peer
from rooms.ticker import Ticker

LARGE_BYTES = 256 * 1024
_KEPT_MAX = 4
_KEPT_S = 3.0


class StateWires:
    """The states of one room."""

    __slots__ = ("_kept", "_ticker")

    def __init__(self, ticker: Ticker) -> None:
        self._ticker = ticker
        self._kept: dict[Hashable, tuple[bytes, bytes]] = {}
        """States as they were last framed."""

    def of(self, peer: Peer, effect: SendState) -> Sequence[bytes]:
        """The frames that bring a state to a peer; the SyncStep2 is the last one."""
        if effect.later == EMPTY_UPDATE:
            return (self._shared(peer, effect.base, y_websocket.sync_step2),)
        return (
            self.of_base(peer, effect.base),
            peer.frame(y_websocket.sync_step2(effect.later)),
        )

    def of_base(self, peer: Peer, state: bytes) -> bytes:
        """The frame that brings a state of which a SyncStep2 is to follow."""
        return self._shared(peer, state, y_websocket.update)

    def _shared(self, peer: Peer, state: bytes, message: Callable[[bytes], bytes]) -> bytes:
        if len(state) < LARGE_BYTES:
            return peer.frame(message(state))
        key = peer.framing, message
        known = self._kept.get(key)
        if known is None or known[0] is not state:
            if not self._kept or len(self._kept) >= _KEPT_MAX:
                self._kept.clear()
                self._ticker.at(self._ticker.now() + _KEPT_S, self._kept.clear)
            known = self._kept[key] = state, peer.frame(message(state))
        return known[1]
