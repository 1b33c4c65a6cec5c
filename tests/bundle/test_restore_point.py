"""Restore points on a real PostgreSQL: what is kept, what is counted as new, and what comes back."""

import json
import shutil
import subprocess
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import uuid4

import psycopg
import pytest
from psycopg import sql

from bundle import restore_point, upgrade
from bundle.embedded import binaries
from bundle.home import Home, read_json
from bundle.program import HostFault
from bundle.restore_point import Version
from tests.fix_postgres import Database


@pytest.fixture(autouse=True)
def _programs(monkeypatch: pytest.MonkeyPatch) -> None:
    # In the container they are those of the system.
    monkeypatch.setenv("PATH", f"{binaries(None)}:/usr/bin:/bin")


@pytest.fixture
def home(tmp_path: Path, database: Database) -> Home:
    home = Home(tmp_path)
    home.make_folders()
    restore_point.note(home.schema, Version("1.0", restore_point.applied(database.admin_url)))
    return home


@pytest.fixture
def newer(monkeypatch: pytest.MonkeyPatch) -> None:
    """A program with one more migration than the database has."""
    known = upgrade.known_migrations()
    monkeypatch.setattr(upgrade, "known_migrations", lambda: [*known, "reporting/0099_add_a_table"])


@pytest.fixture
def streams(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Replaces NATS; returns what was asked of it."""
    asked: list[str] = []

    async def remove(url: str) -> None:
        asked.append(url)

    monkeypatch.setattr(upgrade, "_remove_streams", remove)
    return asked


@pytest.fixture
def dropped(postgres_server: str, database: Database) -> Iterator[None]:
    """Removes what was set aside."""
    yield
    with psycopg.connect(postgres_server, autocommit=True) as conn:
        names = conn.execute(
            "select datname from pg_database where datname like %s", (f"{database.name}\\_%",)
        ).fetchall()
        for (name,) in names:
            conn.execute(sql.SQL("drop database {}").format(sql.Identifier(name)))


def run(database: Database, statement: str) -> None:
    with psycopg.connect(database.admin_url, autocommit=True) as conn:
        conn.execute(statement)


def value(database: Database, query: str) -> object:
    with psycopg.connect(database.admin_url, autocommit=True) as conn:
        row = conn.execute(query).fetchone()
    return row[0] if row else None


def add_agency(database: Database, name: str) -> None:
    run(
        database,
        "insert into auth.agencies (agency_id, display_name, time_zone, create_time) "
        f"values ('{uuid4()}', '{name}', 'UTC', now())",
    )


def change_schema(database: Database) -> None:
    """What the newer version's migrations do."""
    run(
        database,
        "create table reporting.extra (id int); alter table auth.agencies add column extra text;"
        "insert into reporting.schema_migrations (name, sha256) values ('0099_add_a_table', 'x')",
    )


def schema_of(database: Database) -> str:
    done = subprocess.run(
        ["pg_dump", "--schema-only", database.admin_url], capture_output=True, text=True, check=True
    ).stdout
    return "\n".join(line for line in done.splitlines() if not line.startswith(("\\restrict", "\\unrestrict")))


def before(home: Home, database: Database, said: list[str], **changes: bool) -> None:
    options = {"own_server": False, "wanted": True, **changes}
    upgrade.before_migrations(home, database.admin_url, say=said.append, **options)


def back(home: Home, database: Database, said: list[str], *, installed: str = "2.0", lose_new: bool = False) -> None:
    upgrade.go_back(
        home,
        database.admin_url,
        "nats://nowhere",
        own_server=False,
        installed=installed,
        lose_new=lose_new,
        say=said.append,
    )


def test_nothing_is_kept_where_the_schema_stays(home: Home, database: Database) -> None:
    said: list[str] = []
    before(home, database, said)
    assert said == []
    assert restore_point.points(home.restore) == []


@pytest.mark.usefixtures("newer", "dropped")
def test_a_database_comes_back_as_it_was_to_the_last_grant(home: Home, database: Database, streams: list[str]) -> None:
    add_agency(database, "First Court")
    then, said = schema_of(database), []
    before(home, database, said)
    assert said[0].startswith("restore point of 1.0: ")
    change_schema(database)
    upgrade.after_migrations(home, "2.0")
    assert schema_of(database) != then
    way = upgrade.way_back(home, database.admin_url, own_server=False, installed="2.0")
    assert (way.to.version, way.written) == ("1.0", {})
    back(home, database, said)
    assert schema_of(database) == then
    assert value(database, "select display_name from auth.agencies") == "First Court"
    assert streams == ["nats://nowhere"]
    known = read_json(home.schema)
    assert (known["version"], known["history"]) == ("1.0", [])
    # As the role that answers calls sees it: row-level security holds as before.
    with psycopg.connect(database.url("auth", "serve")) as conn:
        assert conn.execute("select count(*) from auth.agencies").fetchone() == (0,)


@pytest.mark.usefixtures("newer", "dropped", "streams")
def test_what_was_written_since_is_named_and_kept_when_it_is_given_up(home: Home, database: Database) -> None:
    said: list[str] = []
    before(home, database, said)
    change_schema(database)
    upgrade.after_migrations(home, "2.0")
    add_agency(database, "Second Court")
    run(database, "update link.feeds set revision = revision + 3 where feed = 'people'")
    with pytest.raises(HostFault, match="3 changes of portals, links and clients, 1 changes of agencies"):
        back(home, database, said)
    assert value(database, "select count(*) from auth.agencies") == 1
    back(home, database, said, lose_new=True)
    assert value(database, "select count(*) from auth.agencies") == 0
    aside = said[-1].split("in the database ")[1].split(",")[0]
    with psycopg.connect(restore_point._other_database(database.admin_url, aside)) as conn:
        assert conn.execute("select display_name, extra from auth.agencies").fetchall() == [("Second Court", None)]


@pytest.mark.usefixtures("newer", "dropped", "streams")
def test_a_way_back_that_was_killed_can_be_gone_again(
    home: Home, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    add_agency(database, "First Court")
    before(home, database, said)
    change_schema(database)
    upgrade.after_migrations(home, "2.0")
    # Killed while the other database is filled: the one in use is whole and as it was.
    with monkeypatch.context() as patch:
        patch.setattr(restore_point, "_run", lambda *_, **__: (_ for _ in ()).throw(KeyboardInterrupt()))
        with pytest.raises(KeyboardInterrupt):
            back(home, database, said)
    assert value(database, "select count(*) from reporting.extra") == 0
    # Killed after the database had changed its name, before that was noted.
    with monkeypatch.context() as patch:
        patch.setattr(restore_point, "went_back", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt()))
        with pytest.raises(KeyboardInterrupt):
            back(home, database, said)
    assert value(database, "select to_regclass('reporting.extra')") is None
    back(home, database, said)
    assert read_json(home.schema)["version"] == "1.0"
    assert value(database, "select display_name from auth.agencies") == "First Court"


@pytest.mark.usefixtures("newer", "dropped", "streams")
def test_an_upgrade_that_broke_off_leads_back_to_the_version_before_it(home: Home, database: Database) -> None:
    said: list[str] = []
    before(home, database, said)
    run(database, "create table reporting.half (id int)")
    run(database, "insert into reporting.schema_migrations (name, sha256) values ('0098_half', 'x')")
    # The second attempt must not take the half for what 1.0 left.
    before(home, database, said)
    assert "broke off" in said[-1]
    assert len(restore_point.points(home.restore)) == 1
    back(home, database, said)
    assert value(database, "select to_regclass('reporting.half')") is None
    assert read_json(home.schema)["version"] == "1.0"


def test_a_version_that_never_started_leads_back_without_touching_data(
    home: Home, database: Database, streams: list[str]
) -> None:
    restore_point.note(home.schema, Version("1.1", upgrade.known_migrations()))
    way = upgrade.way_back(home, database.admin_url, own_server=False, installed="2.0")
    assert (way.to.version, way.point) == ("1.1", None)
    way = upgrade.way_back(home, database.admin_url, own_server=False, installed="1.1")
    assert (way.to.version, way.point) == ("1.0", None)
    back(home, database, [], installed="1.1")
    assert streams == []
    with pytest.raises(HostFault, match=r"there is no version before 1\.0"):
        back(home, database, [], installed="1.0")


@pytest.mark.usefixtures("newer")
def test_the_newest_two_are_kept_and_rests_of_killed_runs_go(home: Home, database: Database) -> None:
    said: list[str] = []
    for number in range(4):
        (home.restore).mkdir(exist_ok=True)
        (home.restore / f"1.0-killed{number}.dump").touch()
        (home.restore / f"1.0-killed{number}.partial").touch()
        version = Version(f"1.{number}", restore_point.applied(database.admin_url))
        restore_point.make(database.admin_url, home.restore, version, said.append)
    assert [point.version for point in restore_point.points(home.restore)] == ["1.2", "1.3"]
    assert len(list(home.restore.iterdir())) == 4


@pytest.mark.usefixtures("newer")
def test_points_that_nobody_would_go_back_to_are_removed(home: Home, database: Database) -> None:
    point = restore_point.make(database.admin_url, home.restore, Version("1.0", []), lambda _: None)
    upgrade.after_migrations(home, "2.0")
    assert restore_point.points(home.restore) == [point]
    note = home.restore / f"{point.name}.json"
    old = (datetime.now(UTC) - timedelta(days=31)).isoformat()
    note.write_text(json.dumps({**json.loads(note.read_text()), "time": old}))
    upgrade.after_migrations(home, "2.0")
    assert list(home.restore.iterdir()) == []


@pytest.mark.usefixtures("newer")
def test_too_little_room_refuses_before_anything_changes(
    home: Home, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(home.root)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=1000))
    with pytest.raises(HostFault, match=r"0\.0 GB are free: make room, or set OPENNOTICE_RESTORE_POINT=no"):
        before(home, database, [])
    assert list(home.restore.iterdir()) == []
    said: list[str] = []
    before(home, database, said, wanted=False)
    before(home, database, said, own_server=True)
    assert [line.split(":")[0] for line in said] == ["warning", "warning"]


