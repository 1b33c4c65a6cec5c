"""Reads a data file for the first time, in a process of its own: `probe.py FILE PURPOSE`.

A damaged file can do anything to the reader, which is written in C. Here it can only end this process. Prints why a
file cannot be used and exits with 1, or exits with 0. Imports nothing of the project: it is run by its path.
"""

import ipaddress
import itertools
import os
import random
import resource
import sys
from collections.abc import Iterator

import maxminddb

CPU_SECONDS = 20
MEMORY_BYTES = 1 << 30
# Enough to notice a file whose records are of another shape; a walk through all of it would take a minute.
RECORDS = 2_000
NEEDED = {
    "network": frozenset({"autonomous_system_number", "asn", "isp"}),
    "place": frozenset({"country", "country_code", "city", "registered_country"}),
}
KNOWN = (
    *(
        "8.8.8.8",
        "1.1.1.1",
        "9.9.9.9",
        "73.162.1.1",
        "24.5.6.7",
        "172.56.21.89",
        "108.35.1.1",
        "98.97.1.1",
        "52.95.110.1",
    ),
    *("40.107.1.1", "104.28.1.1", "151.101.1.1", "200.1.1.1", "81.2.69.142", "203.0.114.1", "133.1.1.1"),
    *("2601:600::1", "2607:fb90:1234::1", "2600:1700:1::1", "2001:4860:4860::8888"),
)


class Refused(Exception):
    """Says why a file cannot be used."""


def addresses(version: int) -> Iterator[str]:
    """Yields addresses all over the space that a file of this IP version can be asked about; the same every time."""
    for text in KNOWN:
        if version == 6 or ":" not in text:
            yield text
    numbers = random.Random(1)  # noqa: S311  (not a secret: the same addresses make a refusal repeatable)
    for _ in range(RECORDS):
        yield str(ipaddress.IPv4Address(numbers.getrandbits(32)))
        if version == 6:
            yield str(ipaddress.IPv6Address((0x2 << 124) | numbers.getrandbits(124)))


def check(path: str, purpose: str) -> None:
    """Raises Refused unless the file can be read and holds what its purpose needs."""
    with maxminddb.open_database(path, maxminddb.MODE_MMAP_EXT) as reader:
        metadata = reader.metadata()
        if metadata.ip_version not in (4, 6) or metadata.node_count < 1:
            raise Refused("its description makes no sense")
        asked = (reader.get(address) for address in addresses(metadata.ip_version))
        walked = (record for _, record in itertools.islice(reader, RECORDS))
        records = [record for record in itertools.chain(asked, walked) if record is not None]
    if not records:
        raise Refused("it has no records")
    if not any(isinstance(record, dict) and NEEDED[purpose] & set(record) for record in records):
        raise Refused(f"it is not a {purpose} file")


def main(path: str, purpose: str) -> int:
    """Checks one file within limits; returns the exit code."""
    resource.setrlimit(resource.RLIMIT_CPU, (CPU_SECONDS, CPU_SECONDS))
    most = os.path.getsize(path) + MEMORY_BYTES
    resource.setrlimit(resource.RLIMIT_AS, (most, most))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    try:
        check(path, purpose)
    except Refused as refusal:
        print(refusal)  # noqa: T201  (the answer of this program)
    except (maxminddb.InvalidDatabaseError, OSError, ValueError, MemoryError, OverflowError, RecursionError, TypeError):
        # The reader's own message names the file and may quote its bytes.
        print("it is damaged or not a MaxMind DB file")  # noqa: T201
    else:
        return 0
    return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2]))
