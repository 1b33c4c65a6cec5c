"""What a visitor asked for, from where, and what of it is kept. Pure: bytes in, values out."""

import hashlib
import ipaddress
import re
from collections.abc import Iterable, Sequence
from enum import Enum
from functools import lru_cache
from typing import NamedTuple
from urllib.parse import unquote_to_bytes, urlsplit

from services.chassis.address import Network, client_address, parse_address, trusts

Headers = Sequence[tuple[bytes, bytes]]

_TOKEN = re.compile(r"[A-Za-z0-9_-]{22}", re.ASCII)
_SLUG = re.compile(r"[a-z0-9-]{1,60}", re.ASCII)
# Host names, IPv4, or IPv6 in brackets, and a port. No user part, no path, no control characters.
_HOST = re.compile(rb"(?:\[([0-9a-fA-F:.]{2,45})\]|([A-Za-z0-9_.-]{1,253}))(?::[0-9]{1,5})?")
# What mail and text message programs glue to the end of an address: punctuation, spaces, invisible characters.
_TRAILING_MARKS = frozenset(".,;:!?)]}>\"'*|\u00a0 \u00ad\u00bb\u2019\u201d\u2026\u200b\u200c\u200d\u2060\ufeff")
_LOOPBACK_NAMES = frozenset({"localhost", "127.0.0.1", "::1"})


class Wanted(Enum):
    """Which kind of thing a request target names."""

    LINK = "link"
    REDIRECT = "redirect"
    PIXEL = "pixel"
    ROBOTS = "robots"
    ICON = "icon"
    NOTHING = "nothing"


class Target(NamedTuple):
    """A request target, understood. The token itself is not kept, only its hash."""

    wanted: Wanted
    token_hash: bytes = b""
    # None: no page was asked for. Empty: something that cannot be the name of a page.
    page: str | None = None
    repaired: bool = False
    query: bytes = b""
    # For links back to the first page; never logged, never stored.
    token: str = ""


_NOTHING = Target(Wanted.NOTHING)


def read_target(target: bytes) -> Target:
    """Understands a request target. Percent-encoding is decoded exactly once; whatever does not fit names nothing."""
    path, _, query = target.partition(b"#")[0].partition(b"?")
    parts = path.split(b"/")
    if len(parts) < 2 or parts[0]:
        return _NOTHING
    if len(parts) == 2:
        if path == b"/robots.txt":
            return Target(Wanted.ROBOTS)
        if path == b"/favicon.ico":
            return Target(Wanted.ICON)
        return _with_token(Wanted.LINK, parts[1], None, query)
    if len(parts) == 3 and parts[1] == b"p":
        # Whatever stands there: an answer of another kind would tell which names can exist.
        return Target(Wanted.PIXEL)
    if parts[1] == b"r":
        return _with_token(Wanted.REDIRECT, parts[2], None, query) if len(parts) == 3 else _NOTHING
    if len(parts) == 3:
        return _with_token(Wanted.LINK, parts[1], parts[2], query)
    return _NOTHING


def _with_token(wanted: Wanted, segment: bytes, page_segment: bytes | None, query: bytes) -> Target:
    token, repaired = _repaired(_decoded(segment), _TOKEN)
    if token is None:
        return _NOTHING
    page: str | None = None
    if page_segment == b"":
        # "/{token}/": a slash that was typed or added, no page.
        repaired = True
    elif page_segment is not None:
        decoded = _decoded(page_segment)
        slug, page_repaired = _repaired(decoded.lower() if decoded is not None else None, _SLUG)
        page, repaired = slug or "", repaired or page_repaired
    return Target(wanted, hashlib.sha256(token.encode()).digest(), page, repaired, query, token)


def _decoded(segment: bytes) -> str | None:
    try:
        return unquote_to_bytes(segment).decode() if b"%" in segment else segment.decode()
    except UnicodeDecodeError:
        return None


def _repaired(text: str | None, shape: re.Pattern[str]) -> tuple[str | None, bool]:
    """Returns the text when it has the shape, if need be without one mark at its end."""
    if text is None:
        return None, False
    if shape.fullmatch(text):
        return text, False
    if text and text[-1] in _TRAILING_MARKS and shape.fullmatch(text[:-1]):
        return text[:-1], True
    return None, False


