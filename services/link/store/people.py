"""Clients, campaigns, messages and what became of them."""

from collections.abc import Sequence
from typing import LiteralString
from uuid import UUID

from psycopg.errors import UniqueViolation
from psycopg.rows import class_row
from psycopg.sql import SQL

from services.chassis.postgres import Connection
from services.link.client import Client
from services.link.message import MOST_DELIVERIES_SHOWN, Campaign, Delivery, Message
from services.link.store.condition import FIRST_ID, LAST_ID, LOCK, NOTHING, of_own_client, where_given

CLIENT = SQL("""
    client_id, agency_id, display_name, search_name, ref, email, phone, officer_id, create_time, update_time, revision
""")
CAMPAIGN = SQL("campaign_id, agency_id, display_name, create_time, revision")
MESSAGE = SQL("""
    message_id, agency_id, client_id, campaign_id, channel, send_time, delivery_status, deadline_time,
    create_time, revision
""")
_OWN: LiteralString = "officer_id = %(own)s"
_FOUND = SQL("and (ref = %(ref)s or (%(part)s <> '' and strpos(search_name, %(part)s) > 0))")


class RefTaken(Exception):
    """Another client of the agency has the same ref."""


async def insert_client(conn: Connection, client: Client) -> None:
    """Stores a new client; raises RefTaken."""
    query = """
        insert into link.clients (
            client_id, agency_id, display_name, search_name, ref, email, phone, officer_id,
            create_time, update_time, revision
        )
        values (
            %(client_id)s, %(agency_id)s, %(display_name)s, %(search_name)s, %(ref)s, %(email)s, %(phone)s,
            %(officer_id)s, %(create_time)s, %(update_time)s, %(revision)s
        )
    """
    await _keep_ref_unique(conn, query, client)


async def update_client(conn: Connection, client: Client) -> None:
    """Stores the changed client; raises RefTaken."""
    query = """
        update link.clients
        set display_name = %(display_name)s, search_name = %(search_name)s, ref = %(ref)s, email = %(email)s,
            phone = %(phone)s, officer_id = %(officer_id)s, update_time = %(update_time)s, revision = %(revision)s
        where client_id = %(client_id)s
    """
    await _keep_ref_unique(conn, query, client)


async def _keep_ref_unique(conn: Connection, query: LiteralString, client: Client) -> None:
    try:
        await conn.execute(query, vars(client))
    except UniqueViolation as violation:
        if violation.diag.constraint_name == "clients_ref_key":
            raise RefTaken from violation
        raise


async def client(conn: Connection, client_id: UUID, own: UUID | None, *, lock: bool = False) -> Client | None:
    """Returns one client; with `lock` nobody else changes it before the commit."""
    query = SQL("select {} from link.clients where client_id = %(id)s {} {}").format(
        CLIENT, where_given(own, _OWN), LOCK if lock else NOTHING
    )
    async with conn.cursor(row_factory=class_row(Client)) as cursor:
        return await (await cursor.execute(query, {"id": client_id, "own": own})).fetchone()


async def clients_among(conn: Connection, client_ids: Sequence[UUID], own: UUID | None) -> frozenset[UUID]:
    """Returns which of the clients exist."""
    query = SQL("select client_id from link.clients where client_id = any(%(ids)s) {}").format(where_given(own, _OWN))
    rows = await (await conn.execute(query, {"ids": list(client_ids), "own": own})).fetchall()
    return frozenset(row[0] for row in rows)


async def clients_by_name(
    conn: Connection, part: str, ref: str, own: UUID | None, after: tuple[str, UUID] | None, limit: int
) -> list[Client]:
    """Returns the next clients by display name whose search form contains a part, or who have exactly the ref."""
    query = SQL("""
        select {}
        from link.clients
        where (search_name collate "C", client_id) > (%(name)s, %(id)s::uuid) {} {}
        order by search_name collate "C", client_id
        limit %(limit)s
    """).format(CLIENT, _FOUND if ref else NOTHING, where_given(own, _OWN))
    name, identifier = after or ("", FIRST_ID)
    values = {"own": own, "part": part, "ref": ref, "name": name, "id": identifier, "limit": limit}
    async with conn.cursor(row_factory=class_row(Client)) as cursor:
        return await (await cursor.execute(query, values)).fetchall()


async def insert_campaign(conn: Connection, campaign: Campaign) -> None:
    """Stores a new campaign."""
    query = """
        insert into link.campaigns (campaign_id, agency_id, display_name, create_time, revision)
        values (%(campaign_id)s, %(agency_id)s, %(display_name)s, %(create_time)s, %(revision)s)
    """
    await conn.execute(query, vars(campaign))


