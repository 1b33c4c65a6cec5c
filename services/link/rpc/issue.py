"""Making links, a group at a time: a group of one for CreateLink, groups of 500 for CreateLinks."""

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from datetime import datetime
from uuid import UUID

from opennotice.link.v1 import link_pb2

from services.chassis import clock
from services.chassis.errors import (
    AlreadyExists,
    Faults,
    InvalidArgument,
    NotFound,
    PermissionDenied,
    ServiceError,
)
from services.chassis.identity import caller
from services.chassis.names import format_name, new_id
from services.chassis.postgres import Connection
from services.link import events
from services.link.link import GROUP, Link, LinkDraft, Refusal, Surroundings, refusal_of
from services.link.once import Claim
from services.link.rpc import shapes
from services.link.rpc.desk import own_officer, reused
from services.link.store import feed, links, people, portals
from services.link.token import TokenKeys, TokenKind, token_hash

# A caller that waits for an answer before it sends more gets one for what it sent so far.
_GATHER_SECONDS = 0.5
_OTHER_THAN_INVALID: Mapping[str, type[ServiceError]] = {
    "PORTAL_UNKNOWN": NotFound,
    "PAGE_UNKNOWN": NotFound,
    "CLIENT_UNKNOWN": NotFound,
    "MESSAGE_UNKNOWN": NotFound,
    "SHARED_LINK_REFUSED": PermissionDenied,
}
Outcome = Link | ServiceError


async def groups(
    requests: AsyncIterator[link_pb2.CreateLinkRequest],
) -> AsyncIterator[list[link_pb2.CreateLinkRequest]]:
    """Gathers requests into groups: a full one at once, a smaller one at the end or when nothing comes for a while."""
    # Read ahead while a group is being made, up to one group more.
    arrived: asyncio.Queue[link_pb2.CreateLinkRequest | None] = asyncio.Queue(GROUP)

    async def read() -> None:
        try:
            async for request in requests:
                await arrived.put(request)
        finally:
            await arrived.put(None)

    reading, ended = asyncio.create_task(read()), False
    try:
        while not ended and (first := await arrived.get()) is not None:
            group = [first]
            while len(group) < GROUP and not ended:
                try:
                    request = await _next(arrived)
                except TimeoutError:
                    break
                if request is None:
                    ended = True
                else:
                    group.append(request)
            yield group
        await reading
    finally:
        reading.cancel()


async def _next(arrived: "asyncio.Queue[link_pb2.CreateLinkRequest | None]") -> link_pb2.CreateLinkRequest | None:
    """Returns the next request, or None at the end; raises TimeoutError when none comes for a while."""
    if not arrived.empty():
        return arrived.get_nowait()
    async with asyncio.timeout(_GATHER_SECONDS):
        return await arrived.get()


async def issue(conn: Connection, keys: TokenKeys, requests: Sequence[link_pb2.CreateLinkRequest]) -> list[Outcome]:
    """Makes a group of links; each outcome is a link, new or from an earlier call, or why there is none."""
    now = clock.now()
    outcomes: list[Outcome | None] = [None] * len(requests)
    drafts: dict[int, LinkDraft] = {}
    for place, request in enumerate(requests):
        try:
            drafts[place] = _read(request)
        except InvalidArgument as error:
            outcomes[place] = error
    around = await _surroundings(conn, list(drafts.values()))
    claims = await feed.claims(conn, caller().agency, _request_ids(drafts))
    wanted: dict[UUID, Claim] = {}
    new: dict[UUID, LinkDraft] = {}
    chosen: dict[int, Claim] = {}
    for place, draft in drafts.items():
        # The second of two with the same id in one group is a repetition too.
        claim = claims.get(draft.request_id) or wanted.get(draft.request_id) if draft.request_id else None
        if claim is None:
            if refusal := refusal_of(draft, around, now):
                outcomes[place] = _error(refusal, requests[place])
                continue
            claim = Claim(draft.request_id or UUID(int=0), draft.digest(), new_id())
            new[claim.resource_id] = draft
            if draft.request_id:
                wanted[draft.request_id] = claim
        chosen[place] = claim
    # Another call may have claimed an id since it was looked up; what it stands for now is what counts.
    stands = await feed.claim(conn, caller().agency, list(wanted.values()))
    for request_id, claim in stands.items():
        if claim != wanted[request_id]:
            del new[wanted[request_id].resource_id]
    found = await _store(conn, keys, new, now)
    chosen = {place: stands.get(claim.request_id, claim) for place, claim in chosen.items()}
    earlier = {claim.resource_id for claim in chosen.values()} - found.keys()
    found |= await links.by_id(conn, list(earlier), own_officer())
    for place, claim in chosen.items():
        same = claim.digest == drafts[place].digest()
        outcomes[place] = (found.get(claim.resource_id) if same else None) or reused()
    return [outcome for outcome in outcomes if outcome is not None]


