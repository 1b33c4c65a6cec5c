"""The spool: opens on local disk while PostgreSQL does not take them.

One thread writes; opens that wait while it writes go together into the next commit, which is synced before it returns.

A spool that turns out to be damaged is put aside and a fresh one takes its place at once. What can still be read of the
damaged one is brought back afterwards, beside the ordinary work.
"""

import asyncio
import contextlib
import shutil
import sqlite3
import time
from collections import deque
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
# Opens of a damaged spool come back only while fewer wait here: else a large one would take its room on the disk twice.
_BRING_BACK_BELOW = 5_000
# Between two pieces of a damaged spool, while the fresh one takes no more, while the damaged one cannot be opened:
# visitors come first.
_BETWEEN_PIECES_SECONDS = 0.01
_BRING_BACK_AGAIN_SECONDS = 2.0
_OPEN_AGAIN_SECONDS = 30.0
# Lies beside a damaged spool of which every page was read; else each start would bring the same opens back once more.
_WAS_READ = ".read"
_PARTS = ("-wal", "-shm", _WAS_READ)


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
        # How many damaged ones lie beside it, until somebody has looked at them and taken them away.
        self.put_aside = 0
        # Those of them that may hold opens which can be brought back.
        self._damaged: deque[Path] = deque()
        self._bringing_back: asyncio.Task[None] | None = None

    async def open(self) -> None:
        """Opens the spool and counts what is in it; when the disk does not let it, that is tried again at each use."""
        with contextlib.suppress(OSError):
            # The process before may have ended while it read them, and the disk may read by now what it could not.
            found = await asyncio.get_running_loop().run_in_executor(self._thread, self._beside)
            self._damaged.extend(path for path in found if not path.with_name(path.name + _WAS_READ).exists())
        try:
            await self._in_thread(lambda conn: None)
        except SpoolAway:
            return

    async def close(self) -> None:
        """Writes what still waits, then closes."""
        if self._appending is not None:
            await asyncio.wait({self._appending}, timeout=2)
        self._damaged.clear()
        if self._bringing_back is not None:
            self._bringing_back.cancel()
            await asyncio.wait({self._bringing_back})
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

    async def remove(self, opens: Sequence[SpooledOpen]) -> None:
        """Removes opens that have arrived elsewhere; others that have their places by now stay."""
        removed = await self._in_thread(lambda conn: store.remove_from_spool(conn, opens))
        self.size = max(0, self.size - removed)

    async def refuse(self, spooled: SpooledOpen, refusal: str) -> None:
        """Notes that PostgreSQL will not have an open, and why."""
        await self._in_thread(lambda conn: store.refuse_in_spool(conn, spooled, refusal))

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
            self.put_aside = len(self._beside())
        except OSError:
            self.bytes_free = None
        store.probe_spool(conn)

    async def _in_thread(self, use: Callable[[sqlite3.Connection], T]) -> T:
        loop = asyncio.get_running_loop()
        try:
            found, size = await loop.run_in_executor(self._thread, self._use, use)
        except (sqlite3.Error, OSError) as error:
            self.fault = str(error)
            raise SpoolAway(str(error)) from error
        finally:
            if self._damaged and self._bringing_back is None:
                self._bringing_back = asyncio.create_task(self._bring_back_all())
        self.fault = None
        if size is not None:
            self.size = size
        return found

    def _use(self, use: Callable[[sqlite3.Connection], T]) -> tuple[T, int | None]:
        try:
            return self._use_file(use)
        except sqlite3.DatabaseError as error:
            if not store.is_damage(error):
                raise
            fault = str(error)
        # Not inside "except", where the error may hold on to the old connection: a file is put aside when it is closed,
        # with what its log held.
        self._put_aside(fault)
        # A fresh file that is damaged too is not put aside at once: the next use would meet the same disk.
        return self._use_file(use)

    def _use_file(self, use: Callable[[sqlite3.Connection], T]) -> tuple[T, int | None]:
        size: int | None = None
        try:
            if self._conn is None:
                self._conn = store.open_spool(self._path)
                size = self._count(self._conn)
            return use(self._conn), size
        except sqlite3.Error:
            # The next use begins with a fresh connection: the folder may have been away, the disk full.
            self._disconnect()
            raise

    def _count(self, conn: sqlite3.Connection) -> int:
        """Counts what is in the file, which reads every page of the table: damage shows here at the latest."""
        try:
            return store.spool_size(conn)
        except sqlite3.OperationalError:
            # A place that the disk does not read now keeps no new open out. The mover has to look.
            return max(1, self.size)

    def _put_aside(self, fault: str) -> None:
        aside = self._path.with_name(f"{self._path.name}.broken-{time.time_ns()}")
        # The log before its file: SQLite removes a log that it finds beside a new file.
        for part in ("-wal", "-shm", ""):
            path = self._path.with_name(self._path.name + part)
            if path.exists():
                path.replace(aside.with_name(aside.name + part))
        _LOG.error("the spool is damaged and was put aside", error=fault, file=aside.name)
        self._damaged.append(aside)

    def _beside(self) -> list[Path]:
        """Returns the damaged spools that lie beside this one, the oldest first."""
        found = self._path.parent.glob(f"{self._path.name}.broken-*")
        return sorted(path for path in found if not path.name.endswith(_PARTS))

    async def _bring_back_all(self) -> None:
        # A thread of its own: reading from a dying disk takes seconds, and opens must not wait for it.
        reader = ThreadPoolExecutor(1, thread_name_prefix="spool-damaged")
        try:
            while self._damaged:
                damaged = self._damaged.popleft()
                try:
                    await self._bring_back(reader, damaged)
                except sqlite3.Error as error:
                    if damaged.exists():
                        _LOG.warning("a damaged spool cannot be opened for now", error=str(error))
                        self._damaged.append(damaged)
                        await asyncio.sleep(_OPEN_AGAIN_SECONDS)
        finally:
            self._bringing_back = None
            reader.shutdown(wait=False)

    async def _bring_back(self, reader: ThreadPoolExecutor, damaged: Path) -> None:
        """Puts what can be read of a damaged spool into this one.

        An open may come twice, when the process ends half way or the mover had it in hand: PostgreSQL keeps it once.
        """
        loop = asyncio.get_running_loop()
        pieces, opens, is_whole = store.readable_pieces(damaged), 0, True
        while (piece := await loop.run_in_executor(reader, next, pieces, None)) is not None:
            found, is_piece_whole = piece
            if found:
                await self._append_found(found)
            opens += len(found)
            is_whole = is_whole and is_piece_whole
            await asyncio.sleep(_BETWEEN_PIECES_SECONDS)
        if is_whole:
            with contextlib.suppress(OSError):
                await loop.run_in_executor(reader, damaged.with_name(damaged.name + _WAS_READ).touch)
            _LOG.info("all of a damaged spool was brought back", file=damaged.name, opens=opens)
        else:
            _LOG.error("a part of a damaged spool cannot be read", file=damaged.name, opens_brought_back=opens)

    async def _append_found(self, found: Sequence[SpooledOpen]) -> None:
        rows = [(one.open_id, one.opened_ms, one.agency_id, one.link_id, one.record, one.refusal) for one in found]
        while True:
            if self.size < _BRING_BACK_BELOW:
                try:
                    await self._in_thread(partial(store.append_to_spool, rows=rows))
                except SpoolAway:
                    pass
                else:
                    self.size += len(rows)
                    return
            await asyncio.sleep(_BRING_BACK_AGAIN_SECONDS)

    def _disconnect(self) -> None:
        if self._conn is not None:
            self._conn.close()
            self._conn = None
