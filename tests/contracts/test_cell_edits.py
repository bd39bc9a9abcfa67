"""The port `CellEdits`: edits of cells, by author and minute, in the trail."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from uuid import uuid4

import pytest

from persistence.memory.events import write as write_to_memory
from persistence.memory.store import MemoryStore
from persistence.postgres import cell_edits
from persistence.postgres.database import PostgresDatabase
from persistence.postgres.events import write as write_to_postgres
from tests.contracts.conftest import Ports, memory_ports, postgres_ports
from tmi.domain.errors import NotFound
from tmi.domain.events import Actor, ChangeType, Deed, Event, ObjectType, Recorded
from tmi.domain.ids import DiagramId, Fence, Seq, ThreatModelId, UserId
from tmi.domain.model import Diagram
from tmi.domain.ports import LoggedUpdate, Origin, Page, RoomBatch

NOON = datetime(2026, 1, 1, 12, 0, tzinfo=UTC)
Edit = tuple[float, UserId | None, Origin]


class House:
    """A store whose clock the test sets."""

    def __init__(self, ports: Ports, store: MemoryStore | None, database: PostgresDatabase | None) -> None:
        self.ports = ports
        self._store = store
        self._database = database
        self._fences: dict[DiagramId, Fence] = {}
        self._seqs: dict[DiagramId, int] = {}

    async def edit(self, diagram: DiagramId, *edits: Edit) -> None:
        """Updates at so many seconds past noon."""
        log = self.ports.log
        if diagram not in self._fences:
            self._fences[diagram] = await log.claim(diagram, "test")
        for at_s, author, origin in edits:
            seq = self._seqs[diagram] = self._seqs.get(diagram, 0) + 1
            at = NOON + timedelta(seconds=at_s)
            if self._store is not None:
                self._store.clock = lambda at=at: at  # type: ignore[misc]
            update = LoggedUpdate(Seq(seq), author, origin, b"update %d" % seq)
            done = await log.append([RoomBatch(diagram, self._fences[diagram], (update,))])
            assert {diagram} == done.committed
            if self._database is not None:
                where = "WHERE diagram_id = $1 AND seq = $2"
                await self._database.fetch(
                    f"UPDATE diagram_updates SET created_at = $3 {where}", diagram, seq, at
                )

    async def write(self, event: Event) -> None:
        """Add an event to the trail."""
        if self._store is not None:
            write_to_memory(self._store, event)
        if self._database is not None:
            async with self._database.transaction() as connection:
                await write_to_postgres(connection, event)

    async def told(self, diagram: Diagram) -> list[Recorded]:
        """The events of its cells, oldest first."""
        found, _ = await self.ports.trail.of_object(
            diagram.threat_model_id, ObjectType.DIAGRAM, diagram.id, Page(100, 0)
        )
        return [r for r in reversed(found) if r.event.change is not ChangeType.CREATED]


@pytest.fixture
async def house(store_url: str | None) -> AsyncIterator[House]:
    if store_url is None:
        store = MemoryStore()
        yield House(memory_ports(store), store, None)
        return
    database = await PostgresDatabase.connect(store_url)
    yield House(postgres_ports(database), None, database)
    await database.close()


def minute(n: int) -> datetime:
    return NOON + timedelta(minutes=n)


async def test_edits_are_told_of_once_for_each_author_and_minute(house: House) -> None:
    ports = house.ports
    alice, bob = await ports.user("alice"), await ports.user("bob")
    diagram = await ports.diagram()
    up = Origin.UPDATE
    edits: list[Edit] = [(1, alice.id, up), (2, bob.id, up), (3, alice.id, up), (61, alice.id, up)]
    await house.edit(diagram.id, *edits, (125, bob.id, up))

    assert 3 == await ports.cell_edits.tell_of(diagram.threat_model_id, minute(2))
    told = await house.told(diagram)
    one, two = "1 edit of cells", "2 edits of cells"
    assert [(bob.id, 2, one), (alice.id, 3, two), (alice.id, 4, one)] == [
        (r.event.actor.user, r.event.seq, r.event.summary) for r in told
    ]
    assert [2, 3, 61] == [(r.event.at - NOON).total_seconds() for r in told]
    assert {(True, ChangeType.PATCHED)} == {(r.is_kept, r.event.change) for r in told}
    assert "alice@tmi.local" == told[1].event.actor.email

    assert 0 == await ports.cell_edits.tell_of(diagram.threat_model_id, minute(2))
    assert 1 == await ports.cell_edits.tell_of(diagram.threat_model_id, minute(3))
    assert told == (await house.told(diagram))[:3]


async def test_what_is_brought_is_of_an_unknown_author_and_says_who_brought_it(house: House) -> None:
    ports = house.ports
    alice = await ports.user("alice")
    diagram = await ports.diagram()
    gone = UserId(uuid4())
    await house.edit(
        diagram.id,
        (1, alice.id, Origin.SYNC), (2, alice.id, Origin.UPDATE),
        (3, None, Origin.SERVER), (4, gone, Origin.UPDATE),
    )  # fmt: skip
    await ports.cell_edits.tell_of(diagram.threat_model_id, minute(1))
    told = await house.told(diagram)
    assert [(None, "unknown"), (alice.id, "alice@tmi.local"), (None, "system"), (gone, "unknown")] == [
        (r.event.actor.user, r.event.actor.provider_id) for r in told
    ]
    assert "1 edit of cells, brought by alice@tmi.local" == told[0].event.summary


async def test_a_rest_write_that_has_its_own_event_is_not_told_of_again(house: House) -> None:
    ports = house.ports
    alice = await ports.user("alice")
    diagram = await ports.diagram()
    await house.edit(diagram.id, (1, alice.id, Origin.REST), (2, alice.id, Origin.REST))
    event = Event.of_diagram(Deed(Actor.of(alice), ChangeType.UPDATED), diagram, seq=Seq(1))
    await house.write(event)
    assert 1 == await ports.cell_edits.tell_of(diagram.threat_model_id, minute(1))
    assert [("updated", 1), ("patched", 2)] == [
        (r.event.change.value, r.event.seq) for r in await house.told(diagram)
    ]


async def test_a_clock_that_falls_back_loses_no_edit(house: House) -> None:
    ports = house.ports
    alice = await ports.user("alice")
    diagram = await ports.diagram()
    up = Origin.UPDATE
    await house.edit(diagram.id, *[(at, alice.id, up) for at in (61, 5, 70, 130)])
    assert 0 == await ports.cell_edits.tell_of(diagram.threat_model_id, minute(1))
    assert 1 == await ports.cell_edits.tell_of(diagram.threat_model_id, minute(2))
    assert [3] == [r.event.seq for r in await house.told(diagram)]


async def test_one_diagram_is_told_of_alone(house: House) -> None:
    ports = house.ports
    alice = await ports.user("alice")
    model = await ports.model(alice)
    one, other = [await ports.diagrams.create(model.id, name, "DFD-1.0.0", None) for name in "ab"]
    for diagram in (one, other):
        await house.edit(diagram.id, (1, alice.id, Origin.UPDATE))
    assert 0 == await ports.cell_edits.tell_of((await ports.diagram()).threat_model_id, minute(1), one.id)
    assert 1 == await ports.cell_edits.tell_of(model.id, minute(1), one.id)
    assert [1, 0] == [len(await house.told(diagram)) for diagram in (one, other)]
    assert 1 == await ports.cell_edits.tell_of(model.id, minute(1))


async def test_edits_have_the_newest_state_that_their_diagram_had_by_then(house: House) -> None:
    ports = house.ports
    alice = await ports.user("alice")
    diagram = await ports.diagram()
    deed = Deed(Actor.of(alice), ChangeType.UPDATED)
    # In the order in which they are written, which is not that of their times.
    for at_s, name in ((10, "early"), (70, "late"), (30, "later written")):
        event = Event.of_diagram(deed, replace(diagram, name=name))
        await house.write(replace(event, at=NOON + timedelta(seconds=at_s)))
    await house.edit(diagram.id, *[(at_s, alice.id, Origin.UPDATE) for at_s in (5, 65, 125)])
    assert 3 == await ports.cell_edits.tell_of(diagram.threat_model_id, minute(3))
    told = [r for r in await house.told(diagram) if r.event.change is ChangeType.PATCHED]
    states = [(await ports.trail.get(recorded.event.id)).event.state for recorded in told]
    assert [None, "later written", "later written"] == [state and state["name"] for state in states]
    assert {None} == {recorded.event.state for recorded in told}
    assert {} == await ports.trail.changes([recorded.number for recorded in told])


async def test_all_diagrams_are_gone_through_some_at_a_time(house: House) -> None:
    ports = house.ports
    alice = await ports.user("alice")
    diagrams = [await ports.diagram() for _ in range(5)]
    for diagram in diagrams:
        await house.edit(diagram.id, (1, alice.id, Origin.UPDATE))
    place, seen = None, []
    for _ in range(3):
        place = await ports.cell_edits.tell_next(place, 2, minute(1))
        seen.append(place)
    assert [True, True, False] == [key is not None for key in seen]
    assert [1] * 5 == [len(await house.told(diagram)) for diagram in diagrams]


async def test_a_document_is_read_as_it_was_after_an_update(house: House) -> None:
    ports = house.ports
    alice = await ports.user("alice")
    diagram = await ports.diagram()
    await house.edit(diagram.id, *[(n, alice.id, Origin.UPDATE) for n in range(1, 6)])
    fence = house._fences[diagram.id]
    assert await ports.log.save_snapshot(diagram.id, fence, Seq(3), b"state", is_whole=True)

    async def at(seq: int) -> tuple[bytes | None, int, tuple[bytes, ...], int, bool]:
        stored = await ports.cell_edits.document(diagram.id, Seq(seq))
        return stored.snapshot, stored.snapshot_seq, stored.tail, stored.seq, stored.is_whole

    assert (None, 0, (), 0, False) == await at(0)
    assert (None, 0, (b"update 1", b"update 2"), 2, False) == await at(2)
    assert (b"state", 3, (b"update 4",), 4, True) == await at(4)
    for key, seq in ((diagram.id, 6), (diagram.id, -1), (DiagramId(uuid4()), 0)):
        with pytest.raises(NotFound):
            await ports.cell_edits.document(key, Seq(seq))


# --- on PostgreSQL alone ------------------------------------------------------------------------


async def test_many_at_once_tell_of_each_edit_once(database_url: str) -> None:
    database = await PostgresDatabase.connect(database_url)
    try:
        house = House(postgres_ports(database), None, database)
        users = [await house.ports.user(name) for name in ("alice", "bob")]
        diagram = await house.ports.diagram()
        await house.edit(diagram.id, *[(n, users[n % 2].id, Origin.UPDATE) for n in range(30, 90)])
        tell = house.ports.cell_edits.tell_of
        made = await asyncio.gather(*(tell(diagram.threat_model_id, minute(2)) for _ in range(8)))
        assert 4 == sum(made)
        edits = [int((r.event.summary or "").split()[0]) for r in await house.told(diagram)]
        assert (4, 60) == (len(edits), sum(edits))
    finally:
        await database.close()


async def test_a_long_log_is_told_of_in_whole_minutes(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cell_edits, "UPDATES_MAX", 5)
    database = await PostgresDatabase.connect(database_url)
    try:
        house = House(postgres_ports(database), None, database)
        alice = await house.ports.user("alice")
        diagram = await house.ports.diagram()
        times = [1, 2, 3, 61, 62, 63, 64, 121, 122, 123, 124, 125, 126]
        await house.edit(diagram.id, *[(n, alice.id, Origin.UPDATE) for n in times])
        for _ in range(4):
            await house.ports.cell_edits.tell_of(diagram.threat_model_id, minute(3))
        # The last minute has more than are taken at once.
        assert [3, 7, 12, 13] == [r.event.seq for r in await house.told(diagram)]
    finally:
        await database.close()


async def test_diagrams_are_told_of_together_and_of_one_that_goes_meanwhile_nothing(
    database_url: str,
) -> None:
    database = await PostgresDatabase.connect(database_url)
    try:
        house = House(postgres_ports(database), None, database)
        alice = await house.ports.user("alice")
        model = await house.ports.model(alice)
        names = "abcd"
        diagrams = [
            await house.ports.diagrams.create(model.id, name, "DFD-1.0.0", None) for name in names
        ]
        for diagram in diagrams:
            await house.edit(diagram.id, (1, alice.id, Origin.UPDATE))
        async with database.transaction() as connection:
            for table in ("diagram_updates", "diagram_fences"):
                await connection.execute(f"DELETE FROM {table} WHERE diagram_id = $1", diagrams[1].id)
            await connection.execute("DELETE FROM diagrams WHERE id = $1", diagrams[1].id)
            telling = asyncio.create_task(house.ports.cell_edits.tell_of(model.id, minute(1)))
            # It waits for what is being deleted.
            await wait_until_blocked(database)
        assert 3 == await telling
        assert [1, 0, 1, 1] == [len(await house.told(diagram)) for diagram in diagrams]
        # Those that are left were told of in one transaction each, as one of them could not be.
        assert 3 == len(await transactions_of_events(database, model.id))

        for diagram in (diagrams[0], diagrams[2], diagrams[3]):
            await house.edit(diagram.id, (61, alice.id, Origin.UPDATE))
        assert 3 == await house.ports.cell_edits.tell_of(model.id, minute(2))
        assert 4 == len(await transactions_of_events(database, model.id))
    finally:
        await database.close()


async def test_few_enough_updates_are_read_at_a_time(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cell_edits, "UPDATES_MAX", 5)
    monkeypatch.setattr(cell_edits, "TOGETHER_MAX", 3)
    database = await PostgresDatabase.connect(database_url)
    try:
        house = House(postgres_ports(database), None, database)
        alice = await house.ports.user("alice")
        model = await house.ports.model(alice)
        made = [await house.ports.diagrams.create(model.id, name, "DFD-1.0.0", None) for name in "abcdefg"]
        diagrams = sorted(made, key=lambda diagram: diagram.id)
        counts = (3, 2, 4, 1, 1, 1, 1)
        for diagram, edits in zip(diagrams, counts, strict=True):
            await house.edit(diagram.id, *[(n, alice.id, Origin.UPDATE) for n in range(edits)])
        assert 7 == await house.ports.cell_edits.tell_of(model.id, minute(1))
        # 3 + 2 and 4 + 1 updates, then three diagrams.
        assert [2, 2, 3] == await transactions_of_events(database, model.id)
        assert list(counts) == [(await house.told(one))[-1].event.seq for one in diagrams]
    finally:
        await database.close()


async def wait_until_blocked(database: PostgresDatabase) -> None:
    """Somebody waits for a lock."""
    waiting = "SELECT count(*) AS n FROM pg_locks WHERE NOT granted"
    async with asyncio.timeout(10):
        while not (await database.fetch(waiting))[0]["n"]:
            await asyncio.sleep(0.01)


async def transactions_of_events(database: PostgresDatabase, model: ThreatModelId) -> list[int]:
    """How many events of cells each transaction wrote, in their order."""
    rows = await database.fetch(
        """
        SELECT count(*) AS events FROM events WHERE threat_model_id = $1 AND change_type = 'patched'
        GROUP BY xmin::text ORDER BY min(number)
        """,
        model,
    )
    return [row["events"] for row in rows]
