"""The short way and the long one on one connection: neither disturbs the other."""

import asyncio
import json
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import pytest

from api.app import RestApp
from api.context import EXTENSION
from api.live.editors import Editors
from api.live.endpoint import LiveEndpoint
from api.news import News
from api.rates import Counts
from api.short_way import Asked, ShortWay
from persistence.memory.events import MemoryFeed
from persistence.memory.store import MemoryStore
from tests.harness.raw_websocket import connected
from tests.rest import RestClient, over_memory
from tmi.domain.configuration import GivenSetting
from tmi.domain.errors import DatabaseUnavailable
from tmi.listener import Listener, ListenerOptions


class _Counting(ShortWay):
    """It can be held up, and says how often it has answered."""

    answered = 0
    may_answer: asyncio.Event

    async def answer(self, asked: Asked, peer: str, own_scheme: str) -> bytes | Counts:
        await self.may_answer.wait()
        answer = await super().answer(asked, peer, own_scheme)
        self.answered += isinstance(answer, bytes)
        return answer


@dataclass
class _Served:
    rest: RestClient
    listener: Listener
    way: _Counting
    token: str
    model: str

    def get(self, path: str = "") -> bytes:
        lines = f"Host: tmi.test\r\nAuthorization: Bearer {self.token}\r\n\r\n"
        return f"GET {path or f'/threat_models/{self.model}'} HTTP/1.1\r\n{lines}".encode()

    def rename(self, name: str) -> bytes:
        body = json.dumps([{"op": "replace", "path": "/name", "value": name}])
        return (
            f"PATCH /threat_models/{self.model} HTTP/1.1\r\nHost: tmi.test\r\nContent-Length: {len(body)}\r\n"
            f"Content-Type: application/json-patch+json\r\nAuthorization: Bearer {self.token}\r\n\r\n{body}"
        ).encode()


@asynccontextmanager
async def _serving(keep_alive_s: float = 75.0, per_min: int = 1000) -> AsyncIterator[_Served]:
    given = [GivenSetting("user_requests_per_min", str(per_min), "int", "", True)]
    async with over_memory(given=given) as rest:
        assert isinstance(rest.app, RestApp)
        services = rest.services
        editors = Editors(services.rooms, News(MemoryFeed(MemoryStore()), services.access))
        live = LiveEndpoint(services.rooms, editors, services.tokens, services.access, services.tickets)
        way = _Counting(rest.app.extensions[EXTENSION])
        way.may_answer = asyncio.Event()
        way.may_answer.set()
        with socket.create_server(("127.0.0.1", 0)) as listening:
            options = ListenerOptions(keep_alive_s=keep_alive_s)
            listener = await Listener.start(rest.app, live, listening, options, way)
            token = await rest.sign_in("alice")
            model = (await rest.create_model(token))["id"]
            try:
                yield _Served(rest, listener, way, token, model)
            finally:
                way.may_answer.set()
                await listener.aclose(2)


@pytest.fixture
async def served() -> AsyncIterator[_Served]:
    async with _serving() as running:
        yield running


async def test_reads_and_writes_take_turns_on_a_connection(served: _Served) -> None:
    async with connected(served.listener.port) as raw:
        for turn in range(3):
            raw.send(served.rename(f"name {turn}"))
            assert 200 == (await raw.answer()).status
            raw.send(served.get())
            read = await raw.answer()
            assert (200, f"name {turn}") == (read.status, json.loads(read.body)["name"])
    assert 3 == served.way.answered


async def test_requests_in_one_piece_are_answered_in_order_by_the_long_way(served: _Served) -> None:
    async with connected(served.listener.port) as raw:
        raw.send(served.get() + served.rename("new") + served.get() + served.get("/livez"))
        answers = [await raw.answer() for _ in range(4)]
        names = [json.loads(answer.body)["name"] for answer in answers[:3]]
        assert (["Shop", "new", "new"], 200) == (names, answers[3].status)
        assert 0 == served.way.answered
        raw.send(served.get())
        assert 200 == (await raw.answer()).status
    assert 1 == served.way.answered


