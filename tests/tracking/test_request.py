"""What a request target, a Host, a chain of proxies and a header text are taken for."""

import hashlib
import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.tracking.request import (
    AddressRule,
    HostRule,
    MissThrottle,
    Wanted,
    explaining,
    read_target,
    storable,
    throttle_key,
)

TOKEN = "7HqX-_a0Zz19bcdEFGhiJQ"
HASH = hashlib.sha256(TOKEN.encode()).digest()


@pytest.mark.parametrize(
    ("target", "page", "repaired"),
    [
        pytest.param(f"/{TOKEN}", None, False, id="plain"),
        pytest.param(f"/{TOKEN}?utm=1", None, False, id="query"),
        pytest.param(f"/{TOKEN}#part", None, False, id="fragment"),
        pytest.param(f"/{TOKEN}/", None, True, id="slash-at-the-end"),
        pytest.param(f"/{TOKEN}/payment", "payment", False, id="page"),
        pytest.param(f"/{TOKEN}/Payment", "payment", False, id="page-in-capitals"),
        pytest.param(f"/{TOKEN}/payment.", "payment", True, id="page-with-dot"),
        pytest.param(f"/{TOKEN}/..%2f..", "", False, id="page-that-cannot-be"),
        *(
            pytest.param(f"/{TOKEN}{mark}", None, True, id=f"{mark}")
            for mark in (".", ",", ")", ">", '"', "'", ";", ":", "!", "]", "%20", "%E2%80%8B", "%C2%AD", "%2E", "%22")
        ),
        pytest.param("/%37HqX-_a0Zz19bcdEFGhiJQ", None, False, id="encoded-once"),
    ],
)
def test_a_token_is_found_in_what_mail_and_phones_make_of_it(target: str, page: str | None, repaired: bool) -> None:
    found = read_target(target.encode())
    assert found.wanted is Wanted.LINK
    assert found.token_hash == HASH
    assert (found.page, found.repaired) == (page, repaired)


@pytest.mark.parametrize(
    "target",
    [
        pytest.param(b"/", id="empty"),
        pytest.param(b"/7", id="1-character"),
        pytest.param(b"/" + TOKEN[:21].encode(), id="21-characters"),
        pytest.param(b"/" + TOKEN.encode() + b"A", id="23-characters"),
        pytest.param(b"/" + b"A" * 500, id="500-characters"),
        pytest.param(b"/" + b"A" * 8000, id="8000-characters"),
        pytest.param(b"/" + TOKEN.encode() + b").", id="two-marks"),
        pytest.param(b"/." + TOKEN.encode(), id="mark-in-front"),
        pytest.param(b"/%2537HqX-_a0Zz19bcdEFGhiJQ", id="encoded-twice"),
        pytest.param(b"/../etc/passwd", id="dots"),
        pytest.param(b"/..%2fetc", id="encoded-dots"),
        pytest.param(b"/" + TOKEN[:21].encode() + b"%00", id="nul"),
        pytest.param(b"/\\" + TOKEN[:21].encode(), id="backslash"),
        pytest.param(b"//evil.example", id="double-slash"),
        pytest.param(b"//" + TOKEN.encode(), id="double-slash-token"),
        pytest.param(b"/" + TOKEN.encode() + b";jsessionid=1", id="jsessionid"),
        pytest.param("/７HqX-_a0Zz19bcdEFGhiJQ".encode(), id="full-width-digit"),
        pytest.param("/АHqX-_a0Zz19bcdEFGhiJQ".encode(), id="cyrillic"),
        pytest.param("/\u202eHqX-_a0Zz19bcdEFGhiJQ".encode(), id="right-to-left"),
        pytest.param(b"/%ff%fe" + TOKEN[:20].encode(), id="invalid-utf-8"),
        pytest.param(b"/\xff\xfe" + TOKEN[:20].encode(), id="raw-bytes"),
        pytest.param(b"/r/" + TOKEN.encode() + b"/x", id="redirect-with-page"),
        pytest.param(b"/" + TOKEN.encode() + b"/a/b", id="too-deep"),
        pytest.param(b"*", id="star"),
        pytest.param(b"", id="nothing"),
    ],
)
def test_what_is_no_token_names_nothing(target: bytes) -> None:
    assert read_target(target).wanted is Wanted.NOTHING


