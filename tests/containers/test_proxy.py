"""The proxy as it ships, in a container, before small services of the test: what comes through, and what does not.

The services run here, on the address that the engine's network has on this machine; a relay in a container carries the
names that the proxy looks for. Stopping the relay is what stopping a service's container is.
"""

import asyncio
import contextlib
import io
import json
import os
import re
import resource
import select
import shutil
import socket
import ssl
import struct
import subprocess
import tarfile
import threading
import time
from collections.abc import Iterator
from concurrent import futures
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from itertools import islice
from pathlib import Path
from typing import Any
from uuid import uuid4

import grpc
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from services.chassis.identity import IDENTITY_METADATA
from services.tracking import pages

pytestmark = pytest.mark.engine

IMAGE = os.environ.get("OPENNOTICE_TEST_PROXY_IMAGE", "opennotice/proxy")
LINKS, STAFF, API = (f"{name}.opennotice.localhost" for name in ("links", "staff", "api"))
TOKEN = "A7hq_Zk3-PpWv01sXy9QbA"
LINK = "/opennotice.link.v1.LinkService/"
AUTH = "/opennotice.auth.v1.AuthService/"
REPORTING = "/opennotice.reporting.v1.ReportingService/"
# As the shipped compose file runs it.
HARDENED = [
    *("--user", "10001:10001", "--read-only", "--cap-drop", "ALL", "--security-opt", "no-new-privileges"),
    *("--memory", "256m", "--pids-limit", "64", "--ulimit", "nofile=16384:16384", "--stop-signal", "SIGUSR1"),
]
RELAY = """
defaults
    mode tcp
    retries 0
    timeout connect 1s
    timeout client 1h
    timeout server 1h
"""


def docker(*words: str, stdin: bytes | None = None) -> str:
    """Runs one command of the engine's client and returns what it prints."""
    done = subprocess.run(["docker", *words], input=stdin, capture_output=True, timeout=60, check=False)
    assert done.returncode == 0, f"docker {' '.join(words)}: {done.stderr.decode(errors='replace')}"
    return done.stdout.decode().strip()


# --- the services behind


class Recorder:
    """HTTP/1.1 servers that keep every request as it came and answer by its path; run by a loop of their own."""

    def __init__(self, host: str) -> None:
        self._host = host
        self.requests: list[tuple[str, bytes]] = []
        self._loop = asyncio.new_event_loop()
        threading.Thread(target=self._loop.run_forever, daemon=True).start()
        self.ports = {name: self._run(self._listen(name)) for name in ("tracking", "gateway")}

    def _run(self, work: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(10)

    async def _listen(self, name: str) -> int:
        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            with contextlib.suppress(OSError, asyncio.IncompleteReadError):
                await self._serve(name, reader, writer)
            writer.close()

        server = await asyncio.start_server(serve, self._host, 0, limit=1 << 20)
        return int(server.sockets[0].getsockname()[1])

    async def _serve(self, name: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        if length := re.search(rb"content-length: (\d+)", head):
            head += await reader.readexactly(int(length[1]))
        self.requests.append((name, head))
        path = head.split(b" ", 2)[1]
        if path.startswith(b"/cut"):
            return
        if path.startswith(b"/ticks"):
            writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n")
            for number in range(int(path.rpartition(b"/")[2])):
                writer.write(b"7\r\ntick %d\n\r\n" % (number % 10))
                await writer.drain()
                await asyncio.sleep(0.5)
            writer.write(b"0\r\n\r\n")
            return
        if path.startswith(b"/wait"):
            await asyncio.sleep(float(path.rpartition(b"/")[2]))
        more = b"strict-transport-security: max-age=1\r\n" if path.startswith(b"/own-hsts") else b""
        writer.write(b"HTTP/1.1 200 OK\r\n%scontent-length: %d\r\n\r\n%s" % (more, len(name), name.encode()))
        await writer.drain()

    def arrived(self, marker: str) -> list[bytes]:
        """Returns the requests that name a marker."""
        return [head for _, head in self.requests if marker.encode() in head]


class Calls(grpc.GenericRpcHandler):  # type: ignore[misc]
    """Answers every method of one service with its own name, and keeps what came along."""

    def __init__(self, name: str) -> None:
        self._name = name
        self.metadata: list[dict[str, str]] = []

    def service(self, details: Any) -> grpc.RpcMethodHandler:
        """Returns the handler of a method, chosen by its name."""
        self.metadata.append(dict(details.invocation_metadata))
        method = details.method.rpartition("/")[2]
        if method == "Watch":
            return grpc.unary_stream_rpc_method_handler(self._watch)
        if method == "CreateLinks":
            return grpc.stream_stream_rpc_method_handler(lambda requests, _: (b"%d" % len(one) for one in requests))
        return grpc.unary_unary_rpc_method_handler(lambda *_: self._name.encode())

    def _watch(self, request: bytes, context: Any) -> Iterator[bytes]:
        for number in range(int(request)):
            yield b"%d" % number
            time.sleep(0.5)


@dataclass
class Behind:
    """Everything behind the proxy."""

    recorder: Recorder
    calls: dict[str, Calls]


# --- the containers


@dataclass(frozen=True)
class Proxy:
    """One running proxy."""

    container: str
    address: str
    authority: bytes

    def tls(
        self, *, sni: str | None = LINKS, alpn: str | None = None, old: ssl.TLSVersion | None = None
    ) -> ssl.SSLSocket:
        """Connects and shakes hands; `old` offers nothing but that version."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.load_verify_locations(cadata=self.authority.decode())
        if alpn:
            context.set_alpn_protocols([alpn])
        if old:
            context.minimum_version = context.maximum_version = old
            context.set_ciphers("ALL:@SECLEVEL=0")
        return context.wrap_socket(socket.create_connection((self.address, 8443), timeout=25), server_hostname=sni)

    def raw(self, request: bytes, **how: Any) -> bytes:
        """Sends bytes and returns all that comes back until the connection ends."""
        with self.tls(**how) as connection:
            connection.sendall(request)
            return read_all(connection)

    def ask(self, path: str, *headers: str, host: str = LINKS, method: str = "GET", body: bytes = b"") -> "Answer":
        """Sends one well-formed request."""
        lines = [f"{method} {path} HTTP/1.1", f"Host: {host}", "Connection: close", *headers]
        if body:
            lines.append(f"Content-Length: {len(body)}")
        return Answer.of(self.raw("\r\n".join([*lines, "", ""]).encode() + body))

    def plain(self, path: str, host: str = LINKS, method: str = "GET") -> "Answer":
        """Sends one request without TLS."""
        with socket.create_connection((self.address, 8080), timeout=25) as connection:
            connection.sendall(f"{method} {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode())
            return Answer.of(read_all(connection))

    def channel(self) -> grpc.Channel:
        """Opens a gRPC channel, as another court system does."""
        options = [("grpc.ssl_target_name_override", API), ("grpc.default_authority", API)]
        credentials = grpc.ssl_channel_credentials(self.authority)
        return grpc.secure_channel(f"{self.address}:8443", credentials, options)


@dataclass(frozen=True)
class Answer:
    """An answer, split."""

    status: int
    headers: dict[str, str]
    body: bytes

    @classmethod
    def of(cls, raw: bytes) -> "Answer":
        """Reads an answer of HTTP/1.1; status 0 is none at all."""
        head, _, body = raw.partition(b"\r\n\r\n")
        if not head:
            return cls(0, {}, b"")
        first, *lines = head.decode("latin-1").split("\r\n")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        return cls(int(first.split()[1]), headers, body)


def read_all(connection: socket.socket) -> bytes:
    """Reads until the other side ends."""
    got = bytearray()
    with contextlib.suppress(ConnectionResetError, ssl.SSLEOFError):
        while part := connection.recv(65536):
            got += part
    return bytes(got)


def certificate(*names: str, valid: timedelta = timedelta(days=1)) -> tuple[bytes, bytes]:
    """Makes a certificate for names; returns it alone, and with its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    # Each has a subject of its own, else one that trusts two of them could not tell which is which.
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, uuid4().hex)])
    made = (
        x509.CertificateBuilder(subject, subject, key.public_key(), x509.random_serial_number())
        .not_valid_before(datetime.now(UTC) - timedelta(hours=2))
        .not_valid_after(datetime.now(UTC) + valid)
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name) for name in names]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    pem = made.public_bytes(serialization.Encoding.PEM)
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return pem, pem + private


