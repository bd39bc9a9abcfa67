"""Limits that two nodes keep together by way of one Valkey, and each alone without it."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.harness.raw_websocket import CLOSE, PING, RawWebSocket, connected, upgrade_head
from tests.harness.rest import Person, Place, Rest
from tests.harness.service import Service
from tests.valkey import valkeys

REQUESTS = 40
DOCUMENTS = 3
CLIENTS = 4
TOLD_S = 1.6
"""Nodes tell each other twice a second, and one may have heard just before another told."""
FORGOTTEN_S = 6
ENVIRONMENT = {
    "TMI_USER_REQUESTS_PER_MIN": str(REQUESTS),
    "TMI_DOCUMENTS_PER_USER_MAX": str(DOCUMENTS),
    "TMI_SOCKETS_PER_ADDRESS_MAX": "5",
    "TMI_CLIENTS_PER_ROOM_MAX": str(CLIENTS),
    "TMI_TRUSTED_PROXIES": "127.0.0.0/8",
}


class Pair:
    """Two nodes, and what a few users have."""

    def __init__(self, a: Service, b: Service) -> None:
        self.a = a
        self.b = b


@pytest.fixture
async def nodes(tmp_path: Path, valkey_url: str, database_url: str) -> AsyncIterator[Pair]:
    environment = {**ENVIRONMENT, "TMI_REDIS_URL": valkey_url}
    pair = Pair(*(Service(tmp_path / name, environment, database_url) for name in "ab"))
    try:
        await asyncio.gather(*(asyncio.to_thread(node.start) for node in (pair.a, pair.b)))
        yield pair
    finally:
        await asyncio.gather(*(asyncio.to_thread(node.end) for node in (pair.a, pair.b)))


async def ask(node: Service, person: Person, times: int) -> list[int]:
    async with httpx.AsyncClient(base_url=node.url, trust_env=False) as http:
        return [
            (await http.get("/threat_models", headers=person.headers)).status_code for _ in range(times)
        ]


@asynccontextmanager
async def socket(
    node: Service, place: Place, token: str, client: str
) -> AsyncIterator[tuple[int, RawWebSocket]]:
    """An upgrade by way of a proxy that names the client; yields the answer's status."""
    async with connected(node.port) as raw:
        raw.send(upgrade_head(f"/collab/{place.diagram}?token={token}", {"X-Forwarded-For": client}))
        yield (await raw.answer()).status, raw


async def has(raw: RawWebSocket) -> bool:
    """Whether a socket stays open: it is told something, and that is no Close."""
    try:
        while (frame := await raw.receive()).opcode == PING:
            pass
    except TimeoutError:
        return True
    except asyncio.IncompleteReadError:
        return False
    return frame.opcode != CLOSE


async def prepared(node: Service, *names: str) -> tuple[Place, dict[str, str], dict[str, Person]]:
    async with Rest(node.url) as rest:
        people = {name: await rest.sign_in(name) for name in names}
        everyone: dict[str, Any] = {
            "principal_type": "group", "provider": "*", "provider_id": "everyone", "role": "writer",
        }  # fmt: skip
        place = await rest.create_place(people[names[0]], everyone)
        return place, {name: await rest.collab_token(one) for name, one in people.items()}, people


async def test_requests_are_counted_by_both_and_without_valkey_by_each_alone(nodes: Pair) -> None:
    _, _, people = await prepared(nodes.a, "alice")
    statuses = [await ask(node, people["alice"], REQUESTS) for node in (nodes.a, nodes.b)]
    served = sum(one.count(200) for one in statuses)
    # The window may have ended in between; in each no more than the limit is served, on whatever node.
    assert REQUESTS - 5 <= served <= 2 * REQUESTS - 5, statuses
    assert 429 in statuses[1]
    for pid in valkeys():
        os.kill(pid, signal.SIGKILL)
    _, _, others = await prepared(nodes.a, "bob")
    assert {200} == set(await ask(nodes.a, others["bob"], REQUESTS // 2))
    assert {200} == set(await ask(nodes.b, others["bob"], REQUESTS // 2))


async def test_documents_of_a_user_are_counted_on_both_and_a_dead_nodes_are_forgotten(nodes: Pair) -> None:
    place, tokens, _ = await prepared(nodes.a, "alice", "bob")
    async with AsyncExitStack() as stack:
        for number in range(2):
            status, _ = await stack.enter_async_context(
                socket(nodes.b, place, tokens["alice"], f"192.0.2.{number}")
            )
            assert 101 == status
        await asyncio.sleep(TOLD_S)
        found = [
            (await stack.enter_async_context(socket(nodes.a, place, tokens[name], "192.0.2.9")))[0]
            for name in ("alice", "alice", "bob")
        ]
        assert [101, 429, 101] == found
        nodes.b.kill()
        async with asyncio.timeout(FORGOTTEN_S):
            while True:
                async with socket(nodes.a, place, tokens["alice"], "192.0.2.10") as (status, _):
                    if status == 101:
                        break
                await asyncio.sleep(0.1)


async def test_sockets_of_an_address_behind_a_proxy_are_counted_on_both(nodes: Pair) -> None:
    names = ("alice", "bob", "carol")
    place, tokens, _ = await prepared(nodes.a, *names)
    async with Rest(nodes.a.url) as rest:
        alice = await rest.sign_in("alice")
        more = [place, *[await rest.create_diagram(alice, place.model) for _ in range(2)]]
    async with AsyncExitStack() as stack:
        for name in ("bob", "carol"):
            for where in more[:2]:
                opened = socket(nodes.b, where, tokens[name], "6.6.6.6, 192.0.2.1")
                assert 101 == (await stack.enter_async_context(opened))[0]
        await asyncio.sleep(TOLD_S)
        found = []
        for client in ("192.0.2.1", "6.6.6.6, 192.0.2.1", "192.0.2.2"):
            opened = socket(nodes.a, more[2], tokens["alice"], client)
            found.append((await stack.enter_async_context(opened))[0])
        assert [101, 429, 101] == found


async def test_clients_of_a_room_are_counted_on_both_by_its_owner(nodes: Pair) -> None:
    place, tokens, _ = await prepared(nodes.a, "alice", "bob", "carol")
    async with AsyncExitStack() as stack:
        inside = []
        for number, (node, name) in enumerate(
            [(nodes.a, "alice"), (nodes.b, "bob"), (nodes.a, "alice"), (nodes.b, "bob")]
        ):
            opened = socket(node, place, tokens[name], f"192.0.2.{number}")
            status, raw = await stack.enter_async_context(opened)
            assert 101 == status
            inside.append(raw)
        await asyncio.sleep(0.5)
        found = []
        for node in (nodes.b, nodes.a, nodes.b):
            status, raw = await stack.enter_async_context(socket(node, place, tokens["carol"], "192.0.2.9"))
            found.append(status)
            assert status == 429 or not await has(raw), node.url
        # The follower asks the owner about the first one alone.
        assert [101, 429, 429] == found
        assert [True] * CLIENTS == [await has(raw) for raw in inside]


async def test_a_trusted_proxy_says_how_clients_reach_the_service(nodes: Pair) -> None:
    _, _, people = await prepared(nodes.a, "alice")
    async with httpx.AsyncClient(base_url=nodes.a.url, trust_env=False) as http:
        headers = {**people["alice"].headers, "X-Forwarded-Proto": "https", "Host": "tmi.example.org"}
        answer = await http.post("/collab/tokens", json={}, headers=headers)
    assert "wss://tmi.example.org/collab" == answer.json()["y_websocket_url"]
