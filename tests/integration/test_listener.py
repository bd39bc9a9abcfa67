"""One port: REST by Hypercorn and live sockets by picows, told apart by the head of the first request."""

import asyncio
import contextlib
import gc
from collections.abc import AsyncIterator, Sequence

import httpx
import pytest
from picows import WSUpgradeRequest

from api.live.options import LiveOptions
from api.live.rate import Rate
from crdt import y_websocket
from persistence.memory.access import MemoryAccessControl
from tests.harness.live_service import LiveService, live_service
from tests.harness.raw_websocket import connected, upgrade_head, upgraded
from tmi.domain.ports import Entrant, Standing
from tmi.listener import _Head

LIVEZ = b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n"


@pytest.fixture
async def service() -> AsyncIterator[LiveService]:
    async with live_service(LiveOptions(sweep_s=3600)) as running:
        yield running


async def test_rest_and_a_live_socket_share_the_port(service: LiveService) -> None:
    diagram = await service.diagram()
    path = f"/collab/{diagram}?token={await service.token('alice', diagram)}"
    async with upgraded(service.port, path) as raw, httpx.AsyncClient(trust_env=False) as http:
        answer = await http.get(f"http://127.0.0.1:{service.port}/livez")
        assert (200, "ok") == (answer.status_code, answer.text)
        assert "server" not in answer.headers
        raw.send_binary(y_websocket.sync_step1(b"\x00"))
        assert y_websocket.sync_step2(b"\x00\x00") == await raw.receive_binary()


async def test_the_application_is_started_and_stopped() -> None:
    async with live_service() as service:
        assert ["start"] == service.calls
    assert ["start", "stop"] == service.calls


async def test_a_connection_serves_many_requests_pipelined_ones_too(service: LiveService) -> None:
    async with connected(service.port) as raw:
        raw.send(LIVEZ * 3)
        assert [b"ok"] * 3 == [(await raw.answer()).body for _ in range(3)]


