"""Rules about the secrets we hand out: how they look, and what of them is kept."""

import hashlib
import re
import secrets

SESSION = "ons_"
API_KEY = "onk_"
_SHAPE = re.compile(r"on[sk]_[A-Za-z0-9_-]{43}")


def make(prefix: str) -> str:
    """Makes a secret of 256 random bits, with a prefix that a scanner of leaked secrets can find."""
    return prefix + secrets.token_urlsafe(32)


def is_well_formed(secret: str) -> bool:
    """Whether a text has the shape of a session or an API key."""
    return _SHAPE.fullmatch(secret) is not None


def digest(secret: str) -> bytes:
    """Returns what is stored. A plain hash will do: nobody can try out 256 random bits."""
    return hashlib.sha256(secret.encode()).digest()
