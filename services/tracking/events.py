"""How the copy of the directory follows link, how link is asked about a token nobody has told us of, and how reporting
is asked what it has.

Changes arrive over plain NATS, the quickest way. Nothing rests on their arriving: revisions are counted without holes,
so a missing one is noticed and everything after the last complete one is asked of link again. The same is done after
every reconnect, while NATS is away, and now and then in any case.
"""

import asyncio
import time
from collections.abc import Callable, Iterable, Sequence
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

import grpc
from google.protobuf.message import DecodeError
from nats.aio.client import Client
from nats.aio.msg import Msg
from opennotice.link.v1 import events_pb2, link_pb2, link_pb2_grpc
from opennotice.reporting.v1 import reporting_pb2

from services.chassis import clock, log
from services.chassis.bus import Bus, subject_for
from services.chassis.names import parse_name, parse_uuid
from services.tracking import metrics
from services.tracking.directory import Changes, Directory
from services.tracking.link import Link, Page, Portal, Redirect
from services.tracking.store.directory import PortalWithPages

_LOG = log.get(__name__)

Metadata = Callable[[], tuple[tuple[str, str], ...]]

_SUBJECT = subject_for(events_pb2.DirectoryChanged.DESCRIPTOR)
_TICK_SECONDS = 0.25
# A later pack may overtake an earlier one by a moment; only then is a hole a hole.
_GAP_PATIENCE_SECONDS = 0.3
_POLL_WITHOUT_NATS_SECONDS = 1.0
_REPAIR_SECONDS = 30.0
_RETRY_SECONDS = 1.0
# A disk that takes longer hangs; what comes after it must take effect all the same.
_SAVE_SECONDS = 0.5
# How long the copy counts as fresh after a confirmation while NATS is away.
_FRESH_SECONDS = 3.0
_EXPORT_SILENCE_SECONDS = 10.0
_RESOLVE_SECONDS = 0.3
_RESOLVES_AT_ONCE = 256
_UNKNOWN_SECONDS = 1.0
_UNKNOWN_AT_MOST = 50_000
_REPORT_SECONDS = 20.0


def changes_of(entries: Iterable[link_pb2.DirectoryEntry]) -> Changes:
    """Reads directory entries; one that cannot be read is told of and left out, the others count."""
    changes = Changes()
    for entry in entries:
        try:
            _add(changes, entry)
        except ValueError as error:
            _LOG.error("directory entry cannot be read", revision=entry.revision, error=str(error))
    return changes


def _add(changes: Changes, entry: link_pb2.DirectoryEntry) -> None:
    agency_id = _id(parse_uuid(entry.agency_id))
    kind = entry.WhichOneof("entry")
    if kind == "link":
        changes.links.append(_link(entry))
    elif kind == "redirect":
        changes.redirects.append(
            Redirect(
                token_hash=_hash(entry),
                revision=entry.revision,
                agency_id=agency_id,
                redirect_id=_id(parse_name("redirects", entry.redirect.name)),
                target_uri=entry.redirect.target_uri,
                active=entry.redirect.active,
            )
        )
    elif kind == "portal":
        changes.portals.append(_portal(entry, agency_id))
    else:
        raise ValueError(f"is no business of visitors: {kind}")


def _link(entry: link_pb2.DirectoryEntry) -> Link:
    said = entry.link
    return Link(
        token_hash=_hash(entry),
        revision=entry.revision,
        link_id=_id(parse_name("links", said.name)),
        portal_id=_id(parse_name("portals", said.portal)),
        page=said.page,
        client_id=_id(parse_name("clients", said.client)) if said.client else None,
        message_id=_id(parse_name("messages", said.message)) if said.message else None,
        expire_ms=said.expire_time.ToMilliseconds() if said.HasField("expire_time") else None,
        revoked=said.HasField("revoke_time"),
    )


