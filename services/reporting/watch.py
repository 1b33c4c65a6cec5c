"""Who is watching for new opens, and which opens they have not been asked about yet.

Every replica hears of every commit; each watcher gets the ids of its agency and looks them up with its own filter.
Nothing here is kept for a slow or cut-off watcher: it is told that it missed something, and lists again.
"""

import asyncio
import json
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from uuid import UUID

from nats.aio.msg import Msg

from services.chassis import log
from services.chassis.bus import Bus
from services.reporting.opens import Key, key_of

_LOG = log.get(__name__)

# What one watcher may have waiting; at 500 opens a second that is two seconds of not reading.
MOST_WAITING = 1_000
_LOOK_SECONDS = 0.5


class Watcher:
    """The opens that one watcher has not been asked about yet."""

    def __init__(self) -> None:
        self._waiting: list[Key] = []
        self._missed = False
        self._woken = asyncio.Event()

    def put(self, arrived: Sequence[Key]) -> None:
        """Adds opens; when too many wait, forgets them all and notes that."""
        if len(self._waiting) + len(arrived) > MOST_WAITING:
            self.miss()
            return
        self._waiting += arrived
        self._woken.set()

    def miss(self) -> None:
        """Notes that some were left out; what waits is part of what has to be listed again."""
        self._waiting, self._missed = [], True
        self._woken.set()

    async def take(self, wait_seconds: float) -> tuple[list[Key], bool]:
        """Returns what arrived and whether some were left out; nothing after waiting in vain."""
        try:
            async with asyncio.timeout(wait_seconds):
                await self._woken.wait()
        except TimeoutError:
            return [], False
        taken, missed = self._waiting, self._missed
        self._waiting, self._missed = [], False
        self._woken.clear()
        return taken, missed


class Watchers:
    """All watchers of this process, fed from plain NATS."""

    def __init__(self, bus: Bus, subject: str) -> None:
        self._bus = bus
        self._subject = subject
        self._of_agency: dict[UUID, set[Watcher]] = defaultdict(set)
        self._numbers: dict[str, int] = {}

    @contextmanager
    def watch(self, agency_id: UUID) -> Iterator[Watcher]:
        """Registers a watcher for the time of a block."""
        watcher = Watcher()
        self._of_agency[agency_id].add(watcher)
        try:
            yield watcher
        finally:
            self._of_agency[agency_id].discard(watcher)
            if not self._of_agency[agency_id]:
                del self._of_agency[agency_id]

    async def run(self) -> None:
        """Listens for ever. Raises when NATS is away; the frame starts it again after a pause."""
        await self._bus.connected()
        client = self._bus.client
        subscription = await client.subscribe(self._subject, cb=self.hear)
        try:
            # Round trip: only now is it certain that the server knows of the subscription.
            await client.flush()
            # Notices that passed before this moment reached nobody here.
            self.miss_all()
            connections = client.stats["reconnects"]
            # The library gives no event for this.
            while self._bus.client is client and client.stats["reconnects"] == connections:  # noqa: ASYNC110
                await asyncio.sleep(_LOOK_SECONDS)
            _LOG.warning("NATS was away; watchers are told to list again")
        finally:
            if not client.is_closed:
                await subscription.unsubscribe()

    def miss_all(self) -> None:
        """Tells every watcher to list again."""
        for watchers in self._of_agency.values():
            for watcher in watchers:
                watcher.miss()

    async def hear(self, message: Msg) -> None:
        """Passes one notice on to the watchers of its agency."""
        try:
            notice = json.loads(message.data)
            source, number = str(notice["source"]), int(notice["number"])
            agency_id = UUID(notice["agency"])
            arrived = [key for text in notice["opens"] if (key := key_of(UUID(text)))]
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            _LOG.warning("notice not readable", error=type(error).__name__)
            return
        before = self._numbers.get(source)
        if len(self._numbers) > 1_000:
            self._numbers.clear()
        self._numbers[source] = number
        if before is not None and number != before + 1:
            self.miss_all()
        for watcher in self._of_agency.get(agency_id, ()):
            watcher.put(arrived)
