"""The only place that constructs adapters and joins them to the inside of TMI."""

import asyncio
import contextlib
import logging
import os
import socket
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, closing
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from importlib.metadata import version
from typing import Any
from uuid import UUID, uuid4

from api.app import RestApp, create_app
from api.configuration import Configuration
from api.cookies import SessionCookies
from api.diagram_changes import interpret
from api.forwarding import TrustedProxies
from api.identity import web
from api.identity.provider import IdentityProvider, ProviderOptions
from api.identity.providers import identity_providers
from api.keys import LEAD, KeyRing
from api.live.endpoint import LiveEndpoint
from api.live.options import LiveOptions
from api.metrics import Metrics
from api.origins import Origins
from api.services import ApiOptions, Health, Services
from api.sessions import SessionCache
from api.storage_quota import StorageBoundAccess
from api.streams import StreamLimits, Streams
from api.tokens import Tokens, new_signing_key, shared_signing_keys
from persistence import redis as shared
from persistence.memory.rate_limits import MemoryRateLimits
from persistence.postgres.access import PostgresAccessControl
from persistence.postgres.accounts import PostgresAccounts, PostgresChallenges
from persistence.postgres.audit import PostgresAudit
from persistence.postgres.bin import PostgresBin
from persistence.postgres.browser_sessions import PostgresBrowserSessions
from persistence.postgres.cell_edits import PostgresCellEdits
from persistence.postgres.children import PostgresChildren, PostgresContents
from persistence.postgres.client_credentials import PostgresClientCredentials
from persistence.postgres.collaborations import PostgresCollaborations, PostgresTickets
from persistence.postgres.database import PostgresDatabase
from persistence.postgres.diagrams import PostgresDiagrams
from persistence.postgres.events import PostgresFeed, PostgresTrail
from persistence.postgres.groups import PostgresGroups, PostgresMemberships
from persistence.postgres.metadata import PostgresMetadata
from persistence.postgres.ownership import PostgresOwnership
from persistence.postgres.pending_authorizations import PostgresPendingAuthorizations
from persistence.postgres.quotas import PostgresQuotas, PostgresStorage
from persistence.postgres.settings import PostgresPreferences, PostgresSystemSettings
from persistence.postgres.sign_ins import (
    PostgresCodes,
    PostgresRefreshTokens,
    PostgresSignIns,
    PostgresSignInTerms,
)
from persistence.postgres.signals import PostgresSignals
from persistence.postgres.signing_keys import PostgresKeyRotation, PostgresSigningKeys
from persistence.postgres.threat_models import PostgresThreatModels
from persistence.postgres.update_log import PostgresUpdateLog
from persistence.postgres.users import PostgresUsers
from rooms.administration import Administration, Desk
from rooms.coordination.local import LocalCoordinator
from rooms.coordination.redis import LeaseLimits, RedisCoordinator, connected, living_nodes
from rooms.editing import Editing
from rooms.journal import JournalLimits
from rooms.limits import RoomsLimits
from rooms.nodes import unix
from rooms.nodes.addresses import Address, this_machine
from rooms.nodes.control import Json
from rooms.nodes.links import Links
from rooms.nodes.mirror import Answer, Mirror
from rooms.nodes.witnesses import ANSWER_S, Witnesses
from rooms.room import RoomLimits
from rooms.service import Rooms
from tmi.domain.errors import DatabaseUnavailable, StartupError, TmiError, Unavailable
from tmi.domain.events import told_until
from tmi.domain.ids import AuditId, DiagramId, NodeId
from tmi.domain.model import AuditEntry, Node
from tmi.domain.ports import (
    AccessControl,
    Audit,
    Bin,
    CellEdits,
    Happened,
    KeyRotation,
    RateLimits,
    Signal,
    Signals,
    Trail,
)
from tmi.domain.sign_ins import KeyTerm
from tmi.embedded.data_directory import is_in_use, locked
from tmi.embedded.postgres import Places, embedded_postgres
from tmi.provider_settings import ProviderSettings
from tmi.settings import Settings, shown_settings, split_ports
from tmi.starting import open_port
from tmi.tls import Certificate

log = logging.getLogger(__name__)

