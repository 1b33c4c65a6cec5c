"""The copy of the directory: a SQLite file that can be loaded again from link at any time."""

import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from uuid import UUID

from services.tracking.link import Link, Page, Portal, Redirect
from services.tracking.store.sqlite import connect, roll_back

# It can be loaded again from link at any time, so a commit need not wait for the disk (synchronous = normal), and a
# file of another version or a damaged one is simply put aside. Rows are keyed by the token's hash and hold no more than
# a visit needs: about 150 bytes a link, 8 GB for 50 million.
_DIRECTORY_VERSION = 1
_DIRECTORY_SCHEMA = """
create table links (
    token_hash blob primary key,
    revision integer not null,
    link_id blob not null,
    portal_id blob not null,
    page text not null,
    client_id blob,
    message_id blob,
    expire_ms integer,
    revoked integer not null
) strict, without rowid;
create table redirects (
    token_hash blob primary key,
    revision integer not null,
    agency_id blob not null,
    redirect_id blob not null,
    target_uri text not null,
    active integer not null
) strict, without rowid;
create table portals (
    portal_id blob primary key,
    revision integer not null,
    agency_id blob not null,
    hosted integer not null,
    target_uri text not null,
    active integer not null
) strict, without rowid;
create table pages (
    portal_id blob not null,
    slug text not null,
    position integer not null,
    title text not null,
    html text not null,
    primary key (portal_id, slug)
) strict, without rowid;
create table feed (
    only_one integer primary key check (only_one = 1),
    watermark integer not null,
    links integer not null
) strict;
insert into feed values (1, 0, 0);
"""


@dataclass(frozen=True, slots=True)
class PortalWithPages:
    """A portal as a directory entry carries it."""

    portal: Portal
    pages: tuple[Page, ...]


@dataclass(frozen=True, slots=True)
class FeedState:
    """How far the copy has followed link's feed, and how many links and redirects it holds."""

    watermark: int
    links: int


def open_directory(path: Path) -> sqlite3.Connection:
    """Opens the copy, making it when it is missing; raises sqlite3.DatabaseError for one that cannot be used."""
    conn = connect(path, synchronous="normal")
    # Keys are hashes, so a load of millions touches pages all over the file: 32 MiB of them stay in memory.
    conn.execute("pragma cache_size = -32768")
    version = conn.execute("pragma user_version").fetchone()[0]
    if version == 0:
        conn.executescript(f"begin; {_DIRECTORY_SCHEMA} pragma user_version = {_DIRECTORY_VERSION}; commit;")
    elif version != _DIRECTORY_VERSION:
        raise sqlite3.DatabaseError("the copy of the directory is of another version")
    return conn


def open_for_reading(path: Path) -> sqlite3.Connection:
    """Opens the copy as it lies there, without writing a byte; what is written later is not seen."""
    return sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro&immutable=1", uri=True, check_same_thread=False)


def find_link(conn: sqlite3.Connection, token_hash: bytes) -> Link | None:
    """Returns the link with a token's hash."""
    row = conn.execute(
        "select token_hash, revision, link_id, portal_id, page, client_id, message_id, expire_ms, revoked"
        " from links where token_hash = ?",
        (token_hash,),
    ).fetchone()
    if row is None:
        return None
    return Link(
        token_hash=row[0],
        revision=row[1],
        link_id=UUID(bytes=row[2]),
        portal_id=UUID(bytes=row[3]),
        page=row[4],
        client_id=UUID(bytes=row[5]) if row[5] else None,
        message_id=UUID(bytes=row[6]) if row[6] else None,
        expire_ms=row[7],
        revoked=bool(row[8]),
    )


def find_redirect(conn: sqlite3.Connection, token_hash: bytes) -> Redirect | None:
    """Returns the redirect with a token's hash."""
    row = conn.execute(
        "select token_hash, revision, agency_id, redirect_id, target_uri, active from redirects where token_hash = ?",
        (token_hash,),
    ).fetchone()
    if row is None:
        return None
    return Redirect(row[0], row[1], UUID(bytes=row[2]), UUID(bytes=row[3]), row[4], bool(row[5]))


def find_page(conn: sqlite3.Connection, portal_id: UUID, slug: str) -> Page | None:
    """Returns a page of a portal with its text."""
    row = conn.execute(
        "select slug, title, html from pages where portal_id = ? and slug = ?", (portal_id.bytes, slug)
    ).fetchone()
    return Page(*row) if row else None


