"""Two services over one database and one Valkey: clients of both, and a kill -9 of the owner."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.faults.conftest import OwnPostgres
from tests.harness.kinds import spec_of
from tests.harness.ledger import Ledger, Writers
from tests.harness.node import NodeDriver
from tests.harness.rest import Rest
from tests.harness.service import Service, running

ROOMS = 3
EDITS_PER_SECOND = 200
BACK_S = 10
"""A bound for a busy machine; the measured times are printed."""


class Pair:
    """Nodes `a`, which owns all rooms since its writers came first, and `b`, with clients of its own."""

    def __init__(self, a: Service, b: Service, driver: NodeDriver) -> None:
        self.a = a
        self.b = b
        self.driver = driver
        self.writers = Writers(driver, a)
        self.at_b: list[str] = []

    async def open(self) -> None:
        await self.writers.open(ROOMS)
        for index, place in enumerate(self.writers.places):
            for kind in ("y-websocket-3.1", "hocuspocus-4.8"):
                name = f"b{index}-{kind}"
                spec = spec_of(
                    kind, name, self.b.collab, place.diagram, self.writers.token, socket=f"b{index}"
                )
                await self.driver.open([{**spec, "saved": True}])
                self.at_b.append(name)
        await self.driver.wait(self.at_b, "synced")

    async def stream(self, names: list[str], stream: str) -> None:
        await self.driver.call(
            "stream", stream=stream, names=names, per_second=EDITS_PER_SECOND, prefix=stream
        )

    async def acknowledged(self, names: list[str]) -> bool:
        ledger = await Ledger.read(self.driver, names)
        return ledger.made == ledger.acknowledged

    async def meta(self, service: Service, index: int) -> dict[str, Any]:
        """What a client that knows nothing is given by a node."""
        place = self.writers.places[index]
        name = f"fresh-{time.monotonic_ns()}"
        await self.driver.open([
            spec_of("y-websocket-3.1", name, service.collab, place.diagram, self.writers.token)
        ])  # fmt: skip
        try:
            await self.driver.wait([name], "synced", 60)
            return dict((await self.driver.report(name))["content"]["meta"])
        finally:
            await self.driver.close([name])


@contextlib.asynccontextmanager
async def pair(
    folder: Path,
    redis: str,
    postgres: OwnPostgres,
    driver: NodeDriver,
    environment: Mapping[str, str] | None = None,
) -> AsyncIterator[Pair]:
    environment = {"TMI_REDIS_URL": redis, **(environment or {})}
    a, b = [Service(folder / name, environment, postgres.url) for name in "ab"]
    with running(a, b):
        made = Pair(a, b, driver)
        await made.open()
        yield made
        driver.stop()  # or the first node would send its clients to the other one, which takes seconds


@pytest.fixture
async def nodes(
    tmp_path: Path, valkey_url: str, own_postgres: OwnPostgres, driver: NodeDriver
) -> AsyncIterator[Pair]:
    async with pair(tmp_path, valkey_url, own_postgres, driver) as made:
        yield made


async def until_acknowledged(nodes: Pair, names: list[str], timeout_s: float) -> float:
    began = time.monotonic()
    async with asyncio.timeout(timeout_s):
        while not await nodes.acknowledged(names):
            await asyncio.sleep(0.05)
    return time.monotonic() - began


async def test_clients_of_two_nodes_see_each_other_and_rest_sees_them_all(nodes: Pair) -> None:
    names = [*nodes.writers.names, *nodes.at_b]
    await nodes.stream(names, "both")
    await asyncio.sleep(2)
    await nodes.driver.call("stop_stream", stream="both")
    await until_acknowledged(nodes, names, BACK_S)
    for index, place in enumerate(nodes.writers.places):
        made = (await Ledger.read(nodes.driver, [n for n in names if n[1] == str(index)])).made
        assert made == (await nodes.meta(nodes.a, index)).keys() == (await nodes.meta(nodes.b, index)).keys()
        async with Rest(nodes.a.url) as a, Rest(nodes.b.url) as b:
            seen = [await rest.diagram(nodes.writers.person, place) for rest in (a, b)]
        assert seen[0]["update_vector"] == seen[1]["update_vector"] > 0


async def test_when_the_owner_is_killed_clients_elsewhere_stay_and_nothing_acknowledged_is_lost(
    nodes: Pair,
) -> None:
    await nodes.stream(nodes.writers.names, "a")
    await nodes.stream(nodes.at_b, "b")
    await asyncio.sleep(1)
    nodes.a.kill()
    killed_at = time.monotonic()
    await nodes.driver.call("offline", names=nodes.writers.names)
    await nodes.driver.call("stop_stream", stream="a")
    before = await Ledger.read(nodes.driver, nodes.writers.names)
    await nodes.driver.call("stop_stream", stream="b")
    await until_acknowledged(nodes, nodes.at_b, BACK_S)
    print(f"acknowledged again after {time.monotonic() - killed_at:.2f} s")
    ledger = await Ledger.read(nodes.driver, nodes.at_b)
    assert () == ledger.violations == before.violations
    metas = [await nodes.meta(nodes.b, index) for index in range(ROOMS)]
    known = {key for meta in metas for key in meta}
    assert frozenset() == (ledger.made | before.acknowledged) - known
    for name in nodes.at_b:
        assert [] == (await nodes.driver.report(name))["closes"]


async def test_a_node_that_is_stopped_hands_over_and_the_others_clients_stay(nodes: Pair) -> None:
    await nodes.stream(nodes.at_b, "b")
    await asyncio.sleep(0.5)
    status = await asyncio.to_thread(nodes.a.stop)
    await asyncio.sleep(0.5)
    await nodes.driver.call("stop_stream", stream="b")
    waited_s = await until_acknowledged(nodes, nodes.at_b, BACK_S)
    print(f"acknowledged {waited_s:.2f} s after the last edit")
    assert 0 == status
    for name in nodes.at_b:
        assert [] == (await nodes.driver.report(name))["closes"]


async def test_a_service_without_redis_does_not_start_beside_them(
    nodes: Pair, own_postgres: OwnPostgres, tmp_path: Path
) -> None:
    lonely = Service(tmp_path / "c", None, own_postgres.url)
    with pytest.raises(RuntimeError, match="TMI_REDIS_URL"):
        await asyncio.to_thread(lonely.start)
