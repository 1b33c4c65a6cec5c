"""Dead letters: events that could not be taken in, kept with their bytes and the error until they are tried again."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import prometheus_client
from psycopg import sql
from psycopg.rows import class_row

from services.chassis import log
from services.chassis.postgres import Connection, Database

_LOG = log.get(__name__)
_WAITING = prometheus_client.Gauge("opennotice_dead_letters", "Events that were set aside and wait for somebody")
_COUNT_SECONDS = 30.0
_ERROR_LENGTH = 2000
# The letter of an event that is being read again; what it says when another reader is given the event; and what it says
# when nobody took it away even then.
_IN_HAND = "in hand again: the process that had it before ended or hung"
_IN_DOUBT = "in hand again for the second time: the process that had it is given a moment to say that it is well"
_QUARANTINED = "quarantined: the process that had it ended or hung, twice; it was not read a third time"
# Longer than a reader needs to come back to its letter once PostgreSQL is there again, and short enough for somebody to
# hear within a minute of an event that ends its readers. Counted from when PostgreSQL was asked, because before it may
# have been away, and the reader could not take its letter away.
_DOUBT_SECONDS = 15.0
_INSERT = sql.SQL(
    "insert into {} (consumer, subject, message_type, payload, error, attempts) values (%s, %s, %s, %s, %s, %s)"
    " returning id"
)
_INSERT_AS = sql.SQL(
    "insert into {} (id, consumer, subject, message_type, payload, error, attempts) overriding system value"
    " values (%s, %s, %s, %s, %s, %s, %s)"
)
Replay = Callable[[bytes], Awaitable[None]]


class InDoubt(Exception):
    """Whoever had an event may be at it still, or could not say that it did no harm; to be asked again later."""

    def __init__(self) -> None:
        super().__init__("another reader may have it in hand")
        self.seconds = _DOUBT_SECONDS


@dataclass(frozen=True)
class DeadLetter:
    """One event that was set aside; its bytes stay where they are."""

    id: int
    consumer: str
    subject: str
    message_type: str
    payload_bytes: int
    error: str
    attempts: int
    create_time: datetime


class DeadLetters:
    """The table `dead_letters` of one schema."""

    def __init__(self, database: Database, schema: str) -> None:
        self._database = database
        self._table = sql.Identifier(schema, "dead_letters")
        self._replays: dict[tuple[str, str], Replay] = {}

    def on_replay(self, consumer: str, message_type: str, replay: Replay) -> None:
        """Says how one kind of event is taken in again: `replay` gets the bytes, commits, and raises when it cannot."""
        self._replays[(consumer, message_type)] = replay

    async def keep(
        self,
        *,
        consumer: str,
        subject: str,
        message_type: str,
        payload: bytes,
        error: BaseException,
        attempts: int,
        conn: Connection | None = None,
    ) -> None:
        """Keeps one event that will not be tried again by itself; with `conn` in the transaction that is open there."""
        values = (consumer, subject, message_type, payload, _told(error), attempts)
        async with self._database.transaction() if conn is None else nullcontext(conn) as inside:
            await inside.execute(_INSERT.format(self._table), values)
        _LOG.error("event became a dead letter", consumer=consumer, subject=subject, error=type(error).__name__)

    async def hold(
        self, *, consumer: str, subject: str, message_type: str, payload: bytes, attempts: int
    ) -> int | None:
        """Keeps an event before it is read again that was left without an answer: it may have ended the process.

        Returns the number to release it by when it did no harm; None when it was held before and never released, and
        then it stays here and must not be read. Known by its bytes: numbers in a stream may begin anew. Raises InDoubt
        while it may still be released; then it must not be read either.
        """
        values = (consumer, subject, message_type, payload)
        find = sql.SQL(
            "select id, error, attempts, create_time <= now() - make_interval(secs => %s) from {}"
            " where consumer = %s and payload = %s and error = any(%s) order by id limit 1"
        )
        forget = sql.SQL("delete from {} where id = %s and error = %s")
        async with self._database.transaction() as conn:
            letters = [_IN_HAND, _IN_DOUBT, _QUARANTINED]
            found = await conn.execute(find.format(self._table), (_DOUBT_SECONDS, consumer, payload, letters))
            if (row := await found.fetchone()) is None:
                row = await (await conn.execute(_INSERT.format(self._table), (*values, _IN_HAND, attempts))).fetchone()
                return int(row[0]) if row else None
            number, letter, attempts_then, is_old = row
            if letter == _QUARANTINED:
                # Only the acknowledgement was lost.
                return None
            if letter == _IN_DOUBT and not is_old:
                raise InDoubt
            if not (await conn.execute(forget.format(self._table), (number, letter))).rowcount:
                # Released or decided about in this moment.
                raise InDoubt
            # Under the same number: whoever held it may only have hung, and releases it yet. That it came in doubt is
            # no attempt, because it was not read then.
            said = (_IN_DOUBT, attempts) if letter == _IN_HAND else (_QUARANTINED, attempts_then)
            await conn.execute(_INSERT_AS.format(self._table), (number, *values, *said))
        if letter == _IN_HAND:
            raise InDoubt
        _LOG.error("event became a dead letter", consumer=consumer, subject=subject, error="unanswered twice")
        return None

    async def release(self, number: int, *, taken: bool) -> None:
        """Forgets an event that was held; one that was not taken in stays when another process gave it up meanwhile."""
        forget = sql.SQL("delete from {} where id = %s and (%s or error = any(%s))").format(self._table)
        async with self._database.transaction() as conn:
            # Twice, because a letter that another reader writes anew at the same time is not seen by a statement that
            # began before.
            for _ in range(2):
                await conn.execute(forget, (number, taken, [_IN_HAND, _IN_DOUBT]))

    async def count(self) -> int:
        """Returns how many wait."""
        async with self._database.transaction() as conn:
            row = await (await conn.execute(sql.SQL("select count(*) from {}").format(self._table))).fetchone()
        return int(row[0]) if row else 0

    async def watch(self) -> None:
        """Keeps the metric current for ever; raises when the database is away."""
        while True:
            _WAITING.set(await self.count())
            await asyncio.sleep(_COUNT_SECONDS)

    async def list(self, after: int, limit: int) -> Sequence[DeadLetter]:
        """Returns the oldest ones after a number."""
        query = sql.SQL(
            "select id, consumer, subject, message_type, length(payload) as payload_bytes, error, attempts,"
            " create_time from {} where id > %s order by id limit %s"
        )
        async with self._database.transaction() as conn:
            cursor = conn.cursor(row_factory=class_row(DeadLetter))
            await cursor.execute(query.format(self._table), (after, limit))
            return await cursor.fetchall()

    async def replay(self, number: int) -> str:
        """Takes one in again and forgets it; returns why it is still there, nothing when it is not."""
        found = await self._one(number)
        if found is None:
            return "there is no such dead letter"
        consumer, message_type, payload = found
        replay = self._replays.get((consumer, message_type))
        if replay is None:
            return f"nothing here takes in {message_type or 'an event of no type'} for {consumer}"
        try:
            await replay(payload)
        except Exception as error:
            _LOG.warning("dead letter was refused again", consumer=consumer, error=type(error).__name__)
            return _told(error)
        async with self._database.transaction() as conn:
            await conn.execute(sql.SQL("delete from {} where id = %s").format(self._table), (number,))
        _LOG.info("dead letter was taken in", consumer=consumer)
        return ""

    async def _one(self, number: int) -> tuple[Any, ...] | None:
        query = sql.SQL("select consumer, message_type, payload from {} where id = %s").format(self._table)
        async with self._database.transaction() as conn:
            return await (await conn.execute(query, (number,))).fetchone()


def _told(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}".replace("\0", "")[:_ERROR_LENGTH]
