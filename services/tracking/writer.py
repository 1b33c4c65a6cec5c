"""One connection that writes opens, and the one rule it has: never make the caller wait longer than the limit."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any
from uuid import UUID

import psycopg
from psycopg import AsyncConnection
from psycopg.pq import TransactionStatus

from services.tracking.store import opens as store
from services.tracking.store.opens import RawOpen

# After this a write that hangs is given up and its connection dropped. Until then it may still succeed, which does no
# harm: the same opens are then stored twice under one key, that is once.
_HANG_SECONDS = 10.0
Connection = AsyncConnection[Any]
_OPTIONS = (
    # An answer with X-Open-Id is on disk, whatever a role's or the server's default may say.
    "-c synchronous_commit=on -c statement_timeout=5s -c lock_timeout=2s -c timezone=UTC"
)
# Faults of the content: trying the same again gives the same. All others are faults of the server or the way to it.
_REFUSALS = (
    psycopg.DataError,
    psycopg.IntegrityError,
    psycopg.errors.ProgramLimitExceeded,
    UnicodeError,
    ValueError,
    TypeError,
    OverflowError,
)


class Away(Exception):
    """PostgreSQL did not take the opens in time, or not at all; whether they are stored is unknown."""


class Refused(Exception):
    """PostgreSQL does not want these opens as they are."""


class Writer:
    """A connection of its own, made when it is needed, made again when it broke."""

    def __init__(self, database_url: str, subject: str, message_type: str) -> None:
        self._url = database_url
        self._subject = subject
        self._message_type = message_type
        self._conn: Connection | None = None
        self._given_up: set[asyncio.Future[None]] = set()
        self._is_closed = False

    async def insert(self, opens: Sequence[RawOpen], batch_id: str, pack: bytes, *, limit_seconds: float) -> None:
        """Returns when opens and pack are committed; raises Away or Refused."""
        await self._do(
            lambda conn: store.insert_opens(conn, opens, UUID(batch_id), self._subject, self._message_type, pack),
            limit_seconds,
        )

    async def _do(self, use: Callable[[Connection], Awaitable[None]], limit_seconds: float) -> None:
        # What hangs keeps its connection to itself; the next attempt begins without.
        conn, self._conn = self._conn, None
        work = asyncio.ensure_future(self._connect_and(conn, use))
        try:
            # Not wait_for: it cancels and then waits for the end of that, and a frozen server answers neither.
            await asyncio.wait({work}, timeout=limit_seconds)
        finally:
            if not work.done():
                self._give_up(work)
        if not work.done():
            raise Away("time-out")
        try:
            work.result()
        except _REFUSALS as error:
            raise Refused(_told(error)) from error
        except (psycopg.Error, OSError) as error:
            raise Away(_told(error)) from error

    async def _connect_and(self, conn: Connection | None, use: Callable[[Connection], Awaitable[None]]) -> None:
        if conn is None or conn.closed:
            conn = await AsyncConnection.connect(
                self._url,
                autocommit=True,
                application_name="opennotice-tracking-opens",
                connect_timeout=3,
                options=_OPTIONS,
                keepalives_idle=5,
                keepalives_interval=2,
                keepalives_count=3,
                tcp_user_timeout=10_000,
            )
        try:
            await use(conn)
        except _REFUSALS:
            await self._keep(conn)
            raise
        except BaseException:
            # After a fault of the server a new connection may find a better one.
            await conn.close()
            raise
        # Also when nobody waits any more: to make a connection may take longer than a write may, and were it thrown
        # away then, no write would ever find one.
        await self._keep(conn)

    async def _keep(self, conn: Connection) -> None:
        """Keeps a connection for the next write, unless there is one already or something is open in it."""
        is_idle = conn.info.transaction_status is TransactionStatus.IDLE
        if self._is_closed or self._conn is not None or not is_idle:
            await conn.close()
        else:
            self._conn = conn

    def _give_up(self, work: asyncio.Future[None]) -> None:
        """Leaves a hanging write to itself for a while: it may still succeed."""
        end = asyncio.get_running_loop().call_later(_HANG_SECONDS, work.cancel)

        def see_off(_work: asyncio.Future[None]) -> None:
            end.cancel()
            self._given_up.discard(work)
            if not work.cancelled():
                # Looked at, because asyncio tells of a fault that nobody has looked at.
                work.exception()

        self._given_up.add(work)
        work.add_done_callback(see_off)

    async def close(self) -> None:
        """Closes the connection, and ends what was given up."""
        self._is_closed = True
        for work in self._given_up:
            work.cancel()
        if self._conn is not None:
            await self._conn.close()


def _told(error: BaseException) -> str:
    # The first line only: the next ones quote the row, and this ends up in logs.
    return f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"
