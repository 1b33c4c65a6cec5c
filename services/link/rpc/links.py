"""Links, one by one and ten thousand at a time."""

from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import datetime
from uuid import UUID

import grpc
from opennotice.link.v1 import link_pb2

from services.chassis import clock
from services.chassis.errors import FailedPrecondition, Faults, ResourceExhausted, ServiceError, invalid
from services.chassis.identity import caller
from services.chassis.interceptors import still_valid
from services.chassis.names import format_name
from services.chassis.postgres import Connection
from services.link import events
from services.link.link import MOST_IN_ONE_CALL, Link, state_of
from services.link.rpc import shapes
from services.link.rpc.desk import AtDesk, Desk, not_found, own_officer
from services.link.rpc.issue import Outcome, error_proto, groups, issue
from services.link.store import feed, links
from services.link.token import TokenKind

Context = grpc.aio.ServicerContext


class Links(AtDesk):
    """The rpcs about links."""

    async def CreateLink(self, request: link_pb2.CreateLinkRequest, context: Context) -> link_pb2.Link:
        """Creates a link and returns its address."""
        async with self._desk.transaction() as conn:
            (outcome,) = await issue(conn, self._desk.keys, [request])
            if isinstance(outcome, ServiceError):
                raise outcome
        return _with_uri(self._desk, outcome, clock.now())

    async def CreateLinks(
        self, requests: AsyncIterator[link_pb2.CreateLinkRequest], context: Context
    ) -> AsyncIterator[link_pb2.CreateLinksResponse]:
        """Creates up to 10,000 links in groups that are committed one after the other."""
        index = 0
        async for group in groups(requests):
            if index + len(group) > MOST_IN_ONE_CALL:
                raise ResourceExhausted("TOO_MANY_LINKS", f"at most {MOST_IN_ONE_CALL:,} links in one call")
            await still_valid()
            async with self._desk.transaction() as conn:
                outcomes = await issue(conn, self._desk.keys, group)
            now = clock.now()
            yield link_pb2.CreateLinksResponse(
                results=[_result(self._desk, index + place, outcome, now) for place, outcome in enumerate(outcomes)]
            )
            index += len(group)

    async def GetLink(self, request: link_pb2.GetLinkRequest, context: Context) -> link_pb2.Link:
        """Returns one link without its address."""
        async with self._desk.reading() as conn:
            return _shown(await _named(conn, request.name))

    async def ListLinks(self, request: link_pb2.ListLinksRequest, context: Context) -> link_pb2.ListLinksResponse:
        """Lists links, newest first."""
        window = self._desk.window(request)
        before = UUID(str(window.after[0])) if window.after else None
        of = (
            shapes.reference("clients", request.client) if request.client else None,
            shapes.reference("portals", request.portal) if request.portal else None,
            shapes.reference("messages", request.message) if request.message else None,
        )
        async with self._desk.reading() as conn:
            rows = await links.newest(conn, of, own_officer(), before, window.size + 1)
        shown, token = window.cut(rows, lambda link: [str(link.link_id)])
        return link_pb2.ListLinksResponse(links=[_shown(link) for link in shown], next_page_token=token)

    async def RevokeLink(self, request: link_pb2.RevokeLinkRequest, context: Context) -> link_pb2.Link:
        """Ends a link; ending it again changes nothing."""
        now = clock.now()
        async with self._desk.transaction() as conn:
            before = await _named(conn, request.name, lock=True)
            if before.revoke_time is not None:
                return _shown(before)
            after = replace(before, revoke_time=now, revision=await feed.advance(conn, feed.VISITORS))
            await links.revoke(conn, after.link_id, now, after.revision)
            await _announce(conn, after, "link.revoke", now)
        return _shown(after)

    async def ExtendLink(self, request: link_pb2.ExtendLinkRequest, context: Context) -> link_pb2.Link:
        """Sets or removes the expiry of a link that is not revoked."""
        faults, now = Faults(), clock.now()
        expire_time = shapes.moment(request, "expire_time", "expire_time", faults)
        faults.stop()
        async with self._desk.transaction() as conn:
            before = await _named(conn, request.name, lock=True)
            if before.revoke_time is not None:
                raise FailedPrecondition("LINK_REVOKED", "the link was revoked; make a new one")
            if expire_time is not None and expire_time <= now:
                raise invalid("expire_time", "must be in the future", "EXPIRE_TIME_PAST")
            if before.expire_time == expire_time:
                return _shown(before)
            after = replace(before, expire_time=expire_time, revision=await feed.advance(conn, feed.VISITORS))
            await links.extend(conn, after.link_id, expire_time, after.revision)
            await _announce(conn, after, "link.extend", now)
        return _shown(after)

    async def RevealLink(self, request: link_pb2.RevealLinkRequest, context: Context) -> link_pb2.Link:
        """Shows the address of a link again; the act is committed for the audit log before the caller sees it."""
        now = clock.now()
        async with self._desk.transaction() as conn:
            shown = _with_uri(self._desk, await _named(conn, request.name), now)
            await events.announce_action(conn, caller(), "link.reveal", request.name, now)
        return shown


def _result(desk: Desk, index: int, outcome: Outcome, now: datetime) -> link_pb2.CreateLinkResult:
    if isinstance(outcome, Link):
        return link_pb2.CreateLinkResult(index=index, link=_with_uri(desk, outcome, now))
    return link_pb2.CreateLinkResult(index=index, error=error_proto(outcome))


async def _named(conn: Connection, name: str, *, lock: bool = False) -> Link:
    found = await links.one(conn, shapes.reference("links", name), own_officer(), lock=lock)
    if found is None:
        raise not_found("links", name)
    return found


def _with_uri(desk: Desk, link: Link, now: datetime) -> link_pb2.Link:
    uri = desk.uri(TokenKind.LINK, link.link_id, link.key_version, link.token_hash)
    return shapes.link_proto(link, state=state_of(link, now), uri=uri)


def _shown(link: Link) -> link_pb2.Link:
    return shapes.link_proto(link, state=state_of(link, clock.now()))


async def _announce(conn: Connection, link: Link, verb: str, now: datetime) -> None:
    await events.announce_visitors(conn, [events.link_entry(link)])
    await events.announce_action(conn, caller(), verb, format_name("links", link.link_id), now)
