"""One court for all tests of tracking; each test leaves it as it found it."""

import itertools
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from bundle.embedded import Nats
from bundle.program import free_port
from tests.fix_nats import running
from tests.fix_postgres import Database, _execute, as_url
from tests.fix_rpc import Keyring
from tests.tracking.court import Court, open_agency, set_up, wait_for

_numbers = itertools.count(1)


@pytest.fixture(scope="session")
def _court(postgres_server: str, _template: Database, keyring: Keyring) -> Iterator[Court]:
    name = f"opennotice_tracking_{os.getpid()}_{next(_numbers)}"
    _execute(postgres_server, "create database {} template {} strategy file_copy", name, _template.name)
    with tempfile.TemporaryDirectory(prefix="opennotice-tests-tracking-") as folder:
        nats = Nats(Path(folder) / "nats", free_port(), free_port(), "only-for-tests")
        with running(nats):
            database = Database(as_url(postgres_server, dbname=name), name)
            court = set_up(database, keyring, nats.url, Path(folder))
            try:
                for service in (court.auth, court.link, court.tracking):
                    service.start()
                open_agency(court)
                yield court
            finally:
                for service in (court.tracking, court.link, court.auth):
                    if service.process is not None and service.process.poll() is None:
                        service.end()
                for gate in court.gates.values():
                    gate.end()
    _execute(postgres_server, "drop database {} with (force)", name)


@pytest.fixture
def court(_court: Court) -> Iterator[Court]:
    """Gives the court with everything running and every gate open."""
    yield _court
    for gate in _court.gates.values():
        gate.open()
    for service in (_court.link, _court.tracking):
        if service.process is None or service.process.poll() is not None:
            service.start()
    wait_for(lambda: _court.tracking.metric("opennotice_postgres_away") == 0)
    wait_for(lambda: _court.tracking.metric("opennotice_directory_stale") == 0)
