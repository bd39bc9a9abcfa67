"""Three services over one database and one Valkey, for all tests of a module, and a proxy before them."""

import asyncio
import os
import tempfile
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path

import httpx
import pytest
import pytest_asyncio

from tests.conftest import COPY, OWNER, _execute
from tests.harness.node import NodeDriver
from tests.harness.proxy import PROXIES, Proxy, program
from tests.harness.service import Service
from tests.postgres import PostgresServer
from tmi.embedded.valkey import embedded_valkey

DATABASE = "behind_proxies"
ENVIRONMENT = {"TMI_ROOM_IDLE_S": "1"}


class Cluster:
    """Three nodes."""

    def __init__(self, nodes: list[Service]) -> None:
        self.nodes = nodes

    async def figures(self, name: str) -> list[float]:
        """A figure of each node's /metrics; 0 from one that does not answer."""
        return [found.get(name, 0.0) for found in await asyncio.gather(*map(_figures, self.nodes))]

    async def total(self, name: str) -> float:
        """A figure of all nodes together."""
        return sum(await self.figures(name))

    async def until_empty(self) -> None:
        """Wait until rooms of tests before this one are closed."""
        async with asyncio.timeout(20):
            while await self.total("tmi_rooms") + await self.total("tmi_replicas"):
                await asyncio.sleep(0.1)


async def _figures(node: Service) -> Mapping[str, float]:
    async with httpx.AsyncClient(trust_env=False) as http:
        try:
            text = (await http.get(f"{node.url}/metrics")).text
        except httpx.TransportError:
            return {}
    lines = [line.rpartition(" ") for line in text.splitlines() if not line.startswith("#")]
    return {name: float(value) for name, _, value in lines}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def cluster(
    tmp_path_factory: pytest.TempPathFactory, postgres_server: PostgresServer
) -> AsyncIterator[Cluster]:
    folder = tmp_path_factory.mktemp("cluster")
    await _execute(postgres_server, f"CREATE DATABASE {DATABASE} OWNER {OWNER} {COPY}")
    with tempfile.TemporaryDirectory(prefix="tmi-valkey-") as short, ExitStack() as stack:
        async with embedded_valkey(Path(short)) as redis:
            nodes = [
                Service(
                    folder / f"tmi-{number}",
                    {**ENVIRONMENT, "TMI_REDIS_URL": redis},
                    postgres_server.url(DATABASE, OWNER),
                )
                for number in (1, 2, 3)
            ]
            for node in nodes:
                stack.callback(node.end)
            await asyncio.gather(*(asyncio.to_thread(node.start) for node in nodes))
            yield Cluster(nodes)
            await asyncio.gather(*(asyncio.to_thread(node.end) for node in nodes))
    await _execute(postgres_server, f"DROP DATABASE {DATABASE} WITH (FORCE)")


@pytest.fixture(params=PROXIES)
def proxy(request: pytest.FixtureRequest, cluster: Cluster, tmp_path: Path) -> Iterator[Proxy]:
    """Each of the proxies, before the three nodes. Where one is not installed, its tests are left out with a
    word; never in CI.
    """
    if program(request.param) is None and not os.environ.get("CI"):
        pytest.skip(f"{request.param} is not installed: apt-get install {request.param}")
    with Proxy(request.param, tmp_path / "proxy", [node.port for node in cluster.nodes]) as proxy:
        yield proxy


@pytest.fixture(scope="module")
def driver() -> Iterator[NodeDriver]:
    """The JavaScript clients."""
    with NodeDriver() as driver:
        yield driver
