"""The Hocuspocus protocol: one socket, many documents, each admitted in band.

A document is known by its raw key, `name` or `name \\0 sessionId`, and each key lives by itself:

    (unknown) --first frame--> WAITING --Auth--> JOINING --joined--> OPEN --CloseDocument, room--> (unknown)
                                  |                 |
                                  +-----denied------+--------------------------------------------> (unknown)

What it holds true:

- Stock providers (3.4 to 4.8) pipeline: frames may come before Auth, and do come before its answer. They
  wait in order and are replayed once the document is open. They are bounded in bytes, frames, documents
  and time, and traffic extends no time; past a bound the socket closes, since a dropped frame would be an
  edit that is never acknowledged.
- Every SyncStep2 and Update gets exactly one SyncStatus: the provider counts (`unsyncedChanges`).
- A denied key is forgotten, so that a retry works, and the socket stays: the provider ignores close codes
  and would reconnect. A socket without any open document ends after a while.
- A document ends alone (denied) when its member may no longer be there, and with the socket when the
  client is to come back: after Close (7) a provider stays connected and unsynced, so moving it means
  closing the socket.
"""

import asyncio
import logging
import math
import re
import time
from collections.abc import Callable, Hashable
from enum import Enum

from api.errors import close_code_of
from api.live.admission import Admission, diagram_of
from api.live.editors import Editors, Informed, Notice, missed
from api.live.options import LiveOptions
from api.live.socket import LiveSocket, binary_frame
from api.live.sockets import Sockets
from api.tokens import CollabClaims
from crdt import hocuspocus, y_websocket
from crdt.hocuspocus import Auth, BroadcastStateless, CloseDocument, Envelope, Ping, Pong, Stateless
from crdt.messages import Message
from rooms import closing
from rooms.session import Session
from tmi.domain.errors import BadFrame, Expired, Forbidden, TmiError, Unavailable, UnknownKey
from tmi.domain.ids import UserId
from tmi.domain.roles import Action, Role, may

log = logging.getLogger(__name__)

_PONG = binary_frame(hocuspocus.PONG)
_TOO_EARLY = "too much was sent before a document was open"
_IGNORED_COST = 10
"""What means nothing here counts as so many edits: no provider sends much of it."""
_EMPTY_AWARENESS = b"\x01\x01\x00"
_NOT_IN_A_NAME = re.compile(r"[^0-9a-zA-Z-]")
_ENDS_ALONE = frozenset(
    {closing.SIGN_IN_ENDED, closing.NO_LONGER_ALLOWED, closing.DIAGRAM_DELETED, closing.DOCUMENT_TOO_LARGE}
)


class State(Enum):
    """Where a document on a socket stands."""

    WAITING = "waiting"
    JOINING = "joining"
    OPEN = "open"


