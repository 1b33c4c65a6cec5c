"""Measures the answer that matters: GET /{token}, recorded on disk before it is given, and how soon it is seen.

    python -m tests.bench.opens

Everything of the product runs, and the load comes from the same machine and takes its share of it.
"""

import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path

from bundle.program import free_port
from tests.bench import machine
from tests.bench.machine import Load
from tests.bench.product import Measured, now, running
from tests.chaos.ledger import Request, percentile, read
from tests.chaos.load import Plan, as_json

_SETTLE_SECONDS = 10
_IDLE_SECONDS = 30
_POLL_SECONDS = 0.04
_BACKLOG = 200_000
# Connections, and for how long. At 32 it is long enough to show a backlog that grows.
_RUNS = ((1, 10), (4, 10), (32, 60), (128, 10))


@dataclass(frozen=True)
class Run:
    """One load, from before it to the moment when its last open was in the report."""

    load: Load
    cpu: float
    by_process: dict[str, float]
    visible_seconds: float
    reported: int
    unrecorded: int

    def per_thousand(self, seconds: float) -> float:
        """Returns CPU seconds for each thousand answers."""
        return seconds / self.load.requests * 1000


def closed(product: Measured, connections: int, seconds: float) -> Run:
    """Loads over some connections, as fast as they are answered, and waits for the last open to be seen."""
    since = now()
    unrecorded = product.metric("opennotice_unrecorded_opens_total")
    before = product.cpu_by_process()
    load = machine.closed_loop(product.bundle.public_url, product.requests, connections, seconds)
    visible = product.until_reported(load.requests, since)
    used = {name: spent - before[name] for name, spent in product.cpu_by_process().items()}
    # What was asked last and not waited for by the load is recorded as well.
    time.sleep(1)
    return Run(
        load=load,
        cpu=sum(used.values()),
        by_process=used,
        visible_seconds=visible,
        reported=product.reported(since),
        unrecorded=int(product.metric("opennotice_unrecorded_opens_total") - unrecorded),
    )


def print_control(folder: Path, requests: Path) -> None:
    """Prints what the machine can do at most: nginx that redirects, and our own server that records nothing."""
    print("\nControls: a redirect, nothing recorded")
    print("                 connections  answers/s   p50 ms   p99 ms  CPU-s per 1,000")
    with machine.control(folder) as (url, pid):
        _print_bare("nginx", url, pid, requests, 32)
    port = free_port()
    with machine.started([sys.executable, "-m", "tests.bench.bare", str(port)]) as pid:
        time.sleep(1)
        for connections in (32, 128):
            _print_bare("our server", f"http://127.0.0.1:{port}", pid, requests, connections)


def _print_bare(name: str, url: str, pid: int, requests: Path, connections: int) -> None:
    before = machine.cpu_seconds(pid)
    load = machine.closed_loop(url, requests, connections, 5)
    cpu = (machine.cpu_seconds(pid) - before) / load.requests * 1000
    print(f"{name:16} {connections:>11} {load.rate:>10,.0f} {load.p50_ms:>8.2f} {load.p99_ms:>8.2f} {cpu:>16.4f}")


def print_idle(product: Measured) -> None:
    """Prints what everything takes while nobody asks."""
    time.sleep(_SETTLE_SECONDS)
    before = product.cpu_by_process()
    time.sleep(_IDLE_SECONDS)
    used = product.cpu_by_process()
    memory = product.memory_by_process()
    print(f"\nIdle for {_IDLE_SECONDS} s (floor: under 700 MiB and 3 % of a core together)")
    _print_processes(
        memory, {name: (used[name] - before[name]) / _IDLE_SECONDS * 100 for name in memory}, "% of a core"
    )


def _print_processes(memory: dict[str, float], cpu: dict[str, float], unit: str) -> None:
    print(f"{'':16} {'MiB (PSS)':>11} {unit:>16}")
    for name in memory:
        print(f"{name:16} {memory[name]:>11.0f} {cpu[name]:>16.3f}")
    print(f"{'together':16} {sum(memory.values()):>11.0f} {sum(cpu.values()):>16.3f}", flush=True)


def print_closed(product: Measured) -> None:
    """Prints what some connections get that are never idle."""
    print("\nGET /{token}, recorded before it is answered (wrk, closed loop)")
    print("floor at 32: 3,000/s, p50 12 ms, p99 40 ms, 0.50; at 128: 5,000/s, 0.30.")
    print("target at 32: 6,000/s, p50 5.5 ms, p99 20 ms, 0.25; at 128: 10,000/s, 0.15. Last open visible: 5 s, 1 s")
    print(
        "connections   seconds   opens/s   p50 ms   p99 ms   max ms  CPU-s per 1,000  last visible s"
        "    answered   in report  unrecorded  failed"
    )
    for connections, seconds in _RUNS:
        run = closed(product, connections, seconds)
        load = run.load
        print(
            f"{connections:>11} {seconds:>9} {load.rate:>9,.0f} {load.p50_ms:>8.1f} {load.p99_ms:>8.1f}"
            f" {load.max_ms:>8.1f} {run.per_thousand(run.cpu):>16.3f} {run.visible_seconds:>15.2f}"
            f" {load.requests:>11,} {run.reported:>11,} {run.unrecorded:>11} {load.failed:>7}",
            flush=True,
        )
    memory = product.memory_by_process()
    print(f"\nAfter {connections} connections")
    cpu = {name: run.per_thousand(spent) for name, spent in run.by_process.items()}
    _print_processes(memory, cpu, "CPU-s per 1,000")


