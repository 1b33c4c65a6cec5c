"""The rules about searching opens: what a filter means, and which filters are refused."""

import ipaddress
import re
import unicodedata
from dataclasses import dataclass
from datetime import datetime, timedelta
from uuid import UUID

from services.chassis.address import IPAddress, Network
from services.chassis.clock import LATEST, from_milliseconds
from services.chassis.errors import Faults
from services.chassis.names import millisecond_of, parse_name

TEXT_LIMIT = 200
# A summary has no pages; a longer range is a typing error more often than a wish.
LONGEST_SUMMARY = timedelta(days=366)
_AS_NUMBER = re.compile(r"as([0-9]{1,10})", re.IGNORECASE | re.ASCII)
_LARGEST_AS_NUMBER = 2**32 - 1
_MAPPED = ipaddress.IPv6Network("::ffff:0:0/96")


_LAST_MILLISECOND = int(LATEST.timestamp() * 1000) - 1


@dataclass(frozen=True, order=True)
class Key:
    """The place of an open among all opens; a newer one is greater."""

    opened_at: datetime
    open_id: UUID


def key_of(open_id: UUID) -> Key | None:
    """Returns the key of an open from its id, which holds its instant; None for an id that no open can have."""
    if open_id.version != 7 or millisecond_of(open_id) > _LAST_MILLISECOND:
        return None
    return Key(from_milliseconds(millisecond_of(open_id)), open_id)


@dataclass(frozen=True)
class AddressRange:
    """Addresses of one family from the lowest to the highest."""

    lowest: IPAddress
    highest: IPAddress


@dataclass(frozen=True)
class Filter:
    """Which opens are meant; every field that is set narrows."""

    client_id: UUID | None = None
    client_text: str = ""
    portal_id: UUID | None = None
    link_id: UUID | None = None
    message_id: UUID | None = None
    devices: tuple[int, ...] = ()
    kinds: tuple[int, ...] = ()
    link_states: tuple[int, ...] = ()
    verdicts: tuple[int, ...] = ()
    asn: int | None = None
    network_text: str = ""
    addresses: AddressRange | None = None
    start: datetime | None = None
    end: datetime | None = None
    # Set for callers who may only see the clients they are the officer of.
    officer: str | None = None


def fold(text: str) -> str:
    """Returns text as searches compare it: any case, any way of writing an accent."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFD", text).casefold())


def read_client(text: str, faults: Faults) -> tuple[UUID | None, str]:
    """Reads the client filter: the id of "clients/{uuid}", or words to look for."""
    if text.startswith("clients/"):
        return read_name("client", ("clients",), text, faults), ""
    return None, read_words("client", text, faults)


def read_network(text: str, faults: Faults) -> tuple[int | None, str]:
    """Reads the network filter: the number of "AS7922", or words to look for."""
    if match := _AS_NUMBER.fullmatch(text):
        number = int(match[1])
        if number > _LARGEST_AS_NUMBER:
            faults.add("filter.network", f"an AS number is at most {_LARGEST_AS_NUMBER}")
        return number, ""
    return None, read_words("network", text, faults)


def read_words(field: str, text: str, faults: Faults) -> str:
    """Reads words to look for literally; no character in them has a meaning of its own."""
    if len(text) > TEXT_LIMIT:
        faults.add(f"filter.{field}", f"must have at most {TEXT_LIMIT} characters")
    elif "\0" in text:
        faults.add(f"filter.{field}", "must not contain the character NUL")
    elif text and not text.strip():
        faults.add(f"filter.{field}", "must not be only spaces")
    return text


def read_name(field: str, collections: tuple[str, ...], text: str, faults: Faults) -> UUID | None:
    """Reads a resource name of one of the collections."""
    for collection in collections:
        if found := parse_name(collection, text):
            return found
    if text:
        shapes = " or ".join(f"{collection}/{{uuid}}" for collection in collections)
        faults.add(f"filter.{field}", f"must be {shapes}, in lower case")
    return None


def read_addresses(text: str, faults: Faults) -> AddressRange | None:
    """Reads an address ("192.0.2.7") or a range in CIDR form ("192.0.2.0/24")."""
    if not text:
        return None
    if len(text) > TEXT_LIMIT or not re.fullmatch(r"[0-9a-fA-F:.]+(/[0-9]{1,3})?", text, re.ASCII):
        faults.add("filter.ip", "must be an IP address or a range like 192.0.2.0/24 or 2001:db8::/32, without a zone")
        return None
    try:
        network = ipaddress.ip_network(text, strict=False)
        address = ipaddress.ip_address(text.partition("/")[0])
    except ValueError:
        faults.add("filter.ip", "must be an IP address or a range like 192.0.2.0/24 or 2001:db8::/32")
        return None
    if address != network.network_address:
        faults.add("filter.ip", f"{text} has bits set after its prefix; the range is {network}")
        return None
    network = _unmapped(network)
    return AddressRange(network.network_address, network.broadcast_address)


def _unmapped(network: Network) -> Network:
    # Addresses are stored as IPv4 where a server saw them mapped into IPv6, so a mapped range means the same.
    if not isinstance(network, ipaddress.IPv6Network) or not network.subnet_of(_MAPPED):
        return network
    lowest = int(network.network_address) - int(_MAPPED.network_address)
    return ipaddress.IPv4Network((lowest, network.prefixlen - _MAPPED.prefixlen))


def read_address(text: str) -> IPAddress | None:
    """Reads the address of a visitor as it is stored; None for none; raises ValueError for what is not an address."""
    if not text:
        return None
    if "%" in text:
        raise ValueError("an address with a zone")
    address = ipaddress.ip_address(text)
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return mapped or address


def check_range(start: datetime | None, end: datetime | None, faults: Faults) -> None:
    """Refuses a range that ends before it begins; an empty one is allowed and finds nothing."""
    if start is not None and end is not None and start > end:
        faults.add("filter.end_time", "must not be before start_time")


def check_summary_range(start: datetime | None, end: datetime | None, faults: Faults) -> None:
    """Refuses a range too long for an answer without pages."""
    if start is not None and end is not None and end - start > LONGEST_SUMMARY:
        faults.add("filter.end_time", f"must be within {LONGEST_SUMMARY.days} days of start_time for a summary")
