"""The reconciler: finds opens that are on record here and not in the report, and publishes them again.

PostgreSQL is the truth and NATS is movement: when its volume is lost, a reader acknowledged what it did not store, or
somebody deletes rows of the report, nothing else would notice. Both sides digest the ids of the opens of each stretch
of time; where the digests differ the ids themselves are compared. What became old enough since the last look is
compared at once, all that is older in turn, for as long as a round may take.
"""

import asyncio
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from uuid import UUID

from nats.js.errors import NotFoundError

from services.chassis import log
from services.chassis.bus import Bus
from services.chassis.postgres import Connection, Database
from services.tracking import metrics
from services.tracking.events import Report
from services.tracking.recorder import PACK_SUBJECT, PACK_TYPE, fitting, pack_of
from services.tracking.store import opens as store
from services.tracking.store.opens import RawOpen

_LOG = log.get(__name__)

# Through which readers an open passes on its way to the report.
WAY = (
    ("TRACKING", "enrichment-opens-recorded-v1", PACK_SUBJECT),
    ("ENRICHMENT", "reporting-opens-enriched-v1", "opennotice.enrichment.v1.opens.enriched"),
)
ROUND_SECONDS = 30.0
_SOON_SECONDS = 5.0
# How long an open may take to the report before anybody asks.
SETTLED_AFTER = timedelta(minutes=2)
# What went through a queue a little before its oldest waiting event may itself still be on the way.
_MARGIN = timedelta(seconds=30)
_SECOND = timedelta(seconds=1)
_MINUTE = timedelta(minutes=1)
_HOUR = timedelta(hours=1)
_LONGEST_LOOK = timedelta(days=31)
_BACK_AT_START = timedelta(hours=1)
# What a round spends on what is older, and what one look may take before the next one is made shorter.
_HISTORY_SECONDS = 0.5
_LOOK_SECONDS = 0.2
_IDS_AT_ONCE = 5_000
# How long an open that was published again is left alone before that is done once more. What something keeps refusing
# leaves a dead letter every time, so the pauses grow; somebody is told after the third.
_PAUSES = (timedelta(minutes=1), timedelta(minutes=5), timedelta(hours=1), timedelta(hours=6), timedelta(days=1))
_TIMES_BEFORE_TOLD = 3
# When a whole month is missing it goes again bit by bit, and what is stuck leaves room for the rest.
_MOST_UNDER_WAY = 50_000
_MOST_REMEMBERED = 200_000
_FIRST_ID = UUID(int=0)


@dataclass(frozen=True)
class Stretch:
    """A stretch of time."""

    start: datetime
    end: datetime


