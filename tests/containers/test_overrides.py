"""An agency's own PostgreSQL, NATS and proxy instead of ours: what fits works, what does not is one line, no harm."""

import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from ipaddress import ip_network
from pathlib import Path
from random import randrange
from urllib.parse import urlsplit
from uuid import uuid4

import grpc
import httpx
import psycopg
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from opennotice.link.v1 import link_pb2, link_pb2_grpc

from bundle.certificate import USAGE
from tests.containers.installs import hand_over, installed, refused, runs
from tests.e2e.test_main_job import eventually
from tests.fix_bundle import ROOT
from tests.fix_containers import Containers, docker, tag, write_env
from tests.product import IPHONE, T_MOBILE

# One worker: each of them brings the whole product up.
pytestmark = [pytest.mark.engine, pytest.mark.e2e]

GUIDE = ROOT / "docs" / "install.md"
PASSWORD = "p%40ss%2Fword"
OWN_BOTH = "compose.yaml:test.yaml:deploy/own-postgres.yaml:deploy/own-nats.yaml:agency.yaml"
# Agencies that connect over a network of theirs, which the project joins as if it were the way out of the machine.
AGENCY_NETWORK = "networks: {{servers: {{external: true, name: {network}}}}}\n"
START_POSTGRES = """
umask 077
printf '%s' "$CERTIFICATE" >/data/server.crt; printf '%s' "$KEY" >/data/server.key
printf 'p@ss/word' >/data/password
initdb -D /data/db -U postgres --auth=scram-sha-256 --pwfile=/data/password --encoding=UTF8 --locale=C -k >/dev/null
echo 'hostssl all all all scram-sha-256' >/data/db/pg_hba.conf
exec postgres -D /data/db -c listen_addresses='*' -c unix_socket_directories= -c ssl=on \
    -c ssl_cert_file=/data/server.crt -c ssl_key_file=/data/server.key "$@"
"""
START_NATS = """
umask 077
printf '%s' "$CERTIFICATE" >/data/server.crt; printf '%s' "$KEY" >/data/server.key; printf '%s' "$CONF" >/data/nats.conf
exec nats-server -c /data/nats.conf
"""
NATS = """
listen: 0.0.0.0:4222
http: 0.0.0.0:8222
tls {{ cert_file: /data/server.crt, key_file: /data/server.key }}
authorization {{ users: [{{user: opennotice, password: "p@ss/word"}}] }}
{jetstream}
"""
SYNCED = "jetstream { store_dir: /data/js, sync_interval: always, max_file: 24GB }"


@dataclass(frozen=True)
class Authority:
    """A certificate authority of the agency's own."""

    key: ec.EllipticCurvePrivateKey = field(default_factory=lambda: ec.generate_private_key(ec.SECP256R1()))

    @property
    def name(self) -> x509.Name:
        """What stands in everything that it signs."""
        return x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "County IT")])

    def pem(self) -> str:
        """Returns its own certificate."""
        return self._signed(self.name, self.key, x509.BasicConstraints(ca=True, path_length=0))

    def server(self, name: str) -> tuple[str, str]:
        """Returns certificate and key of a server."""
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
        certificate = self._signed(subject, key, x509.SubjectAlternativeName([x509.DNSName(name)]))
        private = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        return certificate, private.decode()

    def _signed(self, subject: x509.Name, key: ec.EllipticCurvePrivateKey, extension: x509.ExtensionType) -> str:
        now = datetime.now(UTC)
        builder = x509.CertificateBuilder().subject_name(subject).issuer_name(self.name).public_key(key.public_key())
        # As strict as Python 3.13 wants it of whom it trusts.
        critical = isinstance(extension, x509.BasicConstraints)
        builder = builder.serial_number(x509.random_serial_number()).add_extension(extension, critical=critical)
        builder = builder.not_valid_before(now - timedelta(hours=1)).not_valid_after(now + timedelta(days=2))
        identifier = x509.SubjectKeyIdentifier.from_public_key(self.key.public_key())
        builder = builder.add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(identifier), critical=False
        )
        if subject == self.name:
            builder = builder.add_extension(identifier, critical=False).add_extension(USAGE, critical=True)
        return builder.sign(self.key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM).decode()


