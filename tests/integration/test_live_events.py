"""Open editors are told of what happens to their threat model, on raw Hocuspocus sockets with real rooms."""

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from typing import Any

import pytest

from api.live.options import LiveOptions
from api.live.socket import LiveSocket
from crdt import y_websocket
from crdt.lib0 import Decoder
from persistence.memory.events import MemoryFeed, write
from rooms.effects import Broadcast
from tests.harness.live_service import LiveService, an_update, live_service
from tests.harness.raw_websocket import upgraded
from tests.integration.test_live_hocuspocus import STEP_1, Provider, opened
from tmi.domain.errors import DatabaseUnavailable
from tmi.domain.events import SYSTEM, ChangeType, Deed, Event, Recorded
from tmi.domain.ids import DiagramId, ThreatModelId
from tmi.domain.ports import Happened, Signal
from tmi.domain.roles import Role

STATELESS = 0x05
MIB = 1024 * 1024
WITHIN_S = 1.0
"""What an editor may wait for."""


@pytest.fixture
async def service() -> AsyncIterator[LiveService]:
    async with live_service(LiveOptions(sweep_s=3600)) as running:
        yield running


async def told(provider: Provider, within_s: float = WITHIN_S) -> dict[str, Any]:
    """The next notice. Raises TimeoutError."""
    async with asyncio.timeout(within_s):
        decoder = Decoder(await provider.receive(STATELESS))
    assert STATELESS == decoder.read_var_uint()
    notice: dict[str, Any] = json.loads(decoder.read_var_string())
    assert not decoder.remaining()
    return notice


def model_of(service: LiveService, diagram: DiagramId) -> ThreatModelId:
    return service.store.diagrams[diagram].threat_model_id


def happen(service: LiveService, diagram: DiagramId, summary: str) -> None:
    """Something happens to a diagram's threat model."""
    model = service.store.threat_models[model_of(service, diagram)]
    write(service.store, Event.of_model(Deed(SYSTEM, ChangeType.PATCHED, summary), model))


async def summaries(provider: Provider, count: int) -> list[str]:
    return [(await told(provider))["data"]["change_summary"] for _ in range(count)]


def tasks_of_news() -> list[str]:
    names = {task.get_name() for task in asyncio.all_tasks()}
    return [name for name in names if name.startswith("news-") and name != "news-sweep"]


async def test_editors_are_told_what_readers_of_events_are(service: LiveService) -> None:
    diagram, other = await service.diagram(bob=Role.READER), await service.diagram()
    async with (
        upgraded(service.port, "/collab") as first,
        upgraded(service.port, "/collab") as second,
        upgraded(service.port, "/collab") as third,
    ):
        alice = await opened(service, first, diagram)
        bob = await opened(service, second, diagram, "bob")
        elsewhere = await opened(service, third, other)
        happen(service, diagram, "one")
        happen(service, other, "two")
        notice = await told(alice)
        assert notice == await told(bob)
        number, event = max(item for item in service.store.events.items() if item[1].summary == "one")
        assert ("change", str(number)) == (notice["event"], notice["id"])
        assert (str(event.id), "patched") == (notice["data"]["id"], notice["data"]["change_type"])
        assert ["two"] == await summaries(elsewhere, 1)


async def test_each_open_document_is_told_under_its_own_key(service: LiveService) -> None:
    diagram = await service.diagram()
    async with upgraded(service.port, "/collab") as raw:
        keys = [str(diagram), f"{diagram}\0twin"]
        documents = [Provider(raw, key) for key in keys]
        for document in documents:
            document.authenticate(await service.token("alice", diagram))
            await document.access()
        happen(service, diagram, "one")
        received = [Decoder(await raw.receive_binary()) for _ in keys]
        assert set(keys) == {decoder.read_var_string() for decoder in received}
        assert {STATELESS} == {decoder.read_var_uint() for decoder in received}


