"""All routes of the JSON API."""

from litestar import Router

from gateway.api import clients, links, messages, opens, portals, redirects

PREFIX = "/api/v1"


def api_router() -> Router:
    """Returns the routes under /api/v1; nothing they answer is kept by a browser or anything between."""
    return Router(
        PREFIX,
        route_handlers=[
            *opens.HANDLERS,
            *portals.HANDLERS,
            *clients.HANDLERS,
            *messages.HANDLERS,
            *links.HANDLERS,
            *redirects.HANDLERS,
        ],
        response_headers={"cache-control": "no-store"},
        include_in_schema=False,
    )
