"""The connection on which signals are heard, when it is cut."""

import asyncio

from persistence.postgres.database import PostgresDatabase
from persistence.postgres.listening import listening

NEVER_S = 3600.0


async def test_a_cut_connection_is_noticed_before_it_is_asked(database: PostgresDatabase) -> None:
    missed = asyncio.Event()
    heard: list[str] = []
    async with listening(database.connect_aside, "cuts", heard.append, missed.set, NEVER_S) as hearing:
        assert hearing.unsure_s() < 10
        ended = await database.fetch(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE query LIKE 'LISTEN %cuts%'"
        )
        assert len(ended) == 1
        await asyncio.wait_for(missed.wait(), 10)
        assert hearing.unsure_s() < 10
        await database.fetch("SELECT pg_notify('cuts', 'again')")
        async with asyncio.timeout(10):
            while heard != ["again"]:
                await asyncio.sleep(0.01)