@dataclass
class Rig:
    """What a test of the proxy starts, and must end."""

    name: str
    gateway: str
    containers: list[str] = field(default_factory=list)
    relays: dict[str, str] = field(default_factory=dict)
    volumes: list[str] = field(default_factory=list)

    def volume(self, **files: bytes) -> str:
        """Makes a volume with files; a dot in a name is written as two underscores."""
        self.volumes.append(docker("volume", "create", f"{self.name}-{len(self.volumes)}"))
        self.fill(self.volumes[-1], **files)
        return self.volumes[-1]

    def fill(self, volume: str, **files: bytes) -> None:
        """Writes files into a volume through a container, so that it works wherever the engine runs."""
        packed = io.BytesIO()
        with tarfile.open(fileobj=packed, mode="w") as tar:
            for name, content in files.items():
                entry = tarfile.TarInfo(name.replace("__", "."))
                entry.size, entry.uid, entry.gid, entry.mode = len(content), 10001, 10001, 0o400
                tar.addfile(entry, io.BytesIO(content))
        mount = f"{volume}:/to"
        docker(
            "run",
            "--rm",
            "-i",
            "--user",
            "0:0",
            "-v",
            mount,
            IMAGE,
            *["tar", "-x", "-C", "/to"],
            stdin=packed.getvalue(),
        )

    def start(
        self, volume: str, *words: str, names: tuple[str, ...] = (), env: tuple[str, ...] = ()
    ) -> tuple[str, str]:
        """Starts a container on the network of the rig; returns its id and its address."""
        options = [*(f"--network-alias={name}" for name in names), *(f"--env={one}" for one in env)]
        mount = f"{volume}:/run/opennotice:ro"
        started = docker("run", "-d", "--network", self.name, "-v", mount, *options, *HARDENED, IMAGE, *words)
        self.containers.append(started)
        return started, docker("inspect", "-f", "{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}", started)

    def end(self) -> None:
        """Removes everything."""
        if self.containers:
            docker("rm", "-f", *self.containers)
        if self.volumes:
            docker("volume", "rm", *self.volumes)
        docker("network", "rm", self.name)


@pytest.fixture(scope="module")
def rig() -> Iterator[Rig]:
    """Gives a network of the engine, or says why there is none."""
    if shutil.which("docker") is None:
        pytest.skip("docker is not installed")
    if subprocess.run(["docker", "image", "inspect", IMAGE], capture_output=True, check=False).returncode:
        pytest.skip(f"there is no engine, or it has no image {IMAGE}: deploy/images makes it")
    name = f"opennotice-test-proxy-{uuid4().hex[:8]}"
    docker("network", "create", name)
    rig = Rig(name, docker("network", "inspect", "-f", "{{(index .IPAM.Config 0).Gateway}}", name))
    try:
        yield rig
    finally:
        rig.end()


@pytest.fixture(scope="module")
def behind(rig: Rig) -> Iterator[Behind]:
    """Gives the services behind, under the names and ports that the proxy knows."""
    recorder = Recorder(rig.gateway)
    server = grpc.server(futures.ThreadPoolExecutor(8))
    relayed = {"tracking:8080": recorder.ports["tracking"], "gateway:8000": recorder.ports["gateway"]}
    calls, servers = {}, [server]
    for name, port in (("link", 50052), ("auth", 50051), ("reporting", 50055)):
        calls[name] = Calls(name)
        servers.append(grpc.server(ThreadPoolExecutor(8), handlers=(calls[name],)))
        relayed[f"{name}:{port}"] = servers[-1].add_insecure_port(f"{rig.gateway}:0")
        servers[-1].start()
    text = RELAY
    for where, port in relayed.items():
        name, _, bind = where.partition(":")
        text += f"listen {name}\n    bind :{bind}\n    server here {rig.gateway}:{port}\n"
    volume = rig.volume(relay__cfg=text.encode())
    relay = ("haproxy", "-db", "-f", "/run/opennotice/relay.cfg")
    rig.relays["staff"] = rig.start(volume, *relay, names=("gateway", "link", "auth", "reporting"))[0]
    rig.relays["tracking"] = rig.start(volume, *relay, names=("tracking",))[0]
    yield Behind(recorder, calls)
    for one in servers:
        one.stop(None)


