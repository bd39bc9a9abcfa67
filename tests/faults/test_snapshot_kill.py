"""The writer of snapshots killed at each of its steps: a load afterwards equals a full replay of the log."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from pycrdt import Doc, Map

from tests.faults.conftest import OwnPostgres
from tests.harness.ledger import Writers, loaded_by_a_fresh_client
from tests.harness.node import NodeDriver
from tests.harness.pycrdt_client import decode_state_vector
from tests.harness.service import Service

KIB = 1024
EDITS = 40
EDIT_BYTES = 8 * KIB
"""Together more than the weight at which a snapshot is due."""

SLOW_COMMIT = """
CREATE FUNCTION wait_in_commit() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN PERFORM pg_sleep(2); RETURN NULL; END $$;
CREATE CONSTRAINT TRIGGER slow_commit AFTER INSERT ON diagram_snapshots
    DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION wait_in_commit()
"""
WAITS_FOR_THE_TABLE = (
    "SELECT count(*) FROM pg_locks WHERE NOT granted AND relation = 'diagram_snapshots'::regclass"
)
WAITS_IN_COMMIT = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'PgSleep'"
SNAPSHOTS = "SELECT count(*) FROM diagram_snapshots"
WRITER_GONE = (
    "SELECT count(*) = 0 FROM pg_stat_activity WHERE wait_event = 'PgSleep' OR wait_event = 'relation'"
)


class Snapshots:
    """A service that writes snapshots, a connection of our own, and a writer."""

    def __init__(self, service: Service, driver: NodeDriver, connection: "asyncpg.Connection[Any]") -> None:
        self.service = service
        self.driver = driver
        self.connection = connection
        self.writers = Writers(driver, service)

    async def make_one_due(self) -> None:
        """Enough edits for a snapshot."""
        await self.driver.call(
            "flood_keys",
            name=self.writers.names[0],
            edits=EDITS,
            bytes=EDIT_BYTES,
            prefix=str(time.monotonic_ns()),
        )

    async def until(self, query: str, timeout_s: float = 30) -> None:
        """Poll until a count is positive, or a condition holds."""
        deadline = time.monotonic() + timeout_s
        while not await self.connection.fetchval(query):
            assert time.monotonic() < deadline, query
            await asyncio.sleep(0.002)

    async def kill(self) -> None:
        self.service.kill()
        await self.driver.call("offline", names=self.writers.names)

    async def replay(self, diagram: str) -> tuple[dict[str, Any], dict[str, int]]:
        """Apply every update of the log, in order, and no snapshot."""
        rows = await self.connection.fetch(
            "SELECT data FROM diagram_updates WHERE diagram_id = $1::text::uuid ORDER BY seq", diagram
        )
        doc: Doc[Any] = Doc()
        meta = doc.get("meta", type=Map[Any])
        for row in rows:
            doc.apply_update(row["data"])
        return dict(meta.to_py() or {}), decode_state_vector(doc.get_state())

    async def assert_a_load_equals_the_replay(self) -> None:
        place = self.writers.places[0]
        await asyncio.to_thread(self.service.start)
        ledger = await self.writers.ledger(place)
        loaded = await loaded_by_a_fresh_client(self.driver, self.service, place, self.writers.token)
        content, state_vector = await self.replay(place.diagram)
        assert content == loaded["content"]["meta"]
        assert state_vector == loaded["state_vector"]
        assert frozenset() == ledger.acknowledged - content.keys()

    async def goes_on(self) -> None:
        """The writers come back, and the next snapshot with its tail loads as well."""
        await self.driver.call("online", names=self.writers.names)
        await self.driver.wait(self.writers.names, "settled", 60)
        await self.make_one_due()
        await self.until(SNAPSHOTS)
        await self.driver.call("put", name=self.writers.names[0], key="tail", value=1)
        await self.driver.call("wait_saved", name=self.writers.names[0], edit="tail", timeout_ms=20_000)
        await self.kill()
        await self.assert_a_load_equals_the_replay()


@asynccontextmanager
async def snapshots(data: Path, driver: NodeDriver, postgres: OwnPostgres) -> AsyncIterator[Snapshots]:
    with Service(data, database_url=postgres.url) as service:
        connection = await asyncpg.connect(postgres.admin_url)
        try:
            running = Snapshots(service, driver, connection)
            await running.writers.open(1)
            yield running
        finally:
            await connection.close()


async def test_killed_before_the_snapshot_is_inserted(
    data: Path, driver: NodeDriver, own_postgres: OwnPostgres
) -> None:
    async with snapshots(data, driver, own_postgres) as running:
        async with running.connection.transaction():
            await running.connection.execute("LOCK TABLE diagram_snapshots IN EXCLUSIVE MODE")
            await running.make_one_due()
            await running.until(WAITS_FOR_THE_TABLE)
            await running.kill()
        await running.assert_a_load_equals_the_replay()
        await running.goes_on()


@pytest.mark.parametrize("backend", ["commits", "dies"])
async def test_killed_while_the_snapshot_is_being_committed(
    data: Path, driver: NodeDriver, own_postgres: OwnPostgres, backend: str
) -> None:
    """Whether the commit comes through is up to Postgres, which has the statement already: both are tried."""
    async with snapshots(data, driver, own_postgres) as running:
        await running.connection.execute(SLOW_COMMIT)
        await running.make_one_due()
        await running.until(WAITS_IN_COMMIT)
        await running.kill()
        if backend == "dies":
            await running.connection.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE wait_event = 'PgSleep'"
            )
        await running.until(WRITER_GONE)
        assert (1 if backend == "commits" else 0) == await running.connection.fetchval(SNAPSHOTS)
        await running.connection.execute("DROP TRIGGER slow_commit ON diagram_snapshots")
        await running.assert_a_load_equals_the_replay()
        await running.goes_on()


async def test_killed_right_after_the_snapshot_was_committed(
    data: Path, driver: NodeDriver, own_postgres: OwnPostgres
) -> None:
    async with snapshots(data, driver, own_postgres) as running:
        flood = asyncio.create_task(running.make_one_due())
        await running.until(SNAPSHOTS)
        await running.kill()
        await flood
        await running.assert_a_load_equals_the_replay()
        await running.goes_on()
