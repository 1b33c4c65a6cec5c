"""Restore points: the database as it was before an upgrade changed its schema, and the way back to it.

A point is a dump and a file beside it that says which version it belongs to and how much was written by then. The dump
and the figures are of one snapshot, so that "nothing was written since" is known and not guessed. Going back makes a
database of its own from the dump and gives it the name in one transaction: whatever is killed half-way, one whole
database has the name.
"""

import json
import os
import shutil
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import psycopg
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from bundle.cache import Say
from bundle.home import read_json, write_private
from bundle.program import HostFault
from services.chassis.migrate import services_with_tables

KEPT = 2
_OF_USE = timedelta(days=30)
# What must stay free beside a point: the database and the spool of opens live on the same disk.
_SPARE_BYTES = 256 * 1024**2
_LOCK_WAIT = "30s"
# What tells whether something was written. Changes of links and people are numbered; opens and the audit log only grow.
_FIGURES = {
    "opens": ("tracking.raw_opens", "select count(*) from tracking.raw_opens"),
    "lines of the audit log": ("auth.actions", "select count(*) from auth.actions"),
    "changes of portals, links and clients": ("link.feeds", "select coalesce(sum(revision), 0) from link.feeds"),
    "delivery reports": ("link.deliveries", "select count(*) from link.deliveries"),
    "changes of users": ("auth.users", "select coalesce(sum(revision), 0) from auth.users"),
    "changes of agencies": ("auth.agencies", "select coalesce(sum(revision), 0) from auth.agencies"),
}
# A table that the newer schema does not have any more.
_UNCOUNTABLE = -1


@dataclass(frozen=True)
class Version:
    """A version of the program with the schema that it left behind."""

    version: str
    migrations: list[str]


@dataclass(frozen=True)
class RestorePoint:
    """What is known of one dump."""

    name: str
    version: str
    migrations: list[str]
    time: str
    database_bytes: int
    figures: dict[str, int]

    def belongs_to(self, version: Version) -> bool:
        """Whether this is how that version left the database."""
        return self.version == version.version and set(self.migrations) == set(version.migrations)


# What the home remembers of versions.


def note(schema_file: Path, now: Version) -> None:
    """Remembers which version the database belongs to, and those before it, as far as points of them may be kept."""
    was = read_json(schema_file)
    history = list(was.get("history", []))
    if was and was["version"] != now.version:
        history.append({"version": was["version"], "migrations": was["migrations"]})
    write_private(schema_file, json.dumps({**asdict(now), "history": history[-KEPT:]}, indent=1))


def earlier(schema_file: Path, in_database: Sequence[str], installed: str) -> Version:
    """Returns the version to go back to; `installed` is what was tried last, whether or not it came up."""
    known = read_json(schema_file)
    if not known:
        raise HostFault("nothing was started here yet, so there is no version to go back to")
    last = Version(known["version"], known["migrations"])
    before = Version(**known["history"][-1]) if known.get("history") else None
    # Somebody put the database back already: we did and were killed, or the agency did on a server of its own.
    if before and set(in_database) == set(before.migrations) != set(last.migrations):
        return before
    # An upgrade that broke off has changed the database, or nothing at all, and is not on record.
    if set(in_database) != set(last.migrations) or installed != last.version:
        return last
    if before is None:
        raise HostFault(f"there is no version before {last.version} on record here")
    return before


def went_back(schema_file: Path, to: Version) -> None:
    """Remembers that the database belongs to an earlier version again."""
    history = list(read_json(schema_file).get("history", []))
    if history and history[-1] == asdict(to):
        history.pop()
    write_private(schema_file, json.dumps({**asdict(to), "history": history}, indent=1))


# What is in the database.


def applied(admin_url: str) -> list[str]:
    """Returns the migrations that the database has, as service/name."""
    found = []
    with _connect(admin_url) as conn:
        for service in services_with_tables():
            if _scalar(conn, "select to_regclass(%s)", f"{service}.schema_migrations"):
                table = sql.Identifier(service, "schema_migrations")
                rows = conn.execute(sql.SQL("select name from {} order by name").format(table)).fetchall()
                found += [f"{service}/{row[0]}" for row in rows]
    return found


def written_since(admin_url: str, point: RestorePoint) -> dict[str, int]:
    """Returns how much was written after the point, by kind; empty when nothing was."""
    with _connect(admin_url) as conn:
        now = _figures(conn)
    return {kind: now.get(kind, 0) - then for kind, then in point.figures.items() if now.get(kind, 0) != then}


def told(written: Mapping[str, int]) -> str:
    """Says what was written since, for a person."""
    return ", ".join(f"{count} {kind}" if count > 0 else f"{kind}, uncounted" for kind, count in written.items())


def _figures(conn: psycopg.Connection[Any]) -> dict[str, int]:
    figures = {}
    for kind, (table, query) in _FIGURES.items():
        there = _scalar(conn, "select to_regclass(%s)", table)
        figures[kind] = int(_scalar(conn, query)) if there else _UNCOUNTABLE
    return figures


# The points.


def points(folder: Path) -> list[RestorePoint]:
    """Returns the points that are whole, oldest first."""
    files = sorted(folder.glob("*.json"), key=lambda path: json.loads(path.read_text())["time"])
    return [RestorePoint(**json.loads(path.read_text())) for path in files if path.with_suffix(".dump").exists()]


def point_of(folder: Path, version: Version) -> RestorePoint | None:
    """Returns the newest point of a version."""
    return next((point for point in reversed(points(folder)) if point.belongs_to(version)), None)


