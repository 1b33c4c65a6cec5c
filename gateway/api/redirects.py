"""Redirects over the JSON API."""

from typing import Any

from google.protobuf.field_mask_pb2 import FieldMask
from litestar import Request, get, patch, post
from litestar.di import NamedDependency
from litestar.params import FromPath
from msgspec import UNSET
from opennotice.link.v1 import link_pb2

from gateway.api.body import EmptyBody, RedirectBody, RedirectChange, read_body
from gateway.api.describe import Describe
from gateway.api.query import PAGING, no_query, read_query
from gateway.api.shown import RedirectShown, page_of, redirect_shown
from gateway.clients import Calls

TAG = "Redirects"
EXAMPLE = {"display_name": "Pay a fine", "target_uri": "https://pay.court.example/fines"}


@post(
    "/redirects",
    permission="redirects:write",
    describe=Describe(
        TAG,
        "Creates a redirect and shows its URL.",
        RedirectShown,
        body=RedirectBody,
        example=EXAMPLE,
        reasons=("TARGET_NOT_ALLOWED", "REQUEST_ID_REUSED"),
    ),
)
async def create_redirect(request: Request[Any, Any, Any], calls: NamedDependency[Calls]) -> RedirectShown:
    """Creates a redirect."""
    no_query(request)
    body = await read_body(request, RedirectBody)
    redirect = link_pb2.Redirect(display_name=body.display_name, target_uri=body.target_uri)
    if body.active is not None:
        redirect.active = body.active
    asked = link_pb2.CreateRedirectRequest(redirect=redirect, request_id=body.request_id or "")
    return redirect_shown(await calls.ask(calls.link.CreateRedirect, asked))


@get(
    "/redirects",
    permission="redirects:read",
    describe=Describe(
        TAG, "Lists redirects, newest first, without URLs.", RedirectShown, params=PAGING, many="redirects"
    ),
)
async def list_redirects(request: Request[Any, Any, Any], calls: NamedDependency[Calls]) -> dict[str, Any]:
    """Lists redirects."""
    query = read_query(request, PAGING)
    asked = link_pb2.ListRedirectsRequest(page_size=query.page_size(), page_token=query.text("page_token"))
    query.stop()
    answer = await calls.ask(calls.link.ListRedirects, asked)
    return page_of("redirects", [redirect_shown(redirect) for redirect in answer.redirects], answer)


@get(
    "/redirects/{redirect_id:str}",
    permission="redirects:read",
    describe=Describe(TAG, "Returns one redirect without its URL.", RedirectShown, reasons=("REDIRECT_UNKNOWN",)),
)
async def get_redirect(
    request: Request[Any, Any, Any], redirect_id: FromPath[str], calls: NamedDependency[Calls]
) -> RedirectShown:
    """Returns one redirect."""
    no_query(request)
    asked = link_pb2.GetRedirectRequest(name=f"redirects/{redirect_id}")
    return redirect_shown(await calls.ask(calls.link.GetRedirect, asked))


@patch(
    "/redirects/{redirect_id:str}",
    permission="redirects:write",
    describe=Describe(
        TAG,
        "Changes a redirect; visitors see it within 2 seconds.",
        RedirectShown,
        body=RedirectChange,
        example={"active": False},
        reasons=("REDIRECT_UNKNOWN", "TARGET_NOT_ALLOWED", "CHANGED_MEANWHILE"),
    ),
)
async def update_redirect(
    request: Request[Any, Any, Any], redirect_id: FromPath[str], calls: NamedDependency[Calls]
) -> RedirectShown:
    """Changes a redirect."""
    no_query(request)
    body = await read_body(request, RedirectChange)
    redirect = link_pb2.Redirect(name=f"redirects/{redirect_id}", revision=body.revision)
    mask = FieldMask()
    for field in ("display_name", "target_uri", "active"):
        value = getattr(body, field)
        if value is not UNSET:
            setattr(redirect, field, value)
            mask.paths.append(field)
    asked = link_pb2.UpdateRedirectRequest(redirect=redirect, update_mask=mask)
    return redirect_shown(await calls.ask(calls.link.UpdateRedirect, asked))


@post(
    "/redirects/{redirect_id:str}/:reveal",
    permission="links:reveal",
    status_code=200,
    describe=Describe(
        TAG,
        "Shows the URL again; written to the audit log.",
        RedirectShown,
        body=EmptyBody,
        reasons=("REDIRECT_UNKNOWN",),
    ),
)
async def reveal_redirect(
    request: Request[Any, Any, Any], redirect_id: FromPath[str], calls: NamedDependency[Calls]
) -> RedirectShown:
    """Shows the URL of a redirect again."""
    no_query(request)
    await read_body(request, EmptyBody)
    asked = link_pb2.RevealRedirectRequest(name=f"redirects/{redirect_id}")
    return redirect_shown(await calls.ask(calls.link.RevealRedirect, asked))


HANDLERS = [create_redirect, list_redirects, get_redirect, update_redirect, reveal_redirect]
