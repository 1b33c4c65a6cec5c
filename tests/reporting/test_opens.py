"""The rules about filters."""

from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.chassis.errors import Faults
from services.reporting.opens import (
    check_range,
    check_summary_range,
    fold,
    key_of,
    read_address,
    read_addresses,
    read_client,
    read_name,
    read_network,
)
from tests.reporting.sample import NOON, id_at

CLIENT = UUID("01890000-0000-7000-8000-0000000000c1")


@pytest.mark.parametrize(
    ("text", "lowest", "highest"),
    [
        pytest.param("203.0.113.7", "203.0.113.7", "203.0.113.7", id="an address"),
        pytest.param("203.0.113.0/24", "203.0.113.0", "203.0.113.255", id="a range"),
        pytest.param("0.0.0.0/0", "0.0.0.0", "255.255.255.255", id="everything"),
        pytest.param("2001:DB8::1", "2001:db8::1", "2001:db8::1", id="IPv6 in upper case"),
        pytest.param("2001:db8::/127", "2001:db8::", "2001:db8::1", id="an IPv6 range"),
        pytest.param("::ffff:203.0.113.7", "203.0.113.7", "203.0.113.7", id="IPv4 mapped into IPv6"),
        pytest.param("::ffff:203.0.113.0/120", "203.0.113.0", "203.0.113.255", id="a mapped range"),
    ],
)
def test_an_address_or_range_is_read_as_its_two_ends(text: str, lowest: str, highest: str) -> None:
    faults = Faults()
    found = read_addresses(text, faults)
    assert found is not None
    assert (str(found.lowest), str(found.highest), faults.fields) == (lowest, highest, [])


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("203.0.113.7/24", id="host bits set"),
        pytest.param("2001:db8::1/64", id="IPv6 host bits set"),
        pytest.param("203.0.113", id="three parts"),
        pytest.param("203.0.113.256", id="256"),
        pytest.param("203.0.113.0/33", id="prefix 33"),
        pytest.param("203.0.113.0/255.255.255.0", id="a mask"),
        pytest.param("203.0.113.0/", id="no prefix"),
        pytest.param("fe80::1%eth0", id="a zone"),
        pytest.param("203.0.113.7:443", id="a port"),
        pytest.param(" 203.0.113.7", id="a space"),
        pytest.param("1249763591", id="a number"),
        pytest.param("٢٠٣.0.113.7", id="other digits"),
        pytest.param("'; drop table reporting.opens; --", id="A03 SQL"),
        pytest.param("1" * 10_000, id="A03 10 KB"),
    ],
)
def test_what_is_no_address_is_one_fault_naming_the_field(text: str) -> None:
    faults = Faults()
    assert read_addresses(text, faults) is None
    assert [field for field, _ in faults.fields] == ["filter.ip"]


def test_the_fault_of_host_bits_says_which_range_was_meant() -> None:
    faults = Faults()
    read_addresses("203.0.113.7/24", faults)
    assert "203.0.113.0/24" in faults.fields[0][1]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        pytest.param("", (None, ""), id="nothing"),
        pytest.param(f"clients/{CLIENT}", (CLIENT, ""), id="a resource name"),
        pytest.param("100%_\\", (None, "100%_\\"), id="A03 percent, underscore, backslash"),
        pytest.param("👩🏽‍⚖️", (None, "👩🏽‍⚖️"), id="A03 emoji"),
    ],
)
def test_a_client_is_an_id_or_words(text: str, expected: tuple[UUID | None, str]) -> None:
    faults = Faults()
    assert read_client(text, faults) == expected
    assert faults.fields == []


@pytest.mark.parametrize(
    "text",
    [
        pytest.param(f"clients/{str(CLIENT).upper()}", id="A07 upper case"),
        pytest.param("clients/9223372036854775808", id="A07 2^63"),
        pytest.param("clients/-1", id="A07 negative"),
        pytest.param("clients/", id="no id"),
        pytest.param("x" * 201, id="A03 201 characters"),
        pytest.param("a\0b", id="NUL"),
        pytest.param("   ", id="A02 only spaces"),
    ],
)
def test_a_wrong_client_is_one_fault_naming_the_field(text: str) -> None:
    faults = Faults()
    read_client(text, faults)
    assert [field for field, _ in faults.fields] == ["filter.client"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        pytest.param("AS7922", (7922, ""), id="a number"),
        pytest.param("as0", (0, ""), id="lower case, zero"),
        pytest.param("AS 7922", (None, "AS 7922"), id="a space makes it words"),
        pytest.param("ASKEY", (None, "ASKEY"), id="words that begin with AS"),
        pytest.param("AS７９２２", (None, "AS７９２２"), id="other digits are words"),
    ],
)
def test_a_network_is_a_number_or_words(text: str, expected: tuple[int | None, str]) -> None:
    faults = Faults()
    assert read_network(text, faults) == expected
    assert faults.fields == []


