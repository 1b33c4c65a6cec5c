"""Revisions of the two feeds, and request ids."""

from collections.abc import Sequence
from uuid import UUID

from psycopg.rows import class_row

from services.chassis.postgres import Connection
from services.link.once import Claim

VISITORS = "visitors"
PEOPLE = "people"


async def advance(conn: Connection, feed: str, count: int = 1) -> int:
    """Takes the next revisions of a feed and returns the first of them; the feed is held until the commit."""
    query = "update link.feeds set revision = revision + %s where feed = %s returning revision"
    row = await (await conn.execute(query, (count, feed))).fetchone()
    assert row is not None
    return int(row[0]) - count + 1


async def revision_of(conn: Connection, feed: str) -> int:
    """Returns the newest revision of a feed that is visible."""
    row = await (await conn.execute("select revision from link.feeds where feed = %s", (feed,))).fetchone()
    assert row is not None
    return int(row[0])


async def claims(conn: Connection, agency_id: UUID, request_ids: Sequence[UUID]) -> dict[UUID, Claim]:
    """Returns what request ids stand for already."""
    query = """
        select request_id, digest, resource_id
        from link.requests
        where agency_id = %s and request_id = any(%s)
    """
    async with conn.cursor(row_factory=class_row(Claim)) as cursor:
        await cursor.execute(query, (agency_id, list(request_ids)))
        return {claim.request_id: claim async for claim in cursor}


async def claim(conn: Connection, agency_id: UUID, wanted: Sequence[Claim]) -> dict[UUID, Claim]:
    """Claims request ids and returns what each stands for now: the wanted claim, or that of who came first.

    Waits for a transaction that is claiming the same id. In order of id, so that two calls with the same ids in another
    order do not wait for each other.
    """
    query = """
        insert into link.requests (agency_id, request_id, digest, resource_id)
        select %s, wanted.request_id, wanted.digest, wanted.resource_id
        from unnest(%s::uuid[], %s::bytea[], %s::uuid[]) as wanted (request_id, digest, resource_id)
        order by wanted.request_id
        on conflict do nothing
        returning request_id
    """
    if not wanted:
        return {}
    values = (
        agency_id,
        [claim.request_id for claim in wanted],
        [claim.digest for claim in wanted],
        [claim.resource_id for claim in wanted],
    )
    made = {row[0] for row in await (await conn.execute(query, values)).fetchall()}
    found = {claim.request_id: claim for claim in wanted if claim.request_id in made}
    lost = [claim.request_id for claim in wanted if claim.request_id not in made]
    return found | (await claims(conn, agency_id, lost) if lost else {})
