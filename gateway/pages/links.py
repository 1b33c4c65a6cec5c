"""Links: making one for a client or for a poster, showing its URL, changing its expiry, ending it."""

import asyncio
from datetime import date
from typing import Any

from litestar import Response, get, post
from litestar.di import NamedDependency
from litestar.params import FromPath
from litestar.response import Template
from opennotice.link.v1 import link_pb2

from gateway import words
from gateway.pages import labels
from gateway.pages.clients import messages_of
from gateway.pages.confirm import Ask
from gateway.pages.desk import Desk
from gateway.pages.forms import MENDABLE, Form, read_form
from gateway.pages.link_view import split_target, targets_of
from gateway.pages.open_search import Option
from gateway.pages.times import read_day
from services.chassis.clock import now, to_proto
from services.chassis.errors import FailedPrecondition
from services.chassis.names import new_id

MOST_HOSTED = 30
_FIELDS = ("request_id", "target", "message", "expire_date")
_REFUSALS = {
    "PORTAL_UNKNOWN": "target",
    "PAGE_UNKNOWN": "target",
    "MESSAGE_UNKNOWN": "message",
    "MESSAGE_OF_OTHER_CLIENT": "message",
    "EXPIRE_TIME_PAST": "expire_date",
    "REQUEST_ID_REUSED": "",
}
_NAMES = {"portal": "target", "page": "target", "message": "message", "expire_time": "expire_date"}


@get("/clients/{client_id:str}/links/new", permission="links:write", include_in_schema=False)
async def new_personal_link(desk: NamedDependency[Desk], client_id: FromPath[str]) -> Template:
    """Shows the form for a personal link."""
    client = await _client(desk, f"clients/{client_id}")
    return await _form_page(desk, Form({"request_id": str(new_id())}), client=client)


@post("/clients/{client_id:str}/links/new", permission="links:write", include_in_schema=False)
async def create_personal_link(desk: NamedDependency[Desk], client_id: FromPath[str]) -> Response[Any]:
    """Makes a personal link and shows its URL."""
    form = await read_form(desk.request, *_FIELDS)
    client = await _client(desk, f"clients/{client_id}")
    return await _create(desk, form, client=client)


@get("/portals/{portal_id:str}/links/new", permission="links:write", include_in_schema=False)
async def new_shared_link(desk: NamedDependency[Desk], portal_id: FromPath[str]) -> Template:
    """Shows the form for a shared link."""
    portal = await _portal(desk, f"portals/{portal_id}")
    return await _form_page(desk, Form({"request_id": str(new_id()), "target": portal.name}), portal=portal)


@post("/portals/{portal_id:str}/links/new", permission="links:write", include_in_schema=False)
async def create_shared_link(desk: NamedDependency[Desk], portal_id: FromPath[str]) -> Response[Any]:
    """Makes a shared link and shows its URL."""
    form = await read_form(desk.request, *_FIELDS)
    portal = await _portal(desk, f"portals/{portal_id}")
    return await _create(desk, form, portal=portal)


@get("/links/{link_id:str}/reveal", permission="links:reveal", include_in_schema=False)
async def ask_reveal(desk: NamedDependency[Desk], link_id: FromPath[str]) -> Template:
    """Asks before a URL is shown, as each time is written down."""
    link = await _link(desk, link_id)
    return Ask(
        title="Show the URL",
        sentences=[
            "The URL is a secret: whoever has it can open the page.",
            "That you look at it is written to the audit log.",
        ],
        verb="Show the URL",
        action=f"/{link.name}/reveal",
        back=_owner_href(link),
    ).page(desk)


@post("/links/{link_id:str}/reveal", permission="links:reveal", include_in_schema=False)
async def reveal_link(desk: NamedDependency[Desk], link_id: FromPath[str]) -> Response[Any]:
    """Shows the URL of a link again."""
    await read_form(desk.request)
    asked = link_pb2.RevealLinkRequest(name=f"links/{link_id}")
    return await _shown(desk, await desk.calls.ask(desk.calls.link.RevealLink, asked), created=False)


