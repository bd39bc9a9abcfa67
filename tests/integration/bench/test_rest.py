"""The REST load against a small service, honest or not: its account must tell the difference."""

import asyncio
import os
import uuid
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from typing import Any

import pytest
from aiohttp import web

from bench.filling import Filling
from bench.model import Place
from bench.rest import JSON_PATCH, Answer
from bench.scenarios.rest import Call, Model, RestLoad, wrong
from bench.servers import Account, Room, Server, ServerError
from bench.servers.base import HOST
from tests.integration.bench.test_fanout import LATE_S

LOAD = RestLoad(rate=200, writes=0.3, lists=0.2, models=30, threats=0, seconds=0.5, warm_up_s=0.1)
CORE = min(os.sched_getaffinity(0))
ME = Account("", "the token", "me@example.org")

Content = dict[str, Any]


class Shelf(Server):
    """A service of threat models, in this process. `spoil` may change what an answer says of a model."""

    name = "shelf"
    persistence = "none"

    def __init__(self, spoil: Callable[[Content], Content]) -> None:
        super().__init__()
        self.spoil = spoil
        self.models: dict[str, Content] = {}

    async def start(self, core: int) -> None:
        app = web.Application()
        app.router.add_post("/threat_models", self._create)
        app.router.add_get("/threat_models", self._list)
        app.router.add_get("/threat_models/{id}", self._get)
        app.router.add_get("/threat_models/{id}/threats", self._get_threats)
        app.router.add_get("/threat_models/{id}/threats/{threat}", self._get_threat)
        app.router.add_patch("/threat_models/{id}", self._patch)
        self._runner = web.AppRunner(app)
        await self._runner.setup()
        site = web.TCPSite(self._runner, HOST, 0)
        await site.start()
        self.port = self._runner.addresses[0][1]

    async def stop(self) -> None:
        await self._runner.cleanup()

    async def room(self) -> Room:
        raise NotImplementedError

    async def account(self, who: str) -> Account:
        return replace(ME, url=f"http://{HOST}:{self.port}")

    def version(self) -> str:
        return "0"

    @property
    def pid(self) -> int:
        return os.getpid()

    async def _create(self, request: web.Request) -> web.Response:
        assert request.headers["Authorization"] == f"Bearer {ME.token}"
        model = {"id": str(uuid.uuid4()), **await request.json()}
        self.models[model["id"]] = model
        return web.json_response(model, status=201)

    async def _list(self, request: web.Request) -> web.Response:
        newest = list(reversed(self.models.values()))[: int(request.query["limit"])]
        return web.json_response(
            {"threat_models": [self.spoil(model) for model in newest], "total": len(self.models)}
        )

    async def _get(self, request: web.Request) -> web.Response:
        return web.json_response(self.spoil(self.models[request.match_info["id"]]))

    async def _get_threats(self, request: web.Request) -> web.Response:
        raise NotImplementedError

    async def _get_threat(self, request: web.Request) -> web.Response:
        raise NotImplementedError

    async def _patch(self, request: web.Request) -> web.Response:
        assert request.content_type == JSON_PATCH
        [operation] = await request.json()
        model = self.models[request.match_info["id"]]
        model["name"] = operation["value"]
        return web.json_response(model)


class Filled(Shelf):
    """It has been filled; `spoil` may change what is said of a threat."""

    offers = frozenset({"rest", "filling"})

    async def start(self, core: int) -> None:
        self._filling: Filling | None = None
        await super().start(core)

    async def filled(self, models: int, threats: int) -> Filling:
        if self._filling is None:
            self._filling = Filling(await self.account(""), "a/", models, threats)
            for n in range(models):
                key = self._filling.model_id(n)
                self.models[key] = {"id": key, "name": f"model {n}, name 0"}
        return self._filling

    def _threats(self, request: web.Request) -> list[Content]:
        assert self._filling is not None
        number = list(self.models).index(request.match_info["id"])
        return [
            self.spoil({"id": self._filling.threat_id(number, k), "name": f"threat {k} of model {number}"})
            for k in range(self._filling.threats)
        ]

    async def _get(self, request: web.Request) -> web.Response:
        return web.json_response(
            self.models[request.match_info["id"]] | {"threats": self._threats(request)}
        )

    async def _get_threats(self, request: web.Request) -> web.Response:
        threats = self._threats(request)
        return web.json_response({"threats": threats[:20], "total": len(threats)})

    async def _get_threat(self, request: web.Request) -> web.Response:
        (threat,) = [t for t in self._threats(request) if t["id"] == request.match_info["threat"]]
        return web.json_response(threat)

    async def _patch(self, request: web.Request) -> web.Response:
        await super()._patch(request)
        return await self._get(request)


