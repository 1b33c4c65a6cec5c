"""Measures the answer that matters: GET /{token}, recorded on disk before it is given.

Starts a bundle of its own, makes an external portal with links, and asks for them over 1 and then 32 connections that
are kept open. The load comes from the same machine and takes its share of it. Run: python -m tests.bench.opens
"""

import asyncio
import os
import platform
import statistics
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

from tests.fix_bundle import Bundle, make_bundle
from tests.product import IPHONE

LINKS = 200
SECONDS = 8.0
CONNECTIONS = (1, 32)


@dataclass
class Measured:
    """What one run saw."""

    seconds: float
    times: list[float] = field(default_factory=list)
    unrecorded: int = 0
    failed: int = 0

    def line(self, connections: int) -> str:
        """Returns the run as a line of a table."""
        times = sorted(self.times)
        p50, p99 = statistics.median(times), times[int(len(times) * 0.99)]
        return (
            f"{connections:>11} {len(times) / self.seconds:>9.0f} {p50 * 1000:>8.1f} {p99 * 1000:>8.1f} "
            f"{times[-1] * 1000:>8.1f} {self.unrecorded:>11} {self.failed:>7}"
        )


async def visitor(host: str, port: int, tokens: list[str], end: float, measured: Measured) -> None:
    """Asks for one link after the other over one connection."""
    reader, writer = await asyncio.open_connection(host, port)
    turn = 0
    while time.perf_counter() < end:
        token = tokens[turn % len(tokens)]
        turn += 1
        started = time.perf_counter()
        writer.write(f"GET /{token} HTTP/1.1\r\nHost: {host}:{port}\r\nUser-Agent: {IPHONE}\r\n\r\n".encode())
        head = await reader.readuntil(b"\r\n\r\n")
        headers = dict(line.lower().split(b": ", 1) for line in head.split(b"\r\n")[1:] if b": " in line)
        await reader.readexactly(int(headers.get(b"content-length", b"0")))
        measured.times.append(time.perf_counter() - started)
        measured.failed += not head.startswith(b"HTTP/1.1 302")
        measured.unrecorded += b"x-open-id" not in headers
    writer.close()


async def load(host: str, port: int, tokens: list[str], connections: int) -> Measured:
    """Runs visitors side by side for a while."""
    measured = Measured(SECONDS)
    end = time.perf_counter() + SECONDS
    share = [tokens[number::connections] or tokens for number in range(connections)]
    await asyncio.gather(*(visitor(host, port, part, end, measured) for part in share))
    return measured


def tokens_of(bundle: Bundle) -> list[str]:
    """Makes a portal and links; returns their tokens."""
    with bundle.api(bundle.new_key()) as api:
        body = {"display_name": "Bench", "kind": "external", "target_uri": "https://court.example.gov/"}
        portal = api.post("/portals", json=body).raise_for_status().json()["name"]
        made = [api.post("/links", json={"portal": portal}).raise_for_status().json() for _ in range(LINKS)]
    return [link["url"].rsplit("/", 1)[1] for link in made]


def main() -> None:
    """Measures and prints; compares nothing and fails nothing."""
    with tempfile.TemporaryDirectory(prefix="opennotice-bench-") as name:
        Path(name).chmod(0o711)
        (Path(name) / "no-ip-data").mkdir()
        bundle = make_bundle(Path(name), OPENNOTICE_IP_DATA_DIR=str(Path(name) / "no-ip-data"))
        bundle.start()
        try:
            host, port = bundle.environment["OPENNOTICE_PUBLIC_BIND"].split(":")
            tokens = tokens_of(bundle)
            print(f"GET /{{token}}, {SECONDS:.0f} s each, {os.cpu_count()} cores, Python {platform.python_version()}")
            print("connections   opens/s   p50 ms   p99 ms   max ms  unrecorded  failed")
            for connections in CONNECTIONS:
                measured = asyncio.run(load(host, int(port), tokens, connections))
                print(measured.line(connections), flush=True)
        finally:
            bundle.stop()


if __name__ == "__main__":
    main()
