"""Who asks, and whether they may watch: the checks behind every way into a room."""

import asyncio
import re
from collections.abc import Awaitable, Callable, Sequence
from functools import lru_cache
from uuid import UUID

from api.live.options import LiveOptions
from api.live.upgrade import RequestHead
from api.tokens import CollabClaims, Tokens
from rooms.peer import Member
from tmi.domain.errors import BadInput, Expired, Forbidden, NotFound, TmiError, Unauthenticated, UnknownKey
from tmi.domain.ids import DiagramId, SignInId, ThreatModelId, UserId
from tmi.domain.model import Ticket
from tmi.domain.ports import AccessControl, Entrant, Standing, Tickets
from tmi.domain.roles import Action, may

_CANONICAL_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_ANY_UUID = r"[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}"
_LOOPBACK_ORIGIN = re.compile(r"https?://(localhost|127\.0\.0\.1|\[::1\])(:[0-9]{1,5})?")


_TICKET_MAX = 100
_NAMES_REMEMBERED = 4096
_TICKET_PATH = re.compile(rf"/threat_models/({_ANY_UUID})/diagrams/({_ANY_UUID})/ws")


def is_ticket_path(path: str) -> bool:
    """Whether sockets of collaboration sessions are opened there."""
    return _TICKET_PATH.fullmatch(path) is not None


@lru_cache(_NAMES_REMEMBERED)
def diagram_of(name: str) -> DiagramId:
    """The diagram that a room or document name means. Raises NotFound unless it is a UUID in lower case."""
    if not _CANONICAL_UUID.fullmatch(name):
        raise NotFound("a diagram's name is its UUID in lower case")
    return DiagramId(UUID(name))


_ASKED_AT_ONCE = 500
_SPACING_S = 0.012
_CROWD = 40
_CROWD_SPACING_S = 0.003
"""Queries begin so far apart, the latter where so many wait: who comes alone is answered at once, a storm of
reconnections shares. Against 6 ms and 24 it takes half off what Postgres does for a connection.
"""


class Admission:
    """Verifies collab tokens and redeems tickets, and looks up what they only claim: the sign-in session and
    the role.
    """

    def __init__(
        self,
        tokens: Tokens,
        access: AccessControl,
        tickets: Tickets,
        connections_of: Callable[[UserId], Awaitable[int]] | None = None,
    ) -> None:
        """`connections_of` tells how many open documents a user may have; None: as the options say."""
        self._tokens = tokens
        self._connections_of = connections_of
        self._tickets = tickets
        self._desk = _Desk(access)
        self.on_refused: Callable[[str, str], None] = lambda _path, _why: None
        """Told where somebody was refused, and why."""
        self.is_offered: Callable[[str], bool] = lambda _: True
        """Whose sign-ins count: not those by an identity provider that was taken out of the settings."""

    @property
    def is_asked(self) -> bool:
        """Somebody waits to be told whether they may watch."""
        return self._desk.is_asked

    def refused(self, path: str, error: TmiError) -> None:
        """Somebody was not let in: an attempt that the audit tells of, unless a token has just expired."""
        if isinstance(error, Unauthenticated | Forbidden) and not isinstance(error, Expired):
            self.on_refused(path, str(error))

    def identify(self, token: str | None, diagram: DiagramId) -> CollabClaims:
        """Raises Unauthenticated, and Forbidden for a token of another diagram."""
        if not token:
            raise Unauthenticated("a collab token is needed")
        claims = self._tokens.verify_collab(token)
        if claims.diagram is not None and claims.diagram != diagram:
            raise Forbidden("the token was made for another diagram")
        return claims

    async def identified(self, token: str | None, diagram: DiagramId) -> CollabClaims:
        """As `identify`, also when another node knows the token's key and this one does not yet."""
        try:
            return self.identify(token, diagram)
        except UnknownKey:
            await self.learn()
            return self.identify(token, diagram)

    async def learn(self) -> None:
        """Look for keys that are not known here yet."""
        await self._tokens.learn()

    async def redeem(self, head: RequestHead) -> Ticket:
        """What the ticket of an upgrade stands for; whatever comes of it, the ticket is used up.

        Raises BadInput, Unauthenticated, Forbidden for a ticket of another place, and DatabaseUnavailable.
        """
        session, secret = head.parameter("session_id"), head.parameter("ticket")
        if session is None or not re.fullmatch(_ANY_UUID, session):
            raise BadInput("session_id is to be a UUID")
        if not secret or len(secret) > _TICKET_MAX:
            raise Unauthenticated("a ticket is needed")
        ticket = await self._tickets.redeem(secret)
        if ticket is None:
            raise Unauthenticated("the ticket is unknown, used or too old")
        place = f"/threat_models/{ticket.threat_model}/diagrams/{ticket.diagram}/ws"
        if head.path.lower() != place or UUID(session) != ticket.collaboration:
            raise Forbidden("the ticket was made for another session")
        return ticket

    async def seats_of(self, user: UserId) -> int | None:
        """How many open documents a user may have, for `Sockets.take_seat`."""
        return None if self._connections_of is None else await self._connections_of(user)

    async def member_and_model(
        self, user: UserId, sign_in: SignInId, diagram: DiagramId
    ) -> tuple[Member, ThreatModelId]:
        """The user with the role they have now, and the diagram's threat model.

        Raises Unauthenticated (the sign-in has ended), Forbidden, NotFound and DatabaseUnavailable.
        """
        standing, as_of = await self._desk.ask(Entrant(user, sign_in, diagram))
        if standing.provider is None or not self.is_offered(standing.provider):
            raise Unauthenticated("this sign-in has ended")
        if standing.threat_model is None:
            raise NotFound("There is no such diagram.")
        if standing.role is None or not may(standing.role, Action.WATCH):
            raise Forbidden("you have no role on this diagram's threat model")
        return Member(user, sign_in, standing.role, as_of), standing.threat_model


