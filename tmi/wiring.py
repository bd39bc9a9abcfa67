"""The only place that constructs adapters and joins them to the inside of TMI."""

import asyncio
import contextlib
import logging
import os
import socket
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import AsyncExitStack, asynccontextmanager, closing
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from importlib.metadata import version
from typing import Any
from uuid import uuid4

from api.app import RestApp, create_app
from api.cookies import SessionCookies
from api.forwarding import TrustedProxies
from api.live.endpoint import LiveEndpoint
from api.live.options import LiveOptions
from api.metrics import Metrics
from api.origins import Origins
from api.services import ApiOptions, Health, RateOptions, Services
from api.sessions import SessionCache
from api.tokens import Tokens, shared_signing_keys
from persistence import redis as shared
from persistence.memory.rate_limits import MemoryRateLimits
from persistence.postgres.access import PostgresAccessControl
from persistence.postgres.accounts import PostgresAccounts, PostgresChallenges
from persistence.postgres.audit import PostgresAudit
from persistence.postgres.browser_sessions import PostgresBrowserSessions
from persistence.postgres.client_credentials import PostgresClientCredentials
from persistence.postgres.collaborations import PostgresCollaborations, PostgresTickets
from persistence.postgres.database import PostgresDatabase
from persistence.postgres.diagrams import PostgresDiagrams
from persistence.postgres.groups import PostgresGroups, PostgresMemberships
from persistence.postgres.ownership import PostgresOwnership
from persistence.postgres.sign_ins import PostgresCodes, PostgresRefreshTokens, PostgresSignIns
from persistence.postgres.signals import PostgresSignals
from persistence.postgres.signing_keys import PostgresSigningKeys
from persistence.postgres.threat_models import PostgresThreatModels
from persistence.postgres.update_log import PostgresUpdateLog
from persistence.postgres.users import PostgresUsers
from rooms.administration import Administration, Desk
from rooms.coordination.local import LocalCoordinator
from rooms.coordination.redis import LeaseLimits, RedisCoordinator, connected, living_nodes
from rooms.journal import JournalLimits
from rooms.limits import RoomsLimits
from rooms.nodes import unix
from rooms.nodes.control import Json
from rooms.nodes.links import Links
from rooms.nodes.mirror import Answer, Mirror
from rooms.room import RoomLimits
from rooms.service import Rooms
from tmi.domain.errors import DatabaseUnavailable, StartupError, TmiError, Unavailable
from tmi.domain.ids import DiagramId, NodeId
from tmi.domain.model import Node
from tmi.domain.ports import AccessControl, Audit, RateLimits, Signal
from tmi.embedded.data_directory import locked
from tmi.embedded.postgres import embedded_postgres
from tmi.settings import Settings, split_place
from tmi.starting import open_port
from tmi.tls import Certificate

log = logging.getLogger(__name__)

ISSUER = "tmi"
"""Who signs tokens where no public URL says."""
PURGE_EVERY_S = 300.0
PURGE_ROWS = 1000
PURGES_AT_ONCE = 100


@dataclass(frozen=True, slots=True)
class Service:
    """Everything that serves clients, ready for a listener."""

    app: RestApp
    live: LiveEndpoint
    rooms: Rooms
    health: Health
    drain_requested: asyncio.Event
    """An operator wants this node to drain and end."""
    taken_over: asyncio.Event
    """Another service holds the database's single-writer lock now: this one has to end."""


@asynccontextmanager
async def open_database(settings: Settings) -> AsyncIterator[PostgresDatabase]:
    """The database of the settings, else an embedded one. Raises StartupError."""
    async with AsyncExitStack() as stack:
        if settings.database_url is None:
            data_dir = stack.enter_context(locked(settings.data_dir))
            url = await stack.enter_async_context(embedded_postgres(data_dir))
        else:
            url = settings.database_url.get_secret_value()
        try:
            database = await PostgresDatabase.connect(url, max_connections=settings.database_max_connections)
        except DatabaseUnavailable as error:
            raise StartupError(f"The database can't be reached: {error}.") from None
        except ValueError:
            raise StartupError("The database URL is malformed.") from None
        stack.push_async_callback(database.close)
        yield database


