"""Creating and editing a portal: an address, or pages with a preview."""

import re
from dataclasses import dataclass
from typing import Any

from litestar import Response, get, post
from litestar.di import NamedDependency
from litestar.params import FromPath
from litestar.response import Template
from markupsafe import Markup
from opennotice.link.v1 import link_pb2

from gateway import words
from gateway.pages.clients import revision_of
from gateway.pages.desk import Desk
from gateway.pages.forms import MENDABLE, Form, read_form
from gateway.pages.portals import portal_of
from services.chassis.errors import Aborted, NotFound
from services.chassis.names import new_id

MOST_PAGES = 50
_PARTS = ("title", "slug", "markdown")
_FIELDS = (
    "display_name",
    "target_uri",
    "request_id",
    "revision",
    "preview",
    "add_page",
    *(f"{part}_{number}" for number in range(1, MOST_PAGES + 1) for part in _PARTS),
)
_REFUSALS = {"TARGET_NOT_ALLOWED": "target_uri", "REQUEST_ID_REUSED": "", "CHANGED_MEANWHILE": ""}
_STARTER = (
    "## What happens next\n\nWrite here what the person has to know: when, where, what to bring, and whom to call."
)


@dataclass(frozen=True)
class PageFields:
    """The fields of one page of a hosted portal."""

    number: int
    title_name: str
    slug_name: str
    markdown_name: str
    preview: Markup | None


@get("/portals/new", permission="portals:write", include_in_schema=False)
async def choose_kind(desk: NamedDependency[Desk]) -> Template:
    """Asks for the kind first, as it never changes."""
    return desk.page("portals/new.html")


@get("/portals/new/{kind:str}", permission="portals:write", include_in_schema=False)
async def new_portal(desk: NamedDependency[Desk], kind: FromPath[str]) -> Template:
    """Shows an empty form."""
    typed: dict[str, str | list[str]] = {"request_id": str(new_id()), "revision": "0"}
    if _hosted(kind):
        typed |= {"title_1": "Hearing details", "slug_1": "hearing-details", "markdown_1": _STARTER}
    return await _form_page(desk, Form(typed), hosted=_hosted(kind), portal=None)


@post("/portals/new/{kind:str}", permission="portals:write", include_in_schema=False)
async def create_portal(desk: NamedDependency[Desk], kind: FromPath[str]) -> Response[Any]:
    """Creates a portal, or shows a preview of one of its pages."""
    form, hosted = await read_form(desk.request, *_FIELDS), _hosted(kind)
    if _only_looking(form) or not _complete(form, hosted):
        return await _form_page(desk, form, hosted=hosted, portal=None)
    asked = link_pb2.CreatePortalRequest(portal=_typed(form, hosted), request_id=form.value("request_id"))
    asked.portal.kind = words.PORTAL_KIND.number(kind)
    try:
        made = await desk.calls.ask(desk.calls.link.CreatePortal, asked)
        return desk.done(f"/{made.name}", "The portal was created. Now create a link that leads to it.")
    except MENDABLE as error:
        form.refuse(error, _names(form), _REFUSALS)
    return await _form_page(desk, form, hosted=hosted, portal=None)


@get("/portals/{portal_id:str}/edit", permission="portals:write", include_in_schema=False)
async def edit_portal(desk: NamedDependency[Desk], portal_id: FromPath[str]) -> Template:
    """Shows a form with the portal as it is now."""
    portal = await portal_of(desk, portal_id)
    typed: dict[str, str | list[str]] = {
        "display_name": portal.display_name,
        "target_uri": portal.target_uri,
        "revision": str(portal.revision),
    }
    for number, page in enumerate(portal.pages, 1):
        typed |= {f"title_{number}": page.title, f"slug_{number}": page.slug, f"markdown_{number}": page.markdown}
    return await _form_page(desk, Form(typed), hosted=_is_hosted(portal), portal=portal)


@post("/portals/{portal_id:str}/edit", permission="portals:write", include_in_schema=False)
async def change_portal(desk: NamedDependency[Desk], portal_id: FromPath[str]) -> Response[Any]:
    """Changes a portal, unless somebody else did meanwhile."""
    form = await read_form(desk.request, *_FIELDS)
    portal = await portal_of(desk, portal_id)
    hosted = _is_hosted(portal)
    if _only_looking(form) or not _complete(form, hosted):
        return await _form_page(desk, form, hosted=hosted, portal=portal)
    asked = link_pb2.UpdatePortalRequest(portal=_typed(form, hosted))
    asked.portal.name, asked.portal.revision = portal.name, revision_of(form)
    asked.update_mask.paths.extend(["display_name", "pages" if hosted else "target_uri"])
    try:
        await desk.calls.ask(desk.calls.link.UpdatePortal, asked)
        return desk.done(f"/{portal.name}", "The portal was changed. Visitors see it within two seconds.")
    except (*MENDABLE, Aborted) as error:
        form.refuse(error, _names(form), _REFUSALS)
    return await _form_page(desk, form, hosted=hosted, portal=portal)


