"""What is done from time to time, whoever is there."""

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

from api.storage_quota import StorageBoundAccess
from persistence.postgres.audit import PostgresAudit
from persistence.postgres.bin import PostgresBin
from persistence.postgres.cell_edits import PostgresCellEdits
from persistence.postgres.database import PostgresDatabase
from persistence.postgres.deliveries import PostgresDeliveries
from persistence.postgres.events import PostgresTrail
from persistence.postgres.webhooks import PostgresWebhooks
from rooms.service import Rooms
from tmi.domain.beats import to_next_beat
from tmi.domain.errors import DatabaseUnavailable
from tmi.domain.events import told_until
from tmi.domain.ports import CellEdits
from tmi.settings import Settings
from tmi.wiring.background import background
from tmi.wiring.webhooks import seal_of

log = logging.getLogger(__name__)

STORAGE_LOOKED_AT_S = 2.0
"""How often it is looked who stores more than allowed."""
PURGE_EVERY_S = 300.0
PURGE_ROWS = 1000
PURGES_AT_ONCE = 100
GIVEN_UP_KEPT = timedelta(days=1)
"""Webhooks whose endpoint was never verified can be looked at for so long."""
TELL_EVERY_S = 20.0
TELL_DIAGRAMS = 500
TELL_PAGES = 20
"""10,000 diagrams at a time, at the cost of two probes of an index for each that nobody edited."""


@asynccontextmanager
async def upkeep(settings: Settings, database: PostgresDatabase) -> AsyncIterator[None]:
    """Delete what is too old, and add to the trails what was edited in open editors, while the body runs."""
    audit, bin_, trail = PostgresAudit(database), PostgresBin(database), PostgresTrail(database)
    deliveries, webhooks = PostgresDeliveries(database), PostgresWebhooks(database, seal_of(settings))
    kept = timedelta(days=settings.audit_retention_days)
    restorable = timedelta(days=settings.deleted_keep_days)
    events = timedelta(days=settings.trail_retention_days)
    states = timedelta(days=settings.trail_states_retention_days)
    work: dict[str, Coroutine[Any, Any, None]] = {
        "purge": _purging("expired sign-ins", lambda _, rows: database.purge_expired(rows)),
        "purge-audit": _purging(
            "old entries of the system audit", lambda now, rows: audit.purge(now - kept, rows)
        ),
        "purge-deleted": _purging(
            "what can no longer be restored", lambda now, rows: bin_.purge(now - restorable, rows)
        ),
        "purge-trail": _purging(
            "old entries of the trail", lambda now, rows: trail.purge(now - events, now - states, rows)
        ),
        "purge-deliveries": _purging(
            "old deliveries of webhooks",
            lambda now, rows: deliveries.purge(now - timedelta(days=settings.webhook_log_days), rows),
        ),
        "purge-webhooks": _purging(
            "webhooks that were given up", lambda now, rows: webhooks.purge(now - GIVEN_UP_KEPT, rows)
        ),
        "seal-webhooks": _purging(
            "secrets of webhooks that another key sealed", lambda _, rows: webhooks.seal_anew(rows)
        ),
        "tell-of-edits": _tell_of_edits(PostgresCellEdits(database)),
    }
    async with AsyncExitStack() as stack:
        for name, one in work.items():
            await stack.enter_async_context(background(one, name))
        yield


async def _purging(what: str, purge: Callable[[datetime, int], Awaitable[int]]) -> None:
    """Delete up to so many rows, again and again until none is left, from time to time."""
    while True:
        await asyncio.sleep(PURGE_EVERY_S)
        try:
            for _ in range(PURGES_AT_ONCE):
                if await purge(datetime.now(UTC), PURGE_ROWS) == 0:
                    break
        except DatabaseUnavailable as error:
            log.warning("%s stay for now: %s", what, error)
        except Exception:
            log.exception("what is done from time to time failed; it goes on")


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
        except Exception:
            log.exception("what is done from time to time failed; it goes on")


async def watch_storage(access: StorageBoundAccess, rooms: Rooms) -> None:
    """Have roles follow who stores more than allowed."""
    while True:
        try:
            if await access.refresh():
                rooms.rights.look_at_all()
        except DatabaseUnavailable as error:
            log.warning("quotas of stored bytes are left as they were: %s", error)
        except Exception:
            log.exception("what is done from time to time failed; it goes on")
        await asyncio.sleep(to_next_beat(asyncio.get_running_loop().time(), STORAGE_LOOKED_AT_S))
