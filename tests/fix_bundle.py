"""The whole product, started as an operator starts it, on free ports and in a home of its own."""

import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest

from bundle.processes import OWN
from tests.fix_postgres import quick_folder
from tests.fix_rpc import free_address
from tests.product import Channel, Product

ROOT = Path(__file__).resolve().parent.parent
ADMIN_EMAIL = "dana@first-court.example"
ADMIN_PASSWORD = "a long enough first password"
SERVICES = ("auth", "link", "tracking", "enrichment", "reporting")


@dataclass
class Bundle(Product):
    """A running bundle and how to reach it."""

    home: Path
    environment: dict[str, str]
    public_url: str
    staff_url: str
    grpc: dict[str, str]
    # As tests/ip_data.py has it.
    place: tuple[str, str] = ("New York", "Albany")
    process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Starts it and waits until everything is ready."""
        log = (self.home.parent / "run.log").open("ab")
        self.process = subprocess.Popen(
            [sys.executable, "-m", "bundle.command", "run"], cwd=ROOT, env=self.environment, stdout=log, stderr=log
        )
        deadline = time.monotonic() + 90
        while not self.is_ready():
            assert self.process.poll() is None, f"ended while starting:\n{self.output()}"
            assert time.monotonic() < deadline, f"not ready in 90 s:\n{self.output()}"
            time.sleep(0.2)

    def stop(self) -> int:
        """Ends it as an operator does; returns its exit code."""
        assert self.process is not None
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(40)

    def output(self) -> str:
        """Returns the end of what it printed."""
        return (self.home.parent / "run.log").read_text(errors="replace")[-6000:]

    def command(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Runs the `opennotice` command against it."""
        return subprocess.run(
            [sys.executable, "-m", "bundle.command", *arguments],
            cwd=ROOT,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    def status(self) -> dict[str, dict[str, Any]]:
        """Returns the state of every process by name."""
        # Its exit code tells whether all are ready, which is not the question here.
        said = json.loads(self.command("status", "--json").stdout)
        return {process["name"]: process for process in said["processes"]}

    def is_ready(self) -> bool:
        """Whether every process says so."""
        done = self.command("status", "--json")
        if done.returncode != 0:
            return False
        processes = json.loads(done.stdout)["processes"]
        # Servers of somebody else's are not among them.
        ours = sum(f"OPENNOTICE_{server}_URL" not in self.environment for server in ("POSTGRES", "NATS"))
        return len(processes) >= len(OWN) + ours and all(process["state"] == "ready" for process in processes)

    def channel(self, service: str) -> Channel:
        """Returns how a service is called from outside."""
        return Channel(self.grpc[service])


def free_ports(count: int) -> list[int]:
    """Returns different free loopback ports."""
    found: set[int] = set()
    while len(found) < count:
        found.add(free_address().port)
    return sorted(found)


def make_bundle(folder: Path, **settings: str) -> Bundle:
    """Prepares a bundle in a folder, not yet started."""
    public, staff, *calls = free_ports(7)
    environment = {name: value for name, value in os.environ.items() if not name.startswith("OPENNOTICE_")}
    environment |= {
        "OPENNOTICE_HOME": str(folder / "home"),
        "OPENNOTICE_PUBLIC_BIND": f"127.0.0.1:{public}",
        "OPENNOTICE_PUBLIC_URL": f"http://127.0.0.1:{public}",
        "OPENNOTICE_STAFF_BIND": f"127.0.0.1:{staff}",
        "OPENNOTICE_STAFF_URL": f"http://127.0.0.1:{staff}",
        "OPENNOTICE_TRUSTED_PROXIES": "127.0.0.1/32",
        "OPENNOTICE_AGENCY_NAME": "First Court",
        "OPENNOTICE_ADMIN_EMAIL": ADMIN_EMAIL,
        "OPENNOTICE_ADMIN_PASSWORD": ADMIN_PASSWORD,
        "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "proto")]),
        **settings,
    }
    grpc = {service: f"127.0.0.1:{port}" for service, port in zip(SERVICES, calls, strict=True)}
    environment |= {f"OPENNOTICE_{service.upper()}_GRPC_BIND": address for service, address in grpc.items()}
    public_url, staff_url = environment["OPENNOTICE_PUBLIC_URL"], environment["OPENNOTICE_STAFF_URL"]
    return Bundle(folder / "home", environment, public_url, staff_url, grpc)


@pytest.fixture(scope="session")
def bundle_folder() -> Iterator[Path]:
    """Gives a folder that the account of PostgreSQL can pass through when we are root."""
    # In memory where there is enough: a disk that stalls for half a second makes the product serve without recording,
    # as it promises, and that is another test's business.
    with tempfile.TemporaryDirectory(prefix="opennotice-e2e-", dir=quick_folder()) as name:
        folder = Path(name)
        folder.chmod(0o711)
        yield folder


@pytest.fixture(scope="session")
def bundle(bundle_folder: Path) -> Iterator[Bundle]:
    """Gives one running bundle for all end-to-end tests of a run."""
    from tests.ip_data import write_ip_data

    data = bundle_folder / "ip-data"
    data.mkdir()
    write_ip_data(data)
    running = make_bundle(bundle_folder, OPENNOTICE_IP_DATA_DIR=str(data))
    running.start()
    yield running
    children = psutil.Process(running.process.pid).children(recursive=True) if running.process else []
    code = running.stop()
    assert code == 0, f"ended with {code}:\n{running.output()}"
    left = [child for child in children if child.is_running() and child.status() != psutil.STATUS_ZOMBIE]
    assert not left, f"left running: {left}"


def token_of(url: str) -> str:
    """Returns the token in a link's URL."""
    found = re.search(r"/([A-Za-z0-9_-]{22})$", url)
    assert found, url
    return found[1]
