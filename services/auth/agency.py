"""Rules about agencies: which settings they may have."""

import ipaddress
import re
import zoneinfo
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

LIST_LIMIT = 200
DEFAULT_TIME_ZONE = "UTC"
_LABEL = r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?"
_HOST = re.compile(rf"(?:{_LABEL}\.)+{_LABEL}")
# Names in the zone database that name no place's time: the machine's own zone, and files kept for other programs.
_NO_ZONES = ("localtime", "Factory", "posixrules")


@dataclass(frozen=True)
class Agency:
    """An agency and its settings."""

    agency_id: UUID
    display_name: str
    time_zone: str
    allowed_hosts: list[str]
    staff_networks: list[str]
    create_time: datetime
    revision: int


def time_zone(value: str) -> str:
    """Returns an IANA name; raises ValueError for any other."""
    known = zoneinfo.available_timezones()
    if value not in known or value in _NO_ZONES or value.startswith(("posix/", "right/")):
        raise ValueError("must be an IANA time zone like America/New_York")
    return value


def host(value: str) -> str:
    """Returns a host name in lower case; raises ValueError for an address, a URL or anything else."""
    name = value.lower()
    # A last label of digits would make a browser read the name as an IPv4 address.
    if len(name) > 253 or not _HOST.fullmatch(name) or name.rpartition(".")[2].isdigit():
        raise ValueError("must be a host name like pay.court.gov, without scheme, port or path")
    return name


def network(value: str) -> str:
    """Returns a network in CIDR form; raises ValueError when host bits are set or it is the whole Internet."""
    try:
        if "/" not in value or "%" in value:
            raise ValueError
        found = ipaddress.ip_network(value, strict=True)
    except ValueError:
        raise ValueError("must be a network like 10.20.0.0/16, without host bits") from None
    if found.prefixlen == 0:
        # Every visitor would be staff, and no open would count any more.
        raise ValueError("must not be the whole Internet")
    return str(found)


def each(values: Iterable[str], check: Callable[[str], str]) -> list[str]:
    """Checks every entry of a list and returns it without repetitions; the first wrong entry is named."""
    found: dict[str, None] = {}
    for number, value in enumerate(values, start=1):
        try:
            found[check(value)] = None
        except ValueError as fault:
            raise ValueError(f"entry {number} {fault}") from None
        if number > LIST_LIMIT:
            raise ValueError(f"must have at most {LIST_LIMIT} entries")
    return list(found)
