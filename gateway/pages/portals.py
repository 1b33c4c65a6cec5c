"""Portals: the list with counts, one portal with its links and opens, the switch."""

import asyncio
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode

from litestar import Response, get, post
from litestar.di import NamedDependency
from litestar.params import FromPath
from litestar.response import Template
from opennotice.link.v1 import link_pb2
from opennotice.reporting.v1 import reporting_pb2

from gateway import words
from gateway.pages import labels
from gateway.pages.clients import links_of
from gateway.pages.confirm import Ask
from gateway.pages.desk import Desk
from gateway.pages.forms import read_form, read_query
from gateway.pages.labels import Label
from gateway.pages.open_search import Pages
from gateway.pages.open_view import opens_href, rows_of
from gateway.pages.times import Moment
from services.chassis.errors import ServiceError

PAGE_SIZE = 50


@dataclass(frozen=True)
class PageItem:
    """One page of a hosted portal."""

    slug: str
    title: str


@dataclass(frozen=True)
class PortalView:
    """One portal."""

    href: str
    display_name: str
    kind: str
    target_uri: str
    status: Label
    active: bool
    created: Moment | None
    updated: Moment | None
    pages: list[PageItem]
    opens: int | None
    opens_href: str


@dataclass(frozen=True)
class Tab:
    """One side of the same thing."""

    label: str
    href: str
    current: bool


@get("/portals", permission="portals:read", include_in_schema=False)
async def list_portals(desk: NamedDependency[Desk]) -> Template:
    """Shows the portals by name, with how often each was opened."""
    form = read_query(desk.request.query_params, {"page_token"})
    asked = link_pb2.ListPortalsRequest(page_size=PAGE_SIZE, page_token=form.value("page_token"))
    found, counts = await asyncio.gather(desk.calls.ask(desk.calls.link.ListPortals, asked), _counts(desk))
    following = f"/portals?{urlencode({'page_token': found.next_page_token})}" if found.next_page_token else ""
    return desk.page(
        "portals/list.html",
        tabs=_tabs(desk, "/portals", "Portals"),
        rows=[_view(desk, portal, counts) for portal in found.portals],
        pages=Pages("/portals" if form.value("page_token") else "", following, "First page", "Next page"),
    )


@get("/portals/opens", permission="opens:read", include_in_schema=False)
async def list_portal_opens(desk: NamedDependency[Desk]) -> Template:
    """Shows the newest opens of all portals: people look for them here too."""
    wanted = reporting_pb2.OpenFilter(kinds=[words.KIND.number("portal")])
    return await _opens_page(desk, None, wanted, opens_href(kind="portal"), _tabs(desk, "/portals", "Opens"))


@get("/portals/{portal_id:str}", permission="portals:read", include_in_schema=False)
async def show_portal(desk: NamedDependency[Desk], portal_id: FromPath[str]) -> Template:
    """Shows one portal with its newest links."""
    portal = await portal_of(desk, portal_id)
    links, more_links = await links_of(desk, portal=portal.name)
    return desk.page(
        "portals/detail.html",
        portal=_view(desk, portal, None),
        tabs=_tabs(desk, f"/{portal.name}", "About"),
        links=links,
        more_links=more_links,
    )


@get("/portals/{portal_id:str}/opens", permission="opens:read", include_in_schema=False)
async def show_portal_opens(desk: NamedDependency[Desk], portal_id: FromPath[str]) -> Template:
    """Shows the newest opens of one portal."""
    portal = await portal_of(desk, portal_id)
    wanted = reporting_pb2.OpenFilter(portal=portal.name)
    tabs = _tabs(desk, f"/{portal.name}", "Opens")
    return await _opens_page(desk, _view(desk, portal, None), wanted, opens_href(portal=portal.name), tabs)


