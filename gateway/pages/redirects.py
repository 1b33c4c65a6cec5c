"""Redirects: the list, creating one and showing its URL, editing, the switch."""

from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode

from litestar import Response, get, post
from litestar.di import NamedDependency
from litestar.params import FromPath
from litestar.response import Template
from opennotice.link.v1 import link_pb2

from gateway.pages import labels
from gateway.pages.clients import revision_of
from gateway.pages.confirm import Ask
from gateway.pages.desk import Desk
from gateway.pages.forms import MENDABLE, Form, read_form, read_query
from gateway.pages.labels import Label
from gateway.pages.open_search import Pages
from gateway.pages.open_view import opens_href
from gateway.pages.times import Moment
from services.chassis.errors import Aborted
from services.chassis.names import new_id

PAGE_SIZE = 50
_FIELDS = ("display_name", "target_uri", "request_id", "revision")
_NAMES = {"display_name": "display_name", "target_uri": "target_uri"}
_REFUSALS = {"TARGET_NOT_ALLOWED": "target_uri", "REQUEST_ID_REUSED": "", "CHANGED_MEANWHILE": ""}


@dataclass(frozen=True)
class RedirectView:
    """One redirect in the list."""

    href: str
    display_name: str
    target_uri: str
    status: Label
    active: bool
    created: Moment | None
    opens_href: str


@get("/redirects", permission="redirects:read", include_in_schema=False)
async def list_redirects(desk: NamedDependency[Desk]) -> Template:
    """Shows the redirects, newest first."""
    form = read_query(desk.request.query_params, {"page_token"})
    asked = link_pb2.ListRedirectsRequest(page_size=PAGE_SIZE, page_token=form.value("page_token"))
    found = await desk.calls.ask(desk.calls.link.ListRedirects, asked)
    following = f"/redirects?{urlencode({'page_token': found.next_page_token})}" if found.next_page_token else ""
    return desk.page(
        "redirects/list.html",
        rows=[_view(desk, redirect) for redirect in found.redirects],
        pages=Pages("/redirects" if form.value("page_token") else "", following, "First page", "Next page"),
    )


@get("/redirects/new", permission="redirects:write", include_in_schema=False)
async def new_redirect(desk: NamedDependency[Desk]) -> Template:
    """Shows an empty form."""
    return _form_page(desk, Form({"request_id": str(new_id()), "revision": "0"}), None)


@post("/redirects/new", permission="redirects:write", include_in_schema=False)
async def create_redirect(desk: NamedDependency[Desk]) -> Response[Any]:
    """Creates a redirect and shows its URL, for the same reason as a link."""
    form = await read_form(desk.request, *_FIELDS)
    if _complete(form):
        asked = link_pb2.CreateRedirectRequest(redirect=_typed(form), request_id=form.value("request_id"))
        try:
            return _shown(desk, await desk.calls.ask(desk.calls.link.CreateRedirect, asked), created=True)
        except MENDABLE as error:
            form.refuse(error, _NAMES, _REFUSALS)
    return _form_page(desk, form, None)


@get("/redirects/{redirect_id:str}/edit", permission="redirects:write", include_in_schema=False)
async def edit_redirect(desk: NamedDependency[Desk], redirect_id: FromPath[str]) -> Template:
    """Shows a form with the redirect as it is now."""
    found = await _redirect(desk, redirect_id)
    typed = {"display_name": found.display_name, "target_uri": found.target_uri, "revision": str(found.revision)}
    return _form_page(desk, Form(typed), found.name)


@post("/redirects/{redirect_id:str}/edit", permission="redirects:write", include_in_schema=False)
async def change_redirect(desk: NamedDependency[Desk], redirect_id: FromPath[str]) -> Response[Any]:
    """Changes a redirect, unless somebody else did meanwhile."""
    form = await read_form(desk.request, *_FIELDS)
    name = f"redirects/{redirect_id}"
    if _complete(form):
        asked = link_pb2.UpdateRedirectRequest(redirect=_typed(form))
        asked.redirect.name, asked.redirect.revision = name, revision_of(form)
        asked.update_mask.paths.extend(["display_name", "target_uri"])
        try:
            await desk.calls.ask(desk.calls.link.UpdateRedirect, asked)
            return desk.done("/redirects", "The redirect was changed.")
        except (*MENDABLE, Aborted) as error:
            form.refuse(error, _NAMES, _REFUSALS)
    return _form_page(desk, form, name)


