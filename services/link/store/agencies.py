"""The copy of the agencies' settings, and what follows from their lists of hosts."""

from collections.abc import Callable, Sequence
from uuid import UUID

from services.chassis.postgres import Connection


async def hold_targets(conn: Connection, agency_id: UUID, *, alone: bool = False) -> None:
    """Keeps an agency's list of hosts and its targets in step until the commit.

    Whoever stores a target holds this shared, whoever changes the list holds it alone; without it a target that is
    being stored would miss the new list. An advisory lock, because the serving role may not lock what it cannot change.
    """
    lock = "pg_advisory_xact_lock" if alone else "pg_advisory_xact_lock_shared"
    await conn.execute(f"select {lock}(hashtextextended('link.targets:' || %s, 0))".encode(), (str(agency_id),))


async def allowed_hosts(conn: Connection, agency_id: UUID) -> list[str] | None:
    """Returns an agency's list of hosts; None for an agency that has not been heard of."""
    query = "select allowed_hosts from link.agencies where agency_id = %s"
    row = await (await conn.execute(query, (agency_id,))).fetchone()
    return None if row is None else list(row[0])


async def put(conn: Connection, agency_id: UUID, hosts: Sequence[str], revision: int) -> bool:
    """Stores an agency's list of hosts; returns whether it was newer than what was there."""
    query = """
        insert into link.agencies (agency_id, allowed_hosts, revision)
        values (%s, %s, %s)
        on conflict (agency_id) do update
        set allowed_hosts = excluded.allowed_hosts, revision = excluded.revision
        where agencies.revision < excluded.revision
        returning agency_id
    """
    return await (await conn.execute(query, (agency_id, list(hosts), revision))).fetchone() is not None


async def misjudged(
    conn: Connection, agency_id: UUID, is_allowed: Callable[[str], bool]
) -> tuple[list[UUID], list[UUID]]:
    """Locks and returns the portals and redirects whose `target_allowed` is not what the rule says now."""
    found: list[list[UUID]] = []
    for query in (
        """
        select portal_id, target_host, target_allowed
        from link.portals
        where agency_id = %s and target_host is not null
        order by portal_id
        """,
        """
        select redirect_id, target_host, target_allowed
        from link.redirects
        where agency_id = %s
        order by redirect_id
        """,
    ):
        rows = await (await conn.execute(query, (agency_id,))).fetchall()
        found.append([row[0] for row in rows if is_allowed(row[1]) != row[2]])
    portals, redirects = found
    await conn.execute(
        "select 1 from link.portals where portal_id = any(%s) order by portal_id for no key update", (portals,)
    )
    await conn.execute(
        "select 1 from link.redirects where redirect_id = any(%s) order by redirect_id for no key update", (redirects,)
    )
    return portals, redirects


async def turn(conn: Connection, portals: Sequence[UUID], redirects: Sequence[UUID], first_revision: int) -> None:
    """Turns `target_allowed` of the given portals, then redirects, with consecutive revisions."""
    query = """
        update link.portals as portal
        set target_allowed = not portal.target_allowed, revision = %s + turned.place - 1
        from unnest(%s::uuid[]) with ordinality as turned (portal_id, place)
        where portal.portal_id = turned.portal_id
    """
    await conn.execute(query, (first_revision, list(portals)))
    query = """
        update link.redirects as redirect
        set target_allowed = not redirect.target_allowed, revision = %s + turned.place - 1
        from unnest(%s::uuid[]) with ordinality as turned (redirect_id, place)
        where redirect.redirect_id = turned.redirect_id
    """
    await conn.execute(query, (first_revision + len(portals), list(redirects)))
