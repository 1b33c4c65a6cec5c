"""Times as staff read and type them: in the agency's time zone, with the zone named."""

from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from google.protobuf.timestamp_pb2 import Timestamp

from gateway.words import rfc3339
from services.chassis.clock import from_proto

EARLIEST_YEAR, LATEST_YEAR = 1970, 8999


@dataclass(frozen=True)
class Moment:
    """One point in time: for a machine, and in three parts for a person."""

    iso: str
    date: str
    clock: str
    zone: str


class Zone:
    """The time zone of an agency."""

    def __init__(self, name: str) -> None:
        try:
            self._zone: ZoneInfo | None = ZoneInfo(name or "UTC")
            self.name = name or "UTC"
        except (ZoneInfoNotFoundError, ValueError):
            # A machine without that zone's rules still shows right times, only in another zone, which is named.
            self._zone = None
            self.name = "UTC"

    def described(self, now: datetime) -> str:
        """Returns the zone as a page names it: "America/New_York (EST)"."""
        short = self.moment(now).zone
        return self.name if short == self.name else f"{self.name} ({short})"

    def moment(self, at: datetime) -> Moment:
        """Returns a time as this zone shows it."""
        here = at.astimezone(self._zone or UTC)
        hour = here.hour % 12 or 12
        half = "AM" if here.hour < 12 else "PM"
        return Moment(
            iso=rfc3339(at) or "",
            date=f"{here:%b} {here.day}, {here.year}",
            clock=f"{hour}:{here:%M:%S} {half}",
            zone=_short(here),
        )

    def at(self, message: Any, field: str) -> Moment:
        """Returns a time that a message always has."""
        stamp: Timestamp = getattr(message, field)
        return self.moment(from_proto(stamp))

    def maybe(self, message: Any, field: str) -> Moment | None:
        """Returns a time of a message; None where it is not set."""
        return self.at(message, field) if message.HasField(field) else None

    def start_of(self, day: date) -> datetime:
        """Returns the first instant of a day here."""
        # Midnight may be skipped or happen twice where clocks change; the earlier reading never loses a minute.
        return datetime(day.year, day.month, day.day, tzinfo=self._zone or UTC).astimezone(UTC)

    def end_of(self, day: date) -> datetime:
        """Returns the first instant after a day here."""
        return self.start_of(day + timedelta(days=1))

    def last_moment_of(self, day: date) -> datetime:
        """Returns the last instant of a day here; as an expiry it reads as that day and not as midnight of the next."""
        return self.end_of(day) - timedelta(milliseconds=1)

    def day_of(self, at: datetime) -> date:
        """Returns the day that an instant falls on here."""
        return at.astimezone(self._zone or UTC).date()


def read_day(text: str) -> date | None:
    """Reads "2026-11-23"; None for anything that is no such day, or is outside what is kept."""
    if len(text) != len("2026-11-23") or not text.isascii():
        return None
    try:
        day = date.fromisoformat(text)
    except ValueError:
        return None
    return day if EARLIEST_YEAR <= day.year <= LATEST_YEAR else None


def _short(here: datetime) -> str:
    """Names the offset: "EST" where the zone has letters, "UTC-03:00" where it has only digits."""
    name = here.tzname() or "UTC"
    if name[:1].isalpha():
        return name
    return f"UTC{here.isoformat()[-6:]}"
