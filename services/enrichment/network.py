"""What an address tells: network, organization and approximate place, from the records of data files."""

import ipaddress
import re
import tomllib
from bisect import bisect_right
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

TABLE_FILE = Path(__file__).with_name("rules") / "networks.toml"
KINDS = frozenset({"mobile", "home", "hosting", "relay", "mail_security"})
NAME_LIMIT = 200
_HIGHEST_ASN = 2**32 - 1
_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]+")
_COUNTRY = re.compile(r"[A-Z]{2}", re.ASCII)

IPAddress = ipaddress.IPv4Address | ipaddress.IPv6Address
IPNetwork = ipaddress.IPv4Network | ipaddress.IPv6Network
Status = Literal["found", "not_public", "unavailable"]


@dataclass(frozen=True)
class Holder:
    """Who holds a network, as a data file says. 0 and empty text: not in the data."""

    asn: int = 0
    organization: str = ""


@dataclass(frozen=True)
class Place:
    """Where a network is used, approximately. Empty text: not in the data."""

    country: str = ""
    region: str = ""
    city: str = ""


@dataclass(frozen=True)
class Origin:
    """All that is found out about an address, and from which data."""

    status: Status
    asn: int = 0
    network: str = ""
    network_kind: str = ""
    place: Place = Place()
    data_sets: tuple[str, ...] = ()


def parse(text: str) -> IPAddress | None:
    """Reads an address strictly; IPv4 in IPv6 clothes is IPv4. None for anything else."""
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return None
    if address.version == 6:
        # A zone means something only on the machine that wrote it.
        return None if address.scope_id else address.ipv4_mapped or address
    return address


def public_address(address: IPAddress | None) -> IPAddress | None:
    """Returns the address to look up; None for one that is not on the Internet.

    Data files answer for private addresses too, with nonsense. 6to4, Teredo and NAT64 addresses carry the visitor's
    IPv4 address inside, and only that one is in the data.
    """
    if address is None:
        return None
    if address.version == 6:
        inside = address.sixtofour or (address.teredo or (None, None))[1]
        if inside is None and address in _NAT64:
            inside = ipaddress.IPv4Address(int(address) & 0xFFFF_FFFF)
        address = inside or address
    ordinary = address.is_global and not address.is_multicast and not address.is_reserved
    return address if ordinary else None


def clean(value: object, limit: int = NAME_LIMIT) -> str:
    """Returns text from a data file fit to store and show; nothing for what is no text."""
    if not isinstance(value, str):
        return ""
    return _CONTROL.sub(" ", value[: limit * 2]).strip()[:limit]


def holder_of(record: object) -> Holder:
    """Reads a record of a network file, whichever of the usual shapes it has."""
    if not isinstance(record, Mapping):
        return Holder()
    number = record.get("autonomous_system_number", record.get("asn"))
    names = ("isp", "autonomous_system_organization", "organization", "as_organization", "name")
    if isinstance(number, str) and number.isascii() and number.removeprefix("AS").isdigit():
        number = int(number.removeprefix("AS")[:11])
    return holder(number, next((record[name] for name in names if clean(record.get(name))), ""))


def holder(number: object, organization: object) -> Holder:
    """Builds a holder from values that nobody has checked yet."""
    known = isinstance(number, int) and not isinstance(number, bool) and 0 < number <= _HIGHEST_ASN
    return Holder(number if known and isinstance(number, int) else 0, clean(organization))


def place_of(record: object) -> Place:
    """Reads a record of a place file: flat as DB-IP's own, or nested as MaxMind's."""
    if not isinstance(record, Mapping):
        return Place()
    if "country_code" in record or "state1" in record:
        return place(record.get("country_code"), record.get("state1"), record.get("city"))
    country, city, parts = record.get("country"), record.get("city"), record.get("subdivisions")
    first = parts[0] if isinstance(parts, list) and parts else None
    code = country.get("iso_code") if isinstance(country, Mapping) else None
    return place(code, _english(first), _english(city))


def place(country: object, region: object, city: object) -> Place:
    """Builds a place from values that nobody has checked yet."""
    code = clean(country).upper()
    return Place(code if _COUNTRY.fullmatch(code) else "", clean(region), clean(city))


def _english(thing: object) -> object:
    names = thing.get("names") if isinstance(thing, Mapping) else None
    return names.get("en") if isinstance(names, Mapping) else None


@dataclass(frozen=True)
class KnownNetwork:
    """A row of the reviewed table."""

    name: str
    kind: str


class TableFault(Exception):
    """The reviewed table cannot be used; the service must not start with it."""


def load_table(path: Path = TABLE_FILE) -> dict[int, KnownNetwork]:
    """Reads the reviewed table of networks by number, strictly."""
    table: dict[int, KnownNetwork] = {}
    for kind, group in tomllib.loads(path.read_text(encoding="utf-8")).items():
        if kind not in KINDS or set(group) != {"source", "checked", "networks"} or not group["source"]:
            raise TableFault(f"the group {kind!r} needs a known kind, a source, a date and networks")
        for row in group["networks"]:
            for asn in row["asns"]:
                if asn in table or not 0 < asn <= _HIGHEST_ASN:
                    raise TableFault(f"the number {asn} stands twice or is none")
                table[asn] = KnownNetwork(clean(row["name"]), kind)
    return table


def origin(
    found: Holder, there: Place, table: Mapping[int, KnownNetwork], status: Status, sets: Iterable[str]
) -> Origin:
    """Puts together what the files say and what the reviewed table knows better."""
    known = table.get(found.asn, KnownNetwork(found.organization, ""))
    return Origin(status, found.asn, known.name, known.kind, there, tuple(dict.fromkeys(sets)))


class NetworkList:
    """Networks of one agency, quick to ask however many there are."""

    def __init__(self, networks: Iterable[str]) -> None:
        """Takes CIDR text; what is none is left out, for it was checked where it was entered."""
        parsed = [network for text in networks if (network := _network(text)) is not None]
        self._ranges: dict[int, tuple[list[int], list[int]]] = {}
        for version in (4, 6):
            merged = sorted(ipaddress.collapse_addresses(n for n in parsed if n.version == version))  # type: ignore[type-var]
            self._ranges[version] = (
                [int(network.network_address) for network in merged],
                [int(network.broadcast_address) for network in merged],
            )

    def __bool__(self) -> bool:
        return any(first for first, _ in self._ranges.values())

    def __contains__(self, address: IPAddress) -> bool:
        first, last = self._ranges[address.version]
        index = bisect_right(first, int(address)) - 1
        return index >= 0 and int(address) <= last[index]


def _network(text: str) -> IPNetwork | None:
    try:
        return ipaddress.ip_network(text, strict=False)
    except ValueError:
        return None
