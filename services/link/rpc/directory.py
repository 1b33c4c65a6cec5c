"""What other services of OpenNotice ask for: one token, or everything, across agencies."""

from collections.abc import AsyncIterator, Sequence

import grpc
from opennotice.link.v1 import link_pb2

from services.chassis.errors import NotFound, invalid
from services.chassis.interceptors import still_valid
from services.chassis.postgres import Connection
from services.link import events
from services.link.client import Client
from services.link.link import Link
from services.link.message import Message
from services.link.portal import Portal
from services.link.rpc.desk import AtDesk
from services.link.store import directory, feed, people, portals

_FEEDS = {link_pb2.FEED_VISITORS: feed.VISITORS, link_pb2.FEED_PEOPLE: feed.PEOPLE}
_HASH_BYTES = 32
Context = grpc.aio.ServicerContext


class Directory(AtDesk):
    """The rpcs for tracking and reporting."""

    async def ResolveToken(self, request: link_pb2.ResolveTokenRequest, context: Context) -> link_pb2.DirectoryEntries:
        """Finds a link with its portal, or a redirect, by the hash of a token."""
        if len(request.token_hash) != _HASH_BYTES:
            raise invalid("token_hash", f"must be {_HASH_BYTES} bytes")
        async with self._desk.directory.transaction() as conn:
            revision = await feed.revision_of(conn, feed.VISITORS)
            found = await directory.by_token(conn, request.token_hash)
            if found is None:
                raise NotFound("LINK_UNKNOWN", "no link and no redirect has this token")
            things: list[directory.Visited] = [found]
            if isinstance(found, Link):
                things.append(await directory.portal_of(conn, found))
                things.sort(key=lambda thing: thing.revision)
            entries = await _visitor_entries(conn, things)
        return link_pb2.DirectoryEntries(entries=entries, complete=True, feed_revision=revision)

    async def ExportDirectory(
        self, request: link_pb2.ExportDirectoryRequest, context: Context
    ) -> AsyncIterator[link_pb2.DirectoryEntries]:
        """Streams everything that changed after a revision, in order of revision.

        Read in slices rather than from one snapshot, so that a slow reader holds no transaction open. What changes
        meanwhile moves to a higher revision and so comes later in the same export; nothing can be missed.
        """
        which = _FEEDS.get(request.feed)
        if which is None:
            raise invalid("feed", "must be visitors or people")
        if request.after_revision < 0:
            raise invalid("after_revision", "must not be negative")
        after, began, complete = request.after_revision, 0, False
        while not complete:
            await still_valid()
            async with self._desk.directory.transaction() as conn:
                # Read first: whatever has a revision up to it is visible to the statements that follow.
                newest = await feed.revision_of(conn, which)
                began = began or newest
                entries = await self._slice(conn, which, after, newest)
            complete = len(entries) < events.MOST_IN_A_PACK
            for pack in events.packs(entries):
                after = pack[-1].revision
                yield link_pb2.DirectoryEntries(entries=pack, feed_revision=began)
        yield link_pb2.DirectoryEntries(complete=True, feed_revision=began)

    async def _slice(self, conn: Connection, which: str, after: int, to: int) -> list[link_pb2.DirectoryEntry]:
        if which == feed.VISITORS:
            return await _visitor_entries(
                conn, await directory.visitors_between(conn, after, to, events.MOST_IN_A_PACK)
            )
        return await _people_entries(conn, await directory.people_between(conn, after, to, events.MOST_IN_A_PACK))


async def _visitor_entries(conn: Connection, things: Sequence[directory.Visited]) -> list[link_pb2.DirectoryEntry]:
    pages = await portals.pages_of(conn, [thing.portal_id for thing in things if isinstance(thing, Portal)])
    entries = []
    for thing in things:
        if isinstance(thing, Portal):
            entries.append(events.portal_entry(thing, pages[thing.portal_id]))
        elif isinstance(thing, Link):
            entries.append(events.link_entry(thing))
        else:
            entries.append(events.redirect_entry(thing))
    return entries


async def _people_entries(conn: Connection, things: Sequence[directory.Person]) -> list[link_pb2.DirectoryEntry]:
    reports = await people.deliveries_of(conn, [thing.message_id for thing in things if isinstance(thing, Message)])
    entries = []
    for thing in things:
        if isinstance(thing, Client):
            entries.append(events.client_entry(thing))
        elif isinstance(thing, Message):
            entries.append(events.message_entry(thing, reports[thing.message_id]))
        else:
            entries.append(events.campaign_entry(thing))
    return entries
