"""The Hocuspocus protocol on raw sockets, with real rooms."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from datetime import timedelta
from uuid import UUID

import pytest

from api.live.options import LiveOptions
from crdt import y_websocket
from crdt.lib0 import Decoder, var_string
from tests.harness.live_service import LiveService, an_update, live_service
from tests.harness.raw_websocket import RawWebSocket, upgraded
from tmi.domain.errors import DatabaseUnavailable
from tmi.domain.ids import DiagramId
from tmi.domain.roles import Role

ACCEPTED, REFUSED = b"\x08\x01", b"\x08\x00"
READ_WRITE, READ_ONLY = b"\x02\x02\x0aread-write", b"\x02\x02\x08readonly"
STEP_1 = y_websocket.sync_step1(b"\x00")
EMPTY_STEP_2 = y_websocket.sync_step2(b"\x00\x00")


@pytest.fixture
async def service() -> AsyncIterator[LiveService]:
    async with live_service(LiveOptions(sweep_s=3600)) as running:
        yield running


@dataclass
class Provider:
    """One document on a socket, as @hocuspocus/provider sends it."""

    raw: RawWebSocket
    key: str
    others: list[bytes] = field(default_factory=list)

    def send(self, body: bytes) -> None:
        self.raw.send_binary(var_string(self.key) + body)

    def authenticate(self, token: str) -> None:
        self.send(b"\x02\x00" + var_string(token) + var_string("4.8.0"))

    async def receive(self, kind: int | None = None) -> bytes:
        """The body of the next frame for this key (of a type, if one is given); `others` keeps the rest."""
        while True:
            message = await self.raw.receive_binary()
            decoder = Decoder(message)
            key, body = decoder.read_var_string(), message[decoder.position :]
            if key != self.key:
                self.others.append(message)
            elif kind is None or body[0] == kind:
                return body

    async def status(self) -> bytes:
        return await self.receive(0x08)

    async def access(self) -> bytes:
        return await self.receive(0x02)


async def opened(
    service: LiveService, raw: RawWebSocket, diagram: DiagramId, name: str = "alice"
) -> Provider:
    """An authenticated document."""
    provider = Provider(raw, str(diagram))
    provider.authenticate(await service.token(name, diagram))
    await provider.access()
    return provider


async def test_the_frames_of_a_stock_provider_are_answered_as_it_expects(service: LiveService) -> None:
    diagram = await service.diagram()
    async with upgraded(service.port, "/collab") as raw:
        provider = Provider(raw, str(diagram))
        provider.authenticate(await service.token("alice", diagram))
        provider.send(STEP_1)
        provider.send(b"\x01\x06\x01\x01\x00\x02{}")
        assert READ_WRITE == await provider.receive()
        assert EMPTY_STEP_2 == await provider.receive()
        assert STEP_1 == await provider.receive()
        provider.send(EMPTY_STEP_2)
        assert ACCEPTED == await provider.status()
        provider.send(y_websocket.update(an_update("a")))
        assert ACCEPTED == await provider.status()
        assert 1 == len(service.store.logs[diagram].rows)


async def test_frames_that_overtake_auth_wait_for_it_in_order(service: LiveService) -> None:
    diagram = await service.diagram()
    async with upgraded(service.port, "/collab") as raw:
        provider = Provider(raw, str(diagram))
        provider.send(y_websocket.update(an_update("early")))
        provider.send(STEP_1)
        await asyncio.sleep(0.05)
        assert not service.store.logs[diagram].rows
        provider.authenticate(await service.token("alice"))
        assert READ_WRITE == await provider.receive()
        provider.send(EMPTY_STEP_2)
        assert [ACCEPTED] * 2 == [await provider.status() for _ in range(2)]
        assert service.store.logs[diagram].rows


async def test_updates_are_not_accepted_before_the_first_sync_is_committed(service: LiveService) -> None:
    # Provider 4.8 sends edits from its queue uncounted: their status would pass for that of its SyncStep2.
    diagram = await service.diagram()
    async with upgraded(service.port, "/collab") as raw:
        provider = Provider(raw, str(diagram))
        provider.authenticate(await service.token("alice"))
        provider.send(STEP_1)
        provider.send(y_websocket.update(an_update("queued")))
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.2):
                await provider.status()
        assert service.store.logs[diagram].rows
        provider.send(EMPTY_STEP_2)
        assert [ACCEPTED] * 2 == [await provider.status() for _ in range(2)]


async def test_each_update_gets_exactly_one_status_after_its_commit(service: LiveService) -> None:
    diagram = await service.diagram()
    async with upgraded(service.port, "/collab") as raw:
        provider = await opened(service, raw, diagram)
        gate = service.log.gate = asyncio.Event()
        for n in range(50):
            provider.send(y_websocket.update(an_update(f"k{n}")))
        provider.send(EMPTY_STEP_2)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.1):
                await provider.status()
        gate.set()
        assert [ACCEPTED] * 51 == [await provider.status() for _ in range(51)]
        raw.send_binary(b"\x09")
        assert b"\x0a" == await raw.receive_binary()


async def test_many_documents_share_a_socket_with_and_without_sessions(service: LiveService) -> None:
    diagrams = [await service.diagram() for _ in range(3)]
    keys = [*map(str, diagrams), *(f"{diagram}\0session{n}" for n, diagram in enumerate(diagrams))]
    async with upgraded(service.port, "/collab") as raw:
        for key in keys:
            provider = Provider(raw, key)
            provider.authenticate(await service.token("alice"))
            provider.send(STEP_1)
            assert READ_WRITE == await provider.receive()
            assert EMPTY_STEP_2 == await provider.receive()
        first, twin, other = (Provider(raw, keys[n]) for n in (0, 3, 1))
        first.send(y_websocket.update(an_update("a")))
        assert b"\x00\x02" == (await twin.receive(0x00))[:2]
        assert not [message for message in twin.others if other.key in message.decode(errors="replace")]


async def test_a_denied_key_keeps_the_socket_and_may_try_again(service: LiveService) -> None:
    diagram = await service.diagram()
    async with upgraded(service.port, "/collab") as raw:
        provider = Provider(raw, str(diagram))
        for token in (
            "",
            "nonsense",
            await service.token("mallory"),
            await service.token("alice", DiagramId(UUID(int=1))),
        ):
            provider.authenticate(token)
            provider.send(STEP_1)
            assert b"\x02\x01" == (await provider.receive())[:2]
        provider.authenticate(await service.token("alice"))
        provider.send(STEP_1)
        assert READ_WRITE == await provider.receive()
        assert EMPTY_STEP_2 == await provider.receive()


@pytest.mark.parametrize(
    "key", ["", "no uuid", "00000000-0000-4000-8000-00000000000A", "00000000-0000-4000-8000-00000000000a"]
)
async def test_a_name_that_is_no_diagram_is_denied(key: str, service: LiveService) -> None:
    async with upgraded(service.port, "/collab") as raw:
        provider = Provider(raw, key)
        provider.authenticate(await service.token("alice"))
        assert b"\x02\x01" == (await provider.access())[:2]


async def test_a_readers_edit_is_refused_once_each_and_its_empty_step_2_accepted(
    service: LiveService,
) -> None:
    diagram = await service.diagram(rita=Role.READER)
    async with upgraded(service.port, "/collab") as raw:
        provider = Provider(raw, str(diagram))
        provider.authenticate(await service.token("rita"))
        assert READ_ONLY == await provider.receive()
        provider.send(EMPTY_STEP_2)
        assert ACCEPTED == await provider.status()
        provider.send(y_websocket.update(an_update("forged")))
        assert REFUSED == await provider.status()
        provider.send(y_websocket.sync_step2(an_update("forged")))
        assert REFUSED == await provider.status()
    assert not service.store.logs[diagram].rows


async def test_a_new_role_is_told_and_the_loss_of_all_denies_the_document(service: LiveService) -> None:
    diagram = await service.diagram(bob=Role.WRITER)
    elsewhere = await service.diagram(bob=Role.WRITER)
    async with upgraded(service.port, "/collab") as raw:
        here = await opened(service, raw, diagram, "bob")
        there = await opened(service, raw, elsewhere, "bob")
        await service.set_roles(diagram, bob=Role.READER)
        assert READ_ONLY == await here.access()
        here.send(y_websocket.update(an_update("late")))
        assert REFUSED == await here.status()
        await service.set_roles(diagram, bob=Role.WRITER)
        assert READ_WRITE == await here.access()
        await service.set_roles(diagram)
        assert b"\x02\x01" == (await here.access())[:2]
        there.send(STEP_1)
        assert EMPTY_STEP_2 == await there.receive(0x00)
        here.authenticate(await service.token("bob"))
        assert b"\x02\x01" == (await here.access())[:2]


async def test_a_deleted_diagram_is_denied_and_the_end_of_a_sign_in_denies_all(service: LiveService) -> None:
    first, second = await service.diagram(), await service.diagram()
    async with upgraded(service.port, "/collab") as raw:
        one, two = await opened(service, raw, first), await opened(service, raw, second)
        service.rooms.rights.deleted([first])
        assert b"\x02\x01" == (await one.access())[:2]
        await service.rooms.rights.sign_ins_ended([(await service.someone("alice")).sign_in])
        assert b"\x02\x01" == (await two.access())[:2]


async def test_a_second_auth_refreshes_the_token_and_another_users_is_denied(service: LiveService) -> None:
    diagram = await service.diagram(bob=Role.WRITER)
    async with upgraded(service.port, "/collab") as raw:
        provider = await opened(service, raw, diagram)
        provider.authenticate(await service.token("alice"))
        assert READ_WRITE == await provider.access()
        provider.send(STEP_1)
        assert EMPTY_STEP_2 == await provider.receive()
        provider.authenticate(await service.token("bob"))
        assert b"\x02\x01" == (await provider.access())[:2]


async def test_when_its_token_ends_a_fresh_one_is_asked_for_and_nothing_is_closed() -> None:
    async with live_service(LiveOptions(sweep_s=0.1), collab_ttl=timedelta(milliseconds=50)) as service:
        diagram = await service.diagram()
        async with upgraded(service.port, "/collab") as raw:
            provider = await opened(service, raw, diagram)
            assert b"\x02\x00" == await provider.receive(0x02)
            service.tokens.collab_ttl = timedelta(seconds=-10)
            provider.authenticate(await service.token("alice"))
            assert READ_WRITE == await provider.access()
            service.tokens.collab_ttl = timedelta(hours=1)
            provider.authenticate(await service.token("alice"))
            assert READ_WRITE == await provider.access()
            await asyncio.sleep(0.3)
            provider.send(STEP_1)
            provider.others.clear()
            assert EMPTY_STEP_2 == await provider.receive(0x00)
            assert 1 == service.rooms.sessions


async def test_close_detaches_a_document_which_may_come_back(service: LiveService) -> None:
    diagram = await service.diagram()
    async with upgraded(service.port, "/collab") as raw:
        provider = await opened(service, raw, diagram)
        provider.send(b"\x07")
        provider.authenticate(await service.token("alice"))
        provider.send(STEP_1)
        assert READ_WRITE == await provider.receive()
        assert EMPTY_STEP_2 == await provider.receive()


async def test_close_while_joining_leaves_nobody_in_the_room(service: LiveService) -> None:
    diagram = await service.diagram()
    async with upgraded(service.port, "/collab") as raw:
        provider = Provider(raw, str(diagram))
        provider.authenticate(await service.token("alice"))
        provider.send(b"\x07")
        raw.send_binary(b"\x09")
        assert b"\x0a" == await raw.receive_binary()
        other = await opened(service, raw, await service.diagram())
        other.send(STEP_1)
        assert EMPTY_STEP_2 == await other.receive()


async def test_an_absent_database_closes_the_socket_1013_and_a_drain_1012(service: LiveService) -> None:
    diagram = await service.diagram()
    token = await service.token("alice")
    async with upgraded(service.port, "/collab") as raw:
        service.store.fail_next = DatabaseUnavailable()
        Provider(raw, str(diagram)).authenticate(token)
        assert 1013 == (await raw.receive_close()).close_code
    async with upgraded(service.port, "/collab") as raw:
        await opened(service, raw, diagram)
        await service.rooms.drain(5)
        assert 1012 == (await raw.receive_close()).close_code
    async with upgraded(service.port, "/collab") as raw:
        Provider(raw, str(diagram)).authenticate(token)
        assert 1012 == (await raw.receive_close()).close_code


@pytest.mark.parametrize(
    "body",
    [
        b"\x06\x01x",
        b"\x08\x01",
        b"\x02\x01\x01x",
        b"\x02\x02\x08readonly",
        b"\x04",
        b"\x00\x02\x7f",
        b"",
        b"\x01",
    ],
)
async def test_what_a_client_may_not_send_closes_4400(body: bytes, service: LiveService) -> None:
    diagram = await service.diagram()
    async with upgraded(service.port, "/collab") as raw:
        provider = await opened(service, raw, diagram)
        provider.send(body)
        assert 4400 == (await raw.receive_close()).close_code


async def test_a_malformed_update_closes_4400(service: LiveService) -> None:
    diagram = await service.diagram()
    async with upgraded(service.port, "/collab") as raw:
        provider = await opened(service, raw, diagram)
        provider.send(y_websocket.update(b"\xff\xff\xff"))
        assert 4400 == (await raw.receive_close()).close_code


async def test_an_idle_socket_hears_something() -> None:
    async with live_service(LiveOptions(sweep_s=0.2)) as service:
        diagram = await service.diagram()
        async with upgraded(service.port, "/collab") as raw:
            provider = await opened(service, raw, diagram)
            assert b"\x01\x01\x00" == await provider.receive()


async def test_all_kinds_of_clients_meet_in_one_room(service: LiveService) -> None:
    diagram = await service.diagram()
    y_path = f"/collab/{diagram}?token={await service.token('alice', diagram)}"
    async with upgraded(service.port, "/collab") as raw, upgraded(service.port, y_path) as y_raw:
        provider = await opened(service, raw, diagram)
        provider.send(STEP_1)
        y_raw.send_binary(STEP_1)
        assert EMPTY_STEP_2 == await provider.receive()
        assert EMPTY_STEP_2 == await y_raw.receive_binary()
        update = y_websocket.update(an_update("a"))
        y_raw.send_binary(update)
        while (body := await provider.receive(0x00))[:2] != b"\x00\x02":
            pass
        assert update == body