class _Mixed(Filled):
    """It gives another threat than was asked for, and too short a page."""

    async def _get_threat(self, request: web.Request) -> web.Response:
        return web.json_response(self._threats(request)[0])

    async def _get_threats(self, request: web.Request) -> web.Response:
        return web.json_response({"threats": self._threats(request)[:20], "total": 7})


def _as_it_is(model: Content) -> Content:
    return model


def _as_it_was(model: Content) -> Content:
    return {**model, "name": model["name"].split(",")[0] + ", name 0"}


def _another(model: Content) -> Content:
    return {**model, "id": str(uuid.uuid4())}


class _Forgetful(Shelf):
    async def _patch(self, request: web.Request) -> web.Response:
        [operation] = await request.json()
        return web.json_response({**self.models[request.match_info["id"]], "name": operation["value"]})


class _Failing(Shelf):
    async def _patch(self, request: web.Request) -> web.Response:
        raise web.HTTPServiceUnavailable


class _Erring(Shelf):
    """It says of every other read of a model that something is wrong, with the right body all the same."""

    reads = 0

    async def _get(self, request: web.Request) -> web.Response:
        answer = await super()._get(request)
        self.reads += 1
        if self.reads % 2 and self.reads < 10:
            answer.set_status(500)
        return answer


class _Slow(Shelf):
    """It is, for the first read, or as many as `slow` says."""

    slow = 1

    async def _get(self, request: web.Request) -> web.Response:
        self.slow -= 1
        if self.slow >= 0:
            await asyncio.sleep(LATE_S)
        return await super()._get(request)


class _Deaf(Shelf):
    """It takes a rename for another one."""

    async def _patch(self, request: web.Request) -> web.Response:
        return web.json_response(self.models[request.match_info["id"]])


@pytest.fixture
async def shelf(request: pytest.FixtureRequest) -> AsyncIterator[Shelf]:
    make, spoil = request.param
    server: Shelf = make(spoil)
    await server.start(0)
    yield server
    await server.stop()


def _served(make: type[Shelf], spoil: Callable[[Content], Content] = _as_it_is) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("shelf", [(make, spoil)], indirect=True)


async def _faults(shelf: Shelf) -> str:
    run = await LOAD.measure(shelf, Place(CORE, CORE))
    return "; ".join(run.faults)


@_served(Shelf)
async def test_an_honest_service_is_found_without_fault(shelf: Shelf) -> None:
    run = await LOAD.measure(shelf, Place(CORE, CORE))
    assert [] == run.faults
    assert {"reads", "writes"} == run.curves.keys()
    figures = run.figures
    assert 0 < figures["read_p50_ms"] <= figures["read_p99_ms"]
    assert 0 < figures["write_p50_ms"] <= figures["write_p99_ms"]
    assert figures.keys() <= {figure.key for figure in LOAD.figures}


@_served(_Slow)
async def test_reads_only_have_no_figures_of_writes_nor_of_the_warm_up(
    shelf: Shelf, all_remarks: set[str]
) -> None:
    """With less than a hundred reads p99 is the longest."""
    load = replace(LOAD, writes=0.0, lists=0.0, rate=100, warm_up_s=0.2)
    run = await load.measure(shelf, Place(CORE, CORE))
    assert [] == run.faults
    assert run.figures["read_p99_ms"] < LATE_S * 1e3
    assert 25 < run.figures["requests_per_s"] < 1.2 * load.rate
    assert all_remarks <= set(run.remarks)
    assert "slip_p99_ms" in run.figures
    assert "write_p50_ms" not in run.figures
    assert {"reads"} == run.curves.keys()


@_served(Shelf, _as_it_was)
async def test_a_read_that_gives_a_replaced_name_is_a_fault(shelf: Shelf) -> None:
    faults = await _faults(shelf)
    assert "GET of a model: 'model" in faults
    assert "GET of the list: 'model" in faults
    assert "was not its name then" in faults
    assert "models have lost their last name" in faults


@_served(Shelf, _another)
async def test_a_read_of_another_model_is_a_fault(shelf: Shelf) -> None:
    faults = await _faults(shelf)
    assert "GET of a model: another model" in faults
    assert "GET of the list: not the newest models" in faults


PARTS = replace(LOAD, models=40, threats=25, parts=0.6)


@_served(Filled)
async def test_what_is_in_models_is_read_of_a_server_that_was_filled_once(shelf: Shelf) -> None:
    for _ in range(2):  # the second run knows the names that the first one gave
        run = await PARTS.measure(shelf, Place(CORE, CORE))
        assert [] == run.faults
    assert any(not model["name"].endswith("name 0") for model in shelf.models.values())


