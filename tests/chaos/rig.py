"""The whole product on this machine, and a hand on everything that can be damaged."""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import httpx
import psutil
from google.protobuf.timestamp_pb2 import Timestamp
from opennotice.link.v1 import link_pb2, link_pb2_grpc

from bundle.embedded import Nats, Postgres, wait_until
from bundle.program import Program, account_for_postgres, free_port
from services.chassis.serve import CLIENT_OPTIONS
from tests.chaos.load import Plan, as_json
from tests.fix_bundle import ROOT, Bundle, make_bundle
from tests.gate import Gate

LINKS = 2_000
EXPIRED = 100
# As the supervisor of the bundle does it.
_RESTART_SECONDS = 0.2
OWN = ("gateway", "link", "tracking", "enrichment", "reporting", "auth")


class Server:
    """PostgreSQL or nats-server of the rig's own, which can be taken away for as long as a fault takes."""

    def __init__(self, name: str, server: Postgres | Nats, log: Path) -> None:
        self.name = name
        self.server = server
        self._log = log
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def program(self) -> Program:
        """How it is run."""
        return self.server.program()

    def start(self, *, wait: bool = True) -> None:
        """Starts it on what it has kept."""
        self.server.prepare()
        program = self.program
        with self._log.open("ab") as log:
            self.process = subprocess.Popen(program.argv, **program.arguments(), stdout=log, stderr=log)
        if wait and not wait_until(self.server.is_ready, seconds=60):
            raise RuntimeError(f"{self.name} does not start:\n{self._log.read_text(errors='replace')[-2000:]}")

    def end(self, how: signal.Signals | None = None) -> None:
        """Ends it, by default as an operator does."""
        assert self.process is not None
        self.process.send_signal(how or self.program.stop_signal)
        self.process.wait(60)


@dataclass
class Load:
    """Visitors that are on their way."""

    ledger: Path
    began: float
    process: subprocess.Popen[str]

    def wait(self) -> dict[str, int]:
        """Waits until the last of them has gone."""
        said, _ = self.process.communicate()
        if self.process.returncode:
            raise RuntimeError(f"the load ended with {self.process.returncode}")
        told: dict[str, int] = json.loads(said)
        return told


