"""Migrations: numbered SQL files, each applied once, in its own transaction, under a lock that nodes share.

A database knows what was applied to it and with which content. One that knows more than this program, or
something else under the same name, is refused: to go on would mean to guess.
"""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import resources
from typing import TYPE_CHECKING

import asyncpg

from tmi.domain.errors import StartupError

if TYPE_CHECKING:
    Connection = asyncpg.Connection[asyncpg.Record]
else:
    Connection = asyncpg.Connection

LOCK = 0x746D69_01
"""Advisory lock of whoever migrates."""

CREATE_TABLE = """
CREATE TABLE IF NOT EXISTS schema_migrations (
    name       text PRIMARY KEY,
    checksum   text NOT NULL,
    applied_at timestamptz NOT NULL DEFAULT now()
)
"""


@dataclass(frozen=True, slots=True)
class Migration:
    """One file: `0001_name.sql`."""

    name: str
    sql: str

    @property
    def checksum(self) -> str:
        """SHA-256 of the file, in hexadecimal."""
        return hashlib.sha256(self.sql.encode()).hexdigest()


def shipped() -> Sequence[Migration]:
    """The migrations of this program, in order."""
    folder = resources.files("persistence.postgres") / "migrations"
    files = sorted((f for f in folder.iterdir() if f.name.endswith(".sql")), key=lambda f: f.name)
    return [Migration(f.name.removesuffix(".sql"), f.read_text(encoding="utf-8")) for f in files]


def missing(migrations: Sequence[Migration], applied: Mapping[str, str]) -> Sequence[Migration]:
    """Those of `migrations` that a database with `applied` (name to checksum) lacks. Raises StartupError."""
    known = {m.name for m in migrations}
    if newer := sorted(applied.keys() - known):
        raise StartupError(f"The database is newer than this program: it has migration {newer[-1]}.")
    for migration in migrations:
        if applied.get(migration.name, migration.checksum) != migration.checksum:
            raise StartupError(
                f"Migration {migration.name} was changed after it was applied to this database."
            )
    return [m for m in migrations if m.name not in applied]


async def migrate(connection: Connection, migrations: Sequence[Migration]) -> Sequence[str]:
    """Apply what is missing, on a direct connection; returns the names. Raises StartupError.

    Waits for another node that migrates as long as the connection's `lock_timeout` allows.
    """
    await connection.execute("SELECT pg_advisory_lock($1)", LOCK)
    with _refusals("The migrations' table"):
        await connection.execute(CREATE_TABLE)
        rows = await connection.fetch("SELECT name, checksum FROM schema_migrations")
    todo = missing(migrations, {row["name"]: row["checksum"] for row in rows})
    for migration in todo:
        with _refusals(f"Migration {migration.name}"):
            await _apply(connection, migration)
    await connection.execute("SELECT pg_advisory_unlock($1)", LOCK)
    return [m.name for m in todo]


async def _apply(connection: Connection, migration: Migration) -> None:
    async with connection.transaction():
        await connection.execute(migration.sql)
        await connection.execute(
            "INSERT INTO schema_migrations (name, checksum) VALUES ($1, $2)",
            migration.name,
            migration.checksum,
        )


@contextmanager
def _refusals(what: str) -> Iterator[None]:
    try:
        yield
    except asyncpg.SyntaxOrAccessError as error:
        raise StartupError(f"{what} was refused by the database: {error}.") from error
