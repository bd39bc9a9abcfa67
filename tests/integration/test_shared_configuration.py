"""Settings and quotas that are changed on one node hold on the other within a second."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.harness.raw_websocket import RawWebSocket, connected, upgrade_head
from tests.harness.rest import Person, Rest
from tests.harness.service import ADMINISTRATOR, Service

WITHIN_S = 1.0
TOLD_S = 1.6
"""Nodes tell each other of open documents twice a second."""


@pytest.fixture
async def nodes(tmp_path: Path, valkey_url: str, database_url: str) -> AsyncIterator[list[Service]]:
    environment = {"TMI_REDIS_URL": valkey_url}
    pair = [Service(tmp_path / name, environment, database_url) for name in "ab"]
    try:
        await asyncio.gather(*(asyncio.to_thread(node.start) for node in pair))
        yield pair
    finally:
        await asyncio.gather(*(asyncio.to_thread(node.end) for node in pair))


async def put(rest: Rest, admin: Person, path: str, body: dict[str, Any]) -> None:
    answer = await rest.http.put(path, json=body, headers=admin.headers)
    assert answer.status_code in (200, 201), answer.text


async def until(ask: Callable[[], Any], expected: int) -> float:
    """Ask until the status is as expected; returns the seconds."""
    started = time.monotonic()
    async with asyncio.timeout(10):
        while (await ask()).status_code != expected:
            await asyncio.sleep(0.02)
    return time.monotonic() - started


async def test_settings_and_quotas_hold_on_the_other_node_within_a_second(nodes: list[Service]) -> None:
    a, b = nodes
    async with Rest(a.url) as rest, httpx.AsyncClient(base_url=b.url, trust_env=False) as there:
        admin, alice = await rest.sign_in(ADMINISTRATOR), await rest.sign_in("alice")
        place = await rest.create_place(alice)

        def create() -> Any:
            return there.post("/threat_models", json={"name": "Shop"}, headers=alice.headers)

        def read() -> Any:
            return there.get("/threat_models", headers=alice.headers)

        assert 201 == (await create()).status_code
        key = "/admin/settings/user_threat_models_max"
        await put(rest, admin, key, {"value": "1", "type": "int"})
        assert WITHIN_S > await until(create, 403)
        answer = await rest.http.delete(key, headers=admin.headers)
        assert 204 == answer.status_code
        assert WITHIN_S > await until(create, 201)

        me = (await there.get("/oauth2/userinfo", headers=alice.headers)).json()["sub"]
        listed = (await rest.http.get("/admin/users?email=alice", headers=admin.headers)).json()["users"]
        user = listed[0]["internal_uuid"]
        assert me
        quota = f"/admin/quotas/users/{user}"
        await put(rest, admin, quota, {"max_requests_per_minute": 1})
        assert WITHIN_S > await until(read, 429)
        await put(rest, admin, quota, {"max_requests_per_minute": 10_000, "max_connections": 1})
        assert WITHIN_S > await until(read, 200)

        token = await rest.collab_token(alice)
        async with AsyncExitStack() as stack:

            async def opened(node: Service) -> int:
                raw: RawWebSocket = await stack.enter_async_context(connected(node.port))
                raw.send(upgrade_head(f"/collab/{place.diagram}?token={token}"))
                return (await raw.answer()).status

            assert 101 == await opened(a)
            await asyncio.sleep(TOLD_S)
            assert [429, 429] == [await opened(a), await opened(b)]