def test_an_as_number_above_32_bits_is_a_fault() -> None:
    faults = Faults()
    read_network("AS4294967296", faults)
    assert [field for field, _ in faults.fields] == ["filter.network"]


def test_a_link_may_be_a_redirect_and_nothing_else() -> None:
    faults = Faults()
    assert read_name("link", ("links", "redirects"), f"redirects/{CLIENT}", faults) == CLIENT
    assert read_name("link", ("links", "redirects"), f"portals/{CLIENT}", faults) is None
    assert [field for field, _ in faults.fields] == ["filter.link"]


def test_a_range_that_ends_before_it_begins_is_a_fault_and_an_empty_one_is_not() -> None:
    faults = Faults()
    check_range(NOON, NOON, faults)
    check_range(NOON, None, faults)
    assert faults.fields == []
    check_range(NOON, NOON - timedelta(milliseconds=1), faults)
    assert [field for field, _ in faults.fields] == ["filter.end_time"]


def test_a_summary_of_more_than_366_days_is_a_fault() -> None:
    faults = Faults()
    check_summary_range(NOON, NOON + timedelta(days=366), faults)
    check_summary_range(None, NOON, faults)
    assert faults.fields == []
    check_summary_range(NOON, NOON + timedelta(days=366, seconds=1), faults)
    assert [field for field, _ in faults.fields] == ["filter.end_time"]


@pytest.mark.parametrize(
    ("one", "other"),
    [
        pytest.param("GARCÍA", "garcía", id="case of letters with accents"),
        pytest.param("garci\u0301a", "garcía", id="an accent written on its own"),
        pytest.param("STRASSE", "straße", id="sharp s"),
        pytest.param("ΣΊΣΥΦΟΣ", "σίσυφος", id="final sigma"),
    ],
)
def test_names_are_compared_in_any_case_and_any_way_of_writing(one: str, other: str) -> None:
    assert fold(one) == fold(other)


@given(st.text(max_size=30))
def test_folding_again_changes_nothing(text: str) -> None:
    assert fold(fold(text)) == fold(text)


def test_the_key_of_an_open_is_read_from_its_id() -> None:
    key = key_of(id_at(NOON, 5))
    assert key is not None
    assert key.opened_at == NOON


@pytest.mark.parametrize(
    "open_id",
    [
        pytest.param(UUID("01890000-0000-4000-8000-0000000000c1"), id="version 4"),
        pytest.param(UUID(int=(2**48 - 1 << 80) | (7 << 76) | (2 << 62)), id="the year 10889"),
        pytest.param(UUID(int=0), id="zero"),
    ],
)
def test_an_id_that_no_open_can_have_has_no_key(open_id: UUID) -> None:
    assert key_of(open_id) is None


@given(st.datetimes(datetime(1970, 1, 2), datetime(8999, 1, 1), timezones=st.just(UTC)))  # noqa: DTZ001
def test_every_instant_that_is_kept_survives_the_way_through_an_id(moment: datetime) -> None:
    moment = moment.replace(microsecond=moment.microsecond // 1000 * 1000)
    key = key_of(id_at(moment))
    assert key is not None
    assert key.opened_at == moment


@pytest.mark.parametrize("text", ["DROP TABLE", "203.0.113.7:80", "fe80::1%eth0", "\0"], ids=repr)
def test_text_that_is_no_address_never_reaches_the_database(text: str) -> None:
    with pytest.raises(ValueError):
        read_address(text)


def test_an_address_mapped_into_ipv6_is_stored_as_ipv4() -> None:
    assert str(read_address("::ffff:203.0.113.7")) == "203.0.113.7"
    assert read_address("") is None
