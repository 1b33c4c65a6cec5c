"""The file of networks: what the lists say about an address is what a reader finds."""

import ipaddress
from datetime import UTC, datetime
from pathlib import Path

import geoip2.database
import maxminddb
import pytest

from bundle.asn_file import build_asn_file

PUBLISHED = datetime(2026, 6, 17, tzinfo=UTC)


def number_of(text: str) -> int:
    return int(ipaddress.ip_address(text))


def write_lists(folder: Path, ipv4: list[tuple[str, str, int, str]], ipv6: list[tuple[str, str, int, str]]) -> None:
    for name, rows in (("asn-ipv4-num.csv", ipv4), ("asn-ipv6-num.csv", ipv6)):
        lines = [f'{number_of(first)},{number_of(last)},{asn},"{holder}"' for first, last, asn, holder in rows]
        (folder / name).write_text("\n".join(lines) + "\n")


IPV4 = [
    ("1.0.0.0", "1.0.0.255", 13335, "Cloudflare, Inc."),
    ("1.0.4.0", "1.0.7.255", 38803, "Gtelecom Pty Ltd"),
    # No network of its own size: 10.1.2.3 to 10.9.8.7 is made of many.
    ("10.1.2.3", "10.9.8.7", 64500, "Odd Range"),
    ("10.9.8.8", "10.9.8.8", 64501, "One Address"),
    ("255.255.255.255", "255.255.255.255", 64502, "The Last"),
]
IPV6 = [
    ("2001:200::", "2001:200:1b9:ffff:ffff:ffff:ffff:ffff", 2500, "WIDE Project"),
    ("2606:4700::", "2606:4700:ffff:ffff:ffff:ffff:ffff:ffff", 13335, "Cloudflare, Inc."),
]


@pytest.fixture
def built(tmp_path: Path) -> maxminddb.Reader:
    write_lists(tmp_path, IPV4, IPV6)
    assert build_asn_file(tmp_path, tmp_path / "asn.mmdb", PUBLISHED) == len(IPV4) + len(IPV6)
    return maxminddb.open_database(tmp_path / "asn.mmdb")


@pytest.mark.parametrize(("first", "last", "asn", "holder"), [*IPV4, *IPV6])
def test_a_range_is_found_from_its_first_to_its_last_address(
    built: maxminddb.Reader, first: str, last: str, asn: int, holder: str
) -> None:
    start, end = ipaddress.ip_address(first), ipaddress.ip_address(last)
    middle = type(start)((int(start) + int(end)) // 2)
    for address in (start, middle, end):
        assert built.get(str(address)) == {"autonomous_system_number": asn, "autonomous_system_organization": holder}


@pytest.mark.parametrize("address", ["0.255.255.255", "1.0.1.0", "1.0.8.0", "10.1.2.2", "10.9.8.9", "2001:200:1ba::"])
def test_addresses_between_ranges_belong_to_nobody(built: maxminddb.Reader, address: str) -> None:
    assert built.get(address) is None


def test_the_file_is_as_old_as_its_data(built: maxminddb.Reader) -> None:
    assert built.metadata().build_epoch == int(PUBLISHED.timestamp())


def test_the_reader_of_maxmind_takes_it(built: maxminddb.Reader, tmp_path: Path) -> None:
    with geoip2.database.Reader(tmp_path / "asn.mmdb") as reader:
        assert reader.asn("1.0.0.7").autonomous_system_number == 13335


def test_where_ranges_overlap_the_first_keeps_its_part(tmp_path: Path) -> None:
    rows = [("10.0.0.0", "10.0.0.9", 1, "First"), ("10.0.0.8", "10.0.0.15", 2, "Second")]
    write_lists(tmp_path, rows, [])
    (tmp_path / "asn-ipv6-num.csv").write_text("")
    build_asn_file(tmp_path, tmp_path / "asn.mmdb", PUBLISHED)
    reader = maxminddb.open_database(tmp_path / "asn.mmdb")
    found = [reader.get(f"10.0.0.{last}") for last in (7, 8, 9, 10, 15)]
    assert [entry["autonomous_system_number"] for entry in found if isinstance(entry, dict)] == [1, 1, 1, 2, 2]


def test_ranges_out_of_order_are_refused(tmp_path: Path) -> None:
    write_lists(tmp_path, [IPV4[1], IPV4[0]], IPV6)
    with pytest.raises(ValueError, match="not in order"):
        build_asn_file(tmp_path, tmp_path / "asn.mmdb", PUBLISHED)
