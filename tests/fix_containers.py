"""The whole product in containers, brought up from compose.yaml as an agency does, on networks and ports of its own."""

import json
import os
import random
import re
import shutil
import ssl
import subprocess
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from ipaddress import IPv4Network, ip_interface, ip_network
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from uuid import uuid4

import httpx
import psutil
import pytest

from tests.fix_bundle import ADMIN_EMAIL, ROOT, free_ports
from tests.product import Channel, Product

IMAGES = ("app", "postgres", "nats", "proxy")
STAYING = ("postgres", "nats", "proxy", "auth", "link", "tracking", "enrichment", "reporting", "gateway")
ONCE = ("set-up", "migrate", "first-agency")
PROPERTY = "memory of all containers, idle"


def tag() -> str:
    """Returns the tag of the images under test."""
    return os.environ.get("OPENNOTICE_TEST_IMAGES", "latest")


def surroundings() -> dict[str, str]:
    """Returns our environment without what compose would take for settings."""
    return {name: value for name, value in os.environ.items() if not name.startswith(("OPENNOTICE_", "COMPOSE_"))}


def docker(*words: str, check: bool = True, seconds: float = 60, **options: Any) -> subprocess.CompletedProcess[str]:
    """Runs one command of the engine's client."""
    done = subprocess.run(
        ["docker", *words],
        capture_output=True,
        text=True,
        errors="replace",
        timeout=seconds,
        check=False,
        **{"env": surroundings(), **options},
    )
    assert not check or done.returncode == 0, f"docker {' '.join(words)}: {done.stderr}{done.stdout}"
    return done


class ToThisMachine(httpx.HTTPTransport):
    """Carries every request to this machine, whatever name it is for: the names of a test stand in no DNS.

    The certificate is still held against the name.
    """

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        """Sends a request."""
        here = httpx.Request(
            request.method,
            request.url.copy_with(host="127.0.0.1"),
            headers=request.headers,
            stream=request.stream,
            extensions={**request.extensions, "sni_hostname": request.url.host},
        )
        return super().handle_request(here)


