"""Campaigns, messages and what became of them over the JSON API."""

from typing import Any

from litestar import Request, get, post
from litestar.di import NamedDependency
from litestar.params import FromPath
from opennotice.link.v1 import link_pb2

from gateway.api.body import CampaignBody, DeliveryBody, MessageBody, read_body
from gateway.api.describe import Describe
from gateway.api.query import PAGING, Param, no_query, read_query
from gateway.api.shown import CampaignShown, MessageShown, campaign_shown, message_shown, page_of
from gateway.clients import Calls
from gateway.words import CHANNEL, DELIVERY_STATUS
from services.chassis.clock import to_proto

TAG = "Messages"
BY_CLIENT = (Param("client", "`clients/{id}`."), *PAGING)
EXAMPLE = {
    "client": "clients/019aaf5e-7d0c-7c7b-9c7e-1f2a3b4c5d6e",
    "channel": "sms",
    "send_time": "2026-11-23T09:30:00Z",
    "delivery_status": "sent",
    "deadline_time": "2026-12-03T14:00:00Z",
}


@post(
    "/campaigns",
    permission="messages:write",
    describe=Describe(
        TAG,
        "Creates a campaign.",
        CampaignShown,
        body=CampaignBody,
        example={"display_name": "December hearings"},
        reasons=("REQUEST_ID_REUSED",),
    ),
)
async def create_campaign(request: Request[Any, Any, Any], calls: NamedDependency[Calls]) -> CampaignShown:
    """Creates a campaign."""
    no_query(request)
    body = await read_body(request, CampaignBody)
    asked = link_pb2.CreateCampaignRequest(
        campaign=link_pb2.Campaign(display_name=body.display_name), request_id=body.request_id or ""
    )
    return campaign_shown(await calls.ask(calls.link.CreateCampaign, asked))


@get(
    "/campaigns",
    permission="messages:read",
    describe=Describe(TAG, "Lists campaigns, newest first.", CampaignShown, params=PAGING, many="campaigns"),
)
async def list_campaigns(request: Request[Any, Any, Any], calls: NamedDependency[Calls]) -> dict[str, Any]:
    """Lists campaigns."""
    query = read_query(request, PAGING)
    asked = link_pb2.ListCampaignsRequest(page_size=query.page_size(), page_token=query.text("page_token"))
    query.stop()
    answer = await calls.ask(calls.link.ListCampaigns, asked)
    return page_of("campaigns", [campaign_shown(campaign) for campaign in answer.campaigns], answer)


@get(
    "/campaigns/{campaign_id:str}",
    permission="messages:read",
    describe=Describe(TAG, "Returns one campaign.", CampaignShown, reasons=("CAMPAIGN_UNKNOWN",)),
)
async def get_campaign(
    request: Request[Any, Any, Any], campaign_id: FromPath[str], calls: NamedDependency[Calls]
) -> CampaignShown:
    """Returns one campaign."""
    no_query(request)
    asked = link_pb2.GetCampaignRequest(name=f"campaigns/{campaign_id}")
    return campaign_shown(await calls.ask(calls.link.GetCampaign, asked))


@post(
    "/messages",
    permission="messages:write",
    describe=Describe(
        TAG,
        "Records a message to one client.",
        MessageShown,
        body=MessageBody,
        example=EXAMPLE,
        reasons=("CLIENT_UNKNOWN", "CAMPAIGN_UNKNOWN", "REQUEST_ID_REUSED"),
    ),
)
async def create_message(request: Request[Any, Any, Any], calls: NamedDependency[Calls]) -> MessageShown:
    """Records a message."""
    no_query(request)
    body = await read_body(request, MessageBody)
    message = link_pb2.Message(
        client=body.client,
        campaign=body.campaign or "",
        channel=CHANNEL.number(body.channel),
        send_time=to_proto(body.send_time),
        delivery_status=DELIVERY_STATUS.number(body.delivery_status or "queued"),
        deadline_time=to_proto(body.deadline_time),
    )
    asked = link_pb2.CreateMessageRequest(message=message, request_id=body.request_id or "")
    return message_shown(await calls.ask(calls.link.CreateMessage, asked))


@get(
    "/messages",
    permission="messages:read",
    describe=Describe(TAG, "Lists messages, newest first.", MessageShown, params=BY_CLIENT, many="messages"),
)
async def list_messages(request: Request[Any, Any, Any], calls: NamedDependency[Calls]) -> dict[str, Any]:
    """Lists messages."""
    query = read_query(request, BY_CLIENT)
    asked = link_pb2.ListMessagesRequest(
        client=query.text("client"), page_size=query.page_size(), page_token=query.text("page_token")
    )
    query.stop()
    answer = await calls.ask(calls.link.ListMessages, asked)
    return page_of("messages", [message_shown(message) for message in answer.messages], answer)


@get(
    "/messages/{message_id:str}",
    permission="messages:read",
    describe=Describe(TAG, "Returns one message with its deliveries.", MessageShown, reasons=("MESSAGE_UNKNOWN",)),
)
async def get_message(
    request: Request[Any, Any, Any], message_id: FromPath[str], calls: NamedDependency[Calls]
) -> MessageShown:
    """Returns one message."""
    no_query(request)
    asked = link_pb2.GetMessageRequest(name=f"messages/{message_id}")
    return message_shown(await calls.ask(calls.link.GetMessage, asked))


@post(
    "/messages/{message_id:str}/:reportDelivery",
    permission="delivery:write",
    status_code=200,
    describe=Describe(
        TAG,
        "Records what became of a message; the newest event_time decides its status.",
        MessageShown,
        body=DeliveryBody,
        example={"status": "delivered", "event_time": "2026-11-23T09:31:00Z"},
        reasons=("MESSAGE_UNKNOWN",),
    ),
)
async def report_delivery(
    request: Request[Any, Any, Any], message_id: FromPath[str], calls: NamedDependency[Calls]
) -> MessageShown:
    """Records a delivery report."""
    no_query(request)
    body = await read_body(request, DeliveryBody)
    asked = link_pb2.ReportDeliveryRequest(
        name=f"messages/{message_id}",
        status=DELIVERY_STATUS.number(body.status),
        event_time=to_proto(body.event_time),
    )
    return message_shown(await calls.ask(calls.link.ReportDelivery, asked))


HANDLERS = [
    create_campaign,
    list_campaigns,
    get_campaign,
    create_message,
    list_messages,
    get_message,
    report_delivery,
]