@get("/portals/{portal_id:str}/switch", permission="portals:write", include_in_schema=False)
async def ask_switch(desk: NamedDependency[Desk], portal_id: FromPath[str]) -> Template:
    """Asks before a portal is switched on or off."""
    portal = await portal_of(desk, portal_id)
    on = not portal.active
    return Ask(
        title=f"Switch {portal.display_name} {'on' if on else 'off'}",
        sentences=["Its links lead to it again, within two seconds."]
        if on
        else [
            "Within two seconds, visitors of its links see that the page is not available. Opens are still recorded.",
            "You can switch it on again at any time.",
        ],
        verb="Switch on" if on else "Switch off",
        action=f"/{portal.name}/switch",
        back=f"/{portal.name}",
        hidden=[("active", "yes" if on else "no")],
        dangerous=not on,
    ).page(desk)


@post("/portals/{portal_id:str}/switch", permission="portals:write", include_in_schema=False)
async def switch_portal(desk: NamedDependency[Desk], portal_id: FromPath[str]) -> Response[Any]:
    """Switches a portal on or off; a second click changes nothing more."""
    on = (await read_form(desk.request, "active")).value("active") == "yes"
    asked = link_pb2.UpdatePortalRequest(portal=link_pb2.Portal(name=f"portals/{portal_id}", active=on))
    asked.update_mask.paths.append("active")
    portal = await desk.calls.ask(desk.calls.link.UpdatePortal, asked)
    said = "The portal is switched on. Its links lead to it again."
    return desk.done(
        f"/{portal.name}", said if on else "The portal is switched off. Opens of its links are still recorded."
    )


async def portal_of(desk: Desk, portal_id: str) -> link_pb2.Portal:
    """Returns one portal with its pages."""
    return await desk.calls.ask(desk.calls.link.GetPortal, link_pb2.GetPortalRequest(name=f"portals/{portal_id}"))


async def _opens_page(
    desk: Desk, portal: PortalView | None, wanted: reporting_pb2.OpenFilter, all_href: str, tabs: list[Tab]
) -> Template:
    asked = reporting_pb2.ListOpensRequest(filter=wanted, page_size=PAGE_SIZE)
    found = await desk.calls.ask(desk.calls.reporting.ListOpens, asked)
    rows = rows_of(found.opens, desk.zone)
    return desk.page("portals/opens.html", portal=portal, tabs=tabs, rows=rows, all_href=all_href)


async def _counts(desk: Desk) -> dict[str, int] | None:
    """Counts the opens of each portal; None when they cannot be counted now, which must not take the list away."""
    if not desk.may("opens:read"):
        return None
    asked = reporting_pb2.SummarizeOpensRequest(key=words.SUMMARY_KEY.number("portal"))
    try:
        found = await desk.calls.ask(desk.calls.reporting.SummarizeOpens, asked)
    except ServiceError:
        return None
    return {group.value: group.count for group in found.groups}


def _tabs(desk: Desk, href: str, current: str) -> list[Tab]:
    first = "Portals" if href == "/portals" else "About"
    tabs = [Tab(first, href, current == first)]
    if desk.may("opens:read"):
        tabs.append(Tab("Opens", f"{href}/opens", current == "Opens"))
    return tabs


def _view(desk: Desk, portal: link_pb2.Portal, counts: dict[str, int] | None) -> PortalView:
    kind = words.PORTAL_KIND.word(portal.kind) or ""
    return PortalView(
        href=f"/{portal.name}",
        display_name=portal.display_name,
        kind=labels.PORTAL_KINDS.get(kind, "Other"),
        target_uri=portal.target_uri,
        status=labels.ON if portal.active else labels.OFF,
        active=portal.active,
        created=desk.zone.maybe(portal, "create_time"),
        updated=desk.zone.maybe(portal, "update_time"),
        pages=[PageItem(page.slug, page.title) for page in portal.pages],
        opens=None if counts is None else counts.get(portal.name, 0),
        opens_href=opens_href(portal=portal.name),
    )
