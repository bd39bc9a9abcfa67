"""The size limit of a document, as clients of each protocol meet it."""

from collections.abc import AsyncIterator
from typing import Any

import pytest
from pycrdt import Doc, Map

from crdt import y_websocket
from crdt.lib0 import var_string
from crdt.reading import CELLS
from rooms.edits import RoomLimits
from rooms.limits import RoomsLimits
from rooms.size import TOO_LARGE
from tests.harness.live_service import LiveService, live_service
from tests.harness.raw_websocket import RawWebSocket, upgraded
from tests.security.test_rates import Author, arrived
from tmi.domain.errors import TooLarge
from tmi.domain.ids import DiagramId
from tmi.domain.ports import Origin

KIB = 1024
LIMIT = 64 * KIB
STEP_1 = y_websocket.sync_step1(b"\x00")


@pytest.fixture
async def service() -> AsyncIterator[LiveService]:
    limits = RoomsLimits(room=RoomLimits(document_max_bytes=LIMIT))
    async with live_service(rooms_limits=limits) as running:
        yield running


class Table:
    """A diagram that is nearly full, and the author who filled it."""

    def __init__(self, service: LiveService, diagram: DiagramId, token: str) -> None:
        self.service = service
        self.diagram = diagram
        self.token = token
        self.path = f"/collab/{diagram}?token={token}"
        self.author = Author()

    async def fill(self, raw: RawWebSocket) -> None:
        raw.send_binary(self.author.edit("large", "x" * 60 * KIB))
        await arrived(self.service, self.diagram, 1)

    async def logged(self) -> int:
        """Updates in the log, once all is committed."""
        assert await self.service.rooms.journal.flushed(5)
        return len(self.service.store.logs[self.diagram].rows)

    async def size(self) -> int:
        _, document = await self.service.rooms.read(self.diagram)
        return len(document.encode())


@pytest.fixture
async def table(service: LiveService) -> Table:
    return Table(service, await service.diagram(), await service.token("alice"))


async def test_an_edit_past_the_limit_closes_4413_and_is_neither_applied_nor_journaled(table: Table) -> None:
    async with upgraded(table.service.port, table.path) as raw:
        await table.fill(raw)
        before = await table.size(), await table.logged()
        raw.send_binary(table.author.edit("more", "x" * 10 * KIB))
        closed = await raw.receive_close()
        assert (4413, TOO_LARGE.encode()) == (closed.close_code, closed.payload[2:])
        assert before == (await table.size(), await table.logged())
        assert 1 == table.service.rooms.closes[4413] == table.service.rooms.refusals["document_size"]


async def test_others_stay_and_hear_nothing_of_it(table: Table) -> None:
    path = table.path
    async with upgraded(table.service.port, path) as raw, upgraded(table.service.port, path) as other:
        await table.fill(raw)
        raw.send_binary(table.author.edit("more", "x" * 10 * KIB))
        await raw.receive_close()
        other.send_binary(STEP_1)
        while not (message := await other.receive_binary()).startswith(b"\x00\x01"):
            pass
        assert b"large" in message
        assert b"more" not in message
        other.send_binary(Author().edit("small"))
        await arrived(table.service, table.diagram, 2)


async def test_an_edit_that_only_deletes_passes_and_makes_room(table: Table) -> None:
    async with upgraded(table.service.port, table.path) as raw:
        await table.fill(raw)
        doc: Doc[Map[object]] = Doc()
        doc.apply_update(table.author.doc.get_update())
        before = doc.get_state()
        del doc.get(CELLS, type=Map[object])["large"]
        # As large as it can be with the delete set alone, and then some: the frame passes by what it does.
        for _ in range(600):
            raw.send_binary(y_websocket.update(doc.get_update(before)))
        raw.send_binary(STEP_1)
        while not (await raw.receive_binary()).startswith(b"\x00\x01"):
            pass
        assert 1000 > await table.size()
        raw.send_binary(Author().edit("again", "x" * 60 * KIB))
        await arrived(table.service, table.diagram, 1)


async def test_a_reconnecting_client_that_has_nothing_new_is_welcome_at_the_limit(table: Table) -> None:
    async with upgraded(table.service.port, table.path) as raw:
        await table.fill(raw)
    async with upgraded(table.service.port, table.path) as raw:
        raw.send_binary(y_websocket.sync_step2(table.author.doc.get_update()))
        raw.send_binary(STEP_1)
        while not (await raw.receive_binary()).startswith(b"\x00\x01"):
            pass


async def test_many_edits_of_one_value_do_not_add_up(table: Table) -> None:
    async with upgraded(table.service.port, table.path) as raw:
        for n in range(40):
            raw.send_binary(table.author.edit("same", f"{n}" + "x" * 4 * KIB))
        table.author.edit("last")
        raw.send_binary(y_websocket.update(table.author.doc.get_update()))
        await arrived(table.service, table.diagram, 2)
        assert await table.size() < 10 * KIB


async def test_hocuspocus_is_denied_with_the_reason_and_its_socket_closed(table: Table) -> None:
    name = var_string(str(table.diagram))
    async with upgraded(table.service.port, "/collab") as raw:
        raw.send_binary(name + b"\x02\x00" + var_string(table.token))
        assert name + b"\x02\x02" + var_string("read-write") == await raw.receive_binary()
        raw.send_binary(name + table.author.edit("large", "x" * 60 * KIB))
        await arrived(table.service, table.diagram, 1)
        raw.send_binary(name + table.author.edit("more", "x" * 10 * KIB))
        denied = name + b"\x02\x01" + var_string(TOO_LARGE)
        while (message := await raw.receive_binary()) != denied:
            assert not message.startswith(name + b"\x08\x00")
        assert 4413 == (await raw.receive_close()).close_code


async def test_the_servers_own_edits_are_refused_too(table: Table) -> None:
    async with upgraded(table.service.port, table.path) as raw:
        raw.send_binary(table.author.edit("large", "x" * (LIMIT - 100)))
        await arrived(table.service, table.diagram, 1)
        (runner,) = table.service.rooms.runners
        runner.room.document.bytes_estimate = LIMIT + 1

        def add(key: str, size: int) -> None:
            def change(doc: Doc[Any]) -> None:
                doc.get(CELLS, type=Map[object])[key] = "x" * size

            runner.edit(lambda document: document.transact(change), None, Origin.UPDATE, size + 100)

        add("fits by measure", 1)
        with pytest.raises(TooLarge):
            add("too much", 200)
        assert 1 == table.service.rooms.refusals["document_size"]
