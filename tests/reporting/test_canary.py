"""The canary: it comes the whole way and into no report, and its staying away is told."""

from datetime import UTC, datetime, timedelta

import pytest
from opennotice.enrichment.v1 import events_pb2

from services.chassis.bus import Bus
from services.chassis.clock import to_proto
from services.chassis.consumer import Received
from services.chassis.dead_letters import DeadLetters
from services.chassis.postgres import Database as Pool
from services.reporting.arrivals.events import Announcer, Arrivals
from services.reporting.canary import CanaryWatch
from tests.reporting.conftest import Reporting

START = datetime(2026, 11, 23, 12, 0, tzinfo=UTC)


class Clock:
    def __init__(self) -> None:
        self.now = START

    def __call__(self) -> datetime:
        return self.now


async def arrive(arrivals: Arrivals, sent: datetime) -> None:
    pack = events_pb2.OpensEnriched(batch_id="any", canary_time=to_proto(sent))
    await arrivals.take([Received(pack, 1, 1)])


@pytest.fixture
def arrivals(ingest: Pool, bus: Bus) -> Arrivals:
    return Arrivals(ingest, DeadLetters(ingest, "reporting"), Announcer(bus))


async def test_it_is_noted_and_never_shown(arrivals: Arrivals, reporting: Reporting, ingest: Pool) -> None:
    await arrive(arrivals, START)
    assert await reporting.list() == []
    watch = CanaryWatch(ingest, Clock())
    await watch.look()
    assert not watch.is_late


async def test_two_that_stay_away_are_told_and_so_is_the_next_one(arrivals: Arrivals, ingest: Pool) -> None:
    clock = Clock()
    watch = CanaryWatch(ingest, clock)
    await arrive(arrivals, START)
    clock.now = START + timedelta(seconds=89)
    await watch.look()
    assert not watch.is_late
    clock.now = START + timedelta(seconds=91)
    await watch.look()
    assert watch.is_late
    await arrive(arrivals, START + timedelta(seconds=60))
    await watch.look()
    assert not watch.is_late


async def test_one_from_before_the_newest_changes_nothing(arrivals: Arrivals, ingest: Pool) -> None:
    await arrive(arrivals, START)
    await arrive(arrivals, START - timedelta(hours=1))
    watch = CanaryWatch(ingest, Clock())
    await watch.look()
    assert not watch.is_late


async def test_a_fresh_start_gives_it_time_although_the_last_one_is_old(arrivals: Arrivals, ingest: Pool) -> None:
    """After a night without power nobody should be woken by the minute before the first canary."""
    await arrive(arrivals, START - timedelta(hours=9))
    clock = Clock()
    watch = CanaryWatch(ingest, clock)
    await watch.look()
    assert not watch.is_late
    clock.now = START + timedelta(seconds=91)
    await watch.look()
    assert watch.is_late


async def test_a_clock_that_was_ahead_makes_it_deaf_only_until_the_next_one(arrivals: Arrivals, ingest: Pool) -> None:
    clock = Clock()
    clock.now = datetime.now(UTC)
    watch = CanaryWatch(ingest, clock)
    await arrive(arrivals, clock.now + timedelta(days=365))
    await arrive(arrivals, clock.now + timedelta(seconds=1))
    clock.now += timedelta(seconds=100)
    await watch.look()
    assert watch.is_late, "nothing came since the clock was put right"
