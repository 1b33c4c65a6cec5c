"""Times in the agency's zone: as shown, as typed, and where clocks change."""

from datetime import UTC, date, datetime

import pytest

from gateway.pages.times import Zone, read_day

NEW_YORK = Zone("America/New_York")


@pytest.mark.parametrize(
    ("zone", "at", "shown"),
    [
        pytest.param("America/New_York", "2026-07-04T16:00:05Z", "Jul 4, 2026 12:00:05 PM EDT", id="noon"),
        pytest.param("America/New_York", "2026-01-01T05:00:00Z", "Jan 1, 2026 12:00:00 AM EST", id="midnight"),
        pytest.param("America/Sao_Paulo", "2026-01-01T05:00:00Z", "Jan 1, 2026 2:00:00 AM UTC-03:00", id="no letters"),
        pytest.param("UTC", "2026-11-23T13:01:02Z", "Nov 23, 2026 1:01:02 PM UTC", id="utc"),
        pytest.param("Mars/Olympus", "2026-11-23T13:01:02Z", "Nov 23, 2026 1:01:02 PM UTC", id="unknown zone"),
    ],
)
def test_a_time_is_shown_in_the_zone_that_is_named(zone: str, at: str, shown: str) -> None:
    moment = Zone(zone).moment(datetime.fromisoformat(at))
    assert f"{moment.date} {moment.clock} {moment.zone}" == shown


def test_a_time_for_machines_is_utc_with_milliseconds() -> None:
    assert NEW_YORK.moment(datetime(2026, 7, 4, 16, 0, 5, 120_000, tzinfo=UTC)).iso == "2026-07-04T16:00:05.120Z"


@pytest.mark.parametrize(
    ("day", "hours"),
    [
        pytest.param(date(2026, 3, 8), 23, id="A04 clocks go forward"),
        pytest.param(date(2026, 11, 1), 25, id="A04 clocks go back"),
        pytest.param(date(2026, 6, 1), 24, id="any other day"),
    ],
)
def test_a_day_is_whole_also_when_clocks_change(day: date, hours: int) -> None:
    length = NEW_YORK.end_of(day) - NEW_YORK.start_of(day)
    assert length.total_seconds() == hours * 3600


def test_the_last_moment_of_a_day_still_reads_as_that_day() -> None:
    last = NEW_YORK.last_moment_of(date(2026, 12, 24))
    assert NEW_YORK.day_of(last) == date(2026, 12, 24)
    assert NEW_YORK.moment(last).clock == "11:59:59 PM"


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("0000-00-00", id="A04 zeros"),
        pytest.param("2026-02-31", id="A04 31 February"),
        pytest.param("99999-01-01", id="A04 year 99999"),
        pytest.param("1969-12-31", id="too early"),
        pytest.param("9000-01-01", id="too late"),
        pytest.param("11/23/2026", id="with slashes"),
        pytest.param("20261123", id="without hyphens"),
        pytest.param("2026-1-1", id="short"),
        pytest.param("٢٠٢٦-٠١-٠١", id="other digits"),
    ],
)
def test_a_day_that_is_none_is_not_read(text: str) -> None:
    assert read_day(text) is None
