"""The way to the database, and the lock that keeps other services off it."""

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

from persistence.postgres.database import PostgresDatabase
from tmi.domain.errors import DatabaseUnavailable, StartupError, TmiError
from tmi.embedded.data_directory import is_in_use, locked
from tmi.embedded.postgres import Places, embedded_postgres
from tmi.settings import Settings
from tmi.wiring.background import background

log = logging.getLogger(__name__)

DATABASE_CLOSE_S = 2.0
"""All is committed by then, or given up."""


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
async def database_held(
    database: PostgresDatabase, taken_over: asyncio.Event, *, among_nodes: bool
) -> AsyncIterator[None]:
    """Keep other services off the database while the body runs; if one takes it all the same, say so by
    `taken_over`. Raises Conflict and DatabaseUnavailable.
    """
    async with (
        database.hold_single_writer_lock(among_nodes=among_nodes) as changes,
        background(_watch_lock(changes, taken_over), "single-writer-lock"),
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