async def campaign(conn: Connection, campaign_id: UUID) -> Campaign | None:
    """Returns one campaign."""
    query = SQL("select {} from link.campaigns where campaign_id = %s").format(CAMPAIGN)
    async with conn.cursor(row_factory=class_row(Campaign)) as cursor:
        return await (await cursor.execute(query, (campaign_id,))).fetchone()


async def newest_campaigns(conn: Connection, before: UUID | None, limit: int) -> list[Campaign]:
    """Returns the next campaigns, newest first."""
    query = SQL("""
        select {}
        from link.campaigns
        where campaign_id < %(before)s
        order by campaign_id desc
        limit %(limit)s
    """).format(CAMPAIGN)
    async with conn.cursor(row_factory=class_row(Campaign)) as cursor:
        return await (await cursor.execute(query, {"before": before or LAST_ID, "limit": limit})).fetchall()


async def insert_message(conn: Connection, message: Message) -> None:
    """Stores a new message."""
    query = """
        insert into link.messages (
            message_id, agency_id, client_id, campaign_id, channel, send_time, delivery_status, deadline_time,
            create_time, revision
        )
        values (
            %(message_id)s, %(agency_id)s, %(client_id)s, %(campaign_id)s, %(channel)s, %(send_time)s,
            %(delivery_status)s, %(deadline_time)s, %(create_time)s, %(revision)s
        )
    """
    await conn.execute(query, vars(message))


async def message(conn: Connection, message_id: UUID, own: UUID | None, *, lock: bool = False) -> Message | None:
    """Returns one message; with `lock` nobody else changes it before the commit."""
    query = SQL("select {} from link.messages as message where message_id = %(id)s {} {}").format(
        MESSAGE, of_own_client("message", own), LOCK if lock else NOTHING
    )
    async with conn.cursor(row_factory=class_row(Message)) as cursor:
        return await (await cursor.execute(query, {"id": message_id, "own": own})).fetchone()


async def clients_of_messages(conn: Connection, message_ids: Sequence[UUID], own: UUID | None) -> dict[UUID, UUID]:
    """Returns the client of each message that exists."""
    query = SQL("select message_id, client_id from link.messages as message where message_id = any(%(ids)s) {}").format(
        of_own_client("message", own)
    )
    rows = await (await conn.execute(query, {"ids": list(message_ids), "own": own})).fetchall()
    return {row[0]: row[1] for row in rows}


async def newest_messages(
    conn: Connection, client_id: UUID | None, own: UUID | None, before: UUID | None, limit: int
) -> list[Message]:
    """Returns the next messages, newest first; of one client where given."""
    query = SQL("""
        select {}
        from link.messages as message
        where message_id < %(before)s {} {}
        order by message_id desc
        limit %(limit)s
    """).format(MESSAGE, where_given(client_id, "client_id = %(client)s"), of_own_client("message", own))
    values = {"client": client_id, "own": own, "before": before or LAST_ID, "limit": limit}
    async with conn.cursor(row_factory=class_row(Message)) as cursor:
        return await (await cursor.execute(query, values)).fetchall()


async def insert_delivery(conn: Connection, agency_id: UUID, delivery: Delivery) -> bool:
    """Stores a report; returns whether it was a new one."""
    query = """
        insert into link.deliveries (message_id, agency_id, event_time, status)
        values (%s, %s, %s, %s)
        on conflict do nothing
        returning message_id
    """
    values = (delivery.message_id, agency_id, delivery.event_time, delivery.status)
    return await (await conn.execute(query, values)).fetchone() is not None


async def set_status(conn: Connection, message_id: UUID, status: str, revision: int) -> None:
    """Stores the delivery status that follows from the reports."""
    query = "update link.messages set delivery_status = %s, revision = %s where message_id = %s"
    await conn.execute(query, (status, revision, message_id))


async def deliveries_of(conn: Connection, message_ids: Sequence[UUID]) -> dict[UUID, list[Delivery]]:
    """Returns the newest reports about messages, oldest first."""
    query = """
        select wanted.message_id, report.status, report.event_time
        from unnest(%s::uuid[]) as wanted (message_id)
        cross join lateral (
            select status, event_time
            from link.deliveries
            where message_id = wanted.message_id
            order by event_time desc, status desc
            limit %s
        ) as report
        order by report.event_time, report.status
    """
    found: dict[UUID, list[Delivery]] = {message_id: [] for message_id in message_ids}
    async with conn.cursor(row_factory=class_row(Delivery)) as cursor:
        await cursor.execute(query, (list(message_ids), MOST_DELIVERIES_SHOWN))
        async for delivery in cursor:
            found[delivery.message_id].append(delivery)
    return found