@dataclass
class Agency:
    """The network of an agency with servers of its own."""

    network: str
    authority: Authority = field(default_factory=Authority)

    @contextmanager
    def server(self, image: str, name: str, script: str, *options: str, **environment: str) -> Iterator[str]:
        """Runs a server under a name of the agency's; gives the address that this machine reaches it at."""
        certificate, key = self.authority.server(name)
        environment = {"CERTIFICATE": certificate, "KEY": key, **environment}
        container = docker(
            *("run", "--detach", "--network", self.network, "--network-alias", name, "--user", "10001:10001"),
            *("--tmpfs", "/data:size=600m,mode=0700,uid=10001,gid=10001", "--shm-size", "128m"),
            *(part for pair in environment.items() for part in ("--env", "=".join(pair))),
            *(f"opennotice/{image}:{tag()}", "bash", "-ec", script, "start", *options),
        ).stdout.strip()
        try:
            form = "{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}"
            yield docker("inspect", "--format", form, container).stdout.strip()
        finally:
            docker("rm", "--force", "--volumes", container)

    @contextmanager
    def postgres(self, *options: str, name: str = "db.county.test") -> Iterator[str]:
        """Runs a PostgreSQL with a database and a role as docs/install.md asks for; gives its administrator's URL."""
        told = [part for option in options for part in ("-c", option)]
        with self.server("postgres", name, START_POSTGRES, *told) as address:
            admin = f"postgresql://postgres:{PASSWORD}@{address}:5432/postgres?sslmode=require"
            with eventually_connected(admin) as connection:
                connection.execute("create role opennotice login createrole password 'p@ss/word'")
                connection.execute("create database opennotice owner opennotice encoding 'UTF8' template template0")
            yield admin

    @contextmanager
    def nats(self, jetstream: str = SYNCED) -> Iterator[None]:
        """Runs a nats-server."""
        with self.server("nats", "nats.county.test", START_NATS, CONF=NATS.format(jetstream=jetstream)):
            yield


@contextmanager
def eventually_connected(url: str) -> Iterator[psycopg.Connection[tuple[object, ...]]]:
    """Connects to a server that is just being started."""
    deadline = time.monotonic() + 60
    while True:
        try:
            connection = psycopg.connect(url, autocommit=True, connect_timeout=3)
        except psycopg.OperationalError:
            assert time.monotonic() < deadline
            time.sleep(0.2)
        else:
            break
    with connection:
        yield connection


@pytest.fixture(scope="module")
def agency(engine: None) -> Iterator[Agency]:
    network = f"opennotice-test-agency-{uuid4().hex[:8]}"
    docker("network", "create", network)
    try:
        yield Agency(network)
    finally:
        docker("network", "rm", network)


def a_link(project: Containers, api: httpx.Client) -> str:
    """Makes a link of nobody's and returns its URL."""
    pages = [{"slug": "a", "title": "Your hearing", "markdown": "9:00"}]
    portal = api.post("portals", json={"display_name": "Hearing", "kind": "hosted", "pages": pages})
    assert portal.status_code == 201, portal.text
    link = api.post("links", json={"portal": portal.json()["name"]})
    assert link.status_code == 201, link.text
    url: str = link.json()["url"]
    return url


def seen(api: httpx.Client, open_id: str) -> dict[str, str]:
    """Waits for an open in the report."""
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        for row in api.get("opens").json()["opens"]:
            if row["open_id"] == open_id:
                return dict(row)
        time.sleep(0.2)
    raise AssertionError("the open is not listed")


