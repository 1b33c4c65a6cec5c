"""tracking's own copy of what visitors may ask for: SQLite on local disk, the most used in memory.

A look-up in memory costs a microsecond and is the usual case. Everything that touches the disk runs in threads, because
the event loop must go on answering while a disk is slow.
"""

import asyncio
import contextlib
import sqlite3
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Coroutine, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar
from uuid import UUID

from services.chassis import log
from services.tracking.link import Link, Page, Portal, Redirect
from services.tracking.store import directory as store
from services.tracking.store.directory import FeedState, PortalWithPages

_LOG = log.get(__name__)
T = TypeVar("T")
K = TypeVar("K")

Found = Link | Redirect

IN_MEMORY = 100_000
# What could not be written to a full disk is served from memory up to this many; link has it all, so nothing is lost.
_UNSAVED_AT_MOST = 200_000
# A disk that takes longer is treated as having no answer; link is asked instead.
_READ_SECONDS = 0.5
_PAGES_IN_MEMORY = 512


@dataclass(slots=True)
class Changes:
    """New states to take over, of any kind, in any order."""

    links: list[Link] = field(default_factory=list)
    redirects: list[Redirect] = field(default_factory=list)
    portals: list[PortalWithPages] = field(default_factory=list)


class Directory:
    """The copy: look-ups for the edge, changes from the feed."""

    def __init__(self, folder: Path, in_memory: int = IN_MEMORY) -> None:
        self._path = folder / "directory.sqlite"
        self._in_memory = in_memory
        self._known: OrderedDict[bytes, Found] = OrderedDict()
        self._portals: dict[UUID, Portal] = {}
        self._pages: OrderedDict[tuple[UUID, str], tuple[int, Page]] = OrderedDict()
        # Pages of portals whose change is not on disk yet; else a page could be asked for between memory and disk.
        self._pages_unsaved: dict[UUID, PortalWithPages] = {}
        self._unsaved: OrderedDict[bytes, Found] = OrderedDict()
        self._reading: dict[bytes, asyncio.Future[Found | None]] = {}
        self._reading_pages: dict[tuple[UUID, int, str], asyncio.Future[Page | None]] = {}
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="directory-write")
        self._readers = ThreadPoolExecutor(2, thread_name_prefix="directory-read")
        self._write_conn: sqlite3.Connection | None = None
        self._per_thread = threading.local()
        self._saving = asyncio.Lock()
        self.state = FeedState(0, 0)
        self.is_saved = True

    async def open(self) -> None:
        """Opens the copy. One that cannot be used is put aside and loaded anew; without a disk, memory has to do."""
        loop = asyncio.get_running_loop()
        for attempt in range(2):
            try:
                self.state, portals = await loop.run_in_executor(self._writer, self._open_now)
            except sqlite3.DatabaseError as error:
                _LOG.error("the copy of the directory cannot be opened", error=str(error))
                # "Operational" faults (a full disk, a locked file) are the disk's; the file itself may be fine.
                if isinstance(error, sqlite3.OperationalError) or attempt:
                    self.is_saved = False
                    return
                self._put_aside()
            else:
                self._portals = {portal.portal_id: portal for portal in portals}
                return

    def _open_now(self) -> tuple[FeedState, list[Portal]]:
        try:
            conn = self._write_conn = store.open_directory(self._path)
        except sqlite3.OperationalError as error:
            # A full disk refuses even to open a file for writing; reading what is there still serves every visitor.
            conn = store.open_for_reading(self._path)
            self.is_saved = False
            _LOG.error("the copy of the directory can only be read", error=str(error))
        return store.feed_state(conn), store.all_portals(conn)

    def _put_aside(self) -> None:
        for suffix in ("", "-wal", "-shm"):
            path = self._path.with_name(self._path.name + suffix)
            with contextlib.suppress(OSError):
                path.replace(path.with_name(f"{path.name}.broken-{int(time.time())}"))

    async def close(self) -> None:
        """Ends the threads; the files need no farewell."""
        await asyncio.get_running_loop().run_in_executor(self._writer, self._close_now)
        self._writer.shutdown(wait=False)
        self._readers.shutdown(wait=False)

    def _close_now(self) -> None:
        if self._write_conn is not None:
            self._write_conn.close()

    # Look-ups.

    def known(self, token_hash: bytes) -> Found | None:
        """Returns what is in memory."""
        found = self._known.get(token_hash)
        if found is not None:
            self._known.move_to_end(token_hash)
        return found

    async def find(self, token_hash: bytes) -> Found | None:
        """Returns what the copy has, from memory or disk. A disk that fails has nothing."""
        if found := self.known(token_hash) or self._unsaved.get(token_hash):
            return found
        return await _in_time(self._reading, token_hash, lambda: self._read(token_hash))

    async def _read(self, token_hash: bytes) -> Found | None:
        def look(conn: sqlite3.Connection) -> Found | None:
            return store.find_link(conn, token_hash) or store.find_redirect(conn, token_hash)

        found = await self._in_reader(look)
        # A change may have come while the disk was read; _remember keeps the newer of the two.
        return self._remember(found) if found is not None else self.known(token_hash)

    def portal(self, portal_id: UUID) -> Portal | None:
        """Returns a portal; all of them are in memory."""
        return self._portals.get(portal_id)

    async def page(self, portal: Portal, slug: str) -> Page | None:
        """Returns a page of a portal with its text. A disk that fails has none: the open must not wait for it."""
        key = (portal.portal_id, slug)
        kept = self._pages.get(key)
        if kept is not None and kept[0] == portal.revision:
            self._pages.move_to_end(key)
            return kept[1]
        if unsaved := self._pages_unsaved.get(portal.portal_id):
            return next((page for page in unsaved.pages if page.slug == slug), None)
        wanted = (portal.portal_id, portal.revision, slug)
        return await _in_time(self._reading_pages, wanted, lambda: self._read_page(portal, slug))

    async def _read_page(self, portal: Portal, slug: str) -> Page | None:
        page = await self._in_reader(lambda conn: store.find_page(conn, portal.portal_id, slug))
        if page is not None:
            self._pages[(portal.portal_id, slug)] = (portal.revision, page)
            if len(self._pages) > _PAGES_IN_MEMORY:
                self._pages.popitem(last=False)
        return page

    async def _in_reader(self, look: Callable[[sqlite3.Connection], T]) -> T | None:
        def run() -> T:
            conn = getattr(self._per_thread, "conn", None)
            if conn is None:
                conn = self._per_thread.conn = self._open_reader()
            return look(conn)

        try:
            return await asyncio.get_running_loop().run_in_executor(self._readers, run)
        except sqlite3.Error as error:
            _LOG.error("the copy of the directory cannot be read", error=str(error))
            return None

    def _open_reader(self) -> sqlite3.Connection:
        try:
            return store.open_directory(self._path)
        except sqlite3.OperationalError:
            return store.open_for_reading(self._path)

    # Changes.

    async def apply(self, changes: Changes, *, watermark: int | None = None, begun_anew: bool = False) -> bool:
        """Takes over new states: visible to look-ups at once, on disk when it returns True.

        Older revisions change nothing. When the disk fails, memory keeps what it can, the watermark stays where it was,
        and `is_saved` is False until `all_saved` is told.
        """
        self.remember(changes, begun_anew=begun_anew)
        loop = asyncio.get_running_loop()
        async with self._saving:
            try:
                self.state = await loop.run_in_executor(self._writer, self._save_now, changes, watermark, begun_anew)
            except sqlite3.Error as error:
                if self.is_saved:
                    _LOG.error("the copy of the directory cannot be saved", error=str(error))
                self._keep_unsaved([*changes.links, *changes.redirects])
                self.is_saved = False
                return False
        for entry in changes.portals:
            if self._pages_unsaved.get(entry.portal.portal_id) is entry:
                del self._pages_unsaved[entry.portal.portal_id]
        return True

    def hold(self, changes: Changes) -> None:
        """Takes over new states in memory while the disk hangs; what is on disk counts less than they."""
        self.remember(changes)
        self._keep_unsaved([*changes.links, *changes.redirects])

    def all_saved(self) -> None:
        """Called after an export that was written as a whole: what was kept because of a failing disk may go."""
        self._unsaved.clear()
        self.is_saved = True

    def _save_now(self, changes: Changes, watermark: int | None, begun_anew: bool) -> FeedState:
        if self._write_conn is None:
            self._write_conn = store.open_directory(self._path)
        return store.save_entries(
            self._write_conn, changes.links, changes.redirects, changes.portals, watermark, begun_anew=begun_anew
        )

    def remember(self, changes: Changes, *, keep: bool = False, begun_anew: bool = False) -> None:
        """Takes over new states in memory; `keep` also those of links that nobody has asked for yet."""
        for entry in changes.portals:
            there = self._portals.get(entry.portal.portal_id)
            if there is None or begun_anew or entry.portal.revision > there.revision:
                self._portals[entry.portal.portal_id] = entry.portal
                self._pages_unsaved[entry.portal.portal_id] = entry
        found: Sequence[Found] = [*changes.links, *changes.redirects]
        for each in found:
            # A load of millions must not push out what is in use, so only what is used, or being read, is renewed.
            if keep or each.token_hash in self._known or each.token_hash in self._reading:
                self._remember(each, anew=begun_anew)

    def _remember(self, found: Found, *, anew: bool = False) -> Found:
        there = self._known.get(found.token_hash)
        if there is not None and there.revision >= found.revision and not anew:
            return there
        self._known[found.token_hash] = found
        self._known.move_to_end(found.token_hash)
        if len(self._known) > self._in_memory:
            self._known.popitem(last=False)
        return found

    def _keep_unsaved(self, entries: Sequence[Found]) -> None:
        for each in entries:
            there = self._unsaved.get(each.token_hash)
            if there is None or each.revision > there.revision:
                self._unsaved[each.token_hash] = each
        while len(self._unsaved) > _UNSAVED_AT_MOST:
            self._unsaved.popitem(last=False)


async def _in_time(
    under_way: dict[K, asyncio.Future[T | None]], key: K, read: Callable[[], Coroutine[Any, Any, T | None]]
) -> T | None:
    """Waits for a reading as long as a visitor may, then has nothing. All who ask for the same at a time share one."""
    reading = under_way.get(key)
    if reading is None:
        reading = under_way[key] = asyncio.ensure_future(read())
        reading.add_done_callback(lambda _: under_way.pop(key, None))
    try:
        return await asyncio.wait_for(asyncio.shield(reading), _READ_SECONDS)
    except TimeoutError:
        return None
