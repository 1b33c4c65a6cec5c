"""Raw opens, and what surrounds them, in PostgreSQL."""

from collections.abc import Sequence
from datetime import date, datetime, timedelta
from typing import Any, NamedTuple
from uuid import UUID

from psycopg import AsyncConnection

from services.chassis.clock import from_milliseconds
from services.chassis.names import millisecond_of


class RawOpen(NamedTuple):
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


async def unpublished_since(conn: AsyncConnection[Any]) -> tuple[datetime, datetime | None]:
    """Returns the server's time, and since when the oldest pack waits for NATS."""
    row = await (
        await conn.execute("select now(), min(create_time) from tracking.outbox where publish_time is null")
    ).fetchone()
    assert row is not None
    return row[0], row[1]


async def next_open_at(conn: AsyncConnection[Any], start: datetime) -> datetime | None:
    """Returns when the first open at or after an instant was made."""
    row = await (
        await conn.execute(
            "select opened_at from tracking.raw_opens where opened_at >= %s order by opened_at limit 1", (start,)
        )
    ).fetchone()
    return row[0] if row else None


async def digests(
    conn: AsyncConnection[Any], start: datetime, end: datetime, stretch: timedelta
) -> dict[datetime, tuple[int, int]]:
    """Returns count and digest of each stretch that holds opens; reporting makes its own in the same way."""
    cursor = await conn.execute(
        """
        select date_bin(%s, opened_at, 'epoch') as stretch, count(*), bit_xor(uuid_hash_extended(open_id, 0))
        from tracking.raw_opens
        where opened_at >= %s and opened_at < %s
        group by stretch
        """,
        (stretch, start, end),
    )
    return {row[0]: (row[1], row[2]) for row in await cursor.fetchall()}


async def ids_after(
    conn: AsyncConnection[Any], start: datetime, end: datetime, committed_before: datetime, after: UUID, limit: int
) -> list[UUID]:
    """Returns ids of opens of a stretch in order; the id tells the instant, so that it alone is the place to go on."""
    cursor = await conn.execute(
        """
        select open_id from tracking.raw_opens
        where opened_at >= %s and opened_at < %s and commit_time < %s and open_id > %s
        order by open_id limit %s
        """,
        (start, end, committed_before, after, limit),
    )
    return [row[0] for row in await cursor.fetchall()]


async def opens_by_id(conn: AsyncConnection[Any], ids: Sequence[UUID]) -> list[RawOpen]:
    """Returns opens as they were recorded."""
    cursor = await conn.execute(
        """
        select o.open_id, o.agency_id, o.link_id, o.record
        from unnest(%b::timestamptz[], %b::uuid[]) as wanted (opened_at, open_id)
        join tracking.raw_opens o using (opened_at, open_id)
        """,
        ([from_milliseconds(millisecond_of(one)) for one in ids], list(ids)),
    )
    return [RawOpen(row[0], millisecond_of(row[0]), row[1], row[2], bytes(row[3])) for row in await cursor.fetchall()]


async def alone(conn: AsyncConnection[Any], name: str) -> bool:
    """Whether this transaction is the only one that does something; until its end no other may."""
    row = await (await conn.execute("select pg_try_advisory_xact_lock(hashtext(%s))", (name,))).fetchone()
    return bool(row and row[0])
