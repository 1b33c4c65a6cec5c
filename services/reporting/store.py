"""What is read: opens by filter, one open, counts. All inside one agency.

Every statement names the agency although row-level security would add it: a mistake in one of the two shows nothing
to a stranger.
"""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, LiteralString, NamedTuple
from uuid import UUID

import psycopg
from psycopg import sql
from psycopg.rows import RowMaker, class_row, scalar_row

from services.chassis.postgres import Connection
from services.reporting.opens import Filter, Key, fold

# Up to this many clients the planner is told which they are and can go to each one's opens; more are found quicker on
# the way through the newest opens.
MOST_CLIENTS_BY_ID = 1_000
MOST_GROUPS = 1_000
# Rows that an export asks for at a time; round trips no longer show in the rate.
_FETCHED_AT_ONCE = 2_000


@dataclass(frozen=True)
class ListedOpen:
    """One open as lists show it, with the names as they are now."""

    opened_at: datetime
    open_id: UUID
    listed: bytes
    client_display_name: str | None
    client_ref: str | None
    portal_display_name: str | None

    @property
    def key(self) -> Key:
        """Its place among all opens."""
        return Key(self.opened_at, self.open_id)


class ExportedOpen(NamedTuple):
    """One open as exports show it. No dataclass: making one would take as long as all the rest of a row."""

    listed: bytes
    client_display_name: str | None
    client_ref: str | None
    portal_display_name: str | None


@dataclass(frozen=True)
class FullOpen(ListedOpen):
    """One open with everything that is known about it."""

    record: bytes
    arrive_time: datetime
    # Only where the link was revoked before the open.
    revoke_time: datetime | None


@dataclass(frozen=True)
class Group:
    """One group of a summary."""

    value: Any
    display_name: str | None
    count: int


_CLIENTS_OF: LiteralString = """
    select c.client_id from reporting.clients c
    where c.agency_id = %(agency)s
      and (%(client_text)s = '' or strpos(c.search_name, %(folded_client)s) > 0 or c.ref = %(client_text)s)
      and (%(officer)s::text is null or (c.officer = %(officer)s and c.officer <> ''))
"""

# Each condition holds for the field of the filter it is named after, when that is set.
_CONDITIONS: dict[str, LiteralString] = {
    "client_id": "o.client_id = %(client_id)s",
    "portal_id": "o.portal_id = %(portal_id)s",
    "link_id": "o.link_id = %(link_id)s",
    "message_id": "o.message_id = %(message_id)s",
    "devices": "o.device = any(%(devices)s)",
    "kinds": "o.kind = any(%(kinds)s)",
    "link_states": "o.link_state = any(%(link_states)s)",
    "verdicts": "o.verdict = any(%(verdicts)s)",
    "start": "o.opened_at >= %(start)s",
    "end": "o.opened_at < %(end)s",
}

_NAMED = sql.SQL("""
    left join reporting.clients c on c.client_id = o.client_id
    left join reporting.portals p on p.portal_id = o.portal_id
    left join reporting.redirects r on r.redirect_id = o.link_id
""")

_EXPORTED: LiteralString = """
    o.listed, c.display_name as client_display_name, c.ref as client_ref,
    coalesce(p.display_name, r.display_name) as portal_display_name
"""
_LISTED = sql.SQL("o.opened_at, o.open_id, " + _EXPORTED)

# What a summary counts by. A redirect has no portal; it counts in the total only.
_GROUPS: dict[str, LiteralString] = {
    "day": "(o.opened_at at time zone %(time_zone)s)::date",
    "portal": "o.portal_id",
    "device": "o.device",
    "verdict": "o.verdict",
}


@dataclass(frozen=True)
class Search:
    """A filter made ready for one transaction: its conditions in SQL and their values."""

    where: sql.Composed
    values: dict[str, Any]


async def prepare(conn: Connection, agency_id: UUID, wanted: Filter) -> Search:
    """Turns a filter into conditions, finding the clients and networks that its words mean."""
    values: dict[str, Any] = {name: getattr(wanted, name) for name in _CONDITIONS}
    values = {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}
    values["agency"] = agency_id
    conditions: list[LiteralString] = ["o.agency_id = %(agency)s"]
    conditions += [condition for name, condition in _CONDITIONS.items() if values[name] not in (None, [])]
    if wanted.client_text or wanted.officer is not None:
        values |= {
            "client_text": wanted.client_text,
            "folded_client": fold(wanted.client_text),
            "officer": wanted.officer,
        }
        conditions.append(await _condition_of_clients(conn, values))
    if wanted.asn is not None or wanted.network_text:
        values["networks"] = await _networks(conn, wanted)
        conditions.append("o.network_id = any(%(networks)s)")
    if wanted.addresses is not None:
        # From both ends and not by "<<=": under row-level security an index takes no condition that could leak.
        values |= {"lowest": wanted.addresses.lowest, "highest": wanted.addresses.highest}
        conditions.append("o.ip_address >= %(lowest)s and o.ip_address <= %(highest)s")
    return Search(sql.SQL(" and ").join(sql.SQL(condition) for condition in conditions), values)