@get("/links/{link_id:str}/revoke", permission="links:write", include_in_schema=False)
async def ask_revoke(desk: NamedDependency[Desk], link_id: FromPath[str]) -> Template:
    """Asks before a link is ended."""
    link = await _link(desk, link_id)
    return Ask(
        title="Revoke the link",
        sentences=[
            f"It was created {_when(desk, link, 'create_time')}.",
            "Whoever opens it from now on sees that it has ended. Opens are still recorded.",
            "This cannot be undone. You can create a new link at any time.",
        ],
        verb="Revoke the link",
        action=f"/{link.name}/revoke",
        back=_owner_href(link),
        dangerous=True,
    ).page(desk)


@post("/links/{link_id:str}/revoke", permission="links:write", include_in_schema=False)
async def revoke_link(desk: NamedDependency[Desk], link_id: FromPath[str]) -> Response[Any]:
    """Ends a link."""
    await read_form(desk.request)
    asked = link_pb2.RevokeLinkRequest(name=f"links/{link_id}")
    link = await desk.calls.ask(desk.calls.link.RevokeLink, asked)
    return desk.done(_owner_href(link), "The link was revoked. Visitors see that it has ended.")


@get("/links/{link_id:str}/extend", permission="links:write", include_in_schema=False)
async def edit_expiry(desk: NamedDependency[Desk], link_id: FromPath[str]) -> Template:
    """Shows the form for another expiry."""
    link = await _link(desk, link_id)
    return _expiry_page(desk, Form({"expire_date": _last_day(desk, link)}), link)


@post("/links/{link_id:str}/extend", permission="links:write", include_in_schema=False)
async def change_expiry(desk: NamedDependency[Desk], link_id: FromPath[str]) -> Response[Any]:
    """Sets or removes the expiry of a link."""
    form = await read_form(desk.request, "expire_date")
    day = _day(form, desk)
    asked = link_pb2.ExtendLinkRequest(
        name=f"links/{link_id}", expire_time=to_proto(desk.zone.last_moment_of(day)) if day else None
    )
    if not form.problems:
        try:
            link = await desk.calls.ask(desk.calls.link.ExtendLink, asked)
            return desk.done(_owner_href(link), "The expiry of the link was changed.")
        except (*MENDABLE, FailedPrecondition) as error:
            form.refuse(error, _NAMES, _REFUSALS)
    return _expiry_page(desk, form, await _link(desk, link_id))


async def _create(
    desk: Desk, form: Form, *, client: link_pb2.Client | None = None, portal: link_pb2.Portal | None = None
) -> Response[Any]:
    """Answers with the URL itself: a redirect would have to keep the secret somewhere.

    Loading the page again sends the same request id, which makes no second link and shows the same URL.
    """
    form.need("target", "Choose where the link leads.")
    day = _day(form, desk)
    if not form.problems:
        leads_to, page = split_target(form.value("target"))
        link = link_pb2.Link(
            portal=leads_to,
            page=page,
            client=client.name if client else "",
            message=form.value("message"),
            expire_time=to_proto(desk.zone.last_moment_of(day)) if day else None,
        )
        asked = link_pb2.CreateLinkRequest(link=link, request_id=form.value("request_id"))
        try:
            return await _shown(desk, await desk.calls.ask(desk.calls.link.CreateLink, asked), created=True)
        except MENDABLE as error:
            form.refuse(error, _NAMES, _REFUSALS)
    return await _form_page(desk, form, client=client, portal=portal)


def _day(form: Form, desk: Desk) -> date | None:
    """Reads the last day on which a link works."""
    text = form.value("expire_date")
    day = read_day(text)
    if text and day is None:
        form.add("expire_date", "This must be a day that exists, such as 2026-11-23.")
    elif day and desk.zone.last_moment_of(day) <= now():
        form.add("expire_date", "The last day must be today or later.")
        return None
    return day


def _last_day(desk: Desk, link: link_pb2.Link) -> str:
    at = words.moment_of(link, "expire_time")
    return desk.zone.day_of(at).isoformat() if at else ""


