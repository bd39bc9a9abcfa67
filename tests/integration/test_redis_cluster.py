"""A Redis Cluster of three servers in place of one Redis: leases, nodes, limits, and the loss of a server."""

import asyncio
import logging
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from urllib.parse import quote
from uuid import uuid4

import httpx
import pytest

from persistence import redis as shared
from persistence.memory.ownership import MemoryOwnership
from persistence.memory.store import MemoryStore, RoomLog
from rooms.coordination.redis import LeaseLimits, RedisCoordinator, living_nodes
from tests.harness.kinds import spec_of
from tests.harness.node import NodeDriver
from tests.harness.rest import Rest
from tests.harness.service import Service, running
from tests.valkey import OwnValkeyCluster, new_node, running_coordinator, running_valkey_cluster
from tmi.domain.errors import OwnedElsewhere
from tmi.domain.ids import DiagramId
from tmi.domain.model import Node
from tmi.wiring.redis import connected, shared_client

QUICK = LeaseLimits(beat_s=0.1, node_ttl_s=1.0, lease_s=6.0)
ROOMS = 60
"""All three servers get some: with 60 rooms, one stays without any once in 10^10 times."""
NODE_MAY = "+get +set +del +zadd +zrem +zrange +zremrangebyscore +pexpire +time +eval +client|setinfo "
NODE_MAY += "+client|setname +hello +ping +command +cluster|slots"
PASSWORD = "p@ss,word"


@pytest.fixture(scope="module")
def servers() -> Iterator[OwnValkeyCluster]:
    with running_valkey_cluster() as servers:
        yield servers


@pytest.fixture
def emptied(servers: OwnValkeyCluster) -> OwnValkeyCluster:
    servers.empty()
    return servers


