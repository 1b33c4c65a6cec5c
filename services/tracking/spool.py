"""The spool: opens on local disk while PostgreSQL does not take them.

One thread writes; opens that wait while it writes go together into the next commit, which is synced before it returns.
"""

import asyncio
import shutil
import sqlite3
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import TypeVar

from services.chassis import log
from services.tracking.store import spool as store
from services.tracking.store.opens import RawOpen
from services.tracking.store.spool import SpooledOpen

_LOG = log.get(__name__)
T = TypeVar("T")

# PostgreSQL has had its time by then, and after the spool there is only the log: a visitor who waits for two seconds on
# a machine that is too busy is better than an open without a record.
APPEND_SECONDS = 1.5
# Opens that may wait for the thread. Above it the disk is so slow that waiting would only use up memory and patience.
_WAITING_AT_MOST = 5_000


class SpoolAway(Exception):
    """The disk did not take the opens in time, or at all."""


class Spool:
    """The spool of this process."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / "spool.sqlite"
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="spool")
        self._conn: sqlite3.Connection | None = None
        self._waiting: list[tuple[Sequence[RawOpen], str | None, asyncio.Future[None]]] = []
        self._waiting_opens = 0
        self._appending: asyncio.Task[None] | None = None
        self._append_began = 0.0
        self.size = 0
        self.fault: str | None = None
        # None until it is known, and while the disk does not tell.
        self.bytes_free: int | None = None
        # How many damaged ones lie beside it, until somebody has looked at them.
        self.put_aside = 0

    async def open(self) -> None:
        """Opens the spool and counts what is in it; when the disk does not let it, that is tried again at each use."""
        try:
            await self._in_thread(lambda conn: None)
        except SpoolAway:
            return

    async def close(self) -> None:
        """Writes what still waits, then closes."""
        if self._appending is not None:
            await asyncio.wait({self._appending}, timeout=2)
        await asyncio.get_running_loop().run_in_executor(self._thread, self._disconnect)
        self._thread.shutdown(wait=False)

    async def append(self, opens: Sequence[RawOpen], refusal: str | None = None) -> None:
        """Returns when the opens are on disk; raises SpoolAway when that did not happen within 1.5 s."""
        if self._waiting_opens + len(opens) > _WAITING_AT_MOST:
            raise SpoolAway("too many opens wait for the disk")
        if self._appending is not None and time.monotonic() - self._append_began > APPEND_SECONDS:
            # The one before is stuck. Waiting again would make each client pay the same time-out.
            raise SpoolAway("the disk hangs")
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((opens, refusal, done))
        self._waiting_opens += len(opens)
        if self._appending is None:
            self._append_began = time.monotonic()
            self._appending = asyncio.create_task(self._append_waiting())
        try:
            await asyncio.wait_for(done, APPEND_SECONDS)
        except TimeoutError:
            raise SpoolAway("the disk is too slow") from None

    async def _append_waiting(self) -> None:
        try:
            while self._waiting:
                taken, self._waiting = self._waiting, []
                self._append_began = time.monotonic()
                count = sum(len(opens) for opens, _, _ in taken)
                rows = [
                    (raw.open_id.bytes, raw.opened_ms, raw.agency_id.bytes, raw.link_id.bytes, raw.record, refusal)
                    for opens, refusal, _ in taken
                    for raw in opens
                ]
                try:
                    await self._in_thread(partial(store.append_to_spool, rows=rows))
                except SpoolAway as error:
                    for _, _, done in taken:
                        if not done.done():
                            done.set_exception(SpoolAway(str(error)))
                else:
                    self.size += count
                    for _, _, done in taken:
                        if not done.done():
                            done.set_result(None)
                finally:
                    self._waiting_opens -= count
        finally:
            self._appending = None

    async def oldest(self, limit: int, *, refused: bool = False) -> list[SpooledOpen]:
        """Returns the opens that have waited longest: those to be tried again, or those that were refused."""
        return await self._in_thread(lambda conn: store.oldest_in_spool(conn, limit, refused=refused))

    async def remove(self, places: Sequence[int]) -> None:
        """Removes opens that have arrived elsewhere."""
        await self._in_thread(lambda conn: store.remove_from_spool(conn, places))
        self.size = max(0, self.size - len(places))

    async def refuse(self, place: int, refusal: str) -> None:
        """Notes that PostgreSQL will not have an open, and why."""
        await self._in_thread(lambda conn: store.refuse_in_spool(conn, place, refusal))

    async def probe(self) -> None:
        """Finds out whether the disk would take an open now; the answer is in `fault`, its room in `bytes_free`."""
        try:
            async with asyncio.timeout(APPEND_SECONDS * 3):
                await self._in_thread(self._try_out)
        except (SpoolAway, TimeoutError) as error:
            self.fault = str(error) or "the disk is too slow"

    def _try_out(self, conn: sqlite3.Connection) -> None:
        try:
            self.bytes_free = shutil.disk_usage(self._path.parent).free
            beside = self._path.parent.glob(f"{self._path.name}.broken-*")
            self.put_aside = sum(not path.name.endswith(("-wal", "-shm")) for path in beside)
        except OSError:
            self.bytes_free = None
        store.probe_spool(conn)

    async def _in_thread(self, use: Callable[[sqlite3.Connection], T]) -> T:
        loop = asyncio.get_running_loop()
        try:
            found, size = await loop.run_in_executor(self._thread, self._use, use)
        except sqlite3.Error as error:
            self.fault = str(error)
            raise SpoolAway(str(error)) from error
        self.fault = None
        if size is not None:
            self.size = size
        return found

    def _use(self, use: Callable[[sqlite3.Connection], T]) -> tuple[T, int | None]:
        size: int | None = None
        if self._conn is None:
            self._conn = self._connect()
            size = store.spool_size(self._conn)
        try:
            return use(self._conn), size
        except sqlite3.Error:
            # The next use begins with a fresh connection: the folder may have been away, the disk full.
            self._disconnect()
            raise

    def _connect(self) -> sqlite3.Connection:
        try:
            return store.open_spool(self._path)
        except sqlite3.OperationalError:
            raise
        except sqlite3.DatabaseError as error:
            # Damaged. It is kept for a person to look at; new opens need a spool that works.
            aside = self._path.with_name(f"{self._path.name}.broken-{int(time.time())}")
            _LOG.error("the spool is damaged and was put aside", error=str(error), file=aside.name)
            for suffix in ("", "-wal", "-shm"):
                path = self._path.with_name(self._path.name + suffix)
                if path.exists():
                    path.replace(aside.with_name(aside.name + suffix))
            return store.open_spool(self._path)

    def _disconnect(self) -> None:
        if self._conn is not None:
            self._conn.close()
            self._conn = None
