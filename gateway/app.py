"""The application: routes, the one guard, headers and host names on every answer."""

from typing import Any
from urllib.parse import urlsplit

from litestar import Litestar, Request, Response, get
from litestar.datastructures import CacheControlHeader, State
from litestar.di import Provide
from litestar.plugins.jinja import JinjaTemplateEngine
from litestar.response import Redirect
from litestar.static_files import create_static_files_router
from litestar.template import TemplateConfig
from litestar.types import ASGIApp, Message, Receive, Scope, Send

from gateway import access, pages, rendering
from gateway.access import API_PREFIX, Gate
from gateway.api import openapi
from gateway.api.routes import api_router
from gateway.clients import Connections
from gateway.errors import EXCEPTION_HANDLERS, PROBLEM_TYPE, Problem
from gateway.settings import GatewaySettings
from services.chassis.identity import Checker
from services.chassis.settings import is_loopback

# A form of fifty pages with their texts; a service takes 256 KiB of it and says so itself.
LARGEST_BODY_BYTES = 1024 * 1024
STATIC_SECONDS = 365 * 24 * 3600
LOOPBACK_HOSTS = frozenset({"localhost", "127.0.0.1", "::1"})

CONTENT_SECURITY_POLICY = (
    "default-src 'self'; script-src 'self'; style-src 'self'; img-src 'self' data:; font-src 'self'; "
    "connect-src 'self'; object-src 'none'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
)


def security_headers(settings: GatewaySettings) -> list[tuple[bytes, bytes]]:
    """Returns what every answer carries, static files and errors too."""
    headers = {
        "content-security-policy": CONTENT_SECURITY_POLICY,
        "x-content-type-options": "nosniff",
        "x-frame-options": "DENY",
        "referrer-policy": "same-origin",
        "cross-origin-opener-policy": "same-origin",
        "cross-origin-resource-policy": "same-origin",
        "permissions-policy": "camera=(), geolocation=(), microphone=(), payment=()",
        "x-robots-tag": "noindex, nofollow",
    }
    if settings.secure:
        headers["strict-transport-security"] = "max-age=31536000; includeSubDomains"
    return [(name.encode(), value.encode()) for name, value in headers.items()]


def allowed_hosts(settings: GatewaySettings) -> frozenset[str]:
    """Returns the host names that we answer to: the one staff type, and loopback names when it is one."""
    host = settings.staff_host
    return LOOPBACK_HOSTS | {host} if is_loopback(host) else frozenset({host})


class StaffApp(Litestar):
    """Litestar, with what must happen to every request before it is routed."""

    def guard_edge(self, settings: GatewaySettings) -> None:
        """Puts the edge around the application, once it is made."""
        self.asgi_handler = _edge(self.asgi_handler, allowed_hosts(settings), security_headers(settings))


def _edge(inner: ASGIApp, hosts: frozenset[str], headers: list[tuple[bytes, bytes]]) -> ASGIApp:
    """Adds the headers to every answer, refuses other host names, and splits `links/{id}:revoke` for the router."""

    async def edge(scope: Scope, receive: Receive, send: Send) -> None:
        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", []), *headers]
            await send(message)

        if not _host_allowed(scope, hosts):
            problem = Problem(421, "Wrong host name", "HOST_UNKNOWN", [("", "this host name is not served here")])
            answer: Response[Any] = Response(problem.as_json(), status_code=421, media_type=PROBLEM_TYPE)
            await answer.to_asgi_response(None, Request(scope, receive))(scope, receive, send_with_headers)
            return
        scope["path"] = _split_verb(scope["path"])
        await inner(scope, receive, send_with_headers)

    return edge


def _host_allowed(scope: Scope, hosts: frozenset[str]) -> bool:
    sent = [value for name, value in scope["headers"] if name == b"host"]
    if len(sent) != 1:
        return False
    try:
        return (urlsplit(f"//{sent[0].decode('ascii')}").hostname or "") in hosts
    except ValueError:
        return False


def _split_verb(path: str) -> str:
    """Turns /api/v1/links/{id}:revoke into /api/v1/links/{id}/:revoke, and that, typed by somebody, into nothing.

    The router knows whole parts of a path only. With the verb as a part of its own each verb is a handler of its own
    with its own permission.
    """
    if not path.startswith(API_PREFIX):
        return path
    head, slash, last = path.rpartition("/")
    if last.startswith(":") or "/:" in path:
        return path + "/:"
    identifier, colon, verb = last.partition(":")
    known = head.rsplit("/", 1)[-1] in ("links", "messages", "redirects")
    return f"{head}{slash}{identifier}/:{verb}" if colon and known else path


@get("/", permission="signed-in", include_in_schema=False)
async def start_page() -> Redirect:
    """Leads to the page that people come for."""
    return Redirect("/opens", status_code=303)


def create_app(settings: GatewaySettings, connections: Connections, checker: Checker) -> Litestar:
    """Makes the gateway; raises RouteWithoutRule when a route does not say who may call it."""
    assets = f"/static/{rendering.static_version()}"
    static = create_static_files_router(
        path=assets,
        directories=[rendering.STATIC],
        cache_control=CacheControlHeader(max_age=STATIC_SECONDS, public=True, immutable=True),
        opt={"public": True},
    )
    app = StaffApp(
        route_handlers=[start_page, static, api_router(), *openapi.HANDLERS, *pages.HANDLERS],
        guards=[access.guard],
        dependencies={
            "visitor": Provide(access.provide_visitor),
            "caller": Provide(access.provide_caller),
            "calls": Provide(access.provide_calls),
        },
        exception_handlers=EXCEPTION_HANDLERS,
        template_config=TemplateConfig(instance=JinjaTemplateEngine.from_environment(rendering.environment())),
        # The description is made by our own module: Litestar's own pages load their scripts from elsewhere.
        openapi_config=None,
        request_max_body_size=LARGEST_BODY_BYTES,
        state=State(
            {
                "gate": Gate(settings, connections, checker),
                "connections": connections,
                "assets": assets,
                "error_page": pages.error_page,
            }
        ),
        logging_config=None,
        debug=False,
        pdb_on_exception=False,
    )
    access.check_every_route(app)
    app.guard_edge(settings)
    return app
