"""Live sockets that a page opens by its session cookie: from pages of ours alone."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from datetime import timedelta

import pytest

from api.live.options import LiveOptions
from crdt import y_websocket
from crdt.lib0 import var_string
from persistence.memory.browser_sessions import MemoryBrowserSessions
from rooms import closing
from tests.harness.live_service import LiveService, an_update, live_service
from tests.harness.raw_websocket import CLOSE, Answer, RawWebSocket, connected, upgrade_head, upgraded
from tmi.domain.ids import DiagramId
from tmi.domain.roles import Role

EDITOR = "https://draw.example.org"
HOST = "127.0.0.1:8080"
OURS = {"Host": HOST, "Origin": f"http://{HOST}"}
COOKIE = "tmi_session"


@pytest.fixture
async def service() -> AsyncIterator[LiveService]:
    options = LiveOptions(sweep_s=3600, dev=True, allowed_origins=frozenset({EDITOR}))
    async with live_service(options) as running:
        yield running


async def refused(service: LiveService, path: str, headers: Mapping[str, str]) -> Answer:
    """The answer to an upgrade that is not accepted."""
    async with connected(service.port) as raw:
        raw.send(upgrade_head(path, headers))
        answer = await raw.answer()
        assert 101 != answer.status
        return answer


async def a_place(service: LiveService) -> tuple[DiagramId, dict[str, str]]:
    """A diagram of alice's, and her cookie."""
    diagram = await service.diagram()
    return diagram, {"Cookie": f"{COOKIE}={await service.cookie('alice')}"}


@pytest.mark.parametrize("origin", [OURS["Origin"], EDITOR])
async def test_a_page_of_ours_needs_no_token(service: LiveService, origin: str) -> None:
    diagram, cookie = await a_place(service)
    async with upgraded(service.port, f"/collab/{diagram}", {**OURS, **cookie, "Origin": origin}) as raw:
        raw.send_binary(y_websocket.sync_step1(b"\x00"))
        assert y_websocket.sync_step2(b"\x00\x00") == await raw.receive_binary()


@pytest.mark.parametrize(
    ("origin", "status"),
    [
        ("", 403),
        ("null", 403),
        ("https://evil.example.net", 403),
        (EDITOR + ".evil.example.net", 403),
        (EDITOR + "/", 403),
        (f"https://{HOST}", 401),
        # Pages of other ports of this machine may come in development, with a token.
        ("http://127.0.0.1:5173", 401),
        ("http://localhost:8080", 401),
    ],
)
async def test_a_page_of_others_opens_nothing_by_the_cookie(
    service: LiveService, origin: str, status: int
) -> None:
    diagram, cookie = await a_place(service)
    headers = {**OURS, **cookie, "Origin": origin}
    answer = await refused(service, f"/collab/{diagram}", headers)
    assert status == answer.status


async def test_a_cookie_without_an_origin_is_refused_for_hocuspocus_as_well(service: LiveService) -> None:
    _, cookie = await a_place(service)
    assert 403 == (await refused(service, "/collab", {"Host": HOST, **cookie})).status


async def test_two_cookies_are_refused(service: LiveService) -> None:
    diagram, cookie = await a_place(service)
    twice = {**OURS, "Cookie": f"{cookie['Cookie']}; {cookie['Cookie']}"}
    assert 400 == (await refused(service, f"/collab/{diagram}", twice)).status


@pytest.mark.parametrize("value", ["x", "", "x" * 43])
async def test_a_cookie_that_is_nobodys_opens_nothing(service: LiveService, value: str) -> None:
    diagram, _ = await a_place(service)
    headers = {**OURS, "Cookie": f"{COOKIE}={value}"}
    assert 401 == (await refused(service, f"/collab/{diagram}", headers)).status


async def test_a_cookie_opens_what_its_user_may_see_and_nothing_else(service: LiveService) -> None:
    diagram = await service.diagram(bob=Role.READER)
    bob, eve = [{**OURS, "Cookie": f"{COOKIE}={await service.cookie(name)}"} for name in ("bob", "eve")]
    async with upgraded(service.port, f"/collab/{diagram}", bob):
        pass
    assert 403 == (await refused(service, f"/collab/{diagram}", eve)).status


async def test_a_token_that_is_given_counts_and_the_cookie_does_not(service: LiveService) -> None:
    diagram, cookie = await a_place(service)
    other = {**OURS, **cookie, "Origin": "http://127.0.0.1:5173"}
    assert 401 == (await refused(service, f"/collab/{diagram}?token=x", {**OURS, **cookie})).status
    token = await service.token("alice", diagram)
    async with upgraded(service.port, f"/collab/{diagram}?token={token}", other):
        pass


async def test_in_production_a_plain_cookie_is_none() -> None:
    async with live_service(LiveOptions(sweep_s=3600)) as service:
        diagram, cookie = await a_place(service)
        assert 401 == (await refused(service, f"/collab/{diagram}", {**OURS, **cookie})).status


async def test_behind_https_only_the_protected_name_counts() -> None:
    ours = "https://tmi.example.org"
    async with live_service(LiveOptions(sweep_s=3600, public_origin=ours)) as service:
        diagram = await service.diagram()
        secret = await service.cookie("alice")
        page = {"Host": "tmi.example.org", "Origin": ours}
        async with upgraded(
            service.port, f"/collab/{diagram}", {**page, "Cookie": f"__Host-{COOKIE}={secret}"}
        ):
            pass
        plain = {**page, "Cookie": f"{COOKIE}={secret}"}
        assert 401 == (await refused(service, f"/collab/{diagram}", plain)).status


