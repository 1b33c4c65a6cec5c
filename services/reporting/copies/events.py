"""Keeps the copies of what link owns: from its events, and from its export where events are missing.

The feeds count every change, so a hole is seen. What lies behind the hole is stored all the same, since every entry is
the full state of its object; only the mark "taken in up to here" waits until the hole is filled.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from uuid import UUID

import psycopg
from google.protobuf.timestamp_pb2 import Timestamp
from opennotice.link.v1 import events_pb2, link_pb2

from services.chassis import log
from services.chassis.clock import from_proto
from services.chassis.consumer import Received, is_passing
from services.chassis.dead_letters import DeadLetters
from services.chassis.names import parse_name, parse_uuid
from services.chassis.postgres import Connection, Database
from services.reporting.copies import store
from services.reporting.opens import fold

_LOG = log.get(__name__)

FEEDS = {"visitors": link_pb2.FEED_VISITORS, "people": link_pb2.FEED_PEOPLE}
CONSUMERS = {"visitors": "reporting-directory-changed-v1", "people": "reporting-people-changed-v1"}
# Events that overtook each other close a hole by themselves within this time.
_PATIENCE_SECONDS = 1.0
# Asked now and then without a reason, so that no mistake of ours lasts.
_REPAIR_SECONDS = 600.0

# An entry, and what is copied of it.
_Readable = tuple[link_pb2.DirectoryEntry, store.Copy, list[store.DeliveryCopy]]
Export = Callable[[link_pb2.ExportDirectoryRequest], AsyncIterator[link_pb2.DirectoryEntries]]


def read_entry(entry: link_pb2.DirectoryEntry) -> tuple[store.Copy, list[store.DeliveryCopy]]:
    """Returns what is copied of one entry; raises ValueError for an entry that cannot be right."""
    agency_id = _needed(parse_uuid(entry.agency_id), "agency_id")
    revision = entry.revision
    kind = entry.WhichOneof("entry")
    if revision < 1:
        raise ValueError("an entry without a revision")
    if kind == "portal":
        portal = entry.portal
        return store.PortalCopy(_id("portals", portal.name), agency_id, _text(portal.display_name), revision), []
    if kind == "redirect":
        found = entry.redirect
        return store.RedirectCopy(_id("redirects", found.name), agency_id, _text(found.display_name), revision), []
    if kind == "campaign":
        campaign = entry.campaign
        return store.CampaignCopy(
            _id("campaigns", campaign.name), agency_id, _text(campaign.display_name), revision
        ), []
    if kind == "client":
        return _client(entry.client, agency_id, revision), []
    if kind == "link":
        return _link(entry.link, agency_id, revision), []
    if kind == "message":
        return _message(entry.message, agency_id, revision)
    raise ValueError("an entry without an object that is known here")


def _client(client: link_pb2.Client, agency_id: UUID, revision: int) -> store.ClientCopy:
    return store.ClientCopy(
        client_id=_id("clients", client.name),
        agency_id=agency_id,
        display_name=_text(client.display_name),
        search_name=fold(_text(client.display_name)),
        ref=_text(client.ref),
        officer=_text(client.officer),
        revision=revision,
    )


def _link(link: link_pb2.Link, agency_id: UUID, revision: int) -> store.LinkCopy:
    return store.LinkCopy(
        link_id=_id("links", link.name),
        agency_id=agency_id,
        portal_id=_id("portals", link.portal),
        client_id=_id("clients", link.client) if link.client else None,
        message_id=_id("messages", link.message) if link.message else None,
        expire_time=from_proto(link.expire_time) if link.HasField("expire_time") else None,
        revoke_time=from_proto(link.revoke_time) if link.HasField("revoke_time") else None,
        revision=revision,
    )


def _message(
    message: link_pb2.Message, agency_id: UUID, revision: int
) -> tuple[store.MessageCopy, list[store.DeliveryCopy]]:
    message_id, client_id = _id("messages", message.name), _id("clients", message.client)
    sent: Timestamp = message.send_time if message.HasField("send_time") else message.create_time
    copy = store.MessageCopy(
        message_id=message_id,
        agency_id=agency_id,
        client_id=client_id,
        campaign_id=_id("campaigns", message.campaign) if message.campaign else None,
        sent_at=from_proto(sent),
        record=message.SerializeToString(),
        revision=revision,
    )
    deliveries = [
        store.DeliveryCopy(message_id, from_proto(report.event_time), report.status, agency_id, client_id)
        for report in message.deliveries
        if report.status
    ]
    return copy, deliveries


def _id(collection: str, name: str) -> UUID:
    return _needed(parse_name(collection, name), f"{collection} name")


def _needed(found: UUID | None, what: str) -> UUID:
    if found is None:
        raise ValueError(f"an entry without a valid {what}")
    return found


def _text(text: str) -> str:
    if "\0" in text:
        raise ValueError("an entry with the character NUL")
    return text


class Copies:
    """Takes in both feeds of link."""

    def __init__(self, database: Database, export: Export, dead_letters: DeadLetters) -> None:
        self._database = database
        self._export = export
        self._dead_letters = dead_letters
        for feed in FEEDS:
            dead_letters.on_replay(CONSUMERS[feed], link_pb2.DirectoryEntry.DESCRIPTOR.full_name, self._replay)
        self._holes = {feed: asyncio.Event() for feed in FEEDS}

    async def take_visitors(self, received: Sequence[Received[events_pb2.DirectoryChanged]]) -> None:
        """Takes in portals, links and redirects; commits before it returns."""
        await self._take("visitors", [entry for one in received for entry in one.message.entries])

    async def take_people(self, received: Sequence[Received[events_pb2.PeopleChanged]]) -> None:
        """Takes in clients, campaigns and messages; commits before it returns."""
        await self._take("people", [entry for one in received for entry in one.message.entries])

    async def _replay(self, payload: bytes) -> None:
        """Takes in an entry that had been set aside, unless a newer one came since; raises when it still cannot be."""
        entry = link_pb2.DirectoryEntry.FromString(payload)
        async with self._database.transaction() as conn:
            await _store(conn, [(entry, *read_entry(entry))])

    async def _take(self, feed: str, entries: Sequence[link_pb2.DirectoryEntry]) -> None:
        at = await self._put(feed, entries)
        if any(entry.revision > at for entry in entries):
            self._holes[feed].set()

    async def _put(
        self,
        feed: str,
        entries: Sequence[link_pb2.DirectoryEntry],
        known_up_to: int = 0,
        *,
        come_again: bool = True,
    ) -> int:
        """Stores entries and returns up to which revision the feed has been taken in then.

        One that the database refuses is kept aside alone. When it refuses all of several that is hardly their fault,
        and the error is raised; also when there is only one and it will `come_again`, so that its tries are counted.
        """
        readable: list[_Readable] = []
        refused: list[tuple[link_pb2.DirectoryEntry, Exception]] = []
        for entry in entries:
            try:
                readable.append((entry, *read_entry(entry)))
            except ValueError as error:
                refused.append((entry, error))
        async with self._database.transaction() as conn:
            # Locked first, so that two processes with parts of one change cannot both see a hole and leave it.
            before = await store.feed_revision(conn, feed)
            try:
                await _store(conn, readable)
            except psycopg.Error as error:
                if is_passing(error) or (len(readable) == 1 and come_again):
                    raise
                refused += await _store_each(conn, readable)
            at = _without_hole(max(before, known_up_to), (entry.revision for entry in entries))
            if at > before:
                await store.advance_feed(conn, feed, at)
            # With the mark: nobody exports again what lies before it.
            for entry, fault in refused:
                await self._keep(conn, feed, entry, fault)
        return at

    async def _keep(self, conn: Connection, feed: str, entry: link_pb2.DirectoryEntry, error: Exception) -> None:
        await self._dead_letters.keep(
            consumer=CONSUMERS[feed],
            subject="",
            message_type=entry.DESCRIPTOR.full_name,
            payload=entry.SerializeToString(),
            error=error,
            attempts=1,
            conn=conn,
        )

    async def repair(self, feed: str) -> None:
        """Fills holes from link's export for ever: soon after one shows, and now and then without a reason."""
        while True:
            # Before, not after: a hole that shows while the export runs may lie behind its end.
            self._holes[feed].clear()
            await self.catch_up(feed)
            try:
                async with asyncio.timeout(_REPAIR_SECONDS):
                    await self._holes[feed].wait()
                await asyncio.sleep(_PATIENCE_SECONDS)
            except TimeoutError:
                continue

    async def catch_up(self, feed: str) -> None:
        """Takes in everything that link has after what was taken in so far."""
        async with self._database.transaction() as conn:
            at = await store.feed_revision(conn, feed)
        taken = 0
        request = link_pb2.ExportDirectoryRequest(feed=FEEDS[feed], after_revision=at)
        async for part in self._export(request):
            taken += len(part.entries)
            # Revisions that an object has left behind are not in an export, so only its end tells how far it reaches.
            known_up_to = part.feed_revision if part.complete else 0
            at = await self._put(feed, part.entries, known_up_to, come_again=False)
        if taken:
            _LOG.info("copy caught up", feed=feed, entries=taken, revision=at)


async def _store(conn: Connection, readable: Sequence[_Readable]) -> None:
    """Stores entries all together, or none and raises."""
    async with conn.transaction():
        await store.put(conn, [copy for _, copy, _ in readable])
        if deliveries := [report for _, _, reports in readable for report in reports]:
            await store.put_deliveries(conn, deliveries)


async def _store_each(
    conn: Connection, readable: Sequence[_Readable]
) -> Sequence[tuple[link_pb2.DirectoryEntry, Exception]]:
    """Stores entries one by one and returns those that the database refuses; raises when it refuses all of several."""
    misfits: list[tuple[link_pb2.DirectoryEntry, Exception]] = []
    for one in readable:
        try:
            await _store(conn, [one])
        except psycopg.Error as error:
            if is_passing(error):
                raise
            misfits.append((one[0], error))
    if len(misfits) == len(readable) > 1:
        raise misfits[0][1]
    return misfits


def _without_hole(at: int, revisions: Iterable[int]) -> int:
    """Returns how far the revisions go on from one without leaving any out."""
    for revision in sorted(revisions):
        if revision == at + 1:
            at = revision
    return at
