"""Time: aware, UTC, whole milliseconds; and its form in protobuf."""

from datetime import UTC, datetime

from google.protobuf.timestamp_pb2 import Timestamp

from services.chassis.errors import Faults

# PostgreSQL and psycopg both read and write these years; nothing we keep is from outside them.
EARLIEST = datetime(1970, 1, 1, tzinfo=UTC)
LATEST = datetime(9000, 1, 1, tzinfo=UTC)
_EARLIEST_SECONDS, _LATEST_SECONDS = int(EARLIEST.timestamp()), int(LATEST.timestamp())


def now() -> datetime:
    """Returns the time, cut to whole milliseconds."""
    moment = datetime.now(UTC)
    return moment.replace(microsecond=moment.microsecond // 1000 * 1000)


def from_milliseconds(milliseconds: int) -> datetime:
    """Returns the time of a count of milliseconds since 1970, exactly."""
    seconds, rest = divmod(milliseconds, 1000)
    return datetime.fromtimestamp(seconds, UTC).replace(microsecond=rest * 1000)


def to_proto(moment: datetime | None) -> Timestamp | None:
    """Returns the protobuf form; None stays None, which leaves a field unset."""
    if moment is None:
        return None
    stamp = Timestamp()
    stamp.FromDatetime(moment)
    return stamp


def from_proto(stamp: Timestamp) -> datetime:
    """Returns the time of a stamp that one of our own services wrote."""
    return stamp.ToDatetime(tzinfo=UTC)


def checked(stamp: Timestamp, field: str, faults: Faults) -> datetime | None:
    """Returns the time of a stamp that came from outside, noting a fault when it is out of range."""
    in_range = _EARLIEST_SECONDS <= stamp.seconds < _LATEST_SECONDS and 0 <= stamp.nanos < 1_000_000_000
    if not in_range:
        faults.add(field, "must be a time from 1970 to 8999")
        return None
    return stamp.ToDatetime(tzinfo=UTC)
