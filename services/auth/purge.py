"""Removes what has run out: sessions that ended, and request ids that nobody will repeat."""

import asyncio
from datetime import timedelta

from services.auth import store
from services.chassis import clock, log
from services.chassis.postgres import Database

_LOG = log.get(__name__)
_PAUSE_SECONDS = 3600.0
# A caller that repeats a request after this long has long been told that it failed.
KEEP_REQUESTS = timedelta(days=30)


async def run(ingest: Database) -> None:
    """Removes now, and then once an hour for ever."""
    while True:
        now = clock.now()
        async with ingest.transaction() as conn:
            removed = await store.purge(conn, sessions_before=now, requests_before=now - KEEP_REQUESTS)
        if removed:
            _LOG.info("purged", rows=removed)
        await asyncio.sleep(_PAUSE_SECONDS)
