"""The way to PostgreSQL: a bounded pool that survives the end of its server.

It holds true:

- Whatever means that the database cannot be asked just now leaves here as `DatabaseUnavailable` (see
  failures.py).
- No wait is without a bound: for a connection, a statement, a lock, an idle transaction. The bounds on
  locks and idle transactions are the server's to keep, so that a paused node cannot stop the others for
  long.
- A connection carries no session state from one use to the next, so giving it back costs no round trip.
- When one connection is lost, all of before are replaced at their next use. A read that met a dead one is
  asked once more on a new one; a write is not, since it may have been committed.

Appends and single reads have connections of their own, for their speed (see hot.py), and pings one. The
single-writer lock and migrations need a server session of their own, so they connect directly too.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import asyncpg

from persistence.postgres.failures import LOST, translated
from persistence.postgres.hot import HotConnections
from persistence.postgres.migrate import migrate, shipped
from persistence.postgres.single_writer import single_writer_lock
from tmi.domain.errors import DatabaseUnavailable, StartupError

if TYPE_CHECKING:
    from asyncpg.pool import PoolConnectionProxy

    Record = asyncpg.Record
    Pool = asyncpg.Pool[Record]
    Connection = asyncpg.Connection[Record]
    PooledConnection = PoolConnectionProxy[Record]
else:
    Record = asyncpg.Record
    Pool = asyncpg.Pool
    Connection = asyncpg.Connection
    PooledConnection = asyncpg.Connection

T = TypeVar("T")

LOCK_TIMEOUT_S = 5
IDLE_IN_TRANSACTION_TIMEOUT_S = 10
MIGRATION_LOCK_TIMEOUT_S = 600


HOT_CONNECTIONS = 2
READING_CONNECTIONS = 4
PLANNED_ONCE = {
    "plan_cache_mode": "force_generic_plan",
    "enable_seqscan": "off",
    "jit": "off",  # which a plan without an index would else seem to be worth
}
"""For connections with a few statements, whose rows are found by indexes whatever the statistics say: each is
planned once, and so.

