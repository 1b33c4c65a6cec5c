"""A running bundle with links to open, and what can be asked of it from outside while it is under load."""

import json
import random
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from ipaddress import IPv4Address
from pathlib import Path

import grpc
from opennotice.link.v1 import link_pb2, link_pb2_grpc
from opennotice.reporting.v1 import reporting_pb2, reporting_pb2_grpc

from services.chassis.serve import CLIENT_OPTIONS
from tests.bench.machine import cpu_seconds, memory_mib
from tests.enrichment.test_device import corpus
from tests.fix_bundle import Bundle, make_bundle

_CLIENTS = 100
_LINKS = 1_000
_AGENTS = 50
_ADDRESSES = 5_000
_REQUESTS = 20_000
# Networks that home and mobile visitors come from.
_BLOCKS = [first << 24 for first in (24, 71, 73, 98, 107, 172)]
_VISIBLE_SECONDS = 180.0
Metadata = tuple[tuple[str, str], ...]


@dataclass
class Measured:
    """The product, running."""

    bundle: Bundle
    folder: Path
    metadata: Metadata
    tokens: list[str]
    # Ready requests, as wrk takes them.
    requests: Path
    processes: dict[str, int]
    opens: "reporting_pb2_grpc.ReportingServiceStub"

    @property
    def pid(self) -> int:
        """The process above all others."""
        assert self.bundle.process is not None
        return self.bundle.process.pid

    @property
    def cpu(self) -> float:
        """CPU seconds of everything so far."""
        return cpu_seconds(self.pid)

    def cpu_by_process(self) -> dict[str, float]:
        """Returns CPU seconds so far, and those of the supervisor itself under its name."""
        found = {name: cpu_seconds(pid) for name, pid in self.processes.items()}
        return found | {"supervisor": self.cpu - sum(found.values())}

    def memory_by_process(self) -> dict[str, float]:
        """Returns MiB (proportional set size)."""
        found = {name: memory_mib(pid) for name, pid in self.processes.items()}
        return found | {"supervisor": memory_mib(self.pid) - sum(found.values())}

    def reported(self, since: datetime) -> int:
        """Returns how many opens from an instant on the report counts."""
        request = reporting_pb2.SummarizeOpensRequest(key=reporting_pb2.SUMMARY_KEY_DEVICE)
        request.filter.start_time.FromDatetime(since)
        return int(self.opens.SummarizeOpens(request, metadata=self.metadata, timeout=30).total)

    def newest(self, token: str = "") -> reporting_pb2.ListOpensResponse:
        """Returns a page of the newest opens."""
        request = reporting_pb2.ListOpensRequest(page_size=200, page_token=token)
        return self.opens.ListOpens(request, metadata=self.metadata, timeout=30)

    def until_reported(self, count: int, since: datetime, seconds: float = _VISIBLE_SECONDS) -> float:
        """Waits until the report counts so many opens; returns how long that took."""
        began = time.perf_counter()
        while True:
            asked = time.perf_counter()
            found = self.reported(since)
            now = time.perf_counter()
            if found >= count:
                return now - began
            assert now - began < seconds, f"{found:,} of {count:,} opens are in the report after {seconds:.0f} s"
            # Counting is work too, and must not be what is measured.
            time.sleep(max(0.05, 2 * (now - asked)))

    def metric(self, name: str) -> float:
        """Returns a figure of tracking."""
        port = json.loads((self.bundle.home / "ports.json").read_text())["tracking-probe"]
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as answer:
            for line in answer.read().decode().splitlines():
                if line.startswith(f"{name} "):
                    return float(line.split(" ")[1])
        raise AssertionError(f"there is no metric {name}")


@contextmanager
def running() -> Iterator[Measured]:
    """Starts a bundle with the settings and data of `make run`, on this machine's disk, and makes links."""
    with tempfile.TemporaryDirectory(prefix="opennotice-bench-") as name:
        folder = Path(name)
        folder.chmod(0o711)
        bundle = make_bundle(folder)
        bundle.start()
        try:
            metadata = (("authorization", f"Bearer {bundle.new_key()}"),)
            tokens = _make_links(bundle, metadata)
            requests = folder / "requests"
            host = bundle.environment["OPENNOTICE_PUBLIC_BIND"]
            requests.write_bytes(b"".join(request + b"\0" for request in visits(host, tokens)))
            processes = {name: each["pid"] for name, each in bundle.status().items()}
            with grpc.insecure_channel(bundle.grpc["reporting"], options=CLIENT_OPTIONS) as channel:
                opens = reporting_pb2_grpc.ReportingServiceStub(channel)
                yield Measured(bundle, folder, metadata, tokens, requests, processes, opens)
        finally:
            bundle.stop()


def _make_links(bundle: Bundle, metadata: Metadata) -> list[str]:
    """Makes a portal, clients and a link for each in turn; returns the tokens."""
    with grpc.insecure_channel(bundle.grpc["link"], options=CLIENT_OPTIONS) as channel:
        links = link_pb2_grpc.LinkServiceStub(channel)
        portal = link_pb2.Portal(
            display_name="Hearings", kind=link_pb2.PORTAL_KIND_EXTERNAL, target_uri="https://court.example.gov/"
        )
        portal = links.CreatePortal(link_pb2.CreatePortalRequest(portal=portal), metadata=metadata)
        clients = [
            links.CreateClient(
                link_pb2.CreateClientRequest(client=link_pb2.Client(display_name=f"Client {number}")), metadata=metadata
            ).name
            for number in range(_CLIENTS)
        ]
        wanted = (
            link_pb2.CreateLinkRequest(link=link_pb2.Link(portal=portal.name, client=clients[number % _CLIENTS]))
            for number in range(_LINKS)
        )
        made = [result for part in links.CreateLinks(wanted, metadata=metadata) for result in part.results]
    return [result.link.uri.rpartition("/")[2] for result in made]


def visits(host: str, tokens: list[str]) -> Iterator[bytes]:
    """Yields requests as a proxy passes them on: the headers of a phone's browser, and where the visitor came from."""
    chance = random.Random(11)
    agents = chance.sample(sorted(corpus()), _AGENTS)
    addresses = [str(IPv4Address(chance.choice(_BLOCKS) + chance.getrandbits(24))) for _ in range(_ADDRESSES)]
    for number in range(_REQUESTS):
        yield (
            f"GET /{tokens[number % len(tokens)]} HTTP/1.1\r\nHost: {host}\r\n"
            f"User-Agent: {agents[number % _AGENTS]}\r\nX-Forwarded-For: {addresses[number % _ADDRESSES]}\r\n"
            "Accept: text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8\r\n"
            "Accept-Language: en-US,en;q=0.9\r\nAccept-Encoding: gzip, deflate, br\r\n"
            "Sec-Fetch-Dest: document\r\nSec-Fetch-Mode: navigate\r\nSec-Fetch-Site: none\r\n\r\n"
        ).encode()


def now() -> datetime:
    """Returns the time."""
    return datetime.now(UTC)
