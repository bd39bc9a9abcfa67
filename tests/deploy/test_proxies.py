"""The proxies of `deploy/` before three nodes: where clients land, and what they notice of a node's end."""

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest

from tests.deploy.conftest import Cluster
from tests.harness.kinds import spec_of
from tests.harness.ledger import Ledger
from tests.harness.node import NodeDriver
from tests.harness.proxy import Proxy
from tests.harness.raw_websocket import connected, upgrade_head
from tests.harness.rest import Person, Place, Rest
from tests.harness.service import Service

pytestmark = pytest.mark.asyncio(loop_scope="module")

ROOMS = 24
KINDS = ("y-websocket-3.1", "hocuspocus-4.8")
EDITS_PER_SECOND = 100
BACK_S = 8


class Crowd:
    """One client of each kind in each of some diagrams, by way of a proxy."""

    def __init__(self, driver: NodeDriver, proxy: Proxy, person: Person, places: Sequence[Place]) -> None:
        self.driver = driver
        self.proxy = proxy
        self.person = person
        self.places = places
        self.token = ""
        self.names: list[str] = []

    async def open(self, rest: Rest) -> None:
        """The URLs are those that the service hands out."""
        self.token = await rest.collab_token(self.person)
        for place in self.places:
            answer = await rest.http.post(
                "/collab/tokens", json={"diagram_id": place.diagram}, headers=self.person.headers
            )
            given = answer.json()
            urls = (given["y_websocket_url"], given["hocuspocus_url"])
            assert (self.proxy.collab, f"{self.proxy.collab}?diagram={place.diagram}") == urls
            for kind, url in zip(KINDS, urls, strict=True):
                name = f"{time.monotonic_ns()}-{kind}"
                spec = spec_of(kind, name, url, place.diagram, given["token"])
                await self.driver.open([{**spec, "saved": True}])
                self.names.append(name)
        await self.driver.wait(self.names, "synced")

    async def until_acknowledged(self) -> Ledger:
        async with asyncio.timeout(BACK_S):
            while True:
                ledger = await Ledger.read(self.driver, self.names)
                if ledger.made == ledger.acknowledged:
                    return ledger
                await asyncio.sleep(0.05)

    async def stored(self) -> set[str]:
        """The edits that clients are given who know nothing."""
        found: set[str] = set()
        for place in self.places:
            name = f"fresh-{time.monotonic_ns()}"
            await self.driver.open([
                spec_of(KINDS[0], name, self.proxy.collab, place.diagram, self.token)
            ])  # fmt: skip
            await self.driver.wait([name], "synced")
            found |= (await self.driver.report(name))["content"]["meta"].keys()
            await self.driver.close([name])
        return found


@asynccontextmanager
async def crowd(driver: NodeDriver, proxy: Proxy, cluster: Cluster) -> AsyncIterator[Crowd]:
    await cluster.until_empty()
    async with Rest(proxy.url) as rest:
        person = await rest.sign_in("alice")
        model = await rest.create_model(person)
        places = [await rest.create_diagram(person, model) for _ in range(ROOMS)]
        made = Crowd(driver, proxy, person, places)
        try:
            await made.open(rest)
            yield made
        finally:
            await driver.close(made.names)


async def test_all_clients_of_a_diagram_are_on_the_node_that_owns_it(
    proxy: Proxy, cluster: Cluster, driver: NodeDriver
) -> None:
    async with crowd(driver, proxy, cluster) as clients:
        rooms = await cluster.figures("tmi_rooms")
        assert ROOMS == sum(rooms)
        assert min(rooms) > 0, "the diagrams are spread"
        assert 2 * ROOMS == await cluster.total("tmi_sockets")
        assert 0 == await cluster.total("tmi_replicas")
        # REST of a diagram goes there, too, so that nobody has to follow its room.
        async with Rest(proxy.url) as rest:
            for place in clients.places:
                await rest.diagram(clients.person, place)
        assert 0 == await cluster.total("tmi_replicas")
        # And who comes past the proxy to each node is served all the same, by replicas.
        place, names = clients.places[0], []
        for node in cluster.nodes:
            names.append(f"direct-{time.monotonic_ns()}")
            await driver.open([spec_of(KINDS[0], names[-1], node.collab, place.diagram, clients.token)])
        await driver.wait(names, "synced")
        assert 2 == await cluster.total("tmi_replicas")
        await driver.close(names)