@given(st.binary(max_size=300))
def test_no_target_breaks_the_reading(target: bytes) -> None:
    found = read_target(b"/" + target)
    assert (found.wanted in (Wanted.LINK, Wanted.REDIRECT)) == (len(found.token_hash) == 32)


def test_redirects_and_pixels_have_places_of_their_own() -> None:
    assert read_target(b"/r/" + TOKEN.encode()).wanted is Wanted.REDIRECT
    assert read_target(b"/p/" + TOKEN.encode() + b".gif").wanted is Wanted.PIXEL
    assert read_target(b"/robots.txt").wanted is Wanted.ROBOTS


@pytest.mark.parametrize(
    ("hosts", "absolute", "refusal"),
    [
        pytest.param([b"l.court.example"], None, 0, id="ours"),
        pytest.param([b"L.Court.EXAMPLE."], None, 0, id="ours-in-capitals"),
        pytest.param([b"l.court.example:8443"], None, 0, id="ours-with-port"),
        pytest.param([b"l.court.example"], b"l.court.example", 0, id="ours-twice"),
        pytest.param([], None, 400, id="none"),
        pytest.param([b"l.court.example", b"l.court.example"], None, 400, id="two"),
        pytest.param([b"evil.example"], None, 421, id="other"),
        pytest.param([b"127.0.0.1"], None, 421, id="loopback-when-we-are-public"),
        pytest.param([b"a@l.court.example"], None, 400, id="user"),
        pytest.param([b"l.court.example/x"], None, 400, id="path"),
        pytest.param([b"l.court.example\xe9"], None, 400, id="latin-1"),
        pytest.param([b""], None, 400, id="empty"),
        pytest.param([b"l.court.example"], b"evil.example", 421, id="absolute-form"),
        pytest.param([b"l.court.example"], b"x@evil.example", 400, id="absolute-form-with-user"),
    ],
)
def test_only_our_host_is_answered(hosts: list[bytes], absolute: bytes | None, refusal: int) -> None:
    assert HostRule("https://l.court.example").refuse(hosts, absolute) == refusal


@pytest.mark.parametrize("host", [b"localhost:8080", b"127.0.0.1:8080", b"[::1]:8080", b"127.0.0.1"])
def test_loopback_names_are_answered_when_we_are_loopback(host: bytes) -> None:
    assert HostRule("http://127.0.0.1:8080").refuse([host]) == 0
    assert HostRule("http://127.0.0.1:8080").refuse([b"evil.example"]) == 421


PROXIES = (ipaddress.ip_network("10.0.0.0/8"), ipaddress.ip_network("2001:db8::/32"))


