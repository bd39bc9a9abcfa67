"""Webhooks, put together."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from api.hooks.dispatcher import Dispatcher, DispatchOptions
from api.hooks.owners import Owners
from api.hooks.sender import sending
from persistence.postgres.database import PostgresDatabase
from persistence.postgres.groups import PostgresMemberships
from persistence.postgres.outbox import PostgresOutbox
from persistence.postgres.users import PostgresUsers
from persistence.sealing import Seal
from tmi.domain.targets import TargetRules
from tmi.domain.webhooks import WebhookLimits
from tmi.settings import Settings


def seal_of(settings: Settings) -> Seal:
    """What the secrets of subscriptions are sealed with."""
    return Seal(settings.webhook_keys)


def webhook_targets(settings: Settings) -> TargetRules:
    """Where webhooks may lead."""
    ports = frozenset() if settings.dev else frozenset(settings.webhook_ports)
    return TargetRules(settings.dev, ports, settings.webhook_networks)


def webhook_limits(settings: Settings) -> WebhookLimits:
    """What users may do with webhooks."""
    return WebhookLimits(
        settings.webhook_subscriptions_max,
        settings.webhook_events_per_min,
        settings.webhook_requests_per_min,
        settings.webhook_requests_per_day,
    )


@asynccontextmanager
async def dispatching(settings: Settings, database: PostgresDatabase) -> AsyncIterator[Dispatcher]:
    """Deliver while the body runs."""
    owners = Owners(PostgresUsers(database), PostgresMemberships(database), settings.administrators)
    options = DispatchOptions(
        at_once=settings.webhook_calls_max,
        attempts_max=settings.webhook_attempts_max,
        backoff_s=settings.webhook_backoff_s,
        timeout_s=settings.webhook_timeout_s,
    )
    outbox = PostgresOutbox(database, seal_of(settings))
    async with (
        sending(webhook_targets(settings), settings.webhook_timeout_s) as sender,
        Dispatcher(outbox, sender, owners.may_own, options, webhook_limits(settings)).running() as dispatcher,
    ):
        yield dispatcher
