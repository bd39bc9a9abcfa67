"""Who gets past the upgrade, and what malformed, slow or foreign requests meet with."""

import asyncio
import logging
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack
from ipaddress import ip_network

import orjson
import pytest

from api.forwarding import TrustedProxies
from api.headers import ALWAYS
from api.live.options import LiveOptions
from tests.harness.live_service import LiveService, live_service
from tests.harness.raw_websocket import Answer, connected, upgrade_head, upgraded
from tmi.domain.errors import DatabaseUnavailable
from tmi.domain.ids import DiagramId
from tmi.domain.roles import Role
from tmi.listener import ListenerOptions


@pytest.fixture
async def service() -> AsyncIterator[LiveService]:
    options = LiveOptions(sweep_s=3600, allowed_origins=frozenset({"https://draw.example.org"}))
    limits = ListenerOptions(head_timeout_s=0.5, head_max_bytes=4096)
    async with live_service(options, limits) as running:
        yield running


async def ask(service: LiveService, path: str, headers: Mapping[str, str] | None = None) -> Answer:
    async with connected(service.port) as raw:
        raw.send(upgrade_head(path, headers))
        return await raw.answer()


async def good_path(service: LiveService) -> str:
    diagram = await service.diagram()
    return f"/collab/{diagram}?token={await service.token('alice', diagram)}"


async def test_a_refusal_has_the_one_shape_of_errors_and_ends_the_connection(service: LiveService) -> None:
    diagram = await service.diagram()
    async with connected(service.port) as raw:
        raw.send(upgrade_head(f"/collab/{diagram}"))
        answer = await raw.answer()
        assert (401, "close", "application/json") == (
            answer.status,
            answer.headers["connection"],
            answer.headers["content-type"],
        )
        assert {"error", "error_description"} == orjson.loads(answer.body).keys()
        await raw.receive_end()


async def test_tokens_that_do_not_open_a_diagram(service: LiveService) -> None:
    diagram, other = await service.diagram(), await service.diagram()
    alice = await service.someone("alice")
    user = service.store.users[alice.id]
    expected = {
        "none": (f"/collab/{diagram}", 401),
        "empty": (f"/collab/{diagram}?token=", 401),
        "garbage": (f"/collab/{diagram}?token=a.b.c", 401),
        "access token": (f"/collab/{diagram}?token={service.tokens.access_token(user, alice.sign_in)}", 401),
        "twice": (f"/collab/{diagram}?token=a&token={await service.token('alice')}", 400),
        "of another diagram": (f"/collab/{diagram}?token={await service.token('alice', other)}", 403),
        "of a stranger": (f"/collab/{diagram}?token={await service.token('mallory')}", 403),
        "huge": (f"/collab/{diagram}?token={'x' * 3500}", 401),
    }
    for name, (path, status) in expected.items():
        assert (name, status) == (name, (await ask(service, path)).status)


async def test_a_path_with_the_apis_version_opens_the_same_socket(service: LiveService) -> None:
    path = await good_path(service)
    assert [101, 101, 426] == [
        (await ask(service, f"/v1{path}")).status,
        (await ask(service, path)).status,
        (await ask(service, f"/v1{path}", {"Sec-WebSocket-Version": "8"})).status,
    ]
    assert 401 == (await ask(service, "/v1" + path.partition("?")[0])).status


async def test_a_sign_in_that_ended_opens_nothing(service: LiveService) -> None:
    path = await good_path(service)
    service.store.sign_ins[(await service.someone("alice")).sign_in].ended = True
    assert 401 == (await ask(service, path)).status


async def test_names_that_are_no_diagram_get_404(service: LiveService) -> None:
    diagram = str(await service.diagram())
    token = await service.token("alice")
    for name in (
        "",
        diagram.upper().replace("0", "A"),
        diagram.replace("-", ""),
        f"{{{diagram}}}",
        f"{diagram}/",
        f"{diagram}/x",
        f"%7B{diagram}",
        diagram.replace("-", "%2D"),
        "00000000-0000-4000-8000-000000000001",
        "tokens",
        "..",
    ):
        assert (name, 404) == (name, (await ask(service, f"/collab/{name}?token={token}")).status)


async def test_an_absent_database_gets_503_with_retry_after(service: LiveService) -> None:
    path = await good_path(service)
    service.store.fail_next = DatabaseUnavailable()
    answer = await ask(service, path)
    assert (503, True) == (answer.status, "retry-after" in answer.headers)
    assert 101 == (await ask(service, path)).status


