"""A service here that would send the load elsewhere: by a redirect, or by what it says of its sockets."""

from collections.abc import AsyncIterator, Callable

import pytest
from aiohttp import web
from picows import WSError

from bench.measuring import new_client
from bench.protocols import y_websocket
from bench.rest import RestClient
from bench.servers import Account, Deployment, Room, ServerError
from bench.servers.base import HOST
from bench.servers.rest import Rest
from bench.target import Target

Handler = Callable[[web.Request], web.Response]


class Service:
    """Answers whatever is asked, and counts."""

    def __init__(self, handler: Handler) -> None:
        self._handler = handler
        self.asked = 0

    async def start(self) -> None:
        app = web.Application()
        app.router.add_route("*", "/{path:.*}", self._answer)
        self._runner = web.AppRunner(app)
        await self._runner.setup()
        await web.TCPSite(self._runner, HOST, 0).start()

    async def stop(self) -> None:
        await self._runner.cleanup()

    async def _answer(self, request: web.Request) -> web.Response:
        self.asked += 1
        return self._handler(request)

    @property
    def origin(self) -> str:
        return f"{HOST}:{self._runner.addresses[0][1]}"


@pytest.fixture
async def elsewhere() -> AsyncIterator[Service]:
    service = Service(lambda _request: web.json_response({}))
    await service.start()
    yield service
    await service.stop()


@pytest.fixture(params=[301, 302, 307, 308])
async def leading_away(request: pytest.FixtureRequest, elsewhere: Service) -> AsyncIterator[Service]:
    def led_away(asked: web.Request) -> web.Response:
        scheme = "ws" if "Upgrade" in asked.headers else "http"
        there = f"{scheme}://{elsewhere.origin}{asked.path}"
        return web.Response(status=request.param, headers={"Location": there})

    service = Service(led_away)
    await service.start()
    yield service
    await service.stop()


async def test_no_redirect_is_followed(leading_away: Service, elsewhere: Service) -> None:
    url, room = f"http://{leading_away.origin}", Room(f"ws://{leading_away.origin}/room", y_websocket())
    deployment = Deployment(Target(url, "a token"))
    with pytest.raises(ServerError, match="POST /collab/tokens was answered 30"):
        await deployment.start(0)
    await deployment.stop()
    async with RestClient(Account(url, "a token", "me@example.org")) as client:
        assert (await client.get("/threat_models")).status in range(301, 309)
        assert (await client.patch("/threat_models/a", [])).status in range(301, 309)
    with pytest.raises((OSError, WSError)):
        await new_client(0, room).join(room.url)
    assert (4, 0) == (leading_away.asked, elsewhere.asked)


@pytest.mark.parametrize("first_elsewhere", [1, 2])
async def test_sockets_elsewhere_are_found_out_whenever_they_are_named(first_elsewhere: int) -> None:
    """At the start, or when a diagram is opened."""
    told = 0

    def answer(request: web.Request) -> web.Response:
        nonlocal told
        if request.path != "/collab/tokens":
            return web.json_response({"id": "a", "threat_models": []}, status=201)
        told += 1
        host = "198.51.100.7" if told >= first_elsewhere else HOST
        return web.json_response({"y_websocket_url": f"wss://{host}/ws", "token": "secret"})

    service = Service(answer)
    await service.start()
    deployment = Deployment(Target(f"http://{service.origin}", "a token"))

    async def started_and_opened() -> None:
        await deployment.start(0)
        await deployment.room()

    try:
        with pytest.raises(ServerError, match=r"198\.51\.100\.7 is not this machine") as refusal:
            await started_and_opened()
        assert first_elsewhere == told
        assert "secret" not in str(refusal.value)
    finally:
        await deployment.stop()
        await service.stop()


async def test_what_is_made_is_deleted_and_nothing_else() -> None:
    """Another one's threat model of the same kind of name is left alone."""
    calls: list[str] = []

    def answer(request: web.Request) -> web.Response:
        calls.append(f"{request.method} {request.path}")
        if request.method == "GET":
            names = {"lost": rest.model_name, "other": "load test 0123456789abcdef"}
            models = [{"id": key, "name": name} for key, name in names.items()]
            return web.json_response({"threat_models": models})
        return web.json_response({"id": "made"}, status=201)

    service = Service(answer)
    await service.start()
    rest = Rest(f"http://{service.origin}")
    try:
        await rest.clean_up()
        assert [] == calls, "nothing was made"
        await rest.new_diagram()
        calls.clear()
        await rest.clean_up()
    finally:
        await rest.aclose()
        await service.stop()
    assert ["DELETE /threat_models/lost", "DELETE /threat_models/made", "GET /threat_models"] == sorted(calls)
