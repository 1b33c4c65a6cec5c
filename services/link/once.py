"""The same request made twice: how it is recognized, so that it creates once."""

import hashlib
from dataclasses import dataclass
from uuid import UUID


@dataclass(frozen=True)
class Claim:
    """What a request id stands for in an agency: a content, and what it created."""

    request_id: UUID
    digest: bytes
    resource_id: UUID


def digest_of(*parts: object) -> bytes:
    """Returns a digest of a request's content; other content gives another digest."""
    return hashlib.sha256(repr([str(part) for part in parts]).encode()).digest()