Left to itself PostgreSQL 18 plans anew for each append, which takes as long as to run it, or reads the fences
of all diagrams through, also when there have come to be thousands.
"""


@dataclass(frozen=True, slots=True)
class Options:
    """How every connection is made."""

    dsn: str
    connect_timeout_s: float
    command_timeout_s: float
    statement_cache_size: int

    def arguments(self, lock_timeout_s: int = LOCK_TIMEOUT_S) -> dict[str, Any]:
        """What asyncpg takes."""
        return {
            "dsn": self.dsn,
            "timeout": self.connect_timeout_s,
            "command_timeout": self.command_timeout_s,
            "statement_cache_size": self.statement_cache_size,
            "server_settings": {
                "application_name": "tmi",
                "synchronous_commit": "on",  # whatever the role's default is: saved means saved
                "lock_timeout": f"{lock_timeout_s}s",
                "idle_in_transaction_session_timeout": f"{IDLE_IN_TRANSACTION_TIMEOUT_S}s",
            },
        }


class PostgresDatabase:
    """A pool of connections to one database; also the port `Database`."""

    def __init__(self, options: "Options", pool: Pool) -> None:
        self._options = options
        self._pool = pool
        self._acquired_now = 0
        self._hot = self._connections(HOT_CONNECTIONS)
        self._reading = HotConnections(self._connect_reading, READING_CONNECTIONS, options.connect_timeout_s)
        self._pings = self._connections(1)

    @classmethod
    async def connect(
        cls,
        dsn: str,
        *,
        max_connections: int = 10,
        connect_timeout_s: float = 5.0,
        command_timeout_s: float = 10.0,
        statement_cache_size: int = 100,
    ) -> "PostgresDatabase":
        """Open the pool. Raises DatabaseUnavailable, and StartupError for a malformed URL.

        `statement_cache_size` 0 is for a pooler in between that does not know prepared statements.
        """
        options = Options(dsn, connect_timeout_s, command_timeout_s, statement_cache_size)
        try:
            with translated():
                pool = await asyncpg.create_pool(
                    **options.arguments(),
                    min_size=min(2, max_connections),
                    max_size=max_connections,
                    reset=_leave_as_is,
                )
        except DatabaseUnavailable as error:
            if isinstance(error.__cause__, asyncpg.ClientConfigurationError):
                raise StartupError("The database URL is malformed.") from None
            raise
        return cls(options, pool)

    async def close(self, timeout_s: float = 5.0) -> None:
        """Close every connection, those that are in use after `timeout_s` included."""
        self._hot.close()
        self._reading.close()
        self._pings.close()
        try:
            async with asyncio.timeout(timeout_s):
                await self._pool.close()
        except TimeoutError:
            self._pool.terminate()

    @property
    def open_connections(self) -> int:
        """Connections that are open now, without those of the lock and of migrations."""
        return self._pool.get_size() + self._hot.open + self._reading.open + self._pings.open

    @property
    def is_awaited(self) -> bool:
        """Somebody waits for its answer, or holds a connection to ask more."""
        return self._acquired_now > 0 or self._reading.in_use > 0 or self._hot.in_use > 0

    # --- for the adapters ---

    @asynccontextmanager
    async def connection(self) -> AsyncIterator[PooledConnection]:
        """A connection for the moment. Raises DatabaseUnavailable, also for what the body meets."""
        with translated():
            async with self._acquired() as connection:
                yield connection

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[PooledConnection]:
        """A read committed transaction; after DatabaseUnavailable it may or may not be committed."""
        async with self.connection() as connection, connection.transaction():
            yield connection

    async def fetch(self, sql: str, *arguments: Any) -> Sequence[Record]:
        """The rows of one statement, which may write."""
        async with self.connection() as connection:
            return await connection.fetch(sql, *arguments)

    async def fetch_hot(self, sql: str, *arguments: Any) -> Sequence[Record]:
        """Like `fetch`, at half the cost, and on two connections of its own: for the append alone."""
        with translated():
            return await self._hot.fetch(sql, *arguments)

    async def read(self, sql: str, *arguments: Any) -> Sequence[Record]:
        """The rows of one statement that only reads, at half the cost of `fetch`; see `read_with`."""
        with translated():
            try:
                return await self._reading.fetch(sql, *arguments)
            except LOST:
                return await self._reading.fetch(sql, *arguments)

    async def read_with(self, work: Callable[[PooledConnection], Awaitable[T]]) -> T:
        """What `work`, which only reads, returns; it is tried a second time if its connection was lost."""
        with translated():
            try:
                async with self._acquired() as connection:
                    return await work(connection)
            except LOST:
                async with self._acquired() as connection:
                    return await work(connection)

    @asynccontextmanager
    async def _acquired(self) -> AsyncIterator[PooledConnection]:
        self._acquired_now += 1
        try:
            async with self._pool.acquire(timeout=self._options.connect_timeout_s) as connection:
                yield connection
        except LOST:
            await self._pool.expire_connections()
            raise
        finally:
            self._acquired_now -= 1

    # --- the port Database ---

    async def migrate(self) -> Sequence[str]:
        """Apply missing migrations under an advisory lock; returns their names. Raises StartupError."""
        with translated():
            connection = await self._connect_directly(MIGRATION_LOCK_TIMEOUT_S, command_timeout_s=None)
            try:
                return await migrate(connection, shipped())
            finally:
                await connection.close(timeout=self._options.connect_timeout_s)

    async def ping(self, timeout_s: float) -> bool:
        """Whether a query is answered in time. Never raises.

        On a connection of its own: one of the pool would be waited for, and given back, beyond the time when
        nothing comes from the server any more.
        """
        try:
            async with asyncio.timeout(timeout_s):
                await self._ping()
        except (DatabaseUnavailable, TimeoutError, asyncpg.PostgresError):
            return False
        return True

    async def _ping(self) -> None:
        with translated():
            try:
                await self._pings.fetch("SELECT 1")
            except LOST:
                await self._pings.fetch("SELECT 1")

    def hold_single_writer_lock(
        self, *, among_nodes: bool = False
    ) -> AbstractAsyncContextManager[AsyncIterator[bool]]:
        """The lock that keeps a second service without Redis off this database. Raises Conflict."""
        return single_writer_lock(
            lambda: self._connect_directly(LOCK_TIMEOUT_S, command_timeout_s=self._options.connect_timeout_s),
            among_nodes=among_nodes,
        )

    async def connect_aside(self) -> Connection:
        """A connection outside the pool, for who has to keep one. Raises DatabaseUnavailable."""
        with translated():
            return await self._connect_directly(
                LOCK_TIMEOUT_S, command_timeout_s=self._options.connect_timeout_s
            )

    async def purge_expired(self, batch: int = 1000) -> int:
        """Delete up to `batch` rows each of expired codes, tokens and sign-ins; returns how many went."""
        rows = await self.fetch(PURGE_EXPIRED, batch)
        return int(rows[0]["purged"])

    async def _connect_directly(self, lock_timeout_s: int, command_timeout_s: float | None) -> Connection:
        arguments = self._options.arguments(lock_timeout_s)
        return await asyncpg.connect(**arguments | {"command_timeout": command_timeout_s})

    def _connections(self, limit: int) -> HotConnections:
        return HotConnections(self._connect_hot, limit, self._options.connect_timeout_s)

    async def _connect_hot(self) -> Connection:
        arguments = self._options.arguments()
        arguments["server_settings"] |= PLANNED_ONCE
        return await asyncpg.connect(**arguments)

    async def _connect_reading(self) -> Connection:
        """To plan a list takes as long as to make it, and statistics mislead where a table belongs to few.
        Times as text are in UTC.
        """
        arguments = self._options.arguments()
        arguments["server_settings"] |= PLANNED_ONCE | {"TimeZone": "UTC", "DateStyle": "ISO"}
        return await asyncpg.connect(**arguments)


PURGE_EXPIRED = """
WITH codes AS (
    DELETE FROM authorization_codes WHERE code_hash IN (
        SELECT code_hash FROM authorization_codes WHERE expires_at < now() LIMIT $1 FOR UPDATE SKIP LOCKED)
    RETURNING 1
), pending AS (
    DELETE FROM pending_authorizations WHERE state_hash IN (
        SELECT state_hash FROM pending_authorizations WHERE expires_at < now()
        LIMIT $1 FOR UPDATE SKIP LOCKED)
    RETURNING 1
), tokens AS (
    DELETE FROM refresh_tokens WHERE token_hash IN (
        SELECT token_hash FROM refresh_tokens t
        WHERE expires_at < now() AND NOT EXISTS (
            SELECT FROM sign_ins s
            WHERE s.id = t.sign_in_id AND s.ended_at IS NULL AND s.expires_at > now())
        LIMIT $1 FOR UPDATE SKIP LOCKED)
    RETURNING 1
), keys AS (
    DELETE FROM signing_keys WHERE kid IN (
        SELECT kid FROM (
            SELECT kid, lag(coalesce(signs_from, created_at)) OVER (
                       ORDER BY coalesce(signs_from, created_at) DESC, kid
                   ) + token_ttl + interval '1 minute' AS verifies_until
            FROM signing_keys) k
        WHERE verifies_until < now() LIMIT $1)
    RETURNING 1
), used AS (
    DELETE FROM used_codes WHERE code_hash IN (
        SELECT code_hash FROM used_codes WHERE expires_at < now() LIMIT $1 FOR UPDATE SKIP LOCKED)
    RETURNING 1
), browsers AS (
    DELETE FROM browser_sessions WHERE secret_hash IN (
        SELECT secret_hash FROM browser_sessions b
        WHERE idle_until < now() AND NOT EXISTS (
            SELECT FROM sign_ins s
            WHERE s.id = b.sign_in_id AND s.ended_at IS NULL AND s.expires_at > now())
        LIMIT $1 FOR UPDATE SKIP LOCKED)
    RETURNING 1
), tickets AS (
    DELETE FROM tickets WHERE ticket_hash IN (
        SELECT ticket_hash FROM tickets WHERE expires_at < now() LIMIT $1 FOR UPDATE SKIP LOCKED)
    RETURNING 1
), challenges AS (
    DELETE FROM deletion_challenges WHERE user_id IN (
        SELECT user_id FROM deletion_challenges WHERE expires_at < now() LIMIT $1 FOR UPDATE SKIP LOCKED)
    RETURNING 1
), sessions AS (
    DELETE FROM sign_ins WHERE id IN (
        SELECT id FROM sign_ins s
        WHERE expires_at < now() AND NOT EXISTS (SELECT FROM refresh_tokens t WHERE t.sign_in_id = s.id)
        LIMIT $1 FOR UPDATE SKIP LOCKED)
    RETURNING 1
)
SELECT (SELECT count(*) FROM codes) + (SELECT count(*) FROM tokens) + (SELECT count(*) FROM tickets)
       + (SELECT count(*) FROM pending)
       + (SELECT count(*) FROM challenges) + (SELECT count(*) FROM sessions)
       + (SELECT count(*) FROM used) + (SELECT count(*) FROM keys) + (SELECT count(*) FROM browsers) AS purged
"""
"""A sign-in goes after the last of its tokens, so that one batch never cascades into thousands. A used token
stays while its sign-in stands: whoever has a copy may wait before they use it. A browser's session stays
until its sign-in has ended, which `BrowserSessions.end_idle` sees to.
"""


async def _leave_as_is(connection: Connection) -> None:
    """Nothing to reset: no adapter changes a session. asyncpg rolls an open transaction back by itself."""
