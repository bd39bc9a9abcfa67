"""Several services over one database whose Valkey ends under them: edits go on, and rooms have one owner."""

import asyncio
import contextlib
import os
import time
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import asyncpg
import pytest

from tests.faults.conftest import OwnPostgres
from tests.faults.test_nodes import Pair, pair, until_acknowledged
from tests.harness.kinds import spec_of
from tests.harness.ledger import Ledger
from tests.harness.node import NodeDriver
from tests.harness.rest import Place, Rest
from tests.harness.service import Service
from tmi.embedded.valkey import embedded_valkey
from tmi.wiring.redis import connected

AWAY_S = float(os.environ.get("TMI_REDIS_AWAY_S", "10"))
CONVERGED_S = 5
LEASE_S = 2.0


class Redis:
    """A Valkey that comes and goes at one address."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._running = contextlib.AsyncExitStack()
        self.url = ""

    async def start(self) -> None:
        """Start, empty."""
        self.url = await self._running.enter_async_context(embedded_valkey(self._folder))

    async def end(self) -> None:
        """End it, with all that it knew."""
        await self._running.aclose()

    async def leases(self, places: Sequence[Place]) -> list[str | None]:
        """Whom it names as owners."""
        async with connected(self.url) as client:
            found = await client.mget([f"tmi:room:{place.diagram}" for place in places])
        return [owner.decode() if isinstance(owner, bytes) else owner for owner in found]


@pytest.fixture
async def redis(tmp_path: Path) -> AsyncIterator[Redis]:
    """One that runs."""
    made = Redis(tmp_path)
    await made.start()
    yield made
    await made.end()


async def rows(postgres: OwnPostgres, places: Sequence[Place]) -> list[tuple[int, str | None]]:
    """Fence and owner of each room."""
    connection = await asyncpg.connect(postgres.admin_url)
    try:
        found = await connection.fetch("SELECT diagram_id, fence, owner FROM diagram_fences")
    finally:
        await connection.close()
    known = {str(row["diagram_id"]): (row["fence"], row["owner"]) for row in found}
    return [known[place.diagram] for place in places]


async def join(
    nodes: Pair, service: Service, place: Place, name: str, kind: str = "y-websocket-3.1"
) -> None:
    """A writer."""
    spec = spec_of(kind, name, service.collab, place.diagram, nodes.writers.token, socket=name)
    await nodes.driver.open([{**spec, "saved": True}])
    await nodes.driver.wait([name], "synced")


async def stream_for(nodes: Pair, names: list[str], stream: str, seconds: float) -> float:
    """Let clients edit for a while; returns the seconds after which all is acknowledged."""
    await nodes.stream(names, stream)
    await asyncio.sleep(seconds)
    await nodes.driver.call("stop_stream", stream=stream)
    return await until_acknowledged(nodes, names, CONVERGED_S)


async def converged(nodes: Pair, names: list[str]) -> float:
    """Wait until clients of one room hold the same; returns the seconds that took."""
    began = time.monotonic()
    made = (await Ledger.read(nodes.driver, names)).made
    async with asyncio.timeout(CONVERGED_S):
        while True:
            metas = [(await nodes.driver.report(name))["content"]["meta"].keys() for name in names]
            if all(made <= meta for meta in metas):
                return time.monotonic() - began
            await asyncio.sleep(0.05)


async def new_place(nodes: Pair) -> Place:
    async with Rest(nodes.a.url) as rest:
        model = await rest.create_model(nodes.writers.person)
        return await rest.create_diagram(nodes.writers.person, model)


async def test_edits_go_on_and_rooms_are_opened_while_redis_is_away(
    tmp_path: Path, redis: Redis, own_postgres: OwnPostgres, driver: NodeDriver
) -> None:
    async with pair(tmp_path, redis.url, own_postgres, driver) as nodes:
        names = [*nodes.writers.names, *nodes.at_b]
        owned = await rows(own_postgres, nodes.writers.places)
        await nodes.stream(names, "throughout")
        await asyncio.sleep(1)
        await redis.end()
        away_at = time.monotonic()
        await asyncio.sleep(1)

        at_a, at_b = await new_place(nodes), await new_place(nodes)
        for place, order in ((at_a, (nodes.a, nodes.b)), (at_b, (nodes.b, nodes.a))):
            fresh = [f"{place.diagram[:8]}-{n}" for n in range(2)]
            await asyncio.gather(
                *(join(nodes, service, place, name) for service, name in zip(order, fresh, strict=True))
            )
            print(f"edited together after {await stream_for(nodes, fresh, place.diagram, 0.5):.2f} s")
            await converged(nodes, fresh)
        await asyncio.sleep(max(0.0, away_at + AWAY_S - time.monotonic()))
        await driver.call("stop_stream", stream="throughout")
        print(f"acknowledged {await until_acknowledged(nodes, names, CONVERGED_S):.2f} s after the last edit")

        assert owned == await rows(own_postgres, nodes.writers.places)
        assert [1, 1] == [fence for fence, _ in await rows(own_postgres, [at_a, at_b])]
        await redis.start()
        await nodes.stream(names, "afterwards")
        await asyncio.sleep(1)
        await driver.call("stop_stream", stream="afterwards")
        await until_acknowledged(nodes, names, CONVERGED_S)
        for index in range(len(nodes.writers.places)):
            await converged(nodes, [name for name in names if name[1] == str(index)])
        places = [*nodes.writers.places, at_a, at_b]
        async with asyncio.timeout(CONVERGED_S):
            while [owner for _, owner in await rows(own_postgres, places)] != await redis.leases(places):
                await asyncio.sleep(0.05)
        assert owned == await rows(own_postgres, nodes.writers.places)
        for name in names:
            assert [] == (await driver.report(name))["closes"]


async def test_of_two_nodes_that_want_a_dead_owners_rooms_without_redis_one_gets_each(
    tmp_path: Path, redis: Redis, own_postgres: OwnPostgres, driver: NodeDriver
) -> None:
    environment = {"TMI_ROOM_LEASE_S": str(LEASE_S)}
    async with pair(tmp_path, redis.url, own_postgres, driver, environment) as nodes:
        with Service(tmp_path / "c", environment | {"TMI_REDIS_URL": redis.url}, own_postgres.url) as c:
            places = nodes.writers.places
            at_c = [f"c{index}" for index in range(len(places))]
            for place, name in zip(places, at_c, strict=True):
                await join(nodes, c, place, name)
            survivors = [*nodes.at_b, *at_c]
            before = await rows(own_postgres, places)
            await redis.end()
            await asyncio.sleep(1)
            nodes.a.kill()
            await driver.call("offline", names=nodes.writers.names)
            acknowledged = await Ledger.read(driver, nodes.writers.names)
            await nodes.stream(survivors, "orphans")
            await asyncio.sleep(3 * LEASE_S)
            await driver.call("stop_stream", stream="orphans")
            await until_acknowledged(nodes, survivors, CONVERGED_S)

            after = await rows(own_postgres, places)
            assert [fence + 1 for fence, _ in before] == [fence for fence, _ in after]
            assert not {owner for _, owner in before} & {owner for _, owner in after}
            known = {key for index in range(len(places)) for key in await nodes.meta(c, index)}
            made = (await Ledger.read(driver, survivors)).made
            assert frozenset() == (made | acknowledged.acknowledged) - known
            for name in survivors:
                assert [] == (await driver.report(name))["closes"]
            driver.stop()  # or `c` would send its clients to the other node, which takes seconds
