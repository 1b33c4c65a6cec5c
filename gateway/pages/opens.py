"""The Opens page: search, live arrival, one open with everything about it."""

import asyncio
from dataclasses import dataclass, field

from litestar import get
from litestar.di import NamedDependency
from litestar.params import FromPath
from litestar.response import ServerSentEvent, Template
from opennotice.link.v1 import link_pb2
from opennotice.reporting.v1 import reporting_pb2

from gateway import live
from gateway.pages import labels
from gateway.pages.desk import AWAY, Desk
from gateway.pages.forms import Form
from gateway.pages.open_search import FIELDS, MORE, Chip, Option, Pages, Search, options_of, search_of
from gateway.pages.open_view import OpenRow, page_of, rows_of
from services.chassis.errors import InvalidArgument

PAGE_SIZE = 50
OTHERS = 20
# Portals in the search form; an agency has a handful, and the list stays usable up to here.
MOST_PORTALS = 200


@dataclass(frozen=True)
class Empty:
    """What to say instead of a table without rows."""

    sentences: list[str]
    checks: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class OpenList:
    """The right side of the page."""

    title: str
    summary: str
    rows: list[OpenRow]
    chips: list[Chip]
    pages: Pages
    live_href: str
    export_href: str
    empty: Empty


@dataclass(frozen=True)
class SearchForm:
    """What the left side of the page offers."""

    portals: list[Option]
    devices: list[Option]
    verdicts: list[Option]
    link_states: list[Option]
    kinds: list[Option]
    more_open: bool


@get("/opens", permission="opens:read", include_in_schema=False)
async def list_opens(desk: NamedDependency[Desk]) -> Template:
    """Shows the opens that match the address, newest first."""
    search = search_of(desk.request.query_params, desk.zone)
    portals, found = await asyncio.gather(portal_options(desk), _found(desk, search))
    answer = desk.page(
        "opens/list.html",
        form=search.form,
        search=_search_form(search, portals),
        list=_list(desk, search, found, portals),
    )
    shown = desk.request.headers.get("hx-current-url", "")
    if "hx-request" in desk.request.headers and not shown.endswith(search.here()):
        # The address shown is the one that leads here again, without the fields that were left empty.
        answer.headers["hx-push-url"] = search.here()
    return answer


@get("/opens/live", permission="opens:read", include_in_schema=False)
async def watch_opens(desk: NamedDependency[Desk]) -> ServerSentEvent:
    """Streams the rows that arrive and match the address."""
    search = search_of(desk.request.query_params, desk.zone)
    if search.form.problems:
        raise InvalidArgument("FILTER_INVALID", search.form.problems[0].message)

    def rows(opens: list[reporting_pb2.Open]) -> str:
        return desk.rows("opens/_rows.html", rows=rows_of(opens, desk.zone))

    return live.opens(desk.request, desk.visitor, search.filter, rows)


@get("/opens/{open_id:str}", permission="opens:read", include_in_schema=False)
async def show_open(desk: NamedDependency[Desk], open_id: FromPath[str]) -> Template:
    """Shows everything about one open, and the other opens of its link."""
    found = await desk.calls.ask(desk.calls.reporting.GetOpen, reporting_pb2.GetOpenRequest(name=f"opens/{open_id}"))
    others = reporting_pb2.ListOpensResponse()
    if found.link:
        same_link = reporting_pb2.OpenFilter(link=found.link)
        asked = reporting_pb2.ListOpensRequest(filter=same_link, page_size=OTHERS + 1)
        others = await desk.calls.ask(desk.calls.reporting.ListOpens, asked)
    view = page_of(found, others.opens, desk.zone, clients=desk.may("clients:read"))
    return desk.page("opens/detail.html", open=view)


async def portal_options(desk: Desk) -> list[Option]:
    """Returns the portals to choose from, by name."""
    if not desk.may("portals:read"):
        return []
    asked = link_pb2.ListPortalsRequest(page_size=MOST_PORTALS)
    try:
        listed = await desk.calls.ask(desk.calls.link.ListPortals, asked)
    except AWAY:
        # Opens are found without the list; only the choice of a portal is missing meanwhile.
        return []
    return [Option(portal.name, portal.display_name) for portal in listed.portals]


async def _found(desk: Desk, search: Search) -> reporting_pb2.ListOpensResponse:
    """Returns the page of opens; what reporting refuses becomes a problem of the form."""
    if search.form.problems:
        return reporting_pb2.ListOpensResponse()
    asked = reporting_pb2.ListOpensRequest(filter=search.filter, page_size=PAGE_SIZE, page_token=search.page_token)
    try:
        return await desk.calls.ask(desk.calls.reporting.ListOpens, asked)
    except InvalidArgument as error:
        search.form.refuse(error, FIELDS, {})
        return reporting_pb2.ListOpensResponse()


def _list(desk: Desk, search: Search, found: reporting_pb2.ListOpensResponse, portals: list[Option]) -> OpenList:
    rows = rows_of(found.opens, desk.zone)
    first_page = not search.page_token
    filtered = bool(search.pairs())
    many = f"{len(rows)} opens" if len(rows) != 1 else "1 open"
    return OpenList(
        title="Newest opens" if first_page else "Older opens",
        summary=f"{many} shown, newest first.{' There are more.' if found.next_page_token else ''}",
        rows=rows,
        chips=search.chips(portals),
        pages=search.pages(found.next_page_token),
        live_href=search.href("/opens/live") if first_page and not search.form.problems else "",
        export_href=search.api_href("/api/v1/opens.csv")
        if desk.may("opens:export") and not search.form.problems and rows
        else "",
        empty=_empty(desk, filtered),
    )


def _empty(desk: Desk, filtered: bool) -> Empty:
    if filtered:
        checks = [
            "An ID must be typed in full. Of a name or a network, a part is enough.",
            "From and To are whole days, both included.",
            "Remove a filter above and look again.",
        ]
        if desk.own_only:
            checks.append("You see the opens of your own clients only.")
        return Empty(["No open matches this search."], checks)
    checks = ["Is the portal active?", "Was a link created and sent?", "Does the link open on your own phone?"]
    if desk.own_only:
        checks.append("You see the opens of your own clients only. Are you their officer?")
    return Empty(
        ["No opens yet. They appear here by themselves, within seconds.", "If you expect some, check:"], checks
    )


def _search_form(search: Search, portals: list[Option]) -> SearchForm:
    return SearchForm(
        portals=portals,
        devices=options_of(labels.DEVICES),
        verdicts=options_of(labels.VERDICTS),
        link_states=options_of(labels.LINK_STATES),
        kinds=options_of(labels.KINDS),
        more_open=any(_used(search.form, name) for name in MORE),
    )


def _used(form: Form, name: str) -> bool:
    return bool(form.value(name)) or form.problem(name) is not None
