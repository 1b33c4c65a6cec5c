"""All SQL of enrichment."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from psycopg.rows import class_row

from services.chassis.postgres import Connection


@dataclass(frozen=True)
class Agency:
    """What enrichment knows of an agency."""

    agency_id: UUID
    staff_networks: list[str]
    revision: int


@dataclass(frozen=True)
class WaitingPack:
    """A pack, serialized as it came, that was explained without IP data."""

    batch_id: UUID
    receive_time: datetime
    pack: bytes


async def save_agencies(conn: Connection, agencies: Sequence[Agency]) -> None:
    """Keeps the newest state of each agency; an older revision changes nothing."""
    async with conn.cursor() as cursor:
        await cursor.executemany(
            """
            insert into enrichment.agencies as known (agency_id, staff_networks, revision)
            values (%s, %s, %s)
            on conflict (agency_id) do update
            set staff_networks = excluded.staff_networks, revision = excluded.revision
            where known.revision < excluded.revision
            """,
            [(agency.agency_id, agency.staff_networks, agency.revision) for agency in agencies],
        )


async def list_agencies(conn: Connection) -> list[Agency]:
    """Returns every agency; an install has few."""
    async with conn.cursor(row_factory=class_row(Agency)) as cursor:
        await cursor.execute("select agency_id, staff_networks, revision from enrichment.agencies")
        return await cursor.fetchall()


async def get_agency(conn: Connection, agency_id: UUID) -> Agency | None:
    """Returns one agency, None when it has not been heard of."""
    async with conn.cursor(row_factory=class_row(Agency)) as cursor:
        await cursor.execute(
            "select agency_id, staff_networks, revision from enrichment.agencies where agency_id = %s", (agency_id,)
        )
        return await cursor.fetchone()


async def add_waiting_pack(conn: Connection, waiting: WaitingPack) -> None:
    """Remembers a pack; the same one again changes nothing."""
    await conn.execute(
        """
        insert into enrichment.waiting_packs (batch_id, receive_time, pack)
        values (%s, %s, %s)
        on conflict (batch_id) do nothing
        """,
        (waiting.batch_id, waiting.receive_time, waiting.pack),
    )


async def take_waiting_packs(conn: Connection, after: tuple[datetime, UUID], limit: int) -> list[WaitingPack]:
    """Returns the next waiting packs, oldest first, locked so that another replica takes others."""
    async with conn.cursor(row_factory=class_row(WaitingPack)) as cursor:
        await cursor.execute(
            """
            select batch_id, receive_time, pack
            from enrichment.waiting_packs
            where (receive_time, batch_id) > (%s, %s)
            order by receive_time, batch_id
            limit %s
            for update skip locked
            """,
            (*after, limit),
        )
        return await cursor.fetchall()


async def delete_waiting_packs(conn: Connection, batch_ids: Sequence[UUID]) -> None:
    """Forgets packs that need not be explained again."""
    await conn.execute("delete from enrichment.waiting_packs where batch_id = any(%s)", (list(batch_ids),))


async def delete_waiting_packs_before(conn: Connection, moment: datetime) -> int:
    """Forgets packs that waited for too long; returns how many."""
    return (await conn.execute("delete from enrichment.waiting_packs where receive_time < %s", (moment,))).rowcount
