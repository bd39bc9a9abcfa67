"""What every handler needs: the services, who is calling, and ids out of paths."""

import asyncio
import logging
import re
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar, cast
from uuid import UUID
from weakref import WeakValueDictionary

from quart import current_app, g, request

from api import audit, cookies
from api.audit import Refusals
from api.origins import check_page, is_safe
from api.schemas import UuidText
from api.services import Services
from api.sessions import SessionCache
from api.tokens import AccessClaims
from tmi.domain.errors import BadInput, Forbidden, TmiError, Unauthenticated, UnknownKey
from tmi.domain.ids import DiagramId, SignInId, ThreatModelId
from tmi.domain.model import ADMINISTRATORS_GROUP, SignIn, User
from tmi.domain.roles import Action, Role, may
from tmi.domain.sign_ins import AUTOMATION_PROVIDER

log = logging.getLogger(__name__)

EXTENSION = "tmi"
DEVELOPMENT_PROVIDER = "tmi"
REBUILT_AT_ONCE = 2
"""Documents of the past that are put together at once: each may take what a room takes."""

_LABEL = r"[A-Za-z0-9_](?:[A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?"
HOST = re.compile(rf"(?:{_LABEL}(?:\.{_LABEL}){{0,31}}\.?|\[[0-9A-Fa-f:.]{{2,45}}\])(?::[0-9]{{1,5}})?")
"""A Host header: a name, an IPv4 or an IPv6 address, and perhaps a port."""

