"""Moves opens from the spool to PostgreSQL, and finds out when PostgreSQL takes opens again."""

import asyncio
from collections.abc import Sequence
from uuid import UUID

from services.chassis import clock, log
from services.chassis.dead_letters import DeadLetters
from services.tracking import metrics
from services.tracking.recorder import (
    OPENS_IN_A_PACK,
    PACK_TYPE,
    Recorder,
    canary_pack,
    fitting,
    open_of,
    opens_of,
    pack_of,
)
from services.tracking.spool import SpoolAway
from services.tracking.store.opens import RawOpen
from services.tracking.store.spool import SpooledOpen
from services.tracking.writer import Away, Refused, Writer

_LOG = log.get(__name__)

_CONSUMER = "tracking-recorder"
# What a dead letter holds when no pack can be made of it: the bytes of one open as they lay in the spool.
_DAMAGED_TYPE = "damaged opennotice.tracking.v1.OpenRecorded"
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
        self._is_spool_readable = True
        dead_letters.on_replay(_CONSUMER, PACK_TYPE, self._replay)
        dead_letters.on_replay(_CONSUMER, _DAMAGED_TYPE, self._refuse_damaged)

    async def _replay(self, payload: bytes) -> None:
        """Puts an open that had been refused on record; raises when it still is."""
        opens = opens_of(payload)
        await self._writer.insert(opens, *pack_of(opens), limit_seconds=_INSERT_SECONDS)
        self._recorder.committed()

    async def _refuse_damaged(self, payload: bytes) -> None:
        """Says why there is nothing to be tried again: what would be put on record may never have happened so."""
        raise ValueError("the open was damaged in the spool; its bytes are kept to be read by a person")

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
        oldest = await self._oldest()
        waiting = oldest[: fitting(len(each.record) for each in oldest)]
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

    async def _oldest(self, *, refused: bool = False) -> list[SpooledOpen]:
        if self._spool.size == 0 and self._spool.fault is None:
            return []
        try:
            found = await self._spool.oldest(OPENS_IN_A_PACK, refused=refused)
        except SpoolAway as error:
            # Once: at such a time the log may be the last place for opens, and it forgets the oldest lines.
            if self._is_spool_readable:
                _LOG.warning("the spool cannot be read for now", error=str(error))
            self._is_spool_readable = False
            return []
        self._is_spool_readable = True
        return found

    async def _insert(self, waiting: Sequence[SpooledOpen]) -> None:
        opens, taken = [], []
        for each in waiting:
            try:
                opens.append(_raw(each))
            except ValueError as error:
                # One place that is damaged inside must not hold up all behind it.
                await self._refuse(each, f"{error}; {_told(each)}")
            else:
                taken.append(each)
        if not taken:
            return
        try:
            await self._writer.insert(opens, *pack_of(opens), limit_seconds=_INSERT_SECONDS)
        except Refused as error:
            if len(taken) > 1:
                for each in taken:
                    await self._insert([each])
            else:
                await self._refuse(taken[0], str(error))
            return
        self._recorder.recovered()
        self._recorder.committed()
        await self._spool.remove(taken)

    async def _refuse(self, spooled: SpooledOpen, refusal: str) -> None:
        """Puts an open out of the way of the others; it becomes a dead letter when all of them have been moved."""
        metrics.REFUSED.inc()
        await self._spool.refuse(spooled, refusal)

    async def _bury(self) -> None:
        """Moves opens that were refused to the dead letters."""
        for each in await self._oldest(refused=True):
            message_type, payload = _letter(each)
            try:
                await self._dead_letters.keep(
                    consumer=_CONSUMER,
                    subject="tracking.raw_opens",
                    message_type=message_type,
                    payload=payload,
                    error=Refused(each.refusal or ""),
                    attempts=1,
                )
            except Exception as error:
                _LOG.warning("a refused open stays in the spool for now", error=type(error).__name__)
                return
            await self._spool.remove([each])


def _raw(spooled: SpooledOpen) -> RawOpen:
    """Returns the row of an open; raises ValueError when the place and its record are not of one open."""
    found = open_of(spooled.record)
    stands = (spooled.open_id, spooled.opened_ms, spooled.agency_id, spooled.link_id)
    if stands != (found.open_id.bytes, found.opened_ms, found.agency_id.bytes, found.link_id.bytes):
        raise ValueError("the place in the spool and its record say different things")
    return found._replace(record=spooled.record)


def _told(spooled: SpooledOpen) -> str:
    """Says what stands beside a record that cannot be read: it may tell whose it was."""
    ids = {"open": spooled.open_id, "agency": spooled.agency_id, "link": spooled.link_id}
    told = [f"{name} {UUID(bytes=value) if len(value) == 16 else value.hex()}" for name, value in ids.items()]
    return ", ".join([*told, f"at {spooled.opened_ms} ms"])


def _letter(spooled: SpooledOpen) -> tuple[str, bytes]:
    """Returns message type and bytes of the dead letter of an open."""
    try:
        return PACK_TYPE, pack_of([_raw(spooled)])[1]
    except ValueError:
        return _DAMAGED_TYPE, spooled.record
