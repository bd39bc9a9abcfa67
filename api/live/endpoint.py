"""Where the listener hands WebSocket upgrades: limits, checks before the upgrade, and the way into picows."""

import asyncio
import contextlib
import logging
import math
import re
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from dataclasses import replace
from typing import Any, cast

from api.cookies import NAME, SessionCookies, full_name, read
from api.errors import INTERNAL, Problem, problem_of
from api.forwarding import share_of
from api.live.admission import Admission, check_origin, diagram_of, is_ticket_path
from api.live.connection import hand_over
from api.live.deadlines import Deadlines
from api.live.editors import Editors
from api.live.hocuspocus import HocuspocusSocket
from api.live.moderation import ReadModeration
from api.live.options import LiveOptions
from api.live.socket import LiveSocket
from api.live.sockets import Sockets, address_of
from api.live.upgrade import (
    UPGRADE_REQUIRED,
    RequestHead,
    UpgradeRequired,
    canonical_request,
    check_upgrade,
    response,
)
from api.live.y_websocket import YWebsocketSocket
from api.rates import Counts
from api.tokens import CollabClaims, Tokens
from rooms import closing
from rooms.peer import Member
from rooms.service import Rooms
from tmi.domain.errors import Draining, Forbidden, TmiError, TooManyRequests, Unavailable
from tmi.domain.ids import CollaborationId, DiagramId, UserId
from tmi.domain.ports import AccessControl, Tallies, Tickets

log = logging.getLogger(__name__)

_SHARE_EVERY_S = 0.5
_PREFIX = "/collab"
_READ_WAIT_MAX_S = 0.010
"""How long a busy process may wait for more messages before it reads: no longer than a busy room's tick,
which nobody notices either.
"""
_ADDRESS = re.compile(r"/collab(/[0-9a-fA-F-]{36})?")


