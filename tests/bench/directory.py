"""Measures a look-up in the copy of the directory that tracking keeps, with 1 and 10 million links.

Tokens are asked for at random over all links, so that nearly none is in memory: the worst case. The file is written as
tracking lays it out, but in the order of its keys, since only reading is measured.
"""

import asyncio
import os
import random
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import uvloop

from services.tracking.directory import Directory
from services.tracking.store.directory import open_directory
from tests.bench.machine import memory_mib
from tests.chaos.ledger import percentile

_SIZES = (1_000_000, 10_000_000)
_LOOK_UPS = 20_000
_COLD_LOOK_UPS = 2_000


def key(number: int, links: int) -> bytes:
    """Returns the token hash of a link; they lie evenly over all hashes."""
    return (number * (2**64 // links)).to_bytes(8, "big") + number.to_bytes(24, "big")


def rows(links: int) -> Iterator[tuple[object, ...]]:
    """Yields links in the order of their keys."""
    portal = bytes(16)
    for number in range(links):
        own = number.to_bytes(16, "big")
        yield key(number, links), number + 1, own, portal, "", own, own, None, 0


def write(folder: Path, links: int) -> int:
    """Writes the copy; returns its size in bytes, all of it on disk and none of it in memory."""
    path = folder / "directory.sqlite"
    conn = open_directory(path)
    conn.execute("begin")
    conn.executemany("insert into links values (?, ?, ?, ?, ?, ?, ?, ?, ?)", rows(links))
    conn.execute("commit")
    conn.execute("pragma wal_checkpoint(truncate)")
    conn.close()
    with path.open("rb") as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    return path.stat().st_size


async def look_up(directory: Directory, wanted: list[bytes], at_once: int) -> tuple[list[float], float, float]:
    """Looks all of them up, some at a time; returns milliseconds of each, seconds, and CPU seconds of it."""
    waited: list[float] = []
    source = iter(wanted)

    async def visitor() -> None:
        for each in source:
            began = time.perf_counter()
            assert await directory.find(each) is not None
            waited.append((time.perf_counter() - began) * 1000)

    began, used = time.perf_counter(), time.process_time()
    await asyncio.gather(*(visitor() for _ in range(at_once)))
    return waited, time.perf_counter() - began, time.process_time() - used


async def measure(folder: Path, links: int) -> None:
    """Measures one size and prints."""
    size, chance, before = write(folder, links), random.Random(5), memory_mib(os.getpid())
    directory = Directory(folder)
    await directory.open()
    print(f"\n{links:,} links, {size / 1024**2:,.0f} MiB on disk")
    for name, count, at_once in (
        ("first, from the disk", _COLD_LOOK_UPS, 1),
        ("one at a time", _LOOK_UPS, 1),
        ("32 at once", _LOOK_UPS, 32),
    ):
        wanted = [key(chance.randrange(links), links) for _ in range(count)]
        waited, seconds, used = await look_up(directory, wanted, at_once)
        print(
            f"{name:22} p50 {percentile(waited, 0.5):.3f} ms, p99 {percentile(waited, 0.99):.3f} ms,"
            f" {count / seconds:>7,.0f} a second, {used / count * 1e6:.0f} us CPU each"
        )
    began = time.perf_counter()
    for _ in range(20):
        for each in wanted[-5_000:]:
            directory.known(each)
    print(f"{'in memory':22} {(time.perf_counter() - began) / 100_000 * 1e6:.2f} us")
    print(f"{'memory taken':22} {memory_mib(os.getpid()) - before:.0f} MiB", flush=True)
    await directory.close()


def main() -> None:
    """Measures and prints."""
    for links in _SIZES:
        with tempfile.TemporaryDirectory(prefix="opennotice-bench-") as folder:
            uvloop.run(measure(Path(folder), links))


if __name__ == "__main__":
    main()