@get("/redirects/{redirect_id:str}/switch", permission="redirects:write", include_in_schema=False)
async def ask_redirect_switch(desk: NamedDependency[Desk], redirect_id: FromPath[str]) -> Template:
    """Asks before a redirect is switched on or off."""
    found = await _redirect(desk, redirect_id)
    on = not found.active
    off_sentence = "Within two seconds, visitors see that it is not available. Opens are still recorded."
    return Ask(
        title=f"Switch {found.display_name} {'on' if on else 'off'}",
        sentences=["It leads to its address again, within two seconds." if on else off_sentence],
        verb="Switch on" if on else "Switch off",
        action=f"/{found.name}/switch",
        back="/redirects",
        hidden=[("active", "yes" if on else "no")],
        dangerous=not on,
    ).page(desk)


@post("/redirects/{redirect_id:str}/switch", permission="redirects:write", include_in_schema=False)
async def switch_redirect(desk: NamedDependency[Desk], redirect_id: FromPath[str]) -> Response[Any]:
    """Switches a redirect on or off; a second click changes nothing more."""
    on = (await read_form(desk.request, "active")).value("active") == "yes"
    asked = link_pb2.UpdateRedirectRequest(redirect=link_pb2.Redirect(name=f"redirects/{redirect_id}", active=on))
    asked.update_mask.paths.append("active")
    await desk.calls.ask(desk.calls.link.UpdateRedirect, asked)
    return desk.done("/redirects", f"The redirect is switched {'on' if on else 'off'}.")


@get("/redirects/{redirect_id:str}/reveal", permission="links:reveal", include_in_schema=False)
async def ask_redirect_reveal(desk: NamedDependency[Desk], redirect_id: FromPath[str]) -> Template:
    """Asks before a URL is shown, as each time is written down."""
    found = await _redirect(desk, redirect_id)
    return Ask(
        title="Show the URL",
        sentences=[f"This shows the URL of {found.display_name}.", "That you look at it is written to the audit log."],
        verb="Show the URL",
        action=f"/{found.name}/reveal",
        back="/redirects",
    ).page(desk)


@post("/redirects/{redirect_id:str}/reveal", permission="links:reveal", include_in_schema=False)
async def reveal_redirect(desk: NamedDependency[Desk], redirect_id: FromPath[str]) -> Response[Any]:
    """Shows the URL of a redirect again."""
    await read_form(desk.request)
    asked = link_pb2.RevealRedirectRequest(name=f"redirects/{redirect_id}")
    return _shown(desk, await desk.calls.ask(desk.calls.link.RevealRedirect, asked), created=False)


async def _redirect(desk: Desk, redirect_id: str) -> link_pb2.Redirect:
    asked = link_pb2.GetRedirectRequest(name=f"redirects/{redirect_id}")
    return await desk.calls.ask(desk.calls.link.GetRedirect, asked)


def _complete(form: Form) -> bool:
    form.need("display_name", "Enter the name.")
    form.need("target_uri", "Enter the address.")
    return not form.problems


def _typed(form: Form) -> link_pb2.Redirect:
    return link_pb2.Redirect(display_name=form.value("display_name"), target_uri=form.value("target_uri"))


def _shown(desk: Desk, redirect: link_pb2.Redirect, *, created: bool) -> Template:
    return desk.page(
        "links/shown.html",
        heading="The redirect is ready" if created else "URL of the redirect",
        created=created,
        uri=redirect.uri,
        facts=[("Name", redirect.display_name), ("Leads to", redirect.target_uri)],
        personal=False,
        trail=[("Redirects", "/redirects")],
        back="/redirects",
        back_label="Back to Redirects",
    )


def _form_page(desk: Desk, form: Form, name: str | None) -> Template:
    # The same fields as a portal on another site, so the same page.
    return desk.page(
        "portals/form.html",
        form=form,
        heading="Edit redirect" if name else "New redirect",
        verb="Save changes" if name else "Create the redirect",
        trail=[("Redirects", "/redirects")],
        action=f"/{name}/edit" if name else "/redirects/new",
        back="/redirects",
        hosted=False,
        pages=[],
        may_add=False,
    )


def _view(desk: Desk, redirect: link_pb2.Redirect) -> RedirectView:
    return RedirectView(
        href=f"/{redirect.name}",
        display_name=redirect.display_name,
        target_uri=redirect.target_uri,
        status=labels.ON if redirect.active else labels.OFF,
        active=redirect.active,
        created=desk.zone.maybe(redirect, "create_time"),
        opens_href=opens_href(link=redirect.name),
    )