@_served(Filled, lambda threat: {**threat, "name": "of somebody else"})
async def test_a_model_with_other_threats_is_a_fault(shelf: Shelf) -> None:
    run = await PARTS.measure(shelf, Place(CORE, CORE))
    assert "GET of a model: not its threats" in "; ".join(run.faults)


@_served(_Mixed)
async def test_a_part_that_was_not_asked_for_is_a_fault(shelf: Shelf) -> None:
    faults = "; ".join((await PARTS.measure(shelf, Place(CORE, CORE))).faults)
    assert "GET of a part of a model: another threat" in faults
    assert "GET of a part of a model: not a page of its threats" in faults


async def test_a_server_that_cannot_be_filled_says_so() -> None:
    with pytest.raises(ServerError, match="shelf cannot be given 10,000 threat models of 100 threats each"):
        await RestLoad().measure(Shelf(_as_it_is), Place(CORE, CORE))


@_served(_Forgetful)
async def test_a_write_that_was_confirmed_and_lost_is_a_fault(shelf: Shelf) -> None:
    assert "models have lost their last name" in await _faults(shelf)


@_served(_Deaf)
async def test_a_write_whose_answer_says_something_else_is_a_fault(shelf: Shelf) -> None:
    assert "was written, and 'model" in await _faults(shelf)


@_served(_Slow)
async def test_answers_that_come_when_the_window_is_over_are_remarked_on(shelf: Shelf) -> None:
    assert isinstance(shelf, _Slow)
    shelf.slow = 10
    load = replace(LOAD, writes=0.0, lists=0.0, rate=40, seconds=0.2, warm_up_s=0.0)
    run = await load.measure(shelf, Place(CORE, CORE))
    assert ([], True) == (run.faults, "fell behind" in run.remarks)


@_served(_Erring)
async def test_a_status_that_is_an_error_is_a_fault_whatever_the_body(shelf: Shelf) -> None:
    assert "5 x GET of a model: answered 500" in await _faults(shelf)


@_served(Shelf, lambda _model: {"error": "of what was asked for nothing is there"})
async def test_an_answer_without_what_was_asked_for_is_a_fault_and_no_crash(shelf: Shelf) -> None:
    faults = await _faults(shelf)
    assert "GET of a model: not what was asked for" in faults
    assert "GET of the list: not what was asked for" in faults
    assert "models have lost their last name" in faults


@pytest.mark.parametrize(
    "body", [b"", b"<html>", b"null", b"[]", b"7", b'{"id": "a"}', b'{"threat_models": [7]}']
)
@pytest.mark.parametrize("is_list", [True, False])
def test_whatever_comes_instead_of_an_answer_is_wrong(body: bytes, is_list: bool) -> None:
    model = Model(0)
    model.id = "a"
    call = Call("GET", None if is_list else model, None, None, 0, 1, Answer(200, body))
    assert wrong(call, [model], 0) in {"no JSON", "not what was asked for", "another model"}


@_served(_Failing)
async def test_any_other_status_is_a_fault(shelf: Shelf) -> None:
    assert "x PATCH of a model: answered 503" in await _faults(shelf)


@_served(Shelf)
async def test_a_service_that_goes_away_is_a_fault(shelf: Shelf) -> None:
    async def end() -> None:
        await asyncio.sleep(0.3)
        await shelf.stop()

    ending = asyncio.create_task(end())
    with pytest.raises(OSError, match="GET /threat_models/"):
        await LOAD.measure(shelf, Place(CORE, CORE))
    await ending


async def test_a_server_without_rest_signs_nobody_in() -> None:
    with pytest.raises(ServerError, match="shelf has no REST API"):
        await Server.account(Shelf(_as_it_is), "alice")


def test_only_names_of_the_time_of_a_request_may_be_read() -> None:
    model = Model(3)
    model.sent_at.extend((1, 5, 9))
    model.known_at.extend((2, 6))
    names = [f"model 3, name {change}" for change in range(3)]

    def possible(sent_at: float, read_at: float) -> list[int]:
        return [n for n, name in enumerate(names) if model.could_be(name, sent_at, read_at)]

    assert [[0], [0, 1], [1], [1, 2], [0, 1, 2]] == [
        possible(3, 4), possible(3, 7), possible(7, 8), possible(8, 20), possible(5, 10),
    ]  # fmt: skip
    assert model.is_changing
    assert names[2] == model.last_name


@pytest.mark.parametrize(
    "parameters", [{"writes": 1.1}, {"lists": -1}, {"models": 0}, {"rate": 0}, {"seconds": 1e6}, {"parts": 2},
     {"threats": 1001}, {"parts": 0.5, "threats": 0}, {"seconds": 100}]
)
def test_an_impossible_load_is_refused(parameters: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=r"shares|models|positive|requests|threats"):
        RestLoad(**parameters)  # type: ignore[arg-type]