class HocuspocusDocument(Informed):
    """One document on one socket; the room's peer."""

    __slots__ = (
        "_accepted",
        "_is_synced",
        "_missed_after",
        "_owed",
        "framing",
        "key",
        "prefix",
        "queue",
        "queued_bytes",
        "role",
        "session",
        "since",
        "socket",
        "state",
        "task",
        "token_ends_at",
        "user",
        "wants_acknowledgements",
    )

    def __init__(self, socket: "HocuspocusSocket", key: str, since: float) -> None:
        """`since`: when its first frame came."""
        self.socket = socket
        self.key = key
        self.prefix = hocuspocus.prefix(key)
        self.since = since
        self.state = State.WAITING
        self.queue: list[Message] = []
        self.queued_bytes = 0
        self.task: asyncio.Task[None] | None = None
        self.session: Session | None = None
        self.user: UserId | None = None
        """Set while this document counts as one of the user's."""
        self.token_ends_at = math.inf
        """When to ask for a fresh token, in seconds since 1970. Its end closes nothing."""
        self.role = Role.READER
        self.wants_acknowledgements = True
        self.framing: Hashable = ("hocuspocus", key)
        self._accepted = self.frame(hocuspocus.sync_status(accepted=True))
        self._is_synced = False
        self._owed = 0
        """Acknowledgements that wait for the first SyncStep2's."""
        self._missed_after: int | None = None
        """The number of the last notice before one that it did not get."""

    def frame(self, body: bytes) -> bytes:
        """A y-protocols body behind the document's key."""
        return binary_frame(self.prefix + body)

    def write(self, wire: bytes) -> None:
        """Queue a complete frame."""
        self.socket.write(wire)

    def write_state(self, *wires: bytes) -> None:
        """Queue the frames of one state, which other sockets may be given, too."""
        self.socket.write_state(*wires)

    def acknowledge(self, syncs: int, updates: int) -> None:
        """One SyncStatus each: the provider counts them.

        None before the first SyncStep2 is committed: a provider that had edits in its queue when it connected
        (4.8) sends them uncounted, and would take the first answer for that of its SyncStep2.
        """
        self._owed += syncs + updates
        self._is_synced = self._is_synced or syncs > 0
        if self._is_synced:
            owed, self._owed = self._owed, 0
            self.socket.write(self._accepted * owed)

    def refuse(self, reason: str) -> None:  # noqa: ARG002
        """The provider keeps the edit and goes on."""
        self.socket.write(self.frame(hocuspocus.sync_status(accepted=False)))

    def role_changed(self, role: Role) -> None:
        """The member's role is another one now."""
        self.role = role
        self.tell_role()

    def tell_role(self) -> None:
        """Tell the provider whether it may edit."""
        is_readonly = not may(self.role, Action.EDIT)
        self.socket.write(self.frame(hocuspocus.authenticated(readonly=is_readonly)))

    def inform(self, notice: Notice) -> bool:
        """A message that the provider hands to `onStateless`."""
        if self.socket.is_paused:
            if self._missed_after is None:
                self._missed_after = notice.after
            return False
        wire = notice.wires.get(self.key)
        if wire is None:
            wire = notice.wires[self.key] = self.frame(hocuspocus.stateless(notice.text))
        self.socket.write(wire)
        return True

    def tell_missed(self) -> None:
        """The client reads again."""
        after, self._missed_after = self._missed_after, None
        if after is not None:
            self.inform(missed(after))

    def answered(self, size: int) -> None:
        """It counts for the socket."""
        self.socket.charge(0, size)

    def hold_back(self) -> None:
        """The whole socket waits."""
        self.socket.hold_back()

    def go_on(self) -> None:
        """See `hold_back`."""
        self.socket.go_on()

    def close(self, code: int, reason: str) -> None:
        """End this document, or the whole socket where the client is to come back or is at fault."""
        if code in _ENDS_ALONE:
            self.socket.deny(self, reason)
            if code == closing.DOCUMENT_TOO_LARGE:
                # The provider keeps the edit that was refused, so it must not believe itself connected.
                self.socket.close(code, reason)
        else:
            self.socket.close(code, reason)


