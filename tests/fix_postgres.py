"""A real PostgreSQL: one server for the run, and for each test a fresh database with every service's schema."""

import itertools
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psycopg
import pytest
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from bundle.embedded import Postgres, wait_until
from bundle.program import account_for_postgres, free_port
from services.chassis.migrate import migrate, role_names

_PASSWORD = "only-for-tests"
_numbers = itertools.count(1)


def pytest_addoption(parser: pytest.Parser) -> None:
    """Adds the option to use a server that runs already."""
    parser.addoption(
        "--test-dsn",
        default=None,
        help="URL of a superuser on a PostgreSQL >= 17 of your own; the tests make and drop databases and roles there",
    )


@dataclass(frozen=True)
class Database:
    """A database with every schema in it; its server may be shared, its rows are not."""

    admin_url: str
    name: str

    def url(self, service: str, use: str) -> str:
        """Returns the URL of a service's role: use is "serve", "ingest" or "directory"."""
        return as_url(self.admin_url, user=f"{service}_{use}", password=_PASSWORD)


def as_url(url: str, **changes: str) -> str:
    """Returns a connection URL with some of its parts changed."""
    parts = {**conninfo_to_dict(url), **changes}
    # In the form postgresql://… because the services' settings accept no other.
    return f"postgresql://{parts['user']}:{parts['password']}@{parts['host']}:{parts['port']}/{parts['dbname']}"


@pytest.fixture(scope="session")
def postgres_server(request: pytest.FixtureRequest) -> Iterator[str]:
    """Gives the superuser's URL of a server: the one of --test-dsn, or an embedded one of this process."""
    given = request.config.getoption("--test-dsn")
    if given is not None:
        yield make_conninfo(given)
        return
    # Not below pytest's own folder, which is closed to the account that PostgreSQL runs under when we are root.
    folder = Path(tempfile.mkdtemp(prefix="opennotice-tests-", dir=quick_folder()))
    folder.chmod(0o711)
    account = account_for_postgres("nobody")
    server = Postgres(folder / "postgres", free_port(), _PASSWORD, account)
    server.prepare()
    program = server.program()
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(program.argv, **program.arguments(), stdout=log, stderr=log)
    try:
        assert wait_until(server.is_ready, seconds=20), (folder / "log").read_text()
        yield server.admin_url
    finally:
        process.send_signal(program.stop_signal)
        process.wait(20)
        shutil.rmtree(folder)


@pytest.fixture(scope="session")
def _template(postgres_server: str) -> Iterator[Database]:
    name = f"opennotice_template_{os.getpid()}"
    _execute(postgres_server, "drop database if exists {}", name)
    _execute(postgres_server, "create database {}", name)
    template = Database(as_url(postgres_server, dbname=name), name)
    migrate(template.admin_url, dict.fromkeys(role_names(), _PASSWORD))
    yield template
    _execute(postgres_server, "drop database {} with (force)", name)


@pytest.fixture
def database(postgres_server: str, _template: Database) -> Iterator[Database]:
    """Gives a fresh database with all schemas, dropped after the test."""
    name = f"opennotice_test_{os.getpid()}_{next(_numbers)}"
    _execute(postgres_server, "create database {} template {} strategy file_copy", name, _template.name)
    yield Database(as_url(postgres_server, dbname=name), name)
    _execute(postgres_server, "drop database {} with (force)", name)


def quick_folder() -> str | None:
    """Memory, where there is enough: a database for each test takes 20 ms there and 160 ms on a disk."""
    memory = Path("/dev/shm")
    return str(memory) if memory.is_dir() and shutil.disk_usage(memory).free > 2 * 1024**3 else None


def _execute(url: str, statement: str, *names: str) -> None:
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(sql.SQL(statement).format(*map(sql.Identifier, names)))
