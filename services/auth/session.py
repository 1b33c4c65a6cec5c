"""Rules about sessions: how long one lasts."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from uuid import UUID

IDLE = timedelta(minutes=30)
LONGEST = timedelta(hours=12)
# Use is written down at most this often, so that a person who reads costs one write a minute and not one a click.
TOUCH = timedelta(minutes=1)


@dataclass(frozen=True)
class Session:
    """A signed-in browser."""

    session_hash: bytes
    agency_id: UUID
    user_id: UUID
    create_time: datetime
    use_time: datetime
    expire_time: datetime


def expire_time(now: datetime) -> datetime:
    """Returns when a session that begins now ends at the latest."""
    return now + LONGEST


def is_alive(session: Session, now: datetime) -> bool:
    """Whether a session still counts: neither idle for too long nor too old."""
    return now < session.expire_time and now - session.use_time < IDLE


def must_touch(session: Session, now: datetime) -> bool:
    """Whether the use of a session is to be written down."""
    return now - session.use_time >= TOUCH
