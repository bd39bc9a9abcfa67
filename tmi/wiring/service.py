"""Everything that serves clients, put together."""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from functools import partial

from api.app import RestApp, create_app
from api.configuration import Configuration
from api.cookies import SessionCookies
from api.diagram_changes import interpret, vet
from api.identity import web
from api.identity.provider import IdentityProvider
from api.identity.providers import identity_providers
from api.keys import KeyRing
from api.live.editors import Editors
from api.live.endpoint import LiveEndpoint
from api.metrics import Metrics
from api.news import News
from api.rates import count_address
from api.services import Health, Services
from api.sessions import SessionCache
from api.storage_quota import StorageBoundAccess
from api.streams import StreamLimits, Streams
from persistence import redis as shared
from persistence.memory.rate_limits import MemoryRateLimits
from persistence.postgres.access import PostgresAccessControl
from persistence.postgres.accounts import PostgresAccounts, PostgresChallenges
from persistence.postgres.audit import PostgresAudit
from persistence.postgres.bin import PostgresBin
from persistence.postgres.browser_sessions import PostgresBrowserSessions
from persistence.postgres.cell_edits import PostgresCellEdits
from persistence.postgres.children import PostgresChildren
from persistence.postgres.client_credentials import PostgresClientCredentials
from persistence.postgres.collaborations import PostgresCollaborations, PostgresTickets
from persistence.postgres.database import PostgresDatabase
from persistence.postgres.deliveries import PostgresDeliveries
from persistence.postgres.diagrams import PostgresDiagrams
from persistence.postgres.events import PostgresFeed, PostgresTrail
from persistence.postgres.groups import PostgresGroups, PostgresMemberships
from persistence.postgres.metadata import PostgresMetadata
from persistence.postgres.pending_authorizations import PostgresPendingAuthorizations
from persistence.postgres.quotas import PostgresQuotas, PostgresStorage
from persistence.postgres.reads import PostgresReads
from persistence.postgres.settings import PostgresPreferences, PostgresSystemSettings
from persistence.postgres.sign_ins import (
    PostgresCodes,
    PostgresRefreshTokens,
    PostgresSignIns,
    PostgresSignInTerms,
)
from persistence.postgres.signals import PostgresSignals
from persistence.postgres.signing_keys import PostgresSigningKeys
from persistence.postgres.threat_models import PostgresThreatModels
from persistence.postgres.users import PostgresUsers
from persistence.postgres.webhooks import PostgresWebhookQuotas, PostgresWebhooks
from rooms.editing import Editing
from rooms.service import Rooms
from tmi.domain.ports import RateLimits, Signal
from tmi.settings import Settings, shown_settings
from tmi.tls import Certificate
from tmi.wiring.background import background
from tmi.wiring.database import database_held, open_database
from tmi.wiring.keys import tokens_of
from tmi.wiring.nodes import Worker, node_rooms
from tmi.wiring.options import api_options, live_options, provider_options
from tmi.wiring.redis import shared_client
from tmi.wiring.upkeep import upkeep, watch_storage
from tmi.wiring.webhooks import dispatching, seal_of

