"""The cable of the owner's machine is pulled: packets vanish, and no connection is told of it.

Each node has a network namespace of its own. Where there can be none (see `namespaces.py`), the proxies
swallow everything instead, which the test says.

`TMI_FAILOVER=all` pulls it once more for longer than a statement may take, as `make failover` does.
"""

import asyncio
import contextlib
import os
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.faults.conftest import OwnPostgres
from tests.faults.test_failover import BACK_S, TARGET_S, back_after
from tests.harness.cluster import LONG_LIVED_TOKENS, NAMES, Cluster, ClusterNode, running_cluster
from tests.harness.crowd import ALL_KINDS, Crowd, percentile
from tests.harness.fault_proxy import Edge, proxied
from tests.harness.namespaces import Host, Network, NotPossible, bridged
from tests.harness.node import NodeDriver
from tests.harness.service import Service
from tests.valkey import OwnValkey

ROOMS = 2
EDITS_PER_SECOND = 60
PULLED_S = (6.0, 25.0) if os.environ.get("TMI_FAILOVER") == "all" else (6.0,)
DRAINED_S = 60.0
"""A statement that was under way is given up after 10 s; clients give up a silent connection after 30 s."""
NODE_PORT = 7946


@dataclass(frozen=True, slots=True)
class Machines:
    """A cluster whose owner's cable can be pulled."""

    cluster: Cluster
    host: Host | None

    @property
    def edges(self) -> list[Edge]:
        owner = self.cluster["a"]
        return [owner.to_postgres, owner.to_redis, owner.from_clients, *self.cluster.links_of("a")]

    def pull(self) -> None:
        if self.host is not None:
            self.host.pull()
        for edge in self.edges if self.host is None else ():
            edge.blackhole()

    def plug(self) -> None:
        if self.host is not None:
            self.host.plug()
        self.cluster.heal()


@contextlib.asynccontextmanager
async def machines(folder: Path, postgres: OwnPostgres, valkey: OwnValkey) -> AsyncIterator[Machines]:
    """One for each node, where that is possible."""
    with contextlib.ExitStack() as stack:
        try:
            network = stack.enter_context(bridged(NAMES))
        except NotPossible as why:
            print(f"no network namespaces ({why}): the proxies swallow everything instead")
            async with running_cluster(folder, postgres, valkey) as cluster:
                yield Machines(cluster, None)
            return
        async with on(network, folder, postgres, valkey) as cluster:
            yield Machines(cluster, network.hosts["a"])


@contextlib.asynccontextmanager
async def on(
    network: Network, folder: Path, postgres: OwnPostgres, valkey: OwnValkey
) -> AsyncIterator[Cluster]:
    """Nodes on hosts of their own; the servers are reached at this one's address on the bridge."""
    cluster = Cluster(postgres, valkey)
    here = network.address
    async with contextlib.AsyncExitStack() as stack:
        to_postgres, postgres_port = await stack.enter_async_context(
            proxied("postgres", str(postgres.socket), here)
        )
        to_redis, redis_port = await stack.enter_async_context(proxied("redis", str(valkey.socket), here))
        for name, host in network.hosts.items():
            environment = {
                **LONG_LIVED_TOKENS,
                "TMI_DEV_INSECURE_HOST": "true",
                "TMI_REDIS_URL": f"redis://{here}:{redis_port}/0",
                "TMI_NODE_LISTEN": f"{host.address}:{NODE_PORT}",
                "TMI_NODE_NAME": name,
            }
            url = postgres.url_at(here, postgres_port)
            service = Service(folder / name, environment, url, host.address, host.prefix)
            unused = Edge(f"clients-{name}", "")
            cluster.nodes[name] = ClusterNode(name, service, to_postgres, to_redis, unused, service.collab)
        try:
            await asyncio.gather(*(node.start() for node in cluster.nodes.values()))
            yield cluster
        finally:
            for node in cluster.nodes.values():
                if node.service.is_alive:
                    node.kill()


@pytest.mark.parametrize("pulled_s", PULLED_S)
async def test_a_machine_whose_cable_is_pulled_is_replaced_and_loses_nothing(
    pulled_s: float,
    tmp_path: Path,
    own_postgres: OwnPostgres,
    own_valkey: OwnValkey,
    driver: NodeDriver,
    capsys: pytest.CaptureFixture[str],
) -> None:
    async with machines(tmp_path, own_postgres, own_valkey) as some:
        cluster, crowd = some.cluster, Crowd(driver, some.cluster)
        others = ("y-websocket-3.1", "hocuspocus-4.8")
        await crowd.open(ROOMS, {"a": ALL_KINDS, "b": others, "c": others})
        await crowd.stream("edits", crowd.names, EDITS_PER_SECOND)
        await asyncio.sleep(1.5)
        some.pull()
        pulled_at = time.time()
        await asyncio.sleep(pulled_s)
        some.plug()
        plugged_at = time.time()
        await asyncio.sleep(1)
        await crowd.stop("edits")
        drained_s = await crowd.until_acknowledged(crowd.names, DRAINED_S)
        survivors = crowd.at("b", "c")
        back_s = [back_after(edits, pulled_at) for edits in (await crowd.edits(survivors)).values()]
        assert max(back_s) < BACK_S
        assert pulled_at + max(back_s) < plugged_at
        assert {} == await crowd.closes(survivors)
        assert [] == await crowd.violations()
        assert [] == await cluster.stale_writes()
        for room, place in enumerate(crowd.places):
            edits = await crowd.edits(crowd.in_room(room))
            made = {edit.id for some_edits in edits.values() for edit in some_edits}
            assert set() == made - (await cluster.stored(place))["content"]["meta"].keys()
        way = "proxies" if some.host is None else "network namespaces"
    with capsys.disabled():
        print(
            f"\npulled for {pulled_s:g} s ({way}): acknowledged again after {percentile(back_s, 0.99):.2f} s "
            f"(p99; the target is {TARGET_S:g}), all {drained_s:.1f} s after the last edit"
        )
