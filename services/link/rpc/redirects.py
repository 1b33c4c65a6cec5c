"""Redirects."""

from dataclasses import replace
from uuid import UUID

import grpc
from opennotice.link.v1 import link_pb2

from services.chassis import clock
from services.chassis.errors import Faults
from services.chassis.identity import caller
from services.chassis.names import format_name, new_id
from services.chassis.postgres import Connection
from services.link import events
from services.link.once import digest_of
from services.link.portal import Redirect, check_display_name
from services.link.rpc import shapes
from services.link.rpc.desk import AtDesk, Desk, check_revision, chosen_fields, not_found, own_officer
from services.link.rpc.portals import check_target_form
from services.link.store import feed, portals
from services.link.token import TokenKind, token_hash

_CHANGEABLE = ("display_name", "target_uri", "active")
Context = grpc.aio.ServicerContext


class Redirects(AtDesk):
    """The rpcs about redirects."""

    async def CreateRedirect(self, request: link_pb2.CreateRedirectRequest, context: Context) -> link_pb2.Redirect:
        """Creates a redirect and returns its address."""
        given, faults = request.redirect, Faults()
        check_display_name(given.display_name, "redirect.display_name", faults.add)
        request_id = shapes.request_uuid(request.request_id, faults)
        check_target_form(given.target_uri, "redirect.target_uri", faults)
        faults.stop()
        await self._desk.know_agency()
        active = given.active if given.HasField("active") else True
        digest = digest_of("redirect", given.display_name, given.target_uri, active)
        redirect_id, version, now = new_id(), self._desk.keys.newest, clock.now()
        async with self._desk.transaction() as conn:
            if first := await self._desk.claim(conn, request_id, digest, redirect_id):
                return _with_uri(self._desk, await _one(conn, first))
            redirect = Redirect(
                redirect_id=redirect_id,
                agency_id=caller().agency,
                display_name=given.display_name,
                target_uri=given.target_uri,
                target_host=await self._desk.allowed_target(conn, given.target_uri, "redirect.target_uri"),
                target_allowed=True,
                active=active,
                token_hash=token_hash(self._desk.keys.token(TokenKind.REDIRECT, redirect_id, version)),
                key_version=version,
                create_time=now,
                update_time=now,
                revision=await feed.advance(conn, feed.VISITORS),
            )
            await portals.insert_redirect(conn, redirect)
            await _announce(conn, redirect, "redirect.create")
        return _with_uri(self._desk, redirect)

    async def GetRedirect(self, request: link_pb2.GetRedirectRequest, context: Context) -> link_pb2.Redirect:
        """Returns one redirect without its address."""
        async with self._desk.reading() as conn:
            return shapes.redirect_proto(await _named(conn, request.name))

    async def ListRedirects(
        self, request: link_pb2.ListRedirectsRequest, context: Context
    ) -> link_pb2.ListRedirectsResponse:
        """Lists redirects, newest first."""
        window = self._desk.window(request)
        before = UUID(str(window.after[0])) if window.after else None
        async with self._desk.reading() as conn:
            rows = await portals.newest_redirects(conn, before, window.size + 1)
        shown, token = window.cut(rows, lambda redirect: [str(redirect.redirect_id)])
        return link_pb2.ListRedirectsResponse(
            redirects=[shapes.redirect_proto(redirect) for redirect in shown], next_page_token=token
        )

    async def UpdateRedirect(self, request: link_pb2.UpdateRedirectRequest, context: Context) -> link_pb2.Redirect:
        """Changes a redirect; visitors see it within seconds."""
        given, faults = request.redirect, Faults()
        fields = chosen_fields(request.update_mask, given, _CHANGEABLE, faults)
        if "display_name" in fields:
            check_display_name(given.display_name, "redirect.display_name", faults.add)
        if "active" in fields and not given.HasField("active"):
            faults.add("redirect.active", "must be given")
        faults.stop()
        await self._desk.know_agency()
        async with self._desk.transaction() as conn:
            if "target_uri" in fields:
                await self._desk.hold_targets(conn)
            before = await _named(conn, given.name, lock=True)
            check_revision(given.revision, before.revision)
            after = replace(before, **{name: getattr(given, name) for name in fields})
            if after.target_uri != before.target_uri:
                host = await self._desk.allowed_target(conn, after.target_uri, "redirect.target_uri")
                after = replace(after, target_host=host, target_allowed=True)
            if after == before:
                return shapes.redirect_proto(before)
            after = replace(after, update_time=clock.now(), revision=await feed.advance(conn, feed.VISITORS))
            await portals.update_redirect(conn, after)
            await _announce(conn, after, "redirect.update")
        return shapes.redirect_proto(after)

    async def RevealRedirect(self, request: link_pb2.RevealRedirectRequest, context: Context) -> link_pb2.Redirect:
        """Shows the address of a redirect again; the audit log has it before the caller."""
        async with self._desk.transaction() as conn:
            if own_officer() is not None:
                # A redirect is nobody's client's; who sees own clients only sees none of them.
                raise not_found("redirects", request.name)
            shown = _with_uri(self._desk, await _named(conn, request.name))
            await events.announce_action(conn, caller(), "redirect.reveal", request.name, clock.now())
        return shown


async def _named(conn: Connection, name: str, *, lock: bool = False) -> Redirect:
    return await _one(conn, shapes.reference("redirects", name), name, lock=lock)


async def _one(conn: Connection, redirect_id: UUID, name: str = "", *, lock: bool = False) -> Redirect:
    found = await portals.redirect(conn, redirect_id, lock=lock)
    if found is None:
        raise not_found("redirects", name)
    return found


def _with_uri(desk: Desk, redirect: Redirect) -> link_pb2.Redirect:
    uri = desk.uri(TokenKind.REDIRECT, redirect.redirect_id, redirect.key_version, redirect.token_hash)
    return shapes.redirect_proto(redirect, uri=uri)


async def _announce(conn: Connection, redirect: Redirect, verb: str) -> None:
    await events.announce_visitors(conn, [events.redirect_entry(redirect)])
    name = format_name("redirects", redirect.redirect_id)
    await events.announce_action(conn, caller(), verb, name, redirect.update_time)
