"""A working day with a small service, honest or not: its account must tell the difference."""

import asyncio
import os
import re
from collections import defaultdict
from collections.abc import AsyncIterator, Mapping
from dataclasses import replace
from urllib.parse import parse_qs, urlsplit

import picows
import pycrdt
import pytest
from aiohttp import web
from picows import WSFrame, WSListener, WSMsgType, WSTransport, WSUpgradeRequest

from bench.model import Place
from bench.protocols import y_websocket
from bench.scenarios import mixed
from bench.scenarios.mixed import MixedLoad
from bench.servers import Account, Room, Server
from bench.servers.base import HOST

CORE = min(os.sched_getaffinity(0))
LOAD = MixedLoad(rooms=2, editors=2, viewers=1, seconds=1.5)
UPDATE = b"\x00\x02"


class House(Server):
    """A service of models with one diagram each, in this process; a token is its user's address."""

    name = "house"
    persistence = "none"
    rename_of_a_viewer = 403

    def __init__(self) -> None:
        super().__init__()
        self.models: dict[str, dict[str, str]] = {}
        self.updates: defaultdict[str, list[bytes]] = defaultdict(list)
        self.sockets: defaultdict[str, list[Socket]] = defaultdict(list)
        self.joins = 0

    async def start(self, core: int) -> None:
        app = web.Application()
        app.router.add_post("/threat_models", self._new)
        app.router.add_post("/threat_models/{model}/diagrams", self._new)
        app.router.add_get("/threat_models/{id}", self._get)
        app.router.add_get("/threat_models/{model}/diagrams/{id}", self._get)
        app.router.add_patch("/threat_models/{id}", self._patch)
        app.router.add_post("/collab/tokens", self._token)
        self._runner = web.AppRunner(app)
        await self._runner.setup()
        await web.TCPSite(self._runner, HOST, 0).start()
        self._listening = await picows.ws_create_server(self._accept, HOST, 0)
        self.port = self._listening.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        await self._runner.cleanup()
        self._listening.close()
        await self._listening.wait_closed()

    async def room(self) -> Room:
        raise NotImplementedError

    async def account(self, who: str) -> Account:
        return Account(f"http://{HOST}:{self._runner.addresses[0][1]}", who, f"{who}@example.org")

    def room_at(self, diagram: str, collab: Mapping[str, str]) -> Room:
        return Room(f"ws://{HOST}:{self.port}/{diagram}?token={collab['token']}", y_websocket())

    def version(self) -> str:
        return "0"

    @property
    def pid(self) -> int:
        return os.getpid()

    def may_edit(self, user: str) -> bool:
        return user.startswith("editor")

    def copy(self, update: bytes, socket: "Socket") -> bytes | None:
        """What a socket is sent of an update."""
        return update

    def state(self, diagram: str) -> list[bytes]:
        """What a newcomer is given."""
        return self.updates[diagram]

    async def _new(self, request: web.Request) -> web.Response:
        made = {"id": f"{len(self.models)}", "name": (await request.json())["name"]}
        self.models[made["id"]] = made
        return web.json_response(made, status=201)

    async def _get(self, request: web.Request) -> web.Response:
        return web.json_response(self.models[request.match_info["id"]])

    async def _patch(self, request: web.Request) -> web.Response:
        return web.json_response({}, status=self.rename_of_a_viewer)

    async def _token(self, request: web.Request) -> web.Response:
        return web.json_response({"token": request.headers["Authorization"].removeprefix("Bearer ")})

    def _accept(self, request: WSUpgradeRequest) -> WSListener:
        address = urlsplit(request.path.decode())
        self.joins += 1
        return Socket(self, address.path[1:], parse_qs(address.query)["token"][0])


class Socket(WSListener):
    def __init__(self, house: House, diagram: str, user: str) -> None:
        self.house, self.diagram, self.user = house, diagram, user

    def on_ws_connected(self, transport: WSTransport) -> None:
        self.transport = transport
        self.house.sockets[self.diagram].append(self)

    def on_ws_disconnected(self, transport: WSTransport) -> None:
        self.house.sockets[self.diagram].remove(self)

    def on_ws_frame(self, transport: WSTransport, frame: WSFrame) -> None:
        if frame.msg_type is not WSMsgType.BINARY:
            transport.disconnect()
            return
        payload = frame.get_payload_as_bytes()
        if payload.startswith(y_websocket().asked):
            state = pycrdt.merge_updates(*self.house.state(self.diagram), pycrdt.Doc().get_update())
            transport.send(WSMsgType.BINARY, y_websocket().answer(state))
        elif payload.startswith(UPDATE) and self.house.may_edit(self.user):
            self.house.updates[self.diagram].append(payload[3:])
            for socket in self.house.sockets[self.diagram]:
                copy = self.house.copy(payload, socket)
                if copy is not None:
                    socket.transport.send(WSMsgType.BINARY, copy)


