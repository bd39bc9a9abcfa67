"""The y-websocket protocol on raw sockets, with real rooms."""

import asyncio
import select
from collections.abc import AsyncIterator
from datetime import timedelta

import pytest
from pycrdt import Doc, Map

from api.live.moderation import ReadModeration
from api.live.options import LiveOptions
from crdt import y_websocket
from crdt.merging import merge
from crdt.messages import SyncStep2, Update
from persistence.memory.bin import MemoryBin
from persistence.memory.diagrams import MemoryDiagrams
from tests.harness.live_service import LiveService, an_update, live_service
from tests.harness.raw_websocket import RawWebSocket, close_frame, connected, upgrade_head, upgraded
from tmi.domain.events import SYSTEM, ChangeType, Deed
from tmi.domain.ids import DiagramId
from tmi.domain.roles import Role

STEP_1 = y_websocket.sync_step1(b"\x00")


@pytest.fixture
async def service() -> AsyncIterator[LiveService]:
    async with live_service(LiveOptions(sweep_s=3600)) as running:
        yield running


async def path(service: LiveService, diagram: DiagramId, name: str = "alice", more: str = "") -> str:
    return f"/collab/{diagram}?token={await service.token(name, diagram)}{more}"


async def synced(raw: RawWebSocket) -> bytes:
    """Greet as a client that has nothing; returns the room's document."""
    raw.send_binary(STEP_1)
    while True:
        (message,) = y_websocket.decode(await raw.receive_binary())
        if isinstance(message, SyncStep2):
            return message.update


async def update_on(raw: RawWebSocket) -> bytes:
    while True:
        (message,) = y_websocket.decode(await raw.receive_binary())
        if isinstance(message, Update):
            return message.update


async def saved_on(raw: RawWebSocket) -> int:
    while True:
        message = await raw.receive_binary()
        if message[0] == 0x64:
            return message[1]


def keys(*updates: bytes) -> set[str]:
    doc: Doc[Map[str]] = Doc()
    for update in updates:
        doc.apply_update(update)
    return set(doc.get("cells", type=Map).keys())


async def test_an_edit_reaches_the_other_and_who_comes_later(service: LiveService) -> None:
    diagram = await service.diagram(bob=Role.WRITER)
    async with upgraded(service.port, await path(service, diagram)) as alice:
        async with upgraded(service.port, await path(service, diagram, "bob")) as bob:
            assert [b"\x00\x00", b"\x00\x00"] == [await synced(alice), await synced(bob)]
            alice.send_binary(y_websocket.update(an_update("a")))
            assert {"a"} == keys(await update_on(bob))
            bob.send_binary(y_websocket.update(an_update("b")))
            assert {"b"} == keys(await update_on(alice))
        async with upgraded(service.port, await path(service, diagram, "bob")) as again:
            assert {"a", "b"} == keys(await synced(again))


async def test_saved_counts_committed_updates_and_is_sent_only_to_who_asked(service: LiveService) -> None:
    diagram = await service.diagram()
    async with (
        upgraded(service.port, await path(service, diagram, more="&saved=1")) as asking,
        upgraded(service.port, await path(service, diagram)) as silent,
    ):
        await synced(asking)
        asking.send_binary(y_websocket.sync_step2(b"\x00\x00"))
        assert 0 == await saved_on(asking)
        for n in range(3):
            asking.send_binary(y_websocket.update(an_update(f"k{n}")))
        while await saved_on(asking) < 3:
            pass
        rows = [row.data for _, row in service.store.logs[diagram].rows]
        assert {"k0", "k1", "k2"} == keys(merge(rows))
        await synced(silent)
        silent.send_binary(y_websocket.update(an_update("s")))
        silent.send_binary(y_websocket.update(an_update("t")))
        while "t" not in keys(await update_on(asking)):
            pass
        silent.send(close_frame(1000))
        assert 1000 == (await silent.receive_close()).close_code


