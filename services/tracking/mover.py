"""Moves opens from the spool to PostgreSQL, and finds out when PostgreSQL takes opens again."""

import asyncio
from collections.abc import Sequence

from services.chassis import clock, log
from services.chassis.dead_letters import DeadLetters
from services.tracking import metrics
from services.tracking.recorder import (
    OPENS_IN_A_PACK,
    PACK_TYPE,
    Recorder,
    canary_pack,
    fitting,
    opens_of,
    pack_of,
)
from services.tracking.spool import SpoolAway
from services.tracking.store.opens import RawOpen
from services.tracking.store.spool import SpooledOpen
from services.tracking.writer import Away, Refused, Writer

_LOG = log.get(__name__)

_CONSUMER = "tracking-recorder"
_INSERT_SECONDS = 3.0
_PAUSE_WHEN_AWAY_SECONDS = 0.5
_PAUSE_SECONDS = 5.0
# A full disk has to be told of within five seconds, also while no open needs it.
_PROBE_SECONDS = 3.0


class Mover:
    """Empties the spool whenever PostgreSQL is there. Its first success is what ends the detour of new opens."""

    def __init__(self, recorder: Recorder, writer: Writer, dead_letters: DeadLetters) -> None:
        self._recorder = recorder
        self._spool = recorder.spool
        self._writer = writer
        self._dead_letters = dead_letters
        dead_letters.on_replay(_CONSUMER, PACK_TYPE, self._replay)

    async def _replay(self, payload: bytes) -> None:
        """Puts an open that had been refused on record; raises when it still is."""
        opens = opens_of(payload)
        await self._writer.insert(opens, *pack_of(opens), limit_seconds=_INSERT_SECONDS)
        self._recorder.committed()

    async def run(self) -> None:
        """Moves for ever."""
        while True:
            self._recorder.spooled.clear()
            while await self._move_some():
                pass
            metrics.SPOOL_SIZE.set(self._spool.size)
            pause = _PAUSE_WHEN_AWAY_SECONDS if self._recorder.is_away else _PAUSE_SECONDS
            try:
                async with asyncio.timeout(pause):
                    await (asyncio.sleep(pause) if self._recorder.is_away else self._recorder.spooled.wait())
            except TimeoutError:
                continue

    async def probe(self) -> None:
        """Tries the spool now and then, so that /ready tells of a full disk before an open needs it."""
        while True:
            await self._spool.probe()
            metrics.SPOOL_FAILING.set(self._spool.fault is not None)
            metrics.SPOOL_PUT_ASIDE.set(self._spool.put_aside)
            if self._spool.bytes_free is not None:
                metrics.DISK_FREE.set(self._spool.bytes_free)
            await asyncio.sleep(_PROBE_SECONDS)

    async def _move_some(self) -> bool:
        """Moves one pack; returns whether to go on at once."""
        try:
            oldest = await self._spool.oldest(OPENS_IN_A_PACK) if self._may_hold_opens() else []
            waiting = oldest[: fitting(len(each.record) for each in oldest)]
        except SpoolAway:
            waiting = []
        try:
            if not waiting:
                if self._recorder.is_away:
                    # Not a question only: on a full disk PostgreSQL answers, and stores nothing.
                    await self._writer.insert([], *canary_pack(clock.now()), limit_seconds=_INSERT_SECONDS)
                    self._recorder.recovered()
                    self._recorder.committed()
                await self._bury()
                return False
            await self._insert(waiting)
            return True
        except Away as error:
            self._recorder.trip(str(error))
        except SpoolAway as error:
            # Stored, but not removed here; the next round stores it again under the same keys, which changes nothing.
            _LOG.warning("opens cannot be removed from the spool", error=str(error))
        return False

    def _may_hold_opens(self) -> bool:
        return self._spool.size > 0 or self._spool.fault is not None

    async def _insert(self, waiting: Sequence[SpooledOpen]) -> None:
        try:
            opens = [_raw(each) for each in waiting]
            await self._writer.insert(opens, *pack_of(opens), limit_seconds=_INSERT_SECONDS)
        except Refused as error:
            if len(waiting) > 1:
                for each in waiting:
                    await self._insert([each])
            else:
                # Out of the way of the others first; it becomes a dead letter when all of them have been moved.
                metrics.REFUSED.inc()
                await self._spool.refuse(waiting[0].place, str(error))
            return
        self._recorder.recovered()
        self._recorder.committed()
        await self._spool.remove([each.place for each in waiting])

    async def _bury(self) -> None:
        """Moves opens that PostgreSQL refused to its dead letters."""
        if not self._may_hold_opens():
            return
        for each in await self._spool.oldest(OPENS_IN_A_PACK, refused=True):
            try:
                await self._dead_letters.keep(
                    consumer=_CONSUMER,
                    subject="tracking.raw_opens",
                    message_type=PACK_TYPE,
                    payload=pack_of([_raw(each)])[1],
                    error=Refused(each.refusal or ""),
                    attempts=1,
                )
            except Exception as error:
                _LOG.warning("a refused open stays in the spool for now", error=type(error).__name__)
                return
            await self._spool.remove([each.place])


def _raw(spooled: SpooledOpen) -> RawOpen:
    return RawOpen(spooled.open_id, spooled.opened_ms, spooled.agency_id, spooled.link_id, spooled.record)
