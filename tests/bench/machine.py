"""The machine and its tools: what processes use, read from /proc, and the programs that make load."""

import json
import os
import platform
import shutil
import signal
import statistics
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil

from bundle.program import free_port

_VISITS = Path(__file__).with_name("visits.lua")
_TICKS = os.sysconf("SC_CLK_TCK")


def tree(pid: int) -> list[int]:
    """Returns a process and everything below it."""
    return [pid, *(child.pid for child in psutil.Process(pid).children(recursive=True))]


def cpu_seconds(pid: int) -> float:
    """Returns user and system time of a process and all below it, ended children included."""
    total = 0
    for each in tree(pid):
        try:
            fields = Path(f"/proc/{each}/stat").read_text().rsplit(")", 1)[1].split()
        except OSError:  # ended meanwhile; its parent has its time
            continue
        total += sum(map(int, fields[11:15]))
    return total / _TICKS


def memory_mib(pid: int) -> float:
    """Returns the memory of a process and all below it; what several share counts once (proportional set size)."""
    total = 0
    for each in tree(pid):
        try:
            lines = Path(f"/proc/{each}/smaps_rollup").read_text().splitlines()
        except OSError:
            continue
        total += next((int(line.split()[1]) for line in lines if line.startswith("Pss:")), 0)
    return total / 1024


def described(folder: Path) -> str:
    """Returns what figures depend on: processor, memory, kernel, and how long the disk takes to keep something."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    model = next((line.split(":", 1)[1].strip() for line in lines if "model name" in line), platform.machine())
    memory = psutil.virtual_memory().total / 1024**3
    return (
        f"{os.cpu_count()} x {model}, {memory:.0f} GiB, Linux {platform.release()}, "
        f"Python {platform.python_version()}; a synced write of 8 KiB takes {_sync_microseconds(folder):.0f} us"
    )


def _sync_microseconds(folder: Path) -> float:
    path = folder / "sync"
    spent = []
    with path.open("wb", buffering=0) as file:
        for _ in range(200):
            began = time.perf_counter()
            file.write(bytes(8192))
            os.fdatasync(file.fileno())
            spent.append(time.perf_counter() - began)
    path.unlink()
    return statistics.median(spent) * 1e6


def missing() -> list[str]:
    """Returns which tools are not installed."""
    return [name for name in ("wrk", "nginx") if shutil.which(name) is None]


@dataclass(frozen=True)
class Load:
    """What wrk saw."""

    seconds: float
    requests: int
    p50_ms: float
    p99_ms: float
    max_ms: float
    # Answers that were neither 2xx nor 3xx, and requests that got none.
    failed: int

    @property
    def rate(self) -> float:
        """Answers a second."""
        return self.requests / self.seconds


def closed_loop(url: str, requests: Path, connections: int, seconds: float) -> Load:
    """Asks over some connections that stay open, each for the next thing as soon as it has its answer."""
    argv = ["wrk", "-t1", f"-c{connections}", f"-d{seconds:.0f}", "--timeout", "10", "-s", str(_VISITS), url, "--"]
    done = subprocess.run([*argv, str(requests)], capture_output=True, text=True, check=True)
    return Load(**json.loads(done.stdout.strip().splitlines()[-1]))


@contextmanager
def started(argv: Sequence[str], **arguments: object) -> Iterator[int]:
    """Runs a program and ends it afterwards; gives its process id."""
    process = subprocess.Popen(argv, **arguments)  # type: ignore[call-overload]
    try:
        yield process.pid
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(20)


@contextmanager
def control(folder: Path) -> Iterator[tuple[str, int]]:
    """Runs nginx that answers everything with a redirect and writes nothing; gives its URL and process id."""
    port = free_port()
    (folder / "nginx.conf").write_text(
        f"worker_processes 1; pid {folder}/nginx.pid; error_log {folder}/nginx.log; daemon off;\n"
        "events { worker_connections 1024; }\n"
        f"http {{ access_log off; keepalive_requests 10000000; server {{ listen 127.0.0.1:{port};"
        " location / { return 302 https://court.example.gov/; } } }\n"
    )
    argv = ["nginx", "-e", f"{folder}/nginx.log", "-p", str(folder), "-c", f"{folder}/nginx.conf"]
    with started(argv) as pid:
        time.sleep(0.5)
        yield f"http://127.0.0.1:{port}", pid
