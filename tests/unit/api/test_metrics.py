"""What `/metrics` tells, of numbers that are known."""

import asyncio
import re
from dataclasses import replace
from uuid import UUID

import pytest
from prometheus_client.parser import text_string_to_metric_families

import api.metrics
from api.live.sockets import Sockets
from api.metrics import Metrics
from bench.machine import ROOT
from persistence.memory.access import MemoryAccessControl
from rooms.coordination.local import LocalCoordinator
from rooms.service import Rooms
from tests.unit.rooms.conftest import LIMITS, World, until
from tmi.domain.ids import UserId

USER = UserId(UUID(int=1))


class Client:
    """A socket that has sent and queued so much."""

    user: UserId | None = USER
    serial = 0

    def __init__(self, messages_in: int, bytes_in: int, queued_bytes: int) -> None:
        self.messages_in, self.bytes_in, self.queued_bytes = messages_in, bytes_in, queued_bytes

    def visit(self, now: float) -> None: ...

    def close(self, code: int, reason: str) -> None: ...

    def abort(self) -> None: ...

    def fail(self, code: int, reason: str) -> None: ...


def told(rooms: Rooms, sockets: Sockets) -> dict[tuple[str, ...], float]:
    """By name and label values."""
    text = Metrics(rooms, sockets, lambda: 3).text().decode()
    return {
        (sample.name, *(value for _, value in sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


@pytest.fixture
async def world() -> World:
    made = World()
    await made.prepare()
    return made


async def test_every_limit_and_close_is_told(world: World) -> None:
    rooms, sockets = world.rooms, Sockets(3600, 10)
    rooms._budget.evictions, sockets.throttles, sockets.faults = 2, 3, 4
    rooms.closes.update({4413: 5, 4404: 6})
    sockets.closes.update({4413: 7, 1009: 8, 3999: 9, 3998: 1})
    rooms.refusals.update({"rooms_memory": 11, "presence_ids": 12, "both": 1})
    sockets.refusals.update({"frame": 13, "both": 2})
    figures = told(rooms, sockets)
    assert (2, 3, 4) == (
        figures["tmi_rooms_evicted_total",],
        figures["tmi_sockets_throttled_total",],
        figures["tmi_faults_total",],
    )
    by_label = {
        name: {key[1]: value for key, value in figures.items() if key[0] == f"tmi_{name}_total"}
        for name in ("sessions_ended", "closes", "refusals")
    }
    assert {"4413": 5, "4404": 6} == by_label["sessions_ended"]
    assert {"4413": 7, "1009": 8, "other": 10} == by_label["closes"]
    assert {"rooms_memory": 11, "presence_ids": 12, "frame": 13, "both": 3} == by_label["refusals"]


def test_each_label_of_refusals_is_explained_and_no_other() -> None:
    sources = [file.read_text() for part in ("api", "rooms", "tmi") for file in (ROOT / part).rglob("*.py")]
    counted = {label for source in sources for label in re.findall(r'refusals\["(\w+)"\] \+= 1', source)}
    table = (ROOT / "ARCHITECTURE.md").read_text().partition("| label | who or what was refused |")[2]
    rows = table.partition("\n\n")[0].splitlines()
    explained = [label for row in rows[2:] for label in re.findall(r"`(\w+)`", row.split("|")[1])]
    assert sorted(counted) == sorted(explained)


async def test_the_busiest_and_the_slowest_clients_are_named(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(api.metrics, "TOP", 1)
    sockets = Sockets(3600, 10)
    clients = [Client(1, 10, 100), Client(9, 20, 200), Client(2, 90, 300), Client(3, 30, 900)]
    for client in clients:
        sockets.add(client)
    figures = told(world.rooms, sockets)
    top = {key: value for key, value in figures.items() if key[0].startswith("tmi_top_client_")}
    _, busy, large, slow = (str(client.serial) for client in clients)
    assert {
        ("tmi_top_client_edits", busy, str(USER)): 9,
        ("tmi_top_client_bytes", large, str(USER)): 90,
        ("tmi_top_client_queued_bytes", slow, str(USER)): 900,
    } == top
    assert (4, 1500) == (figures["tmi_sockets",], figures["tmi_sockets_queued_bytes",])
    for client in clients:
        sockets.discard(client)


async def test_what_waits_for_clients_that_do_not_read_is_told(world: World) -> None:
    sockets = Sockets(3600, 10)
    held = [sockets.outboxes.add(Client(1, 10, size)) for size in (300, 500)]
    figures = told(world.rooms, sockets)
    assert (2, 800) == (figures["tmi_sockets_stalled",], figures["tmi_sockets_stalled_bytes",])
    sockets.outboxes.discard(held[0])
    assert 500 == told(world.rooms, sockets)["tmi_sockets_stalled_bytes",]


async def test_the_largest_rooms_are_named(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(api.metrics, "TOP", 1)
    limits = replace(LIMITS, idle_s=60.0)
    rooms = Rooms(world.log, LocalCoordinator(world.log, "n"), MemoryAccessControl(world.store), limits)
    world.rooms = rooms
    async with rooms.running():
        sizes = {}
        for size in (1000, 5000, 2000):
            world.diagram = (await world.diagrams.create(world.model, "d", "DFD-1.0.0", None)).id
            sizes[size] = str(world.diagram)
            (await world.editor().join()).edit("text", "x" * size)
        for runner in rooms.runners:
            runner.settle()
        figures = told(rooms, Sockets(3600, 10))
        top = {key[1]: value for key, value in figures.items() if key[0] == "tmi_top_room_document_bytes"}
        assert [sizes[5000]] == list(top)
        assert 5000 < top[sizes[5000]] < 5200
        assert figures["tmi_rooms_memory_bytes",] == rooms.memory_bytes > 20 * 8000
        assert (3, 3) == (figures["tmi_rooms",], figures["tmi_sessions",])


async def test_edits_that_are_not_committed_are_told_of_their_room(world: World) -> None:
    async with world.rooms.running():
        editor = await world.editor().join()
        world.log.gate = asyncio.Event()
        (runner,) = world.rooms.runners
        for n in range(3):
            editor.edit(f"k{n}")
            runner.settle()  # or they would be one
        of_room = "tmi_top_room_unsaved_edits", str(world.diagram)
        assert 3 == told(world.rooms, Sockets(3600, 10))[of_room]
        world.log.gate.set()
        await until(lambda: not runner.room.unsaved)
        assert 0 == told(world.rooms, Sockets(3600, 10))[of_room]
