"""PostgreSQL: a pool for one role, and transactions bound to one agency.

Row-level security reads the agency from a setting of the transaction. A transaction that names none sees no row of any
table that belongs to agencies.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from uuid import UUID

import psycopg
from psycopg import AsyncConnection
from psycopg_pool import AsyncConnectionPool, PoolClosed, PoolTimeout, TooManyRequests

Connection = AsyncConnection[Any]

# A statement of a call ends long before the caller's patience does; consumers and exports say otherwise themselves.
STATEMENT_LIMIT = "15s"
LOCK_LIMIT = "5s"
IDLE_LIMIT = "60s"

# No connection, or one that broke; each as it is, because most other faults are derived from OperationalError.
_NO_ANSWER = frozenset(
    {
        PoolTimeout,
        PoolClosed,
        TooManyRequests,
        psycopg.OperationalError,
        psycopg.errors.AdminShutdown,
        psycopg.errors.CrashShutdown,
        psycopg.errors.CannotConnectNow,
        psycopg.errors.ConnectionTimeout,
        psycopg.errors.ConnectionFailure,
    }
)
_PASSING = (
    psycopg.OperationalError,
    psycopg.errors.IdleInTransactionSessionTimeout,
    psycopg.errors.ReadOnlySqlTransaction,
)


def gives_no_answer(error: BaseException) -> bool:
    """Whether an error says that the server is not there now, so that a caller may be told to try again."""
    return type(error) in _NO_ANSWER


def is_passing(error: BaseException) -> bool:
    """Whether an error is the state of the server rather than the fault of what was asked of it.

    Full disks, restarts, locks, broken connections; what is too large for PostgreSQL is named so too, but stays so.
    """
    return isinstance(error, _PASSING) and not isinstance(error, psycopg.errors.ProgramLimitExceeded)


def took_too_long(error: BaseException) -> bool:
    """Whether a statement reached its limit of time: less at once may be done within it."""
    return isinstance(error, psycopg.errors.QueryCanceled)


class Database:
    """A pool of connections as one role."""

    def __init__(self, url: str, *, name: str, most: int = 8, wait_seconds: float = 2.0) -> None:
        self.url = url
        options = (
            f"-c statement_timeout={STATEMENT_LIMIT} -c lock_timeout={LOCK_LIMIT} "
            f"-c idle_in_transaction_session_timeout={IDLE_LIMIT} -c timezone=UTC"
        )
        self.pool = AsyncConnectionPool(
            url,
            min_size=1,
            max_size=most,
            timeout=wait_seconds,
            # A connection that died while idle must not fail the call that gets it.
            check=AsyncConnectionPool.check_connection,
            reconnect_timeout=5,
            kwargs={
                "autocommit": True,
                "application_name": name,
                "connect_timeout": 5,
                "options": options,
                # A frozen or vanished server is noticed by TCP instead of never.
                "keepalives_idle": 5,
                "keepalives_interval": 2,
                "keepalives_count": 3,
                "tcp_user_timeout": 10_000,
            },
            name=name,
            open=False,
        )

    async def open(self) -> None:
        """Starts filling the pool; does not wait for the server."""
        await self.pool.open(wait=False)

    async def close(self) -> None:
        """Closes every connection."""
        await self.pool.close(timeout=5)

    @asynccontextmanager
    async def transaction(self, agency_id: UUID | None = None) -> AsyncIterator[Connection]:
        """Opens a transaction that sees one agency, commits it at the end, rolls back when an exception escapes."""
        async with self.pool.connection() as conn, conn.transaction():
            if agency_id is not None:
                await conn.execute("select set_config('app.agency', %s, true)", (str(agency_id),))
            yield conn

    async def answers(self) -> bool:
        """Whether the server answers now."""
        async with self.pool.connection(timeout=1) as conn:
            await conn.execute("select 1")
        return True