def make(admin_url: str, folder: Path, version: Version, say: Say) -> RestorePoint:
    """Writes a point and forgets all but the newest; raises HostFault when it cannot be written whole."""
    began = time.monotonic()
    folder.mkdir(mode=0o700, exist_ok=True)
    for left in [*folder.glob("*.partial"), *(dump for dump in folder.glob("*.dump") if not _note_of(dump).exists())]:
        left.unlink()
    now = datetime.now(UTC)
    name = f"{version.version}-{now:%Y%m%dT%H%M%SZ}"
    partial = folder / f"{name}.partial"
    with _connect(admin_url) as conn:
        size = int(_scalar(conn, "select pg_database_size(current_database())"))
        _need_space(
            folder,
            size + _SPARE_BYTES,
            "make room, or set OPENNOTICE_RESTORE_POINT=no in .env to upgrade without a way back",
        )
        conn.execute("begin isolation level repeatable read read only")
        snapshot = str(_scalar(conn, "select pg_export_snapshot()"))
        figures = _figures(conn)
        # Quick rather than small: the operator waits for it.
        arguments = ["--format=custom", "--compress=1", f"--lock-wait-timeout={_LOCK_WAIT}", f"--snapshot={snapshot}"]
        try:
            _run("pg_dump", *arguments, f"--file={partial}", url=admin_url)
        except HostFault as fault:
            partial.unlink(missing_ok=True)
            raise HostFault(f"cannot write a restore point, nothing was changed: {fault}") from None
    point = RestorePoint(name, version.version, list(version.migrations), now.isoformat(), size, figures)
    partial.rename(folder / f"{name}.dump")
    write_private(folder / f"{name}.json", json.dumps(asdict(point), indent=1))
    for old in points(folder)[:-KEPT]:
        _forget(folder, old)
    dump = (folder / f"{name}.dump").stat().st_size
    say(f"restore point of {version.version}: {dump / 1e6:.1f} MB in {time.monotonic() - began:.1f} s")
    return point


def forget_old(folder: Path) -> None:
    """Removes points that nobody would go back to any more: they hold people whom the database may have forgotten."""
    for point in points(folder):
        if datetime.now(UTC) - datetime.fromisoformat(point.time) > _OF_USE:
            _forget(folder, point)


def _forget(folder: Path, point: RestorePoint) -> None:
    # Its note first: a dump without one is taken for the rest of a killed run.
    (folder / f"{point.name}.json").unlink()
    (folder / f"{point.name}.dump").unlink()


def restore(admin_url: str, folder: Path, point: RestorePoint, *, keep_newer: bool) -> str | None:
    """Puts the database of a point in place; returns the name under which the newer one was kept, if it was.

    Nobody else may use the database meanwhile. `keep_newer` is for one that holds what the point has not.
    """
    name = conninfo_to_dict(admin_url)["dbname"]
    assert isinstance(name, str)
    fresh, aside = f"{name}_restoring", f"{name}_newer_{datetime.now(UTC):%Y%m%dT%H%M%SZ}".lower()
    _need_space(folder, point.database_bytes + _SPARE_BYTES, "make room")
    with _connect(_other_database(admin_url, "postgres")) as conn:
        # Left by a run that was killed.
        conn.execute(_named("drop database if exists {} with (force)", fresh))
        # From template0, so that nothing stands in the way of what the dump makes.
        conn.execute(_named("create database {} template template0", fresh))
        dump = str(folder / f"{point.name}.dump")
        url = _other_database(admin_url, fresh)
        _run("pg_restore", "--exit-on-error", "--jobs=2", f"--dbname={fresh}", dump, url=url)
        conn.execute("select pg_terminate_backend(pid) from pg_stat_activity where datname = %s", (name,))
        with conn.transaction():
            conn.execute(_named("alter database {} rename to {}", name, aside))
            conn.execute(_named("alter database {} rename to {}", fresh, name))
        if keep_newer:
            return aside
        conn.execute(_named("drop database {} with (force)", aside))
    return None


def _note_of(dump: Path) -> Path:
    return dump.with_suffix(".json")


def _need_space(folder: Path, wanted: int, advice: str) -> None:
    # The volume of the database is on the same disk in all but odd set-ups, and cannot be seen from here.
    free = shutil.disk_usage(folder).free
    if free < wanted:
        raise HostFault(
            f"a copy of the database needs {wanted / 1e9:.1f} GB where the engine keeps its volumes, "
            f"{free / 1e9:.1f} GB are free: {advice}"
        )


def _named(statement: str, *names: str) -> sql.Composed:
    return sql.SQL(statement).format(*map(sql.Identifier, names))


def _connect(url: str) -> psycopg.Connection[Any]:
    return psycopg.connect(url, autocommit=True, connect_timeout=10)


def _scalar(conn: psycopg.Connection[Any], query: str, *values: object) -> Any:
    row = conn.execute(query.encode(), values).fetchone()
    return row[0] if row else None


def _other_database(url: str, name: str) -> str:
    return make_conninfo(url, dbname=name)


def _run(program: str, *arguments: str, url: str) -> None:
    """Runs a program of PostgreSQL. The password goes by its environment: arguments can be read by every process."""
    parts = conninfo_to_dict(url)
    known = {"host": "PGHOST", "port": "PGPORT", "user": "PGUSER", "password": "PGPASSWORD", "dbname": "PGDATABASE"}
    environment = os.environ | {variable: str(parts[part]) for part, variable in known.items() if parts.get(part)}
    done = subprocess.run([program, *arguments], env=environment, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        lines = done.stderr.strip().splitlines() or [f"{program} ended with {done.returncode}"]
        raise HostFault(lines[0])