def dealt(authority: bytes, trusted: str) -> dict[str, bytes]:
    """Returns the files that a proxy is dealt."""
    names = f"{LINKS} tracking\n{STAFF} gateway\n{API} api\n"
    return {"certificate__pem": authority, "names__map": names.encode(), "trusted__lst": trusted.encode()}


def started(rig: Rig, trusted: str, *env: str) -> Proxy:
    """Starts a proxy with what its image says that it runs."""
    alone, with_key = certificate(LINKS, STAFF, API)
    return up(Proxy(*rig.start(rig.volume(**dealt(with_key, trusted)), env=env), alone))


def up(proxy: Proxy) -> Proxy:
    """Waits until a proxy has found its services."""
    give_up = time.monotonic() + 15
    while time.monotonic() < give_up:
        with contextlib.suppress(OSError):
            if proxy.ask("/").status == proxy.ask("/", host=STAFF).status == 200:
                return proxy
        time.sleep(0.2)
    raise AssertionError(docker("logs", proxy.container))


@pytest.fixture(scope="module")
def proxy(rig: Rig, behind: Behind) -> Proxy:
    """Gives the proxy of an agency that has nothing before it."""
    return started(rig, "")


@pytest.fixture(scope="module")
def balanced(rig: Rig, behind: Behind) -> Proxy:
    """Gives the proxy of an agency whose load balancer is this machine; it listens on IPv6 too, and on another port."""
    env = ("OPENNOTICE_HTTPS_PORT=8443", "OPENNOTICE_PROXY_IPV6=1")
    return started(rig, f"192.0.2.0/24\n{rig.gateway}/32\n", *env)


def headers_of(request: bytes, name: str) -> list[str]:
    """Returns all values of a header, as a service got them."""
    lines = request.partition(b"\r\n\r\n")[0].decode("latin-1").split("\r\n")[1:]
    return [line.partition(":")[2].strip() for line in lines if line.partition(":")[0].lower() == name]


# --- whose address it is


FORGED = [
    "X-Forwarded-For: 198.51.100.1",
    "x-forwarded-for: 198.51.100.1, 198.51.100.2",
    "X-FORWARDED-FOR: unknown",
    "Forwarded: for=198.51.100.1;proto=http;host=evil.example",
    "X-Forwarded: 198.51.100.1",
    "X-Forwarded-Host: evil.example",
    "X-Forwarded-Proto: http",
    "X-Forwarded-Port: 1",
    "X-Forwarded-Server: evil.example",
    "X-Original-Forwarded-For: 198.51.100.1",
    "X-Real-IP: 198.51.100.1",
    "X-Client-IP: 198.51.100.1",
    "Client-IP: 198.51.100.1",
    "X-Cluster-Client-IP: 198.51.100.1",
    "True-Client-IP: 198.51.100.1",
    "CF-Connecting-IP: 198.51.100.1",
    "CF-Connecting-IPv6: 2001:db8::1",
    "Fastly-Client-IP: 198.51.100.1",
    "Via: 1.1 evil.example",
]


def test_a_visitor_cannot_choose_an_address(rig: Rig, proxy: Proxy, behind: Behind) -> None:
    marker = f"/{uuid4().hex}"
    assert proxy.ask(marker, *FORGED, "Accept-Language: es").status == 200
    (request,) = behind.recorder.arrived(marker)
    assert headers_of(request, "x-forwarded-for") == [rig.gateway]
    assert b"198.51.100" not in request
    assert b"evil" not in request
    assert headers_of(request, "accept-language") == ["es"]


def test_a_connection_header_cannot_take_the_address_away(rig: Rig, proxy: Proxy, behind: Behind) -> None:
    marker = f"/{uuid4().hex}"
    proxy.ask(marker, "Connection: X-Forwarded-For")
    (request,) = behind.recorder.arrived(marker)
    assert headers_of(request, "x-forwarded-for") == [rig.gateway]


def test_the_agencys_own_load_balancer_is_believed(rig: Rig, balanced: Proxy, behind: Behind) -> None:
    marker = f"/{uuid4().hex}"
    balanced.ask(marker, "X-Forwarded-For: 203.0.113.9, 198.51.100.1", *FORGED[3:])
    (request,) = behind.recorder.arrived(marker)
    # The services walk this from the right, past the addresses that they were told to trust.
    assert ", ".join(headers_of(request, "x-forwarded-for")) == f"203.0.113.9, 198.51.100.1, {rig.gateway}"
    assert b"evil" not in request
    assert balanced.raw(simple(LINKS, marker), sni=None).startswith(b"HTTP/1.1 200")


@pytest.mark.parametrize("host", [LINKS, STAFF])
def test_nobody_brings_an_identity_along(proxy: Proxy, behind: Behind, host: str) -> None:
    marker = f"/{uuid4().hex}"
    proxy.ask(marker, f"{IDENTITY_METADATA.title()}: forged", "Authorization: Bearer onk_x", host=host)
    (request,) = behind.recorder.arrived(marker)
    assert b"forged" not in request
    assert headers_of(request, "authorization") == ["Bearer onk_x"]


# --- which names


def simple(host: str, path: str = "/") -> bytes:
    """Returns a plain request."""
    return f"GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode()