def _hosted(kind: str) -> bool:
    if kind not in words.PORTAL_KIND.all:
        raise NotFound("PORTAL_KIND_UNKNOWN", "There is no such kind of portal.")
    return kind == "hosted"


def _is_hosted(portal: link_pb2.Portal) -> bool:
    return bool(portal.kind == words.PORTAL_KIND.number("hosted"))


def _only_looking(form: Form) -> bool:
    """Tells whether a preview or another page was asked for, and nothing is to be saved."""
    return bool(form.value("preview") or form.value("add_page"))


def _used(form: Form) -> list[int]:
    """Returns the numbers of the pages that hold anything."""
    numbers = range(1, MOST_PAGES + 1)
    return [number for number in numbers if any(form.value(f"{part}_{number}") for part in _PARTS)]


def _complete(form: Form, hosted: bool) -> bool:
    form.need("display_name", "Enter the name.")
    if not hosted:
        form.need("target_uri", "Enter the address.")
        return not form.problems
    for number in _used(form) or [1]:
        form.need(f"title_{number}", f"Enter the title of page {number}.")
        form.need(f"slug_{number}", f"Enter the last part of the address of page {number}.")
        form.need(f"markdown_{number}", f"Enter the text of page {number}.")
    return not form.problems


def _typed(form: Form, hosted: bool) -> link_pb2.Portal:
    portal = link_pb2.Portal(display_name=form.value("display_name"))
    if not hosted:
        portal.target_uri = form.value("target_uri")
        return portal
    for number in _used(form):
        portal.pages.add(**{part: form.value(f"{part}_{number}") for part in _PARTS})
    return portal


def _names(form: Form) -> dict[str, str]:
    """Leads from "pages[0].slug", as the service names a field, to "slug_1"."""
    names = {"display_name": "display_name", "target_uri": "target_uri", "pages": "title_1"}
    for index, number in enumerate(_used(form)):
        for part in _PARTS:
            for prefix in ("", "portal."):
                names[f"{prefix}pages[{index}].{part}"] = f"{part}_{number}"
    return names


async def _form_page(desk: Desk, form: Form, *, hosted: bool, portal: link_pb2.Portal | None) -> Template:
    pages = await _pages(desk, form) if hosted else []
    new = "New portal with pages" if hosted else "New portal on a site of your agency"
    action = f"/{portal.name}/edit" if portal else f"/portals/new/{'hosted' if hosted else 'external'}"
    crumbs = [("Portals", "/portals")] + ([(portal.display_name, f"/{portal.name}")] if portal else [])
    return desk.page(
        "portals/form.html",
        form=form,
        heading="Edit portal" if portal else new,
        verb="Save changes" if portal else "Create the portal",
        trail=crumbs,
        action=action,
        back=f"/{portal.name}" if portal else "/portals",
        hosted=hosted,
        pages=pages,
        may_add=len(pages) < MOST_PAGES,
    )


async def _pages(desk: Desk, form: Form) -> list[PageFields]:
    shown = max(_used(form), default=1)
    if form.value("add_page"):
        shown = min(shown + 1, MOST_PAGES)
    wanted = form.value("preview")
    fields = []
    for number in range(1, shown + 1):
        preview = await _preview(desk, form, number) if wanted == str(number) else None
        title, slug, markdown = (f"{part}_{number}" for part in _PARTS)
        fields.append(PageFields(number, title, slug, markdown, preview))
    return fields


async def _preview(desk: Desk, form: Form, number: int) -> Markup | None:
    title = form.value(f"title_{number}") or "Preview"
    page = link_pb2.Page(title=title, slug="preview", markdown=form.value(f"markdown_{number}"))
    try:
        found = await desk.calls.ask(desk.calls.link.PreviewPage, link_pb2.PreviewPageRequest(page=page))
    except MENDABLE as error:
        names = {part: f"{part}_{number}" for part in _PARTS} | {f"page.{part}": f"{part}_{number}" for part in _PARTS}
        form.refuse(error, names, {})
        return None
    # Sanitized by the service that sanitizes what clients get; our own policy lets no script run besides.
    return Markup(_lower_headings(found.html))  # noqa: S704


def _lower_headings(html: str) -> str:
    """Puts the headings of a previewed page below those of the form around it."""
    return re.sub(r"<(/?)h([1-6])>", lambda match: f"<{match[1]}h{min(int(match[2]) + 2, 6)}>", html)
