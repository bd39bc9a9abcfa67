"""How clients of each protocol are refused where a limit is reached, on real sockets."""

import asyncio
from contextlib import AbstractAsyncContextManager, AsyncExitStack

import pytest

from api.live.options import LiveOptions
from crdt.lib0 import var_string
from rooms.edits import RoomLimits
from rooms.limits import RoomsLimits
from rooms.memory import MEMORY_FACTOR
from tests.harness.live_service import LiveService, live_service
from tests.harness.raw_websocket import RawWebSocket, connected, upgrade_head, upgraded
from tests.security.test_rates import Author, arrived
from tmi.domain.ids import DiagramId

KIB = 1024
DENIED = b"\x02\x01"


async def path_of(service: LiveService, diagram: DiagramId, name: str = "alice") -> str:
    return f"/collab/{diagram}?token={await service.token(name)}"


async def joined(service: LiveService, diagram: DiagramId) -> AbstractAsyncContextManager[RawWebSocket]:
    return upgraded(service.port, await path_of(service, diagram))


async def refusal(service: LiveService, diagram: DiagramId) -> tuple[int, str, str]:
    """The HTTP status, Retry-After and body that a y-websocket client is refused with."""
    async with connected(service.port) as raw:
        raw.send(upgrade_head(await path_of(service, diagram)))
        answer = await raw.answer()
        return answer.status, answer.headers["retry-after"], answer.body.decode()


async def authenticate(raw: RawWebSocket, service: LiveService, diagram: DiagramId) -> bytes:
    """The answer to a Hocuspocus client's Auth, without the document's name."""
    name = var_string(str(diagram))
    raw.send_binary(name + b"\x02\x00" + var_string(await service.token("alice")))
    return (await raw.receive_binary()).removeprefix(name)


async def test_clients_of_a_room_are_bounded_in_each_protocol() -> None:
    limits = RoomsLimits(room=RoomLimits(sessions_max=1))
    async with live_service(rooms_limits=limits) as service:
        diagram, other = await service.diagram(), await service.diagram()
        async with await joined(service, diagram):
            status, retry_after, body = await refusal(service, diagram)
            assert (429, "2") == (status, retry_after)
            assert "This diagram has as many clients as it may" in body
            async with upgraded(service.port, "/collab") as raw:
                answer = await authenticate(raw, service, diagram)
                assert DENIED + var_string("this diagram has as many clients as it may") == answer
                # The socket stays, and other documents on it are served.
                assert (await authenticate(raw, service, other)).startswith(b"\x02\x02")
        assert 2 == service.rooms.refusals["sessions_per_room"]


async def test_documents_of_a_user_are_bounded_in_each_protocol() -> None:
    async with live_service(LiveOptions(documents_per_user_max=1)) as service:
        diagram = await service.diagram()
        async with await joined(service, diagram):
            status, _, body = await refusal(service, diagram)
            assert (429, True) == (status, "too many open documents" in body)
            async with upgraded(service.port, "/collab") as raw:
                assert (await authenticate(raw, service, diagram)).startswith(DENIED)
        assert 2 == service.live.sockets.refusals["documents_per_user"]


async def test_sockets_are_bounded_in_all() -> None:
    async with live_service(LiveOptions(sockets_max=1)) as service:
        diagram = await service.diagram()
        async with await joined(service, diagram):
            status, retry_after, body = await refusal(service, diagram)
            assert (503, "2", True) == (status, retry_after, "as many sockets as it may" in body)
        assert 1 == service.live.sockets.refusals["sockets"]


async def test_a_socket_that_has_no_document_yet_counts_once() -> None:
    async with live_service(LiveOptions(sockets_max=3)) as service, AsyncExitStack() as stack:
        for _ in range(3):
            await stack.enter_async_context(upgraded(service.port, "/collab"))
        status, _, body = await refusal(service, await service.diagram())
        assert (503, True) == (status, "as many sockets as it may" in body)


async def test_a_socket_that_has_no_document_yet_keeps_the_process_from_no_rest() -> None:
    async with live_service(LiveOptions()) as service, upgraded(service.port, "/collab"):
        async with asyncio.timeout(5):
            while service.live.is_hurried:
                await asyncio.sleep(0.01)


@pytest.fixture
def little_memory() -> RoomsLimits:
    """One diagram with a long text fits."""
    size = MEMORY_FACTOR * 100 * KIB
    return RoomsLimits(memory_max_bytes=size, memory_hard_max_bytes=size, evict_after_s=0.0)


async def test_past_the_memory_of_rooms_no_further_one_opens(little_memory: RoomsLimits) -> None:
    async with live_service(rooms_limits=little_memory) as service:
        diagram, other = await service.diagram(), await service.diagram()
        async with await joined(service, diagram) as raw:
            raw.send_binary(Author().edit("text", "x" * 110 * KIB))
            await arrived(service, diagram, 1)
            async with asyncio.timeout(5):
                while (await refusal_or_none(service, other)) is None:
                    await asyncio.sleep(0.05)
            status, retry_after, body = await refusal(service, other)
            assert (503, "2", True) == (status, retry_after, "all the memory they may" in body)
            async with upgraded(service.port, "/collab") as hocuspocus:
                name = var_string(str(other))
                hocuspocus.send_binary(name + b"\x02\x00" + var_string(await service.token("alice")))
                assert 1013 == (await hocuspocus.receive_close()).close_code
            # Who is there stays, and others may come to them.
            async with await joined(service, diagram):
                pass
        async with asyncio.timeout(5):
            while (await refusal_or_none(service, other)) is not None:
                await asyncio.sleep(0.05)


async def refusal_or_none(service: LiveService, diagram: DiagramId) -> int | None:
    """The status of a refusal; None if the client was let in."""
    async with connected(service.port) as raw:
        raw.send(upgrade_head(await path_of(service, diagram)))
        status = (await raw.answer()).status
        return None if status == 101 else status


async def test_a_document_that_is_closed_counts_no_more_for_its_user() -> None:
    async with live_service(LiveOptions(documents_per_user_max=1)) as service:
        diagrams = [await service.diagram() for _ in range(3)]
        user = (await service.someone("alice")).id
        async with upgraded(service.port, "/collab") as raw:
            for diagram in diagrams:
                assert (await authenticate(raw, service, diagram)).startswith(b"\x02\x02")
                assert 1 == service.live.sockets.documents_of(user)
                raw.send_binary(var_string(str(diagram)) + b"\x07")
            # On the last answer all that was sent before it is done.
            assert (await authenticate(raw, service, diagrams[0])).startswith(b"\x02\x02")
        async with asyncio.timeout(5):
            while service.live.sockets.documents_of(user):
                await asyncio.sleep(0.005)


async def test_a_socket_that_was_closed_from_here_counts_no_more_for_its_address() -> None:
    async with live_service(LiveOptions(sockets_per_address_max=1)) as service:
        diagram = await service.diagram()
        for _ in range(3):
            async with await joined(service, diagram) as raw:
                raw.send_binary(b"\xff")
                assert 4400 == (await raw.receive_close()).close_code
            async with asyncio.timeout(5):
                while service.live.sockets.connections_of("127.0.0.1"):
                    await asyncio.sleep(0.005)