_Answer = asyncio.Future[tuple[Standing, float]]


class _Desk:
    """Asks for everybody who came lately in one query: for each alone it would be most of an accept's work.

    Nobody is told what was read before they asked. Bounded by the handshakes that may be under way.
    """

    def __init__(self, access: AccessControl) -> None:
        self._access = access
        self._loop: asyncio.AbstractEventLoop | None = None
        self._waiting: list[tuple[Entrant, _Answer]] = []
        self._work: asyncio.Task[None] | None = None
        self._begun_at = 0.0
        self._is_crowd = asyncio.Event()

    @property
    def is_asked(self) -> bool:
        return self._work is not None

    async def ask(self, entrant: Entrant) -> tuple[Standing, float]:
        """How they stand, and when the database was asked (the loop's time)."""
        if self._loop is None:
            self._loop = asyncio.get_running_loop()
        answer: _Answer = self._loop.create_future()
        self._waiting.append((entrant, answer))
        if len(self._waiting) == _CROWD:
            self._is_crowd.set()
        if self._work is None:
            self._work = asyncio.create_task(self._answer_all(), name="admission")
        return await answer

    async def _answer_all(self) -> None:
        try:
            while self._waiting:
                await self._until_due()
                self._begun_at = asyncio.get_running_loop().time()
                asking, self._waiting = self._waiting[:_ASKED_AT_ONCE], self._waiting[_ASKED_AT_ONCE:]
                await self._answer(asking)
        finally:
            self._work = None

    async def _until_due(self) -> None:
        clock = asyncio.get_running_loop().time
        await asyncio.sleep(self._begun_at + _CROWD_SPACING_S - clock())
        left_s = self._begun_at + _SPACING_S - clock()
        if left_s > 0 and len(self._waiting) < _CROWD:
            self._is_crowd.clear()
            timer = asyncio.get_running_loop().call_later(left_s, self._is_crowd.set)
            try:
                await self._is_crowd.wait()
            finally:
                timer.cancel()

    async def _answer(self, asking: Sequence[tuple[Entrant, "_Answer"]]) -> None:
        as_of = asyncio.get_running_loop().time()
        places: dict[Entrant, int] = {}
        at = [places.setdefault(entrant, len(places)) for entrant, _ in asking]
        try:
            told = await self._access.standings(list(places))
            each = [standing for _, standing in zip(places, told, strict=True)]
            standings = [each[place] for place in at]
        except Exception as error:  # noqa: BLE001 - it is raised where somebody waits
            for _, answer in asking:
                if not answer.done():
                    answer.set_exception(error)
        else:
            for (_, answer), standing in zip(asking, standings, strict=True):
                if not answer.done():
                    answer.set_result((standing, as_of))


def check_origin(head: RequestHead, options: LiveOptions) -> None:
    """A browser names the page that asks; only ours and those that were allowed may. Raises Forbidden.

    Scripts send no Origin; every way in needs a token besides, so that passes.
    """
    origin = head.headers.get("origin")
    if origin is None or origin in options.allowed_origins or origin in _own_origins(head, options):
        return
    if options.dev and _LOOPBACK_ORIGIN.fullmatch(origin):
        return
    raise Forbidden("pages of this origin may not connect")


def _own_origins(head: RequestHead, options: LiveOptions) -> tuple[str, ...]:
    if options.public_origin is not None:
        return (options.public_origin,)
    host = head.headers.get("host", "").lower()
    return (f"http://{host}", f"https://{host}")