async def test_when_a_node_is_killed_its_clients_come_back_elsewhere_and_no_edit_is_lost(
    proxy: Proxy, cluster: Cluster, driver: NodeDriver
) -> None:
    async with crowd(driver, proxy, cluster) as clients:
        rooms = await cluster.figures("tmi_rooms")
        victim = cluster.nodes[rooms.index(max(rooms))]
        await driver.call(
            "stream", stream="edits", names=clients.names, per_second=EDITS_PER_SECOND, prefix="edit"
        )
        await asyncio.sleep(0.5)
        victim.kill()
        killed_at = time.monotonic()
        try:
            await asyncio.sleep(0.5)
            await driver.call("stop_stream", stream="edits")
            ledger = await clients.until_acknowledged()
            print(f"{proxy.kind}: all acknowledged {time.monotonic() - killed_at:.2f} s after the kill")
            assert () == ledger.violations
            assert len(ledger.made) > 50
            assert set() == ledger.made - await clients.stored()
            assert ROOMS == await cluster.total("tmi_rooms")
        finally:
            await asyncio.to_thread(victim.start)


async def test_an_upgrade_after_other_requests_on_a_connection_is_accepted(
    proxy: Proxy, cluster: Cluster
) -> None:
    async with Rest(proxy.url) as rest:
        person = await rest.sign_in("alice")
        place = await rest.create_place(person)
        token = await rest.collab_token(person)
    for _ in range(5):
        async with connected(proxy.port) as client:
            for path, status in (
                ("/livez", 200),
                (f"/threat_models/{place.model}/diagrams/{place.diagram}", 401),
                (f"/collab/{place.diagram}", 426),
            ):
                client.send(f"GET {path} HTTP/1.1\r\nHost: tmi.test\r\n\r\n".encode())
                assert status == (await client.answer()).status
            client.send(upgrade_head(f"/collab/{place.diagram}?token={token}"))
            assert 101 == (await client.answer()).status
    assert token not in proxy.output, "tokens of URLs are not logged"


async def test_a_node_that_is_stopped_is_left_out_and_comes_back(proxy: Proxy, cluster: Cluster) -> None:
    async with Rest(proxy.url) as rest:
        person = await rest.sign_in("alice")
        model = await rest.create_model(person)
        places = [await rest.create_diagram(person, model) for _ in range(ROOMS)]
        token = await rest.collab_token(person)
    statuses: list[tuple[str, int]] = []

    async def keep_coming() -> None:
        async with httpx.AsyncClient(base_url=proxy.url, trust_env=False, timeout=15) as http:
            while True:
                for place in places:
                    answer = await http.get(
                        f"/threat_models/{place.model}/diagrams/{place.diagram}", headers=person.headers
                    )
                    statuses.append(("REST", answer.status_code))
                    statuses.append(("socket", await upgraded(proxy, place, token)))
                    await asyncio.sleep(0.01)

    coming = asyncio.create_task(keep_coming())
    node = cluster.nodes[0]
    try:
        await asyncio.sleep(0.5)
        assert 0 == await asyncio.to_thread(node.stop)
        await asyncio.sleep(1.5)
    finally:
        await asyncio.to_thread(node.start)
    async with asyncio.timeout(20):
        while coming.done() or not await _accepted(node):
            assert not coming.done(), coming.exception()
            await asyncio.sleep(0.1)
    coming.cancel()
    await asyncio.gather(coming, return_exceptions=True)
    assert {("REST", 200), ("socket", 101)} == set(statuses), proxy.output[-3000:]


async def test_figures_are_not_shown(proxy: Proxy, cluster: Cluster) -> None:
    for path in ("/metrics", "/metrics?a=b", "/%6detrics", "/metric%73?", "/./metrics", "//metrics"):
        async with connected(proxy.port) as client:
            client.send(f"GET {path} HTTP/1.1\r\nHost: tmi.test\r\nConnection: close\r\n\r\n".encode())
            answer = await client.answer()
            assert (path, True) == (path, answer.status in (400, 404))


async def upgraded(proxy: Proxy, place: Place, token: str) -> int:
    """The status of the answer to an upgrade."""
    async with connected(proxy.port) as client:
        client.send(upgrade_head(f"/collab/{place.diagram}?token={token}"))
        return (await client.answer()).status


async def _accepted(node: Service) -> Any:
    async with httpx.AsyncClient(trust_env=False) as http:
        text = (await http.get(f"{node.url}/metrics")).text
    return "\ntmi_sockets_accepted_total 0.0" not in text