async def test_our_bug_gets_500_and_is_logged_without_the_token(
    service: LiveService, caplog: pytest.LogCaptureFixture
) -> None:
    path = await good_path(service)
    service.store.fail_next = RuntimeError("a bug")
    with caplog.at_level(logging.DEBUG):
        answer = await ask(service, path)
    assert (500, 1) == (answer.status, service.live.sockets.faults)
    assert b"a bug" not in answer.body
    token = path.partition("token=")[2]
    assert "RuntimeError" in caplog.text
    assert token not in caplog.text


async def test_no_token_is_logged_on_the_good_way_either(
    service: LiveService, caplog: pytest.LogCaptureFixture
) -> None:
    path = await good_path(service)
    with caplog.at_level(1):
        assert 101 == (await ask(service, path)).status
    assert path.partition("token=")[2] not in caplog.text


@pytest.mark.parametrize("path", ["", "y"])
async def test_origins_are_compared_whole(path: str, service: LiveService) -> None:
    address = await good_path(service) if path else "/collab"
    verdicts = {
        "https://draw.example.org": 101,
        "http://localhost": 101,
        "https://localhost": 101,
        "http://localhost:8080": 403,
        "http://draw.example.org": 403,
        "https://draw.example.org.evil.example": 403,
        "https://draw.example.org:443": 403,
        "https://evil.example/https://draw.example.org": 403,
        "HTTPS://DRAW.EXAMPLE.ORG": 403,
        "null": 403,
        "file://": 403,
        "http://127.0.0.1:3000": 403,
    }
    for origin, status in verdicts.items():
        assert (origin, status) == (origin, (await ask(service, address, {"Origin": origin})).status)


async def test_development_allows_loopback_origins_and_a_public_url_only_its_own() -> None:
    async with live_service(LiveOptions(dev=True, public_origin="https://tmi.example.org")) as service:
        verdicts = {
            "http://localhost:5173": 101,
            "http://127.0.0.1:3000": 101,
            "http://[::1]:3000": 101,
            "https://tmi.example.org": 101,
            "http://tmi.example.org": 403,
            "http://localhost.evil.example": 403,
            "http://127.0.0.1.evil.example": 403,
            "http://localhost:8080@evil.example": 403,
        }
        for origin, status in verdicts.items():
            assert (origin, status) == (origin, (await ask(service, "/collab", {"Origin": origin})).status)


async def test_an_unknown_subprotocol_is_not_echoed(service: LiveService) -> None:
    answer = await ask(service, await good_path(service), {"Sec-WebSocket-Protocol": "chat, superchat"})
    assert (101, False) == (answer.status, "sec-websocket-protocol" in answer.headers)


async def test_firefox_asks_with_keep_alive_in_its_connection_header(service: LiveService) -> None:
    firefox = {"Connection": "keep-alive, Upgrade", "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ=="}
    answer = await ask(service, await good_path(service), firefox)
    # The example of RFC 6455, section 1.3.
    assert (101, "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=") == (answer.status, answer.headers["sec-websocket-accept"])


MALFORMED_UPGRADES: dict[str, tuple[dict[str, str], int]] = {
    "no version": ({"Sec-WebSocket-Version": ""}, 426),
    "version 8": ({"Sec-WebSocket-Version": "8"}, 426),
    "no key": ({"Sec-WebSocket-Key": ""}, 400),
    "short key": ({"Sec-WebSocket-Key": "AAAA"}, 400),
    "key that is not base64": ({"Sec-WebSocket-Key": "!" * 24}, 400),
    "key that is not ASCII": ({"Sec-WebSocket-Key": "é" * 24}, 400),
    "no connection": ({"Connection": ""}, 400),
    "no host": ({"Host": ""}, 400),
    "a body": ({"Content-Length": "5"}, 400),
    "a chunked body": ({"Transfer-Encoding": "chunked"}, 400),
}


@pytest.mark.parametrize("name", MALFORMED_UPGRADES)
async def test_a_malformed_upgrade_is_refused(name: str, service: LiveService) -> None:
    headers, status = MALFORMED_UPGRADES[name]
    answer = await ask(service, await good_path(service), headers)
    assert status == answer.status
    assert ("13" if status == 426 else None) == answer.headers.get("sec-websocket-version")


