"""Listener, live sockets and rooms in this process, on the in-memory adapters, beside a small application."""

import asyncio
import contextlib
import secrets
import socket
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from datetime import timedelta

from pycrdt import Doc, Map
from quart import Quart, request

from api.cookies import SessionCookies, new_secret
from api.live.editors import Editors
from api.live.endpoint import LiveEndpoint
from api.live.options import LiveOptions
from api.news import News
from api.tokens import Tokens, new_signing_key
from persistence.memory.access import MemoryAccessControl
from persistence.memory.browser_sessions import MemoryBrowserSessions
from persistence.memory.collaborations import MemoryCollaborations, MemoryTickets
from persistence.memory.diagrams import MemoryDiagrams
from persistence.memory.events import MemoryFeed
from persistence.memory.sign_ins import MemorySignIns
from persistence.memory.store import MemoryStore
from persistence.memory.threat_models import MemoryThreatModels
from persistence.memory.update_log import MemoryUpdateLog
from persistence.memory.users import MemoryUsers
from rooms.coordination.local import LocalCoordinator
from rooms.limits import RoomsLimits
from rooms.service import Rooms
from tmi.domain.ids import DiagramId, SignInId, UserId
from tmi.domain.model import NewThreatModel, ThreatModel, Ticket
from tmi.domain.ports import AccessControl, ThreatModelChange
from tmi.domain.roles import Grant, Principal, Role
from tmi.listener import Listener, ListenerOptions


@dataclass(frozen=True, slots=True)
class Someone:
    """A signed-in user."""

    id: UserId
    sign_in: SignInId


@dataclass(slots=True)
class LiveService:
    """What a test can reach."""

    store: MemoryStore
    log: MemoryUpdateLog
    tokens: Tokens
    rooms: Rooms
    editors: Editors
    live: LiveEndpoint
    listener: Listener
    listening: socket.socket
    calls: list[str]
    """What the REST application was asked to do, its start and stop included."""
    people: dict[str, Someone] = field(default_factory=dict)

    @property
    def diagrams(self) -> MemoryDiagrams:
        return MemoryDiagrams(self.store)

    @property
    def port(self) -> int:
        return self.listener.port

    async def someone(self, name: str) -> Someone:
        """A user, signed in at first mention."""
        if name not in self.people:
            user = await MemoryUsers(self.store).sign_in("tmi", _mail(name), _mail(name), name)
            sign_in = await MemorySignIns(self.store).start(user.id, secrets.token_hex(), timedelta(hours=1))
            self.people[name] = Someone(user.id, sign_in.id)
        return self.people[name]

    async def diagram(self, **roles: Role) -> DiagramId:
        """A diagram of a new threat model that alice owns; others have the roles given by name."""
        await self.someone("alice")
        owner = self.store.users[self.people["alice"].id]
        grants = tuple(_grant(name, role) for name, role in roles.items())
        new = NewThreatModel("Model", None, "STRIDE", None, is_confidential=False, grants=grants)
        model = await MemoryThreatModels(self.store).create(owner, new)
        return (await MemoryDiagrams(self.store).create(model.id, "Flow", "DFD-1.0.0", None)).id

    async def set_roles(self, diagram: DiagramId, **roles: Role) -> None:
        """Give the threat model of a diagram these grants besides alice's, and tell the rooms."""
        model: ThreatModel = self.store.threat_models[self.store.diagrams[diagram].threat_model_id]
        grants = (_grant("alice", Role.OWNER), *(_grant(name, role) for name, role in roles.items()))
        await MemoryThreatModels(self.store).update(model.id, model.version, ThreatModelChange(grants=grants))
        await self.rooms.rights.access_changed([diagram])

    async def ticket(self, name: str, diagram: DiagramId, ttl: timedelta = timedelta(seconds=30)) -> str:
        """The path with which to open a socket of the diagram's collaboration session, once."""
        someone = await self.someone(name)
        model = self.store.diagrams[diagram].threat_model_id
        session, _ = await MemoryCollaborations(self.store).begin(model, diagram, someone.id)
        secret = secrets.token_urlsafe(32)
        grant = Ticket(someone.id, someone.sign_in, session.id, model, diagram)
        await MemoryTickets(self.store).issue(secret, grant, ttl)
        return f"/threat_models/{model}/diagrams/{diagram}/ws?session_id={session.id}&ticket={secret}"

    async def cookie(self, name: str) -> str:
        """The secret of a session cookie."""
        someone, secret = await self.someone(name), new_secret()
        await MemoryBrowserSessions(self.store).begin(secret, someone.sign_in, timedelta(hours=1))
        return secret

    async def token(self, name: str, diagram: DiagramId | None = None) -> str:
        """A collab token."""
        someone = await self.someone(name)
        return self.tokens.collab_token(someone.id, someone.sign_in, diagram)


@contextlib.asynccontextmanager
async def live_service(
    live_options: LiveOptions | None = None,
    listener_options: ListenerOptions | None = None,
    collab_ttl: timedelta = timedelta(minutes=10),
    rooms_limits: RoomsLimits | None = None,
    access_over: Callable[[MemoryStore], AccessControl] = MemoryAccessControl,
    browser_idle: timedelta = timedelta(hours=1),
) -> AsyncIterator[LiveService]:
    """Run the service on a free port; it is drained at the end."""
    store = MemoryStore()
    log = MemoryUpdateLog(store)
    access = access_over(store)
    tokens = Tokens([new_signing_key()], "http://tmi.test", collab_ttl=collab_ttl)
    rooms = Rooms(log, LocalCoordinator(log, "test"), access, rooms_limits)
    cookies = SessionCookies(MemoryBrowserSessions(store), browser_idle)
    news = News(MemoryFeed(store), access)
    editors = Editors(rooms, news)
    live = LiveEndpoint(rooms, editors, tokens, access, MemoryTickets(store), live_options, cookies=cookies)
    rooms.rights.on_people = editors.hear
    calls: list[str] = []
    async with rooms.running(), news.running():
        listening = socket.create_server(("127.0.0.1", 0))
        listener = await Listener.start(_rest(calls), live, listening, listener_options)
        try:
            yield LiveService(store, log, tokens, rooms, editors, live, listener, listening, calls)
        finally:
            listening.close()
            listener.stop_accepting()
            await rooms.drain(2)
            await live.drain(2)
            await listener.aclose(2)


def _rest(calls: list[str]) -> Quart:
    app = Quart(__name__)

    @app.before_serving
    async def start() -> None:
        calls.append("start")

    @app.after_serving
    async def stop() -> None:
        calls.append("stop")

    @app.get("/livez")
    async def livez() -> str:
        calls.append("livez")
        return "ok"

    @app.post("/echo")
    async def echo() -> str:
        return str(await request.get_data(as_text=True))

    @app.get("/slow")
    async def slow() -> str:
        calls.append("slow")
        await asyncio.sleep(0.3)
        return "done"

    return app


def an_update(key: str, value: str = "x") -> bytes:
    """A Yjs update of a new client that sets one key of the map `cells`."""
    doc: Doc[Map[str]] = Doc()
    doc.get("cells", type=Map)[key] = value
    return doc.get_update()


def _mail(name: str) -> str:
    return f"{name}@tmi.local"


def _grant(name: str, role: Role) -> Grant:
    return Grant(Principal("user", "tmi", _mail(name), _mail(name), name), role)
