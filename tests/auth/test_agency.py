"""Which settings an agency may have, and which names and addresses people may type."""

import pytest

from services.auth import agency, text


@pytest.mark.parametrize("name", ["UTC", "America/New_York", "Europe/Berlin", "Asia/Kolkata"])
def test_a_zone_of_the_zone_database_is_taken(name: str) -> None:
    assert agency.time_zone(name) == name


@pytest.mark.parametrize(
    "name",
    ["", "Mars/Olympus", "america/new_york", "EST5EDT4", "../etc/passwd", "localtime", "Factory", "right/UTC", "\0",
     "+02:00"],
)  # fmt: skip
def test_another_zone_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="IANA"):
        agency.time_zone(name)


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        pytest.param("pay.court.gov", "pay.court.gov", id="plain"),
        pytest.param("Pay.Court.GOV", "pay.court.gov", id="capitals"),
        pytest.param("xn--mnchen-3ya.example", "xn--mnchen-3ya.example", id="encoded"),
        pytest.param("a-1.b2.example", "a-1.b2.example", id="digits and hyphens"),
    ],
)
def test_a_host_name_is_kept_in_lower_case(given: str, kept: str) -> None:
    assert agency.host(given) == kept


@pytest.mark.parametrize(
    "given",
    [
        pytest.param("https://pay.court.gov", id="A01-scheme"),
        pytest.param("pay.court.gov:443", id="A01-port"),
        pytest.param("pay.court.gov/", id="A01-path"),
        pytest.param("user@pay.court.gov", id="A01-user"),
        pytest.param("*.court.gov", id="A01-wildcard"),
        pytest.param("localhost", id="A01-one-label"),
        pytest.param("192.0.2.1", id="A01-address"),
        pytest.param("[2001:db8::1]", id="A01-address-6"),
        pytest.param("2130706433", id="A01-decimal-address"),
        pytest.param("court.gov.", id="A01-dot-at-the-end"),
        pytest.param("-a.example", id="A01-hyphen-first"),
        pytest.param("pay court.gov", id="A01-space"),
        pytest.param("pay.court.gov\n", id="A01-newline"),
        pytest.param("münchen.example", id="A01-unencoded"),
        pytest.param("a" * 64 + ".example", id="A01-long-label"),
        pytest.param(".".join(["abcdefgh"] * 30), id="A01-long"),
        pytest.param("", id="A01-empty"),
    ],
)
def test_what_is_no_host_name_is_refused(given: str) -> None:
    with pytest.raises(ValueError, match="host name"):
        agency.host(given)


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        pytest.param("10.20.0.0/16", "10.20.0.0/16", id="version 4"),
        pytest.param("192.0.2.7/32", "192.0.2.7/32", id="one address"),
        pytest.param("2001:0db8:0::/32", "2001:db8::/32", id="version 6"),
    ],
)
def test_a_network_is_kept_in_its_one_spelling(given: str, kept: str) -> None:
    assert agency.network(given) == kept


@pytest.mark.parametrize(
    ("given", "told"),
    [
        pytest.param("10.20.0.1/16", "host bits", id="host bits set"),
        pytest.param("10.20.0.0", "network like", id="no prefix"),
        pytest.param("10.20.0.0/33", "network like", id="prefix too long"),
        pytest.param("10.20.0.0/255.255.0.0x", "network like", id="no number"),
        pytest.param("fe80::%eth0/64", "network like", id="zone"),
        pytest.param("0.0.0.0/0", "whole Internet", id="everybody"),
        pytest.param("::/0", "whole Internet", id="everybody by version 6"),
        pytest.param("", "network like", id="empty"),
    ],
)
def test_a_network_with_another_meaning_is_refused(given: str, told: str) -> None:
    with pytest.raises(ValueError, match=told):
        agency.network(given)


def test_a_list_loses_repetitions_and_keeps_its_order() -> None:
    assert agency.each(["b.example", "a.example", "B.example"], agency.host) == ["b.example", "a.example"]


def test_a_wrong_entry_of_a_list_is_named() -> None:
    with pytest.raises(ValueError, match="entry 2 must be a host name"):
        agency.each(["a.example", "b"], agency.host)


def test_a_list_ends_at_two_hundred_entries() -> None:
    assert len(agency.each((f"h{n}.example" for n in range(200)), agency.host)) == 200
    with pytest.raises(ValueError, match="at most 200"):
        agency.each((f"h{n}.example" for n in range(201)), agency.host)


@pytest.mark.parametrize(
    "name",
    ["First Court", "<script>alert(1)</script>", "{{7*7}}", "法院 ⚖️", "Zoë", "\u202eevil", "x" * 200],
    ids=["plain", "A02-script", "A02-template", "A02-emoji", "A02-combining", "A02-bidi", "A02-longest"],
)
def test_a_display_name_is_kept_as_typed(name: str) -> None:
    assert text.display_name(name) == name


@pytest.mark.parametrize(
    "name",
    ["", "   ", "x" * 201, "a\0b", "a\nb", "\ud800"],
    ids=["A02-empty", "A02-spaces", "A02-long", "A02-nul", "A02-newline", "A02-surrogate"],
)
def test_an_unusable_display_name_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="must"):
        text.display_name(name)


@pytest.mark.parametrize(
    "address", ["dana@court.example", "o'brien+x@court.example", "Zoë@court.example", "a@localhost"]
)
def test_an_email_address_is_kept_as_typed(address: str) -> None:
    assert text.email(address) == address


@pytest.mark.parametrize(
    "address", ["", "dana", "@court.example", "dana@", "da na@court.example", "a@b@c", "a\0@b.example",
    "a" * 250 + "@b.example"]
)  # fmt: skip
def test_what_is_no_email_address_is_refused(address: str) -> None:
    with pytest.raises(ValueError, match="must"):
        text.email(address)


def test_email_addresses_are_equal_in_any_case_and_normal_form() -> None:
    assert text.email_key("ZOË@Court.Example") == text.email_key("zoe\u0308@court.example")
    assert text.email_key("zoe@court.example") != text.email_key("zoë@court.example")
