"""Resource names ("clients/{uuid}") and the ids inside them."""

import re
import time
from uuid import UUID

import uuid_utils

_UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}", re.ASCII)


# The twelve bits of a UUIDv7 behind its version.
_WITHIN = 0xFFF << 64


def new_id() -> UUID:
    """Makes a UUIDv7: unique, and in order of time, which is the machine's own also after its clock was set back."""
    # Named, because the library's own time never goes back: opens would bear a later one until the clock has caught up.
    now = time.time_ns()
    made = uuid_utils.uuid7(nanoseconds=now).int
    # The 4,096th of the millisecond, as RFC 9562 allows: else ids of one millisecond would be in no order.
    return UUID(int=made & ~_WITHIN | now % 1_000_000 * 4096 // 1_000_000 << 64)


def millisecond_of(uuid7: UUID) -> int:
    """Returns the millisecond since 1970 that a UUIDv7 was made in."""
    return uuid7.int >> 80


def format_name(collection: str, identifier: UUID | None) -> str:
    """Returns "collection/{uuid}", or nothing for no id."""
    return f"{collection}/{identifier}" if identifier else ""


def parse_uuid(text: str) -> UUID | None:
    """Reads a UUID in its one canonical spelling; None for anything else."""
    return UUID(text) if _UUID.fullmatch(text) else None


def parse_name(collection: str, name: str) -> UUID | None:
    """Reads the id out of "collection/{uuid}"; None for anything else.

    A name in another spelling is treated as unknown rather than repaired: two spellings of one thing would be two
    entries in every log and cache.
    """
    head, _, tail = name.partition("/")
    return parse_uuid(tail) if head == collection else None
