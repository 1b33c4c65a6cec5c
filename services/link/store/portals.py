"""Portals, their pages, and redirects."""

from collections.abc import Sequence
from uuid import UUID

from psycopg.rows import class_row
from psycopg.sql import SQL

from services.chassis.postgres import Connection
from services.link.link import PortalPages
from services.link.page import Page
from services.link.portal import Portal, Redirect
from services.link.store.condition import FIRST_ID, LAST_ID, LOCK, NOTHING
from services.link.wording import search_form

PORTAL = SQL("""
    portal_id, agency_id, display_name, kind, target_uri, target_host, target_allowed, active,
    create_time, update_time, revision
""")
REDIRECT = SQL("""
    redirect_id, agency_id, display_name, target_uri, target_host, target_allowed, active, token_hash, key_version,
    create_time, update_time, revision
""")


async def insert_portal(conn: Connection, portal: Portal, pages: Sequence[Page]) -> None:
    """Stores a new portal with its pages."""
    query = """
        insert into link.portals (
            portal_id, agency_id, display_name, search_name, kind, target_uri, target_host, target_allowed, active,
            create_time, update_time, revision
        )
        values (
            %(portal_id)s, %(agency_id)s, %(display_name)s, %(search_name)s, %(kind)s, %(target_uri)s, %(target_host)s,
            %(target_allowed)s, %(active)s, %(create_time)s, %(update_time)s, %(revision)s
        )
    """
    await conn.execute(query, {**vars(portal), "search_name": search_form(portal.display_name)})
    await _insert_pages(conn, portal, pages)


async def _insert_pages(conn: Connection, portal: Portal, pages: Sequence[Page]) -> None:
    query = """
        insert into link.pages (portal_id, agency_id, position, slug, title, markdown, html)
        select %s, %s, page.place - 1, page.slug, page.title, page.markdown, page.html
        from unnest(%s::text[], %s::text[], %s::text[], %s::text[]) with ordinality
            as page (slug, title, markdown, html, place)
    """
    columns = [[getattr(page, name) for page in pages] for name in ("slug", "title", "markdown", "html")]
    await conn.execute(query, (portal.portal_id, portal.agency_id, *columns))


async def update_portal(conn: Connection, portal: Portal, pages: Sequence[Page] | None) -> None:
    """Stores the changed portal; pages, where given, replace those that were there."""
    query = """
        update link.portals
        set display_name = %(display_name)s, search_name = %(search_name)s, target_uri = %(target_uri)s,
            target_host = %(target_host)s, target_allowed = %(target_allowed)s, active = %(active)s,
            update_time = %(update_time)s, revision = %(revision)s
        where portal_id = %(portal_id)s
    """
    await conn.execute(query, {**vars(portal), "search_name": search_form(portal.display_name)})
    if pages is not None:
        await conn.execute("delete from link.pages where portal_id = %s", (portal.portal_id,))
        await _insert_pages(conn, portal, pages)


async def portal(conn: Connection, portal_id: UUID, *, lock: bool = False) -> Portal | None:
    """Returns one portal; with `lock` nobody else changes it before the commit."""
    query = SQL("select {} from link.portals where portal_id = %s {}").format(PORTAL, LOCK if lock else NOTHING)
    async with conn.cursor(row_factory=class_row(Portal)) as cursor:
        return await (await cursor.execute(query, (portal_id,))).fetchone()


async def portals_by_id(conn: Connection, portal_ids: Sequence[UUID]) -> list[Portal]:
    """Returns the portals that exist among the given, in order of revision."""
    query = SQL("select {} from link.portals where portal_id = any(%s) order by revision").format(PORTAL)
    async with conn.cursor(row_factory=class_row(Portal)) as cursor:
        return await (await cursor.execute(query, (list(portal_ids),))).fetchall()


async def portals_by_name(conn: Connection, after: tuple[str, UUID] | None, limit: int) -> list[Portal]:
    """Returns the next portals by display name."""
    query = SQL("""
        select {}
        from link.portals
        where (search_name collate "C", portal_id) > (%(name)s, %(id)s::uuid)
        order by search_name collate "C", portal_id
        limit %(limit)s
    """).format(PORTAL)
    name, identifier = after or ("", FIRST_ID)
    async with conn.cursor(row_factory=class_row(Portal)) as cursor:
        await cursor.execute(query, {"name": name, "id": identifier, "limit": limit})
        return await cursor.fetchall()


