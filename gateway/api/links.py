"""Links over the JSON API."""

from typing import Any

from litestar import Request, get, post
from litestar.di import NamedDependency
from litestar.params import FromPath
from opennotice.link.v1 import link_pb2

from gateway.api.body import EmptyBody, ExtendBody, LinkBody, read_body
from gateway.api.describe import Describe
from gateway.api.query import PAGING, Param, no_query, read_query
from gateway.api.shown import LinkShown, link_shown, page_of
from gateway.clients import Calls
from services.chassis.clock import to_proto

TAG = "Links"
BY_OWNER = (
    Param("client", "`clients/{id}`."),
    Param("portal", "`portals/{id}`."),
    Param("message", "`messages/{id}`."),
    *PAGING,
)
EXAMPLE = {
    "portal": "portals/019aaf5e-7d0c-7c7b-9c7e-1f2a3b4c5d6e",
    "client": "clients/019aaf5e-7d0c-7c7b-9c7e-1f2a3b4c5d6f",
    "expire_time": "2026-12-31T23:59:59Z",
}


@post(
    "/links",
    permission="links:write",
    describe=Describe(
        TAG,
        "Creates a link and shows its URL; it works with the next request. Without a client it is shared.",
        LinkShown,
        body=LinkBody,
        example=EXAMPLE,
        reasons=(
            "PORTAL_UNKNOWN",
            "PAGE_UNKNOWN",
            "CLIENT_UNKNOWN",
            "MESSAGE_UNKNOWN",
            "MESSAGE_OF_OTHER_CLIENT",
            "EXPIRE_TIME_PAST",
            "REQUEST_ID_REUSED",
        ),
    ),
)
async def create_link(request: Request[Any, Any, Any], calls: NamedDependency[Calls]) -> LinkShown:
    """Creates a link."""
    no_query(request)
    body = await read_body(request, LinkBody)
    link = link_pb2.Link(
        portal=body.portal,
        page=body.page or "",
        client=body.client or "",
        message=body.message or "",
        expire_time=to_proto(body.expire_time),
    )
    asked = link_pb2.CreateLinkRequest(link=link, request_id=body.request_id or "")
    return link_shown(await calls.ask(calls.link.CreateLink, asked))


@get(
    "/links",
    permission="links:read",
    describe=Describe(TAG, "Lists links, newest first, without URLs.", LinkShown, params=BY_OWNER, many="links"),
)
async def list_links(request: Request[Any, Any, Any], calls: NamedDependency[Calls]) -> dict[str, Any]:
    """Lists links."""
    query = read_query(request, BY_OWNER)
    asked = link_pb2.ListLinksRequest(
        client=query.text("client"),
        portal=query.text("portal"),
        message=query.text("message"),
        page_size=query.page_size(),
        page_token=query.text("page_token"),
    )
    query.stop()
    answer = await calls.ask(calls.link.ListLinks, asked)
    return page_of("links", [link_shown(link) for link in answer.links], answer)


@get(
    "/links/{link_id:str}",
    permission="links:read",
    describe=Describe(TAG, "Returns one link without its URL.", LinkShown, reasons=("LINK_UNKNOWN",)),
)
async def get_link(request: Request[Any, Any, Any], link_id: FromPath[str], calls: NamedDependency[Calls]) -> LinkShown:
    """Returns one link."""
    no_query(request)
    return link_shown(await calls.ask(calls.link.GetLink, link_pb2.GetLinkRequest(name=f"links/{link_id}")))


@post(
    "/links/{link_id:str}/:revoke",
    permission="links:write",
    status_code=200,
    describe=Describe(
        TAG,
        "Ends a link within 2 seconds; its opens are still recorded.",
        LinkShown,
        body=EmptyBody,
        reasons=("LINK_UNKNOWN",),
    ),
)
async def revoke_link(
    request: Request[Any, Any, Any], link_id: FromPath[str], calls: NamedDependency[Calls]
) -> LinkShown:
    """Ends a link."""
    no_query(request)
    await read_body(request, EmptyBody)
    return link_shown(await calls.ask(calls.link.RevokeLink, link_pb2.RevokeLinkRequest(name=f"links/{link_id}")))


@post(
    "/links/{link_id:str}/:extend",
    permission="links:write",
    status_code=200,
    describe=Describe(
        TAG,
        "Sets or removes the expiry of a link that is not revoked.",
        LinkShown,
        body=ExtendBody,
        example={"expire_time": "2027-01-31T23:59:59Z"},
        reasons=("LINK_UNKNOWN", "LINK_REVOKED", "EXPIRE_TIME_PAST"),
    ),
)
async def extend_link(
    request: Request[Any, Any, Any], link_id: FromPath[str], calls: NamedDependency[Calls]
) -> LinkShown:
    """Sets the expiry of a link."""
    no_query(request)
    body = await read_body(request, ExtendBody)
    asked = link_pb2.ExtendLinkRequest(name=f"links/{link_id}", expire_time=to_proto(body.expire_time))
    return link_shown(await calls.ask(calls.link.ExtendLink, asked))


@post(
    "/links/{link_id:str}/:reveal",
    permission="links:reveal",
    status_code=200,
    describe=Describe(
        TAG,
        "Shows the URL again, for a resend or a reprint; written to the audit log.",
        LinkShown,
        body=EmptyBody,
        reasons=("LINK_UNKNOWN",),
    ),
)
async def reveal_link(
    request: Request[Any, Any, Any], link_id: FromPath[str], calls: NamedDependency[Calls]
) -> LinkShown:
    """Shows the URL of a link again."""
    no_query(request)
    await read_body(request, EmptyBody)
    return link_shown(await calls.ask(calls.link.RevealLink, link_pb2.RevealLinkRequest(name=f"links/{link_id}")))


HANDLERS = [create_link, list_links, get_link, revoke_link, extend_link, reveal_link]