def at_rate(product: Measured, rate: float, seconds: float) -> list[Request]:
    """Sends visitors at random moments, each on a connection of their own; returns what each of them met."""
    host, _, port = product.bundle.environment["OPENNOTICE_PUBLIC_BIND"].rpartition(":")
    ledger = product.folder / f"ledger-{time.monotonic_ns()}"
    plan = Plan(host, int(port), rate, seconds, seed=1, ledger=str(ledger), tokens=product.tokens, plain=True)
    subprocess.run(
        [sys.executable, "-m", "tests.chaos.load"], input=as_json(plan), text=True, check=True, capture_output=True
    )
    return read(ledger)


def print_rate(product: Measured, rate: float, seconds: float) -> None:
    """Prints what visitors meet who come at their own pace."""
    since, before = now(), product.cpu_by_process()
    requests = at_rate(product, rate, seconds)
    product.until_reported(len(requests), since)
    used = {name: spent - before[name] for name, spent in product.cpu_by_process().items()}
    waited = [request.seconds * 1000 for request in requests]
    recorded = sum(bool(request.open_id) for request in requests)
    print(f"\n{rate:.0f} visitors a second, each on a new connection (open loop; latency from the planned moment)")
    print("floor: p99 30 ms, 0.6 cores; target: 15 ms, 0.45 cores")
    print(
        f"p50 {percentile(waited, 0.5):.1f} ms, p99 {percentile(waited, 0.99):.1f} ms, max {max(waited):.1f} ms;"
        f" {sum(used.values()) / seconds:.2f} cores; {len(requests):,} asked, {recorded:,} with X-Open-Id,"
        f" {product.reported(since):,} in report"
    )
    shares = ", ".join(f"{name} {spent / seconds:.3f}" for name, spent in used.items())
    print(f"cores: {shares}", flush=True)


class Watcher(threading.Thread):
    """Looks at the newest opens again and again, as a program that polls, and notes when it sees each first."""

    def __init__(self, product: Measured) -> None:
        super().__init__(daemon=True)
        self._product = product
        self._end = threading.Event()
        self.seen: dict[str, float] = {}

    def run(self) -> None:
        """Polls until it is stopped."""
        while not self._end.wait(_POLL_SECONDS):
            token = ""
            while True:
                page = self._product.newest(token)
                moment = time.time()
                fresh = [each.name.partition("/")[2] for each in page.opens]
                fresh = [open_id for open_id in fresh if open_id not in self.seen]
                self.seen.update(dict.fromkeys(fresh, moment))
                token = page.next_page_token
                if len(fresh) < len(page.opens) or not token:
                    break

    def stop(self) -> None:
        """Ends the polling."""
        self._end.set()
        self.join()


def print_visible(product: Measured, rate: float, seconds: float) -> None:
    """Prints how long after its answer an open is in a list."""
    watcher = Watcher(product)
    watcher.seen.update(dict.fromkeys((each.name.partition("/")[2] for each in product.newest().opens), 0.0))
    watcher.start()
    requests = at_rate(product, rate, seconds)
    time.sleep(3)
    watcher.stop()
    known = [request for request in requests if request.open_id in watcher.seen]
    waited = [watcher.seen[request.open_id] - request.received for request in known]
    print(
        f"{rate:>6.0f}/s: p50 {percentile(waited, 0.5):.2f} s, p95 {percentile(waited, 0.95):.2f} s,"
        f" max {max(waited):.2f} s; {len(known):,} of {len(requests):,} seen",
        flush=True,
    )


def print_backlog(product: Measured) -> None:
    """Prints how long a pile of opens takes that waited for enrichment."""
    since, pid = now(), product.processes["enrichment"]
    os.kill(pid, signal.SIGSTOP)
    try:
        waiting, began = 0, time.perf_counter()
        while waiting < _BACKLOG:
            load = machine.closed_loop(product.bundle.public_url, product.requests, 128, 5)
            waiting += load.requests
        spent = time.perf_counter() - began
    finally:
        before = product.cpu
        os.kill(pid, signal.SIGCONT)
    took = product.until_reported(waiting, since)
    print(f"\nBacklog: {waiting:,} opens taken in {spent:.0f} s while enrichment was stopped (floor: 200,000 in 60 s)")
    print(
        f"reported within {took:.1f} s, {waiting / took:,.0f} a second,"
        f" {(product.cpu - before) / waiting * 1000:.3f} CPU-s per 1,000",
        flush=True,
    )


def main() -> None:
    """Measures and prints; compares nothing and fails nothing."""
    absent = machine.missing()
    with running() as product:
        if absent:
            print(f"not measured without {' and '.join(absent)}: apt install wrk nginx-light")
        if "nginx" not in absent and "wrk" not in absent:
            print_control(product.folder, product.requests)
        print_idle(product)
        if "wrk" not in absent:
            machine.closed_loop(product.bundle.public_url, product.requests, 32, 3)
            # Until what was under way when it ended is recorded: it would be counted as the next run's.
            time.sleep(1)
        # Before the others: for a minute after them PostgreSQL writes and tidies up what they brought.
        print_rate(product, 500, 20)
        print("\nFrom the answer to the first list that has it (floor: p95 1 s; target: 0.3 s), polled every 0.04 s")
        for rate in (300, 500):
            print_visible(product, rate, 15)
        if "wrk" not in absent:
            print_closed(product)
            print_backlog(product)


if __name__ == "__main__":
    main()