_PUBLIC = "_tmi_public"
_BEARER = re.compile(r"Bearer +([A-Za-z0-9._-]+)", re.IGNORECASE)
_UUID = re.compile(r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")

View = TypeVar("View", bound=Callable[..., Any])
Result = TypeVar("Result")


class Context:
    """The services, with what the application itself remembers of them."""

    def __init__(self, services: Services) -> None:
        self.services = services
        self.sessions = services.sessions or SessionCache(services.sign_ins)
        self.sessions.admits = lambda user: self.is_offered(user.provider)
        self._queues: WeakValueDictionary[ThreatModelId, asyncio.Lock] = WeakValueDictionary()
        self._unfinished: set[asyncio.Task[Any]] = set()
        self.rebuilding = asyncio.Semaphore(REBUILT_AT_ONCE)
        self.refusals = Refusals(services.audit, self.in_background)

    def provider_ids(self) -> list[str]:
        """The identity providers of this service, the development provider last."""
        development = [DEVELOPMENT_PROVIDER] if self.services.options.dev else []
        return [*self.services.identity_providers, *development]

    def is_offered(self, provider: str) -> bool:
        """Whether a user's provider still lets people in: it may have been taken out of the settings."""
        return provider in (*self.provider_ids(), AUTOMATION_PROVIDER)

    async def sign_in_of(self, token: str) -> SignIn:
        """Who an access token speaks for, if the session behind it still stands (as of a second ago).

        Raises Unauthenticated and DatabaseUnavailable.
        """
        claims = await self._claims(token)
        sign_in = await self.sessions.get(claims.sign_in)
        if sign_in is None:
            raise Unauthenticated("the sign-in session has ended")
        if sign_in.user.id != claims.user:
            raise Unauthenticated("the token is not valid here")
        return sign_in

    async def _claims(self, token: str) -> AccessClaims:
        """What a valid token claims, also when another node knows its key and this one does not yet."""
        tokens = self.services.tokens
        try:
            return tokens.verify_access(token)
        except UnknownKey:
            await tokens.learn()
            return tokens.verify_access(token)

    async def sign_in_of_request(self, authorization: list[str]) -> SignIn:
        """Who asks, by the Authorization headers of a request. Raises Unauthenticated and
        DatabaseUnavailable.
        """
        match = _BEARER.fullmatch(authorization[0].strip()) if len(authorization) == 1 else None
        if match is None:
            raise Unauthenticated("send one Authorization header with a bearer token")
        return await self.sign_in_of(match[1])

    async def ended(self, *sign_ins: SignInId) -> None:
        """These sessions are over: their tokens and their open sockets, on every node."""
        self.sessions.forget(sign_ins)
        await self.services.rooms.rights.sign_ins_ended(sign_ins)

    def queue_of(self, model: ThreatModelId) -> asyncio.Lock:
        """The lock that this node's writers of a threat model hold one after the other."""
        queue = self._queues.get(model)
        if queue is None:
            queue = self._queues[model] = asyncio.Lock()
        return queue

    async def to_the_end(self, work: Coroutine[Any, Any, Result]) -> Result:
        """Await `work`, which goes on even when the client hangs up meanwhile."""
        return await asyncio.shield(self.in_background(work))

    def in_background(self, work: Coroutine[Any, Any, Result]) -> asyncio.Task[Result]:
        """Begin `work` in a task of its own, whose failure is logged."""
        task = asyncio.get_running_loop().create_task(work)
        self._unfinished.add(task)
        task.add_done_callback(self._finished)
        return task

    async def finish(self, timeout_s: float) -> None:
        """Wait for work that outlived its request, then cancel what is left."""
        self.refusals.tell_left_out()
        if self._unfinished:
            _, late = await asyncio.wait(self._unfinished, timeout=timeout_s)
            for task in late:
                task.cancel()
            await asyncio.gather(*late, return_exceptions=True)

    def _finished(self, task: asyncio.Task[Any]) -> None:
        self._unfinished.discard(task)
        error = None if task.cancelled() else task.exception()
        if error is not None and not isinstance(error, TmiError):
            log.error("work behind a request failed", exc_info=error)


def context() -> Context:
    """The context of the application that handles this request."""
    return cast(Context, current_app.extensions[EXTENSION])


def services() -> Services:
    """The services of the application that handles this request."""
    return context().services


def public(view: View) -> View:
    """Mark a handler that needs no sign-in. Every other one does."""
    setattr(view, _PUBLIC, True)
    return view


def is_public(view: Callable[..., Any]) -> bool:
    """Whether a handler was marked by `public`."""
    return bool(getattr(view, _PUBLIC, False))


async def require_sign_in() -> None:
    """Before each request: stop one that needs a sign-in and has none. Raises Unauthenticated."""
    if request.url_rule is None or is_public(current_app.view_functions[request.url_rule.endpoint]):
        return
    authorization = request.headers.getlist("Authorization")
    secret = session_cookie()
    if secret is None:
        g.sign_in = await context().sign_in_of_request(authorization)
    elif authorization:
        raise BadInput("send a bearer token or the session cookie, and not both")
    else:
        await sign_in_by_cookie(secret)


def session_cookie() -> str | None:
    """The session cookie of this request. Raises BadInput where it is given twice."""
    name = cookies.full_name(cookies.NAME, browser_scheme(), is_dev=services().options.dev)
    return cookies.read(request.headers.getlist("Cookie"), name)


async def sign_in_by_cookie(secret: str) -> None:
    """Take the sign-in behind a session cookie for this request's.

    Raises Unauthenticated, and Forbidden for a page that may not use it or that brings no CSRF token.
    """
    told = request.headers.getlist
    host = request.headers.get("Host", "")
    trusted = services().options.origins
    check_page(request.method, told("Origin"), told("Sec-Fetch-Site"), trusted, browser_scheme(), host)
    if not is_safe(request.method):
        cookies.check_csrf(told("X-CSRF-Token"), secret)
    visitor = await services().cookies.visitor(secret)
    sign_in = None if visitor is None else await context().sessions.get(visitor.sign_in)
    if sign_in is None:
        raise Unauthenticated("this session is over; sign in again")
    g.sign_in = sign_in


def browser_scheme() -> str:
    """What browsers call this service with: `https` where its public address says so."""
    return "https" if (services().options.public_url or "").startswith("https:") else scheme()


def caller() -> SignIn:
    """The sign-in behind this request."""
    return cast(SignIn, g.sign_in)


async def is_administrator(user: User) -> bool:
    """Whether a user runs this service: by the setting, or as a member of the group `administrators`."""
    if user.is_one_of(services().options.administrators):
        return True
    return any(key == ADMINISTRATORS_GROUP for key, _, _ in await services().memberships.of_user(user.id))


def person() -> SignIn:
    """The sign-in behind this request, if a person began it: a client credential may be known to too many.
    Raises Forbidden.
    """
    if caller().credential is not None:
        raise Forbidden("a person has to do this, not a program with a client credential")
    return caller()


async def administrator() -> SignIn:
    """The sign-in behind this request, if it is an administrator's. Raises Forbidden."""
    if not await is_administrator(caller().user):
        raise Forbidden("this is for administrators")
    return caller()


def caller_if_any() -> SignIn | None:
    """The sign-in behind this request; None where it needs none."""
    return cast("SignIn | None", g.get("sign_in"))


def client_address() -> str:
    """Whose request this is, as far as trusted proxies say."""
    peer = request.remote_addr or ""
    return services().options.trusted_proxies.client(peer, request.headers.getlist("X-Forwarded-For"))


def scheme() -> str:
    """How the client reached us, as far as trusted proxies say: `http` or `https`."""
    told = request.headers.getlist("X-Forwarded-Proto")
    return services().options.trusted_proxies.scheme(request.remote_addr or "", told, request.scheme)


def base_url() -> str:
    """Where this service is reached, as `https://host`. Raises BadInput for a Host that is none."""
    base = services().options.public_url
    if base is None:
        hosts = request.headers.getlist("Host")
        if len(hosts) != 1 or not HOST.fullmatch(hosts[0]):
            raise BadInput("the Host header is not valid")
        base = f"{scheme()}://{hosts[0]}"
    return base.rstrip("/")


def parse_uuid(text: UuidText) -> UUID:
    """Raises BadInput unless `text` is a UUID in its usual form (RFC 9562, section 4)."""
    if not _UUID.fullmatch(text):
        raise BadInput("an id is no UUID")
    return UUID(text)


def is_uuid(text: str) -> bool:
    """Whether `text` is a UUID in its usual form."""
    return _UUID.fullmatch(text) is not None


async def model_for(text: str, action: Action) -> ThreatModelId:
    """The threat model of a path, if the caller may do `action` with it.

    Raises BadInput (no UUID), NotFound, Forbidden, and StorageFull where nothing may be added.
    """
    model = ThreatModelId(parse_uuid(text))
    role = await services().access.to_threat_model(caller().user.id, model)
    allowed(role, action)
    if action is Action.WRITE and request.method != "DELETE":
        await services().room.check_room(model)
    return model


async def model_to_restore(text: str, *, deleted: bool = False) -> ThreatModelId:
    """The threat model of a path (`deleted`: one that is), if the caller may restore it or what is in it.

    Raises BadInput (no UUID), NotFound and Forbidden.
    """
    model = ThreatModelId(parse_uuid(text))
    role = await services().access.to_threat_model(caller().user.id, model, deleted=deleted)
    if not may(role, Action.RESTORE) and not await is_administrator(caller().user):
        raise Forbidden("this is for owners and administrators")
    return model


async def model_to_list(text: str, *, deleted: bool) -> ThreatModelId:
    """The threat model of a path, if the caller may list what is in it (`deleted`: what was, too).

    What an administrator without a role there is shown gets into the audit. Raises BadInput (no UUID),
    NotFound and Forbidden.
    """
    if not deleted:
        return await model_for(text, Action.READ)
    model = await model_to_restore(text)
    if not may(await services().access.to_threat_model(caller().user.id, model), Action.RESTORE):
        await audit.note(services().audit, audit.entry("deleted.listed", f"threat model {model}"))
    return model


def allowed(role: Role | None, action: Action) -> None:
    """Raises Forbidden unless `role` may do `action`."""
    if not may(role, action):
        raise Forbidden


def parse_diagram_id(text: str) -> DiagramId:
    """Raises BadInput."""
    return DiagramId(parse_uuid(text))