def _request_ids(drafts: Mapping[int, LinkDraft]) -> list[UUID]:
    return [draft.request_id for draft in drafts.values() if draft.request_id]


def _read(request: link_pb2.CreateLinkRequest) -> LinkDraft:
    """Reads one request; raises InvalidArgument when its shape is wrong."""
    given, faults = request.link, Faults()
    if not given.portal:
        faults.add("link.portal", "must be given")
    expire_time = shapes.moment(given, "expire_time", "link.expire_time", faults)
    request_id = shapes.request_uuid(request.request_id, faults)
    faults.stop()
    return LinkDraft(
        portal_id=shapes.reference("portals", given.portal),
        page=given.page,
        client_id=shapes.reference("clients", given.client) if given.client else None,
        message_id=shapes.reference("messages", given.message) if given.message else None,
        expire_time=expire_time,
        request_id=request_id,
    )


async def _surroundings(conn: Connection, drafts: Sequence[LinkDraft]) -> Surroundings:
    own = own_officer()
    client_ids = {draft.client_id for draft in drafts if draft.client_id}
    message_ids = {draft.message_id for draft in drafts if draft.message_id}
    return Surroundings(
        portals=await portals.slugs_of(conn, list({draft.portal_id for draft in drafts})),
        clients=await people.clients_among(conn, list(client_ids), own) if client_ids else frozenset(),
        messages=await people.clients_of_messages(conn, list(message_ids), own) if message_ids else {},
        own_clients_only=own is not None,
    )


async def _store(conn: Connection, keys: TokenKeys, new: Mapping[UUID, LinkDraft], now: datetime) -> dict[UUID, Link]:
    if not new:
        return {}
    version = keys.newest
    # Asked for before the feed is held, to hold it shortly.
    open_portals = await portals.open_among(conn, list({draft.portal_id for draft in new.values()}))
    hashes = [token_hash(keys.token(TokenKind.LINK, link_id, version)) for link_id in new]
    first = await feed.advance(conn, feed.VISITORS, len(new))
    found = [
        Link(
            link_id=link_id,
            agency_id=caller().agency,
            portal_id=draft.portal_id,
            page=draft.page,
            client_id=draft.client_id,
            message_id=draft.message_id,
            expire_time=draft.expire_time,
            revoke_time=None,
            token_hash=hashed,
            key_version=version,
            create_time=now,
            revision=first + place,
            portal_open=draft.portal_id in open_portals,
        )
        for place, ((link_id, draft), hashed) in enumerate(zip(new.items(), hashes, strict=True))
    ]
    await links.insert(conn, found)
    await events.announce_visitors(conn, [events.link_entry(link) for link in found])
    name = format_name("links", found[0].link_id)
    details = {"links": str(len(found))} if len(found) > 1 else {}
    await events.announce_action(conn, caller(), "link.create", name, now, details=details)
    return {link.link_id: link for link in found}


def _error(refusal: Refusal, request: link_pb2.CreateLinkRequest) -> ServiceError:
    cls = _OTHER_THAN_INVALID.get(refusal.reason, InvalidArgument)
    fields = [(refusal.field, refusal.message)]
    if cls is not NotFound:
        return cls(refusal.reason, refusal.message, fields=fields)
    name = str(getattr(request.link, refusal.field.removeprefix("link.")))
    return NotFound(refusal.reason, refusal.message, fields=fields, name=name[:100])


def error_proto(error: ServiceError) -> link_pb2.LinkError:
    """Builds the error of one link among many."""
    field = error.fields[0][0] if error.fields else ""
    if isinstance(error, AlreadyExists):
        field = "request_id"
    return link_pb2.LinkError(reason=error.reason, message=error.message, field=field)