def open_and_look(project: Containers) -> None:
    """Makes a link, opens it, and finds the open in the report."""
    with project.api(project.new_key()) as api:
        url = a_link(project, api)
        # Of a link that it does not know yet tracking asks link, and on a machine that stalls in vain: come again.
        visit = eventually(lambda: (answer := project.visit(url, address=T_MOBILE)).status_code != 503 and answer, 20)
        assert visit.status_code == 200
        assert seen(api, visit.headers["x-open-id"])["ip_address"] == T_MOBILE


POSTGRES_URL = f"postgresql://opennotice:{PASSWORD}@db.county.test:5432/opennotice"
NATS_URL = f"tls://opennotice:{PASSWORD}@nats.county.test:4222"


@pytest.mark.timeout(900)
def test_own_servers(agency: Agency, tmp_path: Path) -> None:
    """From ours to the agency's and back, with everything that can be wrong on the way."""
    (tmp_path / "agency.yaml").write_text(AGENCY_NETWORK.format(network=agency.network))
    with installed(tmp_path, COMPOSE_FILE=OWN_BOTH) as project, agency.postgres() as admin, agency.nats():
        assert "secret postgres-url FILE" in refused(project)
        hand_over(project, "postgres-url", POSTGRES_URL)
        assert "secret nats-url FILE" in refused(project)
        hand_over(project, "nats-url", NATS_URL)

        # Who hands an authority over wants it used; without it nobody can tell whose server answers.
        hand_over(project, "ca-certificate", Authority().pem())
        assert "certificate verify failed" in refused(project)
        hand_over(project, "ca-certificate", agency.authority.pem())

        hand_over(project, "postgres-url", POSTGRES_URL.replace("p%40ss", "wrong"))
        assert 'password authentication failed for user "opennotice"' in refused(project)
        with psycopg.connect(admin) as connection:
            made = connection.execute("select rolname from pg_roles where rolname like '%_serve'").fetchall()
        assert (made, runs(project)) == ([], [])

        hand_over(project, "postgres-url", POSTGRES_URL)
        hand_over(project, "nats-url", NATS_URL.replace("p%40ss", "wrong"))
        assert "nats-url: the server does not let us in: nats: 'Authorization" in refused(project)
        hand_over(project, "nats-url", NATS_URL)

        done = project.command("up")
        assert done.returncode == 0, done.stderr
        assert not {"postgres", "nats"} & set(runs(project))
        open_and_look(project)
        with psycopg.connect(admin.replace("/postgres?", "/opennotice?")) as connection:
            assert connection.execute("select count(*) from tracking.raw_opens").fetchone() == (1,)
            unsafe = "select count(*) from pg_stat_activity join pg_stat_ssl using (pid) where usename > '' and not ssl"
            assert connection.execute(unsafe).fetchone() == (0,)
        status = {one["name"]: one["state"] for one in project.json("status")["processes"]}
        assert set(status.values()) == {"ready"}
        assert {"postgres", "nats"} < set(status)

        # A server that does not answer takes nothing away from those that are used.
        hand_over(project, "postgres-url", POSTGRES_URL.replace("db.county", "nobody.county"))
        assert "postgres-url: cannot use the server" in refused(project)
        open_and_look(project)

        # Files and secrets that contradict each other.
        write_env(tmp_path, {**project.settings, "COMPOSE_FILE": "compose.yaml:test.yaml"})
        assert "secret postgres-url --forget" in refused(project)
        for name in ("postgres-url", "nats-url", "ca-certificate"):
            assert project.command("secret", name, "--forget").returncode == 0
        done = project.command("up")
        assert done.returncode == 0, done.stderr
        assert {"postgres", "nats"} < set(runs(project))
        open_and_look(project)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        pytest.param(["fsync=off"], "the server has fsync = off; it must be on", id="E08 fsync"),
        pytest.param(["full_page_writes=off"], "full_page_writes = off; it must be on", id="E08 full_page_writes"),
        pytest.param(["synchronous_commit=off"], "synchronous_commit = off; it must be", id="E08 synchronous_commit"),
    ],
)
def test_a_careless_postgres_is_refused(agency: Agency, tmp_path: Path, options: list[str], told: str) -> None:
    (tmp_path / "agency.yaml").write_text(AGENCY_NETWORK.format(network=agency.network))
    own = "compose.yaml:deploy/own-postgres.yaml:agency.yaml"
    with installed(tmp_path, COMPOSE_FILE=own) as project, agency.postgres(*options):
        hand_over(project, "ca-certificate", agency.authority.pem())
        hand_over(project, "postgres-url", POSTGRES_URL)
        assert told in refused(project)


