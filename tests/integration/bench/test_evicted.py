"""When rooms are gone is asked of the service itself."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from bench.measuring import leave_all, new_client
from bench.servers import ServerError
from bench.servers.rest import Rest
from bench.servers.tmi import SETTINGS, Tmi
from tests.harness.service import Service


class Attached(Tmi):
    """At a service that somebody else started."""

    def __init__(self, rest: Rest) -> None:
        super().__init__()
        self._rest = rest


@pytest.fixture
async def rest(tmp_path: Path, database_url: str) -> AsyncIterator[Rest]:
    with Service(tmp_path / "data", {**SETTINGS, "TMI_WORKERS": "1"}, database_url) as service:
        calls = Rest(service.url)
        await calls.sign_in("load")
        yield calls
        await calls.aclose()


async def test_rooms_count_as_evicted_when_the_service_says_so(
    rest: Rest, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = Attached(rest)
    assert 0 == await rest.rooms_in_memory()
    rooms = [await server.room() for _ in range(2)]
    clients = [new_client(0, room) for room in rooms]
    for client, room in zip(clients, rooms, strict=True):
        await client.join(room.url)
    monkeypatch.setattr("bench.servers.tmi.EVICTION_TIMEOUT_S", 0.1)
    with pytest.raises(ServerError, match=r"2 rooms are in memory 0\.1 s after everybody left"):
        await server.until_evicted()
    monkeypatch.setattr("bench.servers.tmi.EVICTION_TIMEOUT_S", 20)
    await leave_all(clients)
    assert 2 == await rest.rooms_in_memory(), "they stay for a second"
    await server.until_evicted(inhabited=2)
    assert 2 == await rest.rooms_in_memory(), "somebody is said to be in them"
    async with asyncio.timeout(20):
        await server.until_evicted()
    assert 0 == await rest.rooms_in_memory()
