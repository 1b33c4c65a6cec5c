"""The secret in a link's address: derived from its id under a key, so that it can be shown again but not guessed.

Only the SHA-256 of a token is stored and spread. Links and redirects have separate spaces of tokens: the kind is part
of what is hashed.
"""

import base64
import binascii
import hashlib
import hmac
import re
from dataclasses import dataclass, field
from enum import Enum
from uuid import UUID

LENGTH = 22
_TOKEN_BYTES = 16
_SHORTEST_KEY = 32
_LINE = re.compile(r"(?:([1-9][0-9]{0,3}):)?([A-Za-z0-9+/_-]+={0,2})", re.ASCII)


class TokenKind(Enum):
    """What a token leads to; the value is what separates the two spaces."""

    LINK = b"opennotice/link\0"
    REDIRECT = b"opennotice/redirect\0"


@dataclass(frozen=True)
class TokenKeys:
    """The keys by version; new tokens are made under the highest one, old ones stay as they are."""

    by_version: dict[int, bytes] = field(repr=False)

    @property
    def newest(self) -> int:
        """The version that new links are made under."""
        return max(self.by_version)

    def token(self, kind: TokenKind, identifier: UUID, version: int) -> str:
        """Returns the token of a link or redirect; raises KeyError for a version that is not there."""
        digest = hmac.digest(self.by_version[version], kind.value + identifier.bytes, "sha256")
        return base64.urlsafe_b64encode(digest[:_TOKEN_BYTES]).rstrip(b"=").decode()

    def holds(self, text: str) -> bool:
        """Whether a key in base64 is one of these."""
        try:
            return _key(text) in self.by_version.values()
        except ValueError:
            return False


def token_hash(token: str) -> bytes:
    """Returns what is stored of a token: the SHA-256 of its characters."""
    return hashlib.sha256(token.encode("ascii")).digest()


def parse_keys(text: str) -> TokenKeys:
    """Reads keys in base64, one a line as "version:key"; a single line may leave the version out and is version 1."""
    found: dict[int, bytes] = {}
    lines = text.split()
    for line in lines:
        match = _LINE.fullmatch(line)
        if not match or (match[1] is None and len(lines) > 1):
            raise ValueError("must be keys in base64, one a line as version:key")
        version = int(match[1] or 1)
        if version in found:
            raise ValueError(f"has two keys of version {version}")
        found[version] = _key(match[2])
    if not found:
        raise ValueError("holds no key")
    if len(set(found.values())) < len(found):
        raise ValueError("has the same key in two versions")
    return TokenKeys(found)


def _key(text: str) -> bytes:
    standard = text.rstrip("=").translate(str.maketrans("-_", "+/"))
    try:
        key = base64.b64decode(standard + "=" * (-len(standard) % 4), validate=True)
    except binascii.Error:
        raise ValueError("must be keys in base64, one a line as version:key") from None
    if len(key) < _SHORTEST_KEY:
        raise ValueError(f"must be keys of at least {_SHORTEST_KEY} bytes")
    return key