ISSUER = "tmi"
"""Who signs tokens where no public URL says."""
DATABASE_CLOSE_S = 2.0
"""All is committed by then, or given up."""
STORAGE_LOOKED_AT_S = 2.0
"""How often it is looked who stores more than allowed."""
PURGE_EVERY_S = 300.0
PURGE_ROWS = 1000
PURGES_AT_ONCE = 100
TELL_EVERY_S = 20.0
TELL_DIAGRAMS = 500
TELL_PAGES = 20
"""10,000 diagrams at a time, at the cost of two probes of an index for each that nobody edited."""


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
    end_with_siblings: Callable[[], None]
    """The other workers of its parent end as well: its rooms go to other nodes, or to nobody."""


@dataclass(frozen=True, slots=True)
class Worker:
    """What a process of `tmi serve --workers` has to know, beside its settings. Its parent holds the
    database's lock, for all of them.
    """

    number: int
    socket: str
    """The path where the other workers of its parent link to it."""
    is_among_others: bool
    """There may be nodes of other parents, and of other machines, which reach it by TCP."""


@asynccontextmanager
async def open_database(settings: Settings, *, beside: bool = False) -> AsyncIterator[PostgresDatabase]:
    """The database of the settings, else an embedded one, `beside` a service that runs it. Raises
    StartupError.
    """
    async with AsyncExitStack() as stack:
        if settings.database_url is None and beside and is_in_use(settings.data_dir):
            url = Places(settings.data_dir.resolve()).url
        elif settings.database_url is None:
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
        stack.push_async_callback(database.close, DATABASE_CLOSE_S)
        yield database


@asynccontextmanager
async def build(
    settings: Settings, worker: Worker | None = None, certificate: Certificate | None = None
) -> AsyncIterator[Service]:
    """Open the database, bring it up to date, take its lock unless this is a worker, whose parent has it, and
    put the service together.

    Raises StartupError, DatabaseUnavailable, and Conflict when another service has the database.
    """
    async with AsyncExitStack() as stack:
        database = await stack.enter_async_context(open_database(settings))
        for name in await database.migrate():
            log.info("applied migration %s", name)
        taken_over = asyncio.Event()
        if worker is None:
            held = database_held(database, taken_over, among_nodes=settings.redis_url is not None)
            await stack.enter_async_context(held)
        await stack.enter_async_context(_background(_purge(database), "purge"))
        audit = PostgresAudit(database)
        retention = timedelta(days=settings.audit_retention_days)
        await stack.enter_async_context(_background(_purge_audit(audit, retention), "purge-audit"))
        bin_ = PostgresBin(database)
        kept = timedelta(days=settings.deleted_keep_days)
        await stack.enter_async_context(_background(_purge_deleted(bin_, kept), "purge-deleted"))
        trail = PostgresTrail(database)
        await stack.enter_async_context(_background(_purge_trail(trail, settings), "purge-trail"))
        cell_edits = PostgresCellEdits(database)
        await stack.enter_async_context(_background(_tell_of_edits(cell_edits), "tell-of-edits"))
        quotas, storage = PostgresQuotas(database), PostgresStorage(database)
        system_settings = PostgresSystemSettings(database)
        configuration = await stack.enter_async_context(
            Configuration(system_settings, quotas, shown_settings(settings)).running()
        )
        access = StorageBoundAccess(
            PostgresAccessControl(database), storage, lambda: configuration.limits.stored_bytes
        )
        tokens = await _tokens(settings, database)
        key_ring = KeyRing(PostgresSigningKeys(database), tokens)
        await stack.enter_async_context(key_ring.running())
        drain_requested = asyncio.Event()
        rooms, administration, end_with_siblings = await stack.enter_async_context(
            _rooms(settings, database, access, tokens, drain_requested.set, worker)
        )
        rooms.on_settings_changed(configuration.changed)
        await stack.enter_async_context(_background(_watch_storage(access, rooms), "storage-quotas"))
        sign_ins = PostgresSignIns(database)
        sessions = SessionCache(sign_ins)
        await stack.enter_async_context(_signals(database, rooms, sessions, key_ring))
        await stack.enter_async_context(rooms.expiry(PostgresSignInTerms(database)).running())
        tickets = PostgresTickets(database)
        cookies = SessionCookies(
            PostgresBrowserSessions(database), timedelta(seconds=settings.browser_idle_s)
        )
        live = LiveEndpoint(
            rooms, tokens, access, tickets, _live_options(settings), configuration.connections_of, cookies
        )
        health = Health()
        streams = await stack.enter_async_context(
            Streams(
                PostgresFeed(database),
                access,
                sign_ins,
                lambda: health.draining,
                StreamLimits(settings.event_streams_max, settings.event_streams_per_user_max),
            ).running()
        )
        rooms.on_people(streams.hear)
        rate_limits = await stack.enter_async_context(_shared_limits(settings, live))
        metrics = Metrics(rooms, live.sockets, lambda: database.open_connections)
        if certificate is not None:
            metrics.show_certificate(lambda: (certificate.ends_at, certificate.is_stale))
        await stack.enter_async_context(metrics.running())
        administration.use_figures(metrics.text)
        editing = Editing(rooms, PostgresDiagrams(database), access, interpret, administration.ask)
        administration.use_editing(editing.answer)
        services = Services(
            threat_models=PostgresThreatModels(database),
            diagrams=PostgresDiagrams(database),
            users=PostgresUsers(database),
            codes=PostgresCodes(database),
            sign_ins=sign_ins,
            refresh_tokens=PostgresRefreshTokens(database),
            client_credentials=PostgresClientCredentials(database),
            sessions=sessions,
            pending_authorizations=PostgresPendingAuthorizations(database),
            identity_providers=await stack.enter_async_context(_identity_providers(settings)),
            access=access,
            accounts=PostgresAccounts(database),
            challenges=PostgresChallenges(database),
            groups=PostgresGroups(database),
            memberships=PostgresMemberships(database),
            audit=audit,
            cookies=cookies,
            trail=trail,
            cell_edits=cell_edits,
            streams=streams,
            collaborations=PostgresCollaborations(database),
            tickets=tickets,
            children=PostgresChildren(database),
            contents=PostgresContents(database),
            metadata=PostgresMetadata(database),
            bin=bin_,
            rooms=rooms,
            tokens=tokens,
            database=database,
            rate_limits=rate_limits,
            quotas=quotas,
            storage=storage,
            room=access,
            settings=system_settings,
            preferences=PostgresPreferences(database),
            configuration=configuration,
            options=_api_options(settings),
            metrics=metrics,
            administration=administration,
            health=health,
            editing=editing,
        )
        yield Service(
            create_app(services),
            live,
            rooms,
            services.health,
            drain_requested,
            taken_over,
            end_with_siblings,
        )


