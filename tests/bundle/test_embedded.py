"""The embedded servers: safe settings, real passwords, and repair after a killed run."""

import asyncio
import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import nats
import psutil
import psycopg
import pytest

from bundle.embedded import Nats, Postgres, wait_until
from bundle.processes import ROOT
from bundle.program import account_for_postgres, free_port
from tests.fix_nats import running


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder that the account of PostgreSQL can reach, also when the tests run as root."""
    folder = Path(tempfile.mkdtemp(prefix="opennotice-tests-"))
    folder.chmod(0o711)
    yield folder
    shutil.rmtree(folder)


def _start(server: Postgres) -> "subprocess.Popen[bytes]":
    server.prepare()
    program = server.program()
    process = subprocess.Popen(program.argv, **program.arguments(), stderr=subprocess.DEVNULL)
    assert wait_until(server.is_ready, seconds=20)
    return process


def _postgres(folder: Path) -> Postgres:
    return Postgres(folder / "postgres", free_port(), "a-password", account_for_postgres("nobody"))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        pytest.param("fsync", "on", id="E08 fsync"),
        pytest.param("synchronous_commit", "on", id="E08 synchronous_commit"),
        pytest.param("full_page_writes", "on", id="E08 full_page_writes"),
        pytest.param("data_checksums", "on", id="E08 checksums"),
        pytest.param("server_encoding", "UTF8", id="E08 encoding"),
        pytest.param("listen_addresses", "127.0.0.1", id="loopback only"),
    ],
)
def test_the_embedded_server_keeps_what_it_commits(postgres_server: str, name: str, value: str) -> None:
    with psycopg.connect(postgres_server) as connection:
        row = connection.execute("select current_setting(%s)", [name]).fetchone()
    assert row == (value,)


def test_a_wrong_password_is_refused(postgres_server: str) -> None:
    with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
        psycopg.connect(postgres_server.replace("only-for-tests", "guess"))


def test_case_is_known_beyond_ascii(postgres_server: str) -> None:
    with psycopg.connect(postgres_server) as connection:
        row = connection.execute("select 'ÉLODIE' ilike 'élodie'").fetchone()
    assert row == (True,)


def test_what_was_committed_is_there_after_a_kill(open_folder: Path) -> None:
    server = _postgres(open_folder)
    process = _start(server)
    with psycopg.connect(server.admin_url) as connection:
        connection.execute("create table kept (id int)")
        connection.execute("insert into kept values (1)")
    process.kill()
    process.wait()
    process = _start(server)
    with psycopg.connect(server.admin_url) as connection:
        assert connection.execute("select id from kept").fetchall() == [(1,)]
    process.send_signal(signal.SIGINT)
    assert process.wait(20) == 0


def test_a_pid_file_with_somebody_elses_pid_is_removed(open_folder: Path) -> None:
    server = _postgres(open_folder)
    server.prepare()
    # PostgreSQL would refuse to start: the pid lives, and for all it knows it is another server.
    (server.data / "postmaster.pid").write_text(f"{os.getpid()}\n{server.data}\n")
    process = _start(server)
    process.send_signal(signal.SIGINT)
    process.wait(20)


def test_a_server_left_running_is_ended_before_the_next_starts(open_folder: Path) -> None:
    server = _postgres(open_folder)
    left = _start(server)
    reaped = left.poll
    server = Postgres(server.data, free_port(), server.password, server.account)
    process = _start(server)
    assert reaped() == 0
    process.send_signal(signal.SIGINT)
    process.wait(20)


def test_a_killed_initdb_does_not_look_like_a_database(open_folder: Path) -> None:
    server = _postgres(open_folder)
    half = open_folder / "postgres.new"
    half.mkdir()
    (half / "PG_VERSION").write_text("18\n")
    process = _start(server)
    assert not half.exists()
    process.send_signal(signal.SIGINT)
    process.wait(20)


def test_the_data_folder_and_the_configuration_are_closed_to_others(open_folder: Path) -> None:
    server = _postgres(open_folder)
    server.prepare()
    queue = Nats(open_folder / "nats", free_port(), free_port(), "a-password")
    queue.prepare()
    assert server.data.stat().st_mode & 0o077 == 0
    assert (queue.folder / "nats-server.conf").stat().st_mode & 0o077 == 0


async def test_messages_are_there_after_the_queue_was_restarted(tmp_path: Path) -> None:
    server = Nats(tmp_path, free_port(), free_port(), 'a "quoted" {password}')
    with running(server):
        client = await nats.connect(f"nats://127.0.0.1:{server.port}", user="opennotice", password=server.password)
        await client.jetstream().add_stream(name="KEPT", subjects=["kept.>"])
        await client.jetstream().publish("kept.one", b"1")
        await client.close()
    with running(server):
        client = await nats.connect(f"nats://127.0.0.1:{server.port}", user="opennotice", password=server.password)
        kept = await client.jetstream().stream_info("KEPT")
        await client.close()
    assert kept.state.messages == 1


async def test_the_queue_refuses_strangers(nats_url: str) -> None:
    stranger = nats_url.replace("only-for-tests", "guess")

    async def ignore(error: Exception) -> None:
        """The error is raised by connect as well."""

    with pytest.raises((nats.errors.Error, asyncio.TimeoutError)):
        await nats.connect(stranger, allow_reconnect=False, error_cb=ignore, connect_timeout=2)


async def test_nats_that_could_not_write_is_found_stuck_once_there_is_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = Nats(tmp_path, free_port(), free_port(), "a-password")
    # The limit of one file stands in for a full disk: the write fails, and the server notes that it did.
    with running(server):
        process = _process_of(server)
        client = await nats.connect(server.url)
        stream = client.jetstream(timeout=0.5)
        await stream.add_stream(name="KEPT", subjects=["kept"])
        await stream.publish("kept", b"before")
        unlimited = process.rlimit(psutil.RLIMIT_FSIZE)
        process.rlimit(psutil.RLIMIT_FSIZE, (4_096, unlimited[1]))
        with pytest.raises(nats.errors.TimeoutError):
            await stream.publish("kept", bytes(8_192))
        process.rlimit(psutil.RLIMIT_FSIZE, unlimited)
        with pytest.raises(nats.errors.TimeoutError):
            await stream.publish("kept", b"there is room, and it does not look")
        assert server.is_ready()
        assert server.is_stuck()
        with monkeypatch.context() as full:
            full.setattr(shutil, "disk_usage", lambda folder: SimpleNamespace(free=0))
            assert not server.is_stuck()
        await client.close()
        # As the engine of the containers asks; there the server is process 1.
        asked = [ROOT / "deploy" / "nats-is-ready", str(server.monitor_port), server.folder, str(process.pid)]
        surroundings = {**os.environ, "PATH": f"{ROOT / 'deploy'}{os.pathsep}{os.environ['PATH']}"}
        await asyncio.to_thread(subprocess.run, asked, env=surroundings, check=True)
        await asyncio.to_thread(process.wait, 10)
    with running(server):
        client = await nats.connect(server.url)
        await client.jetstream().publish("kept", b"after")
        assert not server.is_stuck()
        assert (await client.jetstream().stream_info("KEPT")).state.messages == 2
        await client.close()


def _process_of(server: Nats) -> psutil.Process:
    name = str(server.folder / "nats-server.conf")
    return next(one for one in psutil.process_iter(["cmdline"]) if name in (one.info["cmdline"] or []))