async def _condition_of_clients(conn: Connection, values: dict[str, Any]) -> LiteralString:
    cursor = conn.cursor(row_factory=scalar_row)
    await cursor.execute(_CLIENTS_OF + " limit %(most)s", {**values, "most": MOST_CLIENTS_BY_ID + 1})
    found = await cursor.fetchall()
    if len(found) > MOST_CLIENTS_BY_ID:
        return "o.client_id in (" + _CLIENTS_OF + ")"
    values["clients"] = found
    return "o.client_id = any(%(clients)s)"


async def _networks(conn: Connection, wanted: Filter) -> list[int]:
    cursor = conn.cursor(row_factory=scalar_row)
    await cursor.execute(
        """
        select n.network_id from reporting.networks n
        where case when %(asn)s::bigint is null then strpos(n.search_name, %(words)s) > 0 else n.asn = %(asn)s end
        """,
        {"asn": wanted.asn, "words": fold(wanted.network_text)},
    )
    return await cursor.fetchall()


def _after(search: Search, after: Key | None) -> Search:
    """Narrows a search to what comes after a key, older ones that is."""
    if after is None:
        return search
    # A comparison of rows leaves no partition out; the one of times, which follows from it, does.
    condition = sql.SQL(
        " and (o.opened_at, o.open_id) < (%(after_time)s, %(after_id)s) and o.opened_at <= %(after_time)s"
    )
    values = {**search.values, "after_time": after.opened_at, "after_id": after.open_id}
    return Search(search.where + condition, values)


async def list_opens(
    conn: Connection, agency_id: UUID, wanted: Filter, *, after: Key | None, limit: int
) -> list[ListedOpen]:
    """Returns the newest opens of a filter that are older than a key."""
    search = _after(await prepare(conn, agency_id, wanted), after)
    query = sql.SQL(
        """
        select {listed}
        from (
          select o.opened_at, o.open_id, o.listed, o.client_id, o.portal_id, o.link_id
          from reporting.opens o
          where {where}
          order by o.opened_at desc, o.open_id desc
          limit %(limit)s
        ) o
        {named}
        order by o.opened_at desc, o.open_id desc
        """
    ).format(listed=_LISTED, named=_NAMED, where=search.where)
    cursor = conn.cursor(row_factory=class_row(ListedOpen))
    await cursor.execute(query, {**search.values, "limit": limit}, binary=True)
    return await cursor.fetchall()


async def list_arrived(conn: Connection, agency_id: UUID, wanted: Filter, arrived: Sequence[Key]) -> list[ListedOpen]:
    """Returns those of some opens that a filter means, newest first."""
    search = await prepare(conn, agency_id, wanted)
    query = sql.SQL(
        """
        select {listed}
        from unnest(%(times)s::timestamptz[], %(ids)s::uuid[]) as arrived (opened_at, open_id)
        join reporting.opens o using (opened_at, open_id)
        {named}
        where {where}
        order by o.opened_at desc, o.open_id desc
        """
    ).format(listed=_LISTED, named=_NAMED, where=search.where)
    keys = {"times": [key.opened_at for key in arrived], "ids": [key.open_id for key in arrived]}
    cursor = conn.cursor(row_factory=class_row(ListedOpen))
    await cursor.execute(query, {**search.values, **keys}, binary=True)
    return await cursor.fetchall()


async def get_open(conn: Connection, agency_id: UUID, key: Key, officer: str | None) -> FullOpen | None:
    """Returns one open; None when there is none for this agency and officer."""
    query = sql.SQL(
        """
        select {listed}, o.record, o.arrive_time, l.revoke_time
        from reporting.opens o
        {named}
        left join reporting.links l on l.link_id = o.link_id and l.revoke_time <= o.opened_at
        where o.agency_id = %(agency)s and o.opened_at = %(time)s and o.open_id = %(id)s
          and (%(officer)s::text is null or (c.officer = %(officer)s and c.officer <> ''))
        """
    ).format(listed=_LISTED, named=_NAMED)
    cursor = conn.cursor(row_factory=class_row(FullOpen))
    await cursor.execute(
        query,
        {"agency": agency_id, "time": key.opened_at, "id": key.open_id, "officer": officer},
        binary=True,
    )
    return await cursor.fetchone()


