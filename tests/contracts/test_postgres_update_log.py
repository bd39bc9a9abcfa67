"""What only PostgreSQL can get wrong in the update log: claims, deletions and repeats that meet an append."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta

import asyncpg
import pytest

from persistence.postgres.database import PostgresDatabase
from persistence.postgres.update_log import APPEND, PostgresUpdateLog
from tests.contracts.conftest import Ports, postgres_ports
from tests.contracts.test_update_log import ALICE, batch, result
from tmi.domain.errors import DatabaseUnavailable, NotFound
from tmi.domain.ids import DiagramId, Fence, Seq
from tmi.domain.ports import LoggedUpdate, Origin, RoomBatch

RAISE = "UPDATE diagram_fences SET fence = fence + 1 WHERE diagram_id = $1"
WAITING = "SELECT count(*) FROM pg_locks WHERE NOT granted"
LOG = """
SELECT diagram_id, fence, convert_from(data, 'UTF8') AS data FROM diagram_updates ORDER BY diagram_id, seq
"""


@pytest.fixture
async def ports(database: PostgresDatabase) -> Ports:
    return postgres_ports(database)


@pytest.fixture
async def rooms(ports: Ports) -> list[DiagramId]:
    """Four claimed diagrams, in the order in which their fences are locked."""
    diagrams = sorted([(await ports.diagram()).id for _ in range(4)])
    for diagram in diagrams:
        await ports.log.claim(diagram, "node")
    return diagrams


@asynccontextmanager
async def session(database_url: str) -> AsyncIterator["asyncpg.Connection[asyncpg.Record]"]:
    connection = await asyncpg.connect(database_url)
    try:
        yield connection
    finally:
        await connection.close()


async def until_waiting(connection: "asyncpg.Connection[asyncpg.Record]", sessions: int) -> None:
    """Return once that many sessions wait for a lock."""
    async with asyncio.timeout(10):
        while await connection.fetchval(WAITING) < sessions:
            await asyncio.sleep(0.005)


async def test_a_claim_between_check_and_insert_keeps_the_room_out_and_the_others_in(
    database: PostgresDatabase, database_url: str, ports: Ports, rooms: list[DiagramId]
) -> None:
    async with session(database_url) as claimer, claimer.transaction():
        await claimer.execute(RAISE, rooms[1])
        append = asyncio.create_task(ports.log.append([batch(room, 1, 1, 2) for room in rooms]))
        await until_waiting(claimer, 1)

    assert result((rooms[0], rooms[2], rooms[3]), (rooms[1],)) == await append
    expected = [(room, 1, f"update {n}") for room in (rooms[0], rooms[2], rooms[3]) for n in (1, 2)]
    assert expected == [tuple(row) for row in await database.fetch(LOG)]


async def test_a_claim_that_is_rolled_back_leaves_the_room_in(
    database_url: str, ports: Ports, rooms: list[DiagramId]
) -> None:
    async with session(database_url) as claimer:
        transaction = claimer.transaction()
        await transaction.start()
        await claimer.execute(RAISE, rooms[0])
        append = asyncio.create_task(ports.log.append([batch(room, 1, 1) for room in rooms]))
        await until_waiting(claimer, 1)
        await transaction.rollback()

    assert result(tuple(rooms)) == await append


async def test_a_claim_waits_for_the_append_under_way_and_then_reads_its_rows(
    database_url: str, ports: Ports, rooms: list[DiagramId]
) -> None:
    first, last = rooms[0], rooms[-1]
    async with session(database_url) as blocker, session(database_url) as watcher, blocker.transaction():
        await blocker.execute(RAISE, last)
        append = asyncio.create_task(ports.log.append([batch(first, 1, 1), batch(last, 1, 1)]))
        await until_waiting(watcher, 1)
        claim = asyncio.create_task(ports.log.claim(first, "another node"))
        await until_waiting(watcher, 2)

    assert result((first,), (last,)) == await append
    assert 2 == await claim
    assert 1 == (await ports.log.load(first)).seq


async def test_a_snapshot_whose_fence_rises_while_it_waits_is_refused(
    database_url: str, ports: Ports, rooms: list[DiagramId]
) -> None:
    await ports.log.append([batch(rooms[0], 1, 1)])
    async with session(database_url) as claimer, claimer.transaction():
        await claimer.execute(RAISE, rooms[0])
        saved = asyncio.create_task(ports.log.save_snapshot(rooms[0], Fence(1), Seq(1), b"state"))
        await until_waiting(claimer, 1)

    assert not await saved
    assert (await ports.log.load(rooms[0])).snapshot is None


async def test_a_deletion_waits_for_the_append_under_way_and_takes_its_rows_along_in_the_end(
    database: PostgresDatabase, database_url: str, ports: Ports, rooms: list[DiagramId]
) -> None:
    first, last = rooms[0], rooms[-1]
    (model,) = [
        row[0] for row in await database.fetch("SELECT threat_model_id FROM diagrams WHERE id = $1", first)
    ]
    async with session(database_url) as blocker, session(database_url) as watcher, blocker.transaction():
        await blocker.execute(RAISE, last)
        append = asyncio.create_task(ports.log.append([batch(first, 1, 1), batch(last, 1, 1)]))
        await until_waiting(watcher, 1)
        deletion = asyncio.create_task(ports.diagrams.delete(model, first))
        await until_waiting(watcher, 2)

    assert result((first,), (last,)) == await append
    await deletion
    with pytest.raises(NotFound):
        await ports.log.load(first)
    assert 1 == len(await database.fetch(LOG))
    await ports.bin.purge(datetime.now(UTC) + timedelta(days=1), 10)
    assert [] == list(await database.fetch(LOG))


async def test_an_append_that_waits_for_a_deletion_finds_the_room_stale(
    database: PostgresDatabase, database_url: str, ports: Ports, rooms: list[DiagramId]
) -> None:
    async with session(database_url) as deleter, deleter.transaction():
        await deleter.execute("DELETE FROM diagram_fences WHERE diagram_id = $1", rooms[0])
        append = asyncio.create_task(ports.log.append([batch(room, 1, 1) for room in rooms]))
        await until_waiting(deleter, 1)

    assert result(tuple(rooms[1:]), (rooms[0],)) == await append
    assert 3 == len(await database.fetch(LOG))


async def test_a_first_try_that_still_runs_counts_as_ours(
    database_url: str, ports: Ports, rooms: list[DiagramId]
) -> None:
    insert = "INSERT INTO diagram_updates (diagram_id, seq, fence, origin, data) VALUES ($1, $2, 1, 1, $3)"
    async with session(database_url) as first_try, first_try.transaction():
        for seq in (1, 2):
            await first_try.execute(insert, rooms[0], seq, f"update {seq}".encode())
        append = asyncio.create_task(ports.log.append([batch(rooms[0], 1, 1, 2), batch(rooms[1], 1, 1)]))
        await until_waiting(first_try, 1)

    assert result((rooms[0], rooms[1])) == await append


async def test_the_same_batch_ten_times_at_once_is_committed_once(
    database: PostgresDatabase, ports: Ports, rooms: list[DiagramId]
) -> None:
    batches = [batch(room, 1, 1, 2, 3) for room in rooms]

    answers = await asyncio.gather(*(ports.log.append(batches) for _ in range(10)))

    assert [result(tuple(rooms))] * 10 == answers
    assert 12 == len(await database.fetch(LOG))


async def test_rows_that_the_database_refuses_fail_their_room_alone(
    database: PostgresDatabase, ports: Ports, rooms: list[DiagramId]
) -> None:
    await database.fetch("ALTER TABLE diagram_updates ADD CONSTRAINT no_poison CHECK (data <> 'poison')")
    poison = LoggedUpdate(Seq(2), ALICE, Origin.UPDATE, b"poison")
    clean = batch(rooms[2], 1, 1).updates
    refused = RoomBatch(rooms[2], Fence(1), (*clean, poison))

    answer = await ports.log.append(
        [batch(rooms[0], 1, 1), refused, batch(rooms[1], 1, 1), batch(rooms[3], 9, 1)]
    )

    assert (frozenset(rooms[:2]), frozenset({rooms[3]})) == (answer.committed, answer.stale)
    assert {rooms[2]} == answer.failed.keys()
    assert "no_poison" in answer.failed[rooms[2]]
    assert rooms[:2] == [row["diagram_id"] for row in await database.fetch(LOG)]


async def test_a_number_that_no_column_holds_fails_its_room_alone(
    ports: Ports, rooms: list[DiagramId]
) -> None:
    answer = await ports.log.append([batch(rooms[0], 1, 2**63), batch(rooms[1], 1, 1)])

    assert frozenset({rooms[1]}) == answer.committed
    assert {rooms[0]} == answer.failed.keys()


async def test_a_row_that_stays_locked_makes_the_database_unavailable_in_time(
    database_url: str, rooms: list[DiagramId]
) -> None:
    database = await PostgresDatabase.connect(database_url, command_timeout_s=0.2)
    try:
        async with session(database_url) as claimer, claimer.transaction():
            await claimer.execute(RAISE, rooms[0])
            async with asyncio.timeout(5):
                with pytest.raises(DatabaseUnavailable):
                    await PostgresUpdateLog(database).append([batch(rooms[0], 1, 1)])
    finally:
        await database.close()


async def test_claims_and_appends_at_once_give_each_fence_its_own_consecutive_rows(
    database: PostgresDatabase, ports: Ports, rooms: list[DiagramId]
) -> None:
    async def own(owner: int) -> int:
        committed = 0
        for _ in range(10):
            fence = await ports.log.claim(rooms[0], f"node {owner}")
            seq = (await ports.log.load(rooms[0])).seq
            answer = await ports.log.append(
                [batch(rooms[0], fence, seq + 1, seq + 2), batch(rooms[owner], 1, 1)]
            )
            committed += 2 * len(answer.committed & {rooms[0]})
            assert rooms[owner] in answer.committed
            assert not answer.failed
        return committed

    committed = await asyncio.gather(*(own(owner) for owner in (1, 2, 3)))

    rows = await database.fetch(
        "SELECT seq, fence FROM diagram_updates WHERE diagram_id = $1 ORDER BY seq", rooms[0]
    )
    assert list(range(1, sum(committed) + 1)) == [row["seq"] for row in rows]
    assert sorted(row["fence"] for row in rows) == [row["fence"] for row in rows]


async def test_a_diagram_cannot_go_before_its_fence(
    database: PostgresDatabase, rooms: list[DiagramId]
) -> None:
    with pytest.raises(asyncpg.ForeignKeyViolationError):
        await database.fetch("DELETE FROM diagrams WHERE id = $1", rooms[0])


async def test_an_append_is_planned_once_and_reads_no_table_through(
    database: PostgresDatabase, ports: Ports, rooms: list[DiagramId]
) -> None:
    async def looked_through() -> int:
        # A session counts for itself, and tells now and then: here, when asked.
        await database.fetch_hot("SELECT pg_stat_force_next_flush()")
        rows = await database.fetch_hot("SELECT sum(seq_scan)::int AS scans FROM pg_stat_user_tables")
        return int(rows[0]["scans"])

    before = await looked_through()
    for seq in range(1, 21):
        assert result(tuple(rooms)) == await ports.log.append([batch(room, 1, seq) for room in rooms])
    assert before == await looked_through()
    plans = await database.fetch_hot(
        "SELECT custom_plans, generic_plans FROM pg_prepared_statements WHERE statement = $1", APPEND
    )
    assert [(0, 20)] == [tuple(row) for row in plans]