def _portal(entry: link_pb2.DirectoryEntry, agency_id: UUID) -> PortalWithPages:
    said = entry.portal
    pages = tuple(Page(page.slug, page.title, page.html) for page in said.pages)
    portal = Portal(
        portal_id=_id(parse_name("portals", said.name)),
        revision=entry.revision,
        agency_id=agency_id,
        hosted=said.kind == link_pb2.PORTAL_KIND_HOSTED,
        target_uri=said.target_uri,
        active=said.active,
        slugs=tuple(page.slug for page in pages),
        titles=tuple(page.title for page in pages),
    )
    return PortalWithPages(portal, pages)


def _id(found: UUID | None) -> UUID:
    if found is None:
        raise ValueError("has a name that is none")
    return found


def _hash(entry: link_pb2.DirectoryEntry) -> bytes:
    if len(entry.token_hash) != 32:
        raise ValueError("has no token hash")
    return entry.token_hash


class Revisions:
    """Counts which revisions have arrived, given that none is ever skipped."""

    def __init__(self, complete: int) -> None:
        self.complete = complete
        self._ahead: dict[int, int] = {}
        self.gap_since: float | None = None

    def arrived(self, first: int, last: int, now: float) -> None:
        """Notes an unbroken run of revisions."""
        if last > self.complete:
            self._ahead[first] = max(last, self._ahead.get(first, 0))
        self._join(now)

    def confirmed(self, complete: int, now: float) -> None:
        """Notes that everything up to a revision has been taken over."""
        self.complete = max(self.complete, complete)
        self._join(now)

    def _join(self, now: float) -> None:
        for first in sorted(self._ahead):
            if first > self.complete + 1:
                break
            self.complete = max(self.complete, self._ahead.pop(first))
        self.gap_since = (self.gap_since or now) if self._ahead else None