class _Lax(House):
    """Viewers may edit."""

    rename_of_a_viewer = 200

    def may_edit(self, user: str) -> bool:
        return True


class _Careless(House):
    """Viewers are only told of edits when they join."""

    def copy(self, update: bytes, socket: Socket) -> bytes | None:
        return None if socket.user.startswith("viewer") else update


class _Forgetful(House):
    """A newcomer is not given everything, and an editor loses the connection."""

    connections_to_end = 1

    def copy(self, update: bytes, socket: Socket) -> bytes | None:
        if self.connections_to_end and socket.user.startswith("editor"):
            self.connections_to_end -= 1
            asyncio.get_running_loop().call_soon(socket.transport.disconnect)
        return update

    def state(self, diagram: str) -> list[bytes]:
        return self.updates[diagram][1:]


@pytest.fixture
async def house(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[House]:
    monkeypatch.setattr(mixed, "THINKS_S", 0.15)
    monkeypatch.setattr(mixed, "AWAY_S", 0.05)
    monkeypatch.setattr(mixed, "NEW_MODEL_EVERY_S", 0.3)
    server: House = request.param()
    await server.start(0)
    yield server
    await server.stop()


@pytest.mark.parametrize("house", [House], indirect=True)
async def test_an_honest_service_is_found_without_fault(house: House, all_remarks: set[str]) -> None:
    run = await LOAD.measure(house, Place(CORE, CORE))
    assert [] == run.faults
    assert all_remarks <= set(run.remarks)
    assert "slip_p99_ms" in run.figures
    figures = run.figures
    assert 0 == figures["errors"]
    assert figures["edits"] > 0
    assert figures["joins"] > 0
    assert house.joins == 2 * 3 + figures["joins"] + 2
    assert figures["requests"] > 0
    assert {"edits", "joins", "rest"} == run.curves.keys()
    assert figures.keys() <= {figure.key for figure in LOAD.figures}
    assert 0 < figures["edit_p50_ms"] <= figures["edit_p99_ms"] < 1000
    assert [] == [socket for sockets in house.sockets.values() for socket in sockets]
    names = [model["name"] for model in house.models.values()]
    assert ["desk 0", "desk 0", "desk 1", "desk 1"] == names[:4]
    assert names.count("made in passing") >= 4


@pytest.mark.parametrize("house", [_Lax], indirect=True)
async def test_an_edit_of_a_viewer_that_comes_through_is_a_fault(house: House) -> None:
    run = await LOAD.measure(house, Place(CORE, CORE))
    faults = "; ".join(run.faults)
    assert "people were given edits of viewers" in faults
    assert "2 of 2 newcomers were given edits of viewers" in faults
    assert "2 x answered 200 instead of 403: b'{}'" in faults
    assert 2 == run.figures["errors"]


@pytest.mark.parametrize("house", [_Careless], indirect=True)
async def test_a_viewer_without_all_edits_is_a_fault(house: House) -> None:
    run = await LOAD.measure(house, Place(CORE, CORE))
    assert re.fullmatch(r"[12] of 6 people lack edits", "; ".join(run.faults))


@pytest.mark.parametrize("house", [_Forgetful], indirect=True)
async def test_a_newcomer_without_all_edits_is_a_fault(house: House) -> None:
    run = await LOAD.measure(house, Place(CORE, CORE))
    assert "2 of 2 newcomers lack edits" in run.faults
    assert any(fault.endswith(": the connection was lost") for fault in run.faults)


@pytest.mark.parametrize(
    "change", [{"rooms": 0}, {"editors": 0}, {"viewers": 51}, {"seconds": 0}, {"rooms": 400, "seconds": 60}]
)
def test_an_impossible_load_is_refused(change: dict[str, int]) -> None:
    with pytest.raises(ValueError, match=r"rooms|day"):
        replace(MixedLoad(), **change)
