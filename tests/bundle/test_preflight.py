"""Servers of the agency's own: used only when what they acknowledge is on disk."""

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psycopg
import pytest

from bundle.embedded import Nats, Postgres, wait_until
from bundle.preflight import check_nats, check_postgres
from bundle.program import HostFault, Program, account_for_postgres, free_port
from tests.fix_nats import running
from tests.fix_postgres import as_url


@dataclass(frozen=True)
class Careless(Postgres):
    """A server as an agency may have set it up."""

    options: tuple[str, ...] = ()

    def program(self) -> Program:
        program = super().program()
        extra = [part for option in self.options for part in ("-c", option)]
        return Program([*program.argv, *extra], program.environment, program.folder, program.death_signal,
                       program.stop_signal, program.account)  # fmt: skip


@contextmanager
def careless_server(*options: str) -> Iterator[str]:
    """Runs a server with some options changed."""
    folder = Path(tempfile.mkdtemp(prefix="opennotice-tests-"))
    folder.chmod(0o711)
    server = Careless(folder / "postgres", free_port(), "only-for-tests", account_for_postgres("nobody"), options)
    server.prepare()
    program = server.program()
    process = subprocess.Popen(program.argv, **program.arguments(), stderr=subprocess.DEVNULL)
    try:
        assert wait_until(server.is_ready, seconds=20)
        yield server.admin_url
    finally:
        process.send_signal(program.stop_signal)
        process.wait(20)
        shutil.rmtree(folder)


def test_a_server_with_safe_settings_is_used(postgres_server: str) -> None:
    assert check_postgres(postgres_server) == ([], [])


def test_every_unsafe_setting_is_named_in_its_own_line() -> None:
    with careless_server("fsync=off", "synchronous_commit=off", "full_page_writes=off") as url:
        faults, warnings = check_postgres(url)
    named = [
        name for name in ("fsync", "full_page_writes", "synchronous_commit") if any(name in line for line in faults)
    ]
    assert named == ["fsync", "full_page_writes", "synchronous_commit"], "E08"
    assert len(faults) == 3
    assert warnings == []


def test_a_setting_of_the_role_counts_too(postgres_server: str) -> None:
    with psycopg.connect(postgres_server, autocommit=True) as connection:
        connection.execute(f"create role careless_{os.getpid()} login createrole password 'only-for-tests'")
        connection.execute(f"alter role careless_{os.getpid()} set synchronous_commit = off")
        url = as_url(postgres_server, user=f"careless_{os.getpid()}", password="only-for-tests")
        faults, _ = check_postgres(url)
        connection.execute(f"drop role careless_{os.getpid()}")
    assert [line for line in faults if "synchronous_commit" in line] == faults != []


def test_another_encoding_is_refused(postgres_server: str) -> None:
    name = f"latin_{os.getpid()}"
    with psycopg.connect(postgres_server, autocommit=True) as connection:
        connection.execute(f"create database {name} encoding latin1 locale_provider libc locale 'C' template template0")
        faults, _ = check_postgres(as_url(postgres_server, dbname=name))
        connection.execute(f"drop database {name}")
    assert len(faults) == 1
    assert "server_encoding = LATIN1" in faults[0]


def test_a_user_without_the_right_to_make_roles_is_refused(postgres_server: str) -> None:
    name = f"weak_{os.getpid()}"
    with psycopg.connect(postgres_server, autocommit=True) as connection:
        connection.execute(f"create role {name} login password 'only-for-tests'")
        faults, _ = check_postgres(as_url(postgres_server, user=name, password="only-for-tests"))
        connection.execute(f"drop role {name}")
    assert len(faults) == 1
    assert "CREATEROLE" in faults[0]


def test_a_server_that_is_not_there_is_one_line_without_the_password() -> None:
    with pytest.raises(HostFault) as raised:
        check_postgres(f"postgresql://dana:very-secret@127.0.0.1:{free_port()}/x")
    assert str(raised.value).startswith("OPENNOTICE_POSTGRES_URL: cannot use the server")
    assert "\n" not in str(raised.value)
    assert "very-secret" not in str(raised.value)


async def test_a_queue_that_syncs_every_message_is_used(tmp_path: Path) -> None:
    server = Nats(tmp_path, free_port(), free_port(), "only-for-tests")
    with running(server):
        assert await check_nats(server.url, f"http://127.0.0.1:{server.monitor_port}") == []


async def test_a_password_may_hold_what_a_url_has_to_spell_differently(tmp_path: Path) -> None:
    server = Nats(tmp_path, free_port(), free_port(), "p@ss/w:rd")
    with running(server):
        url = f"nats://opennotice:p%40ss%2Fw%3Ard@127.0.0.1:{server.port}"
        assert await check_nats(url, f"http://127.0.0.1:{server.monitor_port}") == []
        (fault,) = await check_nats(url.replace("p%40", "q%40"), f"http://127.0.0.1:{server.monitor_port}", "nats-url")
    assert fault.startswith("nats-url: the server does not let us in: nats: 'Authorization Violation'")


@dataclass(frozen=True)
class CarelessNats(Nats):
    """A queue as an agency may have set it up."""

    jetstream: str = ""

    def prepare(self) -> None:
        super().prepare()
        path = self.folder / "nats-server.conf"
        text = path.read_text()
        path.write_text(text[: text.index("jetstream {")] + self.jetstream)

    def is_ready(self) -> bool:
        return (bool(self.jetstream) and super().is_ready()) or not self.jetstream


@pytest.mark.parametrize(
    ("jetstream", "told"),
    [
        pytest.param("jetstream { store_dir: STORE }", "sync_interval: always", id="E09 syncs every two minutes"),
        pytest.param("", "has no JetStream", id="E09 no JetStream"),
    ],
)
async def test_a_careless_queue_is_refused_in_one_line(tmp_path: Path, jetstream: str, told: str) -> None:
    configured = jetstream.replace("STORE", f'"{tmp_path}"')
    server = CarelessNats(tmp_path, free_port(), free_port(), "only-for-tests", configured)
    with running(server):
        assert wait_until(lambda: _listens(server.port), seconds=10)
        faults = await check_nats(server.url, f"http://127.0.0.1:{server.monitor_port}")
    assert len(faults) == 1
    assert told in faults[0]


def _listens(port: int) -> bool:
    import socket

    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


async def test_a_queue_that_cannot_prove_it_is_refused(tmp_path: Path) -> None:
    server = Nats(tmp_path, free_port(), free_port(), "only-for-tests")
    with running(server):
        faults = await check_nats(server.url, f"http://127.0.0.1:{free_port()}")
    assert len(faults) == 1
    assert faults[0].startswith("OPENNOTICE_NATS_MONITOR_URL")