async def _form_page(
    desk: Desk, form: Form, *, client: link_pb2.Client | None = None, portal: link_pb2.Portal | None = None
) -> Template:
    portals = [portal] if portal else await _portals(desk)
    back = f"/{(client or portal or link_pb2.Portal()).name}"
    shown = (client or portal or link_pb2.Portal()).display_name
    return desk.page(
        "links/new.html",
        form=form,
        heading=f"New link for {shown}" if client else f"New shared link to {shown}",
        lead="The link is personal: its opens are recorded as this client's."
        if client
        else "A shared link is for a poster, a website or social media. Its opens are recorded without a client.",
        trail=[("Clients", "/clients") if client else ("Portals", "/portals"), (shown, back)],
        portals=targets_of(portals),
        messages=await _message_options(desk, client) if client else [],
        action=f"{back}/links/new",
        back=back,
    )


async def _message_options(desk: Desk, client: link_pb2.Client) -> list[Option]:
    if not desk.may("messages:read"):
        return []
    options = []
    for message in (await messages_of(desk, client.name)).messages:
        channel = labels.CHANNELS.get(words.CHANNEL.word(message.channel) or "", "Message")
        sent = desk.zone.maybe(message, "send_time")
        made = desk.zone.maybe(message, "create_time")
        when = f"sent {sent.date}, {sent.clock}" if sent else f"created {made.date}, {made.clock}" if made else ""
        options.append(Option(message.name, f"{channel}, {when}"))
    return options


async def _portals(desk: Desk) -> list[link_pb2.Portal]:
    """Returns the active portals with their pages; a list has no pages, so hosted ones are asked for one by one."""
    listed = await desk.calls.ask(desk.calls.link.ListPortals, link_pb2.ListPortalsRequest(page_size=200))
    active = [portal for portal in listed.portals if portal.active]
    hosted = [portal.name for portal in active if portal.kind == words.PORTAL_KIND.number("hosted")][:MOST_HOSTED]
    full = {portal.name: portal for portal in await asyncio.gather(*(_portal(desk, name) for name in hosted))}
    return [full.get(portal.name, portal) for portal in active]


async def _shown(desk: Desk, link: link_pb2.Link, *, created: bool) -> Template:
    portal = await _portal(desk, link.portal)
    client = await _client(desk, link.client) if link.client else None
    expires = desk.zone.maybe(link, "expire_time")
    until = f"{expires.date}, {expires.clock} {expires.zone}" if expires else "Never"
    facts = [("Leads to", portal.display_name), ("Page", link.page), ("Expires", until)]
    if client:
        facts.insert(0, ("Client", client.display_name))
    owner = client.display_name if client else portal.display_name
    return desk.page(
        "links/shown.html",
        heading="The link is ready" if created else "URL of the link",
        created=created,
        uri=link.uri,
        facts=[fact for fact in facts if fact[1]],
        personal=client is not None,
        trail=[("Clients", "/clients") if client else ("Portals", "/portals"), (owner, _owner_href(link))],
        back=_owner_href(link),
        back_label=f"Back to {owner}",
    )


def _expiry_page(desk: Desk, form: Form, link: link_pb2.Link) -> Template:
    expires = desk.zone.maybe(link, "expire_time")
    sentence = f"It expires {expires.date}, {expires.clock} {expires.zone}." if expires else "It never expires now."
    return desk.page(
        "links/extend.html",
        form=form,
        trail=[("Back", _owner_href(link))],
        now_sentence=sentence,
        action=f"/{link.name}/extend",
        back=_owner_href(link),
    )


def _owner_href(link: link_pb2.Link) -> str:
    return f"/{link.client or link.portal}"


def _when(desk: Desk, link: link_pb2.Link, field: str) -> str:
    at = desk.zone.maybe(link, field)
    return f"{at.date}, {at.clock} {at.zone}" if at else "some time ago"


async def _link(desk: Desk, link_id: str) -> link_pb2.Link:
    return await desk.calls.ask(desk.calls.link.GetLink, link_pb2.GetLinkRequest(name=f"links/{link_id}"))


async def _client(desk: Desk, name: str) -> link_pb2.Client:
    return await desk.calls.ask(desk.calls.link.GetClient, link_pb2.GetClientRequest(name=name))


async def _portal(desk: Desk, name: str) -> link_pb2.Portal:
    return await desk.calls.ask(desk.calls.link.GetPortal, link_pb2.GetPortalRequest(name=name))
