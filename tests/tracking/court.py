"""A court with auth, link and tracking as real processes, and the ways between them in the test's hands."""

import asyncio
import contextlib
import hashlib
import json
import os
import signal
import socket
import sqlite3
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import UUID

import grpc
import nats
import psycopg
from google.protobuf.timestamp_pb2 import Timestamp
from opennotice.auth.v1 import auth_pb2, auth_pb2_grpc
from opennotice.link.v1 import link_pb2, link_pb2_grpc
from opennotice.tracking.v1 import events_pb2

from services.chassis.identity import IDENTITY_METADATA
from services.chassis.serve import CLIENT_OPTIONS
from tests.cast import DANA
from tests.fix_postgres import Database
from tests.fix_rpc import Keyring, free_address
from tests.gate import Gate

ROOT = Path(__file__).resolve().parents[2]
KEY = "1:" + "A" * 43 + "="


def wait_for(told: Callable[[], Any], seconds: float = 15.0) -> Any:
    """Returns the first true value of a question asked again and again."""
    deadline = time.monotonic() + seconds
    while True:
        if found := told():
            return found
        assert time.monotonic() < deadline, f"waited {seconds} s in vain"
        time.sleep(0.05)


@dataclass
class Service:
    """One process of the product."""

    name: str
    environment: dict[str, str]
    log: Path
    sockets: Sequence[socket.socket] = ()
    process: subprocess.Popen[bytes] | None = None

    @property
    def probe(self) -> str:
        """Where it answers probes."""
        return f"http://{self.environment['OPENNOTICE_PROBE_BIND']}"

    def start(self, *, until: str = "/ready") -> None:
        """Starts it and waits until a probe is answered well."""
        self.environment["OPENNOTICE_PROBE_BIND"] = str(free_address())
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", f"services.{self.name}"],
                cwd=ROOT,
                env={**_outside(), **self.environment},
                stdout=log,
                stderr=log,
                pass_fds=[each.fileno() for each in self.sockets],
            )
        try:
            wait_for(lambda: self._is_up(until), 30)
        except AssertionError:
            raise AssertionError(f"{self.name} does not come up:\n{self.log.read_text()[-4000:]}") from None

    def _is_up(self, path: str) -> bool:
        assert self.process is not None
        if self.process.poll() is not None:
            raise AssertionError(f"{self.name} ended: {self.log.read_text()[-4000:]}")
        return self.asked(path)[0] == 200

    def asked(self, path: str) -> tuple[int, str]:
        """Returns what a probe says."""
        try:
            with urllib.request.urlopen(self.probe + path, timeout=3) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()
        except OSError:
            return 0, ""

    def metric(self, name: str) -> float:
        """Returns the value of a metric without labels."""
        for line in self.asked("/metrics")[1].splitlines():
            if line.split(" ")[0] == name:
                return float(line.split(" ")[1])
        raise AssertionError(f"there is no metric {name}")

    def end(self, how: signal.Signals = signal.SIGTERM) -> int:
        """Ends it; returns the exit code."""
        assert self.process is not None
        self.process.send_signal(how)
        return self.process.wait(30)


def _outside() -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("OPENNOTICE_")}
    return {**kept, "PYTHONPATH": f"{ROOT}:{ROOT / 'proto'}"}


@dataclass
class Answer:
    """An HTTP answer as it came."""

    status: int
    headers: list[tuple[str, str]]
    body: bytes

    def header(self, name: str) -> str | None:
        """Returns a header's value, None when it is not there; two of one name are a fault."""
        found = [value for key, value in self.headers if key.lower() == name]
        assert len(found) < 2, f"{name} comes {len(found)} times"
        return found[0] if found else None

    @property
    def open_id(self) -> UUID | None:
        """The open that was recorded."""
        said = self.header("x-open-id")
        return UUID(said) if said else None


def exchange(port: int, request: bytes, *, head: bool = False) -> Answer:
    """Sends bytes to a port and reads one answer."""
    with socket.create_connection(("127.0.0.1", port), timeout=15) as conn:
        conn.sendall(request)
        return read_answer(conn, head=head)


def read_answer(conn: socket.socket, *, head: bool = False) -> Answer:
    """Reads one answer from a connection."""
    data = b""
    while b"\r\n\r\n" not in data:
        more = conn.recv(65536)
        assert more, f"the connection ended after {data!r}"
        data += more
    top, _, body = data.partition(b"\r\n\r\n")
    lines = top.decode("latin-1").split("\r\n")
    headers = [(name.strip(), value.strip()) for name, _, value in (line.partition(":") for line in lines[1:])]
    answer = Answer(int(lines[0].split(" ")[1]), headers, b"")
    length = 0 if head else int(answer.header("content-length") or 0)
    while len(body) < length:
        more = conn.recv(65536)
        assert more, "the body is cut off"
        body += more
    assert head or len(body) == length, "more came than the answer says"
    answer.body = body
    return answer


