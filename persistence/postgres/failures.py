"""The one place that tells "the database is away" from "the statement was refused"."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager

import asyncpg

from tmi.domain.errors import DatabaseUnavailable

LOST = (
    ConnectionError,
    asyncio.IncompleteReadError,
    asyncpg.InterfaceError,  # the connection or the pool is closed or closing
    asyncpg.InternalClientError,  # among others: the server's farewell arrived in between
    asyncpg.PostgresConnectionError,  # class 08
    asyncpg.AdminShutdownError,  # 57P01
    asyncpg.CrashShutdownError,  # 57P02
)
"""The connection is gone; a new one may do at once what this one could not."""

AWAY = (
    *LOST,
    OSError,  # TimeoutError included
    asyncpg.IdleInTransactionSessionTimeoutError,  # 25P03
    asyncpg.ReadOnlySQLTransactionError,  # 25006: a standby since a failover
    asyncpg.InvalidAuthorizationSpecificationError,  # 28
    asyncpg.InvalidCatalogNameError,  # 3D
    asyncpg.TransactionRollbackError,  # 40: deadlock
    asyncpg.InsufficientResourcesError,  # 53: disk full, too many connections
    asyncpg.LockNotAvailableError,  # 55P03
    asyncpg.OperatorInterventionError,  # 57: starting up, shutting down, cancelled
    asyncpg.PostgresSystemError,  # 58
)
"""Whatever means that the database cannot be asked just now."""


@contextmanager
def translated() -> Iterator[None]:
    """Raise `DatabaseUnavailable` for everything in AWAY. What the server said about a statement passes."""
    try:
        yield
    except AWAY as error:
        raise DatabaseUnavailable(str(error) or type(error).__name__) from error