@asynccontextmanager
async def _rooms(
    settings: Settings,
    database: PostgresDatabase,
    access: AccessControl,
    tokens: Tokens,
    drain: Callable[[], None],
    worker: Worker | None,
) -> AsyncIterator[tuple[Rooms, Administration, Callable[[], None]]]:
    """The rooms of a node that is alone, or of one among several, what operators do with all of them, and
    what says that the node's siblings end with it.
    """
    update_log = PostgresUpdateLog(database)
    name = settings.node_name or f"{socket.gethostname()}/{os.getpid()}"
    limits = _rooms_limits(settings)
    if settings.redis_url is None:
        alone = Node(NodeId(uuid4()), name, "")
        async with (
            Rooms(update_log, LocalCoordinator(update_log, name), access, limits).running() as rooms,
            _desk(alone, rooms, drain) as desk,
        ):
            yield rooms, Administration(lambda: (), _nobody, desk), lambda: None
        return
    signals = PostgresSignals(database)
    async with AsyncExitStack() as stack:
        address, listening = stack.enter_context(_node_listeners(settings, worker))
        node = Node(NodeId(uuid4()), name, str(address))
        redis = await stack.enter_async_context(
            connected(settings.redis_url.get_secret_value(), is_cluster=settings.redis_cluster)
        )
        coordinator = RedisCoordinator(
            PostgresOwnership(database), redis, node, LeaseLimits(lease_s=settings.room_lease_s)
        )
        await stack.enter_async_context(coordinator.running())
        rooms = await stack.enter_async_context(Rooms(update_log, coordinator, access, limits).running())
        links = Links(node.id, rooms, tokens)
        desk = await stack.enter_async_context(_desk(node, rooms, drain))
        administration = Administration(coordinator.peers, links.ask, desk)
        links.answer = desk.answer
        witnesses = Witnesses(coordinator.peers, links.ask)
        desk.reaches = links.reaches
        desk.has_database = lambda: database.ping(ANSWER_S / 2)
        rooms.use(links, signals, administration, witnesses)
        await stack.enter_async_context(rooms.watching_database(database.ping, witnesses.with_database))
        coordinator.answers = links.answers
        coordinator.on_lost = rooms.fence_risen
        await stack.enter_async_context(links.listening(*listening))
        log.info("this is node %s, for others at %s", name, node.url)
        yield rooms, administration, coordinator.end_with_siblings


