"""Portals and the preview of their pages."""

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from uuid import UUID

import grpc
from opennotice.link.v1 import link_pb2

from services.chassis import clock
from services.chassis.errors import Faults, invalid
from services.chassis.identity import caller
from services.chassis.names import format_name, new_id
from services.chassis.postgres import Connection
from services.link import events
from services.link.once import digest_of
from services.link.page import Page, check_page, check_together, render
from services.link.portal import EXTERNAL, HOSTED, Portal, check_display_name, check_kind_fits
from services.link.rpc import shapes
from services.link.rpc.desk import AtDesk, Desk, check_revision, chosen_fields, not_found
from services.link.store import feed, portals
from services.link.target import TargetRefused, host_of
from services.link.wording import search_form

_CHANGEABLE = ("display_name", "target_uri", "active", "pages")
Context = grpc.aio.ServicerContext


class Portals(AtDesk):
    """The rpcs about portals."""

    async def CreatePortal(self, request: link_pb2.CreatePortalRequest, context: Context) -> link_pb2.Portal:
        """Creates a portal."""
        given, faults = request.portal, Faults()
        kind = shapes.portal_kind(given.kind, "portal.kind", faults)
        check_display_name(given.display_name, "portal.display_name", faults.add)
        if kind:
            check_kind_fits(kind, given.target_uri, len(given.pages), "portal", faults.add)
        pages = await _read_pages(given.pages, faults)
        request_id = shapes.request_uuid(request.request_id, faults)
        if kind == EXTERNAL:
            check_target_form(given.target_uri, "portal.target_uri", faults)
        faults.stop()
        await self._desk.know_agency()
        active = given.active if given.HasField("active") else True
        texts = [(page.slug, page.title, page.markdown) for page in pages]
        digest = digest_of("portal", given.display_name, kind, given.target_uri, active, texts)
        portal_id, now = new_id(), clock.now()
        async with self._desk.transaction() as conn:
            if first := await self._desk.claim(conn, request_id, digest, portal_id):
                return await _shown(conn, first)
            host = (
                await self._desk.allowed_target(conn, given.target_uri, "portal.target_uri")
                if kind == EXTERNAL
                else None
            )
            portal = Portal(
                portal_id=portal_id,
                agency_id=caller().agency,
                display_name=given.display_name,
                kind=kind,
                target_uri=given.target_uri,
                target_host=host,
                target_allowed=True,
                active=active,
                create_time=now,
                update_time=now,
                revision=await feed.advance(conn, feed.VISITORS),
            )
            await portals.insert_portal(conn, portal, pages)
            await _announce(conn, portal, pages, "portal.create")
        return shapes.portal_proto(portal, pages)

    async def GetPortal(self, request: link_pb2.GetPortalRequest, context: Context) -> link_pb2.Portal:
        """Returns one portal with its pages."""
        async with self._desk.reading() as conn:
            return await _shown(conn, shapes.reference("portals", request.name), request.name)

    async def ListPortals(self, request: link_pb2.ListPortalsRequest, context: Context) -> link_pb2.ListPortalsResponse:
        """Lists portals by display name, without page texts."""
        window = self._desk.window(request)
        after = (str(window.after[0]), UUID(str(window.after[1]))) if window.after else None
        async with self._desk.reading() as conn:
            rows = await portals.portals_by_name(conn, after, window.size + 1)
            shown, token = window.cut(rows, lambda portal: [search_form(portal.display_name), str(portal.portal_id)])
            pages = await portals.pages_of(conn, [portal.portal_id for portal in shown])
        return link_pb2.ListPortalsResponse(
            portals=[shapes.portal_proto(portal, pages[portal.portal_id], texts=False) for portal in shown],
            next_page_token=token,
        )

    async def UpdatePortal(self, request: link_pb2.UpdatePortalRequest, context: Context) -> link_pb2.Portal:
        """Changes a portal; visitors see it within seconds."""
        given, faults = request.portal, Faults()
        fields = chosen_fields(request.update_mask, given, _CHANGEABLE, faults)
        if "display_name" in fields:
            check_display_name(given.display_name, "portal.display_name", faults.add)
        if "active" in fields and not given.HasField("active"):
            faults.add("portal.active", "must be given")
        pages = await _read_pages(given.pages, faults) if "pages" in fields else None
        faults.stop()
        await self._desk.know_agency()
        portal_id = shapes.reference("portals", given.name)
        async with self._desk.transaction() as conn:
            if "target_uri" in fields:
                await self._desk.hold_targets(conn)
            before = await portals.portal(conn, portal_id, lock=True)
            if before is None:
                raise not_found("portals", given.name)
            check_revision(given.revision, before.revision)
            after = replace(before, **{name: getattr(given, name) for name in fields - {"pages"}})
            after = await _retargeted(self._desk, conn, before, after, None if pages is None else len(pages))
            there = (await portals.pages_of(conn, [before.portal_id]))[before.portal_id]
            if after == before and pages in (None, there):
                return shapes.portal_proto(before, there)
            revision = await feed.advance(conn, feed.VISITORS)
            after = replace(after, update_time=clock.now(), revision=revision)
            await portals.update_portal(conn, after, pages)
            shown = there if pages is None else pages
            await _announce(conn, after, shown, "portal.update")
        return shapes.portal_proto(after, shown)

    async def PreviewPage(self, request: link_pb2.PreviewPageRequest, context: Context) -> link_pb2.PreviewPageResponse:
        """Renders Markdown as the page that a client would see."""
        faults = Faults()
        check_page("preview", request.page.title, request.page.markdown, "page", faults.add)
        faults.stop()
        return link_pb2.PreviewPageResponse(html=await asyncio.to_thread(render, request.page.markdown))