async def test_a_head_in_pieces_goes_the_long_way_and_the_next_one_does_not(served: _Served) -> None:
    async with connected(served.listener.port) as raw:
        raw.send(served.get())
        assert 200 == (await raw.answer()).status
        raw.send(served.get()[:30])
        await asyncio.sleep(0.02)
        raw.send(served.get()[30:])
        assert 200 == (await raw.answer()).status
        assert 1 == served.way.answered
        raw.send(served.get())
        assert 200 == (await raw.answer()).status
    assert 2 == served.way.answered


async def test_what_looks_like_a_head_within_a_body_or_a_header_is_none(served: _Served) -> None:
    inner = served.get()
    of_post = f"Host: tmi.test\r\nAuthorization: Bearer {served.token}\r\nContent-Type: application/json\r\n"
    begun = [
        (f"POST /threat_models HTTP/1.1\r\n{of_post}Content-Length: {len(inner)}\r\n\r\n", 400),
        ("GET /livez HTTP/1.1\r\nX-Inner: ", 200),
    ]
    for start, status in begun:
        async with connected(served.listener.port) as raw:
            raw.send(inner)
            assert 200 == (await raw.answer()).status
            raw.send(start.encode())
            await asyncio.sleep(0.05)
            raw.send(inner)
            assert status == (await raw.answer()).status
            raw.send(inner)
            assert 200 == (await raw.answer()).status


async def test_requests_that_come_while_one_is_answered_wait_their_turn(served: _Served) -> None:
    served.way.may_answer.clear()
    async with connected(served.listener.port) as raw:
        raw.send(served.get())
        await asyncio.sleep(0.02)
        raw.send(served.rename("later"))
        await asyncio.sleep(0.02)
        served.way.may_answer.set()
        names = [json.loads((await raw.answer()).body)["name"] for _ in range(2)]
    assert ["Shop", "later"] == names


async def test_a_request_that_is_refused_is_counted_once_and_told_of_by_the_long_way() -> None:
    async with _serving(per_min=4) as served, connected(served.listener.port) as raw:
        left = []
        for path in ("", f"/threat_models/{served.token[:8]}", "/threat_models?limit=0", ""):
            raw.send(served.get(path))
            answer = await raw.answer()
            left.append((answer.status, answer.headers.get("x-ratelimit-remaining")))
        # One was used to make the threat model.
        assert [(200, "2"), (400, "1"), (400, "0"), (429, "0")] == left
        assert "retry-after" in answer.headers


async def test_a_database_that_is_away_is_waited_for_once(
    served: _Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = 0

    async def away(*_: object) -> None:
        nonlocal asked
        asked += 1
        raise DatabaseUnavailable

    for method in ("model", "contents"):
        monkeypatch.setattr(served.rest.services.reads, method, away)
    async with connected(served.listener.port) as raw:
        raw.send(served.get())
        answer = await raw.answer()
        raw.send(served.get("/threat_models"))
        after = await raw.answer()
    assert (503, 1) == (answer.status, asked)
    assert "retry-after" in answer.headers
    assert 200 == after.status


async def test_a_connection_that_was_read_on_lately_is_kept_and_an_idle_one_is_closed() -> None:
    async with _serving(keep_alive_s=0.3) as served, connected(served.listener.port) as raw:
        for _ in range(4):
            raw.send(served.get())
            assert 200 == (await raw.answer()).status
            await asyncio.sleep(0.15)
        await raw.receive_end()


async def test_an_answer_that_is_under_way_when_the_service_stops_arrives(served: _Served) -> None:
    served.way.may_answer.clear()
    async with connected(served.listener.port) as raw:
        raw.send(served.get())
        await asyncio.sleep(0.02)
        stopping = asyncio.create_task(served.listener.aclose(2))
        await asyncio.sleep(0.02)
        served.way.may_answer.set()
        assert 200 == (await raw.answer()).status
        async with asyncio.timeout(2):
            await stopping
