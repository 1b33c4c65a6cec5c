"""What has to be done before and after the first start, wherever the servers run: database, schema, first agency."""

import asyncio
import secrets
import time
from collections.abc import Awaitable, Callable

import psycopg
from psycopg import sql
from psycopg.conninfo import make_conninfo

from bundle.auth_calls import AuthCalls, CallRefused
from bundle.cache import Say
from bundle.home import Home, write_private
from bundle.program import HostFault
from bundle.settings import BundleSettings
from services.chassis.migrate import MigrationFault, migrate

DATABASE = "opennotice"
# How long servers of the agency's own may take to appear, for example after a power cut; the operator hears within a
# minute when they do not.
_SERVERS_SECONDS = 45.0


async def patiently(check: Callable[[], Awaitable[None]], say: Say) -> None:
    """Repeats a check for as long as the server does not answer at all, at most a minute; raises its HostFault."""
    end = time.monotonic() + _SERVERS_SECONDS
    told = False
    while True:
        try:
            await check()
        except HostFault as fault:
            if "cannot use the server" not in str(fault) or time.monotonic() > end:
                raise
            if not told:
                say(f"{fault}; waiting for it")
            told = True
            await asyncio.sleep(2)
        else:
            return


def make_database(admin_url: str) -> None:
    """Makes the database of OpenNotice on a server of ours, once."""
    with psycopg.connect(make_conninfo(admin_url, connect_timeout=5), autocommit=True) as connection:
        if not connection.execute("select 1 from pg_database where datname = %s", [DATABASE]).fetchone():
            connection.execute(sql.SQL("create database {}").format(sql.Identifier(DATABASE)))


def bring_up_to_date(admin_url: str, home: Home) -> list[str]:
    """Makes roles and schemas and applies what is missing; returns what it applied."""
    try:
        return migrate(admin_url, home.role_passwords())
    except (MigrationFault, psycopg.Error) as error:
        raise HostFault(f"cannot bring the database up to date: {error}".splitlines()[0]) from error


def make_first_agency(home: Home, settings: BundleSettings) -> str | None:
    """Makes the first agency and its administrator; returns a password that was made for them, to be shown once."""
    auth = AuthCalls(home, settings)
    try:
        if auth.agencies():
            return None
        made = "" if settings.admin_password else secrets.token_urlsafe(15)
        if made:
            # Before the call: a password that nobody knows would be worse than one that is not used.
            write_private(home.admin_password, made + "\n")
        auth.create_agency(settings.agency_name, settings.admin_email, made or settings.admin_password)
        return made or None
    except CallRefused as refusal:
        raise HostFault(f"cannot make the first agency: {refusal}") from None
