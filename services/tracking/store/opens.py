"""Raw opens, and what surrounds them, in PostgreSQL."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from typing import Any
from uuid import UUID

from psycopg import AsyncConnection

from services.chassis.clock import from_milliseconds


@dataclass(frozen=True, slots=True)
class RawOpen:
    """A row of tracking.raw_opens; `record` is the whole OpenRecorded."""

    open_id: UUID
    opened_ms: int
    agency_id: UUID
    link_id: UUID
    record: bytes


async def insert_opens(
    conn: AsyncConnection[Any], opens: Sequence[RawOpen], batch_id: UUID, subject: str, message_type: str, pack: bytes
) -> None:
    """Stores opens and the pack that announces them in one statement; what is there already stays as it is."""
    await conn.execute(
        _INSERT_OPENS,
        (
            [from_milliseconds(row.opened_ms) for row in opens],
            [row.open_id for row in opens],
            [row.agency_id for row in opens],
            [row.link_id for row in opens],
            [row.record for row in opens],
            batch_id,
            subject,
            message_type,
            pack,
        ),
        prepare=True,
    )


# Parameters in binary, since records are bytes and would double in text.
_INSERT_OPENS = """
with stored as (
    insert into tracking.raw_opens (opened_at, open_id, agency_id, link_id, record)
    select * from unnest(%b::timestamptz[], %b::uuid[], %b::uuid[], %b::uuid[], %b::bytea[])
    on conflict do nothing
)
insert into tracking.outbox (event_id, subject, message_type, payload)
values (%s, %s, %s, %b)
"""


async def answer(conn: AsyncConnection[Any]) -> None:
    """Returns when the server answers."""
    await conn.execute("select 1")


async def make_partitions(conn: AsyncConnection[Any], today: date) -> int:
    """Makes the monthly partitions that are missing up to three months ahead; returns how many."""
    row = await (await conn.execute("select tracking.make_partitions(%s)", (today,))).fetchone()
    return int(row[0]) if row else 0


async def opens_without_month(conn: AsyncConnection[Any]) -> int:
    """Returns how many opens lie in the default partition, counted up to 1,000; should be none."""
    row = await (
        await conn.execute(
            "select count(*) from (select 1 from tracking.raw_opens"
            " where tableoid = 'tracking.raw_opens_default'::regclass limit 1000) as astray"
        )
    ).fetchone()
    return int(row[0]) if row else 0


async def outbox_size(conn: AsyncConnection[Any]) -> int:
    """Returns how many packs wait for NATS."""
    row = await (await conn.execute("select count(*) from tracking.outbox where publish_time is null")).fetchone()
    return int(row[0]) if row else 0
