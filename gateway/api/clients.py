"""Clients and their history over the JSON API."""

from typing import Any

from google.protobuf.field_mask_pb2 import FieldMask
from litestar import Request, get, patch, post
from litestar.di import NamedDependency
from litestar.params import FromPath
from msgspec import UNSET
from opennotice.link.v1 import link_pb2
from opennotice.reporting.v1 import reporting_pb2

from gateway.api.body import ClientBody, ClientChange, read_body
from gateway.api.describe import Describe
from gateway.api.query import PAGING, Param, no_query, read_query
from gateway.api.shown import ClientShown, client_shown, entry_shown, page_of
from gateway.clients import Calls

TAG = "Clients"
SEARCH = (Param("query", "Part of the name in any case, or the exact `ref`.", "Rivera"), *PAGING)
EXAMPLE = {"display_name": "Ana Rivera", "ref": "2026-CR-0113", "email": "ana@example.org", "phone": "+1 555 0100"}


@post(
    "/clients",
    permission="clients:write",
    describe=Describe(
        TAG,
        "Creates a client.",
        ClientShown,
        body=ClientBody,
        example=EXAMPLE,
        reasons=("REF_TAKEN", "OFFICER_UNKNOWN", "REQUEST_ID_REUSED"),
    ),
)
async def create_client(request: Request[Any, Any, Any], calls: NamedDependency[Calls]) -> ClientShown:
    """Creates a client."""
    no_query(request)
    body = await read_body(request, ClientBody)
    client = link_pb2.Client(
        display_name=body.display_name,
        ref=body.ref or "",
        email=body.email or "",
        phone=body.phone or "",
        officer=body.officer or "",
    )
    asked = link_pb2.CreateClientRequest(client=client, request_id=body.request_id or "")
    return client_shown(await calls.ask(calls.link.CreateClient, asked))


@get(
    "/clients",
    permission="clients:read",
    describe=Describe(TAG, "Lists clients by name.", ClientShown, params=SEARCH, many="clients"),
)
async def list_clients(request: Request[Any, Any, Any], calls: NamedDependency[Calls]) -> dict[str, Any]:
    """Lists clients."""
    query = read_query(request, SEARCH)
    asked = link_pb2.ListClientsRequest(
        query=query.text("query"), page_size=query.page_size(), page_token=query.text("page_token")
    )
    query.stop()
    answer = await calls.ask(calls.link.ListClients, asked)
    return page_of("clients", [client_shown(client) for client in answer.clients], answer)


@get(
    "/clients/{client_id:str}",
    permission="clients:read",
    describe=Describe(TAG, "Returns one client.", ClientShown, reasons=("CLIENT_UNKNOWN",)),
)
async def get_client(
    request: Request[Any, Any, Any], client_id: FromPath[str], calls: NamedDependency[Calls]
) -> ClientShown:
    """Returns one client."""
    no_query(request)
    asked = link_pb2.GetClientRequest(name=f"clients/{client_id}")
    return client_shown(await calls.ask(calls.link.GetClient, asked))


@patch(
    "/clients/{client_id:str}",
    permission="clients:write",
    describe=Describe(
        TAG,
        "Changes a client.",
        ClientShown,
        body=ClientChange,
        example={"phone": "+1 555 0101"},
        reasons=("CLIENT_UNKNOWN", "REF_TAKEN", "OFFICER_UNKNOWN", "CHANGED_MEANWHILE"),
    ),
)
async def update_client(
    request: Request[Any, Any, Any], client_id: FromPath[str], calls: NamedDependency[Calls]
) -> ClientShown:
    """Changes a client."""
    no_query(request)
    body = await read_body(request, ClientChange)
    client = link_pb2.Client(name=f"clients/{client_id}", revision=body.revision)
    mask = FieldMask()
    for field in ("display_name", "ref", "email", "phone", "officer"):
        value = getattr(body, field)
        if value is not UNSET:
            setattr(client, field, value or "")
            mask.paths.append(field)
    asked = link_pb2.UpdateClientRequest(client=client, update_mask=mask)
    return client_shown(await calls.ask(calls.link.UpdateClient, asked))


@get(
    "/clients/{client_id:str}/timeline",
    permission="clients:read",
    describe=Describe(
        TAG,
        "Lists what happened with one client, newest first: messages, deliveries, opens.",
        "TimelineEntry",
        params=PAGING,
        many="entries",
        reasons=("CLIENT_UNKNOWN",),
    ),
)
async def get_timeline(
    request: Request[Any, Any, Any], client_id: FromPath[str], calls: NamedDependency[Calls]
) -> dict[str, Any]:
    """Lists a client's history."""
    query = read_query(request, PAGING)
    asked = reporting_pb2.GetClientTimelineRequest(
        client=f"clients/{client_id}", page_size=query.page_size(), page_token=query.text("page_token")
    )
    query.stop()
    answer = await calls.ask(calls.reporting.GetClientTimeline, asked)
    return page_of("entries", [entry_shown(entry) for entry in answer.entries], answer)


HANDLERS = [create_client, list_clients, get_client, update_client, get_timeline]