@pytest.mark.parametrize("size", [0, 1, 1000, 300_000])
async def test_a_body_that_comes_with_the_head_or_later_arrives_whole(
    size: int, service: LiveService
) -> None:
    head = f"POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: {size}\r\n\r\n".encode()
    async with connected(service.port) as raw:
        raw.send(head + b"b" * (size // 2))
        await asyncio.sleep(0.02)
        raw.send(b"b" * (size - size // 2))
        assert b"b" * size == (await raw.answer()).body


async def test_a_head_that_comes_byte_by_byte_is_served(service: LiveService) -> None:
    diagram = await service.diagram()
    path = f"/collab/{diagram}?token={await service.token('alice', diagram)}"
    for head, status in ((LIVEZ, 200), (upgrade_head(path), 101)):
        async with connected(service.port) as raw:
            for at in range(len(head)):
                raw.send(head[at : at + 1])
                await asyncio.sleep(0)
            assert status == (await raw.answer()).status


async def test_an_upgrade_on_a_connection_of_rest_gets_503_and_the_connection_ends(
    service: LiveService,
) -> None:
    diagram = await service.diagram()
    path = f"/collab/{diagram}?token={await service.token('alice', diagram)}"
    async with connected(service.port) as raw:
        raw.send(LIVEZ)
        assert 200 == (await raw.answer()).status
        raw.send(upgrade_head(path))
        answer = await raw.answer()
        assert (503, "close") == (answer.status, answer.headers["connection"])
        await raw.receive_end()


@pytest.mark.parametrize("path", ["/collab", "/collab/00000000-0000-4000-8000-00000000000a"])
@pytest.mark.parametrize("is_first", [True, False])
async def test_a_plain_request_of_a_sockets_address_gets_426(
    path: str, is_first: bool, service: LiveService
) -> None:
    async with connected(service.port) as raw:
        if not is_first:
            raw.send(LIVEZ)
            await raw.answer()
        raw.send(f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        answer = await raw.answer()
        assert (426, "websocket") == (answer.status, answer.headers["upgrade"])
        assert b'"error":"upgrade_required"' in answer.body


async def test_other_paths_below_collab_belong_to_rest(service: LiveService) -> None:
    async with connected(service.port) as raw:
        raw.send(b"POST /collab/tokens HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n")
        assert 404 == (await raw.answer()).status


async def test_http_2_is_not_spoken(service: LiveService) -> None:
    async with connected(service.port) as raw:
        raw.send(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
        assert 400 == (await raw.answer()).status
    async with connected(service.port) as raw:
        raw.send(
            b"GET /livez HTTP/1.1\r\nHost: x\r\nConnection: Upgrade, HTTP2-Settings\r\n"
            b"Upgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAoAAAAAIAAAAA\r\n\r\n"
        )
        assert (200, b"ok") == ((answer := await raw.answer()).status, answer.body)


async def test_requests_in_flight_finish_and_new_connections_are_refused() -> None:
    async with live_service() as service:
        async with connected(service.port) as raw, connected(service.port) as idle:
            raw.send(b"GET /slow HTTP/1.1\r\nHost: x\r\n\r\n")
            idle.send(LIVEZ)
            await idle.answer()
            while "slow" not in service.calls:
                await asyncio.sleep(0.01)
            service.listening.close()
            closing = asyncio.create_task(service.listener.aclose(5))
            assert b"done" == (await raw.answer()).body
            await idle.receive_end()
            await closing
        with pytest.raises(OSError):
            async with connected(service.port):
                pass


async def test_a_request_that_takes_too_long_is_cut_off_at_the_deadline() -> None:
    async with live_service() as service, connected(service.port) as raw:
        raw.send(b"GET /slow HTTP/1.1\r\nHost: x\r\n\r\n")
        while "slow" not in service.calls:
            await asyncio.sleep(0.01)
        await service.listener.aclose(0.01)
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionResetError):
            assert 200 != (await raw.answer()).status


class Silent(MemoryAccessControl):
    """Never says how anybody stands."""

    async def standings(self, entrants: Sequence[Entrant]) -> Sequence[Standing]:
        await asyncio.Event().wait()
        return await super().standings(entrants)


async def test_checks_of_an_upgrade_that_take_too_long_end_in_503_and_free_the_handshake() -> None:
    options = LiveOptions(sweep_s=3600, handshake_timeout_s=0.1, handshakes_max=2)
    async with live_service(options, access_over=Silent) as service:
        diagram = await service.diagram()
        path = f"/collab/{diagram}?token={await service.token('alice', diagram)}"
        for _ in range(2):
            async with connected(service.port) as one, connected(service.port) as other:
                one.send(upgrade_head(path))
                other.send(upgrade_head(path))
                answers = [await one.answer(), await other.answer()]
            assert [503, 503] == [answer.status for answer in answers]
            assert all(b"took too long" in answer.body for answer in answers)


async def test_a_live_socket_keeps_nothing_of_its_opening(service: LiveService) -> None:
    gc.collect()
    before = gc.get_objects()  # of other tests
    known = set(map(id, before))
    async with contextlib.AsyncExitStack() as stack:
        for _ in range(2):
            diagram = await service.diagram()
            path = f"/collab/{diagram}?token={await service.token('alice', diagram)}"
            raw = await stack.enter_async_context(upgraded(service.port, path))
            raw.send_binary(y_websocket.sync_step1(b"\x00"))
            assert y_websocket.sync_step2(b"\x00\x00") == await raw.receive_binary()
        gc.collect()
        everything = [thing for thing in gc.get_objects() if id(thing) not in known]
        assert [] == [thing for thing in everything if type(thing) in (_Head, Rate)]
        requests = [thing for thing in everything if type(thing) is WSUpgradeRequest]
        assert [(b"", b"", 0)] * 2 == [(asked.method, asked.path, len(asked.headers)) for asked in requests]
        assert 1 == len({id(asked.headers) for asked in requests})