log = logging.getLogger(__name__)

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
        await stack.enter_async_context(upkeep(settings, database))
        quotas, storage = PostgresQuotas(database), PostgresStorage(database)
        system_settings = PostgresSystemSettings(database)
        configuration = await stack.enter_async_context(
            Configuration(system_settings, quotas, shown_settings(settings)).running()
        )
        access = StorageBoundAccess(
            PostgresAccessControl(database), storage, lambda: configuration.limits.stored_bytes
        )
        tokens = await tokens_of(settings, database)
        key_ring = KeyRing(PostgresSigningKeys(database), tokens)
        await stack.enter_async_context(key_ring.running())
        drain_requested = asyncio.Event()
        rooms, administration, end_with_siblings = await stack.enter_async_context(
            node_rooms(settings, database, access, tokens, drain_requested.set, worker)
        )
        rooms.rights.on_settings_changed = configuration.changed
        await stack.enter_async_context(background(watch_storage(access, rooms), "storage-quotas"))
        sign_ins = PostgresSignIns(database)
        sessions = SessionCache(sign_ins)
        await stack.enter_async_context(_signals(database, rooms, sessions, key_ring))
        await stack.enter_async_context(rooms.expiry(PostgresSignInTerms(database)).running())
        tickets = PostgresTickets(database)
        browsers, idle = PostgresBrowserSessions(database), timedelta(seconds=settings.browser_idle_s)
        await stack.enter_async_context(rooms.idling(browsers, idle).running())
        cookies = SessionCookies(browsers, idle)
        feed, sign_in_terms = PostgresFeed(database), PostgresSignInTerms(database)
        news = await stack.enter_async_context(News(feed, access).running())
        editors = Editors(rooms, news)
        options, connections_of = live_options(settings), configuration.connections_of
        live = LiveEndpoint(rooms, editors, tokens, access, tickets, options, connections_of, cookies)
        live.use_awaited(lambda: database.is_awaited)
        health = Health()
        limits = StreamLimits(settings.event_streams_max, settings.event_streams_per_user_max)
        streams = await stack.enter_async_context(
            Streams(news, feed, sign_in_terms, lambda: health.draining, limits).running()
        )

        def people_changed(signal: Signal | None) -> None:
            streams.hear(signal)
            editors.hear(signal)

        rooms.rights.on_people = people_changed
        rate_limits = await stack.enter_async_context(_shared_limits(settings, live))
        dispatcher = await stack.enter_async_context(dispatching(settings, database))
        metrics = Metrics(rooms, live.sockets, lambda: database.open_connections)
        if certificate is not None:
            metrics.show_certificate(lambda: (certificate.ends_at, certificate.is_stale))
        metrics.show_events(
            lambda: (streams.count, streams.cut, {"told": editors.told, "missed": editors.missed})
        )
        metrics.show_webhooks(lambda: (dispatcher.counts, dispatcher.backlog))
        await stack.enter_async_context(metrics.running())
        administration.use_figures(metrics.text)
        editing = Editing(rooms, PostgresDiagrams(database), access, interpret, administration.ask, vet)
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
            audit=PostgresAudit(database),
            cookies=cookies,
            trail=PostgresTrail(database),
            cell_edits=PostgresCellEdits(database),
            streams=streams,
            collaborations=PostgresCollaborations(database),
            tickets=tickets,
            children=PostgresChildren(database),
            reads=PostgresReads(database),
            metadata=PostgresMetadata(database),
            bin=PostgresBin(database),
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
            webhooks=PostgresWebhooks(database, seal_of(settings)),
            deliveries=PostgresDeliveries(database),
            webhook_quotas=PostgresWebhookQuotas(database),
            wake_webhooks=dispatcher.wake,
            options=api_options(settings),
            metrics=metrics,
            administration=administration,
            health=health,
            editing=editing,
        )
        app = create_app(services)
        live.use_refused(app.refusals.refused_at)
        live.use_offered(app.is_offered)
        metrics.show_audit(lambda: app.refusals.left_out)
        live.use_rates(partial(count_address, services))
        yield Service(
            app,
            live,
            rooms,
            services.health,
            drain_requested,
            taken_over,
            end_with_siblings,
        )


@asynccontextmanager
async def _signals(
    database: PostgresDatabase, rooms: Rooms, sessions: SessionCache, key_ring: KeyRing
) -> AsyncIterator[None]:
    """What happens on any node, and what is done to the database by hand, reaches all that has to know."""
    signals = PostgresSignals(database)

    def hear(signal: Signal | None) -> None:
        sessions.hear(signal)
        key_ring.hear(signal)
        rooms.rights.hear(signal)

    async with signals.hearing(hear) as hearing:
        rooms.tell_by(signals)
        sessions.hearing = hearing
        try:
            yield
        finally:
            sessions.hearing = None


@asynccontextmanager
async def _shared_limits(settings: Settings, live: LiveEndpoint) -> AsyncIterator[RateLimits]:
    """Limits of all nodes together where there is a Redis, else this node's own."""
    if settings.redis_url is None:
        yield MemoryRateLimits()
        return
    async with (
        shared_client(
            settings.redis_url.get_secret_value(), is_cluster=settings.redis_cluster
        ) as redis,
        background(live.share(shared.RedisTallies(redis)), "share-counts"),
    ):
        yield shared.RedisRateLimits(redis)


@asynccontextmanager
async def _identity_providers(settings: Settings) -> AsyncIterator[Mapping[str, IdentityProvider]]:
    if not settings.providers or settings.public_url is None:
        yield {}
        return
    async with web.opened(allow_loopback=settings.dev) as client:
        told = map(provider_options, settings.providers)
        yield identity_providers(told, settings.public_url, client)
