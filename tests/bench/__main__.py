"""Measures everything, one after the other: `make bench`. Takes about seven minutes and wants the machine to itself."""

import asyncio
import tempfile
import time
from pathlib import Path

from tests.bench import directory, enrichment, machine, opens, reporting


def main() -> None:
    """Measures and prints."""
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="opennotice-bench-") as folder:
        print(f"Measured {time.strftime('%Y-%m-%d')} on {machine.described(Path(folder))}")
    opens.main()
    print("\nEnrichment, one core")
    enrichment.main(40_000)
    print("\nA look-up in the copy of the directory, nearly none in memory")
    directory.main()
    print("\nThe report, 100,000 opens")
    asyncio.run(reporting.main(100_000, ""))
    print(f"\nTook {(time.monotonic() - began) / 60:.0f} minutes")


if __name__ == "__main__":
    main()