@pytest.mark.parametrize(
    ("host", "service"),
    [
        (LINKS, b"tracking"),
        (LINKS.upper(), b"tracking"),
        (f"{LINKS}:8443", b"tracking"),
        (f"{LINKS}.", b"tracking"),
        (STAFF, b"gateway"),
    ],
)
def test_each_name_leads_to_its_service(proxy: Proxy, host: str, service: bytes) -> None:
    assert proxy.ask("/", host=host).body == service


@pytest.mark.parametrize(
    "request_", [simple("evil.example"), simple("127.0.0.1"), simple(""), b"GET / HTTP/1.0\r\n\r\n"]
)
def test_another_name_is_told_nothing(proxy: Proxy, request_: bytes) -> None:
    answer = Answer.of(proxy.raw(request_))
    assert (answer.status, answer.body) == (421, b"this host is not served here")
    assert "server" not in answer.headers


@pytest.mark.parametrize("sni", ["evil.example", f"www.{LINKS}", None])
def test_who_connects_without_a_name_of_ours_gets_no_answer(proxy: Proxy, sni: str | None) -> None:
    with contextlib.suppress(OSError):
        assert proxy.raw(simple(LINKS), sni=sni) == b""


@pytest.mark.filterwarnings("ignore:ssl.TLSVersion.TLSv1")
@pytest.mark.parametrize("name", ["TLSv1", "TLSv1_1"])
def test_old_tls_is_refused(proxy: Proxy, name: str) -> None:
    with pytest.raises(ssl.SSLError):
        proxy.tls(old=ssl.TLSVersion[name])
    with proxy.tls(old=ssl.TLSVersion.TLSv1_2) as connection:
        assert connection.version() == "TLSv1.2"


def s_client(proxy: Proxy, *words: str, stdin: bytes) -> str:
    """Speaks TLS 1.2 through openssl, which can do what Python's TLS cannot; returns all that it says."""
    if shutil.which("openssl") is None:
        pytest.skip("openssl is not installed")
    command = ["openssl", "s_client", "-connect", f"{proxy.address}:8443", "-servername", LINKS, "-tls1_2", *words]
    done = subprocess.run(command, input=stdin, capture_output=True, timeout=30, check=False)
    return (done.stdout + done.stderr).decode(errors="replace")


def test_a_connection_does_not_begin_anew_in_the_middle(proxy: Proxy, behind: Behind) -> None:
    # "R" at the beginning of a line is openssl's command for it.
    marker = uuid4().hex
    said = s_client(proxy, stdin=b"R\n" + simple(LINKS, f"/{marker}"))
    assert "RENEGOTIATING" in said
    assert "no renegotiation" in said
    assert not behind.recorder.arrived(marker)
    assert proxy.ask("/").status == 200


def test_a_visitor_is_not_asked_for_a_certificate_and_one_that_ran_out_harms_nothing(
    proxy: Proxy, tmp_path: Path
) -> None:
    alone, with_key = certificate(LINKS, valid=timedelta(hours=-1))
    assert x509.load_pem_x509_certificate(alone).not_valid_after_utc < datetime.now(UTC)
    (tmp_path / "expired.pem").write_bytes(with_key)
    own = ("-cert", str(tmp_path / "expired.pem"), "-key", str(tmp_path / "expired.pem"))
    said = s_client(proxy, *own, "-ign_eof", stdin=simple(LINKS))
    assert "HTTP/1.1 200" in said
    assert "Client Certificate Types" not in said


def test_without_tls_there_is_only_the_way_to_tls(proxy: Proxy, balanced: Proxy, behind: Behind) -> None:
    target = f"/{TOKEN}/hearing?a=b|{{c}}"
    answer = proxy.plain(target)
    assert (answer.status, answer.headers["location"]) == (301, f"https://{LINKS}{target}")
    assert answer.headers["cache-control"] == "no-store"
    assert balanced.plain(target, host=f"{STAFF}:8080").headers["location"] == f"https://{STAFF}:8443{target}"
    assert proxy.plain("/", method="POST").status == 308
    assert proxy.plain("/", host="evil.example").status == 421
    assert not behind.recorder.arrived("/hearing")


def test_browsers_are_told_to_come_with_tls_only(proxy: Proxy) -> None:
    assert proxy.ask("/").headers["strict-transport-security"] == "max-age=31536000"
    assert proxy.ask("/own-hsts").headers["strict-transport-security"] == "max-age=1"
    assert "strict-transport-security" not in proxy.plain("/").headers


# --- limits


def test_a_long_target_and_a_full_head_come_through(proxy: Proxy, behind: Behind) -> None:
    marker = uuid4().hex
    target = f"/{marker}".ljust(8 * 1024, "a")
    assert proxy.ask(target, f"Cookie: {'c' * 6000}").status == 200
    assert behind.recorder.arrived(marker)[0].startswith(f"GET {target} HTTP/1.1\r\n".encode())
    assert proxy.ask(f"/{marker}", *(f"X-{number}: 1" for number in range(110))).status == 200


@pytest.mark.parametrize("headers", [["X: " + "a" * 16_000], [f"X-{number}: 1" for number in range(200)]])
def test_a_head_beyond_all_reason_is_refused(proxy: Proxy, behind: Behind, headers: list[str]) -> None:
    marker = f"/{uuid4().hex}"
    assert proxy.ask(marker, *headers).status == 400
    assert not behind.recorder.arrived(marker)


@pytest.mark.parametrize(
    ("host", "size", "status"),
    [(LINKS, 65_536, 200), (LINKS, 65_537, 413), (STAFF, 1 << 20, 200), (STAFF, (2 << 20) + 1, 413)],
)
def test_bodies_have_a_limit(proxy: Proxy, host: str, size: int, status: int) -> None:
    head = f"POST / HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\nContent-Length: {size}\r\n\r\n"
    with proxy.tls() as connection:
        # What is refused is refused by its length, before it is sent.
        connection.sendall(head.encode() + (b"a" * size if status == 200 else b""))
        assert Answer.of(connection.recv(65536)).status == status


