"""Migrations, and a pool and a lock that survive the end of their server."""

import asyncio
import contextlib
import os
import signal
from collections.abc import Iterator
from datetime import timedelta

import asyncpg
import pytest

from persistence.postgres.database import PostgresDatabase
from persistence.postgres.migrate import Migration, missing, shipped
from persistence.postgres.sign_ins import PostgresSignIns
from tests.conftest import OWNER, TEMPLATE, make_template
from tests.contracts.conftest import postgres_ports
from tests.contracts.test_update_log import batch, result
from tests.postgres import PostgresServer, running_postgres
from tmi.domain.errors import DatabaseUnavailable, StartupError

TERMINATE = """
SELECT pg_terminate_backend(pid) FROM pg_stat_activity
WHERE application_name = 'tmi' AND datname = current_database()
"""
NAMES = [m.name for m in shipped()]


@pytest.fixture
def own_server() -> Iterator[PostgresServer]:
    """A server of the test's own, which it may end."""
    with running_postgres() as server:
        asyncio.run(make_template(server))
        yield server


async def migrated(url: str) -> list[str]:
    database = await PostgresDatabase.connect(url)
    try:
        return list(await database.migrate())
    finally:
        await database.close()


async def test_an_empty_database_gets_every_migration_once(empty_database_url: str) -> None:
    assert [NAMES, []] == [await migrated(empty_database_url) for _ in range(2)]


async def test_nodes_that_migrate_at_once_apply_each_migration_once(empty_database_url: str) -> None:
    answers = await asyncio.gather(*(migrated(empty_database_url) for _ in range(4)))

    assert NAMES == [name for answer in answers for name in answer]


async def test_a_database_newer_than_the_program_is_refused(database: PostgresDatabase) -> None:
    await database.fetch("INSERT INTO schema_migrations (name, checksum) VALUES ('9999_future', 'x')")

    with pytest.raises(StartupError, match="newer than this program: it has migration 9999_future"):
        await database.migrate()


async def test_a_migration_that_changed_after_it_was_applied_is_refused(database: PostgresDatabase) -> None:
    await database.fetch("UPDATE schema_migrations SET checksum = 'x' WHERE name = '0002_threat_models'")

    with pytest.raises(StartupError, match="Migration 0002_threat_models was changed"):
        await database.migrate()


async def test_a_role_that_may_not_create_tables_gets_one_clear_sentence(
    postgres_server: PostgresServer, empty_database_url: str
) -> None:
    connection = await asyncpg.connect(postgres_server.url("postgres"))
    await connection.execute("DROP ROLE IF EXISTS stranger")
    await connection.execute("CREATE ROLE stranger LOGIN")
    await connection.close()

    with pytest.raises(StartupError, match="permission denied"):
        await migrated(empty_database_url.replace(f"{OWNER}@", "stranger@"))


def test_each_migration_has_a_number_of_its_own() -> None:
    numbers = [int(m.name[:4]) for m in shipped()]
    assert sorted(set(numbers)) == numbers
    assert 1 == numbers[0]


def test_what_is_missing_is_what_was_not_applied() -> None:
    first, second = Migration("0001_a", "SELECT 1"), Migration("0002_b", "SELECT 2")

    assert [second] == list(missing([first, second], {"0001_a": first.checksum}))


async def test_a_malformed_url_is_refused_without_repeating_it() -> None:
    with pytest.raises(StartupError, match=r"The database URL is malformed\.") as caught:
        await PostgresDatabase.connect("mysql://user:secret@host/db")

    assert "secret" not in str(caught.value)


async def test_a_server_that_is_not_there_is_unavailable() -> None:
    with pytest.raises(DatabaseUnavailable):
        await PostgresDatabase.connect("postgresql://tmi@/tmi?host=/nonexistent")


async def test_a_database_that_is_not_there_is_unavailable(postgres_server: PostgresServer) -> None:
    with pytest.raises(DatabaseUnavailable):
        await PostgresDatabase.connect(postgres_server.url("nonexistent"))


async def test_the_pool_outlives_its_server(own_server: PostgresServer) -> None:
    database = await PostgresDatabase.connect(own_server.url(TEMPLATE, OWNER))
    ports = postgres_ports(database)
    diagram = await ports.diagram()
    await asyncio.gather(*(ports.log.load(diagram.id) for _ in range(10)))

    own_server.stop()
    with pytest.raises(DatabaseUnavailable):
        await ports.log.load(diagram.id)
    with pytest.raises(DatabaseUnavailable):
        await ports.log.claim(diagram.id, "node")
    assert not await database.ping(1.0)

    own_server.start()
    assert await database.ping(1.0)
    assert 1 == await ports.log.claim(diagram.id, "node")
    assert result((diagram.id,)) == await ports.log.append([batch(diagram.id, 1, 1)])
    await database.close()


async def test_an_append_outlives_the_server_it_was_made_for(own_server: PostgresServer) -> None:
    database = await PostgresDatabase.connect(own_server.url(TEMPLATE, OWNER))
    ports = postgres_ports(database)
    diagram = await ports.diagram()
    await ports.log.claim(diagram.id, "node")
    await ports.log.append([batch(diagram.id, 1, 1)])

    own_server.stop()
    with pytest.raises(DatabaseUnavailable):
        await ports.log.append([batch(diagram.id, 1, 2)])

    own_server.start()
    assert result((diagram.id,)) == await ports.log.append([batch(diagram.id, 1, 2)])
    await database.close()


