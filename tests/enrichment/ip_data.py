"""Small files of IP data as their makers shape them, with networks that exist."""

import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mmdb_writer import MMDBWriter
from netaddr import IPSet

# Number and holder of each network as in @ip-location-db/asn of June 2026; the last one is made up.
ASNS = {
    "172.56.0.0/16": (21928, "T-Mobile USA, Inc."),
    "2607:fb90::/32": (21928, "T-Mobile USA, Inc."),
    "174.192.0.0/16": (22394, "Verizon Business"),
    "107.72.162.0/23": (20057, "AT&T Enterprises, LLC"),
    "73.162.0.0/16": (7922, "Comcast Cable Communications, LLC"),
    "2601:600::/32": (7922, "Comcast Cable Communications, LLC"),
    "2600:1700::/28": (7018, "AT&T Enterprises, LLC"),
    "108.35.0.0/16": (701, "Verizon Business"),
    "98.97.0.0/16": (14593, "Space Exploration Technologies Corporation"),
    "3.80.0.0/12": (14618, "Amazon.com, Inc."),
    "2600:1f18::/33": (14618, "Amazon.com, Inc."),
    "40.107.0.0/16": (8075, "Microsoft Corporation"),
    "2a01:111:f400::/48": (8075, "Microsoft Corporation"),
    "8.8.8.0/24": (15169, "Google LLC"),
    "2001:4860::/32": (15169, "Google LLC"),
    "67.231.144.0/20": (26211, "Proofpoint, Inc."),
    "205.139.110.0/23": (30031, "Mimecast North America Inc"),
    "216.71.144.0/20": (16417, "Cisco Systems Ironport Division"),
    "104.28.0.0/16": (13335, "Cloudflare, Inc."),
    "200.1.0.0/16": (64512, "A network in no reviewed table"),
}
CITIES_V4 = {
    "73.162.0.0/16": ("US", "California", "San Jose"),
    "172.56.0.0/16": ("US", "Texas", "Houston"),
    "104.28.0.0/16": ("CA", "Ontario", "Toronto"),
    "200.1.0.0/16": ("BR", "", ""),
}
CITIES_V6 = {
    "2601:600::/32": ("US", "Washington", "Seattle"),
    "2001:4860::/32": ("CA", "Quebec", "Montreal"),
}
BUILT = 1_780_000_000  # 28 May 2026


def write(path: Path, database_type: str, records: Mapping[str, Any], *, version: int = 6, built: int = BUILT) -> Path:
    """Writes a file of any shape."""
    writer = MMDBWriter(version, database_type, ipv4_compatible=version == 6, int_type="u32")
    for network, record in records.items():
        writer.insert_network(IPSet([network]), record)
    real, time.time = time.time, lambda: built
    try:
        writer.to_db_file(str(path))
    finally:
        time.time = real
    return path


def asn_record(number: int, organization: str) -> dict[str, Any]:
    """A record of GeoLite2 ASN's shape."""
    return {"autonomous_system_number": number, "autonomous_system_organization": organization}


def city_record(country: str, region: str, city: str) -> dict[str, Any]:
    """A record of DB-IP's flat shape, as the npm package has it."""
    return {
        "country_code": country, "state1": region, "state2": "", "city": city, "postcode": "", "timezone": "",
        "latitude": 1.0, "longitude": 2.0,
    }  # fmt: skip


def write_asn(folder: Path, name: str = "asn.mmdb", database_type: str = "ip-location-db-GeoLite2-ASN") -> Path:
    """Writes the file of networks."""
    return write(folder / name, database_type, {net: asn_record(*row) for net, row in ASNS.items()})


def write_cities(folder: Path) -> None:
    """Writes the two files of places, one for each version of IP."""
    rows = {net: city_record(*row) for net, row in CITIES_V4.items()}
    write(folder / "dbip-city-ipv4.mmdb", "city ipv4", rows, version=4)
    write(folder / "dbip-city-ipv6.mmdb", "city ipv6", {net: city_record(*row) for net, row in CITIES_V6.items()})


def write_all(folder: Path) -> Path:
    """Writes everything that the product gets by itself."""
    write_asn(folder)
    write_cities(folder)
    return folder


def replace(path: Path, content: bytes) -> None:
    """Puts a file in the place of another, as careful operators do."""
    beside = path.with_suffix(".new")
    beside.write_bytes(content)
    os.replace(beside, path)