UPGRADE = b"Upgrade: websocket\r\nConnection: Upgrade\r\n"
MALFORMED_HEADS = {
    "no HTTP": (b"hello\r\n\r\n", 400),
    "TLS": (b"\x16\x03\x01\x02\x00\x01\x00\r\n", 400),
    "no version": (b"GET /livez\r\n\r\n", 400),
    "HTTP/3.0": (b"GET /livez HTTP/3.0\r\n\r\n", 400),
    "two spaces": (b"GET  /livez HTTP/1.1\r\n\r\n", 400),
    "method with a space": (b"GE T /livez HTTP/1.1\r\n\r\n", 400),
    "control character in the target": (b"GET /li\x01vez HTTP/1.1\r\n\r\n", 400),
    "target beyond ASCII": ("GET /lívez HTTP/1.1\r\n\r\n".encode(), 400),
    "empty line first": (b"\r\n\r\n", 400),
    "folded header": (b"GET /collab HTTP/1.1\r\nHost: x\r\n" + UPGRADE + b"A: b\r\n c\r\n\r\n", 400),
    "space before the colon": (b"GET /collab HTTP/1.1\r\nHost : x\r\n" + UPGRADE + b"\r\n", 400),
    "header without a colon": (b"GET /collab HTTP/1.1\r\nHost: x\r\n" + UPGRADE + b"nonsense\r\n\r\n", 400),
    "null in a header": (b"GET /collab HTTP/1.1\r\nHost: x\x00\r\n" + UPGRADE + b"\r\n", 400),
    "line feed in a header": (b"GET /collab HTTP/1.1\r\nHost: x\nA: b\r\n" + UPGRADE + b"\r\n", 400),
    "two hosts": (b"GET /collab HTTP/1.1\r\nHost: x\r\nHost: y\r\n" + UPGRADE + b"\r\n", 400),
    "too many headers": (b"GET /collab HTTP/1.1\r\n" + b"A: b\r\n" * 101 + b"\r\n", 400),
    "one header too large": (b"GET /livez HTTP/1.1\r\nA: " + b"x" * 5000 + b"\r\n\r\n", 431),
    "a head without an end": (b"GET /livez HTTP/1.1\r\n" + b"A: b\r\n" * 1000, 431),
    "a target without an end": (b"GET /" + b"x" * 5000, 414),
}


@pytest.mark.parametrize("name", MALFORMED_HEADS)
async def test_a_malformed_head_is_refused_without_a_traceback(
    name: str, service: LiveService, caplog: pytest.LogCaptureFixture
) -> None:
    head, status = MALFORMED_HEADS[name]
    async with connected(service.port) as raw:
        raw.send(head)
        answer = await raw.answer()
        assert status == answer.status
        assert {"error", "error_description"} == orjson.loads(answer.body).keys()
        assert {name.lower(): value for name, value in ALWAYS.items()}.items() <= answer.headers.items()
        await raw.receive_end()
    assert [] == [record for record in caplog.records if record.exc_info]
    assert "livez" not in service.calls


LATER_HEADS = {
    "no HTTP": (b"hello\r\n\r\n", 400),
    "a header that is none": (b"GET /livez HTTP/1.1\r\nHost x\r\n\r\n", 400),
    "one header too large": (b"GET /livez HTTP/1.1\r\nHost: x\r\nA: " + b"x" * 9000, 431),
}


