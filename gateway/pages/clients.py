"""Clients: the list, one client with everything that happened, and adding or changing one."""

import asyncio
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode

from litestar import Response, get, post
from litestar.di import NamedDependency
from litestar.params import FromPath
from litestar.response import Template
from opennotice.auth.v1 import auth_pb2
from opennotice.link.v1 import link_pb2
from opennotice.reporting.v1 import reporting_pb2

from gateway import words
from gateway.pages import labels
from gateway.pages.desk import AWAY, Desk
from gateway.pages.forms import MENDABLE, Form, read_form, read_query
from gateway.pages.labels import Label
from gateway.pages.link_view import LinkItem, item_of
from gateway.pages.open_search import Option, Pages
from gateway.pages.open_view import opens_href
from gateway.pages.opens import portal_options
from gateway.pages.timeline import entries_of
from gateway.pages.times import Moment
from services.chassis.errors import Aborted, InvalidArgument, NotFound
from services.chassis.names import new_id

PAGE_SIZE = 50
SHOWN_ITEMS = 20
INACTIVE_OFFICER = "Somebody who is not active any more"
_FIELDS = ("display_name", "ref", "email", "phone", "officer")
_REFUSALS = {"REF_TAKEN": "ref", "OFFICER_UNKNOWN": "officer", "REQUEST_ID_REUSED": "", "CHANGED_MEANWHILE": ""}


@dataclass(frozen=True)
class ClientView:
    """One client."""

    href: str
    display_name: str
    ref: str
    email: str
    phone: str
    officer: str
    created: Moment | None
    opens_href: str
    export_href: str


@dataclass(frozen=True)
class MessageItem:
    """One message in a list."""

    channel: str
    status: Label
    sent: Moment | None
    deadline: Moment | None


@get("/clients", permission="clients:read", include_in_schema=False)
async def list_clients(desk: NamedDependency[Desk]) -> Template:
    """Shows the clients whose name or id matches, by name."""
    form = read_query(desk.request.query_params, {"query", "page_token"})
    asked = link_pb2.ListClientsRequest(
        query=form.value("query"), page_size=PAGE_SIZE, page_token=form.value("page_token")
    )
    found, officers = link_pb2.ListClientsResponse(), dict[str, str]()
    try:
        found, officers = await asyncio.gather(desk.calls.ask(desk.calls.link.ListClients, asked), _officers(desk))
    except InvalidArgument as error:
        form.refuse(error, {"query": "query"}, {})
    return desk.page(
        "clients/list.html",
        form=form,
        rows=[_client(desk, client, officers) for client in found.clients],
        caption="Clients that match, by name" if form.value("query") else "Clients, by name",
        own_only=desk.own_only,
        pages=_pages("/clients", form, found.next_page_token, "First page", "Next page"),
    )


@get("/clients/new", permission="clients:write", include_in_schema=False)
async def new_client(desk: NamedDependency[Desk]) -> Template:
    """Shows an empty form."""
    form = Form({"request_id": str(new_id()), "revision": "0"})
    return await _form_page(desk, form, None)


@post("/clients/new", permission="clients:write", include_in_schema=False)
async def create_client(desk: NamedDependency[Desk]) -> Response[Any]:
    """Adds a client."""
    form = await read_form(desk.request, *_FIELDS, "request_id", "revision")
    asked = link_pb2.CreateClientRequest(client=_typed(form), request_id=form.value("request_id"))
    form.need("display_name", "Enter the name.")
    if not form.problems:
        try:
            made = await desk.calls.ask(desk.calls.link.CreateClient, asked)
            return desk.done(f"/{made.name}", "The client was added.")
        except MENDABLE as error:
            form.refuse(error, {name: name for name in _FIELDS}, _REFUSALS)
    return await _form_page(desk, form, None)


@get("/clients/{client_id:str}", permission="clients:read", include_in_schema=False)
async def show_client(desk: NamedDependency[Desk], client_id: FromPath[str]) -> Template:
    """Shows one client with links, messages and the timeline."""
    form = read_query(desk.request.query_params, {"page_token"})
    name = f"clients/{client_id}"
    client = await desk.calls.ask(desk.calls.link.GetClient, link_pb2.GetClientRequest(name=name))
    timeline, officers, (links, more_links), (messages, more_messages) = await asyncio.gather(
        _timeline(desk, name, form.value("page_token")),
        _officers(desk),
        links_of(desk, client=name),
        _messages(desk, name),
    )
    return desk.page(
        "clients/profile.html",
        client=_client(desk, client, officers),
        links=links,
        more_links=more_links,
        messages=messages,
        more_messages=more_messages,
        entries=entries_of(timeline, desk.zone) if timeline else None,
        pages=_pages(f"/{name}", form, timeline.next_page_token if timeline else "", "Newest", "Older"),
    )


@get("/clients/{client_id:str}/edit", permission="clients:write", include_in_schema=False)
async def edit_client(desk: NamedDependency[Desk], client_id: FromPath[str]) -> Template:
    """Shows a form with the client as it is now."""
    asked = link_pb2.GetClientRequest(name=f"clients/{client_id}")
    client = await desk.calls.ask(desk.calls.link.GetClient, asked)
    form = Form({name: getattr(client, name) for name in _FIELDS} | {"revision": str(client.revision)})
    return await _form_page(desk, form, client)