def check_target_form(uri: str, field: str, faults: Faults) -> None:
    """Notes a fault for an address that no agency could allow; raises at once when nothing else is wrong."""
    try:
        host_of(uri)
    except TargetRefused as refusal:
        if not faults.fields:
            raise invalid(field, str(refusal), "TARGET_NOT_ALLOWED") from refusal
        faults.add(field, str(refusal))


async def _read_pages(given: Sequence[link_pb2.Page], faults: Faults) -> list[Page]:
    """Reads and renders pages, noting what is wrong with each."""
    before = len(faults.fields)
    for index, page in enumerate(given):
        check_page(page.slug, page.title, page.markdown, f"portal.pages[{index}]", faults.add)
    if len(faults.fields) > before:
        return []
    # In a thread: a long text takes long enough to hold up every other call.
    html = await asyncio.to_thread(lambda: [render(page.markdown) for page in given])
    pages = [Page(page.slug, page.title, page.markdown, body) for page, body in zip(given, html, strict=True)]
    check_together(pages, "portal.pages", faults.add)
    return pages


async def _retargeted(desk: Desk, conn: Connection, before: Portal, after: Portal, page_count: int | None) -> Portal:
    """Checks what a changed portal has against its kind, and where it leads."""
    faults = Faults()
    if before.kind == HOSTED or page_count:
        check_kind_fits(before.kind, after.target_uri, 1 if page_count is None else page_count, "portal", faults.add)
    faults.stop()
    if before.kind == HOSTED or after.target_uri == before.target_uri:
        return after
    host = await desk.allowed_target(conn, after.target_uri, "portal.target_uri")
    return replace(after, target_host=host, target_allowed=True)


async def _shown(conn: Connection, portal_id: UUID, name: str = "") -> link_pb2.Portal:
    portal = await portals.portal(conn, portal_id)
    if portal is None:
        raise not_found("portals", name)
    return shapes.portal_proto(portal, (await portals.pages_of(conn, [portal_id]))[portal_id])


async def _announce(conn: Connection, portal: Portal, pages: Sequence[Page], verb: str) -> None:
    await events.announce_visitors(conn, [events.portal_entry(portal, pages)])
    name = format_name("portals", portal.portal_id)
    await events.announce_action(conn, caller(), verb, name, portal.update_time)
