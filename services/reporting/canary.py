"""Watches for the canary: an event without opens that tracking sends every minute on the way that opens take.

When it stays away, opens stay away too, although nothing else need have failed: a reader that stands still, a stream
that is full, a relay that waits.
"""

import asyncio
from collections.abc import Callable
from datetime import datetime, timedelta

from prometheus_client import Gauge

from services.chassis import log
from services.chassis.postgres import Database
from services.reporting.arrivals import store

_LOG = log.get(__name__)
_AGE = Gauge("opennotice_canary_age_seconds", "Since the newest canary that arrived was sent; one is sent every minute")
_LOOK_SECONDS = 15.0
# Sent every minute; half a minute more is no news.
LATE_AFTER = timedelta(seconds=90)


class CanaryWatch:
    """Tells in the log and a metric when the canary is late."""

    def __init__(self, database: Database, now: Callable[[], datetime]) -> None:
        self._database = database
        self._now = now
        # Before the first one it is late only when it should have come meanwhile.
        self._since = now()
        self.is_late = False

    async def run(self) -> None:
        """Looks for ever; raises when the database is away, and is started again."""
        while True:
            await self.look()
            await asyncio.sleep(_LOOK_SECONDS)

    async def look(self) -> None:
        """Looks once."""
        async with self._database.transaction() as conn:
            sent_at = await store.newest_canary(conn)
        now = self._now()
        age = now - max(sent_at or self._since, self._since)
        _AGE.set(age.total_seconds())
        late = age > LATE_AFTER
        if late and not self.is_late:
            _LOG.error("opens do not come through: the canary is late", seconds=round(age.total_seconds()))
        if self.is_late and not late:
            _LOG.info("opens come through again: the canary arrived")
        self.is_late = late