class HocuspocusSocket(LiveSocket):
    """See the module's text."""

    __slots__ = (
        "_admission",
        "_denials",
        "_documents",
        "_editors",
        "_last",
        "_release_handshake",
        "_unused_since",
        "_visitor",
        "_waiting_bytes",
        "_waiting_frames",
    )

    def __init__(
        self,
        options: LiveOptions,
        sockets: Sockets,
        editors: Editors,
        admission: Admission,
        release_handshake: Callable[[], None],
        visitor: CollabClaims | None = None,
    ) -> None:
        """`release_handshake` may be called many times: the first time says that the socket is of use.

        `visitor`: whose browser it is, who needs no token.
        """
        super().__init__(options, sockets)
        self._editors = editors
        self._admission = admission
        self._release_handshake = release_handshake
        self._documents: dict[str, HocuspocusDocument] = {}
        self._last: HocuspocusDocument | None = None
        self._visitor = visitor
        self._unused_since = _now()
        self._denials = 0
        self._waiting_bytes = 0
        self._waiting_frames = 0

    # --- the socket -----------------------------------------------------------------------------

    @property
    def partial_max_bytes(self) -> int:
        """As much as frames that are whole may take, until it is known who that is."""
        return self.options.waiting_max_bytes if self.user is None else super().partial_max_bytes

    def refuse_partial(self) -> None:
        if self.user is not None:
            super().refuse_partial()
            return
        self._sockets.refusals["waiting"] += 1
        self.fail(closing.TRY_AGAIN_LATER, _TOO_EARLY)

    def received(self, message: bytes) -> None:
        last = self._last
        if last is not None and last.session is not None and message.startswith(last.prefix):
            # Nearly all frames of a busy document: an edit or a cursor's move, for the document of the
            # frame before.
            body = message[len(last.prefix) :]
            update = y_websocket.lone_update(body)
            if update is not None:
                last.session.receive_update(update)
                return
            awareness = y_websocket.lone_awareness(body)
            if awareness is not None:
                last.session.receive_awareness(awareness)
                return
        envelope = hocuspocus.decode(message)
        content = envelope.message
        if isinstance(content, Ping):
            self.answer_ping(_PONG)
        elif isinstance(content, Auth):
            self._authenticate(envelope, content)
        elif isinstance(content, CloseDocument):
            self._detach(envelope.key)
        elif isinstance(content, BroadcastStateless):
            raise BadFrame("BroadcastStateless is for servers")
        elif isinstance(content, Pong | Stateless):
            self.charge(_IGNORED_COST - 1, 0)
        else:
            self._message(envelope.key, content, len(message))

    def ended(self) -> None:
        documents, self._documents = list(self._documents.values()), {}
        for document in documents:
            self._leave(document)
        self._release_handshake()

    def paused(self) -> None:
        for session in self._sessions():
            session.pause()

    def resumed(self) -> None:
        for document in self._documents.values():
            if document.session is not None:
                document.session.resume()
                document.tell_missed()

    def keepalive(self, now: float) -> None:
        self._ask_for_tokens()
        for document in list(self._documents.values()):
            if document.state is State.WAITING and now - document.since > self.options.auth_timeout_s:
                self.deny(document, "authenticate first")
        in_use = next((document for document in self._documents.values() if document.session), None)
        if in_use is not None:
            self._unused_since = now
            # The provider closes after 30 s without a message. Version 3 does not know the protocol's
            # Ping, and an awareness update about nobody harms neither.
            self.write(in_use.frame(_EMPTY_AWARENESS))
        elif now - self._unused_since > self.options.unused_max_s:
            self.close(closing.SIGN_IN_ENDED, "no document is open")

    # --- documents ------------------------------------------------------------------------------

    def _document(self, key: str) -> HocuspocusDocument:
        document = self._documents.get(key)
        if document is None:
            if len(self._documents) >= self.options.documents_per_socket_max:
                self._sockets.refusals["documents_per_socket"] += 1
                raise BadFrame("too many documents on one socket")
            document = self._documents[key] = HocuspocusDocument(self, key, _now())
            if len(self._documents) > 1:
                # One room's tick may not decide when another room hears of something.
                self.leave_gathering()
                for session in self._sessions():
                    session.source = None
        return document

    def _sessions(self) -> list[Session]:
        return [document.session for document in self._documents.values() if document.session is not None]

    def _message(self, key: str, message: Message, size: int) -> None:
        document = self._document(key)
        if document.session is not None:
            self._last = document
            document.session.receive(message)
            return
        document.queue.append(message)
        document.queued_bytes += size
        self._waiting_bytes += size
        self._waiting_frames += 1
        if (
            self._waiting_bytes > self.options.waiting_max_bytes
            or self._waiting_frames > self.options.waiting_max_frames
        ):
            self._sockets.refusals["waiting"] += 1
            self.close(closing.TRY_AGAIN_LATER, _TOO_EARLY)

    def _authenticate(self, envelope: Envelope, auth: Auth) -> None:
        document = self._document(envelope.key)
        if document.state is State.OPEN:
            self._refresh(document, envelope.document, auth.token)
        elif document.state is State.WAITING:
            document.state = State.JOINING
            document.task = asyncio.create_task(self._join(document, envelope.document, auth.token))

    async def _join(self, document: HocuspocusDocument, name: str, token: str) -> None:
        try:
            async with asyncio.timeout(self.options.handshake_timeout_s):
                session = await self._admit(document, name, token)
        except TimeoutError:
            self._refuse(document, Unavailable("opening the document took too long"))
        except TmiError as error:
            self._refuse(document, error)
        except Exception:
            self._sockets.faults += 1
            log.exception("a document could not be opened")
            self.fail(closing.INTERNAL_ERROR, "internal error")
        else:
            self._guarded(self._start, document, session)

    async def _admit(self, document: HocuspocusDocument, name: str, token: str) -> Session:
        diagram = diagram_of(name)
        by_cookie = self._by_cookie(token)
        claims = by_cookie or await self._admission.identified(token, diagram)
        member, model = await self._admission.member_and_model(claims.user, claims.sign_in, diagram)
        limit = await self._admission.seats_of(member.user)
        self._sockets.take_seat(member.user, limit)
        document.user, document.role, document.token_ends_at = member.user, member.role, claims.ends_at
        self.user = self.user or member.user
        return await self._editors.join(model, diagram, member, document)

    def _by_cookie(self, token: str) -> CollabClaims | None:
        """Whose browser it is, for who gives no token."""
        return None if token else self._visitor

    def _start(self, document: HocuspocusDocument, session: Session) -> None:
        document.session, document.state, document.task = session, State.OPEN, None
        if len(self._documents) == 1:
            session.source = self
        self._release_handshake()
        document.tell_role()
        if self.is_paused:
            session.pause()
        for message in self._take_queue(document):
            if self._documents.get(document.key) is not document:
                return
            session.receive(message)

    def _refresh(
        self, document: HocuspocusDocument, name: str, token: str, *, is_again: bool = False
    ) -> None:
        """A fresh token for an open document: the session stays, whatever role it has by now.

        So it does where the client has none but the old one: who asked for it was this service.
        """
        try:
            claims = self._by_cookie(token) or self._admission.identify(token, diagram_of(name))
            if claims.user != document.user:
                raise Forbidden("the token is another user's")
        except UnknownKey as error:
            if is_again or document.task is not None:
                self.deny(document, str(error))
            else:
                document.task = asyncio.create_task(self._refresh_later(document, name, token))
        except Expired:
            document.tell_role()
        except TmiError as error:
            self.deny(document, str(error))
        else:
            document.token_ends_at = claims.ends_at
            document.tell_role()

    async def _refresh_later(self, document: HocuspocusDocument, name: str, token: str) -> None:
        """Another node may know the token's key, and this one not yet."""
        await self._admission.learn()
        document.task = None
        if self._documents.get(document.key) is document:
            self._guarded(lambda: self._refresh(document, name, token, is_again=True))

    def _ask_for_tokens(self) -> None:
        """Ask for a fresh one where a token has ended, once for each."""
        now = time.time()
        for document in self._documents.values():
            if document.state is State.OPEN and document.token_ends_at <= now:
                document.token_ends_at = math.inf
                self.write(document.frame(hocuspocus.auth_request()))

    def _refuse(self, document: HocuspocusDocument, error: TmiError) -> None:
        self._admission.refused(f"/collab/{_NOT_IN_A_NAME.sub('', document.key)[:80]}", error)
        if isinstance(error, Unavailable):
            self.close(close_code_of(error), str(error))
        else:
            self.deny(document, str(error))

    def deny(self, document: HocuspocusDocument, reason: str) -> None:
        """Tell the provider that it may not (or no longer) have this document, and forget its key."""
        self._detach(document.key)
        self._denials += 1
        self.write(document.frame(hocuspocus.auth_denied(reason)))
        if self._denials > self.options.denials_max:
            self.close(closing.SIGN_IN_ENDED, "too many refusals")

    def _detach(self, key: str) -> None:
        document = self._documents.pop(key, None)
        if document is not None:
            self._leave(document)

    def _leave(self, document: HocuspocusDocument) -> None:
        self.leave_gathering()
        if self._last is document:
            self._last = None
        self._take_queue(document)
        session, document.session = document.session, None
        if session is not None:
            session.leave()
        if document.user is not None:
            self._sockets.leave_seat(document.user)
            document.user = None
        if document.task is not None and document.task is not asyncio.current_task():
            document.task.cancel()

    def _take_queue(self, document: HocuspocusDocument) -> list[Message]:
        queue, document.queue = document.queue, []
        self._waiting_frames -= len(queue)
        self._waiting_bytes -= document.queued_bytes
        document.queued_bytes = 0
        return queue


def _now() -> float:
    return asyncio.get_running_loop().time()
