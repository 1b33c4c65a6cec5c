"""One connection that writes opens, and the one rule it has: never make the caller wait longer than the limit."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any
from uuid import UUID

import psycopg
from psycopg import AsyncConnection

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
        self._conn: AsyncConnection[Any] | None = None
        self._given_up: set[asyncio.Task[None]] = set()

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
        # Not wait_for: it cancels and then waits for the end of the cancelling, and a frozen server answers neither.
        await asyncio.wait({work}, timeout=limit_seconds)
        if not work.done():
            self._give_up(work)
            raise Away("time-out")
        try:
            self._conn = work.result()
        except _REFUSALS as error:
            raise Refused(_told(error)) from error
        except (psycopg.Error, OSError) as error:
            raise Away(_told(error)) from error

    async def _connect_and(self, conn: Connection | None, use: Callable[[Connection], Awaitable[None]]) -> Connection:
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
        except BaseException:
            await conn.close()
            raise
        return conn

    def _give_up(self, work: "asyncio.Future[Connection]") -> None:
        """Leaves a hanging write to itself for a while: it may still succeed."""

        async def see_off() -> None:
            await asyncio.wait({work}, timeout=_HANG_SECONDS)
            if not work.done():
                work.cancel()
                await asyncio.wait({work}, timeout=_HANG_SECONDS)
            elif work.exception() is None:
                await work.result().close()

        task = asyncio.create_task(see_off())
        self._given_up.add(task)
        task.add_done_callback(self._given_up.discard)

    async def close(self) -> None:
        """Closes the connection."""
        for task in self._given_up:
            task.cancel()
        if self._conn is not None:
            await self._conn.close()


def _told(error: BaseException) -> str:
    # The first line only: the next ones quote the row, and this ends up in logs.
    return f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"