async def test_a_y_websocket_client_of_the_same_room_is_told_nothing(service: LiveService) -> None:
    diagram = await service.diagram()
    path = f"/collab/{diagram}?token={await service.token('alice', diagram)}"
    async with upgraded(service.port, path) as plain, upgraded(service.port, "/collab") as raw:
        plain.send_binary(STEP_1)
        provider = await opened(service, raw, diagram)
        happen(service, diagram, "one")
        assert ["one"] == await summaries(provider, 1)
        provider.send(y_websocket.update(an_update("a")))
        kinds = set()
        while (message := await plain.receive_binary())[:2] != b"\x00\x02":
            kinds.add(message[0])
        assert kinds <= {0, 1}


async def test_who_may_not_read_any_more_is_told_nothing_though_the_room_is_late(
    service: LiveService, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def late(_diagrams: Sequence[DiagramId]) -> None:
        """As where the owner of the room stands still."""

    monkeypatch.setattr(service.rooms.rights, "access_changed", late)
    diagram = await service.diagram(bob=Role.READER)
    async with upgraded(service.port, "/collab") as first, upgraded(service.port, "/collab") as second:
        alice = await opened(service, first, diagram)
        bob = await opened(service, second, diagram, "bob")
        await service.set_roles(diagram)
        happen(service, diagram, "secret")
        assert ["authorization", "secret"] == await summaries(alice, 2)
        await service.set_roles(diagram, bob=Role.READER)
        assert ["authorization"] == await summaries(alice, 1) == await summaries(bob, 1)


async def test_who_loses_the_role_otherwise_is_told_nothing_more(service: LiveService) -> None:
    diagram = await service.diagram(bob=Role.READER)
    bob_id = (await service.someone("bob")).id
    async with upgraded(service.port, "/collab") as first, upgraded(service.port, "/collab") as second:
        alice = await opened(service, first, diagram)
        bob = await opened(service, second, diagram, "bob")
        users = service.store.users
        bob_was = users.pop(bob_id)
        service.editors.hear(Signal(Happened.PEOPLE_CHANGED, (bob_id,)))
        await asyncio.sleep(0.01)
        diagrams = service.store.diagrams[diagram]
        write(service.store, Event.of_diagram(Deed(SYSTEM, ChangeType.PATCHED, "secret"), diagrams))
        assert ["secret"] == await summaries(alice, 1)
        users[bob_id] = bob_was
        async with upgraded(service.port, "/collab") as third:
            again = await opened(service, third, diagram, "bob")
            await asyncio.sleep(0.01)
            write(service.store, Event.of_diagram(Deed(SYSTEM, ChangeType.PATCHED, "open"), diagrams))
            assert ["open"] == await summaries(again, 1) == await summaries(bob, 1)


async def test_an_editor_that_reads_too_slowly_misses_events_and_is_told_so(service: LiveService) -> None:
    diagram = await service.diagram()
    async with upgraded(service.port, "/collab") as first, upgraded(service.port, "/collab") as second:
        slow, writer = await opened(service, first, diagram), await opened(service, second, diagram)
        for provider in (slow, writer):
            provider.send(STEP_1)
            await provider.receive(0)
        happen(service, diagram, "before")
        last = (await told(slow))["id"]
        assert ["before"] == await summaries(writer, 1)
        first.writer.transport.pause_reading()  # type: ignore[attr-defined]
        filler = y_websocket.update(an_update("k", "x" * 8 * MIB))
        for runner in service.rooms.runners:
            runner.perform([Broadcast(filler)])
        while len(await writer.receive(0)) < len(filler):
            pass
        async with asyncio.timeout(10):
            while 1 != sum(isinstance(one, LiveSocket) and one.is_paused for one in service.live.sockets):
                await asyncio.sleep(0.01)
        for n in range(2):
            happen(service, diagram, str(n))
            assert [str(n)] == await summaries(writer, 1)
        assert (2, 4) == (service.editors.missed, service.editors.told)
        first.writer.transport.resume_reading()  # type: ignore[attr-defined]
        assert {"id": last, "event": "missed"} == await told(slow, 10)
        happen(service, diagram, "after")
        assert "after" == (await told(slow))["data"]["change_summary"]


async def test_quiet_rooms_cost_no_task_and_a_threat_model_one_query(
    service: LiveService, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[ThreatModelId] = []
    last = MemoryFeed.last

    async def counted(feed: MemoryFeed, model: ThreatModelId) -> int:
        asked.append(model)
        return await last(feed, model)

    monkeypatch.setattr(MemoryFeed, "last", counted)
    diagram = await service.diagram()
    news = service.editors._news
    async with upgraded(service.port, "/collab") as first, upgraded(service.port, "/collab") as second:
        await opened(service, first, diagram)
        await opened(service, second, diagram)
        assert [model_of(service, diagram)] == asked
        assert [] == tasks_of_news()
        assert 1 == news.followed
    async with asyncio.timeout(5):
        while service.editors.has(model_of(service, diagram)):
            await asyncio.sleep(0.005)
    happen(service, diagram, "nobody hears it")
    assert (0, []) == (news.followed, tasks_of_news())


async def test_what_happens_while_an_editor_joins_is_told_once(
    service: LiveService, monkeypatch: pytest.MonkeyPatch
) -> None:
    diagram = await service.diagram()
    last = MemoryFeed.last

    async def eventful(feed: MemoryFeed, model: ThreatModelId) -> int:
        number = await last(feed, model)
        happen(service, diagram, "meanwhile")
        return number

    monkeypatch.setattr(MemoryFeed, "last", eventful)
    join, sessions = service.rooms.join, []

    async def slow_join(*arguments: Any) -> Any:
        happen(service, diagram, "while the room opens")
        session = await join(*arguments)
        sessions.append(session)
        return session

    monkeypatch.setattr(service.rooms, "join", slow_join)
    async with upgraded(service.port, "/collab") as raw:
        provider = await opened(service, raw, diagram)
        happen(service, diagram, "then")
        seen = await summaries(provider, 1)
        while seen[-1] != "then":
            seen += await summaries(provider, 1)
        assert seen == ["meanwhile", "while the room opens", "then"][-len(seen) :]
        with pytest.raises(TimeoutError):
            await told(provider, 0.05)


async def test_the_database_may_be_away_and_what_cannot_be_read_is_missed(
    service: LiveService, monkeypatch: pytest.MonkeyPatch
) -> None:
    diagram = await service.diagram()
    since = MemoryFeed.since
    failures: list[Exception] = [DatabaseUnavailable(), ValueError("an event of a later version")]

    async def failing(feed: MemoryFeed, model: ThreatModelId, number: int, limit: int) -> Sequence[Recorded]:
        if failures:
            raise failures.pop(0)
        return await since(feed, model, number, limit)

    async with upgraded(service.port, "/collab") as raw:
        provider = await opened(service, raw, diagram)
        happen(service, diagram, "one")
        assert ["one"] == await summaries(provider, 1)
        number = str(max(service.store.events))
        monkeypatch.setattr(MemoryFeed, "since", failing)
        monkeypatch.setattr("api.news.RETRY_S", 0.01)
        happen(service, diagram, "two")
        assert {"id": number, "event": "missed"} == await told(provider)
        happen(service, diagram, "three")
        assert ["three"] == await summaries(provider, 1)


async def test_editors_of_other_diagrams_are_told_that_one_is_gone(service: LiveService) -> None:
    diagram = await service.diagram()
    model = model_of(service, diagram)
    other = (await service.diagrams.create(model, "Other", "DFD-1.0.0", None)).id
    async with upgraded(service.port, "/collab") as first, upgraded(service.port, "/collab") as second:
        gone, stays = await opened(service, first, diagram), await opened(service, second, other)
        await service.diagrams.delete(model, diagram)
        service.rooms.rights.deleted([diagram])
        notice = await told(stays)
        assert ("deleted", str(diagram)) == (notice["data"]["change_type"], notice["data"]["object_id"])
        assert b"\x02\x01" == (await gone.receive(0x02))[:2]
        happen(service, other, "after")
        assert ["after"] == await summaries(stays, 1)
        with pytest.raises(TimeoutError):
            await told(gone, 0.05)
