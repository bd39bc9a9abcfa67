"""Who asks, and whether they may watch: the checks behind every way into a room."""

import re
from uuid import UUID

from api.live.options import LiveOptions
from api.live.upgrade import RequestHead
from api.tokens import CollabClaims, Tokens
from rooms.peer import Member
from tmi.domain.errors import Forbidden, NotFound, Unauthenticated
from tmi.domain.ids import DiagramId
from tmi.domain.ports import AccessControl, SignIns
from tmi.domain.roles import Action, may

_CANONICAL_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_LOOPBACK_ORIGIN = re.compile(r"https?://(localhost|127\.0\.0\.1|\[::1\])(:[0-9]{1,5})?")


def diagram_of(name: str) -> DiagramId:
    """The diagram that a room or document name means. Raises NotFound unless it is a UUID in lower case."""
    if not _CANONICAL_UUID.fullmatch(name):
        raise NotFound("a diagram's name is its UUID in lower case")
    return DiagramId(UUID(name))


class Admission:
    """Verifies collab tokens, and looks up what they only claim: the sign-in session and the role."""

    def __init__(self, tokens: Tokens, sign_ins: SignIns, access: AccessControl) -> None:
        self._tokens = tokens
        self._sign_ins = sign_ins
        self._access = access

    def identify(self, token: str | None, diagram: DiagramId) -> CollabClaims:
        """Raises Unauthenticated, and Forbidden for a token of another diagram."""
        if not token:
            raise Unauthenticated("a collab token is needed")
        claims = self._tokens.verify_collab(token)
        if claims.diagram not in (None, diagram):
            raise Forbidden("the token was made for another diagram")
        return claims

    async def member(self, claims: CollabClaims, diagram: DiagramId) -> Member:
        """The user with the role they have now.

        Raises Unauthenticated (the sign-in has ended), Forbidden, NotFound and DatabaseUnavailable.
        """
        sign_in = await self._sign_ins.get(claims.sign_in)
        if sign_in is None or sign_in.user.id != claims.user:
            raise Unauthenticated("this sign-in has ended")
        role = (await self._access.to_diagram(claims.user, diagram)).role
        if role is None or not may(role, Action.WATCH):
            raise Forbidden("you have no role on this diagram's threat model")
        return Member(claims.user, claims.sign_in, role)


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
