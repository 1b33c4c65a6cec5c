"""What the link service publishes, and what it consumes: the agencies' lists of hosts."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime
from uuid import UUID

import grpc
from opennotice.audit.v1 import audit_pb2
from opennotice.auth.v1 import auth_pb2, auth_pb2_grpc
from opennotice.auth.v1 import events_pb2 as auth_events_pb2
from opennotice.link.v1 import events_pb2, link_pb2

from services.chassis import clock, outbox
from services.chassis.consumer import Received
from services.chassis.errors import from_rpc_error
from services.chassis.identity import Caller
from services.chassis.names import new_id, parse_name
from services.chassis.outbox import Wakes
from services.chassis.postgres import Connection, Database
from services.link.client import Client
from services.link.link import Link
from services.link.message import Campaign, Delivery, Message
from services.link.page import Page
from services.link.portal import Portal, Redirect
from services.link.rpc import shapes
from services.link.store import agencies, feed, portals
from services.link.target import host_allowed

SCHEMA = "link"
# Returns the metadata of a call that this process makes for itself.
AsProcess = Callable[[], tuple[tuple[str, str], ...]]
MOST_IN_A_PACK = 500
# Below 256 KiB by what an entry's tag and length and the rest of the event may take.
LARGEST_PACK_BYTES = 250 * 1024


# Entries: the full state of one object as other services keep it.


def portal_entry(portal: Portal, pages: Sequence[Page]) -> link_pb2.DirectoryEntry:
    """Builds the entry of a portal as visitors get it: rendered pages, and switched off while its host is ruled out."""
    shown = shapes.portal_proto(portal, pages, texts=False)
    shown.active = portal.open_to_visitors
    for page, proto in zip(pages, shown.pages, strict=True):
        proto.html = page.html
    return link_pb2.DirectoryEntry(revision=portal.revision, agency_id=str(portal.agency_id), portal=shown)


def link_entry(link: Link) -> link_pb2.DirectoryEntry:
    """Builds the entry of a link."""
    return link_pb2.DirectoryEntry(
        revision=link.revision,
        agency_id=str(link.agency_id),
        link=shapes.link_proto(link),
        token_hash=link.token_hash,
    )


def redirect_entry(redirect: Redirect) -> link_pb2.DirectoryEntry:
    """Builds the entry of a redirect: switched off while its host is ruled out."""
    shown = shapes.redirect_proto(redirect)
    shown.active = redirect.open_to_visitors
    return link_pb2.DirectoryEntry(
        revision=redirect.revision,
        agency_id=str(redirect.agency_id),
        redirect=shown,
        token_hash=redirect.token_hash,
    )


def client_entry(client: Client) -> link_pb2.DirectoryEntry:
    """Builds the entry of a client."""
    return link_pb2.DirectoryEntry(
        revision=client.revision, agency_id=str(client.agency_id), client=shapes.client_proto(client)
    )


def campaign_entry(campaign: Campaign) -> link_pb2.DirectoryEntry:
    """Builds the entry of a campaign."""
    return link_pb2.DirectoryEntry(
        revision=campaign.revision, agency_id=str(campaign.agency_id), campaign=shapes.campaign_proto(campaign)
    )


def message_entry(message: Message, deliveries: Sequence[Delivery]) -> link_pb2.DirectoryEntry:
    """Builds the entry of a message."""
    return link_pb2.DirectoryEntry(
        revision=message.revision,
        agency_id=str(message.agency_id),
        message=shapes.message_proto(message, deliveries),
    )


def packs(entries: Sequence[link_pb2.DirectoryEntry]) -> Iterator[list[link_pb2.DirectoryEntry]]:
    """Cuts entries into packs that fit into one event or one message of an export."""
    pack: list[link_pb2.DirectoryEntry] = []
    size = 0
    for entry in entries:
        entry_size = entry.ByteSize() + 8
        if pack and (len(pack) == MOST_IN_A_PACK or size + entry_size > LARGEST_PACK_BYTES):
            yield pack
            pack, size = [], 0
        pack.append(entry)
        size += entry_size
    if pack:
        yield pack


# Facts, put into the outbox with the change.


async def announce_visitors(conn: Connection, entries: Sequence[link_pb2.DirectoryEntry]) -> None:
    """Tells of changed portals, links and redirects; entries in order of revision."""
    for pack in packs(entries):
        event_id = new_id()
        await outbox.add(conn, SCHEMA, events_pb2.DirectoryChanged(event_id=str(event_id), entries=pack), event_id)


async def announce_people(conn: Connection, entries: Sequence[link_pb2.DirectoryEntry]) -> None:
    """Tells of changed clients, campaigns and messages; entries in order of revision."""
    for pack in packs(entries):
        event_id = new_id()
        await outbox.add(conn, SCHEMA, events_pb2.PeopleChanged(event_id=str(event_id), entries=pack), event_id)


async def announce_action(
    conn: Connection,
    who: Caller,
    verb: str,
    target: str,
    now: datetime,
    *,
    refused: bool = False,
    details: Mapping[str, str] | None = None,
) -> None:
    """Tells the audit log what the caller did, or was refused."""
    event_id = new_id()
    action = audit_pb2.Action(
        action_id=str(event_id),
        act_time=clock.to_proto(now),
        agency_id=str(who.agency),
        actor=who.subject,
        actor_display_name=who.display_name,
        verb=verb,
        target=target,
        outcome=audit_pb2.OUTCOME_REFUSED if refused else audit_pb2.OUTCOME_DONE,
        source_address=who.source_address,
        details=dict(details or {}),
    )
    await outbox.add(conn, SCHEMA, events_pb2.ActionTaken(event_id=str(event_id), action=action), event_id)


# What comes in.


class Agencies:
    """Keeps the copy of the agencies' lists of hosts, and turns targets on and off as they change."""

    def __init__(
        self,
        database: Database,
        relay: Wakes,
        auth: "auth_pb2_grpc.AuthServiceAsyncStub",
        as_process: AsProcess,
    ) -> None:
        self._database = database
        self._relay = relay
        self._auth = auth
        self._as_process = as_process

    async def load(self) -> None:
        """Takes in every agency that the auth service knows; raises Unavailable when it does not answer."""
        try:
            async for agency in self._auth.ExportAgencies(
                auth_pb2.ExportAgenciesRequest(), timeout=10, metadata=self._as_process()
            ):
                await self._take(agency)
        except grpc.aio.AioRpcError as error:
            raise from_rpc_error(error) from error

    async def take_events(self, received: Sequence[Received[auth_events_pb2.AgencyChanged]]) -> None:
        """Takes in changed agencies; an older revision changes nothing."""
        for event in received:
            await self._take(event.message.agency)

    async def _take(self, agency: auth_pb2.Agency) -> None:
        agency_id = parse_name("agencies", agency.name)
        if agency_id is None:
            raise ValueError(f"not the name of an agency: {agency.name[:100]!r}")
        async with self._database.transaction() as conn:
            await apply_hosts(conn, agency_id, [host.lower() for host in agency.allowed_hosts], agency.revision)
        self._relay.wake()


async def apply_hosts(conn: Connection, agency_id: UUID, hosts: Sequence[str], revision: int) -> None:
    """Stores a newer list of hosts and publishes every portal and redirect whose target it allows or rules out."""
    await agencies.hold_targets(conn, agency_id, alone=True)
    if not await agencies.put(conn, agency_id, hosts, revision):
        return
    portal_ids, redirect_ids = await agencies.misjudged(conn, agency_id, lambda host: host_allowed(host, hosts))
    if not portal_ids and not redirect_ids:
        return
    first = await feed.advance(conn, feed.VISITORS, len(portal_ids) + len(redirect_ids))
    await agencies.turn(conn, portal_ids, redirect_ids, first)
    turned = await portals.portals_by_id(conn, portal_ids)
    # Only external portals have targets, so none of these has pages.
    entries = [portal_entry(portal, []) for portal in turned]
    entries += [redirect_entry(redirect) for redirect in await portals.redirects_by_id(conn, redirect_ids)]
    await announce_visitors(conn, entries)
