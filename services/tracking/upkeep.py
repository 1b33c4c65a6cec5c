"""What must be done now and then: partitions ahead of time, and figures that only PostgreSQL knows."""

import asyncio

from services.chassis import clock, log
from services.chassis.postgres import Database
from services.tracking import metrics
from services.tracking.store import opens as store

_LOG = log.get(__name__)
_PAUSE_SECONDS = 5.0
_PARTITIONS_EVERY = 720  # rounds, that is an hour


class Upkeep:
    """Looks after the tables of raw opens."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self.outbox_packs = 0

    async def run(self) -> None:
        """Goes on for ever; raises when PostgreSQL is away, and is started again."""
        rounds = 0
        while True:
            if rounds % _PARTITIONS_EVERY == 0:
                await self._make_partitions()
            async with self._database.transaction() as conn:
                self.outbox_packs = await store.outbox_size(conn)
            rounds += 1
            await asyncio.sleep(_PAUSE_SECONDS)

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
