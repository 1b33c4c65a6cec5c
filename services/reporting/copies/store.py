"""How the copies of what link owns are written: the newest revision of each object, whatever order they come in."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import LiteralString
from uuid import UUID

from psycopg import sql
from psycopg.rows import scalar_row

from services.chassis.postgres import Connection


@dataclass(frozen=True)
class ClientCopy:
    """A client."""

    client_id: UUID
    agency_id: UUID
    display_name: str
    search_name: str
    ref: str
    officer: str
    revision: int


@dataclass(frozen=True)
class PortalCopy:
    """A portal."""

    portal_id: UUID
    agency_id: UUID
    display_name: str
    revision: int


@dataclass(frozen=True)
class RedirectCopy:
    """A redirect."""

    redirect_id: UUID
    agency_id: UUID
    display_name: str
    revision: int


@dataclass(frozen=True)
class LinkCopy:
    """A link."""

    link_id: UUID
    agency_id: UUID
    portal_id: UUID
    client_id: UUID | None
    message_id: UUID | None
    expire_time: datetime | None
    revoke_time: datetime | None
    revision: int


@dataclass(frozen=True)
class CampaignCopy:
    """A campaign."""

    campaign_id: UUID
    agency_id: UUID
    display_name: str
    revision: int


@dataclass(frozen=True)
class DeliveryCopy:
    """A report about a message."""

    message_id: UUID
    event_time: datetime
    status: int
    agency_id: UUID
    client_id: UUID


@dataclass(frozen=True)
class MessageCopy:
    """A message."""

    message_id: UUID
    agency_id: UUID
    client_id: UUID
    campaign_id: UUID | None
    sent_at: datetime
    record: bytes
    revision: int


Copy = ClientCopy | PortalCopy | RedirectCopy | LinkCopy | CampaignCopy | MessageCopy

# The first column of each is its key.
_TABLES: dict[type[Copy], LiteralString] = {
    ClientCopy: "clients",
    PortalCopy: "portals",
    RedirectCopy: "redirects",
    LinkCopy: "links",
    CampaignCopy: "campaigns",
    MessageCopy: "messages",
}
_TYPES: dict[str, LiteralString] = {
    "revision": "bigint",
    "record": "bytea",
    "sent_at": "timestamptz",
    "expire_time": "timestamptz",
    "revoke_time": "timestamptz",
    "display_name": "text",
    "search_name": "text",
    "ref": "text",
    "officer": "text",
}


async def put(conn: Connection, copies: Sequence[Copy]) -> None:
    """Stores copies; one that is older than what is there changes nothing."""
    for kind, table in _TABLES.items():
        newest: dict[UUID, Copy] = {}
        columns = [field.name for field in dataclasses.fields(kind)]
        # One statement cannot change a row twice, so only the newest of each object goes into it.
        for copy in sorted((copy for copy in copies if type(copy) is kind), key=lambda copy: copy.revision):
            newest[getattr(copy, columns[0])] = copy
        if newest:
            values = [[getattr(copy, column) for copy in newest.values()] for column in columns]
            await conn.execute(_upsert(table, columns), values)


def _upsert(table: LiteralString, columns: Sequence[str]) -> sql.Composed:
    return sql.SQL(
        """
        insert into {table} as there ({columns})
        select * from unnest({arrays})
        on conflict ({key}) do update set {changes} where there.revision < excluded.revision
        """
    ).format(
        table=sql.Identifier("reporting", table),
        columns=sql.SQL(", ").join(map(sql.Identifier, columns)),
        arrays=sql.SQL(", ").join(sql.SQL("%s::" + _TYPES.get(column, "uuid") + "[]") for column in columns),
        key=sql.Identifier(columns[0]),
        changes=sql.SQL(", ").join(
            sql.SQL("{0} = excluded.{0}").format(sql.Identifier(column)) for column in columns[1:]
        ),
    )


async def put_deliveries(conn: Connection, deliveries: Sequence[DeliveryCopy]) -> None:
    """Adds reports about messages; the same one is kept once, and none is ever taken back."""
    await conn.execute(
        """
        insert into reporting.deliveries (message_id, event_time, status, agency_id, client_id)
        select * from unnest(%s::uuid[], %s::timestamptz[], %s::smallint[], %s::uuid[], %s::uuid[])
        on conflict do nothing
        """,
        (
            [delivery.message_id for delivery in deliveries],
            [delivery.event_time for delivery in deliveries],
            [delivery.status for delivery in deliveries],
            [delivery.agency_id for delivery in deliveries],
            [delivery.client_id for delivery in deliveries],
        ),
    )


async def feed_revision(conn: Connection, feed: str) -> int:
    """Returns up to where a feed has been taken in, and keeps others from moving it until the transaction ends."""
    cursor = conn.cursor(row_factory=scalar_row)
    await cursor.execute("select revision from reporting.feeds where feed = %s for update", (feed,))
    found = await cursor.fetchone()
    assert found is not None, "the migration made a row for each feed"
    return int(found)


async def advance_feed(conn: Connection, feed: str, revision: int) -> None:
    """Notes that a feed has been taken in up to a revision; it never goes back."""
    await conn.execute(
        "update reporting.feeds set revision = %s where feed = %s and revision < %s", (revision, feed, revision)
    )
