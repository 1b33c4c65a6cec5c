"""Rules about API keys: when one counts, and how its use is noted."""

from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

SCOPE_LIMIT = 50


@dataclass(frozen=True)
class ApiKey:
    """The key of another court system."""

    api_key_id: UUID
    agency_id: UUID
    display_name: str
    scopes: list[str]
    expire_time: datetime | None
    revoke_time: datetime | None
    use_time: datetime | None
    create_time: datetime

    @property
    def name(self) -> str:
        """The resource name."""
        return f"apiKeys/{self.api_key_id}"


def is_alive(key: ApiKey, now: datetime) -> bool:
    """Whether a key still counts."""
    return key.revoke_time is None and (key.expire_time is None or now < key.expire_time)


def use_minute(now: datetime) -> datetime:
    """Returns the time that is kept of a use: the minute, so that a busy key costs one write a minute."""
    return now.replace(second=0, microsecond=0)


def must_touch(key: ApiKey, now: datetime) -> bool:
    """Whether the use of a key is to be written down."""
    return key.use_time is None or key.use_time < use_minute(now)
