"""The y-websocket protocol: one socket, one diagram; everything is decided before the upgrade."""

from collections.abc import Hashable, Sequence

from api.live.options import LiveOptions
from api.live.socket import LiveSocket, binary_frame
from api.live.sockets import Sockets
from crdt import y_websocket
from crdt.messages import Message
from rooms import closing
from rooms.peer import Member
from rooms.service import Rooms
from rooms.session import Session
from tmi.domain.ids import CollaborationId, DiagramId, UserId
from tmi.domain.roles import Action, Role, may

_KEEPALIVE = binary_frame(y_websocket.KEEPALIVE)
FRAMING = "y-websocket"


class YWebsocketSocket(LiveSocket):
    """A y-websocket client: the socket is itself the room's peer."""

    __slots__ = ("_committed", "_is_synced", "_session", "_tells_saved", "_was_refused", "collaboration")

    def __init__(
        self,
        options: LiveOptions,
        sockets: Sockets,
        user: UserId,
        collaboration: CollaborationId | None = None,
        *,
        tells_saved: bool,
    ) -> None:
        """`user` has taken a seat, which is left at the end. `tells_saved`: the client asked for `saved`
        frames. `collaboration`: the session whose ticket let the client in.
        """
        super().__init__(options, sockets)
        self.user = user
        self.collaboration = collaboration
        self._session: Session | None = None
        self._tells_saved = tells_saved
        self._committed = 0
        self._is_synced = False
        self._was_refused = False

    async def join(self, rooms: Rooms, diagram: DiagramId, member: Member) -> None:
        """Take a seat in the room, before the upgrade. Raises what `Rooms.join` raises."""
        self._session = await rooms.join(diagram, member, self, may_come_early=True)
        self._session.source = self

    # --- the socket -----------------------------------------------------------------------------

    def received(self, message: bytes) -> None:
        session = self._session
        if session is None:
            return
        update = y_websocket.lone_update(message)
        if update is not None:
            session.receive_update(update)
            return
        awareness = y_websocket.lone_awareness(message)
        if awareness is not None:
            session.receive_awareness(awareness)
            return
        messages = y_websocket.decode(message)
        if len(messages) == 1:
            session.receive(messages[0])
        else:
            self.charge(len(messages) - 1, 0)
            self.together(self._several, messages)

    def _several(self, messages: Sequence[Message]) -> None:
        session = self._session
        assert session is not None
        for message in messages:
            session.receive(message)

    def ended(self) -> None:
        session, self._session = self._session, None
        if session is not None:
            session.leave()
        if self.user is not None:
            self._sockets.leave_seat(self.user)

    def paused(self) -> None:
        if self._session is not None:
            self._session.pause()

    def resumed(self) -> None:
        if self._session is not None:
            self._session.resume()

    def keepalive(self, now: float) -> None:  # noqa: ARG002
        # The client closes after 30 s without a message; pings do not count (y-websocket 3.1).
        self.write(_KEEPALIVE)

    # --- the room's peer ------------------------------------------------------------------------

    @property
    def framing(self) -> Hashable:
        """All y-websocket sockets share one."""
        return FRAMING

    @property
    def wants_acknowledgements(self) -> bool:
        """If its address says `saved=1`."""
        return self._tells_saved

    def frame(self, body: bytes) -> bytes:
        """A y-websocket message is the body alone."""
        return binary_frame(body)

    def acknowledge(self, syncs: int, updates: int) -> None:
        """Tell how many of this connection's Update messages are committed, if the client asked to know.

        The frame speaks of the SyncStep2 too, which may come after the first updates: edits made offline.
        """
        self._committed += updates
        self._is_synced = self._is_synced or syncs > 0
        if self._tells_saved and self._is_synced:
            self.write(binary_frame(y_websocket.saved(self._committed)))

    def refuse(self, reason: str) -> None:  # noqa: ARG002
        """The protocol has no word for it; and `saved(n)` would no longer speak of the *first* n edits."""
        if self._tells_saved:
            self._tells_saved, self._was_refused = False, True

    def role_changed(self, role: Role) -> None:
        """The protocol has no word for it.

        A client that was told what is saved, and had an edit refused, has to come back once it may edit
        again: its sync offers that edit, and counting begins anew. By a ticket it could not come back.
        """
        if self._was_refused and self.collaboration is None and may(role, Action.EDIT):
            self.close(closing.SERVICE_RESTART, "your role has changed; connect again")

    def answered(self, size: int) -> None:
        """It counts as if the client had sent it."""
        self.charge(0, size)
