"""The spool: a SQLite file of opens that PostgreSQL did not take."""

import sqlite3
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from uuid import UUID

from services.tracking.store.sqlite import connect, roll_back

# One version for ever: opens may wait here across an upgrade. Every commit is on disk when it returns (synchronous =
# full; in WAL mode that syncs the log at each commit).
_SPOOL_SCHEMA = """
create table if not exists opens (
    place integer primary key,
    open_id blob not null,
    opened_ms integer not null,
    agency_id blob not null,
    link_id blob not null,
    record blob not null,
    refusal text
) strict;
create table if not exists probe (only_one integer primary key check (only_one = 1), probes integer not null) strict;
insert or ignore into probe values (1, 0);
"""


@dataclass(frozen=True, slots=True)
class SpooledOpen:
    """An open in the spool; `refusal` says why PostgreSQL will not have it, when that is so."""

    place: int
    open_id: UUID
    opened_ms: int
    agency_id: UUID
    link_id: UUID
    record: bytes
    refusal: str | None


def open_spool(path: Path) -> sqlite3.Connection:
    """Opens the spool, making it when it is missing."""
    conn = connect(path, synchronous="full")
    conn.executescript(f"begin immediate; {_SPOOL_SCHEMA} commit;")
    return conn


def append_to_spool(
    conn: sqlite3.Connection, rows: Iterable[tuple[bytes, int, bytes, bytes, bytes, str | None]]
) -> None:
    """Appends opens (open_id, opened_ms, agency_id, link_id, record, refusal); they are on disk on return."""
    conn.execute("begin immediate")
    try:
        conn.executemany(
            "insert into opens (open_id, opened_ms, agency_id, link_id, record, refusal) values (?, ?, ?, ?, ?, ?)",
            rows,
        )
        conn.execute("commit")
    except BaseException:
        roll_back(conn)
        raise


def oldest_in_spool(conn: sqlite3.Connection, limit: int, *, refused: bool) -> list[SpooledOpen]:
    """Returns the opens that have waited longest, either those to be tried again or those that were refused."""
    rows = conn.execute(
        "select place, open_id, opened_ms, agency_id, link_id, record, refusal from opens"
        " where (refusal is not null) = ? order by place limit ?",
        (refused, limit),
    )
    return [
        SpooledOpen(row[0], UUID(bytes=row[1]), row[2], UUID(bytes=row[3]), UUID(bytes=row[4]), row[5], row[6])
        for row in rows
    ]


def remove_from_spool(conn: sqlite3.Connection, places: Sequence[int]) -> None:
    """Removes opens that have arrived elsewhere."""
    conn.execute("begin immediate")
    try:
        conn.executemany("delete from opens where place = ?", [(place,) for place in places])
        conn.execute("commit")
    except BaseException:
        roll_back(conn)
        raise


def refuse_in_spool(conn: sqlite3.Connection, place: int, refusal: str) -> None:
    """Notes why an open is not to be tried again."""
    conn.execute("update opens set refusal = ? where place = ?", (refusal[:2000], place))


def spool_size(conn: sqlite3.Connection) -> int:
    """Returns how many opens wait."""
    return int(conn.execute("select count(*) from opens").fetchone()[0])


def probe_spool(conn: sqlite3.Connection) -> None:
    """Writes and syncs; raises when the disk would not take an open now."""
    conn.execute("update probe set probes = probes + 1")