@asynccontextmanager
async def snapshot(url: str, agency_id: UUID) -> AsyncIterator[Connection]:
    """Opens a connection of its own whose one transaction sees the agency as it is at this moment."""
    options = "-c timezone=UTC -c lock_timeout=5s -c statement_timeout=60s -c idle_in_transaction_session_timeout=30s"
    conn = await psycopg.AsyncConnection.connect(
        url, autocommit=True, application_name="reporting export", connect_timeout=5, options=options
    )
    async with conn:
        await conn.execute("begin transaction isolation level repeatable read, read only")
        await conn.execute("select set_config('app.agency', %s, true)", (str(agency_id),))
        # The first rows matter more than the last: sorting the whole month first would need the disk.
        await conn.execute("set local cursor_tuple_fraction = 0.001")
        yield conn


def _exported_rows(_cursor: Any) -> RowMaker[ExportedOpen]:
    return ExportedOpen._make


async def export(
    conn: Connection, agency_id: UUID, wanted: Filter, *, after: Key | None
) -> AsyncIterator[list[ExportedOpen]]:
    """Yields every open of a filter, newest first, in lists; the server never holds more than one of them."""
    search = _after(await prepare(conn, agency_id, wanted), after)
    query = sql.SQL(
        """
        select {exported}
        from reporting.opens o
        {named}
        where {where}
        order by o.opened_at desc, o.open_id desc
        """
    ).format(exported=sql.SQL(_EXPORTED), named=_NAMED, where=search.where)
    async with conn.cursor("export", row_factory=_exported_rows) as cursor:
        await cursor.execute(query, search.values, binary=True)
        while rows := await cursor.fetchmany(_FETCHED_AT_ONCE):
            yield rows


async def count_by(
    conn: Connection, agency_id: UUID, wanted: Filter, group: str, time_zone: str
) -> tuple[list[Group], int]:
    """Counts opens by "day", "portal", "device" or "verdict": the largest groups (the latest days), and all opens."""
    search = await prepare(conn, agency_id, wanted)
    query = sql.SQL(
        """
        with counted as (
          select {value} as value, count(*) as count
          from reporting.opens o
          where {where}
          group by 1
        )
        select counted.value, {display_name}, counted.count, sum(counted.count) over ()::bigint
        from counted
        {named}
        order by {order}
        limit %(most)s
        """
    ).format(
        value=sql.SQL(_GROUPS[group]),
        where=search.where,
        display_name=sql.SQL("p.display_name" if group == "portal" else "null"),
        named=sql.SQL("left join reporting.portals p on p.portal_id = counted.value" if group == "portal" else ""),
        # Days are cut off at the old end, the other groups at the small one.
        order=sql.SQL("value desc" if group == "day" else "count desc, value"),
    )
    cursor = await conn.execute(query, {**search.values, "time_zone": time_zone, "most": MOST_GROUPS})
    rows = await cursor.fetchall()
    groups = [Group(value, display_name, count) for value, display_name, count, _ in rows if value is not None]
    return groups, rows[0][3] if rows else 0


async def digests(
    conn: Connection, start: datetime, end: datetime, stretch: timedelta
) -> list[tuple[datetime, int, int]]:
    """Returns first instant, count and digest of each stretch that holds opens, over all agencies."""
    cursor = await conn.execute(
        """
        select date_bin(%s, opened_at, 'epoch') as stretch, count(*), bit_xor(uuid_hash_extended(open_id, 0))
        from reporting.opens
        where opened_at >= %s and opened_at < %s
        group by stretch
        order by stretch
        """,
        (stretch, start, end),
    )
    return await cursor.fetchall()


async def missing(conn: Connection, keys: Sequence[Key]) -> set[UUID]:
    """Returns the ids of those opens that are not there, over all agencies."""
    cursor = conn.cursor(row_factory=scalar_row)
    await cursor.execute(
        """
        select wanted.open_id
        from unnest(%b::timestamptz[], %b::uuid[]) as wanted (opened_at, open_id)
        where not exists (
          select from reporting.opens o where o.opened_at = wanted.opened_at and o.open_id = wanted.open_id
        )
        """,
        ([key.opened_at for key in keys], [key.open_id for key in keys]),
    )
    return set(await cursor.fetchall())