@asynccontextmanager
async def _signals(
    database: PostgresDatabase, rooms: Rooms, sessions: SessionCache, key_ring: KeyRing
) -> AsyncIterator[None]:
    """What happens on any node, and what is done to the database by hand, reaches all that has to know."""
    signals = PostgresSignals(database)

    def hear(signal: Signal | None) -> None:
        sessions.hear(signal)
        key_ring.hear(signal)
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
        redis = await stack.enter_async_context(
            connected(settings.redis_url.get_secret_value(), is_cluster=settings.redis_cluster)
        )
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
        shared.connected(
            settings.redis_url.get_secret_value(), is_cluster=settings.redis_cluster
        ) as redis,
        _background(live.share(shared.RedisTallies(redis)), "share-counts"),
    ):
        yield shared.RedisRateLimits(redis)


@contextlib.contextmanager
def _node_listeners(
    settings: Settings, worker: Worker | None
) -> Iterator[tuple[Address, list[socket.socket]]]:
    """Where other nodes reach this one, and the sockets that listen there. Raises StartupError."""
    place = settings.node_listen
    path = worker.socket if worker is not None else _path_of(place)
    tcp: str | None = None
    with contextlib.ExitStack() as stack:
        listening = []
        if path is not None:
            listening.append(stack.enter_context(closing(_unix_listener(path))))
        if worker.is_among_others if worker is not None else path is None:
            host, ports = split_ports(place)
            by_tcp = stack.enter_context(closing(open_port(host, ports[0])))
            listening.append(by_tcp)
            tcp = node_url(host, by_tcp.getsockname()[1], settings.node_url)
        yield Address(tcp, path, this_machine() if tcp and path else None), listening


def _path_of(place: str) -> str | None:
    return place.removeprefix(unix.SCHEME) if place.startswith(unix.SCHEME) else None


def _unix_listener(path: str) -> socket.socket:
    try:
        return unix.listening_at(path)
    except OSError as error:
        raise StartupError(f"Can't listen on {path}: {error.strerror or error}.") from None


def node_url(host: str, port: int, given: str | None) -> str:
    """Where other nodes reach what listens there; port 0 that is given stands for the one listened on."""
    if given is None:
        return f"ws://[{host}]:{port}" if ":" in host else f"ws://{host}:{port}"
    return f"{given.removesuffix(':0')}:{port}" if given.endswith(":0") else given


async def _tokens(settings: Settings, database: PostgresDatabase) -> Tokens:
    store = PostgresSigningKeys(database)
    tokens = Tokens(
        await shared_signing_keys(store),
        settings.public_url or ISSUER,
        timedelta(seconds=settings.access_token_ttl_s),
        timedelta(seconds=settings.collab_token_ttl_s),
    )
    await store.promise(tokens.longest_ttl)
    return tokens


@dataclass(frozen=True, slots=True)
class Keys:
    """What operators do with the keys that sign tokens."""

    rotation: KeyRotation
    signals: Signals

    async def list(self) -> Sequence[KeyTerm]:
        """All keys that verify, newest first."""
        return await self.rotation.terms()

    async def rotate(self, by: str) -> KeyTerm:
        """Make a key that signs as soon as every node can know it. Raises Conflict while one waits for that.
        """
        key = new_signing_key()
        term = await self.rotation.add(key, LEAD, _by_hand("keys.rotated", by, key.kid))
        await self._tell(key.kid)
        return term

    async def replace(self, by: str) -> Sequence[str]:
        """Make a key that signs at once, and take all others away; returns their ids."""
        key = new_signing_key()
        gone = await self.rotation.replace_all(key, _by_hand("keys.replaced", by, key.kid))
        await self._tell(key.kid)
        return gone

    async def _tell(self, kid: str) -> None:
        await self.signals.publish(Signal(Happened.KEYS_CHANGED, (UUID(kid),)))


@asynccontextmanager
async def open_keys(settings: Settings) -> AsyncIterator[Keys]:
    """The signing keys of a deployment, for a tool with the same settings. Raises StartupError."""
    if settings.database_url is None and not Places(settings.data_dir).cluster.is_dir():
        raise StartupError(f"There is no database in {settings.data_dir}.")
    async with open_database(settings, beside=True) as database:
        rotation = PostgresKeyRotation(database)
        if not await rotation.terms():
            raise StartupError("No node has used this database yet.")
        yield Keys(rotation, PostgresSignals(database))


