"""Page tokens: opaque, sealed, bound to their query; they grant no access."""

import hashlib
import json
from collections.abc import Sequence

from cryptography.fernet import Fernet, InvalidToken

from services.chassis.errors import invalid

DEFAULT_SIZE = 50
LARGEST_SIZE = 200


def page_size(asked: int) -> int:
    """Returns the size to use: 0 is 50, above 200 is 200, negative is refused."""
    if asked < 0:
        raise invalid("page_size", "must not be negative")
    return min(asked or DEFAULT_SIZE, LARGEST_SIZE)


def scope_of(method: str, agency: object, request: bytes) -> str:
    """Returns what a token is bound to: the method, the agency and everything else that chooses the rows."""
    return f"{method}|{agency}|{hashlib.sha256(request).hexdigest()}"


class Pages:
    """Seals and opens page tokens with one key."""

    def __init__(self, key: str) -> None:
        self._seal = Fernet(key.encode())

    def encode(self, scope: str, values: Sequence[str | int]) -> str:
        """Returns a token that holds the key of the last row of a page."""
        return self._seal.encrypt(json.dumps([1, scope, list(values)]).encode()).decode()

    def decode(self, scope: str, token: str, field: str = "page_token") -> list[str | int] | None:
        """Returns what `encode` was given; None for no token; refuses a forged, altered or foreign one."""
        if not token:
            return None
        try:
            version, bound, values = json.loads(self._seal.decrypt(token.encode()))
        except (InvalidToken, ValueError):
            version, bound, values = 0, "", []
        if version != 1 or bound != scope:
            raise invalid(field, "does not belong to this query; start again without it", "PAGE_TOKEN_INVALID")
        return list(values)
