"""Links."""

from collections.abc import Sequence
from datetime import datetime
from uuid import UUID

from psycopg.rows import class_row
from psycopg.sql import SQL

from services.chassis.postgres import Connection
from services.link.link import Link
from services.link.store.condition import LAST_ID, NOTHING, of_own_client, where_given

# Read together with whether the portal is open, because a link's state is never stored.
LINK = SQL("""
    select
        link.link_id, link.agency_id, link.portal_id, link.page, link.client_id, link.message_id, link.expire_time,
        link.revoke_time, link.token_hash, link.key_version, link.create_time, link.revision,
        portal.active and portal.target_allowed as portal_open
    from link.links as link
    join link.portals as portal on portal.portal_id = link.portal_id
""")


async def insert(conn: Connection, links: Sequence[Link]) -> None:
    """Stores new links in one statement."""
    query = """
        insert into link.links (
            link_id, agency_id, portal_id, page, client_id, message_id, expire_time, token_hash, key_version,
            create_time, revision
        )
        select * from unnest(
            %s::uuid[], %s::uuid[], %s::uuid[], %s::text[], %s::uuid[], %s::uuid[], %s::timestamptz[], %s::bytea[],
            %s::smallint[], %s::timestamptz[], %s::bigint[]
        )
    """
    names = (
        *("link_id", "agency_id", "portal_id", "page", "client_id", "message_id", "expire_time", "token_hash"),
        *("key_version", "create_time", "revision"),
    )
    await conn.execute(query, [[getattr(link, name) for link in links] for name in names])


async def one(conn: Connection, link_id: UUID, own: UUID | None, *, lock: bool = False) -> Link | None:
    """Returns one link; with `lock` nobody else changes it before the commit."""
    # Only the link: its portal is read by everybody.
    locked = SQL("for no key update of link") if lock else NOTHING
    query = SQL("{} where link.link_id = %(id)s {} {}").format(LINK, of_own_client("link", own), locked)
    async with conn.cursor(row_factory=class_row(Link)) as cursor:
        return await (await cursor.execute(query, {"id": link_id, "own": own})).fetchone()


async def by_id(conn: Connection, link_ids: Sequence[UUID], own: UUID | None) -> dict[UUID, Link]:
    """Returns the links that exist among the given."""
    query = SQL("{} where link.link_id = any(%(ids)s) {}").format(LINK, of_own_client("link", own))
    async with conn.cursor(row_factory=class_row(Link)) as cursor:
        await cursor.execute(query, {"ids": list(link_ids), "own": own})
        return {link.link_id: link async for link in cursor}


async def newest(
    conn: Connection,
    of: tuple[UUID | None, UUID | None, UUID | None],
    own: UUID | None,
    before: UUID | None,
    limit: int,
) -> list[Link]:
    """Returns the next links, newest first; `of` is a client, a portal and a message, each where asked."""
    client, portal, message = of
    query = SQL("{} where link.link_id < %(before)s {} order by link.link_id desc limit %(limit)s").format(
        LINK,
        SQL(" ").join(
            [
                where_given(client, "link.client_id = %(client)s"),
                where_given(portal, "link.portal_id = %(portal)s"),
                where_given(message, "link.message_id = %(message)s"),
                of_own_client("link", own),
            ]
        ),
    )
    values = {
        "client": client,
        "portal": portal,
        "message": message,
        "own": own,
        "before": before or LAST_ID,
        "limit": limit,
    }
    async with conn.cursor(row_factory=class_row(Link)) as cursor:
        return await (await cursor.execute(query, values)).fetchall()


async def revoke(conn: Connection, link_id: UUID, now: datetime, revision: int) -> None:
    """Ends a link."""
    query = "update link.links set revoke_time = %s, revision = %s where link_id = %s"
    await conn.execute(query, (now, revision, link_id))


async def extend(conn: Connection, link_id: UUID, expire_time: datetime | None, revision: int) -> None:
    """Gives a link another expiry, or none."""
    query = "update link.links set expire_time = %s, revision = %s where link_id = %s"
    await conn.execute(query, (expire_time, revision, link_id))
