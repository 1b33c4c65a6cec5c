"""Networks and places: known networks, addresses that are none, files of every shape, files that are broken."""

import asyncio
import datetime
import gzip
import math
import os
import random
import shutil
import tempfile
import threading
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.enrichment import __main__ as enrichment
from services.enrichment import network
from services.enrichment.data_files import DataFolder, Lookup
from services.enrichment.network import Holder, NetworkList, Origin, Place
from services.enrichment.settings import Settings
from tests.enrichment import ip_data

TABLE = network.load_table()
NOW = datetime.datetime(2026, 11, 23, tzinfo=datetime.UTC)
LIMIT = 64 << 20


def data_folder(folder: Path | None, most_bytes: int = LIMIT) -> DataFolder:
    """Returns the folder as the service watches it."""
    return DataFolder(folder, most_bytes, TABLE)


async def opened(folder: Path | None) -> DataFolder:
    """Returns the folder after the first look."""
    watched = data_folder(folder)
    await watched.refresh(NOW)
    return watched


@pytest.fixture(scope="session")
def all_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Gives a folder with everything that the product gets by itself; tests copy it before they change it."""
    return ip_data.write_all(tmp_path_factory.mktemp("ip-data"))


@pytest.fixture(scope="session")
def lookup(all_data: Path) -> Lookup:
    """Gives the look-up in all of the data."""
    return asyncio.run(opened(all_data)).current


@pytest.fixture
def own_data(all_data: Path, tmp_path: Path) -> Path:
    """Gives a copy of the data that a test may break."""
    return Path(shutil.copytree(all_data, tmp_path / "ip-data"))


@pytest.mark.parametrize(
    ("address", "asn", "name", "kind"),
    [
        pytest.param("172.56.21.89", 21928, "T-Mobile USA", "mobile", id="T-Mobile"),
        pytest.param("2607:fb90:1234::1", 21928, "T-Mobile USA", "mobile", id="T-Mobile, IPv6"),
        pytest.param("174.192.1.1", 22394, "Verizon Wireless", "mobile", id="Verizon Wireless"),
        pytest.param("107.72.162.9", 20057, "AT&T Wireless", "mobile", id="AT&T Wireless"),
        pytest.param("73.162.1.1", 7922, "Comcast Xfinity", "home", id="Comcast"),
        pytest.param("2601:600::1", 7922, "Comcast Xfinity", "home", id="Comcast, IPv6"),
        pytest.param("2600:1700:1::1", 7018, "AT&T", "home", id="AT&T at home, IPv6"),
        pytest.param("108.35.1.1", 701, "Verizon Fios and Business", "home", id="Verizon Fios"),
        pytest.param("98.97.1.1", 14593, "Starlink", "home", id="Starlink"),
        pytest.param("3.90.1.1", 14618, "Amazon Web Services", "hosting", id="Amazon"),
        pytest.param("2600:1f18::1", 14618, "Amazon Web Services", "hosting", id="Amazon, IPv6"),
        pytest.param("40.107.1.1", 8075, "Microsoft", "hosting", id="Microsoft"),
        pytest.param("2a01:111:f400::1", 8075, "Microsoft", "hosting", id="Microsoft, IPv6"),
        pytest.param("8.8.8.8", 15169, "Google", "hosting", id="Google"),
        pytest.param("2001:4860:4860::8888", 15169, "Google", "hosting", id="Google, IPv6"),
        pytest.param("67.231.145.1", 26211, "Proofpoint", "mail_security", id="Proofpoint"),
        pytest.param("205.139.110.5", 30031, "Mimecast", "mail_security", id="Mimecast"),
        pytest.param("216.71.150.1", 16417, "Cisco Secure Email", "mail_security", id="Cisco"),
        pytest.param("104.28.1.1", 13335, "Cloudflare", "relay", id="Cloudflare"),
        pytest.param("200.1.1.1", 64512, "A network in no reviewed table", "", id="name from the data"),
        pytest.param("::ffff:8.8.8.8", 15169, "Google", "hosting", id="IPv4-mapped"),
        pytest.param("2002:0808:0808::1", 15169, "Google", "hosting", id="6to4"),
        pytest.param("64:ff9b::8.8.8.8", 15169, "Google", "hosting", id="NAT64"),
        pytest.param("2001:0:4136:e378:8000:63bf:f7f7:f7f7", 15169, "Google", "hosting", id="Teredo"),
    ],
)
def test_known_networks_have_the_names_people_know(
    lookup: Lookup, address: str, asn: int, name: str, kind: str
) -> None:
    found = lookup.origin_of(network.parse(address))
    assert (found.status, found.asn, found.network, found.network_kind) == ("found", asn, name, kind)


@pytest.mark.parametrize(
    "address",
    [
        pytest.param("192.168.1.1", id="private"),
        pytest.param("10.0.0.1", id="private 10"),
        pytest.param("fd00::1", id="private, IPv6"),
        pytest.param("127.0.0.1", id="loopback"),
        pytest.param("::1", id="loopback, IPv6"),
        pytest.param("100.64.0.1", id="carrier-grade NAT"),
        pytest.param("192.0.2.1", id="documentation"),
        pytest.param("2001:db8::1", id="documentation, IPv6"),
        pytest.param("224.0.0.1", id="multicast"),
        pytest.param("ff02::1", id="multicast, IPv6"),
        pytest.param("0.0.0.0", id="nowhere"),
        pytest.param("::", id="nowhere, IPv6"),
        pytest.param("255.255.255.255", id="broadcast"),
        pytest.param("240.0.0.1", id="reserved"),
        pytest.param("::ffff:10.0.0.1", id="private in IPv6 clothes"),
        pytest.param("2002:c0a8:0101::1", id="6to4 of a private address"),
        pytest.param("64:ff9b::10.0.0.1", id="NAT64 of a private address"),
        pytest.param("fe80::1%eth0", id="zone"),
        pytest.param("2601:600::1%1", id="zone on a public address"),
        pytest.param("010.0.0.1", id="leading zeros"),
        pytest.param("8.8.8.8:443", id="port"),
        pytest.param("", id="nothing"),
        pytest.param("unknown", id="word"),
        pytest.param("'; DROP TABLE opens; --", id="not an address"),
    ],
)
def test_an_address_that_is_not_public_is_never_looked_up(lookup: Lookup, address: str) -> None:
    assert lookup.origin_of(network.parse(address)) == Origin("not_public")


@pytest.mark.parametrize(
    ("address", "place"),
    [
        pytest.param("73.162.1.1", Place("US", "California", "San Jose"), id="IPv4"),
        pytest.param("2601:600::1", Place("US", "Washington", "Seattle"), id="IPv6"),
        pytest.param("200.1.1.1", Place("BR", "", ""), id="country only"),
        pytest.param("3.90.1.1", Place(), id="not in the data"),
    ],
)
def test_places_come_from_the_file_of_the_right_family(lookup: Lookup, address: str, place: Place) -> None:
    found = lookup.origin_of(network.parse(address))
    assert (found.status, found.place) == ("found", place)


async def test_each_result_names_its_data_sets_and_their_date(all_data: Path) -> None:
    watched = await opened(all_data)
    assert watched.current.origin_of(network.parse("73.162.1.1")).data_sets == (
        "ip-location-db asn 2026-05-28",
        "dbip-city 2026-05-28",
    )
    shown = {(state.purpose, state.title, state.problem) for state in watched.states}
    assert shown == {("network", "ip-location-db asn", ""), ("place", "dbip-city", "")}
    assert all("DB-IP" in state.credit for state in watched.states)
    assert watched.problem() == ""


@pytest.mark.parametrize(
    ("file", "database_type", "record", "origin"),
    [
        pytest.param(
            "GeoIP2-ISP.mmdb",
            "GeoIP2-ISP",
            {"isp": "Example ISP", "organization": "Example Org", **ip_data.asn_record(64500, "Example Holder")},
            ("Example ISP", Place()),
            id="MaxMind ISP, by geoip2",
        ),
        pytest.param(
            "GeoLite2-ASN.mmdb",
            "GeoLite2-ASN",
            ip_data.asn_record(64500, "Example Holder"),
            ("Example Holder", Place()),
            id="MaxMind ASN, by geoip2",
        ),
        pytest.param(
            "my-asn-file.mmdb",
            "something else",
            {"asn": "AS64500", "name": "Example Holder"},
            ("Example Holder", Place()),
            id="file of another maker",
        ),
        pytest.param(
            "GeoLite2-City.mmdb",
            "GeoLite2-City",
            {
                "city": {"names": {"en": "Boise", "de": "Boise (Stadt)"}},
                "country": {"iso_code": "US", "names": {"en": "United States"}},
                "subdivisions": [{"iso_code": "ID", "names": {"en": "Idaho"}}],
                "location": {"time_zone": "America/Boise"},
            },
            ("", Place("US", "Idaho", "Boise")),
            id="MaxMind City, by geoip2",
        ),
    ],
)
async def test_files_of_other_makers_are_understood(
    tmp_path: Path, file: str, database_type: str, record: dict[str, Any], origin: tuple[str, Place]
) -> None:
    ip_data.write(tmp_path / file, database_type, {"73.162.0.0/16": record})
    found = (await opened(tmp_path)).current.origin_of(network.parse("73.162.1.1"))
    assert (found.network, found.place) == origin


async def test_what_the_operator_bought_goes_before_what_came_by_itself(own_data: Path) -> None:
    records = {"73.162.0.0/16": {"isp": "Bought", **ip_data.asn_record(64500, "x")}}
    ip_data.write(own_data / "GeoIP2-ISP.mmdb", "GeoIP2-ISP", records)
    assert (await opened(own_data)).current.origin_of(network.parse("73.162.1.1")).network == "Bought"


# Missing and broken files.


@pytest.mark.parametrize("case", ["no setting", "no folder", "empty folder", "folder is a file"])
async def test_missing_data_are_told_and_harm_nothing(tmp_path: Path, case: str) -> None:
    """The service starts, opens go through."""
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("x")
    folders = {
        "no setting": None, "no folder": tmp_path / "none", "empty folder": tmp_path / "empty",
        "folder is a file": tmp_path / "file",
    }  # fmt: skip
    watched = await opened(folders[case])
    assert watched.current.origin_of(network.parse("73.162.1.1")) == Origin("unavailable")
    assert "no network data for IPv4" in watched.problem()
    assert {state.problem for state in watched.states} == {"no file for IPv4 addresses", "no file for IPv6 addresses"}


async def test_half_of_the_data_is_used_and_the_other_half_is_still_awaited(tmp_path: Path) -> None:
    ip_data.write_asn(tmp_path)
    found = (await opened(tmp_path)).current.origin_of(network.parse("73.162.1.1"))
    assert (found.status, found.network, found.place) == ("unavailable", "Comcast Xfinity", Place())


def _broken(case: str, good: bytes) -> bytes:
    numbers = random.Random(7)
    return {
        "0 bytes": b"",
        "text": b"this is a text file\n" * 100,
        "gzip of the right file": gzip.compress(good),
        "half of it": good[: len(good) // 2],
        "one byte short": good[:-1],
        "noise": numbers.randbytes(len(good)),
        "only the end": good[-200:],
    }[case]


@pytest.mark.parametrize(
    "case",
    [
        "0 bytes", "text", "gzip of the right file", "half of it", "one byte short", "noise",
        "only the end",
    ],
)  # fmt: skip
async def test_a_broken_file_is_refused_and_the_one_before_stays(own_data: Path, case: str) -> None:
    watched = await opened(own_data)
    path = own_data / "asn.mmdb"
    ip_data.replace(path, _broken(case, path.read_bytes()))
    await watched.refresh(NOW)
    assert watched.current.origin_of(network.parse("73.162.1.1")).network == "Comcast Xfinity"
    assert next(state.problem for state in watched.states if state.problem).startswith("asn.mmdb: ")
    # Without one before, it is as if it were not there.
    assert (await opened(own_data)).current.origin_of(network.parse("73.162.1.1")).status == "unavailable"


async def test_a_folder_or_dangling_link_in_the_place_of_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "asn.mmdb").mkdir()
    (tmp_path / "dbip-city-ipv4.mmdb").symlink_to(tmp_path / "nothing")
    problems = [state.problem for state in (await opened(tmp_path)).states]
    assert any(problem.startswith("asn.mmdb: it cannot be read") for problem in problems)
    assert any(problem.startswith("dbip-city-ipv4.mmdb: it cannot be read") for problem in problems)


async def test_a_file_that_may_not_be_read_is_refused() -> None:
    # Not below pytest's own folder, which is closed to the account that root becomes here.
    with tempfile.TemporaryDirectory(prefix="opennotice-tests-") as folder:
        Path(folder).chmod(0o755)
        path = ip_data.write_asn(Path(folder))
        path.chmod(0o000)
        watched = data_folder(Path(folder))
        root = os.geteuid() == 0
        if root:
            os.seteuid(65534)
        try:
            await watched.refresh(NOW)
        finally:
            if root:
                os.seteuid(0)
        assert watched.current.origin_of(network.parse("73.162.1.1")) == Origin("unavailable")
        assert "asn.mmdb: it cannot be read: Permission denied" in {state.problem for state in watched.states}
        # The next look finds it as it is now.
        path.chmod(0o644)
        await watched.refresh(NOW)
        assert watched.current.origin_of(network.parse("73.162.1.1")).network == "Comcast Xfinity"


async def test_flipped_bytes_never_end_the_service(own_data: Path) -> None:
    """A file that passes the first reading may still be wrong inside; then values are checked, or missing."""
    numbers = random.Random(3)
    good = (own_data / "asn.mmdb").read_bytes()
    watched = await opened(own_data)
    for _ in range(6):
        bad = bytearray(good)
        for _ in range(1000):
            bad[numbers.randrange(len(bad))] = numbers.randrange(256)
        ip_data.replace(own_data / "asn.mmdb", bytes(bad))
        await watched.refresh(NOW)
        assert watched.current.origin_of(network.parse("73.162.1.1")).network == "Comcast Xfinity"
    for _ in range(12):
        bad = bytearray(good)
        # Only where the records are, and only a few: these files pass.
        for _ in range(3):
            bad[numbers.randrange(len(bad) // 2, len(bad) - 300)] = numbers.randrange(256)
        ip_data.replace(own_data / "asn.mmdb", bytes(bad))
        await watched.refresh(NOW)
        for address in (*(str(net).split("/")[0] for net in ip_data.ASNS), "9.9.9.9"):
            found = watched.current.origin_of(network.parse(address))
            assert found.status in {"found", "unavailable", "not_public"}
            assert 0 <= found.asn < 2**32
            assert len(found.network) <= network.NAME_LIMIT


async def test_a_file_of_another_purpose_is_refused(tmp_path: Path) -> None:
    ip_data.write_cities(tmp_path)
    os.rename(tmp_path / "dbip-city-ipv4.mmdb", tmp_path / "asn.mmdb")
    ip_data.write_asn(tmp_path, "dbip-city-ipv4.mmdb")
    problems = {state.problem for state in (await opened(tmp_path)).states}
    assert {"asn.mmdb: it is not a network file", "dbip-city-ipv4.mmdb: it is not a place file"} <= problems


async def test_a_file_of_a_shape_that_nobody_knows_is_refused(tmp_path: Path) -> None:
    ip_data.write(tmp_path / "asn.mmdb", "weather", {"73.162.0.0/16": {"rain": 7, "wind": [1, 2]}})
    ip_data.write(tmp_path / "dbip-city-ipv4.mmdb", "weather", {"73.162.0.0/16": "rain"}, version=4)
    watched = await opened(tmp_path)
    problems = {state.problem for state in watched.states}
    assert {"asn.mmdb: it is not a network file", "dbip-city-ipv4.mmdb: it is not a place file"} <= problems
    assert watched.current.origin_of(network.parse("73.162.1.1")) == Origin("unavailable")


@pytest.mark.parametrize("others", [0, 3_000], ids=["seen at the first reading", "seen by the first visitor"])
async def test_text_in_a_file_that_is_no_utf_8_is_never_shown(tmp_path: Path, others: int) -> None:
    records = {f"11.{n >> 8}.{n & 255}.0/24": ip_data.asn_record(64500, "Fine") for n in range(others)}
    records["203.0.114.0/28" if not others else "223.1.1.0/28"] = ip_data.asn_record(64501, "Broken")
    path = ip_data.write(tmp_path / "asn.mmdb", "GeoLite2-ASN", records)
    path.write_bytes(path.read_bytes().replace(b"Broken", b"B\xff\xfe\xed\xa0n"))
    watched = await opened(tmp_path)
    found = watched.current.origin_of(network.parse("203.0.114.1" if not others else "223.1.1.1"))
    assert (found.status, found.asn, found.network) == ("unavailable", 0, "")
    if others:
        assert watched.current.origin_of(network.parse("11.1.1.1")).network == "Fine"


@pytest.mark.parametrize(
    ("record", "place"),
    [
        pytest.param({"city": {"names": {"de": "Rom"}}, "country": {"iso_code": "IT"}}, Place("IT"), id="no en names"),
        pytest.param({"country": {"names": {"en": "Italy"}}}, Place(), id="country without code"),
        pytest.param({"country": "IT", "city": "Rome"}, Place(), id="text where objects should be"),
        pytest.param({"country_code": 39, "state1": ["x"], "city": {}}, Place(), id="numbers and lists"),
        pytest.param({"country_code": "Italia", "city": "Rome"}, Place("", "", "Rome"), id="no such code"),
        pytest.param({"country_code": "it", "city": "R" * 1_000_000}, Place("IT", "", "R" * 200), id="long text"),
        pytest.param({"country_code": "IT", "city": "Ro\x00m\x1be\n"}, Place("IT", "", "Ro m e"), id="NUL, control"),
        pytest.param({"country_code": "IT", "city": "<b>Rome</b>"}, Place("IT", "", "<b>Rome</b>"), id="HTML is text"),
        pytest.param({"latitude": 999.0, "country": {"iso_code": "IT"}}, Place("IT"), id="latitude is not used"),
        pytest.param({"latitude": math.nan, "country": {"iso_code": "IT"}}, Place("IT"), id="not a number"),
        pytest.param({"subdivisions": [], "country": {"iso_code": "IT"}}, Place("IT"), id="empty list"),
    ],
)
@pytest.mark.parametrize("database_type", ["GeoLite2-City", "city ipv4"])
async def test_odd_records_give_empty_fields(
    tmp_path: Path, record: dict[str, Any], place: Place, database_type: str
) -> None:
    good = ip_data.city_record("US", "", "")
    records = {"73.162.0.0/16": record, "8.8.8.0/24": good}
    ip_data.write(tmp_path / "dbip-city-ipv4.mmdb", database_type, records)
    ip_data.write_asn(tmp_path)
    found = (await opened(tmp_path)).current.origin_of(network.parse("73.162.1.1"))
    assert found.place == place


@pytest.mark.parametrize(
    ("record", "holder"),
    [
        pytest.param(ip_data.asn_record(-5, "x"), Holder(0, "x"), id="negative"),
        pytest.param({"autonomous_system_number": 2**32, "isp": "x"}, Holder(0, "x"), id="too large"),
        pytest.param({"autonomous_system_number": "AS7922"}, Holder(7922), id="text"),
        pytest.param({"autonomous_system_number": "AS" + "9" * 5000}, Holder(), id="5,000 digits"),
        pytest.param({"autonomous_system_number": True}, Holder(), id="boolean"),
        pytest.param({"asn": 3.5, "isp": "", "name": "x"}, Holder(0, "x"), id="fraction"),
        pytest.param({}, Holder(), id="nothing"),
        pytest.param([1, 2], Holder(), id="list"),
        pytest.param(None, Holder(), id="no record"),
    ],
)
def test_odd_records_of_networks_give_empty_fields(record: object, holder: Holder) -> None:
    assert network.holder_of(record) == holder


_KEYS = st.sampled_from(
    ["city", "country", "country_code", "state1", "subdivisions", "names", "en", "iso_code", "asn", "isp",
     "autonomous_system_number", "autonomous_system_organization"]
) | st.text(max_size=5)  # fmt: skip
_ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=30) | st.binary(max_size=10),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_KEYS, inner, max_size=4),
    max_leaves=15,
)


@given(_ANYTHING)
def test_no_record_makes_it_fail(record: object) -> None:
    place, holder = network.place_of(record), network.holder_of(record)
    for text in (place.country, place.region, place.city, holder.organization):
        text.encode("utf-8")
        assert "\0" not in text


# A folder that changes.


async def test_a_file_that_is_overwritten_in_place_harms_no_look_up(own_data: Path) -> None:
    """Cutting a mapped file ends a process with SIGBUS, unless its copy is mapped."""
    watched = await opened(own_data)
    for path in own_data.iterdir():
        with path.open("r+b") as file:
            file.truncate(10)
    for address in ip_data.ASNS:
        watched.current.origin_of(network.parse(address.split("/")[0]))
    assert watched.current.origin_of(network.parse("73.162.1.1")).network == "Comcast Xfinity"


async def test_look_ups_while_files_are_replaced_find_the_old_or_the_new_and_nothing_between(tmp_path: Path) -> None:
    def put(name: str) -> None:
        records = {f"{first}.0.0.0/8": ip_data.asn_record(64500, name) for first in (11, 21, 31, 41)}
        # Half of the time as careful operators do, half of the time over the file that is in use.
        path = ip_data.write(tmp_path / "made", "GeoLite2-ASN", records)
        if name.endswith(("1", "3")):
            path.replace(tmp_path / "asn.mmdb")
        else:
            shutil.copyfile(path, tmp_path / "asn.mmdb")

    put("name 1")
    watched = await opened(tmp_path)
    asked = [address for address in map(network.parse, ("11.1.1.1", "21.1.1.1", "31.1.1.1", "41.1.1.1")) if address]
    over = threading.Event()

    def look() -> set[tuple[str, ...]]:
        found = set()
        while not over.is_set():
            lookup = watched.current
            found.add(tuple(lookup._origin_of(address).network for address in asked))
        return found

    looking = [asyncio.create_task(asyncio.to_thread(look)) for _ in range(2)]
    for number in (2, 3, 4):
        put(f"name {number}")
        await watched.refresh(NOW)
        assert watched.current.origin_of(asked[0]).network == f"name {number}"
    over.set()
    for task in looking:
        assert await task <= {(f"name {number}",) * 4 for number in (1, 2, 3, 4)}


async def test_a_swapped_link_is_noticed(own_data: Path, tmp_path: Path) -> None:
    """As mounted volumes are replaced."""
    (tmp_path / "newer").mkdir()
    records = {"73.162.0.0/16": ip_data.asn_record(64500, "Newer")}
    ip_data.write(tmp_path / "newer" / "asn.mmdb", "GeoLite2-ASN", records)
    link = tmp_path / "link"
    link.symlink_to(own_data)
    watched = await opened(link)
    before = watched.generation
    assert await watched.refresh(NOW) is False
    link.unlink()
    link.symlink_to(tmp_path / "newer")
    assert await watched.refresh(NOW) is True
    assert watched.current.origin_of(network.parse("73.162.1.1")).network == "Newer"
    assert watched.generation > before


async def test_data_that_are_taken_away_are_missing_and_come_back(own_data: Path) -> None:
    watched = await opened(own_data)
    content = (own_data / "asn.mmdb").read_bytes()
    (own_data / "asn.mmdb").unlink()
    await watched.refresh(NOW)
    assert watched.current.origin_of(network.parse("73.162.1.1")).status == "unavailable"
    ip_data.replace(own_data / "asn.mmdb", content)
    await watched.refresh(NOW)
    assert watched.current.origin_of(network.parse("73.162.1.1")).network == "Comcast Xfinity"


@pytest.mark.parametrize(
    ("built", "warned"),
    [
        pytest.param(NOW - datetime.timedelta(days=30), False, id="fresh"),
        pytest.param(NOW - datetime.timedelta(days=401), True, id="old"),
        pytest.param(NOW + datetime.timedelta(days=30), True, id="from the future"),
    ],
)
async def test_an_odd_date_is_used_shown_and_warned_of(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], built: datetime.datetime, warned: bool
) -> None:
    records = {"73.162.0.0/16": ip_data.asn_record(7922, "x")}
    ip_data.write(tmp_path / "asn.mmdb", "GeoLite2-ASN", records, built=int(built.timestamp()))
    watched = await opened(tmp_path)
    assert watched.states[0].build_time == built
    assert watched.current.origin_of(network.parse("73.162.1.1")).network == "Comcast Xfinity"
    said = capsys.readouterr()
    assert ("odd date" in said.out + said.err) is warned


async def test_a_file_that_is_too_large_is_refused(own_data: Path) -> None:
    watched = data_folder(own_data, most_bytes=100)
    await watched.refresh(NOW)
    assert "asn.mmdb: it is larger than OPENNOTICE_IP_DATA_MOST_MIB allows" in {s.problem for s in watched.states}


async def test_a_file_of_five_gigabytes_is_refused_without_being_read(tmp_path: Path) -> None:
    ip_data.write_asn(tmp_path)
    os.truncate(tmp_path / "asn.mmdb", 5 << 30)
    watched = data_folder(tmp_path, most_bytes=Settings.ip_data_most_mib << 20)
    await watched.refresh(NOW)
    assert "asn.mmdb: it is larger than OPENNOTICE_IP_DATA_MOST_MIB allows" in {s.problem for s in watched.states}


# Tables and lists.


def test_the_reviewed_table_has_a_source_for_each_number_and_no_number_twice() -> None:
    assert len(TABLE) >= 100
    assert {known.kind for known in TABLE.values()} == network.KINDS


@pytest.mark.parametrize(
    "text",
    [
        pytest.param('[sofa]\nsource = "x"\nchecked = 2026-01-01\nnetworks = []', id="unknown kind"),
        pytest.param("[home]\nchecked = 2026-01-01\nnetworks = []", id="no source"),
        pytest.param(
            '[home]\nsource = "x"\nchecked = 2026-01-01\nnetworks = [{asns = [1, 1], name = "x"}]', id="number twice"
        ),
    ],
)
def test_a_table_that_is_not_understood_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "networks.toml").write_text(text)
    with pytest.raises(network.TableFault):
        network.load_table(tmp_path / "networks.toml")


@pytest.mark.parametrize(
    ("address", "inside"),
    [
        pytest.param("10.1.2.3", True, id="in a network"),
        pytest.param("10.0.0.0", True, id="first"),
        pytest.param("10.255.255.255", True, id="last"),
        pytest.param("11.0.0.0", False, id="one after"),
        pytest.param("9.255.255.255", False, id="one before"),
        pytest.param("203.0.113.7", True, id="single address"),
        pytest.param("203.0.113.8", False, id="beside it"),
        pytest.param("2001:db8:1::5", True, id="IPv6"),
        pytest.param("2001:db8:2::5", False, id="other IPv6"),
    ],
)
def test_a_list_of_networks_knows_what_is_inside(address: str, inside: bool) -> None:
    listed = NetworkList(["10.0.0.0/8", "10.1.0.0/16", "203.0.113.7/32", "2001:db8:1::/48", "not a network"])
    parsed = network.parse(address)
    assert parsed is not None
    assert (parsed in listed) is inside
    assert bool(listed)
    assert not NetworkList([])


@pytest.mark.parametrize(
    ("made", "problem"),
    [
        pytest.param("nothing", "No such file or directory", id="missing"),
        pytest.param("file", "Not a directory", id="a file"),
        pytest.param("closed", "Permission denied", id="E13 not readable"),
    ],
)
def test_a_folder_that_cannot_be_read_is_told_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], made: str, problem: str
) -> None:
    folder = tmp_path / "data"
    if made == "file":
        folder.touch()
    elif made == "closed":
        folder.mkdir(mode=0)
    root = os.geteuid() == 0
    if root and made == "closed":
        os.seteuid(65534)
    try:
        enrichment.tell_of_folder(folder)
    finally:
        if root:
            os.seteuid(0)
    told = "".join(capsys.readouterr()).splitlines()
    assert len(told) == 1
    assert "OPENNOTICE_IP_DATA_DIR cannot be read" in told[0]
    assert problem in told[0]