class DirectoryFeed:
    """Keeps the copy up to date."""

    def __init__(
        self, directory: Directory, bus: Bus, stub: "link_pb2_grpc.LinkServiceAsyncStub", metadata: Metadata
    ) -> None:
        self._directory = directory
        self._bus = bus
        self._stub = stub
        self._metadata = metadata
        self._revisions = Revisions(0)
        self._subscribed_to: Client | None = None
        self._reconnects = -1
        # How many reasons there were to ask link, and how many of them the last complete answer covers.
        self._reasons, self._covered = 1, 0
        self._confirmed_at = 0.0
        self._export_failed_at = 0.0
        self._saving: asyncio.Future[bool] | None = None
        self.on_change: list[Callable[[], None]] = []

    @property
    def is_stale(self) -> bool:
        """Whether the copy may be out of date, as far as we know."""
        if self._covered < self._reasons or self._revisions.gap_since is not None:
            return True
        return not self._bus.is_connected and time.monotonic() - self._confirmed_at > _FRESH_SECONDS

    async def run(self) -> None:
        """Follows link for ever."""
        self._revisions = Revisions(self._directory.state.watermark)
        while True:
            await self._subscribe()
            if self._export_is_due(time.monotonic()):
                await self._export()
            self._tell()
            await asyncio.sleep(_TICK_SECONDS)

    async def _subscribe(self) -> None:
        """Listens to changes; after a reconnect something may have been missed meanwhile."""
        if not self._bus.is_connected:
            return
        client = self._bus.client
        if client is not self._subscribed_to:
            await client.subscribe(_SUBJECT, cb=self._take)
            await client.flush()
            self._subscribed_to = client
            self._reasons += 1
        if client.stats["reconnects"] != self._reconnects:
            self._reconnects = client.stats["reconnects"]
            self._reasons += 1

    def _export_is_due(self, now: float) -> bool:
        if now - self._export_failed_at < _RETRY_SECONDS:
            return False
        gap_since = self._revisions.gap_since
        if self._covered < self._reasons or (gap_since is not None and now - gap_since > _GAP_PATIENCE_SECONDS):
            return True
        rest = _REPAIR_SECONDS if self._bus.is_connected and self._directory.is_saved else _POLL_WITHOUT_NATS_SECONDS
        return now - self._confirmed_at > rest

    async def _take(self, message: Msg) -> None:
        try:
            event = events_pb2.DirectoryChanged.FromString(message.data)
        except DecodeError as error:
            # Not kept: link has the truth, and asking it is what follows.
            _LOG.error("directory event cannot be read", error=str(error))
            self._reasons += 1
            return
        if not event.entries:
            return
        self._changed()
        revisions = [entry.revision for entry in event.entries]
        before = self._revisions.complete
        first, last = min(revisions), max(revisions)
        whole = last - first + 1 == len(set(revisions))
        # Memory first: a revoked link must stop working at once, whatever the disk does.
        joins = whole and first <= before + 1
        saved = await self._save(changes_of(event.entries), max(last, before) if joins else None)
        if not saved:
            self._reasons += 1
        elif whole:
            self._revisions.arrived(first, last, time.monotonic())
        else:
            for revision in sorted(set(revisions)):
                self._revisions.arrived(revision, revision, time.monotonic())

    async def _save(self, changes: Changes, watermark: int | None) -> bool:
        """Takes over changes; returns False when they are in memory only, and then link is asked for them again."""
        if self._saving is None or self._saving.done():
            self._saving = asyncio.ensure_future(self._directory.apply(changes, watermark=watermark))
            await asyncio.wait({self._saving}, timeout=_SAVE_SECONDS)
            if self._saving.done():
                return self._saving.result()
        self._directory.hold(changes)
        return False

    async def _export(self, *, begun_anew: bool = False) -> None:
        """Takes over everything that changed after what is complete. What arrived stays when it breaks off."""
        reasons = self._reasons
        after = 0 if begun_anew else self._directory.state.watermark
        request = link_pb2.ExportDirectoryRequest(feed=link_pb2.FEED_VISITORS, after_revision=after)
        call = self._stub.ExportDirectory(request, metadata=self._metadata())
        try:
            complete = await self._take_over(call, begun_anew=begun_anew)
        except (grpc.aio.AioRpcError, TimeoutError, StopAsyncIteration) as error:
            if self._export_failed_at <= self._confirmed_at:
                _LOG.warning("link does not tell what changed", error=_told(error))
            self._export_failed_at = time.monotonic()
            return
        finally:
            call.cancel()
        if complete is None:
            self._export_failed_at = time.monotonic()
        elif complete < after:
            # Link was restored from a backup and counts from an earlier number. What it says now is the truth.
            _LOG.warning("link's revisions began anew; taking over everything", ours=after, theirs=complete)
            self._revisions = Revisions(0)
            await self._export(begun_anew=True)
        else:
            self._directory.all_saved()
            self._revisions.confirmed(complete, time.monotonic())
            self._covered = reasons
            self._confirmed_at = time.monotonic()
            self._changed()

    async def _take_over(self, call: Any, *, begun_anew: bool) -> int | None:
        """Returns the revision up to which everything is saved, None when the disk failed."""
        parts = aiter(call)
        all_saved = True
        while True:
            async with asyncio.timeout(_EXPORT_SILENCE_SECONDS):
                part = await anext(parts)
            # Entries come in order of revision, so a load of millions that breaks off goes on where it was.
            upto = part.feed_revision if part.complete else max((e.revision for e in part.entries), default=None)
            saved = await self._directory.apply(changes_of(part.entries), watermark=upto, begun_anew=begun_anew)
            all_saved = all_saved and saved
            if part.complete:
                return int(part.feed_revision) if all_saved else None

    def _changed(self) -> None:
        for tell in self.on_change:
            tell()

    def _tell(self) -> None:
        metrics.DIRECTORY_LINKS.set(self._directory.state.links)
        metrics.DIRECTORY_REVISION.set(self._directory.state.watermark)
        metrics.DIRECTORY_STALE.set(self.is_stale)
        metrics.DIRECTORY_AGE.set(time.monotonic() - self._confirmed_at if self._confirmed_at else float("inf"))


