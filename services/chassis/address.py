"""Whose address a request came from: the socket's, unless a proxy that we trust says otherwise."""

import ipaddress
from collections.abc import Iterable, Sequence
from functools import lru_cache

Network = ipaddress.IPv4Network | ipaddress.IPv6Network
IPAddress = ipaddress.IPv4Address | ipaddress.IPv6Address


def parse_address(text: str) -> IPAddress | None:
    """Reads an address as sockets and proxies write it, with or without port, brackets or zone; None for all else."""
    text = text.strip()
    if text.startswith("["):
        text = text[1:].partition("]")[0]
    elif text.count(":") == 1:
        text = text.partition(":")[0]
    try:
        found = ipaddress.ip_address(text.partition("%")[0])
    except ValueError:
        return None
    # A dual-stack socket shows IPv4 visitors as ::ffff:1.2.3.4; both spellings are one address.
    return getattr(found, "ipv4_mapped", None) or found


# The other ends of our sockets are few: mostly the proxy.
_parse_peer = lru_cache(maxsize=1024)(parse_address)


def trusts(networks: Sequence[Network], address: IPAddress) -> bool:
    """Whether an address belongs to a trusted proxy."""
    return any(address.version == network.version and address in network for network in networks)


def client_address(peer: str, forwarded_for: Iterable[str], trusted: Sequence[Network]) -> str:
    """Returns the address that counts, as text; empty when even the socket's cannot be read.

    `forwarded_for` holds the values of every X-Forwarded-For header in order. They are read from the right, because
    only what our own proxies appended can be believed: the first address that is no trusted proxy is the visitor. Text
    that is no address ends the walk, for whoever wrote it could have written the rest as well.
    """
    found = _parse_peer(peer)
    if found is None:
        return ""
    hops = [hop for value in forwarded_for for hop in value.split(",")]
    while hops and trusts(trusted, found):
        hop = parse_address(hops.pop())
        if hop is None:
            break
        found = hop
    return str(found)