@asynccontextmanager
async def build(settings: Settings, certificate: Certificate | None = None) -> AsyncIterator[Service]:
    """Open the database, bring it up to date, take its lock, and put the service together.

    Raises StartupError, DatabaseUnavailable, and Conflict when another service has the database.
    """
    async with AsyncExitStack() as stack:
        database = await stack.enter_async_context(open_database(settings))
        for name in await database.migrate():
            log.info("applied migration %s", name)
        changes = await stack.enter_async_context(
            database.hold_single_writer_lock(among_nodes=settings.redis_url is not None)
        )
        taken_over = asyncio.Event()
        await stack.enter_async_context(_background(_watch_lock(changes, taken_over), "single-writer-lock"))
        await stack.enter_async_context(_background(_purge(database), "purge"))
        audit = PostgresAudit(database)
        retention = timedelta(days=settings.audit_retention_days)
        await stack.enter_async_context(_background(_purge_audit(audit, retention), "purge-audit"))
        access = PostgresAccessControl(database)
        tokens = await _tokens(settings, database)
        drain_requested = asyncio.Event()
        rooms, administration = await stack.enter_async_context(
            _rooms(settings, database, access, tokens, drain_requested.set)
        )
        sign_ins = PostgresSignIns(database)
        sessions = SessionCache(sign_ins)
        await stack.enter_async_context(_signals(database, rooms, sessions))
        tickets = PostgresTickets(database)
        cookies = SessionCookies(
            PostgresBrowserSessions(database), timedelta(seconds=settings.browser_idle_s)
        )
        live = LiveEndpoint(rooms, tokens, access, tickets, _live_options(settings), cookies)
        rate_limits = await stack.enter_async_context(_shared_limits(settings, live))
        metrics = Metrics(rooms, live.sockets, lambda: database.open_connections)
        if certificate is not None:
            metrics.show_certificate(lambda: (certificate.ends_at, certificate.is_stale))
        await stack.enter_async_context(metrics.running())
        administration.use_figures(metrics.text)
        services = Services(
            threat_models=PostgresThreatModels(database),
            diagrams=PostgresDiagrams(database),
            users=PostgresUsers(database),
            codes=PostgresCodes(database),
            sign_ins=sign_ins,
            refresh_tokens=PostgresRefreshTokens(database),
            client_credentials=PostgresClientCredentials(database),
            sessions=sessions,
            access=access,
            accounts=PostgresAccounts(database),
            challenges=PostgresChallenges(database),
            groups=PostgresGroups(database),
            memberships=PostgresMemberships(database),
            audit=audit,
            cookies=cookies,
            collaborations=PostgresCollaborations(database),
            tickets=tickets,
            rooms=rooms,
            tokens=tokens,
            database=database,
            rate_limits=rate_limits,
            options=_api_options(settings),
            metrics=metrics,
            administration=administration,
        )
        yield Service(create_app(services), live, rooms, services.health, drain_requested, taken_over)


@asynccontextmanager
async def _rooms(
    settings: Settings,
    database: PostgresDatabase,
    access: AccessControl,
    tokens: Tokens,
    drain: Callable[[], None],
) -> AsyncIterator[tuple[Rooms, Administration]]:
    """The rooms of a node that is alone, or of one among several, and what operators do with all of them."""
    update_log = PostgresUpdateLog(database)
    name = settings.node_name or f"{socket.gethostname()}/{os.getpid()}"
    limits = _rooms_limits(settings)
    if settings.redis_url is None:
        alone = Node(NodeId(uuid4()), name, "")
        async with (
            Rooms(update_log, LocalCoordinator(update_log, name), access, limits).running() as rooms,
            _desk(alone, rooms, drain) as desk,
        ):
            yield rooms, Administration(lambda: (), _nobody, desk)
        return
    signals = PostgresSignals(database)
    async with AsyncExitStack() as stack:
        listening = stack.enter_context(closing(_node_listener(settings.node_listen)))
        node = Node(NodeId(uuid4()), name, settings.node_url or node_url(settings.node_listen, listening))
        redis = await stack.enter_async_context(connected(settings.redis_url.get_secret_value()))
        coordinator = RedisCoordinator(
            PostgresOwnership(database), redis, node, LeaseLimits(lease_s=settings.room_lease_s)
        )
        await stack.enter_async_context(coordinator.running())
        rooms = await stack.enter_async_context(Rooms(update_log, coordinator, access, limits).running())
        links = Links(node.id, rooms, tokens)
        desk = await stack.enter_async_context(_desk(node, rooms, drain))
        administration = Administration(coordinator.peers, links.ask, desk)
        links.answer = desk.answer
        rooms.use(links, signals, administration)
        coordinator.answers = links.answers
        coordinator.on_lost = rooms.fence_risen
        await stack.enter_async_context(links.listening(listening))
        log.info("this is node %s, for others at %s", name, node.url)
        yield rooms, administration


