"""Whether somebody waits for the database: then the process waits for no more messages of its sockets."""

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from persistence.postgres.database import PostgresDatabase

SLEEP = "SELECT pg_sleep(0.05)"
WAYS: dict[str, Callable[[PostgresDatabase], Awaitable[object]]] = {
    "the pool": lambda database: database.fetch(SLEEP),
    "the log": lambda database: database.fetch_hot(SLEEP),
    "reading": lambda database: database.read(SLEEP),
    "reading at leisure": lambda database: database.read_with(lambda connection: connection.fetch(SLEEP)),
}


@pytest.mark.parametrize("way", WAYS)
async def test_it_is_awaited_until_it_has_answered(database: PostgresDatabase, way: str) -> None:
    seen = [database.is_awaited]
    asking = asyncio.ensure_future(WAYS[way](database))
    async with asyncio.timeout(10):
        while not database.is_awaited:
            await asyncio.sleep(0.001)
    await asking
    seen.append(database.is_awaited)
    assert [False, False] == seen