class Reconciler:
    """Compares what is on record with what is in the report."""

    def __init__(self, database: Database, bus: Bus, report: Report, wake: Callable[[], None]) -> None:
        """`wake` tells the relay that there are packs."""
        self._database = database
        self._bus = bus
        self._report = report
        self._wake = wake
        self._compared_until: datetime | None = None
        self._history_at: datetime | None = None
        self._look = _HOUR
        # How often each was published again, and when that may happen once more.
        self._again: dict[UUID, tuple[int, datetime]] = {}
        # How many of them may still arrive by themselves.
        self._under_way = 0
        self.missing = 0

    async def run(self) -> None:
        """Goes on for ever; raises when PostgreSQL, NATS or reporting is away, and is started again."""
        while True:
            await self._bus.connected()
            has_more = await self.round()
            await asyncio.sleep(_SOON_SECONDS if has_more else ROUND_SECONDS)

    async def round(self) -> bool:
        """Looks once: at what is old enough since the last round, then at some of what is older.

        Returns whether it left something for when what is under way has arrived.
        """
        async with self._database.transaction() as conn:
            # One of several tracking processes does it, for all.
            if not await store.alone(conn, "tracking.reconciler"):
                return False
            settled = await self._settled_before(conn)
            await self._forget_arrived()
            # Not by the minute: somebody who takes an open out of the report is to be found out within three.
            until = _floor(settled, _SECOND)
            since = self._compared_until or until - _BACK_AT_START
            before, self.missing = self.missing, 0
            try:
                for part in _parts(since, until, _HOUR):
                    await self._compare(conn, part, _MINUTE, settled)
                    self._reach(part.end)
                self._reach(max(since, until))
                await self._look_back(conn, since, settled)
            except Exception as error:
                # What was not looked at may be as it was.
                self.missing = max(self.missing, before)
                if isinstance(error, _Full):
                    return True
                raise
            finally:
                metrics.MISSING.set(self.missing)
        return False

    def _reach(self, until: datetime) -> None:
        self._compared_until = until
        metrics.RECONCILED_UNTIL.set(until.timestamp())

    async def _forget_arrived(self) -> None:
        """Forgets of what was published again all that has arrived, or is not on record any more."""
        long_ago = datetime.now(UTC) - 2 * _PAUSES[-1]
        self._again = {one: entry for one, entry in self._again.items() if entry[1] > long_ago}
        asked = list(self._again)
        for at in range(0, len(asked), _IDS_AT_ONCE):
            some = asked[at : at + _IDS_AT_ONCE]
            for one in set(some).difference(await self._report.missing(some)):
                del self._again[one]
        stuck = sum(times >= _TIMES_BEFORE_TOLD for times, _ in self._again.values())
        metrics.STUCK.set(stuck)
        self._under_way = len(self._again) - stuck

    async def _settled_before(self, conn: Connection) -> datetime:
        """Returns until when opens were committed that should be in the report by now: nothing older is on the way."""
        now, waiting = await store.unpublished_since(conn)
        oldest = [now - SETTLED_AFTER]
        if waiting is not None:
            oldest.append(waiting - _MARGIN)
        for stream, durable, subject in WAY:
            if (since := await self._unread_since(stream, durable, subject)) is not None:
                oldest.append(since - _MARGIN)
        return min(oldest)

    async def _unread_since(self, stream: str, durable: str, subject: str) -> datetime | None:
        """Returns when the oldest event was published that a reader has not taken in; None when it has all."""
        try:
            info = await self._bus.js.consumer_info(stream, durable)
            if not info.num_pending and not info.num_ack_pending:
                return None
            taken = info.ack_floor.stream_seq if info.ack_floor else 0
            first = await self._bus.js.get_msg(stream, taken + 1, subject=subject, next=True)
        except NotFoundError:
            # No reader yet, or the event went meanwhile.
            return None
        return first.time

    async def _look_back(self, conn: Connection, before: datetime, settled: datetime) -> None:
        """Compares some of what is older than `before`, beginning anew when the end is reached."""
        end_of_round = time.monotonic() + _HISTORY_SECONDS
        while time.monotonic() < end_of_round:
            first = await store.next_open_at(conn, self._history_at or datetime(1970, 1, 1, tzinfo=UTC))
            if first is None or first >= before:
                # Everything there is was looked at.
                self._history_at = None
                metrics.HISTORY_COMPARED.set_to_current_time()
                break
            part = Stretch(_floor(first, _HOUR), min(_floor(first, _HOUR) + self._look, before))
            began = time.monotonic()
            stretch = _MINUTE if self._look <= timedelta(hours=6) else _HOUR
            try:
                await self._compare(conn, part, stretch, settled)
            except Exception:
                # It may have been too much for one call.
                self._look = max(self._look / 2, _HOUR)
                raise
            self._history_at = part.end
            took = time.monotonic() - began
            if took < _LOOK_SECONDS / 4:
                self._look = min(self._look * 2, _LONGEST_LOOK)
            elif took > _LOOK_SECONDS:
                self._look = max(self._look / 2, _HOUR)

    async def _compare(self, conn: Connection, part: Stretch, stretch: timedelta, settled: datetime) -> None:
        """Compares a part by digests; raises _Full when more is missing than may be under way at once."""
        theirs = await self._report.digests(part.start, part.end, stretch)
        # After the report's: whatever came in between is then on record here and not the other way round.
        ours = await store.digests(conn, part.start, part.end, stretch)
        for start in sorted(ours.keys() | theirs.keys()):
            here, there = ours.get(start, (0, 0)), theirs.get(start, (0, 0))
            if here == there:
                continue
            inner = Stretch(max(start, part.start), min(start + stretch, part.end))
            if stretch > _MINUTE:
                await self._compare(conn, inner, _MINUTE, settled)
            else:
                missing = await self._compare_ids(conn, inner, settled)
                if there[0] > here[0] - missing:
                    metrics.WITHOUT_RECORD.inc(there[0] - here[0] + missing)
                    _LOG.error("the report has opens that are not on record", start=inner.start, end=inner.end)

    async def _compare_ids(self, conn: Connection, part: Stretch, settled: datetime) -> int:
        """Compares a part open by open and publishes again what is missing; returns how many were."""
        found, after = 0, _FIRST_ID
        while ids := await store.ids_after(conn, part.start, part.end, settled, after, _IDS_AT_ONCE):
            after = ids[-1]
            missing = await self._report.missing(ids)
            found += len(missing)
            self.missing += len(missing)
            await self._publish_again(conn, missing)
        return found

    async def _publish_again(self, conn: Connection, missing: Sequence[UUID]) -> None:
        now = datetime.now(UTC)
        due = [one for one in missing if self._again.get(one, (0, now))[1] <= now]
        if stuck := sum(1 for one in missing if self._again.get(one, (0, now))[0] >= _TIMES_BEFORE_TOLD):
            _LOG.error("opens do not reach the report although they were published again", count=stuck)
        sent = 0
        try:
            for pack in _packs(await store.opens_by_id(conn, due)):
                new = sum(raw.open_id not in self._again for raw in pack)
                if self._under_way + new > _MOST_UNDER_WAY or len(self._again) + new > _MOST_REMEMBERED:
                    raise _Full
                batch_id, message = pack_of(pack)
                # A transaction of its own: what breaks later in this round takes nothing of it back.
                async with self._database.transaction() as own:
                    # The opens themselves are there and stay as they are.
                    await store.insert_opens(own, pack, UUID(batch_id), PACK_SUBJECT, PACK_TYPE, message)
                self._wake()
                for raw in pack:
                    times = self._again.get(raw.open_id, (0, now))[0] + 1
                    self._again[raw.open_id] = (times, now + _PAUSES[min(times, len(_PAUSES)) - 1])
                self._under_way += new
                sent += len(pack)
        finally:
            if sent:
                metrics.PUBLISHED_AGAIN.inc(sent)
                _LOG.warning("opens were missing from the report and are published again", count=sent)


class _Full(Exception):
    """As many opens are under way again as may be at once; the others wait until some of them have arrived."""


def _floor(moment: datetime, step: timedelta) -> datetime:
    return moment - (moment - datetime(1970, 1, 1, tzinfo=UTC)) % step


def _parts(start: datetime, end: datetime, length: timedelta) -> Iterator[Stretch]:
    while start < end:
        yield Stretch(start, min(start + length, end))
        start += length


def _packs(opens: Sequence[RawOpen]) -> Iterator[Sequence[RawOpen]]:
    while opens:
        count = fitting(len(raw.record) for raw in opens)
        yield opens[:count]
        opens = opens[count:]
