"""From one version to the next and back: what `containers migrate` does around the migrations, and `opennotice back`.

Data are never made to fit an older program: going back means the older images on the schema they know. Where the
upgrade did not change the schema that is all there is to do; where it did, the database returns to its restore point.
"""

import asyncio
import os
from dataclasses import dataclass

import nats
import psycopg
from nats.errors import Error as NatsError
from nats.js.errors import NotFoundError

from bundle import restore_point
from bundle.cache import Say
from bundle.home import Home, read_json
from bundle.program import HostFault
from bundle.restore_point import RestorePoint, Version
from services.chassis.bus import STREAMS, credentials
from services.chassis.migrate import migrations_of, services_with_tables


@dataclass(frozen=True)
class WayBack:
    """Where `opennotice back` leads, and what stands in its way."""

    to: Version
    # None where the database is already as that version knows it.
    point: RestorePoint | None
    written: dict[str, int]


def known_migrations() -> list[str]:
    """Returns every migration of this program as service/name."""
    return [f"{service}/{one.name}" for service in services_with_tables() for one in migrations_of(service)]


def refuse_newer_data(home: Home) -> None:
    """Refuses, before anything is touched, data that a newer program has written."""
    newer = sorted(set(read_json(home.schema).get("migrations", [])) - set(known_migrations()))
    if newer:
        written_by = read_json(home.schema).get("version", "a newer version")
        raise HostFault(
            f"the data were written by a newer OpenNotice ({written_by}, it has {newer[-1]}); start its images instead"
        )


def before_migrations(home: Home, admin_url: str, *, own_server: bool, wanted: bool, say: Say) -> None:
    """Writes a restore point when a database that is in use is about to change its schema."""
    known = read_json(home.schema)
    if not known:
        return
    there = restore_point.applied(admin_url)
    if not set(known_migrations()) - set(there):
        return
    last = Version(known["version"], known["migrations"])
    if own_server:
        say(
            "warning: the schema changes and PostgreSQL is your own: no restore point is made here; "
            "`opennotice back` will need your own backup of before"
        )
    elif not wanted:
        say("warning: OPENNOTICE_RESTORE_POINT=no: there is no way back from this upgrade")
    elif set(there) != set(last.migrations):
        # The rest of an upgrade that broke off: what stands there now is no version's.
        say(f"going on with an upgrade that broke off; the restore point of {last.version} stays as it is")
    else:
        restore_point.make(admin_url, home.restore, last, say)


def after_migrations(home: Home, version: str) -> None:
    """Remembers what the database is now, so that an older program is refused before it starts."""
    restore_point.note(home.schema, Version(version, known_migrations()))
    restore_point.forget_old(home.restore)


def way_back(home: Home, admin_url: str, *, own_server: bool, installed: str) -> WayBack:
    """Finds out where back leads and what was written since; raises HostFault where no way leads back."""
    there = _in_database(admin_url)
    to = restore_point.earlier(home.schema, there, installed)
    if set(there) == set(to.migrations):
        return WayBack(to, None, {})
    if own_server:
        raise HostFault(
            f"the schema is newer than {to.version} and PostgreSQL is your own: put its backup of before the upgrade "
            "back there, then type opennotice back again"
        )
    point = restore_point.point_of(home.restore, to)
    if point is None:
        raise HostFault(
            f"the upgrade from {to.version} changed the schema and there is no restore point of {to.version}"
        )
    return WayBack(to, point, restore_point.written_since(admin_url, point))


def go_back(
    home: Home, admin_url: str, nats_url: str, *, own_server: bool, installed: str, lose_new: bool, say: Say
) -> None:
    """Makes the database what the earlier version left. Nothing but PostgreSQL and NATS may run; may be repeated."""
    os.umask(0o077)
    lock = home.lock()
    try:
        way = way_back(home, admin_url, own_server=own_server, installed=installed)
        if way.written and not lose_new:
            raise HostFault(f"written since the upgrade: {restore_point.told(way.written)}")
        if way.point is not None:
            # They hold what the database will not know, and have handed out what it will wait for. Made anew they are
            # filled from the outboxes; a run that is killed after this has lost nothing either.
            asyncio.run(_remove_streams(nats_url))
            say(f"putting the database of {way.point.time[:19].replace('T', ' ')} UTC in place")
            aside = restore_point.restore(admin_url, home.restore, way.point, keep_newer=bool(way.written))
            if aside:
                say(f"what was written since stays in the database {aside}, which nothing uses")
        restore_point.went_back(home.schema, way.to)
    except psycopg.Error as error:
        raise HostFault(f"cannot go back: {error}".splitlines()[0]) from error
    finally:
        os.close(lock)


def _in_database(admin_url: str) -> list[str]:
    try:
        return restore_point.applied(admin_url)
    except psycopg.Error as error:
        raise HostFault(f"cannot look into the database: {error}".splitlines()[0]) from None


async def _remove_streams(url: str) -> None:
    async def ignore(error: Exception) -> None:
        """The error is raised by connect as well."""

    try:
        client = await nats.connect(url, allow_reconnect=False, connect_timeout=5, error_cb=ignore, **credentials(url))
    except (NatsError, OSError, TimeoutError) as error:
        raise HostFault(f"cannot reach NATS: {str(error) or type(error).__name__}") from None
    try:
        for name in STREAMS:
            try:
                await client.jetstream().delete_stream(name)
            except NotFoundError:
                continue
    except NatsError as error:
        raise HostFault(f"cannot empty NATS: {str(error) or type(error).__name__}") from None
    finally:
        await client.close()
