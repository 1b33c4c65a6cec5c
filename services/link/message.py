"""Campaigns, messages, and what became of them."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from uuid import UUID

# In the order in which they follow each other; of two reports about one instant the later word counts.
STATUSES = ("queued", "sent", "delivered", "bounced", "failed")
MOST_DELIVERIES_SHOWN = 50
# A reporter's clock may be in another time zone by mistake, but not in another week.
FURTHEST_AHEAD = timedelta(days=1)


@dataclass(frozen=True)
class Campaign:
    """A set of messages sent together."""

    campaign_id: UUID
    agency_id: UUID
    display_name: str
    create_time: datetime
    revision: int


@dataclass(frozen=True)
class Message:
    """One outbound e-mail or text to one client."""

    message_id: UUID
    agency_id: UUID
    client_id: UUID
    campaign_id: UUID | None
    channel: str
    send_time: datetime | None
    delivery_status: str
    deadline_time: datetime | None
    create_time: datetime
    revision: int


@dataclass(frozen=True)
class Delivery:
    """One report about a message."""

    message_id: UUID
    status: str
    event_time: datetime


def newest_status(deliveries: Sequence[Delivery]) -> str:
    """Returns what the newest of the reports says; there must be one."""
    return max(deliveries, key=lambda delivery: (delivery.event_time, STATUSES.index(delivery.status))).status


def too_far_ahead(event_time: datetime, now: datetime) -> bool:
    """Whether a report speaks of a time that no wrong clock explains."""
    return event_time > now + FURTHEST_AHEAD
