"""Everything of all agencies in order of revision, as the directory role; and the search by token."""

from psycopg.rows import class_row
from psycopg.sql import SQL

from services.chassis.postgres import Connection
from services.link.client import Client
from services.link.link import Link
from services.link.message import Campaign, Message
from services.link.portal import Portal, Redirect
from services.link.store import links, people, portals

Visited = Portal | Link | Redirect
Person = Client | Campaign | Message

_SLICE = SQL("where {0} > %(after)s and {0} <= %(to)s order by {0} limit %(limit)s")
_OWN_REVISION = _SLICE.format(SQL("revision"))
_LINK_REVISION = _SLICE.format(SQL("link.revision"))


async def visitors_between(conn: Connection, after: int, to: int, limit: int) -> list[Visited]:
    """Returns the next portals, links and redirects in order of revision."""
    values = {"after": after, "to": to, "limit": limit}
    found: list[Visited] = []
    async with conn.cursor(row_factory=class_row(Portal)) as cursor:
        query = SQL("select {} from link.portals {}").format(portals.PORTAL, _OWN_REVISION)
        found += await (await cursor.execute(query, values)).fetchall()
    async with conn.cursor(row_factory=class_row(Link)) as cursor:
        query = links.LINK + _LINK_REVISION
        found += await (await cursor.execute(query, values)).fetchall()
    async with conn.cursor(row_factory=class_row(Redirect)) as cursor:
        query = SQL("select {} from link.redirects {}").format(portals.REDIRECT, _OWN_REVISION)
        found += await (await cursor.execute(query, values)).fetchall()
    return sorted(found, key=lambda thing: thing.revision)[:limit]


async def people_between(conn: Connection, after: int, to: int, limit: int) -> list[Person]:
    """Returns the next clients, campaigns and messages in order of revision."""
    values = {"after": after, "to": to, "limit": limit}
    found: list[Person] = []
    async with conn.cursor(row_factory=class_row(Client)) as cursor:
        query = SQL("select {} from link.clients {}").format(people.CLIENT, _OWN_REVISION)
        found += await (await cursor.execute(query, values)).fetchall()
    async with conn.cursor(row_factory=class_row(Campaign)) as cursor:
        query = SQL("select {} from link.campaigns {}").format(people.CAMPAIGN, _OWN_REVISION)
        found += await (await cursor.execute(query, values)).fetchall()
    async with conn.cursor(row_factory=class_row(Message)) as cursor:
        query = SQL("select {} from link.messages {}").format(people.MESSAGE, _OWN_REVISION)
        found += await (await cursor.execute(query, values)).fetchall()
    return sorted(found, key=lambda thing: thing.revision)[:limit]


async def by_token(conn: Connection, token_hash: bytes) -> Link | Redirect | None:
    """Returns the link or redirect with a token."""
    async with conn.cursor(row_factory=class_row(Link)) as cursor:
        query = links.LINK + SQL("where link.token_hash = %s")
        found = await (await cursor.execute(query, (token_hash,))).fetchone()
    if found is not None:
        return found
    async with conn.cursor(row_factory=class_row(Redirect)) as cursor:
        query = SQL("select {} from link.redirects where token_hash = %s").format(portals.REDIRECT)
        return await (await cursor.execute(query, (token_hash,))).fetchone()


async def portal_of(conn: Connection, link: Link) -> Portal:
    """Returns the portal of a link."""
    found = await portals.portal(conn, link.portal_id)
    assert found is not None
    return found
