"""Fixtures that all of tests/ can use."""

import asyncio
import gc
import os
import shutil
import tempfile
import uuid
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from pathlib import Path

import asyncpg
import pytest
import uvloop

from persistence.postgres.database import PostgresDatabase
from tests.postgres import PostgresServer, running_postgres
from tmi.embedded.valkey import embedded_valkey

OWNER = "tmi"
TEMPLATE = "tmi_template"
COPY = f"TEMPLATE {TEMPLATE} STRATEGY file_copy"  # without fsync 7 times as fast as wal_log
TEMPORARY_ROOT = pytest.StashKey[Path]()


def pytest_configure(config: pytest.Config) -> None:
    """Keep `tmp_path` below a folder of this session's own.

    As root, embedded servers get an access entry on the folders above their data. Every pytest session begins
    with a chmod of the folder that all sessions share, which would void the entries of those that run.
    """
    root = Path(tempfile.mkdtemp(prefix="tmi-tests-"))
    config.stash[TEMPORARY_ROOT] = root
    os.environ["PYTEST_DEBUG_TEMPROOT"] = str(root)


def pytest_asyncio_loop_factories() -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    """Tests run on the service's own loop: transports and timers differ from asyncio's."""
    return {"uvloop": uvloop.new_event_loop}


def pytest_collection_finish() -> None:
    """Keep the tests themselves out of full collections: those took a third of the unit tests of `api`."""
    gc.collect()
    gc.freeze()


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    """Leave nothing behind, except for looking at what failed."""
    if exitstatus == pytest.ExitCode.OK:
        shutil.rmtree(session.config.stash[TEMPORARY_ROOT], ignore_errors=True)


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[PostgresServer]:
    """One PostgreSQL for the session, with a migrated template database of an unprivileged role."""
    with running_postgres() as server:
        asyncio.run(make_template(server))
        yield server


@pytest.fixture
async def database_url(postgres_server: PostgresServer) -> AsyncIterator[str]:
    """The URL of a database of the test's own: migrated, empty, owned by a role that owns nothing else."""
    name = f"test_{uuid.uuid4().hex}"
    await _execute(postgres_server, f"CREATE DATABASE {name} OWNER {OWNER} {COPY}")
    yield postgres_server.url(name, OWNER)
    await _execute(postgres_server, f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")


@pytest.fixture
async def empty_database_url(postgres_server: PostgresServer) -> AsyncIterator[str]:
    """Like `database_url`, with no migration applied."""
    name = f"empty_{uuid.uuid4().hex}"
    await _execute(postgres_server, f"CREATE DATABASE {name} OWNER {OWNER} STRATEGY file_copy")
    yield postgres_server.url(name, OWNER)
    await _execute(postgres_server, f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")


@pytest.fixture
async def database(database_url: str) -> AsyncIterator[PostgresDatabase]:
    """A pool on a database of the test's own."""
    database = await PostgresDatabase.connect(database_url)
    yield database
    await database.close()


@pytest.fixture
async def valkey_url() -> AsyncIterator[str]:
    """The URL of an empty Valkey of the test's own. Its path is short, as sockets need it."""
    with tempfile.TemporaryDirectory(prefix="tmi-valkey-") as folder:
        async with embedded_valkey(Path(folder)) as url:
            yield url


async def make_template(server: PostgresServer) -> None:
    """Make the role and the migrated database that tests copy."""
    await _execute(server, f"CREATE ROLE {OWNER} LOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE")
    await _execute(server, f"CREATE DATABASE {TEMPLATE} OWNER {OWNER}")
    database = await PostgresDatabase.connect(server.url(TEMPLATE, OWNER))
    try:
        await database.migrate()
    finally:
        await database.close()


async def _execute(server: PostgresServer, sql: str) -> None:
    connection = await asyncpg.connect(server.url("postgres"))
    try:
        await connection.execute(sql)
    finally:
        await connection.close()
