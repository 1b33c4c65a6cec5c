"""The staff pages: one module a screen. A handler parses, makes one or two calls, builds small dataclasses, renders."""

from typing import Any

from litestar import Request, Response, Router
from litestar.di import Provide

from gateway.errors import Problem
from gateway.pages import account, clients, links, opens, portal_form, portals, redirects, sign_in
from gateway.pages.desk import page, provide_desk

HANDLERS = [
    Router(
        "/",
        dependencies={"desk": Provide(provide_desk)},
        route_handlers=[
            sign_in.show_sign_in,
            sign_in.sign_in,
            sign_in.sign_out,
            opens.list_opens,
            opens.watch_opens,
            opens.show_open,
            clients.list_clients,
            clients.new_client,
            clients.create_client,
            clients.show_client,
            clients.edit_client,
            clients.change_client,
            links.new_personal_link,
            links.create_personal_link,
            links.new_shared_link,
            links.create_shared_link,
            links.ask_reveal,
            links.reveal_link,
            links.ask_revoke,
            links.revoke_link,
            links.edit_expiry,
            links.change_expiry,
            portals.list_portals,
            portals.list_portal_opens,
            portals.show_portal,
            portals.show_portal_opens,
            portals.ask_switch,
            portals.switch_portal,
            portal_form.choose_kind,
            portal_form.new_portal,
            portal_form.create_portal,
            portal_form.edit_portal,
            portal_form.change_portal,
            redirects.list_redirects,
            redirects.new_redirect,
            redirects.create_redirect,
            redirects.edit_redirect,
            redirects.change_redirect,
            redirects.ask_redirect_switch,
            redirects.switch_redirect,
            redirects.ask_redirect_reveal,
            redirects.reveal_redirect,
            account.show_password,
            account.change_password,
        ],
    )
]


def error_page(request: Request[Any, Any, Any], problem: Problem) -> Response[Any]:
    """Returns the page that tells what went wrong; a fragment for htmx."""
    template = "errors/_error.html" if "hx-request" in request.headers else "errors/error.html"
    return page(request, template, problem=problem)
