"""How opens are written: in packs, across agencies, as the ingest role; and the partitions they lie in.

Lists are unnested in one statement; a statement a row would be three times slower at the rates that opens come in.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, datetime
from ipaddress import IPv4Address, IPv6Address
from typing import NamedTuple
from uuid import UUID

from psycopg.rows import class_row, scalar_row

from services.chassis.postgres import Connection
from services.reporting.opens import Key, fold


class NewOpen(NamedTuple):
    """One open as it is stored."""

    opened_at: datetime
    open_id: UUID
    agency_id: UUID
    client_id: UUID | None
    portal_id: UUID | None
    link_id: UUID
    message_id: UUID | None
    kind: int
    device: int
    link_state: int
    verdict: int
    asn: int
    network: str
    ip_address: IPv4Address | IPv6Address | None
    listed: bytes
    record: bytes
    enrich_time: datetime

    @property
    def key(self) -> Key:
        """What makes it the same open wherever it comes again."""
        return Key(self.opened_at, self.open_id)


@dataclass(frozen=True)
class StoredOpen:
    """What is there already under a key."""

    opened_at: datetime
    open_id: UUID
    enrich_time: datetime
    record: bytes


async def insert_opens(conn: Connection, opens: Sequence[NewOpen]) -> set[UUID]:
    """Inserts the opens that are not there yet and returns their ids."""
    # In one order always: two processes with the same redelivered packs must wait for each other, not deadlock.
    ordered = sorted(opens, key=lambda one: one.open_id.int)
    networks = await _network_ids(conn, {(one.asn, one.network) for one in ordered if one.asn or one.network})
    cursor = await conn.execute(
        """
        insert into reporting.opens (opened_at, open_id, agency_id, client_id, portal_id, link_id, message_id,
          kind, device, link_state, verdict, network_id, ip_address, listed, record, enrich_time)
        select * from unnest(
          %b::timestamptz[], %b::uuid[], %b::uuid[], %b::uuid[], %b::uuid[], %b::uuid[], %b::uuid[],
          %b::smallint[], %b::smallint[], %b::smallint[], %b::smallint[], %b::int[], %s::inet[],
          %b::bytea[], %b::bytea[], %b::timestamptz[])
        on conflict (opened_at, open_id) do nothing
        returning open_id
        """,
        (
            [one.opened_at for one in ordered],
            [one.open_id for one in ordered],
            [one.agency_id for one in ordered],
            [one.client_id for one in ordered],
            [one.portal_id for one in ordered],
            [one.link_id for one in ordered],
            [one.message_id for one in ordered],
            [one.kind for one in ordered],
            [one.device for one in ordered],
            [one.link_state for one in ordered],
            [one.verdict for one in ordered],
            [networks.get((one.asn, one.network)) for one in ordered],
            [one.ip_address and str(one.ip_address) for one in ordered],
            [one.listed for one in ordered],
            [one.record for one in ordered],
            [one.enrich_time for one in ordered],
        ),
    )
    return {open_id for (open_id,) in await cursor.fetchall()}


async def _network_ids(conn: Connection, networks: set[tuple[int, str]]) -> dict[tuple[int, str], int]:
    """Returns the id of each network, making those that are new."""
    ordered = sorted(networks)
    names = ([asn for asn, _ in ordered], [name for _, name in ordered])
    found = await _known_networks(conn, *names)
    # Asked first: a refused insert burns a number of the identity, and most opens come from a known network.
    if missing := [network for network in ordered if network not in found]:
        await conn.execute(
            """
            insert into reporting.networks (asn, name, search_name)
            select * from unnest(%s::bigint[], %s::text[], %s::text[])
            on conflict (asn, name) do nothing
            """,
            (
                [asn for asn, _ in missing],
                [name for _, name in missing],
                [fold(name) for _, name in missing],
            ),
        )
        found = await _known_networks(conn, *names)
    return found


async def _known_networks(conn: Connection, numbers: list[int], names: list[str]) -> dict[tuple[int, str], int]:
    cursor = await conn.execute(
        """
        select n.asn, n.name, n.network_id
        from unnest(%s::bigint[], %s::text[]) as wanted (asn, name)
        join reporting.networks n using (asn, name)
        """,
        (numbers, names),
    )
    return {(asn, name): network_id for asn, name, network_id in await cursor.fetchall()}


async def lock_opens(conn: Connection, keys: Sequence[Key]) -> list[StoredOpen]:
    """Returns what is there under some keys and keeps others from changing it."""
    cursor = conn.cursor(row_factory=class_row(StoredOpen))
    await cursor.execute(
        """
        select o.opened_at, o.open_id, o.enrich_time, o.record
        from reporting.opens o
        join unnest(%b::timestamptz[], %b::uuid[]) as wanted (opened_at, open_id) using (opened_at, open_id)
        order by o.opened_at, o.open_id
        for update of o
        """,
        ([key.opened_at for key in keys], [key.open_id for key in keys]),
        binary=True,
    )
    return await cursor.fetchall()


async def replace_explanations(conn: Connection, opens: Sequence[NewOpen]) -> None:
    """Gives opens that are there a newer explanation and keeps the one before in their history."""
    networks = await _network_ids(conn, {(one.asn, one.network) for one in opens if one.asn or one.network})
    keys = ([one.opened_at for one in opens], [one.open_id for one in opens])
    await conn.execute(
        """
        insert into reporting.verdicts (opened_at, open_id, enrich_time, agency_id, verdict, record)
        select o.opened_at, o.open_id, o.enrich_time, o.agency_id, o.verdict, o.record
        from reporting.opens o
        join unnest(%b::timestamptz[], %b::uuid[]) as wanted (opened_at, open_id) using (opened_at, open_id)
        on conflict do nothing
        """,
        keys,
    )
    await conn.execute(
        """
        update reporting.opens o
        set device = n.device, verdict = n.verdict, network_id = n.network_id, listed = n.listed, record = n.record,
          enrich_time = n.enrich_time
        from unnest(%b::timestamptz[], %b::uuid[], %b::smallint[], %b::smallint[], %b::int[], %b::bytea[], %b::bytea[],
          %b::timestamptz[]) as n (opened_at, open_id, device, verdict, network_id, listed, record, enrich_time)
        where o.opened_at = n.opened_at and o.open_id = n.open_id and o.enrich_time < n.enrich_time
        """,
        (
            *keys,
            [one.device for one in opens],
            [one.verdict for one in opens],
            [networks.get((one.asn, one.network)) for one in opens],
            [one.listed for one in opens],
            [one.record for one in opens],
            [one.enrich_time for one in opens],
        ),
    )


async def make_partition(conn: Connection, month: date) -> bool:
    """Makes the partition of the month that a day lies in; False when it was there."""
    cursor = conn.cursor(row_factory=scalar_row)
    await cursor.execute("select reporting.make_partition(%s)", (month,))
    return bool(await cursor.fetchone())


async def months_outside(conn: Connection) -> list[date]:
    """Returns the first days of the months whose opens lie in the default partition."""
    cursor = conn.cursor(row_factory=scalar_row)
    await cursor.execute(
        """
        select distinct date_trunc('month', opened_at at time zone 'UTC')::date
        from reporting.opens_default
        order by 1
        """
    )
    return await cursor.fetchall()


async def note_canary(conn: Connection, sent_at: datetime) -> None:
    """Notes that a canary came the whole way; an older one changes nothing, unless the clock was ahead before."""
    await conn.execute(
        """
        insert into reporting.canary as c (sent_at) values (%s)
        on conflict (only_one) do update set sent_at = excluded.sent_at, arrive_time = excluded.arrive_time
        where c.sent_at < excluded.sent_at or c.sent_at > now() + interval '1 minute'
        """,
        (sent_at,),
    )


async def newest_canary(conn: Connection) -> datetime | None:
    """Returns when the newest canary that arrived was sent."""
    cursor = conn.cursor(row_factory=scalar_row)
    await cursor.execute("select sent_at from reporting.canary")
    return await cursor.fetchone()