@dataclass
class Court:
    """The processes, the gates, and a hand on link."""

    database: Database
    keyring: Keyring
    folder: Path
    auth: Service
    link: Service
    tracking: Service
    gates: dict[str, Gate]
    public_port: int
    link_address: str
    agency_id: UUID = field(default_factory=lambda: UUID(int=0))

    # Visitors.

    def ask(
        self,
        path: str | bytes,
        *,
        method: str = "GET",
        host: str | None = None,
        headers: Sequence[tuple[str, str | bytes]] = (),
    ) -> Answer:
        """Sends one request as a visitor does."""
        target = path.encode() if isinstance(path, str) else path
        lines = [method.encode() + b" " + target + b" HTTP/1.1"]
        lines.append(b"Host: " + (host or f"127.0.0.1:{self.public_port}").encode())
        for name, value in headers:
            lines.append(name.encode() + b": " + (value.encode() if isinstance(value, str) else value))
        lines.append(b"Connection: close")
        return exchange(self.public_port, b"\r\n".join([*lines, b"", b""]), head=method == "HEAD")

    def record(self, open_id: UUID) -> events_pb2.OpenRecorded:
        """Returns the record of an open from PostgreSQL."""
        found = wait_for(lambda: self.rows("select record from tracking.raw_opens where open_id = %s", open_id))
        assert len(found) == 1
        return events_pb2.OpenRecorded.FromString(found[0][0])

    def rows(self, query: str, *values: object) -> list[Any]:
        """Returns rows as the superuser sees them."""
        with psycopg.connect(self.database.admin_url, autocommit=True) as conn:
            return conn.execute(query.encode(), values).fetchall()

    def packs(self) -> list[events_pb2.OpensRecorded]:
        """Returns everything in the stream of tracking."""
        return asyncio.run(self._packs())

    async def _packs(self) -> list[events_pb2.OpensRecorded]:
        client = await nats.connect(self.link.environment["OPENNOTICE_NATS_URL"])
        try:
            js = client.jetstream()
            reader = await js.pull_subscribe("opennotice.tracking.v1.opens.recorded", stream="TRACKING")
            found: list[events_pb2.OpensRecorded] = []
            while (await reader.consumer_info()).num_pending:
                messages = await reader.fetch(200, timeout=5)
                found += [events_pb2.OpensRecorded.FromString(message.data) for message in messages]
                await asyncio.gather(*(message.ack() for message in messages))
            return found
        finally:
            await client.close()

    # Staff.

    def stub(self) -> "link_pb2_grpc.LinkServiceStub":
        """Returns a stub of the real link service."""
        return link_pb2_grpc.LinkServiceStub(grpc.insecure_channel(self.link_address, options=CLIENT_OPTIONS))

    @property
    def as_staff(self) -> tuple[tuple[str, str], ...]:
        """Metadata of a call by the agency's administrator."""
        token, _ = self.keyring.signer("auth").sign(
            subject=DANA.name,
            display_name=DANA.display_name,
            agency_id=self.agency_id,
            role=DANA.role,
            permissions=DANA.permissions,
        )
        return ((IDENTITY_METADATA, token),)

    def call(self, method: str, request: Any) -> Any:
        """Calls link as staff."""
        return getattr(self.stub(), method)(request, metadata=self.as_staff, timeout=10)

    def portal(self, **fields: Any) -> link_pb2.Portal:
        """Makes a portal, external unless pages are given."""
        kind = link_pb2.PORTAL_KIND_HOSTED if "pages" in fields else link_pb2.PORTAL_KIND_EXTERNAL
        if kind == link_pb2.PORTAL_KIND_EXTERNAL:
            fields.setdefault("target_uri", "https://portal.court.example/start?a=b")
        portal = link_pb2.Portal(display_name="Hearings", kind=kind, **fields)
        made: link_pb2.Portal = self.call("CreatePortal", link_pb2.CreatePortalRequest(portal=portal))
        return made

    def new_link(self, portal: link_pb2.Portal, **fields: Any) -> tuple[str, link_pb2.Link]:
        """Makes a link; returns its token and itself."""
        wanted = link_pb2.Link(portal=portal.name, **fields)
        made = self.call("CreateLink", link_pb2.CreateLinkRequest(link=wanted))
        return made.uri.rpartition("/")[2], made

    def known_link(self, **fields: Any) -> tuple[str, link_pb2.Link]:
        """Makes a portal and a link of it, and waits until tracking has its own copy: until then it asks link, and on a
        machine that stalls in vain.
        """
        token, link = self.new_link(self.portal(**fields))
        wait_for(lambda: self.is_known(token))
        return token, link

    def is_known(self, token: str) -> bool:
        """Whether a link is in tracking's copy on disk."""
        path = self.folder / "data" / "directory.sqlite"
        with contextlib.closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as conn:
            query = "select 1 from links where token_hash = ?"
            return conn.execute(query, (hashlib.sha256(token.encode()).digest(),)).fetchone() is not None

    def redirect(self, target_uri: str) -> tuple[str, link_pb2.Redirect]:
        """Makes a redirect; returns its token and itself."""
        wanted = link_pb2.Redirect(display_name="Forms", target_uri=target_uri)
        made = self.call("CreateRedirect", link_pb2.CreateRedirectRequest(redirect=wanted))
        return made.uri.rpartition("/")[2], made


