"""The outbox: an event is committed with the change it tells of, and published afterwards.

Each service with events has a table `outbox` in its own schema (README.md of this folder). A row leaves in the order of
its id as far as one relay goes; several relays may run at once and share the work.
"""

import asyncio
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Protocol
from uuid import UUID

from psycopg import sql
from psycopg.rows import class_row

from services.chassis import log
from services.chassis.bus import Bus, EventMessage, Outgoing, subject_for
from services.chassis.postgres import Connection, Database

_LOG = log.get(__name__)
_MOST_AT_ONCE = 200
# How long a row may lie when nobody woke the relay: another replica's row, or one left by a crash.
_IDLE_SECONDS = 2.0
_FORGET_SECONDS = 600.0
_LOOK_SECONDS = 0.25
# The clocks of NATS and PostgreSQL may differ by as much.
_CLOCKS_DIFFER = timedelta(minutes=1)


async def add(conn: Connection, schema: str, message: EventMessage, event_id: UUID) -> None:
    """Puts an event into the outbox, inside the transaction of the change it tells of."""
    query = sql.SQL("insert into {} (event_id, subject, message_type, payload) values (%s, %s, %s, %s)")
    values = (event_id, subject_for(message.DESCRIPTOR), message.DESCRIPTOR.full_name, message.SerializeToString())
    await conn.execute(query.format(sql.Identifier(schema, "outbox")), values)


class Wakes(Protocol):
    """Something that can be told that there is work."""

    def wake(self) -> None:
        """Tells it."""


@dataclass(frozen=True, slots=True)
class Waiting:
    """A row of the outbox."""

    id: int
    event_id: UUID
    subject: str
    message_type: str
    payload: bytes


# Each event to send with the rows that it stands for.
Sending = tuple[Outgoing, list[int]]


def one_by_one(rows: Sequence[Waiting]) -> Iterable[Sending]:
    """Sends each row as the event that it is."""
    return [(as_it_is(row), [row.id]) for row in rows]


def as_it_is(row: Waiting) -> Outgoing:
    """Returns the event of a row; the same row gives the same id, so that a second try is taken once."""
    return Outgoing(row.subject, row.message_type, str(row.event_id), row.payload)


class Relay:
    """Publishes what lies in the outbox of one schema."""

    def __init__(
        self,
        database: Database,
        bus: Bus,
        schema: str,
        *,
        keep: timedelta = timedelta(0),
        arrange: Callable[[Sequence[Waiting]], Iterable[Sending]] = one_by_one,
    ) -> None:
        """`keep` is how long published rows stay, to be published again when the stream has to be made anew.

        `arrange` may send several rows as one event. It then needs an id of its own: after a time-out the same rows may
        go in another company, and readers have to know what they have by what is inside.
        """
        self._database = database
        self._bus = bus
        self._schema = schema
        self._keep = keep
        self._arrange = arrange
        self._woken = asyncio.Event()
        self._filled: datetime | None = None
        self._forget_at = 0.0
        self._table = sql.Identifier(schema, "outbox")

    def wake(self) -> None:
        """Makes the relay look at once; called after a commit."""
        self._woken.set()

    async def run(self) -> None:
        """Publishes for ever. Raises when the database is away or NATS goes; the frame starts it again."""
        await self._bus.connected()
        while True:
            # Not left to the pauses of the frame: they grow, and what was revoked meanwhile would wait for their end.
            while not self._bus.is_connected:  # noqa: ASYNC110  (the library gives no event)
                await asyncio.sleep(_LOOK_SECONDS)
            self._woken.clear()
            while await self._publish_some() == _MOST_AT_ONCE:
                pass
            if await self._publish_again():
                continue
            try:
                async with asyncio.timeout(_IDLE_SECONDS):
                    await self._woken.wait()
            except TimeoutError:
                await self._forget_old()

    async def _publish_some(self) -> int:
        pick = sql.SQL(
            "select id, event_id, subject, message_type, payload from {} where publish_time is null "
            "order by id limit %s for update skip locked"
        ).format(self._table)
        async with self._database.transaction() as conn:
            cursor = conn.cursor(row_factory=class_row(Waiting))
            rows = await (await cursor.execute(pick, (_MOST_AT_ONCE,), binary=True)).fetchall()
            if not rows:
                return 0
            sendings = list(self._arrange(rows))
            sent = await asyncio.gather(*(self._bus.send(event) for event, _ in sendings), return_exceptions=True)
            done = [
                row
                for (_, of_rows), outcome in zip(sendings, sent, strict=True)
                if not isinstance(outcome, BaseException)
                for row in of_rows
            ]
            await conn.execute(self._after(), (done,))
        failed = [outcome for outcome in sent if isinstance(outcome, BaseException)]
        if failed:
            # A row that was sent but not acknowledged goes again with the same id; readers take it once.
            raise failed[0]
        return len(rows)

    def _after(self) -> sql.Composed:
        if self._keep:
            return sql.SQL("update {} set publish_time = now() where id = any(%s)").format(self._table)
        return sql.SQL("delete from {} where id = any(%s)").format(self._table)

    async def _publish_again(self) -> bool:
        """Marks what was published before a stream was made, whoever made it and when; tells whether there was any."""
        made = self._bus.made
        if not self._keep or made is None or made == self._filled:
            return False
        again = sql.SQL("update {} set publish_time = null where publish_time < %s").format(self._table)
        async with self._database.transaction() as conn:
            count = (await conn.execute(again, (made + _CLOCKS_DIFFER,))).rowcount
        self._filled = made
        if count:
            _LOG.warning("stream was made anew; publishing again what is kept", schema=self._schema, rows=count)
        return count > 0

    async def _forget_old(self) -> None:
        # Rows to be forgotten are found by reading all; now and then is often enough.
        if self._keep and time.monotonic() >= self._forget_at:
            self._forget_at = time.monotonic() + _FORGET_SECONDS
            forget = sql.SQL("delete from {} where publish_time < now() - %s").format(self._table)
            async with self._database.transaction() as conn:
                await conn.execute(forget, (self._keep,))
