"""What must be done now and then: partitions ahead of time, the canary, and figures that only PostgreSQL knows."""

import asyncio
from collections.abc import Callable
from uuid import UUID

from services.chassis import clock, log
from services.chassis.postgres import Database
from services.tracking import metrics
from services.tracking.recorder import PACK_SUBJECT, PACK_TYPE, canary_pack
from services.tracking.store import opens as store

_LOG = log.get(__name__)
_PAUSE_SECONDS = 3.0
_PARTITIONS_EVERY = 1_200  # rounds, that is an hour
_CANARY_EVERY = 20  # rounds, that is a minute


class Upkeep:
    """Looks after the tables of raw opens."""

    def __init__(self, database: Database, wake: Callable[[], None]) -> None:
        """`wake` tells the relay that there is a pack."""
        self._database = database
        self._wake = wake
        self.outbox_packs = 0

    async def run(self) -> None:
        """Goes on for ever; raises when PostgreSQL is away, and is started again."""
        rounds = 0
        while True:
            if rounds % _PARTITIONS_EVERY == 0:
                await self._make_partitions()
            if rounds % _CANARY_EVERY == 0:
                await self._send_canary()
            async with self._database.transaction() as conn:
                self.outbox_packs = await store.outbox_size(conn)
            metrics.OUTBOX_PACKS.set(self.outbox_packs)
            rounds += 1
            await asyncio.sleep(_PAUSE_SECONDS)

    async def _send_canary(self) -> None:
        """Sends an event without opens on the way that opens take; reporting tells when it stays away."""
        batch_id, pack = canary_pack(clock.now())
        async with self._database.transaction() as conn:
            await store.insert_opens(conn, [], UUID(batch_id), PACK_SUBJECT, PACK_TYPE, pack)
        self._wake()

    async def _make_partitions(self) -> None:
        async with self._database.transaction() as conn:
            if made := await store.make_partitions(conn, clock.now().date()):
                _LOG.info("partitions made", count=made)
        async with self._database.transaction() as conn:
            astray = await store.opens_without_month(conn)
        metrics.ASTRAY.set(astray)
        if astray:
            # Nothing is lost; but a month that has rows here cannot get its own partition without an operator.
            _LOG.error("opens lie in the default partition; is the clock right?", count=astray)
