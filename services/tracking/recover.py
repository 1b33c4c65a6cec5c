"""Puts opens on record whose last copy is in the log: python -m services.tracking.recover <LOG

Run by an operator in tracking's container, after PostgreSQL and the disk had both failed (docs/operations.md). May run
again: what is on record already stays as it is.
"""

import asyncio
import base64
import binascii
import json
import sys
from collections.abc import Iterable, Iterator

from services.chassis.settings import load_or_exit
from services.tracking.recorder import LAST_COPY, PACK_SUBJECT, PACK_TYPE, open_of, pack_of
from services.tracking.settings import Settings
from services.tracking.store.opens import RawOpen
from services.tracking.writer import Away, Refused, Writer

_INSERT_SECONDS = 10.0


def opens_in(lines: Iterable[str], faults: list[str]) -> Iterator[RawOpen]:
    """Yields the opens that a log holds, whatever stands before each line; says what cannot be read."""
    for number, line in enumerate(lines, 1):
        if LAST_COPY not in line:
            continue
        try:
            entry = json.loads(line[line.index("{") :])
            yield open_of(base64.b64decode(entry["record"], validate=True))
        except (ValueError, KeyError, TypeError, binascii.Error) as error:
            faults.append(f"line {number} holds an open that cannot be read: {type(error).__name__}")


async def recover(lines: Iterable[str], database_url: str) -> tuple[int, list[str]]:
    """Returns how many opens are on record now, and what went wrong."""
    writer = Writer(database_url, PACK_SUBJECT, PACK_TYPE)
    faults: list[str] = []
    done = 0
    try:
        for raw in opens_in(lines, faults):
            try:
                # One by one, so that a bad one takes no other along.
                await writer.insert([raw], *pack_of([raw]), limit_seconds=_INSERT_SECONDS)
            except Refused as error:
                faults.append(f"open {raw.open_id}: {error}")
            except Away as error:
                faults.append(f"PostgreSQL does not take opens ({error}); run this again when it does")
                break
            else:
                done += 1
    finally:
        await writer.close()
    return done, faults


def main() -> int:
    """Reads a log on standard input; returns the exit code."""
    settings = load_or_exit(Settings)
    done, faults = asyncio.run(recover(sys.stdin, settings.ingest_database_url))
    for fault in faults:
        sys.stderr.write(f"{fault}\n")
    sys.stdout.write(f"{done} opens of this log are on record\n")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