@pytest.mark.usefixtures("newer", "dropped")
def test_no_way_back_is_one_clear_line(home: Home, database: Database) -> None:
    change_schema(database)
    upgrade.after_migrations(home, "2.0")
    with pytest.raises(HostFault, match=r"there is no restore point of 1\.0"):
        upgrade.way_back(home, database.admin_url, own_server=False, installed="2.0")
    with pytest.raises(HostFault, match="put its backup of before the upgrade back there"):
        upgrade.way_back(home, database.admin_url, own_server=True, installed="2.0")


@pytest.mark.usefixtures("newer")
def test_an_older_program_is_refused_before_it_touches_anything(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    upgrade.after_migrations(home, "2.0")
    monkeypatch.undo()
    with pytest.raises(HostFault, match=r"written by a newer OpenNotice \(2\.0, it has reporting/0099_add_a_table\)"):
        upgrade.refuse_newer_data(home)


def test_the_password_is_in_no_argument_and_no_note(
    home: Home, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[object] = []
    real = subprocess.run
    monkeypatch.setattr(subprocess, "run", lambda argv, **more: (seen.append(argv), real(argv, **more))[1])
    point = restore_point.make(database.admin_url, home.restore, Version("1.0", []), lambda _: None)
    note = (home.restore / f"{point.name}.json").read_text()
    assert json.loads(note)["version"] == "1.0"
    password = database.admin_url.split(":")[2].split("@")[0]
    assert password not in f"{seen}{note}"
    assert (home.restore / f"{point.name}.json").stat().st_mode & 0o077 == 0
