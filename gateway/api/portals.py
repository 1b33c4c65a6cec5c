"""Portals over the JSON API."""

from typing import Any

from google.protobuf.field_mask_pb2 import FieldMask
from litestar import Request, get, patch, post
from litestar.di import NamedDependency
from litestar.params import FromPath
from msgspec import UNSET
from opennotice.link.v1 import link_pb2

from gateway.api.body import PageBody, PortalBody, PortalChange, read_body
from gateway.api.describe import Describe
from gateway.api.query import PAGING, no_query, read_query
from gateway.api.shown import PortalShown, page_of, portal_shown
from gateway.clients import Calls
from gateway.words import PORTAL_KIND

TAG = "Portals"
EXAMPLE = {
    "display_name": "Hearing details",
    "kind": "hosted",
    "pages": [{"slug": "hearing", "title": "Your hearing", "markdown": "Bring this letter."}],
}


def _pages(bodies: list[PageBody]) -> list[link_pb2.Page]:
    return [link_pb2.Page(slug=body.slug, title=body.title, markdown=body.markdown) for body in bodies]


@post(
    "/portals",
    permission="portals:write",
    describe=Describe(
        TAG,
        "Creates a portal.",
        PortalShown,
        body=PortalBody,
        example=EXAMPLE,
        reasons=("TARGET_NOT_ALLOWED", "REQUEST_ID_REUSED"),
    ),
)
async def create_portal(request: Request[Any, Any, Any], calls: NamedDependency[Calls]) -> PortalShown:
    """Creates a portal."""
    no_query(request)
    body = await read_body(request, PortalBody)
    portal = link_pb2.Portal(
        display_name=body.display_name,
        kind=PORTAL_KIND.number(body.kind),
        target_uri=body.target_uri or "",
        pages=_pages(body.pages),
    )
    if body.active is not None:
        portal.active = body.active
    asked = link_pb2.CreatePortalRequest(portal=portal, request_id=body.request_id or "")
    return portal_shown(await calls.ask(calls.link.CreatePortal, asked))


@get(
    "/portals",
    permission="portals:read",
    describe=Describe(TAG, "Lists portals by name.", PortalShown, params=PAGING, many="portals"),
)
async def list_portals(request: Request[Any, Any, Any], calls: NamedDependency[Calls]) -> dict[str, Any]:
    """Lists portals."""
    query = read_query(request, PAGING)
    asked = link_pb2.ListPortalsRequest(page_size=query.page_size(), page_token=query.text("page_token"))
    query.stop()
    answer = await calls.ask(calls.link.ListPortals, asked)
    return page_of("portals", [portal_shown(portal) for portal in answer.portals], answer)


@get(
    "/portals/{portal_id:str}",
    permission="portals:read",
    describe=Describe(TAG, "Returns one portal with its pages.", PortalShown, reasons=("PORTAL_UNKNOWN",)),
)
async def get_portal(
    request: Request[Any, Any, Any], portal_id: FromPath[str], calls: NamedDependency[Calls]
) -> PortalShown:
    """Returns one portal."""
    no_query(request)
    asked = link_pb2.GetPortalRequest(name=f"portals/{portal_id}")
    return portal_shown(await calls.ask(calls.link.GetPortal, asked))


@patch(
    "/portals/{portal_id:str}",
    permission="portals:write",
    describe=Describe(
        TAG,
        "Changes a portal; visitors see it within 2 seconds.",
        PortalShown,
        body=PortalChange,
        example={"active": False},
        reasons=("PORTAL_UNKNOWN", "TARGET_NOT_ALLOWED", "CHANGED_MEANWHILE"),
    ),
)
async def update_portal(
    request: Request[Any, Any, Any], portal_id: FromPath[str], calls: NamedDependency[Calls]
) -> PortalShown:
    """Changes a portal."""
    no_query(request)
    body = await read_body(request, PortalChange)
    portal = link_pb2.Portal(name=f"portals/{portal_id}", revision=body.revision)
    mask = FieldMask()
    if body.display_name is not UNSET:
        portal.display_name = body.display_name
        mask.paths.append("display_name")
    if body.target_uri is not UNSET:
        portal.target_uri = body.target_uri
        mask.paths.append("target_uri")
    if body.active is not UNSET:
        portal.active = body.active
        mask.paths.append("active")
    if body.pages is not UNSET:
        portal.pages.extend(_pages(body.pages))
        mask.paths.append("pages")
    asked = link_pb2.UpdatePortalRequest(portal=portal, update_mask=mask)
    return portal_shown(await calls.ask(calls.link.UpdatePortal, asked))


HANDLERS = [create_portal, list_portals, get_portal, update_portal]
