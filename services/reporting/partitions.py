"""Keeps a partition ready for every month that opens may fall in."""

import asyncio
from collections.abc import Callable
from datetime import date, datetime

import prometheus_client

from services.chassis import log
from services.chassis.postgres import Database
from services.reporting.arrivals import store

_LOG = log.get(__name__)
MONTHS_AHEAD = 3
# The database makes no others: what is from before or after lies in the default partition for good.
_YEARS = range(2000, 2200)
_LOOK_SECONDS = 600.0

OPENS_OUTSIDE = prometheus_client.Gauge(
    "opennotice_reporting_months_in_default_partition",
    "Months whose opens lie in no partition of their own; searches slow down while this is not 0",
)


def months_from(day: date, count: int) -> list[date]:
    """Returns the first days of the month of a day and of those after it, `count` months ahead."""
    first = day.year * 12 + day.month - 1
    return [date(month // 12, month % 12 + 1, 1) for month in range(first, first + count + 1)]


async def look_once(database: Database, today: date) -> None:
    """Makes what is missing ahead, and gives months that landed in the default partition one of their own."""
    async with database.transaction() as conn:
        outside = await store.months_outside(conn)
    OPENS_OUTSIDE.set(len(outside))
    if outside:
        _LOG.error("opens lie in the default partition; making partitions for their months", months=len(outside))
    for month in [*months_from(today, MONTHS_AHEAD), *(month for month in outside if month.year in _YEARS)]:
        # One transaction each: a lock that cannot be had for one month must not undo the others.
        async with database.transaction() as conn:
            made = await store.make_partition(conn, month)
        if made:
            _LOG.info("partition made", month=str(month))


async def run(database: Database, now: Callable[[], datetime]) -> None:
    """Looks for ever. Raises when the database is away; the frame starts it again after a pause."""
    while True:
        await look_once(database, now().date())
        await asyncio.sleep(_LOOK_SECONDS)
