"""Large edits over sockets: they go in by pieces, and their socket is not read meanwhile."""

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from pycrdt import Doc, Map

from api.live.options import LiveOptions
from crdt import y_websocket
from crdt.document import Document
from rooms.large_edits import LargeEdits
from tests.harness.live_service import LiveService, live_service
from tests.harness.raw_websocket import RawWebSocket, close_frame, upgraded
from tests.integration.test_live_hocuspocus import ACCEPTED, EMPTY_STEP_2, opened
from tests.integration.test_live_y_websocket import path, saved_on, synced
from tmi.domain.ids import DiagramId

CELLS = 3000
FLOOD = 200
"""Edits of 60 KB: more than a socket's buffers hold."""


@pytest.fixture
async def service() -> AsyncIterator[LiveService]:
    async with live_service(LiveOptions(sweep_s=3600)) as running:
        yield running


@pytest.fixture
def held_up(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """No large edit has a turn before this is called."""
    waiting: list[Callable[[], None]] = []
    real = LargeEdits._wait_for_turn

    def wait(works: LargeEdits, work: Any) -> None:
        waiting.append(lambda: real(works, work))

    def let_go() -> None:
        monkeypatch.setattr(LargeEdits, "_wait_for_turn", real)
        for turn in waiting:
            turn()

    monkeypatch.setattr(LargeEdits, "_wait_for_turn", wait)
    return let_go


class Author:
    """A client's document; it tells what it was last made to do."""

    def __init__(self) -> None:
        self.doc: Doc[Any] = Doc()
        self.cells = self.doc.get("cells", type=Map)

    def update(self, change: Callable[[], None]) -> bytes:
        before = self.doc.get_state()
        with self.doc.transaction():
            change()
        return self.doc.get_update(before)

    def draw(self, name: str = "cell") -> bytes:
        def change() -> None:
            for n in range(CELLS):
                self.cells[f"{name} {n}"] = Map({"shape": "process", "x": n, "label": "x" * 30})

        return self.update(change)

    def put(self, key: str, value: object) -> bytes:
        return self.update(lambda: self.cells.__setitem__(key, value))


async def kept(service: LiveService, diagram: DiagramId) -> set[str]:
    found = await service.log.load(diagram)
    document = Document.load(found.snapshot, found.tail)
    assert not document.pending
    return set(document.doc.get("cells", type=Map).keys())


async def test_what_comes_behind_a_large_edit_is_saved_in_its_turn(service: LiveService) -> None:
    diagram = await service.diagram()
    author = Author()
    async with upgraded(service.port, await path(service, diagram, more="&saved=1")) as raw:
        await synced(raw)
        raw.send_binary(y_websocket.sync_step2(b"\x00\x00"))
        edits = [author.draw(), author.put("small", 1), author.draw("more"), author.put("last", 2)]
        for edit in edits:
            raw.send_binary(y_websocket.update(edit))
        saved, whole = 0, {1: CELLS, 2: CELLS + 1, 3: 2 * CELLS + 1, 4: 2 * CELLS + 2}
        while saved < len(edits):
            told = await saved_on(raw)
            assert told >= saved
            saved = told
            assert len(await kept(service, diagram)) >= whole.get(saved, 0)
    assert set(author.cells.keys()) == await kept(service, diagram)


async def test_who_closes_right_behind_a_large_edit_has_left_it(service: LiveService) -> None:
    diagram = await service.diagram()
    author = Author()
    async with upgraded(service.port, await path(service, diagram)) as raw:
        await synced(raw)
        raw.send_binary(y_websocket.update(author.draw()))
        raw.send_binary(y_websocket.update(author.put("last", 1)))
        raw.send(close_frame(1000))
        await raw.receive_close_only()
    async with asyncio.timeout(5):
        while await kept(service, diagram) != set(author.cells.keys()):
            await asyncio.sleep(0.01)


async def flood(raw: RawWebSocket, author: Author) -> None:
    for n in range(FLOOD):
        raw.send_binary(y_websocket.update(author.put(f"flood {n}", "x" * 60_000)))
        await asyncio.sleep(0)


def waiting_bytes(service: LiveService, diagram: DiagramId) -> int:
    runner = service.rooms.owned(diagram)
    assert runner is not None
    return sum(work.waiting_bytes for work in runner.large_edits._works.values())


async def test_a_client_is_not_read_while_its_large_edit_goes_in(
    service: LiveService, held_up: Callable[[], None]
) -> None:
    diagram = await service.diagram()
    author = Author()
    async with upgraded(service.port, await path(service, diagram)) as raw:
        await synced(raw)
        raw.send_binary(y_websocket.update(author.draw()))
        await flood(raw, author)
        await asyncio.sleep(0.2)
        assert waiting_bytes(service, diagram) < FLOOD * 60_000 // 4
        assert not await kept(service, diagram)
        held_up()
        async with asyncio.timeout(10):
            while await kept(service, diagram) != set(author.cells.keys()):
                await asyncio.sleep(0.01)


async def test_a_service_that_drains_closes_who_is_not_read_and_keeps_what_it_has_read(
    service: LiveService, held_up: Callable[[], None]
) -> None:
    diagram = await service.diagram()
    author = Author()
    async with upgraded(service.port, await path(service, diagram)) as raw:
        await synced(raw)
        raw.send_binary(y_websocket.update(author.draw()))
        async with asyncio.timeout(5):
            while not (runner := service.rooms.owned(diagram)) or not runner.large_edits._works:
                await asyncio.sleep(0.01)
        draining = asyncio.create_task(service.rooms.drain(5.0))
        assert 1012 == (await raw.receive_close()).close_code
        await draining
        assert set(author.cells.keys()) == await kept(service, diagram)
    held_up()


async def test_documents_of_one_hocuspocus_socket_are_served_behind_a_large_edit(
    service: LiveService,
) -> None:
    one, other = await service.diagram(), await service.diagram()
    author = Author()
    async with upgraded(service.port, "/collab") as raw:
        first, second = await opened(service, raw, one), await opened(service, raw, other)
        for provider in (first, second):
            provider.send(EMPTY_STEP_2)
            assert ACCEPTED == await provider.status()
        first.send(y_websocket.update(author.draw()))
        second.send(y_websocket.update(Author().draw("other")))
        first.send(y_websocket.update(author.put("last", 1)))
        second.send(y_websocket.update(Author().put("last", 1)))
        first.others.clear()
        assert [ACCEPTED] * 2 == [await first.status() for _ in range(2)]
        while len([message for message in first.others if message.endswith(ACCEPTED)]) < 2:
            first.others.append(await raw.receive_binary())
    assert CELLS + 1 == len(await kept(service, one)) == len(await kept(service, other))
