"""Migrations: numbered SQL files of each service, applied once, in order, by one runner at a time.

Each service owns one schema and four roles: `<service>_owner` (migrations only, cannot sign in), `<service>_serve`
(answers calls, one agency a transaction), `<service>_ingest` (consumers and relay) and `<service>_directory` (reads
across agencies for other services). A role reaches its own schema and no other.

A file is never edited after release: the runner keeps its hash and refuses a changed one.
"""

import hashlib
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
from psycopg import sql

from services.chassis.postgres import Database

SERVICES = Path(__file__).resolve().parent.parent
LOGIN_ROLES = ("serve", "ingest", "directory")
# One number for all of OpenNotice in this database ("ONMG" in ASCII).
_LOCK = 0x4F4E4D47
LOCK_WAIT_SECONDS = 120.0


class MigrationFault(Exception):
    """Says in one line why the schema cannot be brought up to date."""


@dataclass(frozen=True)
class Migration:
    """One numbered file."""

    service: str
    name: str
    text: str

    @property
    def sha256(self) -> str:
        """What the runner remembers of the text."""
        return hashlib.sha256(self.text.encode()).hexdigest()


def services_with_tables(root: Path = SERVICES) -> list[str]:
    """Returns the services that own a schema."""
    return sorted(path.parent.name for path in root.glob("*/migrations") if any(path.glob("*.sql")))


def migrations_of(service: str, root: Path = SERVICES) -> list[Migration]:
    """Returns the migrations of a service in order."""
    files = sorted((root / service / "migrations").glob("[0-9][0-9][0-9][0-9]_*.sql"))
    return [Migration(service, file.stem, file.read_text(encoding="utf-8")) for file in files]


def role_names(root: Path = SERVICES) -> list[str]:
    """Returns every role that may sign in and so is given a password."""
    return [f"{service}_{kind}" for service in services_with_tables(root) for kind in LOGIN_ROLES]


def migrate(admin_url: str, passwords: Mapping[str, str], root: Path = SERVICES) -> list[str]:
    """Makes roles and schemas, sets the passwords, applies what is missing; returns the names of what it applied.

    `admin_url` signs in as a role that may create roles and schemas. May run twice at once: the second waits.
    """
    applied: list[str] = []
    with psycopg.connect(admin_url, autocommit=True, connect_timeout=10) as conn, _locked(conn):
        conn.execute("set lock_timeout = '4s'")
        _close_public(conn)
        for service in services_with_tables(root):
            _make_roles(conn, service, passwords)
            applied += _apply(conn, service, _kinds(service, passwords), root)
    return applied


def _kinds(service: str, passwords: Mapping[str, str]) -> list[str]:
    """Returns the roles of a service that sign in: those that were given a password."""
    return [kind for kind in LOGIN_ROLES if f"{service}_{kind}" in passwords]


@contextmanager
def _locked(conn: psycopg.Connection[Any]) -> Iterator[None]:
    # Asked for again and again instead of waited for: a session that waits inside the server would hold a snapshot and
    # deadlock with "create index concurrently".
    deadline = time.monotonic() + LOCK_WAIT_SECONDS
    while not _scalar(conn, "select pg_try_advisory_lock(%s)", _LOCK):
        if time.monotonic() > deadline:
            raise MigrationFault("another migration has been running for too long; is one still at work?")
        time.sleep(0.2)
    try:
        yield
    finally:
        conn.execute("select pg_advisory_unlock(%s)", (_LOCK,))


def _scalar(conn: psycopg.Connection[Any], query: str, *values: object) -> Any:
    row = conn.execute(query.encode(), values).fetchone()
    return row[0] if row else None


def _close_public(conn: psycopg.Connection[Any]) -> None:
    database = sql.Identifier(str(_scalar(conn, "select current_database()")))
    conn.execute(sql.SQL("revoke all on database {} from public").format(database))
    conn.execute("revoke all on schema public from public")