async def test_saved_waits_for_the_commit(service: LiveService) -> None:
    diagram = await service.diagram()
    async with upgraded(service.port, await path(service, diagram, more="&saved=1")) as raw:
        await synced(raw)
        raw.send_binary(y_websocket.sync_step2(b"\x00\x00"))
        assert 0 == await saved_on(raw)
        gate = service.log.gate = asyncio.Event()
        raw.send_binary(y_websocket.update(an_update("a")))
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.2):
                await saved_on(raw)
        gate.set()
        assert 1 == await saved_on(raw)


class Watching(ReadModeration):
    """Notes what has been sent to somebody when it is asked to rest."""

    def __init__(self, reader: RawWebSocket) -> None:
        super().__init__(0)
        self._connection = reader.writer.get_extra_info("socket")
        self.sent: list[bool] = []

    def count(self) -> None:
        asyncio.get_running_loop().call_soon(self._look)

    def _look(self) -> None:
        readable, _, _ = select.select([self._connection.fileno()], [], [], 0)
        self.sent.append(bool(readable))


async def test_an_edit_is_sent_on_before_the_process_rests(service: LiveService) -> None:
    diagram = await service.diagram(bob=Role.WRITER)
    async with upgraded(service.port, await path(service, diagram, "bob")) as bob:
        await synced(bob)
        watching = service.live.sockets.moderation = Watching(bob)
        async with upgraded(service.port, await path(service, diagram)) as alice:
            await synced(alice)
            await asyncio.sleep(0.1)
            watching.sent.clear()
            alice.send_binary(y_websocket.update(an_update("a")))
            await update_on(bob)
            assert [True] == watching.sent


async def test_a_readers_edits_are_ignored_and_its_socket_stays(service: LiveService) -> None:
    diagram = await service.diagram(rita=Role.READER)
    async with (
        upgraded(service.port, await path(service, diagram, "rita", "&saved=1")) as rita,
        upgraded(service.port, await path(service, diagram)) as alice,
    ):
        await synced(rita)
        await synced(alice)
        rita.send_binary(y_websocket.update(an_update("forged")))
        rita.send_binary(y_websocket.sync_step2(an_update("forged too")))
        alice.send_binary(y_websocket.update(an_update("a")))
        assert {"a"} == keys(await update_on(rita))
        assert {"a"} == keys(await synced(rita))


async def test_who_loses_their_role_is_closed_4403(service: LiveService) -> None:
    diagram = await service.diagram(bob=Role.WRITER)
    async with upgraded(service.port, await path(service, diagram, "bob")) as bob:
        await synced(bob)
        await service.set_roles(diagram)
        assert 4403 == (await bob.receive_close()).close_code


async def test_the_end_of_a_sign_in_closes_4401(service: LiveService) -> None:
    diagram = await service.diagram()
    async with upgraded(service.port, await path(service, diagram)) as alice:
        await synced(alice)
        await service.rooms.rights.sign_ins_ended([(await service.someone("alice")).sign_in])
        assert 4401 == (await alice.receive_close()).close_code


async def test_a_deleted_diagram_closes_4404(service: LiveService) -> None:
    diagram = await service.diagram()
    async with upgraded(service.port, await path(service, diagram)) as alice:
        await synced(alice)
        service.rooms.rights.deleted([diagram])
        assert 4404 == (await alice.receive_close()).close_code


async def test_a_restored_diagram_is_edited_again_with_what_it_held(service: LiveService) -> None:
    diagram = await service.diagram()
    model = service.store.diagrams[diagram].threat_model_id
    async with upgraded(service.port, await path(service, diagram, more="&saved=1")) as alice:
        await synced(alice)
        alice.send_binary(y_websocket.sync_step2(b"\x00\x00"))
        alice.send_binary(y_websocket.update(an_update("before")))
        while await saved_on(alice) < 1:
            pass
        await MemoryDiagrams(service.store).delete(model, diagram)
        service.rooms.rights.deleted([diagram])
        assert 4404 == (await alice.receive_close()).close_code

    await MemoryBin(service.store).restore_diagram(model, diagram, Deed(SYSTEM, ChangeType.RESTORED))

    async with upgraded(service.port, await path(service, diagram, more="&saved=1")) as alice:
        assert {"before"} == keys(await synced(alice))
        alice.send_binary(y_websocket.sync_step2(b"\x00\x00"))
        alice.send_binary(y_websocket.update(an_update("after")))
        while await saved_on(alice) < 1:
            pass
    assert {"before", "after"} == keys(merge(list((await service.log.load(diagram)).tail)))


