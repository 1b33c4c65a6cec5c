"""The rules of a client's timeline: what stands where, and how a page goes on after the one before."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import IntEnum
from uuid import UUID

from services.chassis.clock import EARLIEST

_MICROSECOND = timedelta(microseconds=1)


class EntryKind(IntEnum):
    """Kinds of entries, in the order they can only have happened in when their times are equal."""

    MESSAGE = 1
    DELIVERY = 2
    OPEN = 3


@dataclass(frozen=True, order=True)
class Place:
    """Where an entry stands; a later one is greater. No two entries of a client share a place."""

    time: datetime
    kind: int
    # The message or the open.
    identifier: UUID
    # The status of a delivery, of which a message may have several at one instant; 0 for the rest.
    status: int = 0


def to_values(place: Place) -> list[str | int]:
    """Returns a place in the form that page tokens hold, exact to the microsecond."""
    return [microseconds_of(place.time), place.kind, str(place.identifier), place.status]


def from_values(values: Sequence[str | int]) -> Place:
    """Returns the place that `to_values` was given."""
    microseconds, kind, identifier, status = values
    return Place(time_of(int(microseconds)), int(kind), UUID(str(identifier)), int(status))


def microseconds_of(time: datetime) -> int:
    """Returns a time as a whole number, without the rounding of floating point."""
    return (time - EARLIEST) // _MICROSECOND


def time_of(microseconds: int) -> datetime:
    """Returns the time that `microseconds_of` was given."""
    return EARLIEST + microseconds * _MICROSECOND