def _by_hand(what: str, by: str, new: str) -> AuditEntry:
    """An entry of what was done without a request; `by` is the command."""
    return AuditEntry(
        id=AuditId(uuid4()),
        at=datetime.now(UTC),
        actor=None,
        provider="",
        provider_id="",
        email="",
        name="",
        method="CLI",
        path=by,
        what=what,
        old=None,
        new=new,
        summary=None,
    )


@asynccontextmanager
async def _identity_providers(settings: Settings) -> AsyncIterator[Mapping[str, IdentityProvider]]:
    if not settings.providers or settings.public_url is None:
        yield {}
        return
    async with web.opened(allow_loopback=settings.dev) as client:
        told = map(_provider_options, settings.providers)
        yield identity_providers(told, settings.public_url, client)


def _provider_options(provider: ProviderSettings) -> ProviderOptions:
    secret = provider.client_secret
    return ProviderOptions(
        id=provider.id,
        kind=provider.kind,
        client_id=provider.client_id,
        client_secret=None if secret is None else secret.get_secret_value(),
        issuer=provider.address,
        tenant=provider.tenant,
        allowed_tenants=provider.allowed_tenants,
        hosted_domain=provider.hosted_domain,
        allowed_domains=provider.allowed_domains,
        trust_emails=provider.trust_emails,
        scopes=provider.scopes,
        name=provider.name,
        icon=provider.icon,
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
        participants_max=settings.clients_per_room_max,
        max_body_bytes=settings.body_max_bytes,
        if_match_required=settings.if_match_required,
        refresh_token_ttl_s=settings.refresh_token_ttl_s,
        origins=_origins(settings),
        browser_session_s=settings.browser_session_s,
        sign_in_max_s=settings.sign_in_max_s,
        client_credentials_for_all=settings.client_credentials_for_all,
        client_credentials_per_user_max=settings.client_credentials_per_user_max,
        administrators=settings.administrators,
        client_callbacks=settings.client_callbacks,
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


@asynccontextmanager
async def database_held(
    database: PostgresDatabase, taken_over: asyncio.Event, *, among_nodes: bool
) -> AsyncIterator[None]:
    """Keep other services off the database while the body runs; if one takes it all the same, say so by
    `taken_over`. Raises Conflict and DatabaseUnavailable.
    """
    async with (
        database.hold_single_writer_lock(among_nodes=among_nodes) as changes,
        _background(_watch_lock(changes, taken_over), "single-writer-lock"),
    ):
        yield


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


async def _watch_storage(access: StorageBoundAccess, rooms: Rooms) -> None:
    """Have roles follow who stores more than allowed."""
    while True:
        try:
            if await access.refresh():
                rooms.look_at_all_roles()
        except DatabaseUnavailable as error:
            log.warning("quotas of stored bytes are left as they were: %s", error)
        await asyncio.sleep(STORAGE_LOOKED_AT_S)


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


async def _purge_deleted(bin_: Bin, kept: timedelta) -> None:
    """Delete for good, from time to time, what was deleted so long ago that it cannot be restored."""
    while True:
        await asyncio.sleep(PURGE_EVERY_S)
        try:
            for _ in range(PURGES_AT_ONCE):
                if await bin_.purge(datetime.now(UTC) - kept, PURGE_ROWS) == 0:
                    break
        except DatabaseUnavailable as error:
            log.warning("what was deleted long ago stays for now: %s", error)


async def _purge_trail(trail: Trail, settings: Settings) -> None:
    """Delete events of threat models, and their states, whose time is over, from time to time."""
    events = timedelta(days=settings.trail_retention_days)
    states = timedelta(days=settings.trail_states_retention_days)
    while True:
        await asyncio.sleep(PURGE_EVERY_S)
        try:
            for _ in range(PURGES_AT_ONCE):
                now = datetime.now(UTC)
                if await trail.purge(now - events, now - states, PURGE_ROWS) == 0:
                    break
        except DatabaseUnavailable as error:
            log.warning("old entries of the trail stay for now: %s", error)


async def _tell_of_edits(cell_edits: CellEdits) -> None:
    """Add what was edited in open editors to the trails, some diagrams at a time, round and round."""
    place = None
    while True:
        await asyncio.sleep(TELL_EVERY_S)
        try:
            for _ in range(TELL_PAGES):
                place = await cell_edits.tell_next(place, TELL_DIAGRAMS, told_until(datetime.now(UTC)))
                if place is None:
                    break
        except DatabaseUnavailable as error:
            log.warning("edits of cells are not in the trails yet: %s", error)