@pytest.fixture
def unhurried(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine that does much else may take more than a quarter of a second to connect and answer."""
    monkeypatch.setattr(shared, "ANSWER_S", 5.0)


class World:
    """Diagrams, and nodes that find their owners by the cluster."""

    def __init__(self, url: str, stack: AsyncExitStack) -> None:
        self._url = url
        self._stack = stack
        self._store = MemoryStore()

    async def node(self, name: str) -> tuple[Node, RedisCoordinator]:
        node = new_node(name)
        ownership = MemoryOwnership(self._store)
        running = running_coordinator(self._url, ownership, node, QUICK, is_cluster=True)
        return node, await self._stack.enter_async_context(running)

    def diagrams(self, count: int) -> Sequence[DiagramId]:
        made = [DiagramId(uuid4()) for _ in range(count)]
        self._store.logs |= {diagram: RoomLog() for diagram in made}
        return made


@pytest.fixture
async def world(emptied: OwnValkeyCluster) -> AsyncIterator[World]:
    async with AsyncExitStack() as stack:
        yield World(emptied.url, stack)


async def holders(url: str, diagrams: Sequence[DiagramId]) -> list[str | None]:
    """Whom the cluster names as the owners."""
    async with connected(url, is_cluster=True) as redis:
        found = [await redis.get(f"tmi:room:{diagram}") for diagram in diagrams]
    return [owner.decode() if isinstance(owner, bytes) else owner for owner in found]


async def until_held(url: str, diagrams: Sequence[DiagramId], node: Node, within_s: float) -> None:
    async with asyncio.timeout(within_s):
        while await holders(url, diagrams) != [str(node.id)] * len(diagrams):
            await asyncio.sleep(0.1)


async def test_rooms_are_spread_over_the_servers_and_each_has_one_owner(
    emptied: OwnValkeyCluster, world: World
) -> None:
    (a, first), (b, second) = await world.node("a"), await world.node("b")
    diagrams = world.diagrams(ROOMS)
    fences = {diagram: await first.claim(diagram) for diagram in diagrams}
    assert min(emptied.keys(number) for number in range(emptied.SERVERS)) > 2
    for diagram in diagrams[:10]:
        with pytest.raises(OwnedElsewhere) as refused:
            await second.claim(diagram)
        assert a.id == refused.value.owner.id
    found = await second.owner(diagrams[0])
    assert found is not None
    assert a.id == found.id
    async with asyncio.timeout(5):
        while [b.id] != [peer.id for peer in first.peers()]:
            await asyncio.sleep(0.05)
    for diagram, fence in fences.items():
        await first.release(diagram, fence)
    assert {None} == set(await holders(emptied.url, diagrams))
    async with connected(emptied.url, is_cluster=True) as redis:
        assert {a.id, b.id} == {node.id for node in await living_nodes(redis)}


async def test_an_emptied_cluster_is_filled_again(emptied: OwnValkeyCluster, world: World) -> None:
    node, rooms = await world.node("a")
    diagrams = world.diagrams(ROOMS)
    await asyncio.gather(*map(rooms.claim, diagrams))
    emptied.empty()
    await until_held(emptied.url, diagrams, node, QUICK.lease_s)


@pytest.mark.parametrize("victim", range(OwnValkeyCluster.SERVERS))
async def test_while_a_server_is_away_rooms_are_claimed_and_it_gets_its_leases_when_it_is_back(
    emptied: OwnValkeyCluster, world: World, victim: int
) -> None:
    """One of the three has the set of nodes, and another one, perhaps, the node's own key."""
    node, rooms = await world.node("a")
    before = world.diagrams(ROOMS)
    await asyncio.gather(*map(rooms.claim, before))
    emptied.kill(victim)
    meanwhile = world.diagrams(6)
    try:
        async with asyncio.timeout(5):
            assert [1] * 6 == [await rooms.claim(diagram) for diagram in meanwhile]
    finally:
        emptied.start_one(victim)
        emptied.wait_until_whole()
    await until_held(emptied.url, [*before, *meanwhile], node, 2 * QUICK.lease_s)


async def test_the_first_requests_of_a_client_all_at_once_are_each_counted_once(
    emptied: OwnValkeyCluster,
) -> None:
    """Before it knows the cluster's slots, too: redis-py would try all of them anywhere."""
    for _ in range(10):
        emptied.empty()
        async with shared_client(emptied.url, is_cluster=True) as client:
            limits = shared.RedisRateLimits(client)
            counts = await asyncio.gather(*(limits.hit(f"user:{number}", 3600) for number in range(30)))
        assert [1] * 30 == counts


@pytest.mark.usefixtures("unhurried")
async def test_two_nodes_count_requests_together_on_all_servers(emptied: OwnValkeyCluster) -> None:
    async with AsyncExitStack() as stack:
        clients = [
            await stack.enter_async_context(shared_client(emptied.url, is_cluster=True)) for _ in "ab"
        ]
        a, b = map(shared.RedisRateLimits, clients)
        keys = [f"user:{number}" for number in range(30)]
        assert [1] * 30 == await asyncio.gather(*(a.hit(key, 3600) for key in keys))
        assert [2] * 30 == await asyncio.gather(*(b.hit(key, 3600) for key in keys))
        assert min(emptied.keys(number) for number in range(emptied.SERVERS)) > 0


@pytest.mark.usefixtures("unhurried")
async def test_more_requests_at_once_than_connections_are_all_counted_together(
    emptied: OwnValkeyCluster,
) -> None:
    async with shared_client(emptied.url, is_cluster=True) as client:
        limits = shared.RedisRateLimits(client)
        await limits.hit("one", 3600)
        counts = await asyncio.gather(*(limits.hit("one", 3600) for _ in range(100)))
        assert list(range(2, 102)) == sorted(counts)
        async with shared_client(emptied.url, is_cluster=True) as other:
            assert 102 == await shared.RedisRateLimits(other).hit("one", 3600)


@pytest.mark.usefixtures("unhurried")
async def test_nodes_tell_each_other_what_is_open(emptied: OwnValkeyCluster) -> None:
    async with AsyncExitStack() as stack:
        tallies = [
            shared.RedisTallies(
                await stack.enter_async_context(shared_client(emptied.url, is_cluster=True))
            )
            for _ in range(3)
        ]
        for number, tally in enumerate(tallies, 1):
            await tally.exchange({"user": number})
        assert {"user": 1 + 2} == dict(await tallies[2].exchange({"user": 3}))


async def test_any_one_of_the_servers_is_enough_to_find_the_others(emptied: OwnValkeyCluster) -> None:
    for port in emptied.ports:
        async with connected(f"redis://127.0.0.1:{port}", is_cluster=True) as redis:
            for number in range(20):
                await redis.set(f"any:{number}", b"1", px=1000)
    async with connected(f"redis://127.0.0.1:1,{emptied.hosts}", is_cluster=True) as redis:
        assert await redis.get("any:1") is not None


async def test_who_takes_a_cluster_for_one_server_is_told_what_to_do(
    emptied: OwnValkeyCluster, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    for port in emptied.ports:  # one of them has the node's key, but not all
        url = f"redis://127.0.0.1:{port}/0"
        async with running_coordinator(url, MemoryOwnership(MemoryStore())):
            pass
    assert any("set TMI_REDIS_CLUSTER" in record.message for record in caplog.records)


async def test_a_user_of_the_cluster_who_may_only_what_a_node_needs_is_enough(tmp_path: Path) -> None:
    acl = tmp_path / "users.acl"
    acl.write_text(
        f"user default on nopass ~* &* +@all\nuser tmi on >{PASSWORD} ~tmi:* resetchannels -@all {NODE_MAY}\n"
    )
    with running_valkey_cluster("--aclfile", str(acl)) as servers:
        url = f"redis://tmi:{quote(PASSWORD, safe='')}@{servers.hosts}/0"
        async with AsyncExitStack() as stack:
            world = World(url, stack)
            node, rooms = await world.node("a")
            diagrams = world.diagrams(20)
            fences = await asyncio.gather(*map(rooms.claim, diagrams))
            assert {str(node.id)} == set(await holders(url, diagrams))
            await asyncio.gather(*map(rooms.release, diagrams, fences))
            assert {None} == set(await holders(url, diagrams))


async def test_two_services_are_one_deployment_by_way_of_a_cluster(
    tmp_path: Path, database_url: str, emptied: OwnValkeyCluster
) -> None:
    environment = {
        "TMI_REDIS_URL": emptied.url,
        "TMI_REDIS_CLUSTER": "true",
        "TMI_USER_REQUESTS_PER_MIN": "60",
    }
    a, b = [Service(tmp_path / name, environment, database_url) for name in "ab"]
    with running(a, b), NodeDriver() as driver:
        async with Rest(a.url) as rest:
            person = await rest.sign_in("admin")
            places = [await rest.create_place(person) for _ in range(6)]
            token = await rest.collab_token(person)
        specs = [
            spec_of("y-websocket-3.1", f"{service.data.name}{number}", service.collab, place.diagram, token)
            for number, place in enumerate(places)
            for service in (a, b)
        ]
        names = [spec["client"] for spec in specs]
        await driver.open(specs)
        await driver.wait(names, "synced")
        await driver.call("stream", stream="edits", names=names, per_second=60, prefix="e")
        await asyncio.sleep(1)
        await driver.call("stop_stream", stream="edits")
        await driver.wait(names, "settled", 30)
        groups = [[f"a{number}", f"b{number}"] for number in range(len(places))]
        assert [] == (await driver.call("agree", groups=groups, timeout_ms=30_000))["unequal"]
        for service in (a, b):
            async with httpx.AsyncClient(
                base_url=service.url, headers=person.headers, trust_env=False
            ) as http:
                told = (await http.get("/admin/nodes")).raise_for_status().json()
                assert (2, []) == (len(told["nodes"]), told["silent"])
                assert 6 == sum(node["rooms_owned"] for node in told["nodes"])
        async with httpx.AsyncClient(headers=person.headers, trust_env=False) as http:
            urls = [f"{service.url}/threat_models" for service in (a, b)] * 30
            statuses = {(await http.get(url)).status_code for url in urls}
        assert {200, 429} == statuses, "two nodes count together, or all of 60 would pass"


