"""The spool: a SQLite file of opens that PostgreSQL did not take."""

import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

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
# The types are checked when a row is written, not when it is read: in a damaged page anything may stand anywhere.
_OPEN_ID = "coalesce(cast(open_id as blob), x'')"
_SELECT = f"""
select place, {_OPEN_ID}, coalesce(cast(opened_ms as integer), 0), coalesce(cast(agency_id as blob), x''),
    coalesce(cast(link_id as blob), x''), coalesce(cast(record as blob), x''), cast(refusal as blob)
from opens
"""  # noqa: S608 -- no value of anybody's is in it
_DAMAGE = {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}
_LAST_PLACE = 2**63 - 1
# So few that writing them keeps no open waiting that comes meanwhile.
_PIECE_PLACES = 200
# Where a damaged spool ends cannot be known when its last page is damaged. Under a page that leads to others hang some
# ten thousand opens; so many places without one that can be read are taken for the end.
_BARREN_PLACES = 50_000

Row = tuple[bytes, int, bytes, bytes, bytes, str | None]


@dataclass(frozen=True, slots=True)
class SpooledOpen:
    """An open as it lies in the spool, nothing of it understood yet: the file may be damaged inside.

    A place is given anew when the file is; together with the open's id it is known for certain. `refusal` says why
    PostgreSQL will not have it, when that is so.
    """

    place: int
    open_id: bytes
    opened_ms: int
    agency_id: bytes
    link_id: bytes
    record: bytes
    refusal: str | None


def is_damage(error: BaseException) -> bool:
    """Whether the file itself is at fault and not the disk under it, which may be well again in a moment.

    A full disk, a locked file and faults of reading and writing are OperationalErrors; these two are none.
    """
    return getattr(error, "sqlite_errorcode", 0) & 0xFF in _DAMAGE


def open_spool(path: Path) -> sqlite3.Connection:
    """Opens the spool, making it when it is missing."""
    conn = connect(path, synchronous="full")
    try:
        conn.executescript(f"begin immediate; {_SPOOL_SCHEMA} commit;")
    except BaseException:
        # At once: what lies in the log is moved into the file only as long as that has its name.
        conn.close()
        raise
    return conn


def append_to_spool(conn: sqlite3.Connection, rows: Iterable[Row]) -> None:
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
    rows = conn.execute(f"{_SELECT} where (refusal is not null) = ? order by place limit ?", (refused, limit))
    return [_spooled(row) for row in rows]


def _spooled(row: tuple[int, bytes, int, bytes, bytes, bytes, bytes | None]) -> SpooledOpen:
    refusal = row[6]
    return SpooledOpen(*row[:6], None if refusal is None else refusal.decode(errors="replace"))


def remove_from_spool(conn: sqlite3.Connection, opens: Sequence[SpooledOpen]) -> int:
    """Removes opens that have arrived elsewhere; returns how many of them were there."""
    conn.execute("begin immediate")
    try:
        removed = conn.executemany(
            f"delete from opens where place = ? and {_OPEN_ID} = ?",  # noqa: S608
            [(each.place, each.open_id) for each in opens],
        )
        conn.execute("commit")
    except BaseException:
        roll_back(conn)
        raise
    return removed.rowcount


def refuse_in_spool(conn: sqlite3.Connection, spooled: SpooledOpen, refusal: str) -> None:
    """Notes why an open is not to be tried again."""
    conn.execute(
        f"update opens set refusal = ? where place = ? and {_OPEN_ID} = ?",  # noqa: S608
        (refusal[:2000], spooled.place, spooled.open_id),
    )


def spool_size(conn: sqlite3.Connection) -> int:
    """Returns how many opens wait."""
    return int(conn.execute("select count(*) from opens").fetchone()[0])


def probe_spool(conn: sqlite3.Connection) -> None:
    """Writes and syncs; raises when the disk would not take an open now."""
    conn.execute("update probe set probes = probes + 1")


# What can still be read of a damaged one.


def readable_pieces(path: Path) -> Iterator[tuple[list[SpooledOpen], bool]]:
    """Yields the opens of a damaged spool that can be read, some at a time, and whether their part was read as a whole.

    Nothing in the file changes. Raises OperationalError at the first piece when the disk does not let it be opened now.
    """
    conn = sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True, check_same_thread=False)
    try:
        try:
            conn.execute("select 1 from sqlite_schema").fetchone()
        except sqlite3.DatabaseError as error:
            if not is_damage(error):
                raise
            yield [], False
            return
        yield from _pieces(conn)
    finally:
        conn.close()


def _pieces(conn: sqlite3.Connection) -> Iterator[tuple[list[SpooledOpen], bool]]:
    place, barren = 1, 0
    while place <= _LAST_PLACE and barren < _BARREN_PLACES:
        try:
            found = conn.execute("select min(place) from opens where place >= ?", (place,)).fetchone()[0]
            if found is None:
                return
            place = found
        except sqlite3.Error:
            # The place lies in damage; those behind it need not.
            pass
        last = min(place + _PIECE_PLACES - 1, _LAST_PLACE)
        opens, is_whole = _readable_between(conn, place, last)
        barren = 0 if opens else barren + _PIECE_PLACES
        yield opens, is_whole
        place = last + 1


def _readable_between(conn: sqlite3.Connection, first: int, last: int) -> tuple[list[SpooledOpen], bool]:
    """Returns the opens of a range of places that can be read, and whether all of it could be."""
    try:
        rows = conn.execute(f"{_SELECT} where place between ? and ? order by place", (first, last)).fetchall()
        return [_spooled(row) for row in rows], True
    except sqlite3.Error:
        if first == last:
            return [], False
    middle = (first + last) // 2
    return _readable_between(conn, first, middle)[0] + _readable_between(conn, middle + 1, last)[0], False