@pytest.mark.parametrize("name", LATER_HEADS)
async def test_a_malformed_head_is_refused_alike_after_a_good_one(name: str, service: LiveService) -> None:
    head, status = LATER_HEADS[name]
    async with connected(service.port) as raw:
        raw.send(b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n")
        assert 200 == (await raw.answer()).status
        raw.send(head)
        answer = await raw.answer()
        assert status == answer.status
        assert {"error", "error_description"} == orjson.loads(answer.body).keys()
        assert {name.lower(): value for name, value in ALWAYS.items()}.items() <= answer.headers.items()
        await raw.receive_end()


async def test_a_slow_head_gets_408_however_it_trickles(service: LiveService) -> None:
    async with connected(service.port) as silent, connected(service.port) as trickling:
        trickling.send(b"GET /livez HTTP/1.1\r\n")

        async def trickle() -> None:
            while True:
                trickling.send(b"A: b\r\n")
                await asyncio.sleep(0.1)

        task = asyncio.create_task(trickle())
        try:
            assert 408 == (await trickling.answer()).status
            assert 408 == (await silent.answer()).status
        finally:
            task.cancel()


async def test_heads_that_are_under_way_are_bounded() -> None:
    async with live_service(listener_options=ListenerOptions(heads_max=2)) as service:
        async with connected(service.port), connected(service.port), connected(service.port) as third:
            assert 503 == (await third.answer()).status
        assert 1 == service.live.sockets.refusals["heads"]
        await asyncio.sleep(0.05)
        async with connected(service.port) as later:
            later.send(b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n")
            assert 200 == (await later.answer()).status


async def test_one_address_that_says_nothing_keeps_nobody_out() -> None:
    async with AsyncExitStack() as stack:
        service = await stack.enter_async_context(
            live_service(listener_options=ListenerOptions(heads_max=80))
        )
        silent = [await stack.enter_async_context(connected(service.port)) for _ in range(60)]
        # Of 80, an address has 32 or half of all: 40.
        refused = [raw for raw in silent[40:] if 503 == (await raw.answer()).status]
        assert 20 == len(refused) == service.live.sockets.refusals["openings_per_address"]
        listener = service.listener
        assert 40 == len(listener.heads)
        assert "192.0.2.1" == listener.take(("192.0.2.1", 1)), "others come in"
        listener.opened("192.0.2.1")
        listener.by_address.give("192.0.2.1")
        for raw in silent[:40]:
            raw.send(b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n")
            assert 200 == (await raw.answer()).status
        assert (0, 0) == (len(listener.opening), listener._opening_count)


async def test_one_address_whose_sockets_open_nothing_keeps_nobody_out() -> None:
    proxies = TrustedProxies((ip_network("127.0.0.0/8"),))
    async with AsyncExitStack() as stack:
        service = await stack.enter_async_context(
            live_service(LiveOptions(handshakes_max=80, trusted_proxies=proxies))
        )

        async def status_of(address: str) -> int:
            raw = await stack.enter_async_context(connected(service.port))
            raw.send(upgrade_head("/collab", {"X-Forwarded-For": address}))
            return (await raw.answer()).status

        answers = [await status_of("192.0.2.1") for _ in range(42)]
        # Of 80, an address has 32 or half of all: 40.
        assert [101] * 40 + [429] * 2 == answers
        assert 2 == service.live.sockets.refusals["handshakes_per_address"]
        assert 101 == await status_of("192.0.2.2")
        assert {"192.0.2.1": 40, "192.0.2.2": 1} == service.live._handshakes_of
    assert not service.live._handshakes_of


async def test_connections_of_rest_are_bounded() -> None:
    async with (
        live_service(listener_options=ListenerOptions(rest_connections_max=1)) as service,
        connected(service.port) as first,
        connected(service.port) as second,
    ):
        for raw, status in ((first, 200), (second, 503)):
            raw.send(b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n")
            assert status == (await raw.answer()).status
        assert {"rest_connections": 1} == service.live.sockets.refusals


async def test_connections_of_one_address_are_bounded_until_they_are_live_sockets_or_over() -> None:
    livez = b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n"
    async with live_service(listener_options=ListenerOptions(per_address_max=2)) as service:
        by_address = service.listener.by_address
        diagram = await service.diagram()
        path = f"/collab/{diagram}?token={await service.token('alice', diagram)}"
        async with upgraded(service.port, path), upgraded(service.port, path), upgraded(service.port, path):
            assert 0 == len(by_address)
            async with connected(service.port) as one, connected(service.port) as other:
                one.send(livez)
                assert 200 == (await one.answer()).status
                other.send(livez[:10])
                async with connected(service.port) as third:
                    answer = await third.answer()
                    assert (503, "2") == (answer.status, answer.headers["retry-after"])
                other.send(livez[10:])
                assert 200 == (await other.answer()).status
        async with asyncio.timeout(5):
            while len(by_address):
                await asyncio.sleep(0.01)
        for wrong in (b"nonsense\r\n\r\n", b"GET /collab HTTP/1.1\r\nUpgrade: websocket\r\n\r\n"):
            async with connected(service.port) as raw:
                raw.send(wrong)
                assert 400 <= (await raw.answer()).status
        async with asyncio.timeout(5):
            while len(by_address):
                await asyncio.sleep(0.01)
        assert 1 == service.live.sockets.refusals["connections_per_address"]


async def test_a_trusted_proxys_connections_are_not_bounded_by_its_address() -> None:
    proxies = TrustedProxies((ip_network("127.0.0.0/8"),))
    options = ListenerOptions(per_address_max=1, proxies=proxies)
    async with (
        live_service(listener_options=options) as service,
        connected(service.port) as first,
        connected(service.port) as second,
    ):
        for raw in (first, second):
            raw.send(b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n")
            assert 200 == (await raw.answer()).status


async def test_a_client_that_leaves_during_the_checks_leaves_nothing_behind(service: LiveService) -> None:
    diagram: DiagramId = await service.diagram(bob=Role.READER)
    token = await service.token("bob")
    for _ in range(20):
        async with connected(service.port) as raw:
            raw.send(upgrade_head(f"/collab/{diagram}?token={token}"))
    async with asyncio.timeout(10):
        while len(service.live.sockets) or service.live.sockets.documents_of(
            (await service.someone("bob")).id
        ):
            await asyncio.sleep(0.02)
    async with upgraded(service.port, f"/collab/{diagram}?token={token}"):
        pass