async def test_hocuspocus_takes_an_empty_token_where_there_is_a_cookie(service: LiveService) -> None:
    diagram, cookie = await a_place(service)
    key = bytes([36]) + str(diagram).encode()
    for headers, kind in (({**OURS, **cookie}, b"\x02\x02"), (OURS, b"\x02\x01")):
        async with upgraded(service.port, "/collab", headers) as raw:
            raw.send_binary(key + b"\x02\x00\x00")
            assert (await raw.receive_binary()).startswith(key + kind)


async def test_its_sockets_close_with_the_sign_in(service: LiveService) -> None:
    diagram, cookie = await a_place(service)
    async with upgraded(service.port, f"/collab/{diagram}", {**OURS, **cookie}) as raw:
        sign_in = service.people["alice"].sign_in
        service.store.sign_ins[sign_in].ended = True
        await service.rooms.rights.sign_ins_ended([sign_in])
        assert closing.SIGN_IN_ENDED == (await raw.receive_close()).close_code


@pytest.mark.parametrize("offered", [True, False])
async def test_who_came_by_a_provider_that_is_gone_comes_in_by_no_way(
    service: LiveService, offered: bool
) -> None:
    service.live.use_offered(lambda provider: offered or provider != "tmi")
    diagram, cookie = await a_place(service)
    ways = {
        "a cookie": (f"/collab/{diagram}", {**OURS, **cookie}),
        "a collab token": (f"/collab/{diagram}?token={await service.token('alice', diagram)}", {}),
        "a ticket": (await service.ticket("alice", diagram), {}),
    }
    answers = {}
    for name, (path, headers) in ways.items():
        async with connected(service.port) as raw:
            raw.send(upgrade_head(path, headers))
            answers[name] = (await raw.answer()).status
    assert dict.fromkeys(ways, 101 if offered else 401) == answers

    key = bytes([36]) + str(diagram).encode()
    for headers, token in (({**OURS, **cookie}, ""), ({}, await service.token("alice"))):
        async with upgraded(service.port, "/collab", headers) as raw:
            raw.send_binary(key + b"\x02\x00" + var_string(token) + var_string("4"))
            assert (await raw.receive_binary()).startswith(key + (b"\x02\x02" if offered else b"\x02\x01"))


IDLE = timedelta(seconds=0.4)
AWARENESS = y_websocket.awareness(b"\1\5\1\4null")


@pytest.fixture
async def forgetful() -> AsyncIterator[LiveService]:
    """A service whose browsers are signed out after a moment without use."""
    options = LiveOptions(sweep_s=3600, dev=True)
    async with (
        live_service(options, browser_idle=IDLE) as running,
        running.rooms.idling(MemoryBrowserSessions(running.store), IDLE).running(),
    ):
        yield running


async def again_and_again(raw: RawWebSocket, *messages: bytes) -> None:
    while not raw.writer.is_closing():
        for message in messages:
            raw.send_binary(message)
        await asyncio.sleep(0.02)


async def signed_out(raw: RawWebSocket, key: bytes) -> bool:
    """Wait for the end: of the socket, or with a key of the document on it."""
    while (received := await raw.receive()).opcode != CLOSE:
        if key and received.payload.startswith(key + b"\2\1"):
            return True
    return not key and closing.SIGN_IN_ENDED == received.close_code


@pytest.mark.parametrize("is_hocuspocus", [False, True])
async def test_a_socket_is_closed_when_nobody_uses_its_browser(
    forgetful: LiveService, is_hocuspocus: bool
) -> None:
    """Edits are use; cursors and syncs, which pages send by themselves, are not. Programs are not asked."""
    service = forgetful
    diagram = await service.diagram(bob=Role.WRITER, eve=Role.WRITER)
    alice, bob = [{**OURS, "Cookie": f"{COOKIE}={await service.cookie(name)}"} for name in ("alice", "bob")]
    key = bytes([36]) + str(diagram).encode() if is_hocuspocus else b""
    path = "/collab" if is_hocuspocus else f"/collab/{diagram}"
    by_token = f"/collab/{diagram}?token={await service.token('eve')}"
    async with (
        asyncio.timeout(5),
        upgraded(service.port, path, alice) as watching,
        upgraded(service.port, path, bob) as editing,
        upgraded(service.port, by_token) as program,
    ):
        for raw in (watching, editing):
            if is_hocuspocus:
                raw.send_binary(key + b"\x02\x00\x00")
                assert (await raw.receive_binary()).startswith(key + b"\x02\x02")
        by_itself = y_websocket.sync_step1(b"\0"), y_websocket.sync_step2(b"\0\0"), AWARENESS
        watches = asyncio.create_task(again_and_again(watching, *(key + one for one in by_itself)))
        edits = asyncio.create_task(again_and_again(editing, key + y_websocket.update(an_update("k"))))
        assert await signed_out(watching, key)
        watches.cancel()
        assert forgetful.store.standing(service.people["bob"].sign_in), "who edits is not idle"

        edits.cancel()
        assert await signed_out(editing, key)
        program.send_binary(y_websocket.sync_step1(b"\0"))
        assert (await program.receive_binary())[:1] == b"\0", "it is still served"
