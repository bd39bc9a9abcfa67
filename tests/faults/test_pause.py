"""An owner stands still for longer than others take to think it dead, and goes on: SIGSTOP and SIGCONT."""

import asyncio
import os
import signal
import time

import asyncpg

from tests.faults.conftest import OwnPostgres
from tests.faults.test_nodes import Pair, nodes, until_acknowledged
from tests.harness.ledger import Ledger
from tests.harness.service import Service

__all__ = ["nodes"]

ROUNDS = int(os.environ.get("TMI_PAUSE_ROUNDS", "2"))
NOTICED_S = 2.0
"""A second, and room for a busy machine; the measured time is printed."""
TAKEN_OVER_S = 8.0
BACK_S = 15

STALE = """
SELECT count(*) FROM (
    SELECT fence < lag(fence) OVER (PARTITION BY diagram_id ORDER BY seq) AS is_stale FROM diagram_updates
) AS rows WHERE is_stale
"""
"""Rows that a former owner wrote after its successor's first."""
FENCES = "SELECT diagram_id::text AS diagram_id, fence FROM diagram_fences"


class Log:
    """Fences and rows, as the database has them."""

    def __init__(self, connection: "asyncpg.Connection[asyncpg.Record]", nodes: Pair) -> None:
        self._connection = connection
        self._nodes = nodes

    async def stale_rows(self) -> int:
        """How many there are."""
        found: int = await self._connection.fetchval(STALE)
        return found

    async def fences(self) -> list[int]:
        """Those of the rooms, in their order."""
        found = {row["diagram_id"]: row["fence"] for row in await self._connection.fetch(FENCES)}
        return [found[place.diagram] for place in self._nodes.writers.places]

    async def rise(self, before: list[int]) -> None:
        """Wait until another node has claimed every room."""
        async with asyncio.timeout(TAKEN_OVER_S):
            while not all(now > then for now, then in zip(await self.fences(), before, strict=True)):
                await asyncio.sleep(0.05)


async def noticed(service: Service, since: int, rooms: int) -> float:
    """Wait until a service has noticed that it lost so many rooms; returns the seconds that took."""
    began = time.monotonic()
    async with asyncio.timeout(NOTICED_S):
        while service.output(since).count("another node has claimed it") < rooms:
            await asyncio.sleep(0.01)
    return time.monotonic() - began


async def test_a_paused_owner_notices_that_its_rooms_are_taken_and_nothing_is_lost_or_stale(
    nodes: Pair,
    own_postgres: OwnPostgres,
) -> None:
    connection = await asyncpg.connect(own_postgres.admin_url)
    log = Log(connection, nodes)
    at_a, at_b = nodes.writers.names, nodes.at_b
    owner, other = (nodes.a, at_a), (nodes.b, at_b)
    try:
        for round_ in range(ROUNDS):
            is_quiet = round_ % 2 == 0
            fences, written = await log.fences(), owner[0].output_size()
            if not is_quiet:
                await nodes.stream([*at_a, *at_b], f"r{round_}")
                await asyncio.sleep(0.5)
            os.kill(owner[0].pid, signal.SIGSTOP)
            try:
                await log.rise(fences)
                await asyncio.sleep(0.5)
            finally:
                os.kill(owner[0].pid, signal.SIGCONT)
            if is_quiet:
                took_s = await noticed(owner[0], written, len(nodes.writers.places))
                print(f"round {round_}: noticed after {took_s:.2f} s")
            else:
                await asyncio.sleep(1)
                await nodes.driver.call("stop_stream", stream=f"r{round_}")
            await nodes.driver.wait([*at_a, *at_b], "synced", BACK_S)
            await until_acknowledged(nodes, [*at_a, *at_b], BACK_S)
            assert 0 == await log.stale_rows()
            owner, other = other, owner
        metas = [await nodes.meta(nodes.a, index) for index in range(len(nodes.writers.places))]
        ledger = await Ledger.read(nodes.driver, [*at_a, *at_b])
        assert () == ledger.violations
        assert frozenset() == ledger.acknowledged - {key for meta in metas for key in meta}
    finally:
        await connection.close()