class LinkSilent(Exception):
    """link did not answer in time, so nobody can say whether the token exists."""


class Resolver:
    """Asks link about a token that the copy does not have."""

    def __init__(self, directory: Directory, stub: "link_pb2_grpc.LinkServiceAsyncStub", metadata: Metadata) -> None:
        self._directory = directory
        self._stub = stub
        self._metadata = metadata
        self._asking: dict[bytes, asyncio.Task[bool | None]] = {}
        self._saving: set[asyncio.Task[bool]] = set()
        self._unknown: dict[bytes, float] = {}
        self.calls = 0

    def forget_unknown(self) -> None:
        """Drops what was found not to exist: something has been created or changed."""
        self._unknown.clear()

    def is_busy(self, at_once: int) -> bool:
        """Whether that many questions are under way."""
        return len(self._asking) >= at_once

    async def resolve(self, token_hash: bytes) -> bool:
        """Returns whether link knows it, and has the copy take it over; those who wait together share one call."""
        found_unknown = self._unknown.get(token_hash)
        if found_unknown is not None and time.monotonic() - found_unknown < _UNKNOWN_SECONDS:
            return False
        asking = self._asking.get(token_hash)
        if asking is None:
            if self.is_busy(_RESOLVES_AT_ONCE):
                raise LinkSilent
            asking = asyncio.create_task(self._ask(token_hash))
            self._asking[token_hash] = asking
            asking.add_done_callback(lambda _: self._asking.pop(token_hash, None))
        await asyncio.wait({asking}, timeout=_RESOLVE_SECONDS)
        answer = asking.result() if asking.done() else None
        if answer is None:
            raise LinkSilent
        return answer

    async def _ask(self, token_hash: bytes) -> bool | None:
        self.calls += 1
        try:
            answer = await self._stub.ResolveToken(
                link_pb2.ResolveTokenRequest(token_hash=token_hash),
                timeout=_RESOLVE_SECONDS,
                metadata=self._metadata(),
            )
        except grpc.aio.AioRpcError as error:
            if error.code() is not grpc.StatusCode.NOT_FOUND:
                return None
            if len(self._unknown) >= _UNKNOWN_AT_MOST:
                self._unknown.clear()
            self._unknown[token_hash] = time.monotonic()
            return False
        changes = changes_of(answer.entries)
        self._directory.remember(changes, keep=True)
        # On disk a moment later: the visitor need not wait for that.
        saving = asyncio.create_task(self._directory.apply(changes))
        self._saving.add(saving)
        saving.add_done_callback(self._saving.discard)
        return True


def _told(error: Exception) -> str:
    return error.code().name if isinstance(error, grpc.aio.AioRpcError) else type(error).__name__


class Report:
    """What reporting has, asked for as this process."""

    def __init__(self, reporting: Any, as_process: Metadata) -> None:
        self._reporting = reporting
        self._as_process = as_process

    async def digests(self, start: datetime, end: datetime, stretch: timedelta) -> dict[datetime, tuple[int, int]]:
        """Returns count and digest of each stretch that holds opens."""
        request = reporting_pb2.DigestOpensRequest(
            start_time=clock.to_proto(start),
            end_time=clock.to_proto(end),
            stretch_seconds=int(stretch.total_seconds()),
        )
        answer = await self._reporting.DigestOpens(request, metadata=self._as_process(), timeout=_REPORT_SECONDS)
        return {clock.from_proto(one.start_time): (one.open_count, one.digest) for one in answer.digests}

    async def missing(self, open_ids: Sequence[UUID]) -> list[UUID]:
        """Returns those of some opens that are not in the report."""
        request = reporting_pb2.FindMissingOpensRequest(open_ids=[str(one) for one in open_ids])
        answer = await self._reporting.FindMissingOpens(request, metadata=self._as_process(), timeout=_REPORT_SECONDS)
        return [UUID(text) for text in answer.open_ids]
