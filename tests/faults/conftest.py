"""PostgreSQL and Valkey of the test's own, to be stalled, killed and started again, and a process of real
clients.
"""

import asyncio
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import asyncpg
import pytest

from tests.harness.node import NodeDriver
from tests.harness.service import PostgresProcess
from tests.postgres import PostgresServer, running_postgres
from tests.valkey import OwnValkey, running_valkey

DATABASE = "tmi"
ROLE = "tmi"


class OwnPostgres:
    """An external PostgreSQL as the service sees it, and its processes as an operator does."""

    def __init__(self, server: PostgresServer) -> None:
        self._server = server
        self.process = PostgresProcess(server.folder / "data")
        self.url = server.url(DATABASE, ROLE)
        self.admin_url = server.url(DATABASE)
        self.socket = server.folder / ".s.PGSQL.5432"

    async def prepare(self) -> None:
        """Make the role and the empty database."""
        connection = await asyncpg.connect(self._server.url("postgres"))
        try:
            await connection.execute(f"CREATE ROLE {ROLE} LOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE")
            await connection.execute(f"CREATE DATABASE {DATABASE} OWNER {ROLE}")
        finally:
            await connection.close()

    def url_at(self, host: str, port: int) -> str:
        """Its URL behind a proxy."""
        return f"postgresql://{ROLE}@{host}:{port}/{DATABASE}?sslmode=disable"

    def kill(self) -> None:
        """kill -9."""
        self.process.kill()

    def start_again(self) -> None:
        """Start the killed server on the same data and socket."""
        self._server.stop()
        self._server.start()


@pytest.fixture
async def own_postgres() -> AsyncIterator[OwnPostgres]:
    """A server that only this test uses."""
    with running_postgres() as server:
        postgres = OwnPostgres(server)
        await postgres.prepare()
        yield postgres
        await asyncio.to_thread(_resume, postgres)


def _resume(postgres: OwnPostgres) -> None:
    """A stalled server could not be stopped."""
    try:
        postgres.process.resume()
    except OSError:
        return


@pytest.fixture
def own_valkey() -> Iterator[OwnValkey]:
    """A server that only this test uses."""
    with running_valkey() as valkey:
        yield valkey


@pytest.fixture
def driver() -> Iterator[NodeDriver]:
    """The JavaScript clients."""
    with NodeDriver() as driver:
        yield driver


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A data directory for the service."""
    return tmp_path / "data"