@pytest.mark.parametrize(
    "message",
    [
        b"",
        b"\x00",
        b"\x00\x03\x00",
        b"\x00\x02\x05\x01",
        b"\x02\x00\x01x",
        b"\x64\x01",
        b"\x07",
        b"\x80" * 20,
        y_websocket.update(b"\xff\xff"),
        y_websocket.update(b"\x00\x00")[:-1],
        STEP_1 * 65,
    ],
)
async def test_what_is_no_message_closes_4400_and_leaves_the_room_alone(
    message: bytes, service: LiveService, caplog: pytest.LogCaptureFixture
) -> None:
    diagram = await service.diagram(bob=Role.WRITER)
    async with (
        upgraded(service.port, await path(service, diagram, "bob")) as bob,
        upgraded(service.port, await path(service, diagram)) as alice,
    ):
        await synced(alice)
        await synced(bob)
        bob.send_binary(message)
        assert 4400 == (await bob.receive_close()).close_code
        alice.send_binary(y_websocket.update(an_update("a")))
        assert {"a"} == keys(await synced(alice))
    assert [] == [record for record in caplog.records if record.exc_info]


async def test_several_messages_in_a_frame_are_served_in_order(service: LiveService) -> None:
    diagram = await service.diagram()
    async with upgraded(service.port, await path(service, diagram)) as alice:
        alice.send_binary(y_websocket.update(an_update("a")) + STEP_1)
        (message,) = y_websocket.decode(await alice.receive_binary())
        assert isinstance(message, SyncStep2)
        assert {"a"} == keys(message.update)


async def test_frames_sent_before_the_answer_to_the_upgrade_are_served(service: LiveService) -> None:
    diagram = await service.diagram()
    async with connected(service.port) as raw:
        raw.send(upgrade_head(await path(service, diagram)))
        raw.send_binary(STEP_1)
        assert 101 == (await raw.answer()).status
        assert y_websocket.sync_step2(b"\x00\x00") == await raw.receive_binary()


async def test_an_idle_client_hears_something_and_is_pinged() -> None:
    async with live_service(LiveOptions(sweep_s=0.2, ping_after_s=0.0)) as service:
        diagram = await service.diagram()
        async with upgraded(service.port, await path(service, diagram)) as raw:
            heard = {(frame.opcode, frame.payload) for frame in [await raw.receive() for _ in range(6)]}
            assert {(0x2, b"\x01\x01\x00"), (0x9, b"")} == heard


async def test_who_answers_nothing_is_dropped() -> None:
    async with live_service(LiveOptions(sweep_s=0.1, silence_max_s=0.3)) as service:
        diagram = await service.diagram()
        async with upgraded(service.port, await path(service, diagram)) as raw:
            await synced(raw)
            async with asyncio.timeout(10):
                await service.live.sockets.none_left()


async def test_draining_closes_1012_and_refuses_newcomers_with_503(service: LiveService) -> None:
    diagram = await service.diagram()
    async with upgraded(service.port, await path(service, diagram)) as raw:
        await synced(raw)
        draining = asyncio.create_task(service.rooms.drain(5))
        assert 1012 == (await raw.receive_close()).close_code
        assert {} == dict(await draining)
        async with connected(service.port) as late:
            late.send(upgrade_head(await path(service, diagram)))
            assert 503 == (await late.answer()).status


async def test_a_token_that_expires_closes_nothing_that_is_open() -> None:
    async with live_service(LiveOptions(sweep_s=3600), collab_ttl=timedelta(seconds=-4)) as service:
        diagram = await service.diagram()
        address = await path(service, diagram)
        async with upgraded(service.port, address) as raw:  # within the skew that clocks are granted
            await synced(raw)
            await asyncio.sleep(1.1)
            async with connected(service.port) as late:
                late.send(upgrade_head(address))
                assert 401 == (await late.answer()).status
            assert b"\x00\x00" == await synced(raw)
