"""What a route says about itself, for the OpenAPI document."""

from dataclasses import dataclass
from typing import Any

from msgspec import Struct

from gateway.api.query import Param


@dataclass(frozen=True)
class Describe:
    """One operation: what it takes, what it answers, which reasons it may refuse with."""

    tag: str
    summary: str
    answer: type[Struct] | str
    body: type[Struct] | None = None
    params: tuple[Param, ...] = ()
    reasons: tuple[str, ...] = ()
    example: Any = None
    many: str | None = None
    media_type: str = "application/json"