async def test_an_append_whose_connection_was_ended_is_unavailable_once(
    database: PostgresDatabase, database_url: str
) -> None:
    ports = postgres_ports(database)
    diagram = await ports.diagram()
    await ports.log.claim(diagram.id, "node")
    await ports.log.append([batch(diagram.id, 1, 1)])
    admin = await asyncpg.connect(database_url)
    await admin.execute(TERMINATE)
    await admin.close()

    with contextlib.suppress(DatabaseUnavailable):
        await ports.log.append([batch(diagram.id, 1, 2)])

    assert result((diagram.id,)) == await ports.log.append([batch(diagram.id, 1, 2)])


async def test_reads_that_meet_dead_connections_are_asked_again(
    database: PostgresDatabase, database_url: str
) -> None:
    ports = postgres_ports(database)
    diagram = await ports.diagram()
    await asyncio.gather(*(database.read("SELECT pg_sleep(0.01)") for _ in range(10)))
    admin = await asyncpg.connect(database_url)

    for _ in range(5):
        await admin.execute(TERMINATE)
        loaded = await asyncio.gather(*(ports.log.load(diagram.id) for _ in range(10)))
        assert [0] * 10 == [stored.seq for stored in loaded]

    await admin.close()


async def test_a_ping_takes_no_longer_than_it_may_and_the_next_one_asks_anew(
    database: PostgresDatabase,
) -> None:
    assert await database.ping(5.0)
    found = await database.read(
        "SELECT pid FROM pg_stat_activity WHERE datname = current_database()"
        " AND query = 'SELECT 1' AND pid <> pg_backend_pid()"
    )
    backend = found[0]["pid"]
    os.kill(backend, signal.SIGSTOP)
    try:
        async with asyncio.timeout(2):
            assert not await database.ping(0.3)
            assert await database.ping(1.5)
    finally:
        os.kill(backend, signal.SIGCONT)


async def test_a_server_that_hangs_is_unavailable_in_time_and_its_connection_is_replaced(
    database_url: str,
) -> None:
    database = await PostgresDatabase.connect(
        database_url, max_connections=1, command_timeout_s=0.3, connect_timeout_s=1.0
    )
    backend = (await database.read("SELECT pg_backend_pid() AS pid"))[0]["pid"]
    os.kill(backend, signal.SIGSTOP)
    try:
        async with asyncio.timeout(10):
            with pytest.raises(DatabaseUnavailable):
                await database.read("SELECT 1")
            assert await database.ping(5.0)
    finally:
        os.kill(backend, signal.SIGCONT)
        await database.close()


async def test_what_the_statement_got_wrong_is_no_failure_of_the_database(database: PostgresDatabase) -> None:
    with pytest.raises(asyncpg.DivisionByZeroError):
        await database.read("SELECT 1 / 0")


async def test_the_lock_is_lost_with_its_session_and_won_back(database: PostgresDatabase) -> None:
    async with database.hold_single_writer_lock() as changes:
        await database.read(
            "SELECT pg_terminate_backend(pid) FROM pg_locks WHERE locktype = 'advisory'"
            " AND database = (SELECT oid FROM pg_database WHERE datname = current_database())"
        )

        async with asyncio.timeout(10):
            assert [False, True] == [await anext(changes), await anext(changes)]


async def test_the_lock_is_won_back_after_the_server_came_back(own_server: PostgresServer) -> None:
    database = await PostgresDatabase.connect(own_server.url(TEMPLATE, OWNER))
    async with database.hold_single_writer_lock() as changes:
        own_server.stop()
        async with asyncio.timeout(10):
            lost = await anext(changes)
            own_server.start()
            won = await anext(changes)
    await database.close()

    assert [False, True] == [lost, won]


async def test_the_changes_end_when_another_service_took_the_lock(
    database: PostgresDatabase, database_url: str
) -> None:
    other = await asyncpg.connect(database_url)
    async with database.hold_single_writer_lock() as changes:
        waiting = asyncio.create_task(other.execute("SELECT pg_advisory_lock($1)", 0x746D69_02))
        await asyncio.sleep(0.05)
        await database.read(
            "SELECT pg_terminate_backend(pid) FROM pg_locks WHERE locktype = 'advisory' AND granted"
            " AND database = (SELECT oid FROM pg_database WHERE datname = current_database())"
        )
        async with asyncio.timeout(10):
            assert [False] == [change async for change in changes]
        await waiting
    await other.close()


async def test_two_databases_of_one_server_have_a_lock_each(
    database_url: str, empty_database_url: str
) -> None:
    databases = [await PostgresDatabase.connect(url) for url in (database_url, empty_database_url)]

    async with databases[0].hold_single_writer_lock(), databases[1].hold_single_writer_lock():
        pass

    for database in databases:
        await database.close()


async def test_what_expired_is_purged_in_batches_and_the_rest_stays(database: PostgresDatabase) -> None:
    sign_ins = PostgresSignIns(database)
    alice = await postgres_ports(database).user()
    for n in range(5):
        await sign_ins.start(alice.id, f"expired {n}", timedelta(seconds=-1))
    standing = await sign_ins.start(alice.id, "standing", timedelta(hours=1))

    purged = [await database.purge_expired(batch=2) for _ in range(6)]

    assert 10 == sum(purged)
    assert max(purged) <= 4
    assert 0 == purged[-1]
    assert standing == await sign_ins.get(standing.id)


async def test_an_idle_browser_is_purged_after_its_sign_in_and_not_before(database: PostgresDatabase) -> None:
    ports = postgres_ports(database)
    sign_in = await ports.sign_ins.start((await ports.user()).id, None, timedelta(hours=1))
    await ports.browser_sessions.begin("secret", sign_in.id, timedelta(seconds=-10))

    assert 0 == await database.purge_expired()
    ended = await ports.browser_sessions.end_idle(timedelta(0), 10)
    assert [sign_in.id] == [one.sign_in for one in ended]
    assert 1 == await database.purge_expired()