class LiveEndpoint:
    """All live sockets of this process."""

    def __init__(
        self,
        rooms: Rooms,
        editors: Editors,
        tokens: Tokens,
        access: AccessControl,
        tickets: Tickets,
        options: LiveOptions | None = None,
        connections_of: Callable[[UserId], Awaitable[int]] | None = None,
        cookies: SessionCookies | None = None,
    ) -> None:
        self._rooms = rooms
        self._editors = editors
        self._options = options or LiveOptions()
        self._admission = Admission(tokens, access, tickets, connections_of)
        self._cookies = cookies
        self._handshakes = 0
        self._upgrading = 0
        """Those of them that are no sockets yet."""
        self._handshakes_of: Counter[str] = Counter()
        """By address."""
        self._deadlines = Deadlines[asyncio.Task[Any]](
            self._options.handshake_timeout_s, self._take_too_long
        )
        self._late: set[asyncio.Task[Any]] = set()
        self._draining = False
        self._count: Callable[[Counts, str, str], Awaitable[None]] | None = None
        self._is_awaited: Callable[[], bool] = lambda: False
        self.sockets = Sockets(
            self._options.sweep_s,
            self._options.documents_per_user_max,
            self._options.sockets_per_address_max,
            ReadModeration(_READ_WAIT_MAX_S, lambda: self.is_hurried),
            self._options.outbox_total_max_bytes,
        )
        rooms.rights.on_collaboration_ended = self._collaboration_ended

    @property
    def is_hurried(self) -> bool:
        """Somebody waits for what takes several turns of the loop."""
        comes = self._upgrading > 0 or self._admission.is_asked
        return comes or self._rooms.is_hurried or self._is_awaited()

    def use_awaited(self, is_awaited: Callable[[], bool]) -> None:
        """Have somebody tell whether others wait for the process, as for an answer of the database: then it
        does not wait for more messages of the sockets.
        """
        self._is_awaited = is_awaited

    def use_refused(self, refused: Callable[[str, str], None]) -> None:
        """Have somebody told where and why a socket, or a document on one, was refused."""
        self._admission.on_refused = refused

    def use_offered(self, is_offered: Callable[[str], bool]) -> None:
        """Have somebody tell by which identity providers people may have come."""
        self._admission.is_offered = is_offered

    def use_rates(self, count: Callable[[Counts, str, str], Awaitable[None]]) -> None:
        """Have each upgrade counted by its path and address, which may raise TooManyRequests."""
        self._count = count

    def matches(self, path: str) -> bool:
        """Whether an upgrade of this path (without its query) is for here."""
        return path == _PREFIX or path.startswith(_PREFIX + "/") or is_ticket_path(path)

    def is_address(self, path: str) -> bool:
        """Whether a plain request of this path can only be a WebSocket without its upgrade."""
        return _ADDRESS.fullmatch(path) is not None or is_ticket_path(path)

    async def open(self, head: RequestHead, rest: bytes, connection: asyncio.Transport) -> None:
        """Check an upgrade, then give the connection to picows, or answer with an HTTP error.

        `rest` is what the client sent after its request; `connection` is not being read meanwhile.
        """
        counts = Counts()
        try:
            key = check_upgrade(head)
            socket = await self._in_time(self._admit(head, connection, counts))
        except TmiError as error:
            self._admission.refused(head.path, error)
            problem = UPGRADE_REQUIRED if isinstance(error, UpgradeRequired) else problem_of(error)
            self.refuse(connection, replace(problem, headers={**problem.headers, **counts.headers()}), head)
        except TimeoutError:
            self.refuse(connection, problem_of(Unavailable("the checks took too long")), head)
        except Exception:
            log.exception("a WebSocket upgrade failed")
            self.sockets.faults += 1
            self.refuse(connection, INTERNAL, head)
        else:
            hand_over(socket, canonical_request(key) + rest, connection)

    async def _in_time(self, checks: Coroutine[Any, Any, LiveSocket]) -> LiveSocket:
        """Raises TimeoutError when the checks take too long; `asyncio.timeout` with one timer for all."""
        task = cast("asyncio.Task[Any]", asyncio.current_task(self.sockets.loop))
        self._deadlines.add(task)
        try:
            return await checks
        except asyncio.CancelledError:
            if task in self._late and task.uncancel() == 0:
                raise TimeoutError from None
            raise
        finally:
            self._deadlines.discard(task)
            self._late.discard(task)

    def _take_too_long(self, task: "asyncio.Task[Any]") -> None:
        self._late.add(task)
        task.cancel()

    def refuse(
        self, connection: asyncio.Transport, problem: Problem, head: RequestHead | None = None
    ) -> None:
        """Answer with an HTTP error and let the connection go; `head` where it is known."""
        if connection.is_closing():
            return
        more = self._options.hsts.headers(self._scheme(head, connection))
        connection.write(response(problem, more))
        connection.close()

    def transport_headers(self, peer: object, forwarded_proto: list[str], own: str) -> Mapping[str, str]:
        """What an answer says of https: `own` is its connection's scheme, `peer` as asyncio has it."""
        return self._options.hsts.headers(self._told_scheme(peer, forwarded_proto, own))

    async def share(self, tallies: Tallies) -> None:
        """Exchange with other nodes, for ever, what counts against limits that are theirs, too."""
        while True:
            try:
                self.sockets.hear_tally(await tallies.exchange(self.sockets.tally()))
            except Unavailable:
                self.sockets.hear_tally({})
            except Exception:
                log.exception("counts could not be exchanged with other nodes; they are tried again")
            await asyncio.sleep(_SHARE_EVERY_S)

    async def drain(self, deadline_s: float, spread_s: float = 0.0) -> None:
        """Refuse newcomers, close what is open with 1012, each at some moment within `spread_s`, and wait
        until all are gone, or aborted `deadline_s` later.
        """
        self._draining = True
        if spread_s > 0:
            self.sockets.close_spread(closing.SERVICE_RESTART, "this node is shutting down", spread_s)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(spread_s):
                    await self.sockets.none_left()
        self.sockets.close_all(closing.SERVICE_RESTART, "this node is shutting down")
        try:
            async with asyncio.timeout(deadline_s):
                await self.sockets.none_left()
        except TimeoutError:
            self.sockets.abort_all()

    # --- the upgrade ----------------------------------------------------------------------------

    def _address(self, head: RequestHead, connection: asyncio.Transport) -> str:
        forwarded_for = head.headers.get("x-forwarded-for", "")
        return address_of(connection, self._options.trusted_proxies, forwarded_for)

    def _scheme(self, head: RequestHead | None, connection: asyncio.Transport) -> str:
        """How the client reached us, as far as trusted proxies say."""
        own = "http" if connection.get_extra_info("ssl_object") is None else "https"
        told = [] if head is None else [head.headers.get("x-forwarded-proto", "")]
        return self._told_scheme(connection.get_extra_info("peername"), told, own)

    def _told_scheme(self, peer: object, forwarded_proto: list[str], own: str) -> str:
        host = str(peer[0]) if isinstance(peer, tuple) and peer else ""
        return self._options.trusted_proxies.scheme(host, forwarded_proto, own)

    async def _admit(self, head: RequestHead, connection: asyncio.Transport, counts: Counts) -> LiveSocket:
        address = self._address(head, connection)
        if self._count is not None:
            try:
                await self._count(counts, head.path, address)
            except TooManyRequests:
                self.sockets.refusals["address_rate"] += 1
                raise
        check_origin(head, self._options)
        if self._draining:
            raise Draining
        if len(self.sockets) + self._upgrading >= self._options.sockets_max:
            self.sockets.refusals["sockets"] += 1
            raise Unavailable("this node has as many sockets as it may")
        self.sockets.take_address(address)
        self._upgrading += 1
        try:
            socket = await self._socket(head, connection, address)
        except BaseException:
            self.sockets.leave_address(address)
            raise
        finally:
            self._upgrading -= 1
        socket.address = address
        return socket

    async def _socket(
        self, head: RequestHead, connection: asyncio.Transport, address: str
    ) -> LiveSocket:
        release = self._take_handshake(address)
        is_under_way = False
        try:
            if head.path == _PREFIX:
                visitor = await self._visitor(head, connection)
                is_under_way = True
                return HocuspocusSocket(
                    self._options, self.sockets, self._editors, self._admission, release, visitor
                )
            if is_ticket_path(head.path):
                return await self._by_ticket(head)
            return await self._by_token(head, connection)
        finally:
            if not is_under_way:
                release()

    async def _visitor(self, head: RequestHead, connection: asyncio.Transport) -> CollabClaims | None:
        """Whose browser it is, by its session cookie; None without one that is of use here.

        A socket may change things, so the cookie counts only from a page of ours, or of an origin that is
        listed. Raises BadInput, and Forbidden for a cookie without any origin, which no browser sends.
        """
        options, lines = self._options, [head.headers["cookie"]] if "cookie" in head.headers else []
        is_https = (options.public_origin or "").startswith("https:")
        known_as = "https" if is_https else self._scheme(head, connection)
        secret = read(lines, full_name(NAME, known_as, is_dev=options.dev))
        if self._cookies is None or secret is None:
            return None
        origin = head.headers.get("origin")
        if origin is None:
            raise Forbidden("with the session cookie, a socket has to say which page opens it")
        if not options.origins.are_trusted(origin, known_as, head.headers.get("host", "")):
            return None
        visitor = await self._cookies.visitor(secret)
        return None if visitor is None else CollabClaims(visitor.user, visitor.sign_in, None, math.inf)

    async def _by_token(self, head: RequestHead, connection: asyncio.Transport) -> YWebsocketSocket:
        diagram = diagram_of(head.path.removeprefix(_PREFIX + "/"))
        token = head.parameter("token")
        visitor = await self._visitor(head, connection) if token is None else None
        claims = visitor or await self._admission.identified(token, diagram)
        member, _ = await self._admission.member_and_model(claims.user, claims.sign_in, diagram)
        return await self._y_websocket(head, diagram, member)

    async def _by_ticket(self, head: RequestHead) -> YWebsocketSocket:
        ticket = await self._admission.redeem(head)
        member, _ = await self._admission.member_and_model(ticket.user, ticket.sign_in, ticket.diagram)
        return await self._y_websocket(head, ticket.diagram, member, ticket.collaboration)

    async def _y_websocket(
        self,
        head: RequestHead,
        diagram: DiagramId,
        member: Member,
        collaboration: CollaborationId | None = None,
    ) -> YWebsocketSocket:
        tells_saved = head.parameter("saved") == "1"
        self.sockets.take_seat(member.user, await self._admission.seats_of(member.user))
        socket = YWebsocketSocket(
            self._options, self.sockets, member.user, collaboration, tells_saved=tells_saved
        )
        try:
            await socket.join(self._rooms, diagram, member)
        except BaseException:
            socket.abandon()
            raise
        return socket

    def _collaboration_ended(self, collaboration: CollaborationId) -> None:
        """Close the sockets that came by its tickets."""
        for socket in list(self.sockets):
            if isinstance(socket, YWebsocketSocket) and socket.collaboration == collaboration:
                socket.close(closing.COLLABORATION_ENDED, "the collaboration session has ended")

    def _take_handshake(self, address: str) -> Callable[[], None]:
        """Count one more handshake of an address; the answer undoes that, once.

        Once half of those that there may be are there, an address has its share of them, and no more.
        """
        by_address, most = self._handshakes_of, self._options.handshakes_max
        if self._handshakes >= most // 2 and by_address[address] >= share_of(most):
            self.sockets.refusals["handshakes_per_address"] += 1
            raise TooManyRequests("this address opens too many connections at once; try again shortly")
        if self._handshakes >= self._options.handshakes_max:
            self.sockets.refusals["handshakes"] += 1
            raise Unavailable("too many connections are being opened; try again shortly")
        self._handshakes += 1
        by_address[address] += 1
        is_counted = True

        def release() -> None:
            nonlocal is_counted
            if is_counted:
                is_counted = False
                self._handshakes -= 1
                by_address[address] -= 1
                if not by_address[address]:
                    by_address.pop(address)

        return release