@dataclass
class Containers(Product):
    """A compose project and how to reach what runs in it."""

    folder: Path
    project: str
    settings: dict[str, str]
    memory: dict[str, float] = field(default_factory=dict)
    # As the data have it that come along.
    place: tuple[str, str] = ("Texas", "Grand Prairie")

    @property
    def public_url(self) -> str:  # type: ignore[override]
        """How links begin."""
        return self.settings["OPENNOTICE_PUBLIC_URL"]

    @property
    def staff_url(self) -> str:  # type: ignore[override]
        """What staff type."""
        return self.settings["OPENNOTICE_STAFF_URL"]

    @property
    def https_port(self) -> int:
        """The published port."""
        return int(self.settings["OPENNOTICE_HTTPS_PORT"])

    def command(self, *arguments: str, **options: Any) -> subprocess.CompletedProcess[str]:
        """Runs deploy/opennotice, which passes on to the command inside what is not its own."""
        return subprocess.run(
            [self.folder / "deploy" / "opennotice", *arguments],
            cwd=self.folder,
            env={**surroundings(), "OPENNOTICE_VERSION": tag()},
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
            **options,
        )

    def compose(self, *words: str, **options: Any) -> subprocess.CompletedProcess[str]:
        """Runs docker compose on the project."""
        return docker("compose", *words, cwd=self.folder, **options)

    def container(self, service: str) -> str:
        """Returns the id of a service's container."""
        return self.ids[service]

    @cached_property
    def ids(self) -> dict[str, str]:
        """The id of every container by service."""
        found = docker(
            *("ps", "--all", "--no-trunc", "--filter", f"label=com.docker.compose.project={self.project}"),
            *("--filter", "label=com.docker.compose.oneoff=False"),
            *("--format", '{{.Label "com.docker.compose.service"}} {{.ID}}'),
        )
        return dict(line.split() for line in found.stdout.splitlines())  # type: ignore[misc]

    def inspect(self) -> dict[str, dict[str, Any]]:
        """Returns what the engine knows about every container, by service."""
        found = json.loads(docker("inspect", *self.ids.values()).stdout)
        return {one["Config"]["Labels"]["com.docker.compose.service"]: one for one in found}

    def inside(self, service: str, *words: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Runs a program in the container of a service."""
        return docker("exec", self.container(service), *words, check=check)

    def secret(self, service: str, name: str) -> str:
        """Returns a file that was dealt out to a service."""
        return self.inside(service, "cat", f"/run/opennotice/{name}").stdout.strip()

    @cached_property
    def certificate(self) -> str:
        """The certificate that this install made for itself, as a browser would be given it to trust."""
        found = re.search(r"-----BEGIN CERTIFICATE-----.+?-----END CERTIFICATE-----\n", self.pem, re.DOTALL)
        assert found
        return found[0]

    @cached_property
    def pem(self) -> str:
        """The certificate with its key."""
        return self.secret("proxy", "certificate.pem")

    @cached_property
    def trust(self) -> ssl.SSLContext:
        """Trusts that certificate and nothing else."""
        return ssl.create_default_context(cadata=self.certificate)

    def transport(self) -> httpx.BaseTransport:
        """Returns what carries requests to the proxy."""
        return ToThisMachine(verify=self.trust)

    def channel(self, service: str) -> Channel:
        """Returns how a service is called from outside: all under the name of the API."""
        name = urlsplit(self.settings["OPENNOTICE_API_URL"]).netloc
        return Channel(f"ipv4:127.0.0.1:{self.https_port}", name, self.certificate)

    def is_healthy(self) -> bool:
        """Whether every container that stays says so."""
        self.__dict__.pop("ids", None)
        if not set(self.ids) >= {*STAYING, *ONCE}:
            return False
        found = self.inspect()
        again = [name for name in STAYING if found[name]["RestartCount"]]
        assert not again, f"ended while starting: {', '.join(again)}"
        return all(found[name]["State"]["Health"]["Status"] == "healthy" for name in STAYING)

    def logs(self, lines: str = "all") -> str:
        """Returns what all containers wrote."""
        done = docker("compose", "--ansi", "never", "logs", "--tail", lines, cwd=self.folder, check=False)
        return done.stdout + done.stderr

    def kill(self) -> None:
        """Ends everything at once: nobody will look at these data again, and ten orderly ends take their time."""
        self.compose("--profile", "cli", "kill", check=False, seconds=120)

    def remove(self) -> None:
        """Removes everything that the engine has of the project, the data too."""
        self.kill()
        # A command that ran out of time holds the networks.
        for one in one_offs(self.project):
            docker("rm", "--force", one)
        down = ("--profile", "cli", "down", "--volumes", "--remove-orphans")
        # The engine may still be letting go of what was killed this moment.
        if self.compose(*down, check=False, seconds=240).returncode:
            time.sleep(2)
            self.compose(*down, seconds=240)
        assert not (left := left_of(self.project)), f"left: {left}"

    def measure(self) -> dict[str, float]:
        """Returns the resident memory of every container in MiB; the machine's cache of files is not in it."""
        units = {"GiB": 1024, "MiB": 1, "KiB": 1 / 1024, "kB": 1 / 1024, "B": 1 / 1048576}
        ids = [self.ids[name] for name in STAYING]
        stats = docker("stats", "--no-stream", "--format", "{{.MemUsage}}", *ids).stdout.splitlines()
        used = {}
        for name, line in zip(STAYING, stats, strict=True):
            found = re.match(r"([\d.]+)([A-Za-z]+) /", line)
            assert found, line
            used[name] = float(found[1]) * units[found[2]]
        return used


def is_free(network: IPv4Network) -> bool:
    """Whether neither this machine nor a network of the engine uses any of it."""
    taken = [
        ip_interface(f"{address.address}/{address.netmask}").network
        for addresses in psutil.net_if_addrs().values()
        for address in addresses
        if address.family.name == "AF_INET" and address.netmask
    ]
    ids = docker("network", "ls", "--quiet").stdout.split()
    for one in json.loads(docker("network", "inspect", *ids).stdout):
        taken += [ip_network(config["Subnet"]) for config in one["IPAM"]["Config"] or [] if "Subnet" in config]
    return not any(other.version == 4 and other.overlaps(network) for other in taken)


def free_networks(count: int) -> list[IPv4Network]:
    """Returns different private networks that nothing here uses."""
    candidates = [IPv4Network(f"172.{second}.{third}.0/24") for second in (29, 30) for third in range(256)]
    random.shuffle(candidates)
    found: list[IPv4Network] = []
    for candidate in candidates:
        if is_free(candidate):
            found.append(candidate)
        if len(found) == count:
            return found
    raise AssertionError("no free network")


def make_project(folder: Path, **settings: str) -> Containers:
    """Prepares a project in a folder as an operator's: compose.yaml, deploy/, .env. Nothing is started yet."""
    shutil.copy(ROOT / "compose.yaml", folder)
    shutil.copytree(ROOT / "deploy", folder / "deploy")
    project = f"opennotice-test-{uuid4().hex[:8]}"
    https, http = free_ports(2)
    front, outside = free_networks(2)
    # Its own address range is all that differs from what ships: the test must know from where the host connects.
    (folder / "test.yaml").write_text(
        json.dumps(
            {"networks": {"outside": {"ipam": {"config": [{"subnet": str(outside), "gateway": str(outside[1])}]}}}}
        )
    )
    chosen = {
        "COMPOSE_PROJECT_NAME": project,
        "COMPOSE_FILE": "compose.yaml:test.yaml",
        "OPENNOTICE_VERSION": tag(),
        "OPENNOTICE_PUBLIC_URL": f"https://links.opennotice.localhost:{https}",
        "OPENNOTICE_STAFF_URL": f"https://staff.opennotice.localhost:{https}",
        "OPENNOTICE_API_URL": f"https://api.opennotice.localhost:{https}",
        "OPENNOTICE_PUBLISH_ADDRESS": "127.0.0.1",
        "OPENNOTICE_HTTPS_PORT": str(https),
        "OPENNOTICE_HTTP_PORT": str(http),
        "OPENNOTICE_FRONT_SUBNET": str(front),
        # What comes from this machine is as from an agency's load balancer: tests say where their visitors are.
        "OPENNOTICE_TRUSTED_PROXIES": f"{outside[1]}/32",
        "OPENNOTICE_AGENCY_NAME": "First Court",
        "OPENNOTICE_ADMIN_EMAIL": ADMIN_EMAIL,
        **settings,
    }
    write_env(folder, chosen)
    return Containers(folder, project, chosen)


def write_env(folder: Path, settings: Mapping[str, str]) -> None:
    """Writes the operator's .env."""
    (folder / ".env").write_text("".join(f"{name}={value}\n" for name, value in settings.items()))


def one_offs(project: str) -> list[str]:
    """Returns the containers that were run for one command and are still there."""
    labels = (f"com.docker.compose.project={project}", "com.docker.compose.oneoff=True")
    only = [word for label in labels for word in ("--filter", f"label={label}")]
    return docker("ps", "--all", "--quiet", *only).stdout.split()


def left_of(project: str) -> list[str]:
    """Returns what the engine still has of a project."""
    only = ("--quiet", "--filter", f"label=com.docker.compose.project={project}")
    kinds = {"container": ["ps", "--all"], "volume": ["volume", "ls"], "network": ["network", "ls"]}
    return [f"{kind} {one}" for kind, words in kinds.items() for one in docker(*words, *only).stdout.split()]


def pytest_addoption(parser: pytest.Parser) -> None:
    """Adds the option to use containers that run already."""
    parser.addoption(
        "--test-containers",
        default=None,
        help="a folder that make_project() of tests/fix_containers.py made, and that has been started",
    )


def why_not() -> str:
    """Returns why containers cannot be tested here; empty when they can."""
    if shutil.which("docker") is None:
        return "no container engine on this machine: docker is not installed"
    said = docker("version", "--format", "{{.Server.Version}}", check=False)
    if said.returncode != 0:
        return f"no container engine answers: {said.stderr.strip()[:200]}"
    if docker("compose", "version", check=False).returncode != 0:
        return "docker has no compose"
    missing = [
        name
        for name in (f"opennotice/{one}:{tag()}" for one in IMAGES)
        if docker("image", "inspect", name, check=False).returncode != 0
    ]
    return f"images are missing: {', '.join(missing)}; make images builds them" if missing else ""


@pytest.fixture(scope="session")
def engine() -> None:
    """Skips where no container engine answers or the images have not been built."""
    if reason := why_not():
        pytest.skip(reason)


def running_project(folder: Path) -> Containers:
    """Returns what an operator's folder has started."""
    lines = [line.partition("=") for line in (folder / ".env").read_text().splitlines() if not line.startswith("#")]
    settings = {name: value for name, _, value in lines if name}
    found = Containers(folder, settings["COMPOSE_PROJECT_NAME"], settings)
    found.memory = found.measure()
    return found


@pytest.fixture(scope="session")
def containers(
    engine: None, request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Containers]:
    """Gives one running set of containers for all tests of a run that need it."""
    if given := request.config.getoption("--test-containers"):
        yield running_project(Path(given))
        return
    # Read when the package is loaded: its helper container, which tidies up after us, comes from a registry.
    os.environ.setdefault("TESTCONTAINERS_RYUK_DISABLED", "true")
    from testcontainers.compose import DockerCompose

    running = make_project(tmp_path_factory.mktemp("containers"))
    # Without its own waiting: to compose a one-shot container that has ended well is one that failed to stay.
    compose = DockerCompose(running.folder, wait=False)
    try:
        compose.start()
        deadline = time.monotonic() + 180
        while not running.is_healthy():
            assert time.monotonic() < deadline, "not healthy in 180 s"
            time.sleep(1)
        running.memory = running.measure()
        yield running
        again = {name: one["RestartCount"] for name, one in running.inspect().items() if one["RestartCount"]}
        assert not again, f"restarted: {again}\n{running.logs('20')}"
    except BaseException as error:
        # What compose itself said is in the error of its process.
        print(getattr(error, "stderr", b"").decode(errors="replace"), running.logs("40"))
        raise
    finally:
        # A command that ran out of time holds the networks.
        for one in one_offs(running.project):
            docker("rm", "--force", one)
        running.kill()
        compose.stop()
        assert not (left := left_of(running.project)), f"left: {left}"


@pytest.fixture(scope="session", params=["bundle", pytest.param("containers", marks=pytest.mark.engine)])
def product(request: pytest.FixtureRequest) -> Product:
    """Gives the whole product, once on this machine and once in containers: the same tests run on both."""
    found: Product = request.getfixturevalue(request.param)
    return found


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Shows what the containers take, in the log of every run."""
    told = {
        str(value)
        for reports in terminalreporter.stats.values()
        for report in reports
        for name, value in getattr(report, "user_properties", ())
        if name == PROPERTY
    }
    for value in sorted(told):
        terminalreporter.write_line(f"{PROPERTY}: {value}")