def _make_roles(conn: psycopg.Connection[Any], service: str, passwords: Mapping[str, str]) -> None:
    owner, schema = sql.Identifier(f"{service}_owner"), sql.Identifier(service)
    database = sql.Identifier(str(_scalar(conn, "select current_database()")))
    if not _scalar(conn, "select 1 from pg_roles where rolname = %s", f"{service}_owner"):
        conn.execute(sql.SQL("create role {} nologin").format(owner))
    # Needed where the administrator is not a superuser: to make the schema for the owner and to act as it.
    conn.execute(sql.SQL("grant {} to current_user").format(owner))
    for kind in _kinds(service, passwords):
        name = f"{service}_{kind}"
        verb = "alter" if _scalar(conn, "select 1 from pg_roles where rolname = %s", name) else "create"
        conn.execute(
            sql.SQL("{} role {} login nosuperuser nocreatedb nocreaterole nobypassrls password {}").format(
                sql.SQL(verb), sql.Identifier(name), sql.Literal(passwords[name])
            )
        )
        conn.execute(sql.SQL("grant connect on database {} to {}").format(database, sql.Identifier(name)))
    conn.execute(sql.SQL("create schema if not exists {} authorization {}").format(schema, owner))
    for kind in _kinds(service, passwords):
        role = sql.Identifier(f"{service}_{kind}")
        conn.execute(sql.SQL("grant usage on schema {} to {}").format(schema, role))


def _apply(conn: psycopg.Connection[Any], service: str, kinds: list[str], root: Path) -> list[str]:
    applied = []
    # The owner only for the time of its own files: what it makes must not belong to the administrator.
    conn.execute(sql.SQL("set role {}").format(sql.Identifier(f"{service}_owner")))
    try:
        table = sql.Identifier(service, "schema_migrations")
        conn.execute(
            sql.SQL(
                "create table if not exists {} (name text primary key, sha256 text not null, "
                "apply_time timestamptz not null default now())"
            ).format(table)
        )
        for kind in kinds:
            role = sql.Identifier(f"{service}_{kind}")
            conn.execute(sql.SQL("grant select on {} to {}").format(table, role))
        done = dict(conn.execute(sql.SQL("select name, sha256 from {}").format(table)).fetchall())
        for migration in migrations_of(service, root):
            if migration.name in done:
                if done[migration.name] != migration.sha256:
                    raise MigrationFault(f"{service}: {migration.name} was changed after it had been applied")
                continue
            _run(conn, migration, table)
            applied.append(f"{service}/{migration.name}")
    finally:
        conn.execute("reset role")
    return applied


def _run(conn: psycopg.Connection[Any], migration: Migration, table: sql.Identifier) -> None:
    remember = sql.SQL("insert into {} (name, sha256) values (%s, %s)").format(table)
    try:
        if "-- no transaction" in migration.text.splitlines()[:2]:
            conn.execute(migration.text.encode())
            conn.execute(remember, (migration.name, migration.sha256))
            return
        with conn.transaction():
            conn.execute("set local statement_timeout = '60s'")
            conn.execute(migration.text.encode())
            conn.execute(remember, (migration.name, migration.sha256))
    except psycopg.Error as error:
        told = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise MigrationFault(f"{migration.service}: {migration.name} failed: {told}") from error


async def pending(database: Database, service: str, root: Path = SERVICES) -> list[str]:
    """Returns what is still to be applied for a service; raises when the schema is newer than the program."""
    known = [migration.name for migration in migrations_of(service, root)]
    async with database.transaction() as conn:
        there = await (await conn.execute("select to_regclass(%s)", (f"{service}.schema_migrations",))).fetchone()
        if there is None or there[0] is None:
            return known
        query = sql.SQL("select name from {}").format(sql.Identifier(service, "schema_migrations"))
        done = {row[0] for row in await (await conn.execute(query)).fetchall()}
    if newer := sorted(done - set(known)):
        raise MigrationFault(
            f"the database is newer than this program: it has {service}/{newer[-1]}; update the program"
        )
    return [name for name in known if name not in done]
