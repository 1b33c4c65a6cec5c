"""Where a portal or redirect may lead: https, and a host that the agency allows.

The address is read twice, by a grammar of our own that knows only the plain form and by the standard library. Only what
both read alike is accepted, because a browser is a third parser and attacks live in the difference between parsers.
"""

import re
from collections.abc import Collection
from urllib.parse import urlsplit

LONGEST = 2_000

# Printable ASCII without the characters that no address may hold unescaped (RFC 3986) and without the backslash, which
# browsers read as a slash.
_PLAIN = re.compile(r"[!#-;=?-\[\]_a-z~]+")
_ESCAPES = re.compile(r"%(?![0-9A-Fa-f]{2})")
_ADDRESS = re.compile(r"(?i:https)://([^/?#]*)([/?#].*)?")
_LABEL = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?")
# The last label of a public name; a numeric or hexadecimal one would be read as an IPv4 address by browsers.
_LAST_LABEL = re.compile(r"[a-z]{2,63}|xn--[a-z0-9-]{1,59}")
# Names that by standard or custom exist inside one network only, so they are no place for a client to be sent.
_INTERNAL = frozenset(
    {"localhost", "localdomain", "local", "internal", "intranet", "private", "lan", "home", "corp", "invalid", "onion"}
)


class TargetRefused(ValueError):
    """Says why an address may not be a target."""


def host_of(uri: str) -> str:
    """Returns the host of a well-formed public https address in lower case; raises TargetRefused for any other."""
    if not uri:
        raise TargetRefused("must not be empty")
    if len(uri) > LONGEST:
        raise TargetRefused(f"must be at most {LONGEST:,} characters")
    if not uri.isascii():
        raise TargetRefused("must be written in ASCII: the host in its xn-- form, the rest percent-encoded")
    if not _PLAIN.fullmatch(uri):
        raise TargetRefused("must not contain spaces, control characters, backslashes, quotes or brackets like < { |")
    if _ESCAPES.search(uri):
        raise TargetRefused("has a % that is not followed by two hexadecimal digits")
    found = _ADDRESS.fullmatch(uri)
    if not found:
        raise TargetRefused("must begin with https://")
    host = _host_in(found[1])
    if not _read_alike(uri, host):
        raise TargetRefused("can be read in more than one way")
    return host


def _host_in(authority: str) -> str:
    if "@" in authority:
        raise TargetRefused("must not contain a user name or password")
    if "[" in authority:
        raise TargetRefused("must name a host, not an IP address")
    host, colon, port = authority.lower().partition(":")
    if colon and port != "443":
        raise TargetRefused("must not name a port other than 443")
    check_host(host)
    return host


def check_host(host: str) -> None:
    """Raises TargetRefused unless the name can be that of a public host."""
    labels = host.split(".")
    if not host or len(host) > 253 or not all(_LABEL.fullmatch(label) for label in labels):
        raise TargetRefused("does not contain a well-formed host name")
    if re.fullmatch(r"[0-9]+|0x[0-9a-f]*", labels[-1]):
        raise TargetRefused("must name a host, not an IP address")
    if len(labels) == 1:
        raise TargetRefused("must name a public host with a dot in it")
    if labels[-1] in _INTERNAL or host.endswith(".home.arpa") or host == "home.arpa":
        raise TargetRefused("must name a public host, not an internal one")
    if not _LAST_LABEL.fullmatch(labels[-1]):
        raise TargetRefused("does not contain a well-formed host name")


def _read_alike(uri: str, host: str) -> bool:
    try:
        parts = urlsplit(uri)
        port = parts.port
    except ValueError:
        return False
    bare = parts.username is None and parts.password is None
    return parts.scheme == "https" and parts.hostname == host and port in (None, 443) and bare


def host_allowed(host: str, allowed_hosts: Collection[str]) -> bool:
    """Whether an agency's list allows a host; an empty list allows every public one.

    A name in another script than Latin is allowed only by name: in its xn-- form nobody can see what it imitates.
    """
    if allowed_hosts:
        return host in allowed_hosts
    return not any(label.startswith("xn--") for label in host.split("."))


def check_target(uri: str, allowed_hosts: Collection[str]) -> str:
    """Returns the host of an address that the agency allows; raises TargetRefused with the reason otherwise."""
    host = host_of(uri)
    if host_allowed(host, allowed_hosts):
        return host
    if allowed_hosts:
        raise TargetRefused(f"leads to {host}, which is not among the hosts that this agency allows")
    raise TargetRefused(f"leads to {host}, an internationalized name; an administrator must allow it by name")