def test_who_is_slow_is_not_waited_for(proxy: Proxy, behind: Behind) -> None:
    marker = uuid4().hex
    head = f"GET /{marker} HTTP/1.1\r\nHost: {LINKS}\r\n".encode()
    body = f"POST /{marker} HTTP/1.1\r\nHost: {LINKS}\r\nContent-Length: 9\r\n\r\nhalf".encode()

    def drip(request: bytes, pause: float) -> tuple[int, float]:
        began = time.monotonic()
        with proxy.tls() as connection:
            connection.sendall(request)
            stop = threading.Event()

            def more() -> None:
                with contextlib.suppress(OSError):
                    while not stop.wait(pause):
                        connection.sendall(b"X")

            threading.Thread(target=more, daemon=True).start()
            status = Answer.of(connection.recv(65536)).status
            stop.set()
            return status, time.monotonic() - began

    with ThreadPoolExecutor(3) as pool:
        slow_head, slow_body, nothing = pool.map(drip, [head, body, b""], [1.0, 3.0, 99.0])
    assert slow_head[0] == 408
    assert 4 < slow_head[1] < 8
    assert slow_body[0] == 408
    assert 9 < slow_body[1] < 14
    assert nothing[0] == 0
    assert not behind.recorder.arrived(marker)


def test_one_source_cannot_take_every_connection(proxy: Proxy) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, min(4096, hard)), hard))
    refused, poll = 0, select.poll()
    with contextlib.ExitStack() as stack:
        for _ in range(1_050):
            try:
                one = stack.enter_context(socket.create_connection((proxy.address, 8080), timeout=5))
            except ConnectionResetError:
                refused += 1
            else:
                poll.register(one, select.POLLIN)
        time.sleep(0.3)
        refused += len(poll.poll(0))
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert 45 <= refused <= 55
    assert proxy.ask("/").status == 200


# --- one request stays one request