def in_seconds(seconds: float) -> Timestamp:
    """Returns a time some seconds from now."""
    stamp = Timestamp()
    stamp.FromNanoseconds(int((time.time() + seconds) * 1_000_000_000))
    return stamp


def set_up(database: Database, keyring: Keyring, nats_url: str, folder: Path) -> Court:
    """Builds the court; nothing runs yet."""
    parts = psycopg.conninfo.conninfo_to_dict(database.admin_url)
    # What tracking talks to goes through gates; link and auth are spared.
    gates = {
        "postgres": Gate(int(str(parts["port"]))),
        "nats": Gate(int(nats_url.rpartition(":")[2])),
    }
    addresses = {name: str(free_address()) for name in ("auth", "link", "tracking")}
    gates["link"] = Gate(int(addresses["link"].rpartition(":")[2]))
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind(("127.0.0.1", 0))
    listener.listen(512)
    public_port = listener.getsockname()[1]
    public_url = f"http://127.0.0.1:{public_port}"

    def service(name: str, **more: str) -> Service:
        environment = {
            "OPENNOTICE_IDENTITY_KEY": keyring.private_pem[name],
            "OPENNOTICE_IDENTITY_TRUST": keyring.trust,
            "OPENNOTICE_PAGING_KEY": keyring.paging_key,
            "OPENNOTICE_NATS_URL": nats_url,
            "OPENNOTICE_SERVE_DATABASE_URL": database.url(name, "serve"),
            "OPENNOTICE_INGEST_DATABASE_URL": database.url(name, "ingest"),
            "OPENNOTICE_AUTH_GRPC_ADDRESS": addresses["auth"],
            f"OPENNOTICE_{name.upper()}_GRPC_BIND": addresses[name],
            "OPENNOTICE_LOG_LEVEL": "info",
            **more,
        }
        return Service(name, environment, folder / f"{name}.log")

    auth = service("auth", OPENNOTICE_DIRECTORY_DATABASE_URL=database.url("auth", "directory"))
    del auth.environment["OPENNOTICE_AUTH_GRPC_ADDRESS"]
    link = service(
        "link",
        OPENNOTICE_DIRECTORY_DATABASE_URL=database.url("link", "directory"),
        OPENNOTICE_LINK_TOKEN_KEY=KEY,
        OPENNOTICE_PUBLIC_URL=public_url,
    )
    port = gates["postgres"].port
    tracking = service(
        "tracking",
        OPENNOTICE_DATA_DIR=str(folder / "data"),
        OPENNOTICE_PUBLIC_URL=public_url,
        OPENNOTICE_PUBLIC_SOCKET_FD=str(listener.fileno()),
        OPENNOTICE_LINK_GRPC_ADDRESS=f"127.0.0.1:{gates['link'].port}",
        OPENNOTICE_TRUSTED_PROXIES="127.0.0.1/32,198.51.100.0/24",
        OPENNOTICE_NATS_URL=nats_url.rpartition(":")[0] + f":{gates['nats'].port}",
        OPENNOTICE_SERVE_DATABASE_URL=database.url("tracking", "serve").replace(f":{parts['port']}/", f":{port}/"),
        OPENNOTICE_INGEST_DATABASE_URL=database.url("tracking", "ingest").replace(f":{parts['port']}/", f":{port}/"),
    )
    tracking.sockets = [listener]
    return Court(database, keyring, folder, auth, link, tracking, gates, public_port, addresses["link"])


def open_agency(court: Court) -> None:
    """Makes the agency through auth, as the host command does."""
    channel = grpc.insecure_channel(court.auth.environment["OPENNOTICE_AUTH_GRPC_BIND"])
    request = auth_pb2.CreateAgencyRequest(
        agency=auth_pb2.Agency(display_name="First court", time_zone="America/Chicago"),
        admin_email="dana@first.example",
    )
    metadata = ((IDENTITY_METADATA, court.keyring.signer("host").as_process()),)
    made = auth_pb2_grpc.AuthServiceStub(channel).CreateAgency(request, metadata=metadata, timeout=20)
    court.agency_id = UUID(made.agency.name.partition("/")[2])


def log_lines(service: Service) -> list[dict[str, Any]]:
    """Returns what a process logged."""
    lines = service.log.read_text(errors="replace").splitlines()
    return [json.loads(line) for line in lines if line.startswith("{")]
