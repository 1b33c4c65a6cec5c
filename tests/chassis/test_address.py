"""Whose address counts."""

from ipaddress import ip_network

import pytest

from services.chassis.address import client_address, parse_address

PROXIES = (ip_network("10.0.0.0/8"), ip_network("fd00::/8"))


@pytest.mark.parametrize(
    ("peer", "forwarded_for", "counts"),
    [
        pytest.param("203.0.113.7", [], "203.0.113.7", id="no-proxy"),
        pytest.param("203.0.113.7", ["198.51.100.1"], "203.0.113.7", id="a-strangers-header-means-nothing"),
        pytest.param("10.0.0.1", ["198.51.100.1"], "198.51.100.1", id="one-proxy"),
        pytest.param("10.0.0.1", ["1.2.3.4, 198.51.100.1"], "198.51.100.1", id="forged-in-front"),
        pytest.param("10.0.0.1", ["198.51.100.1, 10.0.0.2"], "198.51.100.1", id="two-proxies"),
        pytest.param("10.0.0.1", ["1.2.3.4", "198.51.100.1"], "198.51.100.1", id="two-headers"),
        pytest.param("10.0.0.1", [], "10.0.0.1", id="proxy-says-nothing"),
        pytest.param("10.0.0.1", ["10.0.0.3, 10.0.0.2"], "10.0.0.3", id="only-proxies"),
        pytest.param("10.0.0.1", ["198.51.100.1, unknown"], "10.0.0.1", id="unreadable-at-the-right"),
        pytest.param("10.0.0.1", ["198.51.100.1, , 10.0.0.2"], "10.0.0.2", id="empty-in-between"),
        pytest.param("10.0.0.1", ["[2001:db8::1]:443"], "2001:db8::1", id="six-with-port"),
        pytest.param("10.0.0.1", ["198.51.100.1:1234"], "198.51.100.1", id="four-with-port"),
        pytest.param("::ffff:10.0.0.1", ["198.51.100.1"], "198.51.100.1", id="mapped-proxy"),
        pytest.param("fd00::1%eth0", ["198.51.100.1"], "198.51.100.1", id="proxy-with-zone"),
        pytest.param("", ["198.51.100.1"], "", id="no-peer"),
    ],
)
def test_the_first_address_from_the_right_that_is_no_trusted_proxy_counts(
    peer: str, forwarded_for: list[str], counts: str
) -> None:
    assert client_address(peer, forwarded_for, PROXIES) == counts


def test_without_trusted_proxies_only_the_socket_counts() -> None:
    assert client_address("127.0.0.1", ["198.51.100.1"], ()) == "127.0.0.1"


@pytest.mark.parametrize("text", ["unknown", "_hidden", "1.2.3", "1.2.3.4.5", "::g", "[", "localhost", "1.2.3.4/8"])
def test_what_is_no_address_is_none(text: str) -> None:
    assert parse_address(text) is None