@post("/clients/{client_id:str}/edit", permission="clients:write", include_in_schema=False)
async def change_client(desk: NamedDependency[Desk], client_id: FromPath[str]) -> Response[Any]:
    """Changes a client, unless somebody else did meanwhile."""
    form = await read_form(desk.request, *_FIELDS, "request_id", "revision")
    name = f"clients/{client_id}"
    asked = link_pb2.UpdateClientRequest(client=_typed(form))
    asked.client.name = name
    asked.client.revision = revision_of(form)
    asked.update_mask.paths.extend(field for field in _FIELDS if field != "officer" or not desk.own_only)
    form.need("display_name", "Enter the name.")
    if not form.problems:
        try:
            await desk.calls.ask(desk.calls.link.UpdateClient, asked)
            return desk.done(f"/{name}", "The client was changed.")
        except (*MENDABLE, Aborted) as error:
            form.refuse(error, {field: field for field in _FIELDS}, _REFUSALS)
    return await _form_page(desk, form, link_pb2.Client(name=name, display_name=form.value("display_name")))


def revision_of(form: Form) -> int:
    """Returns the revision that a form was filled in from; anything else than a number counts as an old one."""
    text = form.value("revision")
    return int(text) if text.isascii() and text.isdigit() and len(text) < 18 else -1


async def links_of(desk: Desk, *, client: str = "", portal: str = "") -> tuple[list[LinkItem], bool]:
    """Returns the newest links of a client or portal, and whether there are more."""
    if not desk.may("links:read"):
        return [], False
    asked = link_pb2.ListLinksRequest(client=client, portal=portal, page_size=SHOWN_ITEMS)
    found, portals = await asyncio.gather(desk.calls.ask(desk.calls.link.ListLinks, asked), portal_options(desk))
    names = {option.value: option.label for option in portals}
    return [item_of(link, names, desk.zone) for link in found.links], bool(found.next_page_token)


async def messages_of(desk: Desk, client: str) -> link_pb2.ListMessagesResponse:
    """Returns the newest messages to a client."""
    asked = link_pb2.ListMessagesRequest(client=client, page_size=SHOWN_ITEMS)
    return await desk.calls.ask(desk.calls.link.ListMessages, asked)


async def _messages(desk: Desk, client: str) -> tuple[list[MessageItem], bool]:
    if not desk.may("messages:read"):
        return [], False
    found = await messages_of(desk, client)
    items = [
        MessageItem(
            channel=labels.CHANNELS.get(words.CHANNEL.word(message.channel) or "", "Message"),
            status=labels.DELIVERY_LABELS.get(
                words.DELIVERY_STATUS.word(message.delivery_status) or "", labels.UNKNOWN
            ),
            sent=desk.zone.maybe(message, "send_time"),
            deadline=desk.zone.maybe(message, "deadline_time"),
        )
        for message in found.messages
    ]
    return items, bool(found.next_page_token)


async def _timeline(desk: Desk, client: str, page_token: str) -> reporting_pb2.GetClientTimelineResponse | None:
    """Returns a page of the timeline; None while reporting is away, which must not take the profile away."""
    asked = reporting_pb2.GetClientTimelineRequest(client=client, page_size=PAGE_SIZE, page_token=page_token)
    try:
        return await desk.calls.ask(desk.calls.reporting.GetClientTimeline, asked)
    except NotFound:
        # A client that was added a moment ago is not known to reporting yet: nothing has happened so far.
        return reporting_pb2.GetClientTimelineResponse()
    except AWAY:
        return None


async def _officers(desk: Desk) -> dict[str, str]:
    found = await desk.calls.ask(desk.calls.auth.ListOfficers, auth_pb2.ListOfficersRequest())
    return {officer.name: officer.display_name for officer in found.officers}


def _typed(form: Form) -> link_pb2.Client:
    return link_pb2.Client(
        display_name=form.value("display_name"),
        ref=form.value("ref"),
        email=form.value("email"),
        phone=form.value("phone"),
        officer=form.value("officer"),
    )


def _client(desk: Desk, client: link_pb2.Client, officers: dict[str, str]) -> ClientView:
    export = f"/api/v1/opens.csv?{urlencode({'client': client.name})}"
    return ClientView(
        href=f"/{client.name}",
        display_name=client.display_name,
        ref=client.ref,
        email=client.email,
        phone=client.phone,
        officer=officers.get(client.officer, INACTIVE_OFFICER if client.officer else ""),
        created=desk.zone.maybe(client, "create_time"),
        opens_href=opens_href(client=client.name),
        export_href=export if desk.may("opens:export") else "",
    )


def _pages(path: str, form: Form, next_page_token: str, newer: str, older: str) -> Pages:
    kept = {"query": form.value("query")} if form.value("query") else {}
    first = f"{path}?{urlencode(kept)}" if kept else path
    following = f"{path}?{urlencode(kept | {'page_token': next_page_token})}" if next_page_token else ""
    return Pages(first if form.value("page_token") else "", following, newer, older)


async def _form_page(desk: Desk, form: Form, client: link_pb2.Client | None) -> Template:
    # Who sees only their own clients becomes the officer, and stays it.
    officers = {} if desk.own_only else await _officers(desk)
    if officers and form.value("officer"):
        officers.setdefault(form.value("officer"), INACTIVE_OFFICER)
    crumbs = [("Clients", "/clients")]
    if client is not None:
        crumbs.append((client.display_name or "Client", f"/{client.name}"))
    return desk.page(
        "clients/form.html",
        form=form,
        heading="New client" if client is None else "Edit client",
        verb="Add the client" if client is None else "Save changes",
        trail=crumbs,
        action="/clients/new" if client is None else f"/{client.name}/edit",
        back="/clients" if client is None else f"/{client.name}",
        officers=[Option(name, shown) for name, shown in officers.items()],
    )