@pytest.mark.parametrize(
    ("peer", "forwarded", "address"),
    [
        pytest.param("203.0.113.7", ["198.51.100.1"], "203.0.113.7", id="peer-not-trusted"),
        pytest.param("10.0.0.1", ["198.51.100.1"], "198.51.100.1", id="one-hop"),
        pytest.param("10.0.0.1", ["1.1.1.1, 198.51.100.1, 10.2.2.2"], "198.51.100.1", id="two-hops"),
        pytest.param("10.0.0.1", ["1.1.1.1", "198.51.100.1"], "198.51.100.1", id="two-headers"),
        pytest.param("10.0.0.1", [", ".join(["9.9.9.9"] * 1000)], "9.9.9.9", id="1000-entries"),
        pytest.param("10.0.0.1", ["198.51.100.1, unknown"], "10.0.0.1", id="unknown-ends-the-walk"),
        pytest.param("10.0.0.1", ["198.51.100.1, 010.0.0.1"], "10.0.0.1", id="leading-zeros"),
        pytest.param("10.0.0.1", ["198.51.100.1, "], "10.0.0.1", id="empty-entry"),
        pytest.param("10.0.0.1", [""], "10.0.0.1", id="empty"),
        pytest.param("10.0.0.1", ["::ffff:198.51.100.1"], "198.51.100.1", id="ipv4-mapped"),
        pytest.param("::ffff:10.0.0.1", ["198.51.100.1"], "198.51.100.1", id="ipv4-mapped-peer"),
        pytest.param("10.0.0.1", ["2001:db9::1"], "2001:db9::1", id="ipv6"),
        pytest.param("10.0.0.1", ["10.0.0.3, 10.0.0.2"], "10.0.0.3", id="only-proxies"),
        pytest.param("fe80::1%eth0", [], "fe80::1", id="zone"),
        pytest.param("10.0.0.1", [], "10.0.0.1", id="no-header"),
    ],
)
def test_nobody_chooses_their_own_address(peer: str, forwarded: list[str], address: str) -> None:
    headers = [(b"x-real-ip", b"6.6.6.6"), *((b"x-forwarded-for", value.encode()) for value in forwarded)]
    assert AddressRule(PROXIES).visitor(peer, headers) == address


def test_misses_are_counted_by_address_and_never_for_this_machine_or_a_proxy() -> None:
    rule = AddressRule(PROXIES)
    assert [rule.exempt_from_throttle(each) for each in ("127.0.0.9", "::1", "10.9.9.9", "")] == [True] * 4
    assert not rule.exempt_from_throttle("203.0.113.7")
    assert throttle_key("2001:db9:0:1:aaaa::1") == throttle_key("2001:db9:0:1:bbbb::2")
    assert throttle_key("2001:db9:0:1::1") != throttle_key("2001:db9:0:2::1")


def test_the_61st_miss_of_a_minute_is_too_many_and_the_next_minute_begins_anew() -> None:
    throttle = MissThrottle()
    assert [throttle.count("203.0.113.7", 5.0) for _ in range(61)] == [False] * 60 + [True]
    assert throttle.is_over("203.0.113.7", 10.0)
    assert not throttle.count("198.51.100.9", 10.0)
    assert not throttle.count("203.0.113.7", 65.0)


def test_the_memory_of_misses_is_bounded() -> None:
    throttle = MissThrottle(remembered=100)
    for number in range(1000):
        throttle.count(str(number), 0.0)
    assert len(throttle._counts) == 100


@pytest.mark.parametrize(
    ("value", "text"),
    [
        pytest.param(b"", "", id="empty"),
        pytest.param(b"a\0b", "a\ufffdb", id="nul"),
        pytest.param(b"Caf\xe9", "Café", id="latin-1"),
        pytest.param("😀".encode(), "😀", id="emoji"),
        pytest.param(b"\xed\xa0\x80", "\xed\xa0\x80", id="lone-surrogate"),
        pytest.param(b"\x01\x1b[31m", "\x01\x1b[31m", id="control-characters"),
        pytest.param(b"x" * 65536, "x" * 2048, id="64-KiB"),
    ],
)
def test_text_is_made_storable(value: bytes, text: str) -> None:
    assert storable(value, 2048) == text


@given(st.binary(max_size=200))
def test_every_text_is_storable(value: bytes) -> None:
    text = storable(value, 50)
    assert len(text) <= 50
    assert "\0" not in text
    text.encode()


def test_headers_that_explain_are_kept_and_secrets_are_not() -> None:
    headers = [
        (b"sec-purpose", b"prefetch"),
        (b"cookie", b"session=1"),
        (b"authorization", b"Bearer x"),
        (b"x-moz", b"prefetch"),
    ]
    assert explaining(headers) == [("sec-purpose", "prefetch"), ("x-moz", "prefetch")]


def test_headers_that_explain_end_at_8_kib() -> None:
    kept = explaining([(b"sec-x", b"y" * 3000)] * 50)
    assert all(len(value) == 1000 for _, value in kept)
    assert sum(len(name) + len(value) for name, value in kept) <= 8192
    assert len(kept) == 8