@asynccontextmanager
async def _signals(database: PostgresDatabase, rooms: Rooms, sessions: SessionCache) -> AsyncIterator[None]:
    """What happens on any node, and what is done to the database by hand, reaches all that has to know."""
    signals = PostgresSignals(database)

    def hear(signal: Signal | None) -> None:
        sessions.hear(signal)
        rooms.hear(signal)

    async with signals.hearing(hear) as hearing:
        rooms.tell_by(signals)
        sessions.hearing = hearing
        try:
            yield
        finally:
            sessions.hearing = None


@asynccontextmanager
async def _desk(node: Node, rooms: Rooms, drain: Callable[[], None]) -> AsyncIterator[Desk]:
    desk = Desk(node, rooms, drain, version("tmi"))
    try:
        yield desk
    finally:
        await desk.close()


async def _nobody(node: Node, question: Json, patience_s: float) -> Json:  # noqa: ARG001
    raise Unavailable("this node is alone")


@asynccontextmanager
async def open_administration(settings: Settings) -> AsyncIterator[Administration]:
    """The nodes of a deployment, for a tool with the same settings: it is a peer of them for as long as it
    runs. Raises StartupError and Unavailable.
    """
    if settings.redis_url is None:
        raise StartupError(
            "Without TMI_REDIS_URL there is one node only: ask it by REST, at /admin/nodes and /admin/rooms."
        )
    async with AsyncExitStack() as stack:
        database = await stack.enter_async_context(open_database(settings))
        keys = await PostgresSigningKeys(database).current()
        if not keys:
            raise StartupError("No node has used this database yet.")
        redis = await stack.enter_async_context(connected(settings.redis_url.get_secret_value()))
        nodes = await living_nodes(redis)
        links = Links(NodeId(uuid4()), _NothingOwned(), Tokens(keys, settings.public_url or ISSUER))
        stack.callback(links.close)
        yield Administration(lambda: nodes, links.ask)


class _NothingOwned:
    """What a tool has to do with rooms."""

    def mirror(
        self,
        diagram: DiagramId,  # noqa: ARG002
        state_vector: bytes,  # noqa: ARG002
        answer: Answer,  # noqa: ARG002
        node: NodeId | None,  # noqa: ARG002
    ) -> Mirror | None:
        """Nobody can follow one here."""
        return None

    def is_between(self, diagram: DiagramId) -> bool:  # noqa: ARG002
        """It never is."""
        return False


@asynccontextmanager
async def _shared_limits(settings: Settings, live: LiveEndpoint) -> AsyncIterator[RateLimits]:
    """Limits of all nodes together where there is a Redis, else this node's own."""
    if settings.redis_url is None:
        yield MemoryRateLimits()
        return
    async with (
        shared.connected(settings.redis_url.get_secret_value()) as redis,
        _background(live.share(shared.RedisTallies(redis)), "share-counts"),
    ):
        yield shared.RedisRateLimits(redis)


def _node_listener(place: str) -> socket.socket:
    if place.startswith(unix.SCHEME):
        path = place.removeprefix(unix.SCHEME)
        try:
            return unix.listening_at(path)
        except OSError as error:
            raise StartupError(f"Can't listen on {path}: {error.strerror or error}.") from None
    host, port = split_place(place)
    return open_port(host, int(port))


def node_url(place: str, listening: socket.socket) -> str:
    """Where a socket that listens on this place is reached."""
    if place.startswith(unix.SCHEME):
        return place
    host, _ = split_place(place)
    port = listening.getsockname()[1]
    return f"ws://[{host}]:{port}" if ":" in host else f"ws://{host}:{port}"


async def _tokens(settings: Settings, database: PostgresDatabase) -> Tokens:
    return Tokens(
        await shared_signing_keys(PostgresSigningKeys(database)),
        settings.public_url or ISSUER,
        timedelta(seconds=settings.access_token_ttl_s),
        timedelta(seconds=settings.collab_token_ttl_s),
    )