def all_portals(conn: sqlite3.Connection) -> list[Portal]:
    """Returns every portal, without its pages' texts."""
    listed: dict[bytes, list[tuple[str, str]]] = {}
    for portal_id, slug, title in conn.execute("select portal_id, slug, title from pages order by portal_id, position"):
        listed.setdefault(portal_id, []).append((slug, title))
    return [
        Portal(
            portal_id=UUID(bytes=row[0]),
            revision=row[1],
            agency_id=UUID(bytes=row[2]),
            hosted=bool(row[3]),
            target_uri=row[4],
            active=bool(row[5]),
            slugs=tuple(slug for slug, _ in listed.get(row[0], ())),
            titles=tuple(title for _, title in listed.get(row[0], ())),
        )
        for row in conn.execute("select portal_id, revision, agency_id, hosted, target_uri, active from portals")
    ]


def feed_state(conn: sqlite3.Connection) -> FeedState:
    """Returns how far the copy is."""
    return FeedState(*conn.execute("select watermark, links from feed").fetchone())


def save_entries(
    conn: sqlite3.Connection,
    links: Sequence[Link],
    redirects: Sequence[Redirect],
    portals: Sequence[PortalWithPages],
    watermark: int | None,
    *,
    begun_anew: bool = False,
) -> FeedState:
    """Keeps every entry that is newer than what is there, and how far the feed was followed, in one transaction.

    `begun_anew` is for a feed whose revisions started again (link was restored from a backup): then older numbers are
    the newer truth.
    """
    conn.execute("begin immediate")
    try:
        added = _save_links(conn, links, begun_anew) + _save_redirects(conn, redirects, begun_anew)
        for entry in portals:
            _save_portal(conn, entry, begun_anew)
        conn.execute(
            "update feed set links = links + ?,"
            " watermark = case when ? then coalesce(?, 0) else max(watermark, coalesce(?, 0)) end",
            (added, begun_anew, watermark, watermark),
        )
        state = feed_state(conn)
        conn.execute("commit")
        return state
    except BaseException:
        roll_back(conn)
        raise


def _save_links(conn: sqlite3.Connection, links: Sequence[Link], begun_anew: bool) -> int:
    rows = [
        {
            "token_hash": link.token_hash,
            "revision": link.revision,
            "link_id": link.link_id.bytes,
            "portal_id": link.portal_id.bytes,
            "page": link.page,
            "client_id": link.client_id.bytes if link.client_id else None,
            "message_id": link.message_id.bytes if link.message_id else None,
            "expire_ms": link.expire_ms,
            "revoked": int(link.revoked),
            "begun_anew": begun_anew,
        }
        for link in links
    ]
    # Two statements instead of an upsert, because only so the number of new rows is known without counting millions.
    added = conn.executemany(
        "insert or ignore into links values (:token_hash, :revision, :link_id, :portal_id, :page, :client_id,"
        " :message_id, :expire_ms, :revoked)",
        rows,
    ).rowcount
    if added == len(rows):
        return added
    conn.executemany(
        "update links set revision = :revision, link_id = :link_id, portal_id = :portal_id, page = :page,"
        " client_id = :client_id, message_id = :message_id, expire_ms = :expire_ms, revoked = :revoked"
        " where token_hash = :token_hash and (revision < :revision or :begun_anew)",
        rows,
    )
    return max(added, 0)


def _save_redirects(conn: sqlite3.Connection, redirects: Sequence[Redirect], begun_anew: bool) -> int:
    rows = [
        {
            "token_hash": redirect.token_hash,
            "revision": redirect.revision,
            "agency_id": redirect.agency_id.bytes,
            "redirect_id": redirect.redirect_id.bytes,
            "target_uri": redirect.target_uri,
            "active": int(redirect.active),
            "begun_anew": begun_anew,
        }
        for redirect in redirects
    ]
    added = conn.executemany(
        "insert or ignore into redirects"
        " values (:token_hash, :revision, :agency_id, :redirect_id, :target_uri, :active)",
        rows,
    ).rowcount
    if added == len(rows):
        return added
    conn.executemany(
        "update redirects set revision = :revision, target_uri = :target_uri, active = :active"
        " where token_hash = :token_hash and (revision < :revision or :begun_anew)",
        rows,
    )
    return max(added, 0)


def _save_portal(conn: sqlite3.Connection, entry: PortalWithPages, begun_anew: bool) -> None:
    portal = entry.portal
    changed = conn.execute(
        "insert into portals values (?, ?, ?, ?, ?, ?) on conflict (portal_id) do update"
        " set revision = excluded.revision, target_uri = excluded.target_uri, active = excluded.active"
        " where excluded.revision > portals.revision or ?",
        (
            portal.portal_id.bytes,
            portal.revision,
            portal.agency_id.bytes,
            int(portal.hosted),
            portal.target_uri,
            int(portal.active),
            begun_anew,
        ),
    ).rowcount
    if changed:
        conn.execute("delete from pages where portal_id = ?", (portal.portal_id.bytes,))
        conn.executemany(
            "insert into pages (portal_id, slug, position, title, html) values (?, ?, ?, ?, ?)",
            [(portal.portal_id.bytes, page.slug, at, page.title, page.html) for at, page in enumerate(entry.pages)],
        )