class HostRule:
    """Which Host headers are answered. The host is only ever compared, never used to build an address."""

    def __init__(self, public_url: str) -> None:
        name = urlsplit(public_url).hostname or ""
        self._names = _LOOPBACK_NAMES if _is_loopback(name) else frozenset({name})
        self._names |= {name}

    def refuse(self, hosts: Sequence[bytes], absolute_host: bytes | None = None) -> int:
        """Returns 0 for a host of ours, 400 for no, two or malformed hosts, 421 for somebody else's."""
        if len(hosts) != 1:
            return 400
        found = [_host_name(host) for host in (*hosts, *([absolute_host] if absolute_host is not None else []))]
        if None in found:
            return 400
        return 0 if all(name in self._names for name in found) else 421


def _host_name(host: bytes) -> str | None:
    match = _HOST.fullmatch(host.strip())
    if match is None:
        return None
    return (match[1] or match[2]).decode().lower().rstrip(".")


def _is_loopback(name: str) -> bool:
    try:
        return name in _LOOPBACK_NAMES or ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False


class AddressRule:
    """Which address counts as the visitor's, and which are no single visitor."""

    def __init__(self, trusted: Sequence[Network]) -> None:
        self._trusted = tuple(trusted)

    def visitor(self, peer: str, headers: Headers) -> str:
        """Returns the visitor's address as text; empty when the socket has none."""
        forwarded = [value.decode("latin-1") for name, value in headers if name == b"x-forwarded-for"]
        return client_address(peer, forwarded, self._trusted) if self._trusted else _plain_address(peer)

    def exempt_from_throttle(self, address: str) -> bool:
        """Whether misses from an address are not counted: this machine, and proxies that stand for many visitors."""
        found = parse_address(address)
        return found is None or found.is_loopback or trusts(self._trusted, found)


@lru_cache(maxsize=4096)
def _plain_address(peer: str) -> str:
    return client_address(peer, (), ())


def throttle_key(address: str) -> str:
    """Returns what misses are counted by: the IPv4 address, or the /64 of an IPv6 address."""
    if ":" not in address:
        return address
    return str(ipaddress.ip_network(f"{address}/64", strict=False))


class MissThrottle:
    """Counts misses per address and minute, in bounded memory."""

    def __init__(self, limit: int = 60, window_seconds: float = 60.0, remembered: int = 50_000) -> None:
        self._limit = limit
        self._window = window_seconds
        self._remembered = remembered
        self._counts: dict[str, tuple[float, int]] = {}

    def is_over(self, key: str, now: float) -> bool:
        """Whether an address has used up its misses of this minute."""
        began, count = self._counts.get(key, (now, 0))
        return count >= self._limit and now - began < self._window

    def count(self, key: str, now: float) -> bool:
        """Counts one miss; returns whether it is one too many."""
        began, count = self._counts.get(key, (now, 0))
        if now - began >= self._window:
            began, count = now, 0
        if count == 0 and len(self._counts) >= self._remembered:
            # The oldest entry goes: dictionaries keep the order of insertion.
            self._counts.pop(next(iter(self._counts)))
        self._counts[key] = (began, count + 1)
        return count >= self._limit


def storable(value: bytes, limit: int) -> str:
    """Returns header text that PostgreSQL and protobuf take: valid, without NUL, at most limit characters."""
    try:
        text = value.decode()
    except UnicodeDecodeError:
        # Old phones send Latin-1; read so, every byte is some character and nothing is refused.
        text = value.decode("latin-1")
    if "\0" in text:
        text = text.replace("\0", "\ufffd")
    return text if len(text) <= limit else text[:limit]


def first(headers: Iterable[tuple[bytes, bytes]], name: bytes) -> bytes:
    """Returns the value of a header, empty when it was not sent."""
    for key, value in headers:
        if key == name:
            return value
    return b""


# Headers that help to tell people from machines, or how the request came to us. Never cookies or credentials.
_EXPLAINING = frozenset(
    b"accept accept-encoding purpose x-purpose sec-purpose x-moz range dnt from via forwarded x-forwarded-for"
    b" x-real-ip x-requested-with save-data priority upgrade-insecure-requests device-memory viewport-width"
    b" downlink ect rtt connection cf-connecting-ip true-client-ip".split()
)
_HEADER_VALUE_CHARACTERS = 1_000
_HEADERS_BYTES = 8 * 1024


def explaining(headers: Headers) -> list[tuple[str, str]]:
    """Returns the headers kept with an open, in the order received, until 8 KiB are full."""
    kept: list[tuple[str, str]] = []
    room = _HEADERS_BYTES
    for name, value in headers:
        if name in _EXPLAINING or name.startswith(b"sec-"):
            text = storable(value, _HEADER_VALUE_CHARACTERS)
            room -= len(name) + len(text.encode())
            if room < 0:
                break
            kept.append((name.decode("latin-1"), text))
    return kept