async def pages_of(conn: Connection, portal_ids: Sequence[UUID]) -> dict[UUID, list[Page]]:
    """Returns the pages of portals in their order; a portal without pages is an empty list."""
    query = """
        select portal_id, slug, title, markdown, html
        from link.pages
        where portal_id = any(%s)
        order by portal_id, position
    """
    found: dict[UUID, list[Page]] = {portal_id: [] for portal_id in portal_ids}
    for portal_id, slug, title, markdown, html in await (await conn.execute(query, (list(portal_ids),))).fetchall():
        found[portal_id].append(Page(slug, title, markdown, html))
    return found


async def slugs_of(conn: Connection, portal_ids: Sequence[UUID]) -> dict[UUID, PortalPages]:
    """Returns which of the portals exist, and the slugs of their pages."""
    query = """
        select portal.portal_id, coalesce(array_agg(page.slug) filter (where page.slug is not null), '{}')
        from link.portals as portal
        left join link.pages as page on page.portal_id = portal.portal_id
        where portal.portal_id = any(%s)
        group by portal.portal_id
    """
    rows = await (await conn.execute(query, (list(portal_ids),))).fetchall()
    return {row[0]: PortalPages(row[0], frozenset(row[1])) for row in rows}


async def open_among(conn: Connection, portal_ids: Sequence[UUID]) -> frozenset[UUID]:
    """Returns which of the portals are open to visitors."""
    query = "select portal_id from link.portals where portal_id = any(%s) and active and target_allowed"
    return frozenset(row[0] for row in await (await conn.execute(query, (list(portal_ids),))).fetchall())


async def insert_redirect(conn: Connection, redirect: Redirect) -> None:
    """Stores a new redirect."""
    query = """
        insert into link.redirects (
            redirect_id, agency_id, display_name, target_uri, target_host, target_allowed, active, token_hash,
            key_version, create_time, update_time, revision
        )
        values (
            %(redirect_id)s, %(agency_id)s, %(display_name)s, %(target_uri)s, %(target_host)s, %(target_allowed)s,
            %(active)s, %(token_hash)s, %(key_version)s, %(create_time)s, %(update_time)s, %(revision)s
        )
    """
    await conn.execute(query, vars(redirect))


async def update_redirect(conn: Connection, redirect: Redirect) -> None:
    """Stores the changed redirect."""
    query = """
        update link.redirects
        set display_name = %(display_name)s, target_uri = %(target_uri)s, target_host = %(target_host)s,
            target_allowed = %(target_allowed)s, active = %(active)s, update_time = %(update_time)s,
            revision = %(revision)s
        where redirect_id = %(redirect_id)s
    """
    await conn.execute(query, vars(redirect))


async def redirect(conn: Connection, redirect_id: UUID, *, lock: bool = False) -> Redirect | None:
    """Returns one redirect; with `lock` nobody else changes it before the commit."""
    query = SQL("select {} from link.redirects where redirect_id = %s {}").format(REDIRECT, LOCK if lock else NOTHING)
    async with conn.cursor(row_factory=class_row(Redirect)) as cursor:
        return await (await cursor.execute(query, (redirect_id,))).fetchone()


async def redirects_by_id(conn: Connection, redirect_ids: Sequence[UUID]) -> list[Redirect]:
    """Returns the redirects that exist among the given, in order of revision."""
    query = SQL("select {} from link.redirects where redirect_id = any(%s) order by revision").format(REDIRECT)
    async with conn.cursor(row_factory=class_row(Redirect)) as cursor:
        return await (await cursor.execute(query, (list(redirect_ids),))).fetchall()


async def newest_redirects(conn: Connection, before: UUID | None, limit: int) -> list[Redirect]:
    """Returns the next redirects, newest first."""
    query = SQL("""
        select {}
        from link.redirects
        where redirect_id < %(before)s
        order by redirect_id desc
        limit %(limit)s
    """).format(REDIRECT)
    async with conn.cursor(row_factory=class_row(Redirect)) as cursor:
        return await (await cursor.execute(query, {"before": before or LAST_ID, "limit": limit})).fetchall()
