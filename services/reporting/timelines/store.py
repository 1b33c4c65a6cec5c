"""What is read of one client: who it is, and everything that happened, newest first."""

from dataclasses import dataclass
from datetime import datetime
from typing import LiteralString
from uuid import UUID

from psycopg import sql
from psycopg.rows import class_row

from services.chassis.postgres import Connection
from services.reporting.timeline import EntryKind, Place


@dataclass(frozen=True)
class Entry:
    """One entry of a timeline: a message or an open as it is kept, or a delivery, whose place says everything."""

    time: datetime
    kind: int
    identifier: UUID
    status: int
    record: bytes | None
    listed: bytes | None
    portal_display_name: str | None

    @property
    def place(self) -> Place:
        """Where it stands."""
        return Place(self.time, self.kind, self.identifier, self.status)


@dataclass(frozen=True)
class Client:
    """A client as opens are told by them."""

    client_id: UUID
    display_name: str
    ref: str


async def get_client(conn: Connection, agency_id: UUID, client_id: UUID, officer: str | None) -> Client | None:
    """Returns a client; None when there is none for this agency and officer."""
    cursor = conn.cursor(row_factory=class_row(Client))
    await cursor.execute(
        """
        select client_id, display_name, ref from reporting.clients
        where agency_id = %(agency)s and client_id = %(client)s
          and (%(officer)s::text is null or (officer = %(officer)s and officer <> ''))
        """,
        {"agency": agency_id, "client": client_id, "officer": officer},
    )
    return await cursor.fetchone()


_TIMELINE: LiteralString = """
    (
      select m.sent_at as time, {message} as kind, m.message_id as identifier, 0 as status,
        m.record, null::bytea as listed, null::uuid as portal_id
      from reporting.messages m
      where m.agency_id = %(agency)s and m.client_id = %(client)s
        and m.sent_at <= %(time)s and (m.sent_at, {message}, m.message_id, 0) < (%(time)s, %(kind)s, %(id)s, %(status)s)
      order by m.sent_at desc, m.message_id desc limit %(limit)s
    ) union all (
      select d.event_time, {delivery}, d.message_id, d.status::int, null, null, null
      from reporting.deliveries d
      where d.agency_id = %(agency)s and d.client_id = %(client)s and d.event_time <= %(time)s
        and (d.event_time, {delivery}, d.message_id, d.status::int) < (%(time)s, %(kind)s, %(id)s, %(status)s)
      order by d.event_time desc, d.message_id desc, d.status desc limit %(limit)s
    ) union all (
      select o.opened_at, {open}, o.open_id, 0, null, o.listed, o.portal_id
      from reporting.opens o
      where o.agency_id = %(agency)s and o.client_id = %(client)s
        and o.opened_at <= %(time)s and (o.opened_at, {open}, o.open_id, 0) < (%(time)s, %(kind)s, %(id)s, %(status)s)
      order by o.opened_at desc, o.open_id desc limit %(limit)s
    )
"""


async def list_timeline(
    conn: Connection, agency_id: UUID, client_id: UUID, *, before: Place, limit: int
) -> list[Entry]:
    """Returns the newest entries of a client that stand before a place."""
    parts = sql.SQL(_TIMELINE).format(
        message=sql.Literal(int(EntryKind.MESSAGE)),
        delivery=sql.Literal(int(EntryKind.DELIVERY)),
        open=sql.Literal(int(EntryKind.OPEN)),
    )
    query = sql.SQL(
        """
        select t.time, t.kind, t.identifier, t.status, t.record, t.listed, p.display_name as portal_display_name
        from ({parts}) t
        left join reporting.portals p on p.portal_id = t.portal_id
        order by t.time desc, t.kind desc, t.identifier desc, t.status desc
        limit %(limit)s
        """
    ).format(parts=parts)
    values = {
        "agency": agency_id,
        "client": client_id,
        "time": before.time,
        "kind": before.kind,
        "id": before.identifier,
        "status": before.status,
        "limit": limit,
    }
    cursor = conn.cursor(row_factory=class_row(Entry))
    await cursor.execute(query, values, binary=True)
    return await cursor.fetchall()