@dataclass
class Rig:
    """A bundle, with servers of its own or of ours, and links to visit."""

    folder: Path
    bundle: Bundle
    servers: dict[str, Server]
    gates: dict[str, Gate]
    key: str = ""
    tokens: list[str] = field(default_factory=list)
    expired: list[str] = field(default_factory=list)
    # Name of the link of each token: what a row of the report says of it.
    names: dict[str, str] = field(default_factory=dict)
    _next: int = 0

    # What runs.

    def processes(self) -> dict[str, dict[str, Any]]:
        """Returns what the supervisor last saw of every process."""
        with contextlib.suppress(OSError, ValueError):
            said = json.loads((self.bundle.home / "status.json").read_text())
            return {one["name"]: one for one in said["processes"]}
        return {}

    def restarts(self) -> dict[str, int]:
        """Returns how often each process was started again."""
        return {name: one["restarts"] for name, one in self.processes().items()}

    def pid(self, name: str) -> int:
        """Returns the number of a process; of PostgreSQL that of the postmaster."""
        if name in self.servers:
            process = self.servers[name].process
            assert process is not None
            return process.pid
        pid = wait_for(lambda: self.processes()[name]["pid"], 20, f"{name} to run")
        assert isinstance(pid, int)
        return pid

    def kill(self, *names: str) -> None:
        """Kills processes at once; each is started again a moment later."""
        pids = [self.pid(name) for name in names]
        for pid in pids:
            os.kill(pid, signal.SIGKILL)
        ours = [self.servers[name] for name in names if name in self.servers]
        for server in ours:
            assert server.process is not None
            server.process.wait()
        if ours:
            time.sleep(_RESTART_SECONDS)
        for server in ours:
            server.start(wait=False)

    @staticmethod
    def is_alive(pid: int) -> bool:
        """Whether a process still runs."""
        with contextlib.suppress(psutil.NoSuchProcess):
            return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
        return False

    def stop_and_start(self, name: str) -> float:
        """Ends a process as an operator does and waits until the supervisor has it ready again.

        Returns how long it took to end, in seconds.
        """
        pid, before = self.pid(name), self.restarts()[name]
        began = time.monotonic()
        os.kill(pid, signal.SIGTERM)
        wait_for(lambda: not self.is_alive(pid), 40, f"{name} to end")
        took = time.monotonic() - began
        wait_for(
            lambda: self.restarts()[name] > before and self.processes()[name]["state"] == "ready",
            90,
            f"{name} to be ready again",
        )
        return took

    @contextlib.contextmanager
    def frozen(self, name: str) -> Iterator[None]:
        """Stops a process, its children too, without ending it."""
        process = psutil.Process(self.pid(name))
        family = [process, *process.children(recursive=True)]
        for one in family:
            one.suspend()
        try:
            yield
        finally:
            # Children first: a postmaster that wakes up alone would think that they hang.
            for one in reversed(family):
                with contextlib.suppress(psutil.NoSuchProcess):
                    one.resume()

    def is_ready(self) -> bool:
        """Whether everything says that it works."""
        found = self.processes()
        return (
            all(found.get(name, {}).get("state") == "ready" for name in OWN)
            and all(self.probe(name, "/ready")[0] == 200 for name in OWN)
            and all(server.server.is_ready() for server in self.servers.values())
        )

    def probe(self, name: str, path: str) -> tuple[int, str]:
        """Returns what a process says at its inner address; 0 when it does not answer."""
        ports = json.loads((self.bundle.home / "ports.json").read_text())
        try:
            answer = httpx.get(f"http://127.0.0.1:{ports[f'{name}-probe']}{path}", timeout=3)
        except httpx.HTTPError:
            return 0, ""
        return answer.status_code, answer.text

    def metric(self, name: str, metric: str) -> float:
        """Returns a metric of a process, all its labels together; 0 when it does not answer."""
        lines = self.probe(name, "/metrics")[1].splitlines()
        return sum(float(line.rsplit(" ", 1)[1]) for line in lines if line.split("{")[0].split(" ")[0] == metric)

    def memory(self, name: str) -> float:
        """Returns the resident memory of a process in MB."""
        return float(psutil.Process(self.pid(name)).memory_info().rss) / 1e6

    # Visitors.

    def visitors(self, rate: float, seconds: float, seed: int, *, plain: bool = False) -> Load:
        """Sends visitors on their way."""
        host, port = self.bundle.environment["OPENNOTICE_PUBLIC_BIND"].split(":")
        ledger = self.folder / f"ledger-{self._next}"
        plan = Plan(host, int(port), rate, seconds, seed, str(ledger), self.tokens, self.expired, self._next, plain)
        # Room for three times what is planned: numbers of different runs must not meet.
        self._next += int(rate * seconds * 3) + 1_000
        began = time.time()
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.chaos.load"],
            cwd=ROOT,
            env=self.bundle.environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert process.stdin is not None
        process.stdin.write(as_json(plan))
        process.stdin.close()
        process.stdin = None
        return Load(ledger, began, process)

    def channel(self, service: str) -> grpc.Channel:
        """Returns a way to a service, as another court system has it."""
        return grpc.insecure_channel(self.bundle.grpc[service], options=CLIENT_OPTIONS)

    @property
    def credential(self) -> tuple[tuple[str, str], ...]:
        """Metadata of a call with the agency's API key."""
        return (("authorization", f"Bearer {self.key}"),)

    def make_links(self) -> None:
        """Makes what visitors ask for."""
        self.key = self.bundle.new_key()
        with self.bundle.api(self.key) as api:
            body = {"display_name": "Hearings", "kind": "external", "target_uri": "https://court.example.gov/"}
            portal = api.post("portals", json=body).raise_for_status().json()["name"]
        soon = Timestamp()
        soon.FromNanoseconds(int((time.time() + 4) * 1e9))
        links = [link_pb2.Link(portal=portal) for _ in range(LINKS)]
        links += [link_pb2.Link(portal=portal, expire_time=soon) for _ in range(EXPIRED)]
        with self.channel("link") as channel:
            stub = link_pb2_grpc.LinkServiceStub(channel)
            requests = (link_pb2.CreateLinkRequest(link=link) for link in links)
            made: dict[int, Any] = {}
            for part in stub.CreateLinks(requests, metadata=self.credential, timeout=60):
                made |= {result.index: result.link for result in part.results}
        tokens = [made[at].uri.rpartition("/")[2] for at in range(len(links))]
        self.names = {token: made[at].name for at, token in enumerate(tokens)}
        self.tokens, self.expired = tokens[:LINKS], tokens[LINKS:]
        wait_for(lambda: time.time() > soon.seconds + 1, 10, "links to expire")

    # Start and end.

    def start(self) -> None:
        """Starts everything."""
        for server in self.servers.values():
            server.start()
        self.bundle.start()
        self.make_links()

    def stop(self) -> None:
        """Ends everything."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.bundle.stop()
        for server in self.servers.values():
            if server.process is not None and server.process.poll() is None:
                server.end(signal.SIGKILL)
        for gate in self.gates.values():
            gate.end()


def wait_for(told: Callable[[], Any], seconds: float, what: str) -> Any:
    """Returns the first true value of a question asked again and again; raises TimeoutError."""
    deadline = time.monotonic() + seconds
    while True:
        with contextlib.suppress(OSError, KeyError, ValueError, httpx.HTTPError, grpc.RpcError):
            if found := told():
                return found
        if time.monotonic() > deadline:
            raise TimeoutError(f"waited {seconds:.0f} s for {what}")
        time.sleep(0.05)


@contextlib.contextmanager
def rig(folder: Path, *, own: Sequence[str] = (), places: dict[str, Path] | None = None) -> Iterator[Rig]:
    """Gives a running product.

    `own` names the servers that are ours ("postgres", "nats") and reached through gates; the bundle runs the others.
    `places` are folders for the data of one of ours, for a part of the home of the bundle by its name, or for all of it
    ("home").
    """
    places = places or {}
    folder.mkdir(mode=0o711, parents=True, exist_ok=True)
    (folder / "no-ip-data").mkdir(exist_ok=True)
    settings = {"OPENNOTICE_IP_DATA_DIR": str(folder / "no-ip-data")}
    servers: dict[str, Server] = {}
    gates: dict[str, Gate] = {}
    if "postgres" in own:
        port, data = free_port(), places.get("postgres", folder / "own-postgres") / "data"
        server = Postgres(data, port, "only-for-chaos", account_for_postgres("nobody"))
        gates["postgres"] = Gate(port)
        servers["postgres"] = Server("postgres", server, folder / "postgres.log")
        through = f"127.0.0.1:{gates['postgres'].port}"
        settings["OPENNOTICE_POSTGRES_URL"] = f"postgresql://postgres:only-for-chaos@{through}/postgres"
    if "nats" in own:
        nats = Nats(places.get("nats", folder / "own-nats"), free_port(), free_port(), "only-for-chaos")
        gates["nats"] = Gate(nats.port)
        servers["nats"] = Server("nats", nats, folder / "nats.log")
        settings["OPENNOTICE_NATS_URL"] = f"nats://opennotice:only-for-chaos@127.0.0.1:{gates['nats'].port}"
        settings["OPENNOTICE_NATS_MONITOR_URL"] = f"http://127.0.0.1:{nats.monitor_port}"
    if "home" in places:
        settings["OPENNOTICE_HOME"] = str(places["home"])
    bundle = make_bundle(folder, **settings)
    bundle.home = Path(bundle.environment["OPENNOTICE_HOME"])
    for name in places.keys() - {"home", *own}:
        # A part of the home on another disk, as an operator lays it out.
        bundle.home.mkdir(mode=0o711, parents=True, exist_ok=True)
        (places[name] / "data").mkdir(mode=0o711)
        (bundle.home / name).symlink_to(places[name] / "data")
    made = Rig(folder, bundle, servers, gates)
    try:
        made.start()
        yield made
    finally:
        made.stop()
        shutil.rmtree(folder, ignore_errors=True)