@pytest.mark.parametrize(
    ("jetstream", "told"),
    [
        pytest.param(SYNCED.replace("sync_interval: always,", ""), "set sync_interval: always", id="E09 sync_interval"),
        pytest.param("", "has no JetStream", id="E09 no JetStream"),
        pytest.param(SYNCED.replace("24GB", "1GB"), "set max_file: 24GB", id="too little room"),
    ],
)
def test_a_careless_nats_is_refused(agency: Agency, tmp_path: Path, jetstream: str, told: str) -> None:
    (tmp_path / "agency.yaml").write_text(AGENCY_NETWORK.format(network=agency.network))
    own = "compose.yaml:deploy/own-nats.yaml:agency.yaml"
    with installed(tmp_path, COMPOSE_FILE=own) as project, agency.nats(jetstream):
        hand_over(project, "ca-certificate", agency.authority.pem())
        hand_over(project, "nats-url", NATS_URL)
        assert told in refused(project)


@pytest.mark.parametrize(
    ("name", "value", "told"),
    [
        ("postgres-url", "", "the file is empty"),
        ("postgres-url", "mysql://a:p%40ss@db/x", "must be a URL that begins with postgresql://"),
        ("postgres-url", "postgresql://a:p%40ss@localhost/x", "localhost is the container itself"),
        ("postgres-url", "postgresql://a:p%40ss@db.county.test", "names no database"),
        ("postgres-url", "postgresql://a@db.county.test/x", "names no password"),
        ("postgres-url", "postgresql://a:p%40ss@db/x?sslrootcert=/etc/ca.pem", "leave sslrootcert out"),
        ("postgres-url", "postgresql://a:p%40ss@db/x?nonsense=1", "invalid URI query parameter"),
        ("nats-url", "http://nats:4222", "must be a URL that begins with nats:// or tls://"),
        ("ca-certificate", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----", "in PEM form"),
    ],
)
def test_what_is_no_url_or_certificate_is_not_kept(empty: Containers, name: str, value: str, told: str) -> None:
    file = empty.folder / "handed-over"
    file.write_text(value)
    assert told in refused(empty, "secret", name, str(file))
    kept = empty.compose("run", "--rm", "-T", "--no-deps", "set-up", "ls", "/var/lib/opennotice/home").stdout
    assert "secrets" not in kept


@pytest.fixture(scope="module")
def empty(engine: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Containers]:
    with installed(tmp_path_factory.mktemp("empty")) as project:
        yield project


# --- without our proxy


def example(language: str) -> str:
    """Returns the configuration of a proxy that docs/install.md shows."""
    found = re.search(rf"<!-- tried: {language} -->\n```{language}\n(.+?)```", GUIDE.read_text(), re.DOTALL)
    assert found
    return found[1]


@contextmanager
def own_proxy(project: Containers, address: str) -> Iterator[None]:
    """Runs the guide's HAProxy on this machine, before a project that is published on an address of this machine."""
    authority = Authority()
    certificate, key = authority.server("*.opennotice.localhost")
    configuration = example("haproxy").replace(".county.example", ".opennotice.localhost")
    configuration = configuration.replace(" 127.0.0.1:", f" {address}:").replace(
        "/etc/haproxy/opennotice.pem", "/tmp/pem"
    )
    configuration = configuration.replace("bind :443", f"bind 127.0.0.1:{project.https_port}")
    script = 'printf %s "$PEM" >/tmp/pem; printf %s "$CONF" >/tmp/conf; exec haproxy -W -db -f /tmp/conf'
    container = docker(
        *("run", "--detach", "--network", "host", "--tmpfs", "/tmp", "--env", f"PEM={certificate}{key}"),
        *("--env", f"CONF={configuration}", f"opennotice/proxy:{tag()}", "bash", "-c", script),
    ).stdout.strip()
    project.certificate = authority.pem()
    try:
        yield
    except BaseException:
        print(docker("logs", container).stdout)
        raise
    finally:
        docker("rm", "--force", container)


@pytest.mark.timeout(900)
def test_the_agencys_own_proxy(engine: None, tmp_path: Path) -> None:
    """The guide's HAProxy before what is published; what visitors say about themselves does not count."""
    address = f"127.0.{randrange(1, 250)}.{randrange(1, 250)}"
    without = "compose.yaml:deploy/without-proxy.yaml"
    with installed(tmp_path, COMPOSE_FILE=without, OPENNOTICE_PUBLISH_ADDRESS=address) as project:
        trusted = project.settings.pop("OPENNOTICE_TRUSTED_PROXIES")
        assert trusted
        write_env(tmp_path, project.settings)
        assert "OPENNOTICE_TRUSTED_PROXIES" in refused(project)
        gateway = ip_network(project.settings["OPENNOTICE_FRONT_SUBNET"])[1]
        write_env(tmp_path, {**project.settings, "OPENNOTICE_TRUSTED_PROXIES": f"{gateway}/32"})
        done = project.command("up")
        assert done.returncode == 0, done.stderr
        assert "certificate" not in done.stdout
        with own_proxy(project, address):
            key = project.new_key()
            with project.api(key) as api:
                url = a_link(project, api)
                visit = project.visit(url, address=T_MOBILE)
                assert visit.status_code == 200
                assert seen(api, visit.headers["x-open-id"])["ip_address"] == "127.0.0.1"
                # Who goes around the proxy is nobody it knows, and is seen as the engine passes them on.
                headers = {"host": urlsplit(url).netloc, "user-agent": IPHONE}
                direct = httpx.get(f"http://{address}:8080{urlsplit(url).path}", headers=headers)
                assert seen(api, direct.headers["x-open-id"])["ip_address"] == str(gateway)
            channel = project.channel("link")
            trust = grpc.ssl_channel_credentials(channel.certificate.encode())
            options = [("grpc.default_authority", channel.authority)]
            with grpc.secure_channel(channel.target, trust, options=options) as connection:
                link = link_pb2_grpc.LinkServiceStub(connection)
                portals = link.ListPortals(
                    link_pb2.ListPortalsRequest(),
                    metadata=[("authorization", f"Bearer {key}"), ("opennotice-identity", "forged")],
                )
                assert [portal.display_name for portal in portals.portals] == ["Hearing"]
                with pytest.raises(grpc.RpcError) as raised:
                    connection.unary_unary("/opennotice.tracking.v1.TrackingService/ListDeadLetters")(b"")
                assert raised.value.code() == grpc.StatusCode.UNIMPLEMENTED

        # Back to ours: another network of the same name takes the place of the one that was published.
        ours = {"COMPOSE_FILE": "compose.yaml:test.yaml", "OPENNOTICE_PUBLISH_ADDRESS": "127.0.0.1"}
        write_env(tmp_path, {**project.settings, **ours})
        for cached in ("certificate", "trust"):
            del project.__dict__[cached]
        done = project.command("up")
        assert done.returncode == 0, done.stderr
        shape = docker("network", "inspect", "--format", "{{.Internal}}", f"{project.project}_front").stdout.strip()
        assert shape == "true"
        project.ids = {"proxy": project.compose("ps", "--quiet", "proxy").stdout.strip()}
        project.new_key()
        assert httpx.Client(transport=project.transport()).get(project.staff_url).status_code < 400