def _rooms_limits(settings: Settings) -> RoomsLimits:
    return RoomsLimits(
        room=RoomLimits(
            document_max_bytes=settings.document_max_bytes, sessions_max=settings.clients_per_room_max
        ),
        journal=JournalLimits(max_bytes=settings.journal_max_bytes),
        idle_s=settings.room_idle_s,
        memory_max_bytes=settings.rooms_max_bytes,
        memory_hard_max_bytes=settings.rooms_hard_max_bytes,
    )


def _api_options(settings: Settings) -> ApiOptions:
    return ApiOptions(
        dev=settings.dev,
        public_url=settings.public_url,
        trusted_proxies=TrustedProxies(settings.trusted_proxies),
        hsts_max_age_s=_hsts_max_age_s(settings),
        rates=RateOptions(
            per_user=settings.user_requests_per_min,
            per_address=settings.address_requests_per_min,
            sign_in_per_address=settings.sign_in_requests_per_min,
        ),
        max_body_bytes=settings.body_max_bytes,
        refresh_token_ttl_s=settings.refresh_token_ttl_s,
        origins=_origins(settings),
        browser_session_s=settings.browser_session_s,
        sign_in_max_s=settings.sign_in_max_s,
        administrators=settings.administrators,
        metrics_token=settings.metrics_token.get_secret_value() if settings.metrics_token else None,
    )


def _origins(settings: Settings) -> Origins:
    return Origins(settings.public_url, frozenset(settings.allowed_origins))


def _hsts_max_age_s(settings: Settings) -> int:
    """Never in development: browsers would apply it to all else that runs on localhost."""
    return 0 if settings.dev else settings.hsts_max_age_s


def _live_options(settings: Settings) -> LiveOptions:
    return LiveOptions(
        public_origin=settings.public_url,
        allowed_origins=frozenset(settings.allowed_origins),
        dev=settings.dev,
        trusted_proxies=TrustedProxies(settings.trusted_proxies),
        hsts_max_age_s=_hsts_max_age_s(settings),
        sockets_max=settings.sockets_max,
        documents_per_user_max=settings.documents_per_user_max,
        frame_max_bytes=settings.frame_max_bytes,
        outbox_max_bytes=settings.outbox_max_bytes,
        sockets_per_address_max=settings.sockets_per_address_max,
        edits_per_s=settings.client_edits_per_s,
        edits_burst=settings.client_edits_burst,
        bytes_per_s=settings.client_bytes_per_s,
        bytes_burst=settings.client_bytes_burst,
        rate_patience_s=settings.rate_patience_s,
    )


# --- in the background --------------------------------------------------------------------------


@asynccontextmanager
async def _background(work: Coroutine[Any, Any, None], name: str) -> AsyncIterator[None]:
    task = asyncio.create_task(work, name=name)
    try:
        yield
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


async def _watch_lock(changes: AsyncIterator[bool], taken_over: asyncio.Event) -> None:
    try:
        async for is_held in changes:
            if is_held:
                log.info("the database is back, and ours")
            else:
                log.warning("lost the connection that keeps a second service off the database")
        log.error("another tmi service has taken the database: this one ends")
    except TmiError:
        log.exception("the database's lock can't be watched any more: this service ends")
    taken_over.set()


async def _purge(database: PostgresDatabase) -> None:
    """Delete expired codes, tokens and sign-ins from time to time."""
    while True:
        await asyncio.sleep(PURGE_EVERY_S)
        try:
            for _ in range(PURGES_AT_ONCE):
                if await database.purge_expired(PURGE_ROWS) == 0:
                    break
        except DatabaseUnavailable as error:
            log.warning("expired sign-ins stay for now: %s", error)


async def _purge_audit(audit: Audit, retention: timedelta) -> None:
    """Delete entries of the system audit whose time is over, from time to time."""
    while True:
        await asyncio.sleep(PURGE_EVERY_S)
        try:
            for _ in range(PURGES_AT_ONCE):
                if await audit.purge(datetime.now(UTC) - retention, PURGE_ROWS) == 0:
                    break
        except DatabaseUnavailable as error:
            log.warning("old entries of the system audit stay for now: %s", error)