POST = f"POST /marked HTTP/1.1\r\nHost: {LINKS}\r\n".encode()
SECOND = f"GET /second HTTP/1.1\r\nHost: {LINKS}\r\n\r\n".encode()
CHUNKED = b"Transfer-Encoding: chunked\r\n\r\n"
REFUSED = {
    "two lengths": POST + b"Content-Length: 5\r\nContent-Length: 6\r\n\r\nhelloX",
    "length and chunks": POST + b"Content-Length: 6\r\n" + CHUNKED + b"0\r\n\r\n",
    "chunks and length": POST + b"Transfer-Encoding: chunked\r\nContent-Length: 6\r\n\r\n0\r\n\r\n",
    "negative length": POST + b"Content-Length: -5\r\n\r\n",
    "signed length": POST + b"Content-Length: +5\r\n\r\nhello",
    "length in hex": POST + b"Content-Length: 0x5\r\n\r\nhello",
    "length of 20 digits": POST + b"Content-Length: 99999999999999999999\r\n\r\nhello",
    "chunked, identity": POST + b"Transfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n",
    "xchunked": POST + b"Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
    "chunked twice": POST + b"Transfer-Encoding: chunked\r\n" + CHUNKED + b"0\r\n\r\n",
    "chunked behind a control": POST + b"Transfer-Encoding: \x0bchunked\r\n\r\n0\r\n\r\n",
    "chunks in 1.0": POST.replace(b"1.1", b"1.0") + CHUNKED + b"0\r\n\r\n",
    "chunk that does not end": POST + CHUNKED + b"5\r\nhelloXX0\r\n\r\n",
    "chunk of 17 digits": POST + CHUNKED + b"10000000000000005\r\nhello\r\n0\r\n\r\n",
    "chunk size with LF": POST + CHUNKED + b"5\nhello\r\n0\r\n\r\n",
    "folded chunked": POST + b"Transfer-Encoding:\r\n chunked\r\n\r\n0\r\n\r\n",
    "space before the colon": POST + b"Content-Length : 5\r\n\r\nhello",
    "no colon": POST + b"Content-Length 5\r\n\r\n",
    "no name": POST + b": 5\r\n\r\n",
    "space before the first header": POST.replace(b"Host", b" Host") + b"\r\n",
    "name with a quote": POST + b'X"Y: 1\r\n\r\n',
    "name with a byte above 127": POST + b"X\xe9: 1\r\n\r\n",
    "NUL in a name": POST + b"X\0: 1\r\n\r\n",
    "NUL in a value": POST + b"X: 1\0\r\n\r\n",
    "CR in a value": POST + b"X: 1\rY: 2\r\n\r\n",
    "two hosts": POST + b"Host: evil.example\r\n\r\n",
    "host with a user": simple(f"a@{LINKS}", "/marked"),
    "target of another host": simple(LINKS, "https://evil.example/marked"),
    "target of another service": simple(LINKS, f"https://{STAFF}/marked"),
    "target with a fragment": simple(LINKS, "/marked#x"),
    "target with a control": simple(LINKS, "/marked\x01"),
    "target with a space": simple(LINKS, "/marked x"),
    "CONNECT": b"CONNECT marked:443 HTTP/1.1\r\nHost: marked:443\r\n\r\n",
    "version of two digits": b"GET /marked HTTP/11.1\r\n\r\n",
    "HTTP/2 in words": simple(LINKS, "/marked").replace(b"HTTP/1.1", b"HTTP/2.0"),
    "noise": bytes(range(256)),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_two_programs_could_read_differently_is_refused(proxy: Proxy, behind: Behind, name: str) -> None:
    before = len(behind.recorder.requests)
    answer = proxy.raw(REFUSED[name] + SECOND)
    assert answer.startswith(b"HTTP/1.1 400")
    assert answer.count(b"HTTP/1.1 ") == 1
    arrived = [head for _, head in behind.recorder.requests[before:]]
    # Bad chunks are found while the body passes through: then the head has arrived, and never a second one.
    assert not [head for head in arrived if b"/second" in head]
    assert not arrived


def test_chunks_for_staff_end_where_they_end(proxy: Proxy, behind: Behind) -> None:
    post = f"POST /staffed HTTP/1.1\r\nHost: {STAFF}\r\nConnection: close\r\n".encode()
    assert proxy.raw(post + CHUNKED + b"5\r\nhello\r\n0\r\n\r\n").startswith(b"HTTP/1.1 200")
    # The length counts for nothing beside chunks, and the connection ends after such a request.
    before = len(behind.recorder.requests)
    both = POST.replace(LINKS.encode(), STAFF.encode()) + b"Content-Length: 6\r\n" + CHUNKED + b"0\r\n\r\n"
    assert proxy.raw(both + SECOND).count(b"HTTP/1.1 ") == 1
    assert [headers_of(head, "content-length") for _, head in behind.recorder.requests[before:]] == [[]]


@pytest.mark.parametrize(
    "request_",
    [
        simple(LINKS, "/marked").replace(b"\r\n", b"\n"),
        simple(LINKS, "/marked").replace(b"Connection", b"X: a\r\n b\r\nConnection"),
        b"\r\n" + simple(LINKS, "/marked"),
    ],
    ids=["LF only", "folded header", "empty line before"],
)
def test_what_has_only_one_meaning_is_passed_on_in_clean_form(proxy: Proxy, behind: Behind, request_: bytes) -> None:
    before = len(behind.recorder.requests)
    assert proxy.raw(request_).startswith(b"HTTP/1.1 200")
    ((_, arrived),) = behind.recorder.requests[before:]
    assert arrived.startswith(b"GET /marked HTTP/1.1\r\nhost: ")
    assert len(re.findall(rb"(?<!\r)\n|\r\n[ \t]", arrived)) == 0


ODD = ["|", "{utm}", '"', "<x>", "\\", "^`", "”", "?q=a|b{c}", "%E2%80%9D", "%00", "?" + "é" * 9]


@pytest.mark.parametrize("odd", ODD)
def test_what_odd_programs_put_behind_a_link_comes_through_as_it_is(proxy: Proxy, behind: Behind, odd: str) -> None:
    target = f"/{uuid4().hex}{odd}"
    assert proxy.ask(target, "User-Agent: Teléfono 😀").status == 200
    (request,) = behind.recorder.arrived(target)
    assert "Teléfono 😀".encode() in request


# --- services that go and come


def test_visitors_are_shown_the_page_that_tracking_shows() -> None:
    folder = Path(__file__).resolve().parents[2] / "deploy" / "proxy"
    assert (folder / "visitor.html").read_bytes() == pages.UNAVAILABLE, "render it anew: services.tracking.pages"
    assert f'"{pages.CONTENT_SECURITY_POLICY}"' in (folder / "haproxy.cfg").read_text()


def test_a_request_that_was_sent_is_never_sent_again(proxy: Proxy, behind: Behind) -> None:
    marker = f"/cut/{uuid4().hex}"
    answer = proxy.ask(marker)
    assert answer.status == 502
    assert answer.body == pages.UNAVAILABLE
    assert len(behind.recorder.arrived(marker)) == 1
    again = f"/cut/{uuid4().hex}"
    assert proxy.ask(again, host=STAFF, method="POST", body=b"x").status == 502
    assert len(behind.recorder.arrived(again)) == 1


def restart(rig: Rig, name: str, away_seconds: float) -> threading.Thread:
    """Takes a service's container away, and brings it back a while later."""
    docker("stop", "-t", "0", rig.relays[name])

    def back() -> None:
        time.sleep(away_seconds)
        docker("start", rig.relays[name])

    thread = threading.Thread(target=back)
    thread.start()
    return thread


def test_visitors_wait_while_tracking_is_started_again(rig: Rig, proxy: Proxy, behind: Behind) -> None:
    marker = uuid4().hex
    coming_back = restart(rig, "tracking", 3)
    with ThreadPoolExecutor(20) as pool:

        def visit(number: int) -> int:
            time.sleep(number * 0.2)
            return proxy.ask(f"/{marker}/{number}").status

        statuses = list(pool.map(visit, range(20)))
    coming_back.join()
    assert statuses == [200] * 20
    assert len(behind.recorder.arrived(marker)) == 20


def test_when_a_service_is_away_for_long_everybody_is_told_in_their_own_words(
    rig: Rig, proxy: Proxy, behind: Behind
) -> None:
    for name in rig.relays:
        docker("stop", "-t", "0", rig.relays[name])
    try:
        with ThreadPoolExecutor(4) as pool, proxy.channel() as channel:
            visitor = pool.submit(proxy.ask, "/")
            staff = pool.submit(proxy.ask, "/opens", host=STAFF)
            program = pool.submit(proxy.ask, "/api/v1/opens", host=STAFF)
            # In the end at once: its name has been gone for too long.
            calls = pool.submit(lambda: [calling(channel, LINK + "GetPortal") for _ in range(3)])
            began = time.monotonic()
            answers = [future.result() for future in (visitor, staff, program)]
            refusals = calls.result()
        assert time.monotonic() - began < 30
    finally:
        for name in rig.relays:
            docker("start", rig.relays[name])
    assert [answer.status for answer in answers] == [503] * 3
    assert [answer.headers["retry-after"] for answer in answers] == ["2"] * 3
    assert answers[0].body == pages.UNAVAILABLE
    assert answers[0].headers["content-type"] == "text/html; charset=utf-8"
    assert answers[0].headers["content-security-policy"] == pages.CONTENT_SECURITY_POLICY
    assert answers[0].headers["cache-control"] == "no-store"
    assert answers[1].headers["content-type"] == "text/html; charset=utf-8"
    assert answers[2].headers["content-type"] == "application/problem+json"
    assert json.loads(answers[2].body)["status"] == 503
    assert [code for code, _ in refusals] == [grpc.StatusCode.UNAVAILABLE] * 3
    assert refusals[-1][1] == "the service is being started; try again"
    up(proxy)
    with proxy.channel() as channel:
        assert calling(channel, LINK + "GetPortal") == b"link"


# --- gRPC


def calling(channel: grpc.Channel, method: str, *metadata: tuple[str, str]) -> Any:
    """Calls a unary method; returns what it answers, or its status and what is said of it."""
    try:
        return channel.unary_unary(method)(b"x", timeout=30, metadata=metadata)
    except grpc.RpcError as error:
        return error.code(), error.details()


# Said by the proxy: what gRPC makes of an HTTP status has other words.
REFUSED_CALL = (grpc.StatusCode.UNIMPLEMENTED, "not served here")


@pytest.mark.parametrize(
    ("method", "expected"),
    [
        (LINK + "GetPortal", b"link"),
        (AUTH + "GetCaller", b"auth"),
        (REPORTING + "ListOpens", b"reporting"),
        ("/grpc.health.v1.Health/Check", b"reporting"),
        ("/grpc.health.v1.Health/Watch", REFUSED_CALL),
        ("/opennotice.identity.v1.IdentityService/IssueIdentity", REFUSED_CALL),
        ("/opennotice.tracking.v1.TrackingService/GetStatus", REFUSED_CALL),
        ("/opennotice.enrichment.v1.EnrichmentService/GetStatus", REFUSED_CALL),
        ("/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo", REFUSED_CALL),
        ("/opennotice.link.v1.LinkServiceX/GetPortal", REFUSED_CALL),
        ("/x/../opennotice.link.v1.LinkService/GetPortal", REFUSED_CALL),
    ],
)
def test_calls_from_outside_reach_the_three_public_services_only(proxy: Proxy, method: str, expected: Any) -> None:
    with proxy.channel() as channel:
        assert calling(channel, method) == expected


def test_a_call_brings_its_key_and_its_address_and_no_identity(rig: Rig, proxy: Proxy, behind: Behind) -> None:
    mark = uuid4().hex
    with proxy.channel() as channel:
        brought = [("authorization", "Bearer onk_x"), ("mark", mark), (IDENTITY_METADATA, "forged")]
        brought += [(name, "198.51.100.1") for name in ("x-forwarded-for", "x-real-ip", "forwarded")]
        assert calling(channel, LINK + "GetPortal", *brought) == b"link"
    (metadata,) = [one for one in behind.calls["link"].metadata if one.get("mark") == mark]
    assert metadata["authorization"] == "Bearer onk_x"
    assert metadata["x-forwarded-for"] == rig.gateway
    assert IDENTITY_METADATA not in metadata
    assert "x-real-ip" not in metadata


def test_streams_come_message_by_message_both_ways(proxy: Proxy) -> None:
    with proxy.channel() as channel:
        began = time.monotonic()
        watching = channel.unary_stream(REPORTING + "Watch")(b"4", timeout=30)
        assert next(watching) == b"0"
        assert time.monotonic() - began < 1.5
        assert [*watching] == [b"1", b"2", b"3"]
        sent = (b"a" * 200_000 for _ in range(40))
        assert [*channel.stream_stream(LINK + "CreateLinks")(sent, timeout=30)] == [b"200000"] * 40


def test_only_grpc_is_spoken_to_programs(proxy: Proxy) -> None:
    assert proxy.ask("/", host=API).status == 404
    assert proxy.ask(LINK + "GetPortal", "Content-Type: application/grpc", host=API, method="POST").status == 404


# --- streams of pages


def test_a_live_page_gets_each_event_at_once(proxy: Proxy) -> None:
    with proxy.tls() as connection:
        began = time.monotonic()
        connection.sendall(simple(STAFF, "/ticks/4"))
        got = b""
        while b"tick 0" not in got:
            got += connection.recv(4096)
        assert time.monotonic() - began < 1.5
        assert b"tick 3" in read_all(connection)


# --- HTTP/2


PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
HEADERS, RST_STREAM, SETTINGS, GOAWAY, CONTINUATION = 1, 3, 4, 7, 9
END_STREAM, END_HEADERS = 1, 4


def frame(kind: int, flags: int, stream: int, content: bytes = b"") -> bytes:
    """Makes a frame of HTTP/2."""
    return struct.pack(">I", len(content))[1:] + struct.pack(">BBI", kind, flags, stream) + content


def packed_head(path: str, host: str = LINKS, *more: tuple[str, str]) -> bytes:
    """Packs a request's head without compression."""
    fields = [(":method", "GET"), (":scheme", "https"), (":authority", host), (":path", path), *more]
    parts = [text.encode() for pair in fields for text in pair]
    return b"".join(
        b"\0" + bytes([len(name)]) + name + bytes([len(value)]) + value
        for name, value in zip(parts[::2], parts[1::2], strict=True)
    )


def frames(raw: bytes) -> list[tuple[int, int, bytes]]:
    """Splits what came into frames: kind, stream and content."""
    found = []
    while len(raw) >= 9:
        size = int.from_bytes(raw[:3], "big")
        found.append((raw[3], int.from_bytes(raw[5:9], "big"), raw[9 : 9 + size]))
        raw = raw[9 + size :]
    return found


def test_browsers_speak_http2(rig: Rig, proxy: Proxy, behind: Behind) -> None:
    marker = f"/{uuid4().hex}"
    with proxy.tls(alpn="h2") as connection:
        assert connection.selected_alpn_protocol() == "h2"
        head = packed_head(marker, LINKS, ("x-forwarded-for", "198.51.100.1"), (IDENTITY_METADATA, "forged"))
        connection.sendall(PREFACE + frame(SETTINGS, 0, 0) + frame(HEADERS, END_STREAM | END_HEADERS, 1, head))
        got = b""
        while b"tracking" not in got:
            got += connection.recv(65536)
        # One connection may carry names of several services.
        connection.sendall(frame(HEADERS, END_STREAM | END_HEADERS, 3, packed_head("/", STAFF)))
        while b"gateway" not in got:
            got += connection.recv(65536)
        connection.sendall(frame(HEADERS, END_STREAM | END_HEADERS, 5, packed_head("/", "evil.example")))
        while b"not served here" not in got:
            got += connection.recv(65536)
    (request,) = behind.recorder.arrived(marker)
    assert headers_of(request, "x-forwarded-for") == [rig.gateway]
    assert b"forged" not in request


def flood(proxy: Proxy, parts: Iterator[bytes]) -> list[tuple[int, int, bytes]]:
    """Sends frames for as long as they are taken, and returns what came back."""
    # In one thread: TLS of Python must not be read and written at the same time.
    deadline = time.monotonic() + 20
    got, out = bytearray(), bytearray(PREFACE + frame(SETTINGS, 0, 0))
    with proxy.tls(alpn="h2") as connection:
        connection.setblocking(False)
        while time.monotonic() < deadline:
            with contextlib.suppress(ssl.SSLWantReadError, ssl.SSLWantWriteError):
                try:
                    while part := connection.recv(65536):
                        got += part
                except (ConnectionError, ssl.SSLEOFError):
                    part = b""
                if not part:
                    return frames(bytes(got))
            out += b"".join(islice(parts, 20)) if len(out) < 65_536 else b""
            try:
                del out[: connection.send(out) if out else 0]
            except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
                select.select([connection], [connection], [], 0.1)
            except OSError:
                # It takes nothing any more; what it has said is still to be read.
                out, parts = bytearray(), iter(())
            if not out:
                select.select([connection], [], [], 0.1)
    raise AssertionError("the connection was not closed")


def test_a_flood_on_one_connection_ends_that_connection_only(proxy: Proxy) -> None:
    def continuations() -> Iterator[bytes]:
        yield frame(HEADERS, 0, 1, packed_head("/"))
        for _ in range(20_000):
            yield frame(CONTINUATION, 0, 1, b"\0\1a\1b" * 50)

    def resets() -> Iterator[bytes]:
        for stream in range(1, 40_001, 2):
            head = frame(HEADERS, END_STREAM | END_HEADERS, stream, packed_head("/wait/1"))
            yield head + frame(RST_STREAM, 0, stream, struct.pack(">I", 8))

    for parts in (continuations(), resets()):
        last = [int.from_bytes(content[:4], "big") for kind, _, content in flood(proxy, parts) if kind == GOAWAY]
        assert last
        assert max(last) < 3_000
        assert proxy.ask("/").status == 200


# --- what an operator sees


def test_the_engine_can_ask_whether_it_lives(proxy: Proxy) -> None:
    docker("exec", proxy.container, "is-ready", "9000", "/live")
    with socket.create_connection((proxy.address, 9000), timeout=5) as connection:
        connection.sendall(simple("localhost", "/stats"))
        assert Answer.of(read_all(connection)).status == 404


def test_what_was_begun_is_finished_before_the_end(rig: Rig, behind: Behind) -> None:
    proxy = started(rig, "")
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(proxy.ask, "/wait/2")
        time.sleep(0.5)
        docker("stop", proxy.container)
        assert waiting.result().status == 200
    assert docker("inspect", "-f", "{{.State.ExitCode}}", proxy.container) == "0"


def test_certificates_are_changed_without_a_broken_request(rig: Rig, behind: Behind) -> None:
    alone, with_key = certificate(LINKS, STAFF, API)
    volume = rig.volume(**dealt(with_key, ""))
    proxy = up(Proxy(*rig.start(volume), alone))
    new, new_with_key = certificate(LINKS, STAFF, API)
    stop = threading.Event()

    def visit() -> list[int]:
        statuses = []
        while not stop.is_set():
            either = Proxy(proxy.container, proxy.address, alone + new)
            statuses.append(either.ask("/wait/0.3").status)
        return statuses

    with ThreadPoolExecutor(4) as pool:
        visits = [pool.submit(visit) for _ in range(4)]
        try:
            # What is wrong is not taken.
            rig.fill(volume, certificate__pem=b"nothing")
            docker("kill", "-s", "USR2", proxy.container)
            time.sleep(1.5)
            assert proxy.ask("/").status == 200
            rig.fill(volume, certificate__pem=new_with_key)
            docker("kill", "-s", "USR2", proxy.container)
            give_up = time.monotonic() + 5
            while time.monotonic() < give_up:
                with contextlib.suppress(ssl.SSLError):
                    assert Proxy(proxy.container, proxy.address, new).ask("/").status == 200
                    break
                time.sleep(0.1)
            else:
                raise AssertionError("the new certificate is not shown")
        finally:
            stop.set()
    statuses = [status for each in visits for status in each.result()]
    assert set(statuses) == {200}
    assert len(statuses) > 20


def test_the_log_tells_no_link_and_no_visitor(rig: Rig, proxy: Proxy) -> None:
    proxy.ask(f"/{TOKEN}?{TOKEN}", f"Cookie: {TOKEN}", f"Referer: https://x/{TOKEN}", f"X-Forwarded-For: {TOKEN}")
    proxy.ask(f"/cut/{TOKEN}", host=STAFF)
    with proxy.channel() as channel:
        calling(channel, LINK + "GetPortal", ("mark", TOKEN))
    proxy.plain(f"/{TOKEN}")
    proxy.raw(simple(LINKS, f"/{TOKEN}\x01"))
    # A method may be any word.
    proxy.raw(simple(LINKS).replace(b"GET", TOKEN.encode()))
    with contextlib.suppress(OSError):
        proxy.raw(b"", sni=TOKEN)
    with socket.create_connection((proxy.address, 8443), timeout=5) as connection:
        connection.sendall(simple(LINKS, f"/{TOKEN}"))
        read_all(connection)
    done = subprocess.run(["docker", "logs", proxy.container], capture_output=True, check=True)
    written = (done.stdout + done.stderr).decode()
    assert TOKEN not in written
    assert rig.gateway not in written
    # The others tell that a service came or went.
    lines = [json.loads(line) for line in done.stdout.decode().splitlines() if line.startswith("{")]
    assert {"tls", "plain"} <= {line["frontend"] for line in lines}
    assert {"tracking", "gateway", "link"} <= {line.get("backend") for line in lines}
    assert {200, 400, 502} <= {line.get("status") for line in lines}
